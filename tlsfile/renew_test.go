package tlsfile

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// sign answers a request with a certificate for its key that ends at.
func sign(t *testing.T, csr []byte, at time.Time) []byte {
	t.Helper()
	req, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	writePair(t, filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key"))
	ca, err := tls.LoadX509KeyPair(filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(2), NotAfter: at}, ca.Leaf, req.PublicKey, ca.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestRenew(t *testing.T) {
	dir := t.TempDir()
	certPath, keyPath := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	writePair(t, certPath, keyPath)
	if err := os.Chmod(certPath, 0o644); err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(keyPath)
	if err != nil {
		t.Fatal(err)
	}
	end := time.Now().Add(1000 * time.Hour).Truncate(time.Second)
	if err := Renew(certPath, keyPath, func(csr []byte) ([]byte, error) { return sign(t, csr, end), nil }); err != nil {
		t.Fatal(err)
	}
	check := func() {
		t.Helper()
		pair, err := LoadPair(certPath, keyPath, othersMode)
		if err != nil || !pair.Leaf.NotAfter.Equal(end) {
			t.Fatalf("the pair ends at %v, want %v: %v", pair.Leaf.NotAfter, end, err)
		}
		if after, err := os.ReadFile(keyPath); err != nil || string(after) != string(key) {
			t.Fatal("the key has changed")
		}
		if info, err := os.Stat(certPath); err != nil || info.Mode().Perm() != 0o644 {
			t.Fatalf("mode %v, %v", info.Mode(), err)
		}
		if files, err := os.ReadDir(dir); err != nil || len(files) != 2 {
			t.Fatalf("%d files are left, %v", len(files), err)
		}
	}
	check()

	// What fails leaves everything as it was.
	refused := errors.New("refused")
	other := t.TempDir()
	writePair(t, filepath.Join(other, "a"), filepath.Join(other, "b"))
	foreign, err := os.ReadFile(filepath.Join(other, "a"))
	if err != nil {
		t.Fatal(err)
	}
	for name, ask := range map[string]func([]byte) ([]byte, error){
		"refused":                     func([]byte) ([]byte, error) { return nil, refused },
		"no certificate":              func([]byte) ([]byte, error) { return []byte("x"), nil },
		"a certificate of other keys": func([]byte) ([]byte, error) { return foreign, nil },
	} {
		if err := Renew(certPath, keyPath, ask); err == nil || name == "refused" && !errors.Is(err, refused) {
			t.Errorf("%s: %v", name, err)
		}
		check()
	}
}
