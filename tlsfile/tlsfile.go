// Package tlsfile makes TLS configurations from files in PEM, and takes the
// files up anew when they change. Authority, nodes and CLI share it.
package tlsfile

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxFileBytes bounds every file that is read.
	maxFileBytes = 64 << 10
	// retryAfter is the pause before files that failed to load are tried again
	// although they have not changed.
	retryAfter = time.Second
)

// Server configures a server that shows the certificate in certPath and asks
// for a client certificate of the CAs in the pool that trust gives for each
// connection; the same pool must have the same CAs. A client may come without a
// certificate, since API keys do; one that is shown must verify. TLS 1.3 only,
// without resumption, so that every connection has shown what it calls with.
//
// The files are read again when they change. While new ones do not load, the
// old certificate stays and log hears why.
func Server(certPath, keyPath string, trust func() *x509.CertPool, now func() time.Time, log *slog.Logger) (*tls.Config, error) {
	r, err := newReloader(certPath, keyPath, now, log)
	if err != nil {
		return nil, err
	}
	cfg := &tls.Config{
		MinVersion:             tls.VersionTLS13,
		ClientAuth:             tls.VerifyClientCertIfGiven,
		ClientCAs:              trust(),
		SessionTicketsDisabled: true,
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return r.current(), nil },
		Time:                   now,
	}
	var current atomic.Pointer[tls.Config]
	current.Store(cfg)
	cfg.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		have, want := current.Load(), trust()
		if have.ClientCAs != want {
			have = have.Clone()
			have.ClientCAs, have.GetConfigForClient = want, nil
			current.Store(have)
		}
		return have, nil
	}
	return cfg, nil
}

// Public configures a server for the public, which shows the certificate in
// certPath and asks for none: TLS 1.2 and later, http/1.1 alone by ALPN, since
// a WebSocket's opening handshake is HTTP/1.1. Its cipher suites of TLS 1.2 are
// those with forward secrecy and authenticated encryption (RFC 9325 section 4.2).
// Files are read again as for Server.
func Public(certPath, keyPath string, now func() time.Time, log *slog.Logger) (*tls.Config, error) {
	r, err := newReloader(certPath, keyPath, now, log)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		CipherSuites:   authenticated(),
		NextProtos:     []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return r.current(), nil },
		Time:           now,
	}, nil
}

// authenticated are the cipher suites of TLS 1.2 with ephemeral keys and
// authenticated encryption.
func authenticated() []uint16 {
	return []uint16{
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	}
}

// Client configures a client of the authority. It trusts the CAs in
// caPath and no other, and shows the certificate in certPath, or none if that is
// empty. TLS 1.3 only. The certificate is read again when its files change, as
// for Server; the CA is not: Credentials sees to that too.
func Client(caPath, certPath, keyPath string, now func() time.Time, log *slog.Logger) (*tls.Config, error) {
	text, err := Read(caPath, 0)
	if err != nil {
		return nil, err
	}
	pool, err := Pool(text)
	if err != nil {
		return nil, fmt.Errorf("%s %w: copy ca.crt from the authority", caPath, err)
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, Time: now}
	if certPath == "" && keyPath == "" {
		return cfg, nil
	}
	r, err := newReloader(certPath, keyPath, now, log)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: make a credential with gatehouse-authority enroll", err)
	}
	if err != nil {
		return nil, err
	}
	// Shown even when the server seems not to want it: its refusal says more
	// than a call without credential would.
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return r.current(), nil }
	return cfg, nil
}

// reloader keeps a certificate and key as their files have them.
type reloader struct {
	certPath, keyPath string
	now               func() time.Time
	log               *slog.Logger

	mu      sync.Mutex // guards what follows
	pair    *tls.Certificate
	seen    [2]fs.FileInfo // the files when last read
	retryAt time.Time      // zero while pair is what the files have
}

func newReloader(certPath, keyPath string, now func() time.Time, log *slog.Logger) (*reloader, error) {
	r := &reloader{certPath: certPath, keyPath: keyPath, now: now, log: log}
	r.seen = r.look()
	var err error
	r.pair, err = LoadPair(certPath, keyPath, othersMode)
	return r, err
}

func (r *reloader) look() (seen [2]fs.FileInfo) {
	for i, path := range []string{r.certPath, r.keyPath} {
		seen[i], _ = os.Stat(path) // a missing file differs from the one before
	}
	return seen
}

// current returns the certificate to show now. It costs two stat calls.
func (r *reloader) current() *tls.Certificate {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := r.look() // before reading, so that a change meanwhile is seen next time
	changed := !sameFile(seen[0], r.seen[0]) || !sameFile(seen[1], r.seen[1])
	if !changed && (r.retryAt.IsZero() || r.now().Before(r.retryAt)) {
		return r.pair
	}
	r.seen = seen
	pair, err := LoadPair(r.certPath, r.keyPath, othersMode)
	if err != nil {
		r.retryAt = r.now().Add(retryAfter)
		if changed {
			r.log.Warn("kept the old certificate: the new one does not load", "error", err, "ends", r.pair.Leaf.NotAfter)
		}
		return r.pair
	}
	r.retryAt = time.Time{}
	r.pair = pair
	r.log.Info("took up a new certificate", "file", r.certPath, "ends", pair.Leaf.NotAfter)
	return pair
}

func sameFile(a, b fs.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

// othersMode is what must be off in the mode of a credential's key. Its group
// may read it: so Kubernetes hands a secret to a process that is not root.
const othersMode = 0o007

// LoadPair reads a certificate, or chain, and its key. No bit of forbidden may
// be set in the mode of the key's file.
func LoadPair(certPath, keyPath string, forbidden fs.FileMode) (*tls.Certificate, error) {
	cert, err := Read(certPath, 0)
	if err != nil {
		return nil, err
	}
	key, err := Read(keyPath, forbidden)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("%s and %s are not a certificate and its key in PEM (%w): restore both from one backup or make both anew", certPath, keyPath, err)
	}
	return &pair, nil
}

// Read reads a file of bounded size, whose mode must have no bit of
// forbidden.
func Read(path string, forbidden fs.FileMode) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&forbidden != 0 && runtime.GOOS != "windows" { // which has no such modes
		return nil, fmt.Errorf("%s is to hold a private key, but others may use it (mode %04o): run chmod 600 %s", path, mode, path)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxFileBytes {
		return nil, fmt.Errorf("%s is larger than %d bytes, which no certificate or key is", path, maxFileBytes)
	}
	return text, nil
}

// Pool makes a pool of the certificates in text, as Certificates reads them.
func Pool(text []byte) (*x509.CertPool, error) {
	certs, err := Certificates(text)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	for _, cert := range certs {
		pool.AddCert(cert)
	}
	return pool, nil
}

// Certificates reads the certificates in text, of which there is at least one;
// another block of PEM in text is an error.
func Certificates(text []byte) (certs []*x509.Certificate, err error) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if block.Type != "CERTIFICATE" || err != nil {
			return nil, errors.New("holds something else than certificates in PEM")
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, errors.New("holds no certificate in PEM")
	}
	return certs, nil
}
