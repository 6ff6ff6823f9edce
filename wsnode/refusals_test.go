package wsnode

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/wsnode/clientaddr"
	"github.com/gatehouse-ws/gatehouse/wsnode/limit"
	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

// refused is one row: how to be refused, and what the peer and the log are told.
type refused struct {
	rule   string
	reason pb.Reason
	label  string // in the log
	edit   func(c *Config, a *wstest.Authority)
	// offer makes the request; drive, where it is not just sent, sends it. target
	// is the route's path.
	offer func(l *lab, target string) wstest.Opening
	drive func(l *lab, o wstest.Opening) *wstest.Peer

	status    int
	public    string
	challenge string
	retry     string // Retry-After
	fields    map[string]string
	code      ws.StatusCode // by close; 0 where no route is known by then
	proxied   bool          // the log has the proxy, since the client is not known
}

const (
	invalidToken = `Bearer realm="gatehouse", error="invalid_token"`
	noToken      = `Bearer realm="gatehouse"`
)

// with is a request with a token that the authority issued.
func with(edit func(o *wstest.Opening)) func(*lab, string) wstest.Opening {
	return func(l *lab, target string) wstest.Opening {
		o := wstest.Opening{Target: target, Bearer: l.token()}
		if edit != nil {
			edit(&o)
		}
		return o
	}
}

// local are the refusals that the node decides alone.
var local = []refused{
	{rule: "a head that is no WebSocket's", reason: pb.Reason_REASON_HANDSHAKE_MALFORMED, label: "handshake_malformed",
		offer:  with(func(o *wstest.Opening) { o.Without = []string{"Upgrade"} }),
		status: 400, public: "handshake_malformed"},
	{rule: "a body", reason: pb.Reason_REASON_HANDSHAKE_MALFORMED, label: "handshake_malformed",
		offer:  with(func(o *wstest.Opening) { o.Fields = []string{"Content-Length: 1"} }),
		status: 400, public: "handshake_malformed"},
	{rule: "two Origins", reason: pb.Reason_REASON_HANDSHAKE_MALFORMED, label: "handshake_malformed",
		offer: with(func(o *wstest.Opening) {
			o.Origin, o.Fields = appOrigin, []string{"Origin: https://evil.example"}
		}),
		status: 400, public: "handshake_malformed"},
	{rule: "two Authorizations", reason: pb.Reason_REASON_HANDSHAKE_MALFORMED, label: "handshake_malformed",
		offer:  with(func(o *wstest.Opening) { o.Fields = []string{"Authorization: Basic eA=="} }),
		status: 400, public: "handshake_malformed"},
	{rule: "another method", reason: pb.Reason_REASON_HANDSHAKE_METHOD, label: "handshake_method",
		offer:  with(func(o *wstest.Opening) { o.Method = "POST" }),
		status: 405, public: "method_not_allowed", fields: map[string]string{"Allow": "GET"}},
	{rule: "another WebSocket version", reason: pb.Reason_REASON_HANDSHAKE_VERSION, label: "handshake_version",
		offer: with(func(o *wstest.Opening) {
			o.Without, o.Fields = []string{"Sec-WebSocket-Version"}, []string{"sec-websocket-version: 8"}
		}),
		status: 426, public: "version_not_supported", fields: map[string]string{"Sec-Websocket-Version": "13", "Upgrade": "websocket"}},
	{rule: "a head that never ends", reason: pb.Reason_REASON_HANDSHAKE_TIMEOUT, label: "handshake_timeout",
		offer: with(nil),
		drive: func(l *lab, o wstest.Opening) *wstest.Peer {
			p := l.dial()
			b := o.Bytes()
			p.Write(b[:len(b)-2])
			time.Sleep(10 * time.Second) // handshake_timeout
			return p
		},
		status: 408, public: "request_timeout", retry: "2"},
	{rule: "a head too large", reason: pb.Reason_REASON_HANDSHAKE_TOO_LARGE, label: "handshake_too_large",
		offer: with(func(o *wstest.Opening) { o.Fields = []string{"X: " + strings.Repeat("x", 20_000)} }),
		drive: func(l *lab, o wstest.Opening) *wstest.Peer {
			p := l.dial()
			go func() { _, _ = p.Conn.Write(o.Bytes()) }() // it is not read to its end
			return p
		},
		status: 431, public: "request_too_large"},
	{rule: "a route that is not there", reason: pb.Reason_REASON_ROUTE_UNKNOWN, label: "route_unknown",
		offer: with(func(o *wstest.Opening) { o.Target = "/nowhere" }), status: 404, public: "no_such_route"},
	{rule: "a route's path with a slash more", reason: pb.Reason_REASON_ROUTE_UNKNOWN, label: "route_unknown",
		offer: with(func(o *wstest.Opening) { o.Target += "/" }), status: 404, public: "no_such_route"},
	{rule: "a token offered alone: browsers would fail", reason: pb.Reason_REASON_SUBPROTOCOL, label: "subprotocol",
		offer: with(func(o *wstest.Opening) {
			o.Subprotocols, o.Bearer = []string{"gatehouse.token." + o.Bearer}, ""
		}),
		status: 400, public: "subprotocol_missing", code: 4500},
	{rule: "subprotocols that the route does not know", reason: pb.Reason_REASON_SUBPROTOCOL, label: "subprotocol",
		offer:  with(func(o *wstest.Opening) { o.Subprotocols = []string{"app.v3"} }),
		status: 400, public: "subprotocol_missing", code: 4500},
	{rule: "a tunnel's subprotocol", reason: pb.Reason_REASON_TUNNEL, label: "tunnel",
		offer:  with(func(o *wstest.Opening) { o.Subprotocols = []string{"app.v1", "SSH"} }),
		status: 403, public: "forbidden", code: 4504},
	{rule: "an Origin that the route does not know", reason: pb.Reason_REASON_ORIGIN_REFUSED, label: "origin_refused",
		offer:  with(func(o *wstest.Opening) { o.Origin = "https://evil.example" }),
		status: 403, public: "origin_not_allowed", code: 4504},
	{rule: "no Origin where the route wants one", reason: pb.Reason_REASON_ORIGIN_MISSING, label: "origin_missing",
		edit: func(c *Config, _ *wstest.Authority) {
			for i := range c.Routes {
				c.Routes[i].MissingOrigin = RefuseMissing
			}
		},
		offer: with(nil), status: 403, public: "origin_not_allowed", code: 4504},
	{rule: "a trusted proxy that does not name the client", reason: pb.Reason_REASON_CLIENT_ADDRESS_MISSING, label: "client_address_missing",
		edit: trust("192.0.2.1", clientaddr.XFF), offer: with(nil), proxied: true,
		status: 503, public: "unavailable", retry: "2", code: 1013},
	{rule: "one that says what is no address", reason: pb.Reason_REASON_CLIENT_ADDRESS_MALFORMED, label: "client_address_malformed",
		edit: trust("192.0.2.1", clientaddr.Forwarded), offer: with(func(o *wstest.Opening) { o.Fields = []string{"Forwarded: for=x"} }), proxied: true,
		status: 400, public: "handshake_malformed", code: 4500},
	{rule: "no token", reason: pb.Reason_REASON_TOKEN_MISSING, label: "token_missing",
		offer:  with(func(o *wstest.Opening) { o.Bearer = "" }),
		status: 401, public: "token_missing", challenge: noToken, code: 4401},
	{rule: "another kind of Authorization", reason: pb.Reason_REASON_TOKEN_MISSING, label: "token_missing",
		offer: with(func(o *wstest.Opening) {
			o.Bearer, o.Fields = "", []string{"Authorization: Basic eA==", "Cookie: a=b"}
		}),
		status: 401, public: "token_missing", challenge: noToken, code: 4401},
	{rule: "nothing but a cookie, whatever it holds", reason: pb.Reason_REASON_COOKIE_ONLY, label: "cookie_only",
		offer: with(func(o *wstest.Opening) {
			o.Fields, o.Bearer = []string{"Cookie: token=" + o.Bearer}, ""
		}),
		status: 401, public: "token_missing", challenge: noToken, code: 4401},
	{rule: "two tokens", reason: pb.Reason_REASON_TOKEN_REPEATED, label: "token_repeated",
		offer: with(func(o *wstest.Opening) {
			o.Subprotocols = []string{"app.v1", "gatehouse.token." + o.Bearer}
		}),
		status: 401, public: "token_repeated", challenge: `Bearer realm="gatehouse", error="invalid_request"`, code: 4401},
	{rule: "not a token's text", reason: pb.Reason_REASON_TOKEN_MALFORMED, label: "token_malformed",
		offer:  with(func(o *wstest.Opening) { o.Bearer = o.Bearer[:83] }),
		status: 401, public: "token_inactive", challenge: invalidToken, code: 4401},
	{rule: "an edited token", reason: pb.Reason_REASON_TOKEN_FORGED, label: "token_forged",
		offer:  with(func(o *wstest.Opening) { o.Bearer = edited(o.Bearer) }),
		status: 401, public: "token_inactive", challenge: invalidToken, code: 4401},
	{rule: "an expired token", reason: pb.Reason_REASON_TOKEN_EXPIRED, label: "token_expired",
		offer: with(nil),
		drive: func(l *lab, o wstest.Opening) *wstest.Peer {
			time.Sleep(time.Minute + 1100*time.Millisecond) // its life, and the slack of clocks
			p := l.dial()
			p.Write(o.Bytes())
			return p
		},
		status: 401, public: "token_inactive", challenge: invalidToken, code: 4401},
	{rule: "as many sockets without a token as an address may have", reason: pb.Reason_REASON_ADDRESS_UNAUTHENTICATED_LIMIT, label: "address_unauthenticated_limit",
		edit:  func(c *Config, _ *wstest.Authority) { c.Limits.UnauthenticatedPerAddress.Max = 1 },
		offer: with(nil),
		drive: func(l *lab, o wstest.Opening) *wstest.Peer {
			l.dial()
			synctest.Wait()
			p := l.dial()
			p.Write(o.Bytes())
			return p
		},
		status: 429, public: "too_many_requests", retry: "2", code: 4029},
	{rule: "as many sockets as an address may have", reason: pb.Reason_REASON_ADDRESS_LIMIT, label: "address_limit",
		edit:  func(c *Config, _ *wstest.Authority) { c.Limits.AuthenticatedPerAddress.Max = 1 },
		offer: with(nil),
		drive: func(l *lab, o wstest.Opening) *wstest.Peer {
			l.open(echoPath, wstest.Token{})
			p := l.dial()
			p.Write(o.Bytes())
			return p
		},
		status: 429, public: "too_many_requests", retry: "2", code: 4029},
	{rule: "sockets too fast", reason: pb.Reason_REASON_ADDRESS_RATE, label: "address_rate",
		edit: func(c *Config, _ *wstest.Authority) {
			c.Limits.NewPerAddress = limit.Window{Max: 2, Length: 20 * time.Second, Action: limit.Reject}
		},
		offer: with(nil),
		drive: func(l *lab, o wstest.Opening) *wstest.Peer {
			l.dial()
			l.dial()
			p := l.dial()
			p.Write(o.Bytes())
			return p
		},
		status: 429, public: "too_many_requests", retry: "10", code: 4029},
	{rule: "a malformed request of an address above its limit: the limit was first", reason: pb.Reason_REASON_ADDRESS_RATE, label: "address_rate",
		edit: func(c *Config, _ *wstest.Authority) {
			c.Limits.NewPerAddress = limit.Window{Max: 1, Length: time.Second, Action: limit.Reject}
		},
		offer: with(func(o *wstest.Opening) { o.Without = []string{"Host"} }),
		drive: func(l *lab, o wstest.Opening) *wstest.Peer {
			l.dial()
			p := l.dial()
			p.Write(o.Bytes())
			return p
		},
		status: 429, public: "too_many_requests", retry: "1"},
	{rule: "a node with as many sockets as it may have", reason: pb.Reason_REASON_CAPACITY, label: "capacity",
		edit:  func(c *Config, _ *wstest.Authority) { c.Limits.Sockets.Max = 1 },
		offer: with(nil),
		drive: func(l *lab, o wstest.Opening) *wstest.Peer {
			l.open(echoPath, wstest.Token{})
			p := l.dial()
			p.Write(o.Bytes())
			return p
		},
		status: 503, public: "unavailable", retry: "2", code: 1013},
	{rule: "a node that drains", reason: pb.Reason_REASON_DRAINING, label: "draining",
		offer: with(nil),
		drive: func(l *lab, o wstest.Opening) *wstest.Peer {
			p := l.dial()
			synctest.Wait()
			l.draining.Store(true)
			p.Write(o.Bytes())
			return p
		},
		status: 503, public: "unavailable", retry: "2", code: 1013},
	{rule: "a node without a lease", reason: pb.Reason_REASON_FENCED, label: "fenced",
		edit:  func(_ *Config, a *wstest.Authority) { a.Hold(wstest.Heartbeats, true) },
		offer: with(nil), status: 503, public: "unavailable", retry: "2", code: 1013},
	{rule: "an authority that does not answer", reason: pb.Reason_REASON_AUTHORITY_UNAVAILABLE, label: "authority_unavailable",
		edit:  func(_ *Config, a *wstest.Authority) { a.Hold(wstest.Redemptions, true) },
		offer: with(nil), status: 503, public: "unavailable", retry: "2", code: 1013},
	{rule: "too many who wait for the authority", reason: pb.Reason_REASON_OVERLOADED, label: "overloaded",
		edit: func(c *Config, a *wstest.Authority) {
			c.Authority.MaxPending = 1
			a.Hold(wstest.Redemptions, true)
		},
		offer: with(nil),
		drive: func(l *lab, o wstest.Opening) *wstest.Peer {
			first := l.dial()
			first.Write(wstest.Opening{Target: echoPath, Bearer: l.token()}.Bytes())
			synctest.Wait()
			p := l.dial()
			p.Write(o.Bytes())
			return p
		},
		status: 503, public: "unavailable", retry: "2", code: 1013},
}

// asked are the reasons that the authority refuses with.
var asked = []struct {
	reason    pb.Reason
	label     string
	status    int
	public    string
	challenge string
	retry     string
	code      ws.StatusCode
}{
	{pb.Reason_REASON_TOKEN_EXPIRED, "token_expired", 401, "token_inactive", invalidToken, "", 4401},
	{pb.Reason_REASON_TOKEN_NOT_YET_ACTIVE, "token_not_yet_active", 401, "token_inactive", invalidToken, "", 4401},
	{pb.Reason_REASON_TOKEN_UNKNOWN, "token_unknown", 401, "token_inactive", invalidToken, "", 4401},
	{pb.Reason_REASON_TOKEN_SECRET_WRONG, "token_secret_wrong", 401, "token_inactive", invalidToken, "", 4401},
	{pb.Reason_REASON_TOKEN_USED, "token_used", 401, "token_inactive", invalidToken, "", 4401},
	{pb.Reason_REASON_TOKEN_REVOKED, "token_revoked", 401, "token_inactive", invalidToken, "", 4401},
	{pb.Reason_REASON_LOCKED, "locked", 401, "token_inactive", invalidToken, "", 4401},
	{pb.Reason_REASON_IP_MISMATCH, "ip_mismatch", 401, "token_inactive", invalidToken, "", 4401},
	{pb.Reason_REASON_USER_AGENT_MISMATCH, "user_agent_mismatch", 401, "token_inactive", invalidToken, "", 4401},
	{pb.Reason_REASON_ORIGIN_MISMATCH, "origin_mismatch", 401, "token_inactive", invalidToken, "", 4401},
	{pb.Reason_REASON_CLIENT_CERTIFICATE_MISMATCH, "client_certificate_mismatch", 401, "token_inactive", invalidToken, "", 4401},
	{pb.Reason_REASON_SESSION_ENDED, "session_ended", 401, "token_inactive", invalidToken, "", 4401},
	{pb.Reason_REASON_SESSION_ID_TAKEN, "session_id_taken", 401, "token_inactive", invalidToken, "", 4401},
	{pb.Reason_REASON_AUDIENCE_MISMATCH, "audience_mismatch", 403, "forbidden", "", "", 4504},
	{pb.Reason_REASON_SESSION_LIMIT, "session_limit", 429, "too_many_requests", "", "2", 4029},
	{pb.Reason_REASON_STOPPING, "stopping", 503, "unavailable", "", "2", 1013},
	{pb.Reason_REASON_INTERNAL, "internal", 503, "unavailable", "", "2", 1013},
	{pb.Reason(9999), "unspecified", 503, "unavailable", "", "2", 1013}, // of a newer authority
}

// carrierRow is the one refusal that only a route without query_token has.
var carrierRow = refused{
	rule: "a token in the query of a route that takes none there", reason: pb.Reason_REASON_TOKEN_CARRIER, label: "token_carrier",
	edit: func(c *Config, _ *wstest.Authority) {
		for i := range c.Routes {
			c.Routes[i].QueryToken = false
		}
	},
	offer:  with(func(o *wstest.Opening) { o.Target, o.Bearer = o.Target+"?token="+o.Bearer, "" }),
	status: 401, public: "token_missing", challenge: noToken, code: 4401,
}

func allRefusals() []refused {
	all := append([]refused{carrierRow}, local...)
	for _, a := range asked {
		all = append(all, refused{
			rule: "the authority says " + a.label, reason: a.reason, label: a.label, offer: with(nil),
			edit: func(_ *Config, f *wstest.Authority) {
				f.OnRedeem(func(*pb.RedeemItem) *pb.RedeemResult { return wstest.RefusalOf(a.reason) })
			},
			status: a.status, public: a.public, challenge: a.challenge, retry: a.retry, code: a.code,
		})
	}
	return all
}

func (r *refused) send(l *lab, target string) *wstest.Peer {
	o := r.offer(l, target)
	if r.drive != nil {
		return r.drive(l, o)
	}
	p := l.dial()
	p.Write(o.Bytes())
	return p
}

// wantLog wants one line about the refusal, with its cause.
func (r *refused) wantLog(l *lab, id string, status int) {
	l.t.Helper()
	n := 0
	for _, line := range l.logs.lines(l.t, "handshake refused") {
		if line["handshake_id"] != id {
			continue
		}
		n++
		is, not := "client_ip", "proxy"
		if r.proxied {
			is, not = not, is
		}
		if line["reason"] != r.label || line["status"] != float64(status) || line[is] != "192.0.2.1" || line[not] != nil {
			l.t.Errorf("logged %v, want reason %s and status %d", line, r.label, status)
		}
	}
	if n != 1 {
		l.t.Errorf("%d lines about handshake %q, want 1: %s", n, id, l.logs)
	}
	if got := l.metric("handshakes_refused_total", r.label); got < 1 {
		l.t.Errorf("%v refusals are counted as %s", got, r.label)
	}
}

// Each reason for which a handshake is refused has its answer: status, header
// fields and body for the peer, the exact cause for the log.
func TestRefusalsByHTTP(t *testing.T) {
	for _, r := range allRefusals() {
		t.Run(r.rule, func(t *testing.T) {
			inLab(t, r.edit, func(l *lab) {
				p := r.send(l, echoPath)
				resp, body := p.Response()
				id := resp.Header.Get("Gatehouse-Handshake")
				if len(id) != 32 {
					t.Errorf("handshake id %q", id)
				}
				if resp.StatusCode != r.status || body != r.public+" (handshake "+id+")\n" {
					t.Errorf("%d %q, want %d %s", resp.StatusCode, body, r.status, r.public)
				}
				want := map[string]string{
					"Gatehouse-Handshake": id, "Content-Length": fmt.Sprint(len(body)), "Content-Type": "text/plain; charset=utf-8",
					"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Date": time.Now().UTC().Format(http.TimeFormat),
				}
				for name, value := range r.fields {
					want[name] = value
				}
				if r.challenge != "" {
					want["Www-Authenticate"] = r.challenge
				}
				if r.retry != "" {
					want["Retry-After"] = r.retry
				}
				if !resp.Close {
					t.Error("no Connection: close")
				}
				for name := range resp.Header {
					if want[name] != resp.Header.Get(name) || len(resp.Header[name]) != 1 {
						t.Errorf("%s: %q, want %q", name, resp.Header[name], want[name])
					}
					delete(want, name)
				}
				if len(want) > 0 {
					t.Errorf("missing: %v", want)
				}
				p.WantEnd()
				r.wantLog(l, id, r.status)
			})
		})
	}
}

// A route can have its refusals told by 101 and a close frame at once. What
// comes before there is a route is still told by HTTP.
func TestRefusalsByClose(t *testing.T) {
	for _, r := range allRefusals() {
		t.Run(r.rule, func(t *testing.T) {
			inLab(t, r.edit, func(l *lab) {
				p := r.send(l, closingPath)
				resp, body := p.Response()
				if r.code == 0 {
					if resp.StatusCode != r.status || !strings.HasPrefix(body, r.public) {
						t.Errorf("%d %q, want %d %s", resp.StatusCode, body, r.status, r.public)
					}
					return
				}
				if resp.StatusCode != http.StatusSwitchingProtocols {
					t.Fatalf("%d %q, want 101", resp.StatusCode, body)
				}
				p.WantClose(r.code, r.public)
				lines := l.logs.lines(t, "handshake refused")
				id := lines[len(lines)-1]["handshake_id"].(string)
				if got := resp.Header.Get("Gatehouse-Handshake"); got != id {
					t.Errorf("handshake %q, in the log %s", got, id)
				}
				r.wantLog(l, id, r.status)
				for _, event := range l.calls.seen() {
					if strings.HasPrefix(event, "message") {
						t.Errorf("the handler was told %q", event)
					}
				}
			})
		})
	}
}

// The tables above have each row of refusals, and what a row says fits together.
func TestEveryReasonHasARow(t *testing.T) {
	tested := map[pb.Reason]bool{}
	for _, r := range allRefusals() {
		tested[r.reason] = true
	}
	for reason, row := range refusals {
		if !tested[reason] {
			t.Errorf("%v has a row and no test", reason)
		}
		if row.retry && row.code >= 4500 && row.code <= 4999 {
			t.Errorf("%v may be retried, but its close code says never", reason)
		}
		if (row.status == http.StatusUnauthorized) != (row.challenge != "") {
			t.Errorf("%v: a challenge goes with 401, and only with it", reason)
		}
		if len(row.public) > 123 {
			t.Errorf("%v: %q does not fit a close frame", reason, row.public)
		}
	}
	for reason := range tested {
		if _, ok := refusals[reason]; !ok && reason.Label() != "unspecified" {
			t.Errorf("%v is tested and has no row", reason)
		}
	}
}

// edited is a token in which one letter of the secret is another.
func edited(text string) string {
	b := []byte(text)
	if b[40]++; !strings.Contains("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", string(b[40:41])) {
		b[40] = 'k'
	}
	return string(b)
}

// A node without a lease tells clients to come back when its authority says.
func TestRetryAfterOfAFencedNode(t *testing.T) {
	inLab(t, func(_ *Config, a *wstest.Authority) { a.AdmissionFence, a.RetryAfter = 2*time.Second, 9*time.Second }, func(l *lab) {
		l.a.Hold(wstest.Heartbeats, true)
		time.Sleep(3 * time.Second)
		p := l.dial()
		p.Write(wstest.Opening{Target: echoPath, Bearer: l.token()}.Bytes())
		if resp, _ := p.Response(); resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "9" {
			t.Errorf("status %d, Retry-After %q, want 503 and 9", resp.StatusCode, resp.Header.Get("Retry-After"))
		}
	})
}

// RetryAfter of the authority is passed on, in whole seconds, rounded up.
func TestRetryAfterOfTheAuthority(t *testing.T) {
	inLab(t, func(_ *Config, a *wstest.Authority) {
		a.OnRedeem(func(*pb.RedeemItem) *pb.RedeemResult {
			r := wstest.RefusalOf(pb.Reason_REASON_SESSION_LIMIT)
			r.GetRefusal().RetryAfter = durationpb.New(6100 * time.Millisecond)
			return r
		})
	}, func(l *lab) {
		p := l.dial()
		p.Write(wstest.Opening{Target: echoPath, Bearer: l.token()}.Bytes())
		if resp, _ := p.Response(); resp.Header.Get("Retry-After") != "7" {
			t.Errorf("Retry-After %q, want 7", resp.Header.Get("Retry-After"))
		}
	})
}
