package authority

import (
	"bytes"
	"strings"

	"github.com/mileusna/useragent"

	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/token"
)

// families reads the browser and OS family from a User-Agent, which need not
// be UTF-8. Headless and headful builds of one browser are one family.
func families(userAgent []byte) (browser, os string) {
	u := useragent.Parse(string(token.Scrub(userAgent[:min(len(userAgent), maxUserAgent)])))
	browser, os = u.Name, u.OS
	switch browser {
	case useragent.HeadlessChrome:
		browser = useragent.Chrome
	case useragent.OperaMini, useragent.OperaTouch:
		browser = useragent.Opera
	}
	return clip(browser), clip(os)
}

// clip bounds a family that was read from an unknown agent, and makes it text.
func clip(family string) string {
	return strings.ToValidUTF8(family[:min(len(family), 64)], "")
}

// userAgentFits compares what was observed with what the token is bound to.
func userAgentFits(t *storage.Token, observed []byte) bool {
	if t.UserAgentBinding == storage.UserAgentOff || bytes.Equal(observed, t.UserAgent) {
		return true
	}
	if t.UserAgentBinding == storage.UserAgentStrict {
		return false
	}
	browser, os := families(observed)
	return browser == t.Browser && os == t.OS
}
