package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/gatehouse-ws/gatehouse/tlsfile"
)

// certificateHash is the SHA-256 of a certificate, which is named by that, in hex as
// openssl writes it or in base64url as x5t#S256 of RFC 8705 is, or by its file.
func certificateHash(v string) ([]byte, error) {
	if b, err := hex.DecodeString(strings.ReplaceAll(v, ":", "")); err == nil && len(b) == sha256.Size {
		return b, nil
	}
	if b, err := base64.RawURLEncoding.Strict().DecodeString(v); err == nil && len(b) == sha256.Size {
		return b, nil
	}
	text, err := tlsfile.Read(v, 0)
	if err != nil {
		return nil, fmt.Errorf("neither the SHA-256 of a certificate, of 64 hexadecimal digits or 43 characters of base64url, nor its file: %w", err)
	}
	if !bytes.Contains(text, []byte("-----BEGIN ")) {
		cert, err := x509.ParseCertificate(text)
		if err != nil {
			return nil, fmt.Errorf("%s holds no certificate, in PEM or DER", v)
		}
		return hashOf(cert), nil
	}
	certs, err := tlsfile.Certificates(text)
	if err != nil {
		return nil, fmt.Errorf("%s %w", v, err)
	}
	return hashOf(certs[0]), nil // of a chain, the client's own
}

func hashOf(cert *x509.Certificate) []byte {
	sum := sha256.Sum256(cert.Raw)
	return sum[:]
}
