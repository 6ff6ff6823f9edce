// Package pki is the certificate authority (CA) of an installation: it makes
// the CA, the authority's server certificate and the client certificates that
// credentials call with.
//
// All keys made here are ECDSA P-256. Since Go 1.26 the standard library draws
// keys and signatures from its own secure source whatever reader it is given
// (testing/cryptotest.SetGlobalRandom replaces it in tests), so the random
// readers that this package takes decide the serial numbers alone.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// CALife is how long a CA certificate is good for.
	CALife = 10 * 365 * 24 * time.Hour
	// ServerLife is how long a server certificate is good for.
	ServerLife = 365 * 24 * time.Hour
	// ClientLife is how long a client certificate is good for by default.
	ClientLife = 365 * 24 * time.Hour

	// skew is how far in the past certificates begin, for peers whose clocks
	// are behind.
	skew = 5 * time.Minute
)

// CA signs certificates. From Rotate to Retire its predecessor, the elder, is
// trusted beside it but signs nothing any more. It is safe for concurrent use if
// its random reader is.
type CA struct {
	dir    string
	now    func() time.Time
	random io.Reader

	changing sync.Mutex // held while the folder is changed
	current  atomic.Pointer[standing]
}

// standing is what a CA's folder holds. It is replaced, never changed.
type standing struct {
	signer
	elder *signer // nil but while the CA is rotated
	// vouched is the signer's certificate signed by the elder, so that who trusts
	// the elder alone takes what the signer signs. It is nil without an elder, and
	// where that one may vouch for nobody.
	vouched *x509.Certificate

	bundle  []byte // of all that are trusted, as ca.crt has them
	pool    *x509.CertPool
	changed chan struct{} // closed once this is replaced
}

// signer is a certificate that may sign others, and its key.
type signer struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// Trusted is a CA that is trusted.
type Trusted struct {
	Cert  *x509.Certificate
	Signs bool // new certificates are its
}

// Cert is the certificate of the CA that signs.
func (ca *CA) Cert() *x509.Certificate { return ca.current.Load().cert }

// Trusted lists the CAs that are trusted, first the one that signs.
func (ca *CA) Trusted() []Trusted {
	s := ca.current.Load()
	out := []Trusted{{s.cert, true}}
	if s.elder != nil {
		out = append(out, Trusted{s.elder.cert, false})
	}
	return out
}

// Trusts reports whether the CA with this ID is trusted.
func (ca *CA) Trusts(id string) bool {
	s := ca.current.Load()
	return ID(s.cert) == id || s.elder != nil && ID(s.elder.cert) == id
}

// Bundle is what callers verify the authority by: the certificates of all
// trusted CAs in PEM, first the one that signs. Do not change it.
func (ca *CA) Bundle() []byte { return ca.current.Load().bundle }

// Pool has all trusted CAs. The same pool means the same CAs; do not change it.
func (ca *CA) Pool() *x509.CertPool { return ca.current.Load().pool }

// Changed is closed when the trusted CAs are no longer those of now. Ask for it
// before what it guards.
func (ca *CA) Changed() <-chan struct{} { return ca.current.Load().changed }

// ID names a CA by its key: 16 hex digits of the key's SHA-256.
func ID(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:8])
}

// newSigner draws a CA with a certificate that it signs itself.
func newSigner(now time.Time, random io.Reader) (_ *signer, keyPEM []byte, err error) {
	key, keyPEM, err := newKey(random)
	if err != nil {
		return nil, nil, err
	}
	serial, err := newSerial(random)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		// The number tells CAs apart in a trust store.
		Subject:               pkix.Name{CommonName: fmt.Sprintf("Gatehouse CA %x", serial.FillBytes(make([]byte, 16))[:4])},
		NotBefore:             now.Add(-skew),
		NotAfter:              now.Add(CALife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLen:            1, // it may vouch for its successor
	}
	cert, err := sign(template, template, key.Public(), key, random)
	if err != nil {
		return nil, nil, fmt.Errorf("make CA certificate: %w", err)
	}
	return &signer{cert, key}, keyPEM, nil
}

// mayVouch reports whether s may sign for another CA: those made by versions
// that could not rotate may not.
func (s *signer) mayVouch() bool { return s.cert.MaxPathLen != 0 }

// vouch signs the certificate of another CA, which may sign leaves alone.
func (s *signer) vouch(other *x509.Certificate, random io.Reader) (*x509.Certificate, error) {
	serial, err := newSerial(random)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		RawSubject:            other.RawSubject,
		SubjectKeyId:          other.SubjectKeyId,
		NotBefore:             other.NotBefore,
		NotAfter:              other.NotAfter,
		KeyUsage:              other.KeyUsage,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	if template.NotAfter.After(s.cert.NotAfter) {
		template.NotAfter = s.cert.NotAfter
	}
	cert, err := sign(template, s.cert, other.PublicKey, s.key, random)
	if err != nil {
		return nil, fmt.Errorf("vouch for the new CA: %w", err)
	}
	return cert, nil
}

// issue signs a leaf for pub that is good for life from now, or as long as the
// CA if that is shorter. template holds who it is for and what it may do.
func (ca *CA) issue(by *signer, template *x509.Certificate, pub crypto.PublicKey, life time.Duration) (*x509.Certificate, error) {
	var err error
	if template.SerialNumber, err = newSerial(ca.random); err != nil {
		return nil, err
	}
	if template.SubjectKeyId, err = keyID(pub); err != nil {
		return nil, err
	}
	template.NotBefore = ca.now().Add(-skew)
	template.NotAfter = ca.now().Add(life)
	if template.NotAfter.After(by.cert.NotAfter) {
		template.NotAfter = by.cert.NotAfter
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.BasicConstraintsValid = true
	return sign(template, by.cert, pub, by.key, ca.random)
}

func sign(template, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer, random io.Reader) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(random, template, parent, pub, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func newKey(random io.Reader) (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), random)
	if err != nil {
		return nil, nil, fmt.Errorf("draw key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("encode key: %w", err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// newSerial draws 128 random bits; RFC 5280 section 4.1.2.2 forbids zero.
func newSerial(random io.Reader) (*big.Int, error) {
	var b [16]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return nil, fmt.Errorf("draw serial number: %w", err)
	}
	if b == [16]byte{} {
		return nil, errors.New("draw serial number: the random source gives only zeros")
	}
	return new(big.Int).SetBytes(b[:]), nil
}

// keyID makes the subject key identifier (RFC 7093 section 2, method 4).
func keyID(pub crypto.PublicKey) ([]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("encode public key: %w", err)
	}
	sum := sha256.Sum256(spki)
	return sum[:20], nil
}

// EncodeCertificate writes a certificate as PEM.
func EncodeCertificate(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}
