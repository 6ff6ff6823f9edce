package wsnode

import (
	"net/netip"
	"testing"
	"time"

	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

// A connection without an address is reset before it says a word: no limit could
// count it, and its redemption would fail the stream for all others.
func TestNoAddress(t *testing.T) {
	inLab(t, nil, func(l *lab) {
		const line = "connection reset: it has no TCP address; serve TCP listeners only, and put a proxy before others"
		knock := func() {
			c, err := l.l.Dial(netip.Addr{})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			go func() { _, _ = c.Write(wstest.Opening{Target: echoPath, Bearer: l.token()}.Bytes()) }()
			_ = c.SetReadDeadline(time.Now().Add(time.Second))
			if n, _ := c.Read(make([]byte, 1)); n != 0 {
				t.Error("it is answered")
			}
		}
		for range 5 {
			knock()
		}
		exchange(l.open(echoPath, wstest.Token{}), "others are let in")
		if got := l.metric("connections_refused_total", "no_address"); got != 5 {
			t.Errorf("%v are counted, want 5", got)
		}
		if n := len(l.logs.lines(t, line)); n != 1 {
			t.Errorf("%d lines, want 1: %s", n, l.logs)
		}
		if n := len(l.a.Seen().Redeems); n != 1 {
			t.Errorf("%d redemptions, want 1", n)
		}
		time.Sleep(seldomEvery)
		knock()
		if n := len(l.logs.lines(t, line)); n != 2 {
			t.Errorf("%d lines a minute later, want 2", n)
		}
	})
}

// A TLS handshake that the node cuts off as it drains is not one that failed.
func TestDrainFailsNoTLSHandshake(t *testing.T) {
	server, _ := wstest.TLS(t)
	inLab(t, nil, func(l *lab) {
		over := wstest.Listen()
		served := make(chan error, 1)
		go func() { served <- l.Serve(over, server) }()
		c, err := over.Dial(loopbackAddr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte{22, 3, 1}); err != nil { // the first bytes of a hello
			t.Fatal(err)
		}
		l.shutdown()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if got := l.metric("tls_handshakes_failed_total", ""); got != 0 {
			t.Errorf("%v TLS handshakes are counted as failed, want 0", got)
		}
	})
}
