package wsnode

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-ws/gatehouse/wsnode/clientaddr"
	"github.com/gatehouse-ws/gatehouse/wsnode/limit"
	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

// trust is an edit that trusts a proxy.
func trust(proxy string, mode clientaddr.Mode) func(*Config, *wstest.Authority) {
	return func(c *Config, _ *wstest.Authority) {
		c.TrustedProxies = append(c.TrustedProxies, clientaddr.Trusted{Networks: []string{proxy}, Mode: mode})
	}
}

// Proxies of these tests.
const (
	proxy     = "10.1.0.1" // PROXY headers
	xff       = "10.2.0.1"
	forwarded = "10.3.0.1"
	stranger  = "203.0.113.66"
)

func trustAll(c *Config, a *wstest.Authority) {
	trust(proxy, clientaddr.Proxy)(c, a)
	trust(xff, clientaddr.XFF)(c, a)
	trust(forwarded, clientaddr.Forwarded)(c, a)
}

const headerOf7 = "PROXY TCP4 192.0.2.7 192.0.2.8 40000 443\r\n"

// The address that a trusted proxy names is the client's for the authority, and
// with it for bindings and the audit, for the application and for the log.
func TestProxiedClientAddress(t *testing.T) {
	for _, c := range []struct {
		rule, from, before, field, want string
	}{
		{"PROXY", proxy, headerOf7, "", "192.0.2.7"},
		{"PROXY before whatever fields the client made up", proxy, headerOf7, "X-Forwarded-For: 203.0.113.9", "192.0.2.7"},
		{"PROXY with mapped IPv4", proxy, "PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n", "", "192.0.2.7"},
		{"PROXY LOCAL: the proxy itself", proxy, "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00", "", proxy},
		{"X-Forwarded-For", xff, "", "X-Forwarded-For: 203.0.113.9, 192.0.2.7", "192.0.2.7"},
		{"X-Forwarded-For beside Forwarded, which the proxy passes on", xff, "", "X-Forwarded-For: 192.0.2.7\r\nForwarded: for=203.0.113.9", "192.0.2.7"},
		{"Forwarded", forwarded, "", `Forwarded: for="[2001:db8::7]:1"`, "2001:db8::7"},
		{"a proxy that is mapped", "::ffff:" + xff, "", "X-Forwarded-For: 192.0.2.7", "192.0.2.7"},
		{"a stranger's fields are not believed", stranger, "", "X-Forwarded-For: 192.0.2.7\r\nForwarded: for=192.0.2.7", stranger},
	} {
		t.Run(c.rule, func(t *testing.T) {
			inLab(t, trustAll, func(l *lab) {
				o := wstest.Opening{Target: echoPath, Bearer: l.token()}
				if c.field != "" {
					o.Fields = strings.Split(c.field, "\r\n")
				}
				p := l.dialFrom(c.from)
				if c.before != "" {
					p.Write([]byte(c.before))
				}
				p.Open(o)
				exchange(p, "hello")
				want := netip.MustParseAddr(c.want)
				if got, _ := netip.AddrFromSlice(l.a.Seen().Redeems[0].GetObserved().GetIp()); got != want {
					t.Errorf("the authority is told %v, want %v", got, want)
				}
				if got := l.calls.newest().Identity().ClientAddr; got != want {
					t.Errorf("the application is told %v, want %v", got, want)
				}
				if line := l.logs.lines(t, "session opened")[0]; line["client_ip"] != c.want {
					t.Errorf("logged %v, want client_ip %s", line, c.want)
				}
			})
		})
	}
}

// A PROXY header is no business of who is not trusted with one: it is no HTTP.
func TestStrangersPROXY(t *testing.T) {
	inLab(t, trustAll, func(l *lab) {
		p := l.dialFrom(stranger)
		p.Write([]byte(headerOf7))
		if resp, _ := p.Response(); resp.StatusCode != 400 {
			t.Errorf("status %d, want 400", resp.StatusCode)
		}
		if line := l.logs.lines(t, "handshake refused")[0]; line["client_ip"] != stranger || line["reason"] != "handshake_malformed" {
			t.Errorf("logged %v, want client_ip %s", line, stranger)
		}
	})
}

// A PROXY header that is not there, malformed, half or slow ends the connection
// without a word, within the time of a handshake, before TLS as without it, and is
// counted.
func TestPROXYRefused(t *testing.T) {
	server, _ := wstest.TLS(t)
	for _, c := range []struct {
		rule, send   string
		ends         bool // the proxy ends its side
		slow         bool // it takes the time of a handshake for one half, and again for the other
		reason, says string
	}{
		{rule: "none", send: "GET / HTTP/1.1\r\n\r\n", reason: "client_address_missing", says: "no PROXY header"},
		{rule: "TLS at once", send: "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", reason: "client_address_missing", says: "no PROXY header"},
		{rule: "UNKNOWN", send: "PROXY UNKNOWN\r\n", reason: "client_address_missing", says: "the PROXY header has no address: its connection is not TCP's, or the proxy does not know"},
		{rule: "malformed", send: "PROXY TCP4 a b c d\r\n", reason: "client_address_malformed", says: "malformed PROXY header"},
		{rule: "too long", send: "PROXY " + strings.Repeat("x", 101), reason: "client_address_malformed", says: "PROXY header too long"},
		{rule: "half", send: "PROXY TCP4 192.0.2.7", ends: true, reason: "client_address_malformed", says: "PROXY header not finished"},
		{rule: "slow", send: "PROXY TCP4 192.0.2.7", reason: "handshake_timeout", says: "request head did not arrive in time"},
		{rule: "slower by the byte", send: headerOf7, slow: true, reason: "handshake_timeout", says: "request head did not arrive in time"},
	} {
		for over, config := range map[string]*tls.Config{"": nil, ", before TLS": server} {
			t.Run(c.rule+over, func(t *testing.T) {
				inLab(t, trustAll, func(l *lab) {
					conn := l.dialOver(config)
					began := time.Now()
					for i := range len(c.send) {
						if c.slow {
							time.Sleep(time.Second)
						}
						if _, err := conn.Write([]byte(c.send[i : i+1])); err != nil {
							break // it is refused already
						}
					}
					if c.ends {
						_ = conn.Close()
					} else {
						_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
						if n, err := conn.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
							t.Errorf("%d bytes and %v, want the end", n, err)
						}
						if took := time.Since(began); took > l.cfg.Sockets.HandshakeTimeout+time.Second {
							t.Errorf("it took %v", took)
						}
					}
					l.settle()
					lines := l.logs.lines(t, "handshake refused")
					if len(lines) != 1 || lines[0]["reason"] != c.reason || lines[0]["error"] != c.says || lines[0]["proxy"] != proxy || lines[0]["client_ip"] != nil {
						t.Errorf("logged %v, want %s: %s", lines, c.reason, c.says)
					}
					if got := l.metric("handshakes_refused_total", c.reason); got != 1 {
						t.Errorf("%v are counted, want 1", got)
					}
					if got := l.metric("tls_handshakes_failed_total", ""); got != 0 {
						t.Errorf("%v TLS handshakes are counted as failed", got)
					}
					if n, want := len(l.logs.lines(t, proxyWarning)), strings.Count(c.reason, "missing"); n != want {
						t.Errorf("%d warnings, want %d", n, want)
					}
				})
			})
		}
	}
}

const proxyWarning = "a trusted proxy does not say who its clients are, so they are refused: set it up as trusted_proxies has it, or mend that"

// dialOver connects as the proxy to a listener with this TLS.
func (l *lab) dialOver(config *tls.Config) net.Conn {
	l.t.Helper()
	at := wstest.Listen()
	served := make(chan error, 1)
	go func() { served <- l.Serve(at, config) }()
	l.t.Cleanup(func() {
		if err := <-served; err != nil {
			l.t.Error(err)
		}
	})
	c, err := at.Dial(netip.MustParseAddr(proxy))
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = c.Close() })
	return c
}

// settle waits until there is no socket.
func (l *lab) settle() {
	l.t.Helper()
	synctest.Wait() // who has dialled is let in
	ctx, cancel := contextFor(time.Minute)
	defer cancel()
	if err := l.driver.Wait(ctx); err != nil {
		l.t.Error(err)
	}
}

// A proxy that only looks whether somebody listens is no fault.
func TestProxyKnocks(t *testing.T) {
	inLab(t, trustAll, func(l *lab) {
		for range 3 {
			_ = l.dialOver(nil).Close()
		}
		l.settle()
		if lines := l.logs.lines(t, "handshake refused"); len(lines) != 0 {
			t.Errorf("logged %v", lines)
		}
	})
}

// TLS begins behind the PROXY header, also in the same packet.
func TestPROXYBeforeTLS(t *testing.T) {
	server, client := wstest.TLS(t)
	now := time.Now() // outside of the bubbles
	client.Time = func() time.Time { return now }
	for _, at := range []int{0, 10, len(headerOf7)} {
		inLab(t, trustAll, func(l *lab) {
			conn := l.dialOver(server)
			if _, err := io.WriteString(conn, headerOf7[:at]); err != nil {
				t.Fatal(err)
			}
			p := wstest.NewPeer(l.t, tls.Client(&headed{conn, headerOf7[at:]}, client))
			p.Open(wstest.Opening{Target: echoPath, Bearer: l.token()})
			exchange(p, "hello")
			if got := l.calls.newest().Identity().ClientAddr.String(); got != "192.0.2.7" {
				t.Errorf("the client is %s", got)
			}
		})
	}
}

// headed writes something before what is written first, in one piece.
type headed struct {
	net.Conn
	header string
}

func (h *headed) Write(b []byte) (int, error) {
	n := len(b)
	b = append([]byte(h.header), b...)
	h.header = ""
	if _, err := h.Conn.Write(b); err != nil {
		return 0, err
	}
	return n, nil
}

// Clients behind one proxy have limits of their own, and the proxy has none but
// the node's.
func TestProxiedLimits(t *testing.T) {
	few := func(edit func(c *limit.Config)) func(*Config, *wstest.Authority) {
		return func(c *Config, a *wstest.Authority) {
			trustAll(c, a)
			edit(&c.Limits)
		}
	}
	offer := func(l *lab, client string) *wstest.Peer {
		p := l.dialFrom(proxy)
		p.Write([]byte("PROXY TCP4 " + client + " 192.0.2.8 40000 443\r\n"))
		synctest.Wait() // it has its place
		return p
	}
	refusedWith := func(l *lab, p *wstest.Peer, status int) {
		l.t.Helper()
		p.Write(wstest.Opening{Target: echoPath, Bearer: l.token()}.Bytes())
		if resp, body := p.Response(); resp.StatusCode != status {
			l.t.Errorf("status %d %s, want %d", resp.StatusCode, body, status)
		}
	}
	t.Run("unauthenticated, rejected", func(t *testing.T) {
		inLab(t, few(func(c *limit.Config) { c.UnauthenticatedPerAddress.Max = 1 }), func(l *lab) {
			waiting := offer(l, "192.0.2.7")
			refusedWith(l, offer(l, "192.0.2.7"), 429)
			offer(l, "192.0.2.9").Open(wstest.Opening{Target: echoPath, Bearer: l.token()})
			waiting.Open(wstest.Opening{Target: echoPath, Bearer: l.token()})
			if got := l.metric("connections_refused_total", "unauthenticated_per_address"); got != 1 {
				t.Errorf("%v are counted, want 1", got)
			}
			line := l.logs.lines(t, "handshake refused")[0]
			if line["client_ip"] != "192.0.2.7" || line["proxy"] != proxy || line["reason"] != "address_unauthenticated_limit" {
				t.Errorf("logged %v", line)
			}
		})
	})
	t.Run("new ones, dropped", func(t *testing.T) {
		inLab(t, few(func(c *limit.Config) { c.NewPerAddress.Max, c.NewPerAddress.Action = 1, limit.Drop }), func(l *lab) {
			offer(l, "192.0.2.7").Open(wstest.Opening{Target: echoPath, Bearer: l.token()})
			offer(l, "192.0.2.7").WantEnd()
			offer(l, "192.0.2.9").Open(wstest.Opening{Target: echoPath, Bearer: l.token()})
		})
	})
	t.Run("new ones by their field, dropped and rejected", func(t *testing.T) {
		for action, ends := range map[limit.Action]func(p *wstest.Peer){
			limit.Drop: (*wstest.Peer).WantEnd,
			limit.Reject: func(p *wstest.Peer) {
				if resp, _ := p.Response(); resp.StatusCode != 429 || resp.Header.Get("Retry-After") != "10" {
					t.Errorf("status %d, Retry-After %s, want 429 and 10", resp.StatusCode, resp.Header.Get("Retry-After"))
				}
			},
		} {
			inLab(t, few(func(c *limit.Config) { c.NewPerAddress.Max, c.NewPerAddress.Action = 1, action }), func(l *lab) {
				o := wstest.Opening{Target: echoPath, Bearer: l.token(), Fields: []string{"X-Forwarded-For: 192.0.2.7"}}
				l.dialFrom(xff).Open(o)
				p := l.dialFrom(xff)
				p.Write(o.Bytes())
				ends(p)
				o.Bearer, o.Fields = l.token(), []string{"X-Forwarded-For: 192.0.2.7, 192.0.2.9"}
				l.dialFrom(xff).Open(o)
			})
		}
	})
	t.Run("who is told so keeps nobody out", func(t *testing.T) {
		inLab(t, few(func(c *limit.Config) { c.UnauthenticatedPerAddress.Max, c.Unauthenticated.Max = 1, 3 }), func(l *lab) {
			offer(l, "192.0.2.7")
			var told []*wstest.Peer
			for range 5 { // more than the node may have unauthenticated
				told = append(told, offer(l, "192.0.2.7"))
			}
			offer(l, "192.0.2.9").Open(wstest.Opening{Target: echoPath, Bearer: l.token()})
			for _, p := range told {
				refusedWith(l, p, 429)
			}
		})
	})
	t.Run("a full node", func(t *testing.T) {
		inLab(t, few(func(c *limit.Config) { c.Unauthenticated.Max = 2 }), func(l *lab) {
			l.dialFrom(proxy)
			l.dialFrom(xff)
			refusedWith(l, offer(l, "192.0.2.7"), 503)
		})
	})
}

// One line a minute tells of a proxy that is not set up, not one for each client.
func TestProxyWarning(t *testing.T) {
	inLab(t, trustAll, func(l *lab) {
		ask := func() {
			p := l.dialFrom(xff)
			p.Write(wstest.Opening{Target: echoPath, Bearer: l.token()}.Bytes())
			if resp, _ := p.Response(); resp.StatusCode != 503 {
				t.Errorf("status %d, want 503", resp.StatusCode)
			}
		}
		for range 3 {
			ask()
		}
		lines := l.logs.lines(t, proxyWarning)
		if len(lines) != 1 || lines[0]["proxy"] != xff || lines[0]["level"] != "WARN" || lines[0]["error"] != "no header field that names a client" {
			t.Errorf("logged %v, want one line about %s", lines, xff)
		}
		time.Sleep(seldomEvery)
		ask()
		if n := len(l.logs.lines(t, proxyWarning)); n != 2 {
			t.Errorf("%d lines a minute later, want 2", n)
		}
	})
}
