package wsnode

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

// As many TLS handshakes are under way as may be: who comes then is reset before
// its own, counted by that reason and not as a handshake that failed.
func TestTLSHandshakesBusy(t *testing.T) {
	for _, d := range []Driver{AutoDriver, PortableDriver} {
		t.Run(string(d), func(t *testing.T) { testTLSHandshakesBusy(t, d) })
	}
}

func testTLSHandshakesBusy(t *testing.T, d Driver) {
	server, client := wstest.TLS(t)
	l := newTCPWith(t, d, server, func(c *Config) { c.Sockets.TLSHandshakes = 1 })
	parked := holdHandshake(t, l.listener.Addr().String(), client)
	waiting := func(want float64) {
		t.Helper()
		for _, name := range []string{"tls_handshakes", "tls_handshakes_parked"} {
			for deadline := time.Now().Add(wstest.Patience); l.metric(name, "") != want; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("%s is %v, want %v", name, l.metric(name, ""), want)
				}
			}
		}
	}
	waiting(1)
	c, err := tls.Dial("tcp", l.listener.Addr().String(), client)
	if err == nil {
		_ = c.Close()
		t.Fatal("a second handshake is let in")
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v, want a reset", err)
	}
	counted := func(what, name, label string) {
		t.Helper()
		for deadline := time.Now().Add(wstest.Patience); l.metric(name, label) == 0; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s is not counted", what)
			}
		}
		if got := l.metric(name, label); got != 1 {
			t.Errorf("%s is counted %v times", what, got)
		}
	}
	counted("a connection that was reset", "connections_refused_total", "tls_handshakes")
	if got := l.metric("tls_handshakes_failed_total", ""); got != 0 {
		t.Errorf("%v TLS handshakes are counted as failed, want 0", got)
	}
	_ = parked.Close()
	counted("a handshake that was given up", "tls_handshakes_failed_total", "")
	var p *wstest.Peer
	for p == nil { // the goroutine of the one before ends by itself
		if c, err := tls.Dial("tcp", l.listener.Addr().String(), client); err == nil {
			p = wstest.NewPeer(t, c)
		}
	}
	p.Open(wstest.Opening{Target: echoPath, Bearer: l.token()})
	exchange(p, "there is room again")
	waiting(0)
}

// holdHandshake begins a TLS handshake that goes no further than the node's answer.
func holdHandshake(t *testing.T, address string, cfg *tls.Config) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	h := &held{Conn: c, answered: make(chan struct{})}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = tls.Client(h, cfg).Handshake()
	}()
	t.Cleanup(func() { _ = c.Close(); <-ended })
	<-h.answered
	return c
}

// held reads once more, and then waits for its end.
type held struct {
	net.Conn
	answered chan struct{}
	read     bool
}

func (h *held) Read(p []byte) (int, error) {
	if !h.read {
		h.read = true
		_, err := h.Conn.Read(p[:1])
		close(h.answered)
		if err != nil {
			return 0, err
		}
	}
	_, err := h.Conn.Read(make([]byte, 1<<16))
	for err == nil {
		_, err = h.Conn.Read(make([]byte, 1<<16))
	}
	return 0, err
}

// Who speaks another protocol alone hears so by TLS's alert, and counts as a
// handshake that failed.
func TestTLSOtherProtocol(t *testing.T) {
	for _, d := range []Driver{AutoDriver, PortableDriver} {
		server, client := wstest.TLS(t)
		server.NextProtos, client.NextProtos = []string{"http/1.1"}, []string{"h2"}
		l := newTCP(t, d, server)
		c, err := tls.Dial("tcp", l.listener.Addr().String(), client)
		if err == nil {
			_ = c.Close()
		}
		if want := "remote error: tls: no application protocol"; err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", d, err, want)
		}
		for deadline := time.Now().Add(wstest.Patience); l.metric("tls_handshakes_failed_total", "") != 1; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: it is not counted", d)
			}
		}
	}
}

// A node that drains ends wss as it ends ws, with its word, on either driver.
func TestDrainTLS(t *testing.T) {
	for _, d := range []Driver{AutoDriver, PortableDriver} {
		server, client := wstest.TLS(t)
		l := newTCP(t, d, server)
		c, err := tls.Dial("tcp", l.listener.Addr().String(), client)
		if err != nil {
			t.Fatal(err)
		}
		p := wstest.NewPeer(t, c)
		p.Open(wstest.Opening{Target: echoPath, Bearer: l.token()})
		exchange(p, "hello")
		parked := holdHandshake(t, l.listener.Addr().String(), client)
		down := make(chan error, 1)
		go func() {
			ctx, cancel := contextFor(wstest.Patience)
			defer cancel()
			down <- l.Shutdown(ctx)
		}()
		p.WantClose(1012, "node restarts")
		_ = c.Close()
		_ = parked.SetReadDeadline(time.Now().Add(wstest.Patience))
		if _, err := io.Copy(io.Discard, parked); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: a handshake goes on", d)
		}
		if err := <-down; err != nil {
			t.Errorf("%s: %v", d, err)
		}
		if got := l.metric("tls_handshakes_failed_total", ""); got != 0 {
			t.Errorf("%s: %v TLS handshakes are counted as failed, want 0", d, got)
		}
		l.down = true
	}
}

// A token that is bound to a certificate opens a socket only where that one is
// shown, in a session that is resumed too, and renews one only there.
func TestTLSBoundTokens(t *testing.T) {
	for _, d := range []Driver{AutoDriver, PortableDriver} {
		t.Run(string(d), func(t *testing.T) { testTLSBoundTokens(t, d) })
	}
}

func testTLSBoundTokens(t *testing.T, d Driver) {
	server, client := wstest.TLS(t)
	shows, trusts := wstest.TLS(t)
	other, _ := wstest.TLS(t)
	server.ClientAuth, server.ClientCAs = tls.VerifyClientCertIfGiven, trusts.RootCAs.Clone()
	leaf, err := x509.ParseCertificate(other.Certificates[0].Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	server.ClientCAs.AddCert(leaf)
	l := newTCP(t, d, server)
	sum := sha256.Sum256(shows.Certificates[0].Certificate[0])
	bound := func() string { return l.a.Issue(wstest.Token{Certificate: sum[:]}).Text }
	cache := tls.NewLRUClientSessionCache(1)
	open := func(with *tls.Config, resumes bool) *wstest.Peer {
		t.Helper()
		cfg := client.Clone()
		if with != nil {
			cfg.Certificates = with.Certificates
		}
		if with == shows {
			cfg.ClientSessionCache = cache
		}
		c, err := tls.Dial("tcp", l.listener.Addr().String(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		if c.ConnectionState().DidResume != resumes {
			t.Errorf("resumed is %t, want %t", !resumes, resumes)
		}
		return wstest.NewPeer(t, c)
	}
	for _, resumes := range []bool{false, true} {
		p := open(shows, resumes)
		p.Open(wstest.Opening{Target: echoPath, Bearer: bound()})
		exchange(p, "let in")
		p.Send(renewal(bound()))
		if op, payload := p.Read(); op != ws.OpText || !strings.HasPrefix(string(payload), `{"gatehouse":"renewed"`) {
			t.Errorf("a renewal is answered with %v %s", op, payload)
		}
	}
	for name, with := range map[string]*tls.Config{"none": nil, "another": other} {
		p := open(with, false)
		p.Write(wstest.Opening{Target: echoPath, Bearer: bound()}.Bytes())
		if resp, _ := p.Response(); resp.StatusCode != 401 {
			t.Errorf("with %s: status %d, want 401", name, resp.StatusCode)
		}
		p = open(with, false)
		p.Open(wstest.Opening{Target: echoPath, Bearer: l.token()})
		exchange(p, "a token that is not bound")
		p.Send(renewal(bound()))
		p.WantClose(4401, "token_inactive")
	}
	// What a proxy shows that has ended the client's TLS is not the client's.
	proxy := client.Clone()
	proxy.Certificates = shows.Certificates
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(xffAddr)}}
	c, err := tls.DialWithDialer(dialer, "tcp", l.listener.Addr().String(), proxy)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	p := wstest.NewPeer(t, c)
	p.Write(wstest.Opening{Target: echoPath, Bearer: bound(), Fields: []string{"X-Forwarded-For: 192.0.2.7"}}.Bytes())
	if resp, _ := p.Response(); resp.StatusCode != 401 {
		t.Errorf("with a proxy's: status %d, want 401", resp.StatusCode)
	}
	if got := l.metric("handshakes_refused_total", "client_certificate_mismatch"); got != 3 {
		t.Errorf("%v handshakes are counted, want 3", got)
	}
}
