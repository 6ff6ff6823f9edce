package authority

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"time"

	"google.golang.org/grpc/credentials"
)

// Why TLS handshakes fail.
const (
	tlsExpired   = "certificate_expired"
	tlsUntrusted = "certificate_untrusted"
	tlsTimeout   = "timeout"
	tlsRefused   = "refused_by_peer" // with an alert
	tlsOther     = "other"           // not TLS, another version, or the connection broke
)

// countedTLS counts the handshakes that fail.
type countedTLS struct {
	credentials.TransportCredentials
	metrics *metrics
}

func (c *countedTLS) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := c.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		c.metrics.tlsFailed.WithLabelValues(tlsFailure(err)).Inc()
	}
	return conn, info, err
}

func (c *countedTLS) Clone() credentials.TransportCredentials {
	return &countedTLS{c.TransportCredentials.Clone(), c.metrics}
}

func tlsFailure(err error) string {
	var invalid x509.CertificateInvalidError
	var unverified *tls.CertificateVerificationError
	var timeout net.Error
	var op *net.OpError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return tlsExpired
	case errors.As(err, &unverified):
		return tlsUntrusted
	case errors.As(err, &timeout) && timeout.Timeout():
		return tlsTimeout
	case errors.As(err, &op) && op.Op == "remote error":
		return tlsRefused
	}
	return tlsOther
}

// serverEnds is when the certificate that callers are shown now ends; zero where
// the service is not served over TLS.
func (s *Service) serverEnds() time.Time {
	cfg := s.tls.Load()
	if cfg == nil {
		return time.Time{}
	}
	var shown *tls.Certificate
	if cfg.GetCertificate != nil {
		shown, _ = cfg.GetCertificate(&tls.ClientHelloInfo{})
	} else if len(cfg.Certificates) > 0 {
		shown = &cfg.Certificates[0]
	}
	if shown == nil || shown.Leaf == nil {
		return time.Time{}
	}
	return shown.Leaf.NotAfter
}
