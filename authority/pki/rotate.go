package pki

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gatehouse-ws/gatehouse/tlsfile"
)

// The files of a CA's folder. ca.crt alone says which CAs there are: it has the
// certificates of all that are trusted, first the one that signs. So the rename
// that replaces it makes each change whole, and files of CAs that it does not
// name are left over.
const (
	caCertFile = "ca.crt"
	caKeyFile  = "ca.key" // of the CA that the folder was made with
	ofCA       = "ca-"    // begins names of files of later ones, before their ID
	keyOf      = ".key"
	vouchedOf  = ".vouched.crt"
)

var (
	// ErrRotating says that the CA has an elder already.
	ErrRotating = errors.New("the CA before this one is trusted still: retire that first")
	// ErrNoElder says that it has none.
	ErrNoElder = errors.New("no CA but the one that signs is trusted: there is none to retire")
)

// Create makes a CA in the folder dir, which must be missing or empty: it
// overwrites nothing. The folder appears with both its files or, after a crash,
// not at all.
func Create(dir string, now func() time.Time, random io.Reader) (*CA, error) {
	s, keyPEM, err := newSigner(now(), random)
	if err != nil {
		return nil, err
	}
	err = createFolder(dir, []file{{caCertFile, 0o644, EncodeCertificate(s.cert)}, {caKeyFile, 0o600, keyPEM}})
	if err != nil {
		return nil, fmt.Errorf("create CA: %w", err)
	}
	return Load(dir, now, random)
}

// Load opens the CA that Create made in dir. It refuses a key that others than
// its owner may read, a pair that does not belong together, and a certificate
// that is no CA's or, of the one that signs, not valid now.
func Load(dir string, now func() time.Time, random io.Reader) (*CA, error) {
	ca := &CA{dir: dir, now: now, random: random}
	s, err := ca.load()
	if err != nil {
		return nil, fmt.Errorf("load CA: %w", err)
	}
	certPath := filepath.Join(dir, caCertFile)
	switch t := now(); {
	case t.Before(s.cert.NotBefore):
		return nil, fmt.Errorf("load CA: %s is valid only from %s: check this machine's clock", certPath, s.cert.NotBefore.Format(time.RFC3339))
	case t.After(s.cert.NotAfter):
		return nil, fmt.Errorf("load CA: %s ended on %s, and all certificates with it: move %s and the first admin's folder away, make both anew with gatehouse-authority init, and enroll all callers with --replace",
			certPath, s.cert.NotAfter.Format(time.RFC3339), dir)
	}
	ca.current.Store(s)
	return ca, nil
}

func (ca *CA) load() (*standing, error) {
	certPath := filepath.Join(ca.dir, caCertFile)
	text, err := tlsfile.Read(certPath, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: make one with gatehouse-authority init", err)
	}
	if err != nil {
		return nil, err
	}
	certs, err := tlsfile.Certificates(text)
	if err != nil {
		return nil, fmt.Errorf("%s %w: restore the folder from a backup", certPath, err)
	}
	if len(certs) > 2 {
		return nil, fmt.Errorf("%s has %d certificates; there are at most 2 CAs: restore the folder from a backup", certPath, len(certs))
	}
	s := &standing{pool: x509.NewCertPool(), changed: make(chan struct{})}
	for i, cert := range certs {
		if !cert.BasicConstraintsValid || !cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign == 0 {
			return nil, fmt.Errorf("%s is not the certificate of a CA", certPath)
		}
		s.bundle = append(s.bundle, EncodeCertificate(cert)...)
		s.pool.AddCert(cert)
		loaded := signer{cert: cert}
		if loaded.key, err = ca.loadKey(cert); err != nil {
			return nil, err
		}
		if i == 0 {
			s.signer = loaded
		} else {
			s.elder = &loaded
		}
	}
	if s.elder != nil {
		if s.vouched, err = ca.loadVouched(s); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// keyPath is where the key of a CA lies.
func (ca *CA) keyPath(cert *x509.Certificate) string {
	own := filepath.Join(ca.dir, ofCA+ID(cert)+keyOf)
	if _, err := os.Lstat(own); errors.Is(err, fs.ErrNotExist) {
		return filepath.Join(ca.dir, caKeyFile)
	}
	return own
}

func (ca *CA) loadKey(cert *x509.Certificate) (crypto.Signer, error) {
	path := ca.keyPath(cert)
	text, err := tlsfile.Read(path, 0o077)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: restore the folder from a backup", err)
	}
	if err != nil {
		return nil, err
	}
	if block, _ := pem.Decode(text); block != nil {
		if key, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
			own, comparable := cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
			if s, ok := key.(crypto.Signer); ok && comparable && own.Equal(s.Public()) {
				return s, nil
			}
		}
	}
	return nil, fmt.Errorf("%s and %s are not a certificate and its key in PEM: restore both from one backup", filepath.Join(ca.dir, caCertFile), path)
}

// loadVouched reads how the elder vouches for the signer; nil where it does not.
func (ca *CA) loadVouched(s *standing) (*x509.Certificate, error) {
	path := filepath.Join(ca.dir, ofCA+ID(s.cert)+vouchedOf)
	text, err := tlsfile.Read(path, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	certs, err := tlsfile.Certificates(text)
	if err != nil || len(certs) != 1 || certs[0].CheckSignatureFrom(s.elder.cert) != nil || ID(certs[0]) != ID(s.cert) || !bytes.Equal(certs[0].RawSubject, s.cert.RawSubject) {
		return nil, fmt.Errorf("%s is not the certificate by which the CA before this one vouches for it: restore the folder from a backup", path)
	}
	return certs[0], nil
}

// Rotate makes a new CA, which signs from now on; the one that did so until now
// stays trusted until Retire. After a crash there is the one or the other. With
// an elder already, the error is ErrRotating.
func (ca *CA) Rotate() error {
	ca.changing.Lock()
	defer ca.changing.Unlock()
	s := ca.current.Load()
	if s.elder != nil {
		return ErrRotating
	}
	next, keyPEM, err := newSigner(ca.now(), ca.random)
	if err != nil {
		return fmt.Errorf("rotate CA: %w", err)
	}
	name := ofCA + ID(next.cert)
	files := []file{{name + keyOf, 0o600, keyPEM}}
	if s.mayVouch() {
		vouched, err := s.vouch(next.cert, ca.random)
		if err != nil {
			return fmt.Errorf("rotate CA: %w", err)
		}
		files = append(files, file{name + vouchedOf, 0o644, EncodeCertificate(vouched)})
	}
	ca.tidy(s)
	if err := replaceFiles(ca.dir, files); err != nil {
		return fmt.Errorf("rotate CA: %w", err)
	}
	return ca.replace("rotate", append(EncodeCertificate(next.cert), EncodeCertificate(s.cert)...))
}

// SignerOf is the ID of the trusted CA that has signed cert; empty where none has.
func (ca *CA) SignerOf(cert *x509.Certificate) string {
	for _, t := range ca.Trusted() {
		if cert.CheckSignatureFrom(t.Cert) == nil {
			return ID(t.Cert)
		}
	}
	return ""
}

// Retire ends the trust in the elder: its certificates are worth nothing any
// more. Without one, the error is ErrNoElder.
func (ca *CA) Retire() error {
	ca.changing.Lock()
	defer ca.changing.Unlock()
	s := ca.current.Load()
	if s.elder == nil {
		return ErrNoElder
	}
	return ca.replace("retire", EncodeCertificate(s.cert))
}

// replace puts bundle in the place of ca.crt, and what the folder then holds
// into force: what an error left behind too.
func (ca *CA) replace(what string, bundle []byte) error {
	err := replaceFiles(ca.dir, []file{{caCertFile, 0o644, bundle}})
	next, loadErr := ca.load()
	if loadErr == nil {
		if old := ca.current.Load(); !bytes.Equal(old.bundle, next.bundle) {
			ca.current.Store(next)
			close(old.changed)
		}
		ca.tidy(next)
	}
	if err = errors.Join(err, loadErr); err != nil {
		return fmt.Errorf("%s CA: %w", what, err)
	}
	return nil
}

// tidy removes files of CAs that are not trusted: of retired ones, and what a
// crash has left of one that was never in force.
func (ca *CA) tidy(s *standing) {
	keep := map[string]bool{filepath.Base(ca.keyPath(s.cert)): true, ofCA + ID(s.cert) + vouchedOf: s.elder != nil}
	if s.elder != nil {
		keep[filepath.Base(ca.keyPath(s.elder.cert))] = true
	}
	list, _ := os.ReadDir(ca.dir) // what stays is never read
	for _, e := range list {
		name := e.Name()
		if name == caKeyFile || strings.HasPrefix(name, ofCA) && (strings.HasSuffix(name, keyOf) || strings.HasSuffix(name, vouchedOf)) {
			if !keep[name] {
				_ = os.Remove(filepath.Join(ca.dir, name))
			}
		}
	}
}
