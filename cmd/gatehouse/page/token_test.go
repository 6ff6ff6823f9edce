package page

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func post(body string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "http://"+testHost+"/token", strings.NewReader(body))
	r.Header.Set("Origin", testOrigin)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	r.Header.Set("User-Agent", "Mozilla/5.0 (test)")
	r.RemoteAddr = "127.0.0.1:50000"
	return r
}

func TestToken(t *testing.T) {
	var asked IssueRequest
	h := testPage(t, func(c *Config) {
		issue := c.Issue
		c.Issue = func(ctx context.Context, r IssueRequest) (IssueResponse, error) {
			asked = r
			return issue(ctx, r)
		}
	})
	res := serve(h, post(`{"subject":"o'neil"}`))
	if res.StatusCode != http.StatusOK {
		t.Fatalf("status %d, want 200", res.StatusCode)
	}
	want := IssueRequest{"o'neil", "demo", netip.MustParseAddr("127.0.0.1"), "Mozilla/5.0 (test)", testOrigin}
	if asked != want {
		t.Errorf("asked the authority for %+v, want %+v", asked, want)
	}
	var got map[string]any
	if err := json.NewDecoder(res.Body).Decode(&got); err != nil {
		t.Fatal(err)
	}
	wantBody := map[string]any{
		"token": testToken, "token_id": testID, "expires_at": "2026-11-23T12:01:00Z", "expires_in_ms": 60000.0,
		"call": map[string]any{"subject": "o'neil", "audience": "demo", "client_ip": "127.0.0.1", "user_agent": "Mozilla/5.0 (test)", "origin": testOrigin},
		"commands": []any{
			map[string]any{"title": "Revoke this token", "line": "gatehouse revoke --token " + testID},
			map[string]any{"title": "Revoke all of the subject", "line": `gatehouse revoke --subject 'o'\''neil'`},
		},
	}
	if !reflect.DeepEqual(got, wantBody) {
		t.Errorf("answer %v, want %v", got, wantBody)
	}
}

func TestTokenIsAskedForByThePageOnly(t *testing.T) {
	with := func(name string, values ...string) func(*http.Request) {
		return func(r *http.Request) { r.Header[name] = values }
	}
	for _, c := range []struct {
		rule   string
		change func(*http.Request)
		status int
		reason string
	}{
		{"the page itself", func(*http.Request) {}, 200, ""},
		{"the page under its other host", func(r *http.Request) {
			r.Host = "127.0.0.1:8080"
			r.Header.Set("Origin", "http://127.0.0.1:8080")
		}, 200, ""},
		{"a browser without Fetch Metadata", with("Sec-Fetch-Site"), 200, ""},
		{"the charset JSON has anyway", with("Content-Type", `application/json; charset="UTF-8"`), 200, ""},

		{"no Origin", with("Origin"), 403, "origin_refused"},
		{"an empty Origin", with("Origin", ""), 403, "origin_refused"},
		{"the null Origin of sandboxed frames", with("Origin", "null"), 403, "origin_refused"},
		{"a foreign Origin", with("Origin", "http://evil.example"), 403, "origin_refused"},
		{"a suffix of an Origin", with("Origin", testOrigin+".evil.example"), 403, "origin_refused"},
		{"an Origin with userinfo", with("Origin", "http://localhost:8080@evil.example"), 403, "origin_refused"},
		{"an Origin in another case", with("Origin", "HTTP://localhost:8080"), 403, "origin_refused"},
		{"an Origin with a slash", with("Origin", testOrigin+"/"), 403, "origin_refused"},
		{"another port of this machine", with("Origin", "http://localhost:3000"), 403, "origin_refused"},
		{"the same over TLS", with("Origin", "https://localhost:8080"), 403, "origin_refused"},
		{"two Origins", with("Origin", testOrigin, testOrigin), 403, "origin_refused"},
		{"the page's other host is another origin", with("Origin", "http://127.0.0.1:8080"), 403, "origin_refused"},
		{"a foreign site by Fetch Metadata", with("Sec-Fetch-Site", "cross-site"), 403, "cross_site"},
		{"another port by Fetch Metadata", with("Sec-Fetch-Site", "same-site"), 403, "cross_site"},
		{"a typed address posts nothing", with("Sec-Fetch-Site", "none"), 403, "cross_site"},
		{"two words of Fetch Metadata", with("Sec-Fetch-Site", "same-origin", "cross-site"), 403, "cross_site"},
		{"no Content-Type", with("Content-Type"), 415, "content_type"},
		{"what a form can send", with("Content-Type", "text/plain"), 415, "content_type"},
		{"what a form can send, disguised", with("Content-Type", "text/plain; application/json"), 415, "content_type"},
		{"another JSON", with("Content-Type", "application/json-patch+json"), 415, "content_type"},
		{"another charset", with("Content-Type", "application/json; charset=utf-16"), 415, "content_type"},
		{"a Content-Type that is none", with("Content-Type", "application/json;;"), 415, "content_type"},
		{"two Content-Types", with("Content-Type", "application/json", "text/plain"), 415, "content_type"},
	} {
		issued := false
		h := testPage(t, func(cfg *Config) {
			issue := cfg.Issue
			cfg.Issue = func(ctx context.Context, r IssueRequest) (IssueResponse, error) {
				issued = true
				return issue(ctx, r)
			}
		})
		r := post(`{"subject":"u"}`)
		c.change(r)
		res := serve(h, r)
		if issued != (c.status == 200) {
			t.Errorf("%s: issued %v", c.rule, issued)
		}
		var got refusal
		if c.status != 200 {
			got = readRefusal(t, res)
		}
		if res.StatusCode != c.status || got.Reason != c.reason {
			t.Errorf("%s: %d %s, want %d %s", c.rule, res.StatusCode, got.Reason, c.status, c.reason)
		}
	}
}

func TestTokenBody(t *testing.T) {
	h := testPage(t, nil)
	padded := func(n int) string { return `{"subject":"u"}` + strings.Repeat(" ", n-len(`{"subject":"u"}`)) }
	for _, c := range []struct {
		rule, body string
		status     int
		reason     string
	}{
		{"a body of 4096 bytes", padded(4096), 200, ""},
		{"a body of 4097 bytes", padded(4097), 413, "body_too_large"},
		{"whether a subject is needed is for the authority", `{}`, 200, ""},
		{"no body", "", 400, "body_malformed"},
		{"not JSON", `{"subject":`, 400, "body_malformed"},
		{"something after the object", `{"subject":"u"}{}`, 400, "body_malformed"},
		{"null", `null`, 400, "body_malformed"},
		{"a list", `["u"]`, 400, "body_malformed"},
		{"a number for a subject", `{"subject":7}`, 400, "body_malformed"},
		{"null for a subject", `{"subject":null}`, 400, "body_malformed"},
		{"the page does not choose the audience", `{"subject":"u","audience":"admin"}`, 400, "body_malformed"},
		{"nor the address", `{"client_ip":"10.0.0.1"}`, 400, "body_malformed"},
		{"names are exact", `{"Subject":"u"}`, 400, "body_malformed"},
	} {
		res := serve(h, post(c.body))
		var got refusal
		if c.status != 200 {
			got = readRefusal(t, res)
		}
		if res.StatusCode != c.status || got.Reason != c.reason {
			t.Errorf("%s: %d %+v, want %d %s", c.rule, res.StatusCode, got, c.status, c.reason)
		}
	}
}

func TestTokenErrorsAreShownInWords(t *testing.T) {
	detailed, err := status.New(codes.FailedPrecondition, "subject locked").WithDetails(&errdetails.ErrorInfo{Reason: "locked", Domain: "gatehouse"})
	if err != nil {
		t.Fatal(err)
	}
	const hidden = "the authority could not issue a token; the terminal of gatehouse dev has the cause"
	for _, c := range []struct {
		rule          string
		err           error
		status        int
		reason, words string
		logged        bool
	}{
		{"what the user can mend", status.Error(codes.InvalidArgument, "subject: 1 to 256 bytes"), 400, "InvalidArgument", "subject: 1 to 256 bytes", false},
		{"the authority's reason", detailed.Err(), 409, "locked", "subject locked", false},
		{"a status that was wrapped", fmt.Errorf("issue: %w", status.Error(codes.PermissionDenied, "no")), 403, "PermissionDenied", "no", false},
		{"a credential that is not known", status.Error(codes.Unauthenticated, "no credential"), 403, "Unauthenticated", "no credential", false},
		{"a quota", status.Error(codes.ResourceExhausted, "quota used up"), 429, "ResourceExhausted", "quota used up", false},
		{"no authority", status.Error(codes.Unavailable, "stopping"), 503, "Unavailable", "stopping", false},
		{"a slow authority", status.Error(codes.DeadlineExceeded, "x"), 504, "DeadlineExceeded", "the authority did not answer in time", false},
		{"our own patience", context.DeadlineExceeded, 504, "DeadlineExceeded", "the authority did not answer in time", false},
		{"what the user can't mend", status.Error(codes.Internal, "cause"), 500, "internal", hidden, true},
		{"an error without a status", errors.New("cause"), 500, "internal", hidden, true},
	} {
		var log bytes.Buffer
		h := testPage(t, func(cfg *Config) {
			cfg.Issue = func(context.Context, IssueRequest) (IssueResponse, error) { return IssueResponse{}, c.err }
			cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
		})
		res := serve(h, post(`{"subject":"u"}`))
		if got := readRefusal(t, res); res.StatusCode != c.status || got != (refusal{c.reason, c.words}) {
			t.Errorf("%s: %d %+v, want %d %s: %s", c.rule, res.StatusCode, got, c.status, c.reason, c.words)
		}
		if logged := strings.Contains(log.String(), "cause"); logged != c.logged {
			t.Errorf("%s: log %q, want the cause in it: %v", c.rule, log.String(), c.logged)
		}
	}
}

func TestTokenWaitsForTheAuthorityNoLongerThanTheBrowser(t *testing.T) {
	var log bytes.Buffer
	bounded := false
	h := testPage(t, func(cfg *Config) {
		cfg.Issue = func(ctx context.Context, _ IssueRequest) (IssueResponse, error) {
			_, bounded = ctx.Deadline()
			<-ctx.Done()
			return IssueResponse{}, ctx.Err()
		}
		cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
	})
	ctx, leave := context.WithCancel(t.Context())
	leave()
	res := serve(h, post(`{"subject":"u"}`).WithContext(ctx))
	if !bounded || bodyOf(t, res) != "" || log.Len() != 0 {
		t.Errorf("bounded %v, log %q; want a deadline, no body and no log line", bounded, log.String())
	}
}

func TestClientIP(t *testing.T) {
	for remote, want := range map[string]string{
		"127.0.0.1:1":          "127.0.0.1",
		"[::1]:1":              "::1",
		"[::ffff:127.0.0.1]:1": "127.0.0.1",
		"[fe80::1%eth0]:1":     "fe80::1",
		"@":                    "invalid IP",
		"":                     "invalid IP",
	} {
		if got := clientIP(remote).String(); got != want {
			t.Errorf("clientIP(%q) = %s, want %s", remote, got, want)
		}
	}
}

func FuzzParseTokenRequest(f *testing.F) {
	for _, seed := range []string{`{"subject":"u"}`, `{}`, `null`, `{"subject":null}`, `{"subject":"\ud800"}`, `{"subject":"a","subject":"b"}`, `{"Subject":"u"}`, "{\"subject\":\"\xff\"}", "[", ""} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		req, err := parseTokenRequest(body)
		if err != nil {
			return
		}
		var fields map[string]any
		if json.Unmarshal(body, &fields) != nil || fields == nil {
			t.Fatalf("%q was accepted and is no object", body)
		}
		subject, named := fields["subject"].(string)
		if len(fields) > 1 || len(fields) == 1 && !named || subject != req.Subject {
			t.Fatalf("%q gave subject %q", body, req.Subject)
		}
	})
}
