package pki

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-ws/gatehouse/tlsfile"
)

// handshake runs a connection over loopback, with a byte in each direction:
// in TLS 1.3 a client hears only then that it was refused. It returns what the
// server saw.
func handshake(t *testing.T, server, client *tls.Config) (state tls.ConnectionState, serverErr, clientErr error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		raw, err := ln.Accept()
		if err != nil {
			serverErr = err
			return
		}
		defer raw.Close()
		conn := tls.Server(raw, server)
		if serverErr = conn.Handshake(); serverErr != nil {
			return
		}
		state = conn.ConnectionState()
		var b [1]byte
		if _, serverErr = io.ReadFull(conn, b[:]); serverErr == nil {
			_, serverErr = conn.Write(b[:])
		}
	}()
	clientErr = func() error {
		raw, err := net.DialTimeout("tcp", ln.Addr().String(), 30*time.Second)
		if err != nil {
			return err
		}
		defer raw.Close()
		raw.SetDeadline(time.Now().Add(30 * time.Second))
		conn := tls.Client(raw, client)
		if _, err := conn.Write([]byte{1}); err != nil {
			return err
		}
		var b [1]byte
		_, err = io.ReadFull(conn, b[:])
		return err
	}()
	<-done
	return state, serverErr, clientErr
}

// site is an installation: a CA, a server certificate for localhost and
// 127.0.0.1, and the credential node-1, generation 7.
type site struct {
	ca                     *CA
	server, client         string // folders
	serverTLS, clientTLS   *tls.Config
	now                    *time.Time
	serverLines, nodeLines *bytes.Buffer
}

func newSite(t *testing.T) *site {
	t.Helper()
	now := testTime
	clock := func() time.Time { return now }
	root := t.TempDir()
	s := &site{server: filepath.Join(root, "server"), client: filepath.Join(root, "client"), now: &now, serverLines: new(bytes.Buffer), nodeLines: new(bytes.Buffer)}
	var err error
	if s.ca, err = Create(filepath.Join(root, "pki"), clock, rand.Reader); err != nil {
		t.Fatal(err)
	}
	if _, err = s.ca.EnsureServer(s.server, []string{"localhost", "127.0.0.1"}); err != nil {
		t.Fatal(err)
	}
	if err = newClient(t, s.ca, "node-1", 7).Write(s.client, false); err != nil {
		t.Fatal(err)
	}
	if s.serverTLS, err = tlsfile.Server(s.server+"/server.crt", s.server+"/server.key", s.ca.Pool, clock, lines(s.serverLines)); err != nil {
		t.Fatal(err)
	}
	if s.clientTLS, err = tlsfile.Client(s.client+"/ca.crt", s.client+"/tls.crt", s.client+"/tls.key", clock, lines(s.nodeLines)); err != nil {
		t.Fatal(err)
	}
	s.clientTLS.ServerName = "localhost"
	return s
}

func lines(to *bytes.Buffer) *slog.Logger { return slog.New(slog.NewTextHandler(to, nil)) }

func TestHandshakeShowsTheCredential(t *testing.T) {
	s := newSite(t)
	state, serverErr, clientErr := handshake(t, s.serverTLS, s.clientTLS)
	if serverErr != nil || clientErr != nil {
		t.Fatalf("server: %v, client: %v", serverErr, clientErr)
	}
	if state.Version != tls.VersionTLS13 || len(state.VerifiedChains) != 1 {
		t.Errorf("version %x, %d verified chains", state.Version, len(state.VerifiedChains))
	}
	name, generation, err := CredentialOf(state.VerifiedChains[0][0])
	if name != "node-1" || generation != 7 || err != nil {
		t.Errorf("%s %d %v", name, generation, err)
	}
	// By address too, and for API keys without a certificate.
	s.clientTLS.ServerName = "127.0.0.1"
	s.clientTLS.GetClientCertificate = nil
	if state, serverErr, clientErr = handshake(t, s.serverTLS, s.clientTLS); serverErr != nil || clientErr != nil || len(state.PeerCertificates) > 0 {
		t.Errorf("without certificate: server: %v, client: %v, %d certificates", serverErr, clientErr, len(state.PeerCertificates))
	}
	bare, err := tlsfile.Client(s.client+"/ca.crt", "", "", s.ca.now, slog.Default())
	if err != nil || bare.GetClientCertificate != nil {
		t.Errorf("a client for API keys: %v", err)
	}
}

func TestHandshakeRefuses(t *testing.T) {
	show := func(cert tls.Certificate) func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	}
	pair := func(t *testing.T, cert, key string) tls.Certificate {
		t.Helper()
		p, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	for _, c := range []struct {
		name                   string
		change                 func(t *testing.T, s, foreign *site)
		wantServer, wantClient string
	}{
		{"a client of a foreign CA", func(t *testing.T, s, f *site) { s.clientTLS.GetClientCertificate = f.clientTLS.GetClientCertificate },
			"unknown authority", "unknown certificate authority"},
		{"a client of a foreign CA of the same name", func(t *testing.T, s, f *site) {
			f.ca.Cert().RawSubject, f.ca.Cert().Subject = s.ca.Cert().RawSubject, s.ca.Cert().Subject
			f.ca.Cert().SubjectKeyId = s.ca.Cert().SubjectKeyId
			b := newClient(t, f.ca, "node-1", 7)
			cert, err := tls.X509KeyPair(b.Cert, b.Key)
			if err != nil {
				t.Fatal(err)
			}
			s.clientTLS.GetClientCertificate = show(cert)
		}, "unknown authority", "certificate"},
		{"a server of a foreign CA", func(t *testing.T, s, f *site) { s.clientTLS.RootCAs = f.clientTLS.RootCAs },
			"bad certificate", "unknown authority"},
		{"a client certificate that has ended", func(t *testing.T, s, f *site) {
			*s.now = testTime.Add(ServerLife + time.Hour)
			if _, err := s.ca.EnsureServer(s.server, []string{"localhost"}); err != nil {
				t.Fatal(err)
			}
		}, "expired", "expired certificate"},
		{"a server certificate that has ended", func(t *testing.T, s, f *site) {
			*s.now = testTime.Add(ServerLife + time.Hour)
			if err := newClient(t, s.ca, "node-1", 8).Write(s.client, true); err != nil {
				t.Fatal(err)
			}
		}, "bad certificate", "has expired"},
		{"a server certificate shown by a client", func(t *testing.T, s, f *site) {
			s.clientTLS.GetClientCertificate = show(pair(t, s.server+"/server.crt", s.server+"/server.key"))
		}, "incompatible key usage", "bad certificate"},
		{"a client certificate shown by a server", func(t *testing.T, s, f *site) {
			cert := pair(t, s.client+"/tls.crt", s.client+"/tls.key")
			s.serverTLS.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil }
		}, "bad certificate", "not valid for any names"},
		{"a client certificate shown by a server, were its name right", func(t *testing.T, s, f *site) {
			// Names are checked first, so this looks at the usage alone.
			cert := pair(t, s.client+"/tls.crt", s.client+"/tls.key")
			s.serverTLS.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil }
			s.clientTLS.InsecureSkipVerify = true
			s.clientTLS.VerifyConnection = func(state tls.ConnectionState) error {
				_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: s.clientTLS.RootCAs, CurrentTime: testTime})
				return err
			}
		}, "bad certificate", "incompatible key usage"},
		{"a host the certificate does not name", func(t *testing.T, s, f *site) { s.clientTLS.ServerName = "authority.example.com" },
			"bad certificate", "not authority.example.com"},
		{"an address the certificate does not name", func(t *testing.T, s, f *site) { s.clientTLS.ServerName = "127.0.0.2" },
			"bad certificate", "not 127.0.0.2"},
		{"a client that is at most TLS 1.2", func(t *testing.T, s, f *site) {
			s.clientTLS.MinVersion, s.clientTLS.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
		}, "unsupported versions", "protocol version"},
		{"a server that is at most TLS 1.2", func(t *testing.T, s, f *site) {
			s.serverTLS.MinVersion, s.serverTLS.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
		}, "unsupported versions", "protocol version"},
		{"the key of another", func(t *testing.T, s, f *site) {
			cert := pair(t, s.client+"/tls.crt", s.client+"/tls.key")
			cert.PrivateKey = pair(t, f.client+"/tls.crt", f.client+"/tls.key").PrivateKey
			s.clientTLS.GetClientCertificate = show(cert)
		}, "invalid signature", "error decrypting"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			c.change(t, s, newSite(t))
			state, serverErr, clientErr := handshake(t, s.serverTLS, s.clientTLS)
			if !mentions(serverErr, c.wantServer) || !mentions(clientErr, c.wantClient) {
				t.Errorf("server: %v, client: %v\nwant %q and %q", serverErr, clientErr, c.wantServer, c.wantClient)
			}
			if state.HandshakeComplete {
				t.Error("the server took the connection for good")
			}
		})
	}
}

func TestSessionsAreNotResumed(t *testing.T) {
	s := newSite(t)
	s.clientTLS.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	for range 3 {
		state, serverErr, clientErr := handshake(t, s.serverTLS, s.clientTLS)
		if serverErr != nil || clientErr != nil || state.DidResume {
			t.Fatalf("server: %v, client: %v, resumed %v", serverErr, clientErr, state.DidResume)
		}
	}
}

func TestRenewedCertificatesAreTakenUp(t *testing.T) {
	s := newSite(t)
	seen := func() (generation uint32) {
		t.Helper()
		state, serverErr, clientErr := handshake(t, s.serverTLS, s.clientTLS)
		if serverErr != nil || clientErr != nil {
			t.Fatalf("server: %v, client: %v", serverErr, clientErr)
		}
		_, generation, err := CredentialOf(state.PeerCertificates[0])
		if err != nil {
			t.Fatal(err)
		}
		return generation
	}
	if got := seen(); got != 7 {
		t.Fatalf("generation %d, want 7", got)
	}
	if err := newClient(t, s.ca, "node-1", 8).Write(s.client, true); err != nil {
		t.Fatal(err)
	}
	if got := seen(); got != 8 {
		t.Errorf("generation %d after renewal, want 8", got)
	}
	// The server's too, under a running configuration.
	s.clientTLS.ServerName = "renamed.example.com"
	if _, _, err := handshake(t, s.serverTLS, s.clientTLS); err == nil {
		t.Fatal("the old certificate has the new name")
	}
	if _, err := s.ca.EnsureServer(s.server, []string{"renamed.example.com"}); err != nil {
		t.Fatal(err)
	}
	if got := seen(); got != 8 {
		t.Errorf("generation %d", got)
	}
	if n := strings.Count(s.serverLines.String()+s.nodeLines.String(), "took up a new certificate"); n != 2 {
		t.Errorf("%d lines say so, want 2:\n%s%s", n, s.serverLines, s.nodeLines)
	}
}

func TestBadRenewalsKeepTheOldCertificate(t *testing.T) {
	foreign := newClient(t, newCA(t), "x", 1)
	for name, harm := range map[string]func(dir string) error{
		"an empty certificate":  func(d string) error { return os.Truncate(d+"/tls.crt", 0) },
		"no certificate":        func(d string) error { return os.Remove(d + "/tls.crt") },
		"no key":                func(d string) error { return os.Remove(d + "/tls.key") },
		"another's key":         func(d string) error { return os.WriteFile(d+"/tls.key", foreign.Key, 0o600) },
		"a key others may read": func(d string) error { return os.Chmod(d+"/tls.key", 0o604) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			generation := func() uint32 {
				cert, _ := s.clientTLS.GetClientCertificate(nil)
				_, g, err := CredentialOf(cert.Leaf)
				if err != nil {
					t.Fatal(err)
				}
				return g
			}
			if err := harm(s.client); err != nil {
				t.Fatal(err)
			}
			if name == "a key others may read" { // the mode is no change of the content
				if err := os.Chtimes(s.client+"/tls.key", time.Time{}, time.Now().Add(time.Hour)); err != nil {
					t.Fatal(err)
				}
			}
			for range 3 {
				*s.now = s.now.Add(2 * time.Second)
				if got := generation(); got != 7 {
					t.Fatalf("generation %d, want the old 7", got)
				}
			}
			if n := strings.Count(s.nodeLines.String(), "kept the old certificate"); n != 1 {
				t.Errorf("%d lines say so, want 1:\n%s", n, s.nodeLines)
			}
			if err := newClient(t, s.ca, "node-1", 8).Write(s.client, true); err != nil {
				t.Fatal(err)
			}
			if got := generation(); got != 8 {
				t.Errorf("generation %d after the repair, want 8", got)
			}
		})
	}
}

func TestTLSConfigsRefuse(t *testing.T) {
	s := newSite(t)
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	crt, key, ca := s.client+"/tls.crt", s.client+"/tls.key", s.client+"/ca.crt"
	for _, c := range []struct {
		name         string
		ca, crt, key string
		want         []string
	}{
		{"no CA file", "nowhere/ca.crt", crt, key, []string{"nowhere/ca.crt"}},
		{"an empty CA file", empty, crt, key, []string{empty, "holds no certificate", "copy ca.crt"}},
		{"a key for a CA", key, crt, key, []string{key, "something else"}},
		{"no certificate", ca, "nowhere/tls.crt", key, []string{"nowhere/tls.crt", "enroll"}},
		{"no key", ca, crt, "nowhere/tls.key", []string{"nowhere/tls.key", "enroll"}},
		{"a certificate without key file", ca, crt, "", []string{"open"}},
		{"certificate and key swapped", ca, key, crt, []string{crt, "is to hold a private key"}},
	} {
		if _, err := tlsfile.Client(c.ca, c.crt, c.key, testNow, slog.Default()); !mentions(err, c.want...) {
			t.Errorf("%s: %v, want mention of %q", c.name, err, c.want)
		}
	}
	if err := os.Chmod(key, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := tlsfile.Client(ca, crt, key, testNow, slog.Default()); err != nil {
		t.Errorf("a key its group may read: %v", err)
	}
	if err := os.Chmod(key, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := tlsfile.Client(ca, crt, key, testNow, slog.Default()); !mentions(err, key, "chmod 600") {
		t.Errorf("a key all may read: %v", err)
	}
	if _, err := tlsfile.Server(empty, empty, s.ca.Pool, testNow, slog.Default()); !mentions(err, empty) || errors.Is(err, os.ErrNotExist) {
		t.Errorf("an empty server certificate: %v", err)
	}
}
