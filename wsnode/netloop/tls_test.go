package netloop

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

// crumbs writes byte by byte, at first.
type crumbs struct {
	net.Conn
	left int // bytes of which each is written alone
}

func (c *crumbs) Write(p []byte) (int, error) {
	for n := range p {
		if c.left == 0 {
			k, err := c.Conn.Write(p[n:])
			return n + k, err
		}
		c.left--
		if _, err := c.Conn.Write(p[n : n+1]); err != nil {
			return n, err
		}
	}
	return len(p), nil
}

// secureWith shakes hands as a client with its own configuration.
func (s *served) secureWith(c net.Conn, edit func(*tls.Config)) *tls.Conn {
	s.t.Helper()
	cfg := s.client.Clone()
	edit(cfg)
	over := tls.Client(c, cfg)
	if err := over.Handshake(); err != nil {
		s.t.Fatal(err)
	}
	return over
}

func TestTLS(t *testing.T) {
	overEachTLS(t, func(t *testing.T, over func(testing.TB, Config) *served) {
		for _, c := range []struct {
			rule string
			edit func(*tls.Config)
		}{
			{"1.3", func(*tls.Config) {}},
			{"1.3 with a classical hello", func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.X25519} }},
			{"1.3 with another key share than was sent", func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.CurveP521} }},
			{"1.3 with a hello of many records", func(c *tls.Config) { c.NextProtos = strings.Fields(strings.Repeat(strings.Repeat("x", 250)+" ", 50)) }},
			{"1.3 with one that is larger than what is gathered", func(c *tls.Config) { c.NextProtos = strings.Fields(strings.Repeat(strings.Repeat("x", 250)+" ", 150)) }},
			{"1.2", func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }},
			{"1.2 with CBC", func(c *tls.Config) {
				c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}
			}},
		} {
			for cut, crumbled := range map[string]int{"whole": 0, "byte by byte": 3000} {
				t.Run(c.rule+" "+cut, func(t *testing.T) {
					s := over(t, testConfig)
					m := s.next()
					nc := s.secureWith(&crumbs{s.dialTCP(), crumbled}, c.edit)
					exchange(t, nc, "a")
					exchange(t, nc, strings.Repeat("b", 300))
					for _, size := range []int{16383, 16384, 16385, 300_000} {
						text := strings.Repeat("c", size)
						go func() { _, _ = nc.Write([]byte(text)) }() // until the echo is read
						want(t, nc, text)
					}
					m.post(func(out []byte) []byte { return append(out, "pushed"...) })
					want(t, nc, "pushed")
					if err := nc.CloseWrite(); err != nil {
						t.Error(err)
					}
					if err := m.wantGone(); err != io.EOF {
						t.Errorf("gone with %v, want EOF", err)
					}
					if n, err := nc.Read(make([]byte, 1)); n != 0 || err != io.EOF {
						t.Errorf("%d bytes and %v, want EOF", n, err)
					}
				})
			}
		}
	})
}

// What a client sends at once with the last of its handshake is the machine's.
func TestTLSDataBehindTheHandshake(t *testing.T) {
	overEachTLS(t, func(t *testing.T, over func(testing.TB, Config) *served) {
		s := over(t, testConfig)
		s.next()
		c := &together{Conn: s.dialTCP()}
		nc := s.secureWith(c, func(c *tls.Config) { c.MinVersion = tls.VersionTLS13 })
		_, _ = nc.Write([]byte("early "))
		c.release(t)
		want(t, nc, "early ")
		exchange(t, nc, "on")
	})
}

// together keeps what is written after the first until release.
type together struct {
	net.Conn
	writes int
	kept   bytes.Buffer
}

func (c *together) Write(p []byte) (int, error) {
	if c.writes++; c.writes == 1 {
		return c.Conn.Write(p)
	}
	return c.kept.Write(p)
}

func (c *together) release(t *testing.T) {
	t.Helper()
	c.writes = 0
	if _, err := c.Write(c.kept.Bytes()); err != nil {
		t.Fatal(err)
	}
	c.writes = 0
}

// A session is resumed; a certificate that is exchanged is shown to who comes then,
// and closes nobody; a client's certificate is asked for where the configuration
// says so.
func TestTLSConfiguration(t *testing.T) {
	overEachTLS(t, func(t *testing.T, over func(testing.TB, Config) *served) {
		first, client := wstest.TLS(t)
		second, otherClient := wstest.TLS(t)
		var current atomic.Pointer[tls.Config]
		current.Store(first)
		var addr atomic.Value
		s := over(t, testConfig)
		// The driver is that of s, the listener another one.
		l := listen(t)
		ended := make(chan error, 1)
		go func() {
			ended <- s.Serve(l, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
				addr.Store(h.Conn.LocalAddr().String() + " " + h.Conn.RemoteAddr().String())
				return current.Load(), nil
			}})
		}()
		defer func() {
			_ = l.Close()
			s.end()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}()
		dial := func(cfg *tls.Config) *tls.Conn {
			t.Helper()
			s.next()
			c, err := tls.Dial("tcp", l.Addr().String(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Close() })
			_ = c.SetDeadline(time.Now().Add(patience))
			exchange(t, c, "hello")
			return c
		}
		client.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		old := dial(client)
		if want := l.Addr().String() + " " + old.LocalAddr().String(); addr.Load() != want {
			t.Errorf("the handshake is between %v, want %s", addr.Load(), want)
		}
		if c := dial(client); !c.ConnectionState().DidResume {
			t.Error("a session is not resumed")
		}
		second.ClientAuth = tls.RequireAnyClientCert
		current.Store(second)
		otherClient.Certificates = first.Certificates
		dial(otherClient)
		exchange(t, old, "still here")

		otherClient.Certificates, otherClient.MaxVersion = nil, tls.VersionTLS12 // there the client is told within its handshake
		if c, err := tls.Dial("tcp", l.Addr().String(), otherClient); err == nil {
			_ = c.Close()
			t.Error("a client without a certificate is let in")
		}
		if err := <-s.failed; err == nil || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("failed with %v", err)
		}
	})
}

// Who does not finish a handshake is given up in time, and who speaks no TLS at
// once. Both drivers say the same of each.
func TestTLSHandshakeFails(t *testing.T) {
	type end struct {
		answer string
		err    string
	}
	ends := map[string]map[string]end{}
	overEachTLS(t, func(t *testing.T, over func(testing.TB, Config) *served) {
		for _, c := range []struct {
			rule, send string
			half       bool // the client ends its side
			late       bool
		}{
			{rule: "nothing", late: true},
			{rule: "half of a head", send: "\x16\x03\x01", late: true},
			{rule: "half of a hello", send: "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", late: true},
			{rule: "half of a hello in two records", send: "\x16\x03\x01\x00\x02\x01\x00\x16\x03\x01\x00\x02\x01\xfc", late: true},
			{rule: "nothing, and the end", half: true},
			{rule: "half of a hello, and the end", send: "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", half: true},
			{rule: "HTTP", send: "GET / HTTP/1.1\r\n\r\n"},
			{rule: "another version", send: "\x16\x20\x01\x02\x00\x01\x00\x01\xfc\x03\x03"},
			{rule: "a record of nothing", send: "\x16\x03\x01\x00\x00"},
			{rule: "a record too large", send: "\x16\x03\x01\x50\x00\x01\x00\x01\xfc\x03\x03"},
			{rule: "another message", send: "\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00"},
			{rule: "a hello of nothing", send: "\x16\x03\x01\x00\x04\x01\x00\x00\x00"},
			{rule: "a hello of more than may be", send: "\x16\x03\x01\x00\x04\x01\xff\xff\xff"},
			{rule: "an alert", send: "\x15\x03\x01\x00\x02\x02\x28"},
		} {
			cfg := testConfig
			if c.late {
				cfg.HandshakeTimeout = 100 * time.Millisecond
			}
			s := over(t, cfg)
			nc := s.dialTCP()
			if _, err := io.WriteString(nc, c.send); err != nil {
				t.Fatal(err)
			}
			if c.half {
				_ = nc.CloseWrite()
			}
			answer, _ := io.ReadAll(nc)
			got := end{string(answer), ""}
			select {
			case err := <-s.failed:
				got.err = err.Error()
				if c.late && !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) && !c.late {
					t.Errorf("%s: failed with %v", c.rule, err)
				}
			case <-time.After(patience):
				t.Fatalf("%s: nobody is told of the failure", c.rule)
			}
			if ends[c.rule] == nil {
				ends[c.rule] = map[string]end{}
			}
			ends[c.rule][t.Name()] = got
			s.end()
		}
	})
	for rule, of := range ends {
		var first *end
		for name, e := range of {
			if first == nil {
				first = &e
			} else if *first != e {
				t.Errorf("%s: %q, with %s %q", rule, *first, name, e)
			}
		}
	}
}

// A record that was changed on its way ends the connection, with what came before
// it answered.
func TestTLSRecordSpoilt(t *testing.T) {
	overEachTLS(t, func(t *testing.T, over func(testing.TB, Config) *served) {
		s := over(t, testConfig)
		m := s.next()
		spoiling := &spoiler{Conn: s.dialTCP()}
		nc := s.secureWith(spoiling, func(*tls.Config) {})
		exchange(t, nc, "before")
		spoiling.on = true
		_, _ = nc.Write([]byte("spoilt"))
		if err := m.wantGone(); err == nil || !strings.Contains(err.Error(), "bad record MAC") {
			t.Errorf("gone with %v", err)
		}
		if n, err := nc.Read(make([]byte, 1)); n != 0 || err == nil || !strings.Contains(err.Error(), "bad record MAC") {
			t.Errorf("%d bytes and %v, want the alert", n, err)
		}
	})
}

type spoiler struct {
	net.Conn
	on bool
}

func (s *spoiler) Write(p []byte) (int, error) {
	if s.on {
		p = bytes.Clone(p)
		p[len(p)-1] ^= 1
	}
	return s.Conn.Write(p)
}

// What certificate a client has shown is told before there is its machine, in a
// session that is resumed too; of who shows none nothing is.
func TestTLSShown(t *testing.T) {
	overEachTLS(t, func(t *testing.T, over func(testing.TB, Config) *served) {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			server, client := wstest.TLS(t)
			shows, trusts := wstest.TLS(t)
			server.ClientAuth, server.ClientCAs = tls.VerifyClientCertIfGiven, trusts.RootCAs
			client.MaxVersion = version
			s := over(t, testConfig)
			l := listen(t) // beside that of s
			ended := make(chan error, 1)
			go func() { ended <- s.Serve(l, server) }()
			shake := func(cfg *tls.Config) *tls.Conn {
				t.Helper()
				s.next()
				c, err := tls.Dial("tcp", l.Addr().String(), cfg)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = c.Close() })
				_ = c.SetDeadline(time.Now().Add(patience))
				exchange(t, c, "hello")
				return c
			}
			shake(client)
			if len(s.shown) != 0 {
				t.Errorf("%s: a certificate that nobody has shown", tls.VersionName(version))
			}
			client.Certificates, client.ClientSessionCache = shows.Certificates, tls.NewLRUClientSessionCache(1)
			for _, resumed := range []bool{false, true} {
				if c := shake(client); c.ConnectionState().DidResume != resumed {
					t.Errorf("%s: resumed is %t, want %t", tls.VersionName(version), !resumed, resumed)
				}
				select {
				case cert := <-s.shown:
					if !bytes.Equal(cert.Raw, shows.Certificates[0].Certificate[0]) {
						t.Errorf("%s: another certificate, resumed %t", tls.VersionName(version), resumed)
					}
				default:
					t.Errorf("%s: no certificate, resumed %t", tls.VersionName(version), resumed)
				}
			}
			_ = l.Close()
			s.end()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
}
