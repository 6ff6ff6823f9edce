package wsnode

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

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
