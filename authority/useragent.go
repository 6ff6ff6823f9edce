package authority

import (
	"bytes"
	"strings"
	"sync"

	"github.com/mileusna/useragent"

	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/token"
)

const maxFamily = 64 // bytes of a family's name

// agents remembers the families of User-Agents, of which most users have one of
// a few: to read one takes longer than all else that issuing a token asks. Safe
// for concurrent use.
type agents struct {
	mu    sync.RWMutex
	known map[string]agent
}

type agent struct{ browser, os string }

// maxAgents bounds them; they are at most maxUserAgent bytes each.
const maxAgents = 4096

func newAgents() *agents { return &agents{known: map[string]agent{}} }

// families is families, of many agents remembered.
func (a *agents) families(userAgent []byte) (browser, os string) {
	a.mu.RLock()
	f, ok := a.known[string(userAgent)]
	a.mu.RUnlock()
	if ok || len(userAgent) > maxUserAgent {
		return f.browser, f.os
	}
	f.browser, f.os = families(userAgent)
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.known) >= maxAgents { // made up to fill it, mostly
		clear(a.known)
	}
	a.known[string(userAgent)] = f
	return f.browser, f.os
}

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

// fits compares what was observed with what the token is bound to.
func (a *agents) fits(t *storage.Token, observed []byte) bool {
	if t.UserAgentBinding == storage.UserAgentOff || bytes.Equal(observed, t.UserAgent) {
		return true
	}
	if t.UserAgentBinding == storage.UserAgentStrict || t.Browser == "" {
		return false // of an agent without a family only the same fits
	}
	browser, os := a.families(observed)
	return browser == t.Browser && os == t.OS
}
