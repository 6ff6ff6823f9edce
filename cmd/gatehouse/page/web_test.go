package page

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func webFile(tb testing.TB, name string) string {
	tb.Helper()
	b, err := web.ReadFile("web/" + name)
	if err != nil {
		tb.Fatal(err)
	}
	return string(b)
}

// The policy makes browsers refuse all of this; the test says where it is.
func TestNothingInline(t *testing.T) {
	index := bodyOf(t, serve(testPage(t, nil), get("/")))
	for rule, bad := range map[string]string{
		"no inline script":                  `<script[^>]*>[^<]`,
		"no inline style":                   `(?i)<style|<[^>]+\sstyle\s*=`,
		"no inline handler":                 `(?i)<[^>]+\son[a-z]+\s*=`,
		"no script in a link":               `(?i)javascript:`,
		"nothing from elsewhere":            `(?i)(?:src|href|action)="(?:[a-z]+:|//)`,
		"no frame, plug-in or base":         `(?i)<(?:iframe|object|embed|base)\b`,
		"no refresh or policy of its own":   `(?i)http-equiv`,
		"no action of the template is left": `\{\{`,
	} {
		if found := regexp.MustCompile(bad).FindString(index); found != "" {
			t.Errorf("index.html: %s: %q", rule, found)
		}
	}
	for _, script := range regexp.MustCompile(`(?i)<script[^>]*>`).FindAllString(index, -1) {
		if !strings.Contains(script, ` src="/`) {
			t.Errorf("index.html: a script without a file: %q", script)
		}
	}
	if found := regexp.MustCompile(`(?i)@import|url\(|expression\(`).FindString(webFile(t, "style.css")); found != "" {
		t.Errorf("style.css loads something: %q", found)
	}
	if found := regexp.MustCompile(`(?i)<(?:script|style|foreignObject)|\s(?:on\w+|style|href)=`).FindString(webFile(t, "logo.svg")); found != "" {
		t.Errorf("logo.svg does more than draw: %q", found)
	}
}

// Text reaches the document as text, and the token reaches nothing but the
// socket and the clipboard.
func TestScriptsSetTextOnly(t *testing.T) {
	for _, name := range []string{"app.js", "closes.js"} {
		js := webFile(t, name)
		for _, bad := range []string{
			"innerHTML", "outerHTML", "insertAdjacentHTML", "setHTML", "document.write", "DOMParser", "createContextualFragment",
			"srcdoc", "eval(", "Function(", "setTimeout(\"", "import(", "localStorage", "sessionStorage", "indexedDB",
			"document.cookie", "postMessage", "console.", "http:", "https:", "gatehouse.token.gh1_",
		} {
			if strings.Contains(js, bad) {
				t.Errorf("%s: %s", name, bad)
			}
		}
	}
}

var (
	idInHTML  = regexp.MustCompile(`\sid="([^"]*)"`)
	idInJS    = regexp.MustCompile(`\$\("([^"]*)"\)`)
	refInHTML = regexp.MustCompile(`\s(?:for|aria-labelledby|aria-describedby)="([^"]*)"`)
)

func TestIDs(t *testing.T) {
	index := webFile(t, "index.html")
	ids := make(map[string]bool)
	for _, m := range idInHTML.FindAllStringSubmatch(index, -1) {
		if ids[m[1]] {
			t.Errorf("index.html has the id %s twice", m[1])
		}
		ids[m[1]] = true
	}
	for _, m := range append(idInJS.FindAllStringSubmatch(webFile(t, "app.js"), -1), refInHTML.FindAllStringSubmatch(index, -1)...) {
		if !ids[m[1]] {
			t.Errorf("index.html lacks the id %s", m[1])
		}
	}
	// An end-to-end test clicks its way by these.
	for _, id := range []string{
		"subject", "get-token", "token-error", "token-text", "token-id", "token-state", "endpoint", "connect", "disconnect", "state",
		"connect-again", "again-result", "message", "send", "log", "banner", "banner-code", "banner-title", "banner-words", "banner-reason", "banner-again",
	} {
		if !ids[id] {
			t.Errorf("index.html lacks the id %s", id)
		}
	}
}

func TestEveryControlHasAName(t *testing.T) {
	index := webFile(t, "index.html")
	for _, m := range regexp.MustCompile(`<(?:input|select|textarea)\s[^>]*?id="([^"]*)"`).FindAllStringSubmatch(index, -1) {
		if !strings.Contains(index, `<label for="`+m[1]+`">`) {
			t.Errorf("%s has no label", m[1])
		}
	}
	for _, m := range regexp.MustCompile(`<button[^>]*>\s*</button>`).FindAllString(index, -1) {
		t.Errorf("a button without a name: %s", m)
	}
}

var (
	closeRow    = regexp.MustCompile(`(?m)^  \{ code: (\d{4}),(?: reason: "([^"]+)",)? again: "(\w+)", title: "[^"]+", words: "[^"]+" \},$`)
	statusName  = regexp.MustCompile(`ws\.(Status\w+)`)
	codeNumber  = regexp.MustCompile(`\b(10(?:0\d|1[0-5])|4\d{3})\b`)
	againName   = regexp.MustCompile(`(?m)^  (\w+): "[^"]+",$`)
	namedStatus = map[string]int{
		"StatusNormalClosure":           1000,
		"StatusGoingAway":               1001,
		"StatusProtocolError":           1002,
		"StatusUnsupportedData":         1003,
		"StatusNoMeaningYet":            1004,
		"StatusInvalidFramePayloadData": 1007,
		"StatusPolicyViolation":         1008,
		"StatusMessageTooBig":           1009,
		"StatusMandatoryExt":            1010,
		"StatusInternalServerError":     1011,
	}
)

// The node's two tables of close codes can't be imported, so this reads their
// source: every code has words here, and every reason told apart here exists.
func TestEveryCloseCodeOfTheNodeHasWords(t *testing.T) {
	var node strings.Builder
	for _, name := range []string{"closes.go", "refusals.go"} {
		src, err := os.ReadFile(filepath.Join("..", "..", "..", "wsnode", name))
		if err != nil {
			t.Fatal(err)
		}
		node.WriteString(regexp.MustCompile(`(?m)//.*$`).ReplaceAllString(string(src), ""))
	}
	codes := []int{1000, 1005, 1006, 1012, 1013, 4008, 4029, 4401, 4501, 4503, 4509} // found below too, or made by browsers
	for _, m := range codeNumber.FindAllString(node.String(), -1) {
		n, _ := strconv.Atoi(m)
		codes = append(codes, n)
	}
	for _, m := range statusName.FindAllStringSubmatch(node.String(), -1) {
		if m[1] == "StatusCode" { // the type
			continue
		}
		n, ok := namedStatus[m[1]]
		if !ok {
			t.Errorf("wsnode uses ws.%s, which this test does not know", m[1])
		}
		codes = append(codes, n)
	}

	js := webFile(t, "closes.js")
	again := make(map[string]bool)
	for _, m := range againName.FindAllStringSubmatch(js, -1) {
		again[m[1]] = true
	}
	rows := closeRow.FindAllStringSubmatch(js, -1)
	if len(rows) != strings.Count(js, "{ code: ") {
		t.Errorf("closes.js: %d of %d rows have the form this test reads", len(rows), strings.Count(js, "{ code: "))
	}
	general := make(map[int]bool) // codes with a row for any reason
	for _, row := range rows {
		code, _ := strconv.Atoi(row[1])
		if general[code] {
			t.Errorf("closes.js: a row of %d comes after the one for any reason, so nobody reads it", code)
		}
		if row[2] == "" {
			general[code] = true
		} else if !strings.Contains(node.String(), strconv.Quote(row[2])) {
			t.Errorf("closes.js: the node never gives the reason %q", row[2])
		}
		if !again[row[3]] {
			t.Errorf("closes.js: %d: AGAIN has no %q", code, row[3])
		}
		if terminal := code >= 4500 && code <= 4999; terminal != (row[3] == "never") {
			t.Errorf("closes.js: %d is %q; 4500 to 4999 must not be retried, and only they", code, row[3])
		}
	}
	slices.Sort(codes)
	for _, code := range slices.Compact(codes) {
		if !general[code] {
			t.Errorf("closes.js has no words for %d", code)
		}
	}
}

// The files are the page; a file that is not served is dead, and one that is
// named and not served breaks it.
func TestEveryFileIsServed(t *testing.T) {
	h := testPage(t, nil)
	entries, err := web.ReadDir("web")
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != len(h.files) {
		t.Errorf("web has %d files, %d are served", len(entries), len(h.files))
	}
	index := webFile(t, "index.html") + webFile(t, "app.js")
	for _, m := range regexp.MustCompile(`(?:src|href)="(/[^"]*)"|from "\.(/[^"]*)"`).FindAllStringSubmatch(index, -1) {
		if res := serve(h, get(m[1]+m[2])); res.StatusCode != http.StatusOK {
			t.Errorf("%s is named and not served", m[1]+m[2])
		}
	}
}
