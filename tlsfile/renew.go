package tlsfile

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Renew replaces the certificate in certPath by one that ask gets for the same
// key: of a PKCS #10 request in DER it makes a certificate, or chain, in PEM.
// The key stays, so that one rename makes the change: whoever reads the files
// finds a pair before and after it. The file keeps its mode.
func Renew(certPath, keyPath string, ask func(csr []byte) (certPEM []byte, err error)) error {
	pair, err := LoadPair(certPath, keyPath, othersMode)
	if err != nil {
		return err
	}
	key, ok := pair.PrivateKey.(crypto.Signer)
	if !ok {
		return fmt.Errorf("%s holds a key that cannot sign a request", keyPath)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return fmt.Errorf("make certificate request: %w", err)
	}
	cert, err := ask(csr)
	if err != nil {
		return err
	}
	keyPEM, err := Read(keyPath, othersMode)
	if err != nil {
		return err
	}
	if _, err := tls.X509KeyPair(cert, keyPEM); err != nil {
		return fmt.Errorf("the new certificate is not of %s: %w", keyPath, err)
	}
	return replace(certPath, cert)
}

// replace writes a file beside the one at path and renames it over that.
func replace(path string, text []byte) (err error) {
	old, err := os.Stat(path)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".tmp-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(text)
	if err = errors.Join(err, f.Chmod(old.Mode().Perm()), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
