package tlsfile

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
)

// Credentials are what gRPC calls an authority with: those of Client, but that
// the CAs are read again too, at every connection, so that neither a renewed
// certificate nor a rotated CA needs a restart. While caPath does not load, the
// CAs that it had stay and log hears why.
func Credentials(caPath, certPath, keyPath string, now func() time.Time, log *slog.Logger) (credentials.TransportCredentials, error) {
	cfg, err := Client(caPath, certPath, keyPath, now, log)
	if err != nil {
		return nil, err
	}
	r := &roots{path: caPath, log: log, pool: cfg.RootCAs}
	return Trusting(cfg, r.current), nil
}

// Trusting are credentials of the client cfg that trust the CAs which roots
// gives for each connection.
func Trusting(cfg *tls.Config, roots func() *x509.CertPool) credentials.TransportCredentials {
	return &trusting{credentials.NewTLS(cfg), cfg.Clone(), roots}
}

type trusting struct {
	credentials.TransportCredentials
	cfg   *tls.Config
	roots func() *x509.CertPool
}

// ClientHandshake implements credentials.TransportCredentials.
func (t *trusting) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	cfg := t.cfg.Clone()
	cfg.RootCAs = t.roots()
	return credentials.NewTLS(cfg).ClientHandshake(ctx, authority, raw)
}

// Clone implements credentials.TransportCredentials.
func (t *trusting) Clone() credentials.TransportCredentials {
	return &trusting{t.TransportCredentials.Clone(), t.cfg.Clone(), t.roots}
}

// roots are the CAs in a file.
type roots struct {
	path string
	log  *slog.Logger

	mu     sync.Mutex // guards what follows
	pool   *x509.CertPool
	sum    [sha256.Size]byte // of the file as it was last; zero before a change was seen
	failed bool              // it did not load, and the log has heard of it
}

func (r *roots) current() *x509.CertPool {
	r.mu.Lock()
	defer r.mu.Unlock()
	text, err := Read(r.path, 0)
	if sum := sha256.Sum256(text); err == nil && (sum != r.sum || r.failed) {
		var pool *x509.CertPool
		if pool, err = Pool(text); err == nil {
			r.pool, r.sum = pool, sum
		}
	}
	if err != nil && !r.failed {
		r.log.Warn("kept the CAs that were trusted: the file does not load", "file", r.path, "error", err)
	}
	r.failed = err != nil
	return r.pool
}
