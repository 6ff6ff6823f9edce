package noded

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/gatehouse-ws/gatehouse/tlsfile"
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

// Clients show a certificate of the listener's CAs or, where it is optional, none.
// Other CAs are in force for who comes from then on: a session that began with a
// certificate of the ones before is not resumed.
func TestListenerClientCA(t *testing.T) {
	server, client := wstest.TLS(t)
	dir := t.TempDir()
	shows := map[string]*tls.Config{}
	for _, name := range []string{"first", "second"} {
		shows[name], _ = wstest.TLS(t)
		if err := os.WriteFile(filepath.Join(dir, name), encode(shows[name].Certificates[0].Certificate[0]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	asks := func(ca string, required bool) *tls.Config {
		t.Helper()
		cfg := server.Clone()
		if err := tlsfile.AskClients(cfg, filepath.Join(dir, ca), required); err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	l := &listener{}
	l.over(asks("first", false))
	at, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer at.Close()
	client.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	// shake is what the server knows of the client, and what that came to.
	shake := func(name string) (tls.ConnectionState, error) {
		t.Helper()
		accepted := make(chan tls.ConnectionState, 1)
		go func() {
			defer close(accepted)
			b, err := at.Accept()
			if err != nil {
				return
			}
			defer b.Close()
			c := tls.Server(b, l.tls)
			if c.Handshake() == nil {
				accepted <- c.ConnectionState()
				_, _ = io.Copy(c, c) // until the client has gone
			}
		}()
		a, err := net.Dial("tcp", at.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		cfg := client.Clone()
		if name != "" {
			cfg.Certificates = shows[name].Certificates
		}
		c := tls.Client(a, cfg)
		b := []byte{'x'}
		if _, err := c.Write(b); err != nil {
			return tls.ConnectionState{}, err
		}
		if _, err := c.Read(b); err != nil {
			return tls.ConnectionState{}, err
		}
		return <-accepted, nil
	}
	want := func(name string, resumed bool) {
		t.Helper()
		state, err := shake(name)
		if err != nil || state.DidResume != resumed || (len(state.PeerCertificates) > 0) != (name != "") {
			t.Errorf("%q: %v, resumed %t with %d certificates, want resumed %t", name, err, state.DidResume, len(state.PeerCertificates), resumed)
		}
	}
	fails := func(name, alert string) {
		t.Helper()
		if _, err := shake(name); err == nil || err.Error() != "remote error: tls: "+alert {
			t.Errorf("%q: %v, want the alert %q", name, err, alert)
		}
	}
	want("first", false)
	want("first", true)
	l.current.Store(asks("first", true)) // as a reload that changes nothing of the CAs
	want("first", true)
	l.current.Store(asks("second", false))
	fails("first", "unknown certificate authority")
	client.ClientSessionCache = nil
	want("second", false)
	client.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	want("", false)
	l.current.Store(asks("second", true))
	fails("", "certificate required") // its session of before is not resumed either
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
