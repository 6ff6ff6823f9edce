// Package page is the try-out page of gatehouse dev: it gets a token, opens a
// WebSocket with it, exchanges messages, and tells in words why a socket was
// closed. It hands out tokens to whoever loads it, so it belongs to dev alone,
// on loopback.
package page

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

//go:embed web
var web embed.FS

// Config says who may ask, and what the page offers. New checks it.
type Config struct {
	// Hosts are the exact Host values that are answered, as localhost:8080. Any
	// other is refused, or a foreign name that is made to resolve to loopback
	// could read the page's tokens (DNS rebinding).
	Hosts []string
	// Origins may ask for tokens. Each is scheme://host with a host of Hosts.
	Origins []string
	// Endpoints are what the page connects to, the default one first.
	Endpoints []Endpoint
	// Audience is the audience of every token.
	Audience string
	// Issue asks the authority for a token. A gRPC status in its error decides
	// the HTTP status and is shown; the text of any other error is only logged.
	Issue func(context.Context, IssueRequest) (IssueResponse, error)
	// Commands are the command lines that the page shows for a token, the one
	// that revokes it first.
	Commands func(tokenID, subject string) []Command
	// Version is shown.
	Version string
	// Log takes the errors of Issue that are not shown; nil is silent.
	Log *slog.Logger
}

// Endpoint is a WebSocket route that the page can connect to.
type Endpoint struct {
	// Name is shown, as "ws, no TLS".
	Name string
	// URL is ws:// or wss://, of a name or an IPv4 address: a
	// Content-Security-Policy has no form for IPv6 addresses.
	URL string
	// Note is shown while the endpoint is chosen; may be empty.
	Note string
}

// IssueRequest is what a login handler tells the authority of a user who has
// just logged in. All but Subject is what the server itself knows.
type IssueRequest struct {
	Subject   string
	Audience  string
	ClientIP  netip.Addr
	UserAgent string
	Origin    string
}

// IssueResponse is a fresh token.
type IssueResponse struct {
	Token     string // the token's text
	TokenID   string
	ExpiresAt time.Time
}

// Command is a command line with what it is for.
type Command struct {
	// Title is shown above the line, as "Revoke this token".
	Title string
	// Args are the program and its arguments; the page quotes them for a POSIX
	// shell. A command that can't be pasted safely is not shown.
	Args []string
}

// pageHandler is set at construction and only read afterwards.
type pageHandler struct {
	cfg    Config
	files  map[string]file // by URL path
	policy string          // the Content-Security-Policy
	now    func() time.Time
}

type file struct {
	contentType string
	body        []byte
}

// New checks cfg and gives the page's handler. It bounds what it reads but not
// for how long: that is for the http.Server, which needs its timeouts set.
func New(cfg Config) (http.Handler, error) {
	return newHandler(cfg)
}

func newHandler(cfg Config) (*pageHandler, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("try-out page: %w", err)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	h := &pageHandler{cfg: cfg, policy: contentPolicy(cfg.Endpoints), now: time.Now}
	if err := h.load(); err != nil {
		return nil, fmt.Errorf("try-out page: %w", err)
	}
	return h, nil
}

// validate finds every problem at once.
func (c *Config) validate() error {
	var problems []error
	bad := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if len(c.Hosts) == 0 {
		bad("Hosts: at least one is needed")
	}
	for _, h := range c.Hosts {
		if u, err := url.Parse("http://" + h); err != nil || u.Host != h || h == "" {
			bad("Hosts: %q is not a host or host:port", h)
		}
	}
	if len(c.Origins) == 0 {
		bad("Origins: at least one is needed")
	}
	for _, o := range c.Origins {
		scheme, host, _ := strings.Cut(o, "://")
		if scheme != "http" && scheme != "https" || !slices.Contains(c.Hosts, host) {
			bad("Origins: %q is not http:// or https:// and one of Hosts", o)
		}
	}
	if len(c.Endpoints) == 0 {
		bad("Endpoints: at least one is needed")
	}
	for _, e := range c.Endpoints {
		if err := e.validate(); err != nil {
			problems = append(problems, err)
		}
	}
	if c.Audience == "" {
		bad("Audience: needed")
	}
	if c.Issue == nil {
		bad("Issue: needed")
	}
	if c.Commands == nil {
		bad("Commands: needed")
	}
	return errors.Join(problems...)
}

func (e *Endpoint) validate() error {
	u, err := url.Parse(e.URL)
	switch {
	case err != nil || u.Scheme != "ws" && u.Scheme != "wss" || u.User != nil || u.Fragment != "":
		return fmt.Errorf("endpoint %q: not a ws:// or wss:// URL", e.URL)
	case u.Host == "" || strings.Trim(u.Host, hostChars) != "":
		return fmt.Errorf("endpoint %q: its host is not a name or an IPv4 address", e.URL)
	case e.Name == "":
		return fmt.Errorf("endpoint %q: it has no name", e.URL)
	}
	return nil
}

// hostChars are those of names, IPv4 addresses and ports, so that a host can't
// end a directive of the Content-Security-Policy.
const hostChars = "abcdefghijklmnopqrstuvwxyz0123456789.-:"

// contentPolicy allows the page its own files and the sockets of endpoints.
// Trusted Types turn any assignment of HTML into an error of the browser.
func contentPolicy(endpoints []Endpoint) string {
	connect := []string{"'self'"}
	for _, e := range endpoints {
		u, err := url.Parse(e.URL)
		if err != nil {
			continue // validate has refused it
		}
		if origin := u.Scheme + "://" + u.Host; !slices.Contains(connect, origin) {
			connect = append(connect, origin)
		}
	}
	return strings.Join([]string{
		"default-src 'none'",
		"script-src 'self'",
		"style-src 'self'",
		"img-src 'self'",
		"connect-src " + strings.Join(connect, " "),
		"base-uri 'none'",
		"form-action 'none'",
		"frame-ancestors 'none'",
		"require-trusted-types-for 'script'",
		"trusted-types 'none'",
	}, "; ")
}

// load reads the files and fills in index.html, once.
func (h *pageHandler) load() error {
	h.files = make(map[string]file)
	for _, f := range []struct{ path, name, contentType string }{
		{"/style.css", "web/style.css", "text/css; charset=utf-8"},
		{"/app.js", "web/app.js", "text/javascript; charset=utf-8"},
		{"/closes.js", "web/closes.js", "text/javascript; charset=utf-8"},
		{"/logo.svg", "web/logo.svg", "image/svg+xml"},
	} {
		body, err := web.ReadFile(f.name)
		if err != nil {
			return err
		}
		h.files[f.path] = file{f.contentType, body}
	}
	index, err := template.ParseFS(web, "web/index.html")
	if err != nil {
		return err
	}
	var body bytes.Buffer
	if err := index.Execute(&body, &h.cfg); err != nil {
		return err
	}
	h.files["/"] = file{"text/html; charset=utf-8", body.Bytes()}
	return nil
}

// ServeHTTP answers the page's files and POST /token, and refuses the rest.
func (h *pageHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.setHeaders(w.Header())
	if !slices.Contains(h.cfg.Hosts, r.Host) {
		refuse(w, http.StatusMisdirectedRequest, "host_refused", "this Host is not served here; use http://"+h.cfg.Hosts[0])
		return
	}
	if r.URL.Path == "/token" {
		h.serveToken(w, r)
		return
	}
	f, ok := h.files[r.URL.Path]
	if !ok {
		refuse(w, http.StatusNotFound, "not_found", "no such page")
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		refuse(w, http.StatusMethodNotAllowed, "method_not_allowed", "only GET and HEAD")
		return
	}
	w.Header().Set("Content-Type", f.contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(f.body)))
	if r.Method == http.MethodGet {
		_, _ = w.Write(f.body) // fails only when the browser has gone
	}
}

// setHeaders hardens every answer, refusals included. Isolation from other
// origins also gives the page a clock fine enough to time an echo.
func (h *pageHandler) setHeaders(header http.Header) {
	header.Set("Content-Security-Policy", h.policy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("X-Frame-Options", "DENY")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cache-Control", "no-store")
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	header.Set("Cross-Origin-Embedder-Policy", "require-corp")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
}

// refusal is the body of every answer that is not what was asked for.
type refusal struct {
	Reason string `json:"reason"`
	Error  string `json:"error"`
}

func refuse(w http.ResponseWriter, status int, reason, words string) {
	writeJSON(w, status, refusal{reason, words})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // fails only when the browser has gone
}
