package tlsfile

import (
	"crypto/tls"
	"errors"
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
	server := public(t)
	shake := func(client *tls.Config) error { _, err := shakeHands(server, client); return err }
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

// public is a server with a certificate of its own.
func public(t *testing.T) *tls.Config {
	t.Helper()
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	writePair(t, cert, key)
	server, err := Public(cert, key, time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return server
}

// shakeHands is what a client comes to, who takes any certificate.
func shakeHands(server, client *tls.Config) (tls.ConnectionState, error) {
	client.InsecureSkipVerify = true // the certificate is nobody's
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	go func() { _ = tls.Server(a, server).Handshake() }() // ends when b is closed
	c := tls.Client(b, client)
	err := c.Handshake()
	return c.ConnectionState(), err
}

// A server agrees on a key by what it is told and by nothing else, and without a
// word by all that there is.
func TestKeyExchange(t *testing.T) {
	server := public(t)
	for _, k := range keyExchanges {
		if state, err := shakeHands(server, &tls.Config{CurvePreferences: []tls.CurveID{k.id}}); err != nil || state.CurveID != k.id {
			t.Errorf("%v by default: %v by %v", k.id, err, state.CurveID)
		}
		for _, name := range append(k.names, strings.ToUpper(k.names[0]), strings.ToLower(k.names[0])) {
			if ids, err := KeyExchange([]string{name}); err != nil || len(ids) != 1 || ids[0] != k.id {
				t.Errorf("%s: %v, %v, want %v", name, ids, err, k.id)
			}
		}
		alone := server.Clone()
		alone.CurvePreferences, _ = KeyExchange(k.names[:1])
		for _, other := range keyExchanges {
			_, err := shakeHands(alone, &tls.Config{CurvePreferences: []tls.CurveID{other.id}})
			if other.id == k.id && err != nil || other.id != k.id && !alerted(err, "handshake failure") {
				t.Errorf("%v with a server of %v: %v", other.id, k.id, err)
			}
		}
	}
	if ids, err := KeyExchange(nil); ids != nil || err != nil {
		t.Errorf("no names: %v, %v", ids, err)
	}
	for name, names := range map[string][]string{
		"unknown":       {"X25519", "X448"},
		"empty":         {""},
		"twice":         {"P-256", "x25519", "secp256r1"},
		"of more words": {"X25519,P-256"},
	} {
		_, err := KeyExchange(names)
		if name == "twice" && (err == nil || !strings.Contains(err.Error(), `"secp256r1" stands there twice`)) ||
			name != "twice" && (err == nil || !strings.Contains(err.Error(), "is none of X25519MLKEM768, SecP256r1MLKEM768, SecP384r1MLKEM1024, X25519, P-256, P-384, P-521")) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// http/1.1 is all that a client can speak: who offers others alone hears that by
// the alert of RFC 7301 section 3.2, who offers nothing is let in.
func TestPublicALPN(t *testing.T) {
	server := public(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, c := range []struct {
			offered []string
			want    string
			alert   string
		}{
			{nil, "", ""},
			{[]string{"http/1.1"}, "http/1.1", ""},
			{[]string{"h2", "http/1.1"}, "http/1.1", ""},
			{[]string{"h2"}, "", "no application protocol"},
			{[]string{"http/1.0", "h3"}, "", "no application protocol"},
		} {
			state, err := shakeHands(server, &tls.Config{MaxVersion: version, NextProtos: c.offered})
			if state.NegotiatedProtocol != c.want || c.alert == "" && err != nil || c.alert != "" && !alerted(err, c.alert) {
				t.Errorf("%s, %q: %q and %v, want %q and the alert %q", tls.VersionName(version), c.offered, state.NegotiatedProtocol, err, c.want, c.alert)
			}
		}
	}
}

// alerted reports whether a handshake ended by this alert of the peer.
func alerted(err error, alert string) bool {
	var from *net.OpError
	return errors.As(err, &from) && from.Op == "remote error" && from.Err.Error() == "tls: "+alert
}
