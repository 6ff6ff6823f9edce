package tlsfile

import (
	"crypto/tls"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Of the suites of TLS 1.2 those are taken that RFC 9325 section 4.2 recommends, and
// no older version.
func TestPublicSuites(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	writePair(t, cert, key)
	server, err := Public(cert, key, time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	shake := func(client *tls.Config) error {
		client.InsecureSkipVerify = true // the certificate is nobody's
		a, b := net.Pipe()
		defer a.Close()
		defer b.Close()
		go func() { _ = tls.Server(a, server).Handshake() }() // ends when b is closed
		return tls.Client(b, client).Handshake()
	}
	for _, suite := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		if suite.SupportedVersions[0] == tls.VersionTLS13 {
			continue
		}
		err := shake(&tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{suite.ID}})
		want := strings.HasPrefix(suite.Name, "TLS_ECDHE_ECDSA_") && !strings.Contains(suite.Name, "_CBC_") && !strings.Contains(suite.Name, "RC4")
		if (err == nil) != want {
			t.Errorf("%s: %v, want it taken: %t", suite.Name, err, want)
		}
	}
	if err := shake(&tls.Config{}); err != nil {
		t.Errorf("TLS 1.3: %v", err)
	}
	if err := shake(&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}); err == nil {
		t.Error("TLS 1.1 is taken")
	}
}
