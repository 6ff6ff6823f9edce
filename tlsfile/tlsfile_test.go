package tlsfile

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestSameFileSeesARename(t *testing.T) {
	var seen []os.FileInfo
	for _, name := range []string{"old", "new"} {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte("same size"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Unix(1, 0), time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, info)
	}
	if sameFile(seen[0], seen[1]) || !sameFile(seen[0], seen[0]) || sameFile(seen[0], nil) || !sameFile(nil, nil) {
		t.Error("a file renamed over another, of the same size and time, is not seen")
	}
}

// writePair writes a certificate that signs itself, and its key.
func writePair(t *testing.T, certPath, keyPath string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{certPath: {Type: "CERTIFICATE", Bytes: cert}, keyPath: {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// Loading may fail for a while for reasons that are not in the files.
func TestFailedReloadIsTriedAgain(t *testing.T) {
	dir := t.TempDir()
	certPath, keyPath := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	writePair(t, certPath, keyPath)
	now := time.Now()
	var lines bytes.Buffer
	r, err := newReloader(certPath, keyPath, func() time.Time { return now }, slog.New(slog.NewTextHandler(&lines, nil)))
	if err != nil {
		t.Fatal(err)
	}
	old := r.pair
	writePair(t, certPath, keyPath)
	r.seen, r.retryAt = r.look(), now.Add(retryAfter) // as after a failed attempt
	if r.current() != old {
		t.Error("tried again at once")
	}
	now = now.Add(retryAfter)
	if r.current() == old || !r.retryAt.IsZero() {
		t.Error("not tried again")
	}
}
