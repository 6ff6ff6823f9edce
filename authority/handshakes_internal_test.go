package authority

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
)

func TestTLSFailure(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{&tls.CertificateVerificationError{Err: x509.CertificateInvalidError{Reason: x509.Expired}}, tlsExpired},
		{&tls.CertificateVerificationError{Err: x509.CertificateInvalidError{Reason: x509.IncompatibleUsage}}, tlsUntrusted},
		{&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}, tlsUntrusted},
		{&net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}, tlsTimeout},
		{&net.OpError{Op: "remote error", Err: errors.New("tls: bad certificate")}, tlsRefused},
		{fmt.Errorf("handshake: %w", io.EOF), tlsOther},
	} {
		if got := tlsFailure(c.err); got != c.want {
			t.Errorf("%v: %s, want %s", c.err, got, c.want)
		}
	}
}
