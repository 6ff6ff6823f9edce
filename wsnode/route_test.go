package wsnode

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/wsnode/schema"
	"github.com/gatehouse-ws/gatehouse/wsnode/wsconn"
	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

// onOpening is a sink that looks at the request.
type onOpening func(r *wsconn.Request)

func (f onOpening) Opening(r *wsconn.Request)                        { f(r) }
func (onOpening) Message(_ ws.OpCode, _, out []byte) ([]byte, error) { return out, nil }
func (onOpening) PeerClose(code ws.StatusCode, reason []byte)        {}

// wireRequest is a request head.
type wireRequest []byte

// parsed reports whether the head is a request, and has look see it.
func (o wireRequest) parsed(look func(r *wsconn.Request)) bool {
	var c wsconn.Conn
	limits := wsconn.Limits{}.WithDefaults()
	c.Reset(&limits, time.Unix(0, 0))
	defer c.Release()
	_, err := c.Feed(o, &limits, time.Unix(0, 0), onOpening(look), nil)
	return err == nil && c.State() == wsconn.StateVerifying
}

func (o wireRequest) must(t testing.TB, look func(r *wsconn.Request)) {
	t.Helper()
	if !o.parsed(look) {
		t.Fatalf("%q is no request", o)
	}
}

// An Origin passes if it is one of the route's, byte for byte.
func TestOrigins(t *testing.T) {
	r := &originRule{[]string{"https://app.example", "http://localhost:8080", "https://xn--bcher-kva.example"}, RefuseMissing}
	for _, c := range []struct {
		rule, origin string
		reason       pb.Reason
	}{
		{"the route's", "https://app.example", 0},
		{"another of the route's, with its port", "http://localhost:8080", 0},
		{"an internationalized name as browsers write it", "https://xn--bcher-kva.example", 0},
		{"the same in letters", "https://bücher.example", pb.Reason_REASON_ORIGIN_REFUSED},
		{"null", "null", pb.Reason_REASON_ORIGIN_REFUSED},
		{"upper case in the host", "https://APP.example", pb.Reason_REASON_ORIGIN_REFUSED},
		{"upper case in the scheme", "HTTPS://app.example", pb.Reason_REASON_ORIGIN_REFUSED},
		{"a trailing dot", "https://app.example.", pb.Reason_REASON_ORIGIN_REFUSED},
		{"a trailing slash", "https://app.example/", pb.Reason_REASON_ORIGIN_REFUSED},
		{"userinfo", "https://app.example@evil.example", pb.Reason_REASON_ORIGIN_REFUSED},
		{"the right host behind userinfo", "https://evil@app.example", pb.Reason_REASON_ORIGIN_REFUSED},
		{"the right suffix", "https://evil-app.example", pb.Reason_REASON_ORIGIN_REFUSED},
		{"a subdomain", "https://sub.app.example", pb.Reason_REASON_ORIGIN_REFUSED},
		{"the right prefix", "https://app.example.evil.example", pb.Reason_REASON_ORIGIN_REFUSED},
		{"the default port", "https://app.example:443", pb.Reason_REASON_ORIGIN_REFUSED},
		{"another port", "https://app.example:8443", pb.Reason_REASON_ORIGIN_REFUSED},
		{"no port where there is one", "http://localhost", pb.Reason_REASON_ORIGIN_REFUSED},
		{"another scheme", "http://app.example", pb.Reason_REASON_ORIGIN_REFUSED},
		{"a scheme that looks like it", "https//app.example", pb.Reason_REASON_ORIGIN_REFUSED},
		{"two of them in one field", "https://app.example https://evil.example", pb.Reason_REASON_ORIGIN_REFUSED},
		{"a list", "https://app.example, https://app.example", pb.Reason_REASON_ORIGIN_REFUSED},
		{"a wildcard", "*", pb.Reason_REASON_ORIGIN_REFUSED},
	} {
		wireRequest(wstest.Opening{Origin: c.origin}.Bytes()).must(t, func(req *wsconn.Request) {
			if got := r.originReason(req); got != c.reason {
				t.Errorf("%s: %v, want %v", c.rule, got, c.reason)
			}
		})
	}
	// An Origin that is there and empty is not a missing one.
	empty := wireRequest(wstest.Opening{Fields: []string{"Origin:"}}.Bytes())
	missing := wireRequest(wstest.Opening{}.Bytes())
	for _, c := range []struct {
		rule   MissingOrigin
		head   wireRequest
		reason pb.Reason
	}{
		{RefuseMissing, missing, pb.Reason_REASON_ORIGIN_MISSING},
		{AllowMissing, missing, 0},
		{RefuseMissing, empty, pb.Reason_REASON_ORIGIN_REFUSED},
		{AllowMissing, empty, pb.Reason_REASON_ORIGIN_REFUSED},
		{"", missing, pb.Reason_REASON_ORIGIN_MISSING}, // a rule that nobody set
	} {
		c.head.must(t, func(req *wsconn.Request) {
			if got := (&originRule{missing: c.rule}).originReason(req); got != c.reason {
				t.Errorf("missing_origin %q: %v, want %v", c.rule, got, c.reason)
			}
		})
	}
	if wireRequest(wstest.Opening{Origin: appOrigin, Fields: []string{"origin: " + appOrigin}}.Bytes()).parsed(func(*wsconn.Request) {}) {
		t.Error("an Origin that is there twice is taken")
	}
}

// Exactly one token in exactly one carrier.
func TestCarriers(t *testing.T) {
	const (
		a, b = "gh1_aaaa", "gh1_bbbb"
		sub  = "gatehouse.token."
	)
	for _, c := range []struct {
		rule   string
		o      wstest.Opening
		query  bool // the route takes tokens there
		text   string
		reason pb.Reason
	}{
		{"in the subprotocols, beside the application's", wstest.Opening{Subprotocols: []string{"app.v1", sub + a}}, false, a, 0},
		{"in the subprotocols, before it", wstest.Opening{Subprotocols: []string{sub + a, "app.v1"}}, false, a, 0},
		{"in the subprotocols, beside ours", wstest.Opening{Subprotocols: []string{"gatehouse.v1", sub + a}}, false, a, 0},
		{"in a second field of subprotocols", wstest.Opening{Subprotocols: []string{"app.v1"}, Fields: []string{"Sec-WebSocket-Protocol: " + sub + a}}, false, a, 0},
		{"as a bearer", wstest.Opening{Bearer: a}, false, a, 0},
		{"as a bearer, in any case and with spaces", wstest.Opening{Fields: []string{"Authorization: bEaReR   " + a}}, false, a, 0},
		{"as a bearer, behind a tab", wstest.Opening{Fields: []string{"Authorization: Bearer\t" + a}}, false, a, 0},
		{"as a bearer, behind tabs and spaces", wstest.Opening{Fields: []string{"Authorization: Bearer \t " + a}}, false, a, 0},
		{"as a bearer, with subprotocols", wstest.Opening{Bearer: a, Subprotocols: []string{"app.v1"}}, false, a, 0},
		{"as a bearer, with a cookie", wstest.Opening{Bearer: a, Fields: []string{"Cookie: x=y"}}, false, a, 0},
		{"in the query", wstest.Opening{Target: "/?token=" + a}, true, a, 0},
		{"in the query, among others", wstest.Opening{Target: "/?x=1&token=" + a + "&y"}, true, a, 0},
		{"in the query, its name escaped", wstest.Opening{Target: "/?%74%6Fk%65n=" + a}, true, a, 0},
		{"in the query of a route that takes none, its name escaped", wstest.Opening{Target: "/?t%6fken=" + a}, false, "", pb.Reason_REASON_TOKEN_CARRIER},
		{"in the query, its name alone", wstest.Opening{Target: "/?token"}, true, "", 0}, // and then malformed
		{"in the query of a route that takes none", wstest.Opening{Target: "/?token=" + a}, false, "", pb.Reason_REASON_TOKEN_CARRIER},
		{"in a query parameter whose name only begins so", wstest.Opening{Target: "/?token%20=" + a + "&tokens=" + a + "&toke=" + a + "&%2574oken=" + a}, true, "", pb.Reason_REASON_TOKEN_MISSING},
		{"nowhere", wstest.Opening{}, true, "", pb.Reason_REASON_TOKEN_MISSING},
		{"in a query parameter of another name", wstest.Opening{Target: "/?xtoken=" + a + "&Token=" + a}, true, "", pb.Reason_REASON_TOKEN_MISSING},
		{"in the path", wstest.Opening{Target: "/token=" + a}, true, "", pb.Reason_REASON_TOKEN_MISSING},
		{"in a cookie", wstest.Opening{Fields: []string{"Cookie: token=" + a}}, true, "", pb.Reason_REASON_COOKIE_ONLY},
		{"in another kind of authorization", wstest.Opening{Fields: []string{"Authorization: Basic " + a}}, true, "", pb.Reason_REASON_TOKEN_MISSING},
		{"in another field", wstest.Opening{Fields: []string{"X-Token: " + a}}, true, "", pb.Reason_REASON_TOKEN_MISSING},
		{"a bearer of nothing", wstest.Opening{Fields: []string{"Authorization: Bearer "}}, true, "", pb.Reason_REASON_TOKEN_MISSING},
		{"in an authorization whose name only begins so", wstest.Opening{Fields: []string{"Authorization: Bearer_ " + a}}, true, "", pb.Reason_REASON_TOKEN_MISSING},
		{"a subprotocol of nothing", wstest.Opening{Subprotocols: []string{"app.v1", sub}}, true, "", 0}, // and then malformed
		{"two in the subprotocols", wstest.Opening{Subprotocols: []string{"app.v1", sub + a, sub + b}}, true, "", pb.Reason_REASON_TOKEN_REPEATED},
		{"two in the query", wstest.Opening{Target: "/?token=" + a + "&token=" + b}, true, "", pb.Reason_REASON_TOKEN_REPEATED},
		{"the same twice in the query", wstest.Opening{Target: "/?token=" + a + "&token=" + a}, true, "", pb.Reason_REASON_TOKEN_REPEATED},
		{"subprotocol and bearer", wstest.Opening{Bearer: a, Subprotocols: []string{"app.v1", sub + b}}, true, "", pb.Reason_REASON_TOKEN_REPEATED},
		{"subprotocol and bearer, the same", wstest.Opening{Bearer: a, Subprotocols: []string{"app.v1", sub + a}}, true, "", pb.Reason_REASON_TOKEN_REPEATED},
		{"subprotocol and query", wstest.Opening{Target: "/?token=" + a, Subprotocols: []string{"app.v1", sub + b}}, true, "", pb.Reason_REASON_TOKEN_REPEATED},
		{"bearer and query", wstest.Opening{Target: "/?token=" + a, Bearer: b}, true, "", pb.Reason_REASON_TOKEN_REPEATED},
		{"bearer and query, where the route takes none there", wstest.Opening{Target: "/?token=" + a, Bearer: b}, false, "", pb.Reason_REASON_TOKEN_REPEATED},
		{"all three", wstest.Opening{Target: "/?token=" + a, Bearer: a, Subprotocols: []string{"app.v1", sub + a}}, true, "", pb.Reason_REASON_TOKEN_REPEATED},
		{"bearer and an empty one in the query", wstest.Opening{Target: "/?token=", Bearer: a}, true, "", pb.Reason_REASON_TOKEN_REPEATED},
		{"subprotocol and a bearer behind a tab", wstest.Opening{Subprotocols: []string{"app.v1", sub + a}, Fields: []string{"Authorization: Bearer\t" + b}}, true, "", pb.Reason_REASON_TOKEN_REPEATED},
		{"subprotocol and a bearer of nothing", wstest.Opening{Subprotocols: []string{"app.v1", sub + a}, Fields: []string{"Authorization: Bearer"}}, true, "", pb.Reason_REASON_TOKEN_REPEATED},
		{"subprotocol and another kind of authorization", wstest.Opening{Subprotocols: []string{"app.v1", sub + a}, Fields: []string{"Authorization: Basic eA=="}}, true, "", pb.Reason_REASON_TOKEN_REPEATED},
		{"subprotocol and an empty authorization", wstest.Opening{Subprotocols: []string{"app.v1", sub + a}, Fields: []string{"Authorization:"}}, true, "", pb.Reason_REASON_TOKEN_REPEATED},
		{"query and another kind of authorization", wstest.Opening{Target: "/?token=" + a, Fields: []string{"Authorization: Basic eA=="}}, true, "", pb.Reason_REASON_TOKEN_REPEATED},
		{"bearer and query, its name escaped", wstest.Opening{Target: "/?%74oken=" + a, Bearer: b}, true, "", pb.Reason_REASON_TOKEN_REPEATED},
		{"two in the query, a name escaped", wstest.Opening{Target: "/?token=" + a + "&toke%6e=" + b}, true, "", pb.Reason_REASON_TOKEN_REPEATED},
		{"bearer and a query parameter of nothing", wstest.Opening{Target: "/?token", Bearer: b}, true, "", pb.Reason_REASON_TOKEN_REPEATED},
		{"in the subprotocols alone", wstest.Opening{Subprotocols: []string{sub + a}}, true, "", pb.Reason_REASON_SUBPROTOCOL},
		{"as a bearer, with subprotocols nobody knows", wstest.Opening{Bearer: a, Subprotocols: []string{"app.v9"}}, true, "", pb.Reason_REASON_SUBPROTOCOL},
		{"with a tunnel", wstest.Opening{Subprotocols: []string{"app.v1", "chisel-v3", sub + a}}, true, "", pb.Reason_REASON_TUNNEL},
	} {
		r := &route{Route: Route{QueryToken: c.query, Subprotocols: []string{"app.v1"}}}
		wireRequest(c.o.Bytes()).must(t, func(req *wsconn.Request) {
			text, inURL, reason := r.carriers(req, r.choose(req))
			if string(text) != c.text || reason != c.reason {
				t.Errorf("%s: %q, %v, want %q, %v", c.rule, text, reason, c.text, c.reason)
			}
			if want := strings.Contains(c.o.Target, "?") && reason == 0; inURL != want {
				t.Errorf("%s: in the URL: %t, want %t", c.rule, inURL, want)
			}
		})
	}
}

// To look for the token allocates nothing, wherever it is or hides.
func TestCarriersAllocs(t *testing.T) {
	r := &route{Route: Route{QueryToken: true, Subprotocols: []string{"app.v1"}}}
	for _, o := range []wstest.Opening{
		{Subprotocols: []string{"app.v1", "gatehouse.token.gh1_a"}},
		{Bearer: "gh1_a"},
		{Target: "/?x=1&%74%6fk%65n=gh1_a"},
		{Target: "/?" + strings.Repeat("%74oken&", 20), Fields: []string{"Authorization: Bearer\tgh1_a"}},
	} {
		wireRequest(o.Bytes()).must(t, func(req *wsconn.Request) {
			chosen := r.choose(req)
			if got := testing.AllocsPerRun(100, func() { r.carriers(req, chosen) }); got != 0 {
				t.Errorf("%+v: %v allocations, want 0", o, got)
			}
		})
	}
}

// The subprotocol that is answered is the route's best one that was offered,
// and never a token.
func TestSubprotocols(t *testing.T) {
	for _, c := range []struct {
		rule    string
		offered []string
		want    string
	}{
		{"the only one", []string{"app.v1"}, "app.v1"},
		{"the route's order rules", []string{"app.v1", "app.v2"}, "app.v2"},
		{"ours where the application's is not offered", []string{"other", "gatehouse.v1"}, "gatehouse.v1"},
		{"the application's before ours", []string{"gatehouse.v1", "app.v1"}, "app.v1"},
		{"names are told apart by case", []string{"App.v1", "gatehouse.v1"}, "gatehouse.v1"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			inLab(t, nil, func(l *lab) {
				tok := l.token()
				p := l.dial()
				resp := p.Open(wstest.Opening{Target: echoPath, Subprotocols: append(c.offered, "gatehouse.token."+tok)})
				if got := resp.Header["Sec-Websocket-Protocol"]; len(got) != 1 || got[0] != c.want {
					t.Errorf("answered %q, want %q alone", got, c.want)
				}
				if strings.Contains(fmt.Sprint(resp.Header), tok) {
					t.Error("the token is echoed")
				}
			})
		})
	}
	inLab(t, nil, func(l *lab) {
		r := l.dial().Open(wstest.Opening{Target: echoPath, Bearer: l.token()})
		if got, ok := r.Header["Sec-Websocket-Protocol"]; ok {
			t.Errorf("answered %q though none was offered", got)
		}
	})
	// Offered beside a refusal by close, the answer names one too: browsers would
	// not show the close code otherwise.
	inLab(t, nil, func(l *lab) {
		p := l.dial()
		p.Write(wstest.Opening{Target: closingPath, Subprotocols: []string{"app.v1", "gatehouse.token.gh1_x"}}.Bytes())
		resp, _ := p.Response()
		if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Sec-Websocket-Protocol") != "app.v1" {
			t.Errorf("%d %v", resp.StatusCode, resp.Header)
		}
		p.WantClose(4401, "token_inactive")
	})
}

// A permessage-deflate that is offered is not taken.
func TestNoExtensions(t *testing.T) {
	inLab(t, nil, func(l *lab) {
		p := l.dial()
		resp := p.Open(wstest.Opening{Target: echoPath, Bearer: l.token(), Fields: []string{"Sec-WebSocket-Extensions: permessage-deflate"}})
		if got := resp.Header.Get("Sec-Websocket-Extensions"); got != "" {
			t.Errorf("negotiated %q", got)
		}
		p.Write(raw(0xc1, "x")) // compressed, it says
		p.WantClose(1002, "protocol error")
	})
}

func TestRouteConfig(t *testing.T) {
	for _, c := range []struct {
		rule string
		edit func(r *Route)
		want string // in the error; empty for none
	}{
		{"an unchecked route", func(*Route) {}, ""},
		{"binary, unchecked", func(r *Route) { r.Binary = true }, ""},
		{"origins", func(r *Route) {
			r.Origins = []string{"https://a.example", "http://localhost:8080", "https://[::1]:8443", "https://xn--bcher-kva.example"}
		}, ""},
		{"no path", func(r *Route) { r.Path = "" }, "r.path"},
		{"a path with a query", func(r *Route) { r.Path = "/x?y" }, "r.path"},
		{"a path too long", func(r *Route) { r.Path = "/" + strings.Repeat("x", 1024) }, "r.path"},
		{"no audience", func(r *Route) { r.Audience = "" }, "r.audience"},
		{"an audience too long", func(r *Route) { r.Audience = strings.Repeat("x", 129) }, "r.audience"},
		{"an origin with a path", func(r *Route) { r.Origins = []string{"https://a.example/"} }, "r.origins[0]"},
		{"an origin without scheme", func(r *Route) { r.Origins = []string{"a.example"} }, "r.origins[0]"},
		{"null as an origin", func(r *Route) { r.Origins = []string{"null"} }, "r.origins[0]"},
		{"a wildcard", func(r *Route) { r.Origins = []string{"https://a.example", "https://*.example"} }, "r.origins[1]"},
		{"an origin in upper case", func(r *Route) { r.Origins = []string{"https://A.example"} }, "r.origins[0]"},
		{"an origin with a trailing dot", func(r *Route) { r.Origins = []string{"https://a.example."} }, "r.origins[0]"},
		{"an origin with userinfo", func(r *Route) { r.Origins = []string{"https://u@a.example"} }, "r.origins[0]"},
		{"an origin with the default port", func(r *Route) { r.Origins = []string{"https://a.example:443"} }, "leave out the port"},
		{"an origin with an empty port", func(r *Route) { r.Origins = []string{"https://a.example:"} }, "r.origins[0]"},
		{"an origin with a port no browser sends", func(r *Route) { r.Origins = []string{"https://a.example:08443"} }, "port"},
		{"an origin with a port there is not", func(r *Route) { r.Origins = []string{"https://a.example:70000"} }, "port"},
		{"an origin in letters", func(r *Route) { r.Origins = []string{"https://bücher.example"} }, "ASCII"},
		{"no rule for a missing origin", func(r *Route) { r.MissingOrigin = "" }, "r.missing_origin"},
		{"a subprotocol that is no token", func(r *Route) { r.Subprotocols = []string{"a b"} }, "r.subprotocols[0]"},
		{"an empty subprotocol", func(r *Route) { r.Subprotocols = []string{""} }, "r.subprotocols[0]"},
		{"a subprotocol that carries tokens", func(r *Route) { r.Subprotocols = []string{"ok", "gatehouse.token.x"} }, "r.subprotocols[1]"},
		{"a policy for tunnels that there is not", func(r *Route) { r.Tunnels = "drop" }, "r.tunnels"},
		{"a tunnel's subprotocol", func(r *Route) { r.Subprotocols = []string{"ssh"} }, "r.subprotocols[0]"},
		{"neither schema nor unchecked", func(r *Route) { r.Unchecked = false }, "r.messages.types: required"},
		{"both", func(r *Route) { r.Messages.Types = []schema.Type{{Name: "x", Schema: "x.json"}} }, "r.unchecked"},
		{"binary on a checked route", func(r *Route) {
			r.Unchecked, r.Binary, r.Messages.Types = false, true, []schema.Type{{Name: "x", Schema: "x.json"}}
		}, "r.binary"},
		{"a problem of the messages", func(r *Route) {
			r.Unchecked, r.Messages.Types = false, []schema.Type{{Name: "", Schema: "x.json"}}
		}, "r.messages.types[0]"},
	} {
		r := Route{Path: "/x", Audience: "a"}
		r.SetDefaults()
		r.Unchecked = true
		c.edit(&r)
		if err := r.validate("r"); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.rule, err, c.want)
		}
	}
}

func TestNodeConfig(t *testing.T) {
	for _, c := range []struct {
		rule string
		edit func(c *Config)
		want string
	}{
		{"the tests' own", func(*Config) {}, ""},
		{"no authority", func(c *Config) { c.Authority.Address = "" }, "authority.address"},
		{"no route", func(c *Config) { c.Routes = nil }, "routes: required"},
		{"a path twice", func(c *Config) { c.Routes[1].Path = c.Routes[0].Path }, "routes[1].path"},
		{"a limit", func(c *Config) { c.Limits.Sockets.Max = 0 }, "limits.sockets.max"},
		{"a timeout without unit", func(c *Config) { c.Sockets.HandshakeTimeout = 10 }, "sockets.handshake_timeout"},
		{"a ping interval", func(c *Config) { c.Sockets.PingInterval = 0 }, "sockets.ping_interval"},
		{"loops below zero", func(c *Config) { c.Sockets.Loops = -1 }, "sockets.loops"},
		{"no TLS handshake", func(c *Config) { c.Sockets.TLSHandshakes = 0 }, "sockets.tls_handshakes"},
		{"more TLS handshakes than make sense", func(c *Config) { c.Sockets.TLSHandshakes = 65537 }, "sockets.tls_handshakes"},
		{"more loops than make sense", func(c *Config) { c.Sockets.Loops = 65 }, "sockets.loops"},
		{"room of a loop for less than a socket's", func(c *Config) { c.Sockets.LoopBytes = 1 << 19 }, "sockets.loop_bytes"},
		{"room of a loop without bound", func(c *Config) { c.Sockets.LoopBytes = 1<<30 + 1 }, "sockets.loop_bytes"},
		{"a driver that there is not", func(c *Config) { c.Sockets.Driver = "epoll" }, "sockets.driver"},
		{"room for less than a message", func(c *Config) { c.Sockets.OutboundBytes = 100 }, "sockets.outbound_bytes"},
	} {
		cfg := testConfig()
		c.edit(&cfg)
		if err := cfg.Validate(); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.rule, err, c.want)
		}
	}
}

// FuzzCarriers counts the tokens of a request by other means: whenever one is
// taken it is the only one, whole, and out of its carrier.
func FuzzCarriers(f *testing.F) {
	f.Add("app.v1, gatehouse.token.gh1_a", "", "", true)
	f.Add("", "Bearer gh1_a", "", false)
	f.Add("app.v1", "bearer  gh1_a", "token=gh1_b", true)
	f.Add("gatehouse.token.", "Bearer", "token=&token", true)
	f.Add("gatehouse.token.a,app.v1,gatehouse.token.b", "Bearer ", "&&token=x&", true)
	f.Add(",,app.v1,", "Basic x", "token==&token%3dx", false)
	f.Add("app.v1, gatehouse.token.gh1_a", "Bearer\tgh1_b", "", false)
	f.Add("app.v1, gatehouse.token.gh1_a", "Basic x", "", true)
	f.Add("", "Bearer gh1_a", "%74oken=gh1_b", true)
	f.Add("", "", "t%6fk%65n=gh1_b&%zz=&%7", true)
	f.Fuzz(func(t *testing.T, subprotocols, authorization, query string, takesQuery bool) {
		if strings.ContainsAny(subprotocols+authorization+query, "\r\n") || strings.Contains(query, " ") {
			t.Skip("more than one field each")
		}
		head := "GET /?" + query + " HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
			"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
		if subprotocols != "" {
			head += "Sec-WebSocket-Protocol: " + subprotocols + "\r\n"
		}
		if authorization != "" {
			head += "Authorization: " + authorization + "\r\n"
		}
		r := &route{Route: Route{QueryToken: takesQuery, Subprotocols: []string{"app.v1"}}}
		wireRequest(head + "\r\n").parsed(func(req *wsconn.Request) {
			chosen := r.choose(req)
			text, _, reason := r.carriers(req, chosen)
			var tokens []string
			for _, p := range strings.Split(subprotocols, ",") {
				if p = strings.Trim(p, " \t"); strings.HasPrefix(p, tokenPrefix) {
					tokens = append(tokens, p[len(tokenPrefix):])
				}
			}
			if authorization != "" { // whatever it is
				bearer := regexp.MustCompile(`(?is)^bearer[ \t]+(.+)$`).FindStringSubmatch(strings.Trim(authorization, " \t"))
				if bearer == nil {
					bearer = []string{"", "no token, but a carrier"}
				}
				tokens = append(tokens, bearer[1])
			}
			before, _, _ := strings.Cut(query, "#") // no fragment is a target's
			inQuery := 0
			for _, p := range strings.Split(before, "&") {
				name, value, _ := strings.Cut(p, "=")
				if plain, err := url.QueryUnescape(name); err == nil && plain == "token" {
					tokens = append(tokens, value)
					inQuery++
				}
			}
			if reason != 0 {
				if text != nil {
					t.Fatalf("%v, and yet %q", reason, text)
				}
				return
			}
			if len(tokens) != 1 || tokens[0] != string(text) || inQuery > 0 && !takesQuery {
				t.Fatalf("took %q of %q", text, tokens)
			}
			if strings.HasPrefix(chosen, tokenPrefix) || !bytes.Contains([]byte(head), text) {
				t.Fatalf("chose %q", chosen)
			}
		})
	})
}
