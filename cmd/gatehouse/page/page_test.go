package page

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

const (
	testHost   = "localhost:8080"
	testOrigin = "http://localhost:8080"
	testToken  = "gh1_not-a-real-one"
	testID     = "01K00000000000000000000000"
)

var testNow = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func testConfig() Config {
	return Config{
		Hosts:   []string{testHost, "127.0.0.1:8080"},
		Origins: []string{testOrigin, "http://127.0.0.1:8080"},
		Endpoints: []Endpoint{
			{Name: "no TLS", URL: "ws://localhost:8081/chat"},
			{Name: "TLS", URL: "wss://localhost:8443/chat", Note: `trust "ca.crt" <first>`},
			{Name: "another route", URL: "wss://localhost:8443/news"},
		},
		Audience: "demo",
		Issue: func(context.Context, IssueRequest) (IssueResponse, error) {
			return IssueResponse{testToken, testID, testNow.Add(time.Minute)}, nil
		},
		Commands: func(id, subject string) []Command {
			return []Command{
				{"Revoke this token", []string{"gatehouse", "revoke", "--token", id}},
				{"Revoke all of the subject", []string{"gatehouse", "revoke", "--subject", subject}},
			}
		},
		Version: "v1.2.3",
	}
}

func testPage(tb testing.TB, change func(*Config)) *pageHandler {
	tb.Helper()
	cfg := testConfig()
	if change != nil {
		change(&cfg)
	}
	h, err := newHandler(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	h.now = func() time.Time { return testNow }
	return h
}

func serve(h http.Handler, r *http.Request) *http.Response {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func get(path string) *http.Request {
	return httptest.NewRequest(http.MethodGet, "http://"+testHost+path, nil)
}

func bodyOf(tb testing.TB, res *http.Response) string {
	tb.Helper()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return string(b)
}

func TestFiles(t *testing.T) {
	h := testPage(t, nil)
	for path, contentType := range map[string]string{
		"/":          "text/html; charset=utf-8",
		"/style.css": "text/css; charset=utf-8",
		"/app.js":    "text/javascript; charset=utf-8",
		"/closes.js": "text/javascript; charset=utf-8",
		"/logo.svg":  "image/svg+xml",
	} {
		res := serve(h, get(path))
		body := bodyOf(t, res)
		if res.StatusCode != http.StatusOK || res.Header.Get("Content-Type") != contentType || len(body) < 100 {
			t.Errorf("GET %s: %d, %s, %d bytes; want 200, %s", path, res.StatusCode, res.Header.Get("Content-Type"), len(body), contentType)
		}
		head := get(path)
		head.Method = http.MethodHead
		res = serve(h, head)
		if got := bodyOf(t, res); got != "" || res.StatusCode != http.StatusOK || res.ContentLength != int64(len(body)) {
			t.Errorf("HEAD %s: %d, %d bytes of body, Content-Length %d; want 200, none, %d", path, res.StatusCode, len(got), res.ContentLength, len(body))
		}
	}
}

func TestRefusals(t *testing.T) {
	h := testPage(t, nil)
	for _, c := range []struct {
		rule, method, host, path string
		status                   int
		reason, allow            string
	}{
		{"a foreign name that resolves to loopback is refused", "GET", "evil.example:8080", "/", 421, "host_refused", ""},
		{"the same for the token endpoint", "POST", "evil.example:8080", "/token", 421, "host_refused", ""},
		{"the port is part of the host", "GET", "localhost", "/", 421, "host_refused", ""},
		{"a trailing dot is another host", "GET", "localhost.:8080", "/", 421, "host_refused", ""},
		{"a suffix is another host", "GET", "x.localhost:8080", "/", 421, "host_refused", ""},
		{"hosts are compared byte by byte", "GET", "LOCALHOST:8080", "/", 421, "host_refused", ""},
		{"no host", "GET", "", "/", 421, "host_refused", ""},
		{"no such file", "GET", testHost, "/index.html", 404, "not_found", ""},
		{"the embedded folder is not served", "GET", testHost, "/web/app.js", 404, "not_found", ""},
		{"no way out of the folder", "GET", testHost, "/../page.go", 404, "not_found", ""},
		{"no second slash", "GET", testHost, "//", 404, "not_found", ""},
		{"files are read only", "POST", testHost, "/", 405, "method_not_allowed", "GET, HEAD"},
		{"files are read only", "PUT", testHost, "/app.js", 405, "method_not_allowed", "GET, HEAD"},
		{"no other origin is invited", "OPTIONS", testHost, "/token", 405, "method_not_allowed", "POST"},
		{"a token is not fetched by a link", "GET", testHost, "/token", 405, "method_not_allowed", "POST"},
		{"nor by HEAD", "HEAD", testHost, "/token", 405, "method_not_allowed", "POST"},
	} {
		r := get("/")
		r.Method, r.Host, r.URL.Path = c.method, c.host, c.path
		r.Header.Set("Origin", testOrigin)
		res := serve(h, r)
		got := readRefusal(t, res)
		if res.StatusCode != c.status || got.Reason != c.reason || got.Error == "" || res.Header.Get("Allow") != c.allow {
			t.Errorf("%s: %s %q %s: %d %+v, Allow %q; want %d %s, Allow %q", c.rule, c.method, c.host, c.path,
				res.StatusCode, got, res.Header.Get("Allow"), c.status, c.reason, c.allow)
		}
	}
}

func readRefusal(tb testing.TB, res *http.Response) refusal {
	tb.Helper()
	var r refusal
	if err := json.NewDecoder(res.Body).Decode(&r); err != nil {
		tb.Fatalf("status %d: the refusal is not JSON: %v", res.StatusCode, err)
	}
	if got := res.Header.Get("Content-Type"); got != "application/json" {
		tb.Errorf("refusal has Content-Type %q", got)
	}
	return r
}

func TestHeaders(t *testing.T) {
	h := testPage(t, nil)
	want := map[string]string{
		"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; " +
			"connect-src 'self' ws://localhost:8081 wss://localhost:8443; base-uri 'none'; form-action 'none'; " +
			"frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
		"X-Content-Type-Options":       "nosniff",
		"X-Frame-Options":              "DENY",
		"Referrer-Policy":              "no-referrer",
		"Cache-Control":                "no-store",
		"Cross-Origin-Opener-Policy":   "same-origin",
		"Cross-Origin-Embedder-Policy": "require-corp",
		"Cross-Origin-Resource-Policy": "same-origin",
		"Access-Control-Allow-Origin":  "",
	}
	foreign := get("/")
	foreign.Host = "evil.example"
	for what, r := range map[string]*http.Request{
		"page": get("/"), "script": get("/app.js"), "404": get("/nothing"), "421": foreign,
		"405": get("/token"), "token": post(`{"subject":"u"}`), "refused token": post(`[]`),
	} {
		res := serve(h, r)
		for name, value := range want {
			if got := res.Header.Get(name); got != value {
				t.Errorf("%s: %s: %q, want %q", what, name, got, value)
			}
		}
	}
}

func TestIndexIsFilledIn(t *testing.T) {
	body := bodyOf(t, serve(testPage(t, nil), get("/")))
	for _, want := range []string{
		`<option value="ws://localhost:8081/chat" data-note="">ws://localhost:8081/chat (no TLS)</option>`,
		`data-note="trust &#34;ca.crt&#34; &lt;first&gt;"`,
		`<span class="version">v1.2.3</span>`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("index.html lacks %s", want)
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	for _, c := range []struct {
		rule   string
		change func(*Config)
		want   string
	}{
		{"no host would refuse everybody", func(c *Config) { c.Hosts = nil }, "Hosts: at least one"},
		{"a host has no scheme", func(c *Config) { c.Hosts = append(c.Hosts, "http://x") }, `Hosts: "http://x"`},
		{"a host is not empty", func(c *Config) { c.Hosts = append(c.Hosts, "") }, `Hosts: ""`},
		{"no origin would refuse every token", func(c *Config) { c.Origins = nil }, "Origins: at least one"},
		{"the null origin is everybody's", func(c *Config) { c.Origins[0] = "null" }, `Origins: "null"`},
		{"an origin is that of a host served", func(c *Config) { c.Origins[0] = "http://evil.example" }, `Origins: "http://evil.example"`},
		{"an origin is the page's", func(c *Config) { c.Origins[0] = "ws://localhost:8080" }, `Origins: "ws://`},
		{"there is something to connect to", func(c *Config) { c.Endpoints = nil }, "Endpoints: at least one"},
		{"an endpoint is a WebSocket", func(c *Config) { c.Endpoints[0].URL = "http://localhost:8081/" }, "not a ws:// or wss:// URL"},
		{"an endpoint carries no password", func(c *Config) { c.Endpoints[0].URL = "ws://u:p@localhost/" }, "not a ws:// or wss:// URL"},
		{"an endpoint has no fragment", func(c *Config) { c.Endpoints[0].URL = "ws://localhost/#x" }, "not a ws:// or wss:// URL"},
		{"an endpoint has a host", func(c *Config) { c.Endpoints[0].URL = "ws:///chat" }, "not a name or an IPv4 address"},
		{"the policy can't name IPv6", func(c *Config) { c.Endpoints[0].URL = "ws://[::1]:8081/" }, "not a name or an IPv4 address"},
		{"a host adds no directive to the policy", func(c *Config) { c.Endpoints[0].URL = "ws://x;script-src/" }, "not a name or an IPv4 address"},
		{"a host allows no wildcard", func(c *Config) { c.Endpoints[0].URL = "ws://*/" }, "not a name or an IPv4 address"},
		{"an endpoint has a name", func(c *Config) { c.Endpoints[0].Name = "" }, "has no name"},
		{"the audience is fixed", func(c *Config) { c.Audience = "" }, "Audience: needed"},
		{"somebody issues", func(c *Config) { c.Issue = nil }, "Issue: needed"},
		{"somebody tells how to revoke", func(c *Config) { c.Commands = nil }, "Commands: needed"},
	} {
		cfg := testConfig()
		c.change(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error with %q", c.rule, err, c.want)
		}
	}
	if _, err := New(Config{}); err == nil || strings.Count(err.Error(), "\n") != 5 {
		t.Errorf("an empty Config: %v, want all six problems", err)
	}
}
