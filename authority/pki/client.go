package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	// maxRequestBytes bounds a certificate request; one for RSA of 8192 bits
	// takes about 2,300.
	maxRequestBytes = 16 << 10
	// uriPrefix starts the URI that names a credential.
	uriPrefix = "gatehouse://credential/"
)

var (
	// ErrBadRequest says that a certificate request was not signed.
	ErrBadRequest = errors.New("certificate request")
	// ErrNotCredential says that a certificate names no credential.
	ErrNotCredential = errors.New("the certificate names no credential")
)

// NewRequest draws a key and asks for a certificate for it: the key in PEM, the
// request in DER (PKCS #10). The request carries no name, since the authority
// takes none from it.
func NewRequest(random io.Reader) (keyPEM, csr []byte, err error) {
	key, keyPEM, err := newKey(random)
	if err != nil {
		return nil, nil, err
	}
	csr, err = x509.CreateCertificateRequest(random, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, nil, fmt.Errorf("make certificate request: %w", err)
	}
	return keyPEM, csr, nil
}

// SignClient signs a client certificate for the key of a PKCS #10 request in
// DER, naming the credential and its generation. It is good for life, or
// ClientLife when that is zero, and never longer than the CA. Of the request
// only the key counts, which must be P-256, P-384, Ed25519 or RSA of 2048 to
// 8192 bits, and the signature that proves its possession; else the error is
// ErrBadRequest.
func (ca *CA) SignClient(csr []byte, name string, generation uint32, life time.Duration) (*x509.Certificate, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	if life < 0 {
		return nil, fmt.Errorf("a certificate cannot be good for %v", life)
	}
	if life == 0 {
		life = ClientLife
	}
	if len(csr) > maxRequestBytes {
		return nil, fmt.Errorf("%w is larger than %d bytes", ErrBadRequest, maxRequestBytes)
	}
	req, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, fmt.Errorf("%w does not parse: %w", ErrBadRequest, err)
	}
	// The key first: checking a signature with an absurd one costs much.
	if err := checkKey(req.PublicKey); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	if err := req.CheckSignature(); err != nil {
		return nil, fmt.Errorf("%w is not signed by its key: %w", ErrBadRequest, err)
	}
	cert, err := ca.issue(&ca.current.Load().signer, &x509.Certificate{
		Subject:     pkix.Name{CommonName: name}, // for people; CredentialOf does not look at it
		URIs:        []*url.URL{{Scheme: "gatehouse", Host: "credential", Path: "/" + name + "/" + strconv.FormatUint(uint64(generation), 10)}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, req.PublicKey, life)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of %s: %w", name, err)
	}
	return cert, nil
}

func checkKey(pub crypto.PublicKey) error {
	switch key := pub.(type) {
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P256() || key.Curve == elliptic.P384() {
			return nil
		}
	case ed25519.PublicKey:
		return nil
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits >= 2048 && bits <= 8192 {
			return nil
		}
	}
	return errors.New("its key is not ECDSA P-256 or P-384, Ed25519, or RSA of 2048 to 8192 bits")
}

// CheckName reports whether name can be a credential's: 1 to 64 of a-z, 0-9,
// dot, underscore and dash, starting with a letter or digit.
func CheckName(name string) error {
	ok := len(name) >= 1 && len(name) <= 64
	for i := range len(name) {
		c := name[i]
		ok = ok && ('a' <= c && c <= 'z' || '0' <= c && c <= '9' || i > 0 && (c == '.' || c == '_' || c == '-'))
	}
	if !ok {
		return fmt.Errorf("credential name %.70q is not 1 to 64 of a-z, 0-9, dot, underscore and dash, starting with a letter or digit", name)
	}
	return nil
}

// CredentialOf reads which credential a client certificate is for. It trusts
// the certificate: verify it against the CA first. The certificate must carry
// exactly one subject alternative name, the URI that SignClient wrote, in its
// one form; else the error is ErrNotCredential.
func CredentialOf(cert *x509.Certificate) (name string, generation uint32, err error) {
	uri, err := onlyURI(cert)
	if err != nil {
		return "", 0, fmt.Errorf("%w: %w", ErrNotCredential, err)
	}
	name, generation, ok := parseURI(uri)
	if !ok {
		return "", 0, fmt.Errorf("%w: its URI is not %sNAME/GENERATION", ErrNotCredential, uriPrefix)
	}
	return name, generation, nil
}

// onlyURI reads the extension itself, since a parsed url.URL no longer shows
// every character that was there.
func onlyURI(cert *x509.Certificate) (string, error) {
	const tagURI = 6 // RFC 5280 section 4.2.1.6
	var found []asn1.RawValue
	for _, ext := range cert.Extensions {
		if !ext.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) {
			continue
		}
		var list []asn1.RawValue
		if rest, err := asn1.Unmarshal(ext.Value, &list); err != nil || len(rest) > 0 {
			return "", errors.New("its alternative names do not parse")
		}
		found = append(found, list...)
	}
	if len(found) != 1 {
		return "", fmt.Errorf("it has %d alternative names, not 1", len(found))
	}
	if found[0].Class != asn1.ClassContextSpecific || found[0].Tag != tagURI || found[0].IsCompound {
		return "", errors.New("its alternative name is not a URI")
	}
	return string(found[0].Bytes), nil
}

func parseURI(uri string) (name string, generation uint32, ok bool) {
	rest, ok := strings.CutPrefix(uri, uriPrefix)
	name, digits, slash := strings.Cut(rest, "/")
	n, err := strconv.ParseUint(digits, 10, 32)
	// One text per number: no leading zeros.
	if !ok || !slash || err != nil || strconv.FormatUint(n, 10) != digits || CheckName(name) != nil {
		return "", 0, false
	}
	return name, uint32(n), true
}
