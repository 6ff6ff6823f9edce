package tlsfile

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
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
	old, err := os.Stat(certPath)
	if err != nil {
		return err
	}
	return Write(certPath, cert, old.Mode().Perm())
}

// Write puts text in the place of the file at path, in one step: it is written
// and synced under another name, then renamed.
func Write(path string, text []byte, mode fs.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".tmp-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ignoreMissing(os.Remove(f.Name())))
		}
	}()
	_, err = f.Write(text)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// syncFolder makes names that were changed in a folder last, where that can be
// asked for.
func syncFolder(dir string) error {
	if runtime.GOOS == "windows" { // has no sync of folders
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) { // nor have all file systems
		err = nil
	}
	return errors.Join(err, d.Close())
}
