package noded

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"testing"

	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

// A listener whose certificate is exchanged shows the new one to who comes anew,
// keeps the connections that there are, and still resumes the sessions of before.
func TestListenerOver(t *testing.T) {
	server, client := wstest.TLS(t)
	next, other := wstest.TLS(t)
	l := &listener{}
	l.over(server)
	at, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer at.Close()
	client.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	// shake is a connection whose byte the server has answered, so that the client
	// has its session ticket.
	shake := func(with *tls.Config) (*tls.Conn, *x509.Certificate) {
		t.Helper()
		go func() {
			b, err := at.Accept()
			if err != nil {
				return
			}
			defer b.Close()
			c := tls.Server(b, l.tls)
			_, _ = io.Copy(c, c) // until the client has gone
		}()
		a, err := net.Dial("tcp", at.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = a.Close() })
		c := tls.Client(a, with)
		ask(t, c)
		return c, c.ConnectionState().PeerCertificates[0]
	}
	kept, before := shake(client)
	if c, _ := shake(client); !c.ConnectionState().DidResume {
		t.Error("a session is not resumed")
	}
	l.current.Store(next)
	ask(t, kept)
	if c, _ := shake(client); !c.ConnectionState().DidResume {
		t.Error("a session of before is not resumed")
	}
	if _, after := shake(other); after.Equal(before) {
		t.Error("the certificate of before is shown")
	}
}

// ask has the peer answer a byte.
func ask(t *testing.T, c net.Conn) {
	t.Helper()
	b := []byte{'x'}
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(b); err != nil {
		t.Fatal(err)
	}
}
