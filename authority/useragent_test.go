package authority_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/gatehouse-ws/gatehouse/authority"
	"github.com/gatehouse-ws/gatehouse/token"
)

// agents are real User-Agents by their class: of each class several versions.
var agents = map[string][]string{
	"Chrome on Windows": {
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36",
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36",
		"Mozilla/5.0 (Windows NT 6.1; WOW64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/109.0.5414.120 Safari/537.36",
	},
	"Chrome on macOS": {
		"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36",
		"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_11_6) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/103.0.5060.134 Safari/537.36",
	},
	"Chrome on Linux": { // headless or not
		"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36",
		"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/156.0.0.0 Safari/537.36",
	},
	"Chrome on ChromeOS": {
		"Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36",
	},
	"Chrome on Android": {
		"Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Mobile Safari/537.36",
		"Mozilla/5.0 (Linux; Android 13; SM-S908B) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/112.0.5615.48 Mobile Safari/537.36",
		"Mozilla/5.0 (Linux; Android 13; SM-T220) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36",
	},
	"Chrome on iOS": {
		"Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/131.0.6778.73 Mobile/15E148 Safari/604.1",
		"Mozilla/5.0 (iPad; CPU OS 16_7 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/120.0.6099.119 Mobile/15E148 Safari/604.1",
	},
	"Firefox on Windows": {
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:133.0) Gecko/20100101 Firefox/133.0",
		"Mozilla/5.0 (Windows NT 6.3; Win64; x64; rv:115.0) Gecko/20100101 Firefox/115.0",
	},
	"Firefox on macOS": {
		"Mozilla/5.0 (Macintosh; Intel Mac OS X 10.15; rv:133.0) Gecko/20100101 Firefox/133.0",
	},
	"Firefox on Linux": {
		"Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:109.0) Gecko/20100101 Firefox/115.0",
		"Mozilla/5.0 (X11; Linux x86_64; rv:133.0) Gecko/20100101 Firefox/133.0",
	},
	"Firefox on Android": {
		"Mozilla/5.0 (Android 14; Mobile; rv:133.0) Gecko/133.0 Firefox/133.0",
		"Mozilla/5.0 (Android 12; Tablet; rv:121.0) Gecko/121.0 Firefox/121.0",
	},
	"Firefox on iOS": {
		"Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) FxiOS/133.0 Mobile/15E148 Safari/605.1.15",
	},
	"Safari on macOS": {
		"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Safari/605.1.15",
		"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_14_6) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/14.1.2 Safari/605.1.15",
	},
	"Safari on iOS": {
		"Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Mobile/15E148 Safari/604.1",
		"Mozilla/5.0 (iPhone; CPU iPhone OS 17_0_3 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.0.1 Mobile/15E148 Safari/604.1",
	},
	"Edge on Windows": {
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36 Edg/131.0.2903.70",
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/64.0.3282.140 Safari/537.36 Edge/18.17763",
	},
	"Edge on macOS": {
		"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36 Edg/131.0.0.0",
	},
	"Edge on Android": {
		"Mozilla/5.0 (Linux; Android 10; HD1913) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.6778.81 Mobile Safari/537.36 EdgA/131.0.2903.48",
	},
	"Edge on iOS": {
		"Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 EdgiOS/131.0.2903.68 Mobile/15E148 Safari/604.1",
	},
	"Opera on Windows": {
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/129.0.0.0 Safari/537.36 OPR/115.0.0.0",
		"Opera/9.80 (Windows NT 6.1; U; en) Presto/2.8.131 Version/11.11",
	},
	"Opera on Android": {
		"Mozilla/5.0 (Linux; Android 10; VOG-L29) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.6723.102 Mobile Safari/537.36 OPR/76.2.4027.73374",
	},
	"Samsung Browser on Android": {
		"Mozilla/5.0 (Linux; Android 14; SM-S928B) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/26.0 Chrome/122.0.0.0 Mobile Safari/537.36",
		"Mozilla/5.0 (Linux; Android 9; SAMSUNG SM-G960U) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/10.2 Chrome/71.0.3578.99 Mobile Safari/537.36",
	},
	"curl on ":            {"curl/8.5.0", "curl/7.88.1"},
	"Go-http-client on ":  {"Go-http-client/1.1", "Go-http-client/2.0"},
	"Python on ":          {"Python/3.11 websockets/12.0", "Python/3.13 websockets/15.0.1"},
	"python-requests on ": {"python-requests/2.31.0", "python-requests/2.32.3"},
	"node on ":            {"node"},
	"undici on ":          {"undici"},
	"axios on ":           {"axios/1.6.0", "axios/1.7.9"},
	"okhttp on ":          {"okhttp/4.12.0", "okhttp/5.0.0-alpha.14"},
	"MyApp on ":           {"MyApp 1.2.3", "MyApp v2", "MyApp/3 CFNetwork/1485 Darwin/23.1.0"},
	"MyApp on iOS":        {"MyApp/1.2.3 (iPhone; iOS 17.0; Scale/3.00)"},
	" on ":                {"", " ", "1.2.3", "/", "\xff\xfe"},
}

func TestFamiliesOutliveUpgrades(t *testing.T) {
	for class, list := range agents {
		for _, agent := range list {
			browser, os := authority.Families([]byte(agent))
			if got := browser + " on " + os; got != class {
				t.Errorf("%s\n is %q, want %q", agent, got, class)
			}
		}
	}
}

// FuzzFamilies proves that whatever a client calls itself is read without a
// panic, into short text without a token.
func FuzzFamilies(f *testing.F) {
	for _, list := range agents {
		for _, agent := range list {
			f.Add([]byte(agent))
		}
	}
	f.Add([]byte("gh1_" + strings.Repeat("A", 80)))
	f.Add([]byte("Mozilla/5.0 (X11; Linux x86_64) GH1_" + strings.Repeat("A", 80) + "/1"))
	f.Add([]byte(strings.Repeat("é", 600)))
	f.Add([]byte("CrOS x86_64 "))
	f.Add([]byte("(Android"))
	f.Add([]byte("Android;;;;/;http://:[]"))
	f.Fuzz(func(t *testing.T, agent []byte) {
		browser, os := authority.Families(agent)
		for _, s := range []string{browser, os} {
			if !utf8.ValidString(s) || len(s) > 64 {
				t.Fatalf("%q gives the family %q", agent, s)
			}
			if i := strings.Index(strings.ToLower(s), token.Prefix); i >= 0 && len(s) > i+len(token.Prefix) {
				t.Fatalf("%q gives the family %q", agent, s)
			}
		}
		if again, same := authority.Families(agent); again != browser || same != os {
			t.Fatalf("%q is %q on %q, then %q on %q", agent, browser, os, again, same)
		}
	})
}
