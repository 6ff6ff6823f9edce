package authority

import (
	"bytes"
	"strings"

	"github.com/mileusna/useragent"

	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/token"
)

const maxFamily = 64 // bytes of a family's name

// families reads the browser and OS family from a User-Agent, which need not
// be UTF-8. Both are empty where it names none. Headless and headful builds of
// one browser are one family.
func families(userAgent []byte) (browser, os string) {
	u := useragent.Parse(string(token.Scrub(userAgent[:min(len(userAgent), maxUserAgent)])))
	switch u.Name {
	case useragent.HeadlessChrome:
		u.Name = useragent.Chrome
	case useragent.OperaMini, useragent.OperaTouch:
		u.Name = useragent.Opera
	}
	return family(u.Name), family(u.OS)
}

// family is the words of a name before its version. Of an agent that it does
// not know the parser gives a whole product token, or all of the text.
func family(name string) string {
	if i := strings.IndexAny(name, "/("); i >= 0 {
		name = name[:i]
	}
	words := strings.Fields(strings.ToValidUTF8(name, ""))
	for i, w := range words {
		if isVersion(w) {
			words = words[:i]
			break
		}
	}
	name = strings.Join(words, " ")
	return strings.ToValidUTF8(name[:min(len(name), maxFamily)], "")
}

// isVersion reports whether a word begins as 1.2 or v1.2 do.
func isVersion(word string) bool {
	word = strings.TrimPrefix(strings.TrimPrefix(word, "v"), "V")
	return word != "" && '0' <= word[0] && word[0] <= '9'
}

// userAgentFits compares what was observed with what the token is bound to.
func userAgentFits(t *storage.Token, observed []byte) bool {
	if t.UserAgentBinding == storage.UserAgentOff || bytes.Equal(observed, t.UserAgent) {
		return true
	}
	if t.UserAgentBinding == storage.UserAgentStrict || t.Browser == "" {
		return false // of an agent without a family only the same fits
	}
	browser, os := families(observed)
	return browser == t.Browser && os == t.OS
}
