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
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"path/filepath"
	"time"

	"github.com/gatehouse-ws/gatehouse/tlsfile"
)

const (
	// CALife is how long a CA certificate is good for.
	CALife = 10 * 365 * 24 * time.Hour
	// ServerLife is how long a server certificate is good for.
	ServerLife = 365 * 24 * time.Hour
	// ClientLife is how long a client certificate is good for by default.
	ClientLife = 365 * 24 * time.Hour

	// The files of a CA's folder.
	caCertFile = "ca.crt"
	caKeyFile  = "ca.key"

	// skew is how far in the past certificates begin, for peers whose clocks
	// are behind.
	skew = 5 * time.Minute
)

// CA signs certificates. It is safe for concurrent use if its random reader
// is.
type CA struct {
	Cert *x509.Certificate
	PEM  []byte // of Cert, as ca.crt has it

	key    crypto.Signer
	now    func() time.Time
	random io.Reader
}

// Create makes a CA in the folder dir, which must be missing or empty: it
// overwrites nothing. The folder appears with both its files or, after a crash,
// not at all.
func Create(dir string, now func() time.Time, random io.Reader) (*CA, error) {
	key, keyPEM, err := newKey(random)
	if err != nil {
		return nil, err
	}
	serial, err := newSerial(random)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		// The number tells CAs of several installations apart in a trust store.
		Subject:               pkix.Name{CommonName: fmt.Sprintf("Gatehouse CA %x", serial.FillBytes(make([]byte, 16))[:4])},
		NotBefore:             now().Add(-skew),
		NotAfter:              now().Add(CALife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	cert, err := sign(template, template, key.Public(), key, random)
	if err != nil {
		return nil, fmt.Errorf("make CA certificate: %w", err)
	}
	certPEM := EncodeCertificate(cert)
	err = createFolder(dir, []file{{caCertFile, 0o644, certPEM}, {caKeyFile, 0o600, keyPEM}})
	if err != nil {
		return nil, fmt.Errorf("create CA: %w", err)
	}
	return &CA{cert, certPEM, key, now, random}, nil
}

// Load opens the CA that Create made in dir. It refuses a key that others than
// its owner may read, a pair that does not belong together, and a certificate
// that is no CA's or not valid now.
func Load(dir string, now func() time.Time, random io.Reader) (*CA, error) {
	certPath, keyPath := filepath.Join(dir, caCertFile), filepath.Join(dir, caKeyFile)
	pair, err := tlsfile.LoadPair(certPath, keyPath, 0o077)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("load CA: %w: make one with gatehouse-authority init", err)
	}
	if err != nil {
		return nil, fmt.Errorf("load CA: %w", err)
	}
	cert, t := pair.Leaf, now()
	key, canSign := pair.PrivateKey.(crypto.Signer)
	switch {
	case !cert.BasicConstraintsValid || !cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign == 0 || !canSign:
		return nil, fmt.Errorf("load CA: %s is not the certificate of a CA", certPath)
	case t.Before(cert.NotBefore):
		return nil, fmt.Errorf("load CA: %s is valid only from %s: check this machine's clock", certPath, cert.NotBefore.Format(time.RFC3339))
	case t.After(cert.NotAfter):
		return nil, fmt.Errorf("load CA: %s ended on %s: make a new CA in another folder and enroll its credentials", certPath, cert.NotAfter.Format(time.RFC3339))
	}
	return &CA{cert, EncodeCertificate(cert), key, now, random}, nil
}

// issue signs a leaf for pub that is good for life from now, or as long as the
// CA if that is shorter. template holds who it is for and what it may do.
func (ca *CA) issue(template *x509.Certificate, pub crypto.PublicKey, life time.Duration) (*x509.Certificate, error) {
	var err error
	if template.SerialNumber, err = newSerial(ca.random); err != nil {
		return nil, err
	}
	if template.SubjectKeyId, err = keyID(pub); err != nil {
		return nil, err
	}
	template.NotBefore = ca.now().Add(-skew)
	template.NotAfter = ca.now().Add(life)
	if template.NotAfter.After(ca.Cert.NotAfter) {
		template.NotAfter = ca.Cert.NotAfter
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.BasicConstraintsValid = true
	return sign(template, ca.Cert, pub, ca.key, ca.random)
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
