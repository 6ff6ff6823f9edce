package tlsfile

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The CAs are those that the file has at each connection; while it does not load
// they stay, and the log hears of it once.
func TestRootsFollowTheFile(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	read := func(path string) []byte {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	put := func(text []byte) {
		if err := Write(at("ca.crt"), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	writePair(t, at("a.crt"), at("a.key"))
	writePair(t, at("b.crt"), at("b.key"))
	a, b := read(at("a.crt")), read(at("b.crt"))
	put(a)
	var log bytes.Buffer
	first, err := Pool(a)
	if err != nil {
		t.Fatal(err)
	}
	r := &roots{path: at("ca.crt"), log: slog.New(slog.NewTextHandler(&log, nil)), pool: first}
	holds := func(what string, text []byte) {
		t.Helper()
		want, err := Pool(text)
		if err != nil {
			t.Fatal(err)
		}
		if !r.current().Equal(want) {
			t.Errorf("%s: other CAs", what)
		}
	}
	holds("at first", a)
	holds("as before", a)
	put(append(bytes.Clone(a), b...))
	holds("two", append(bytes.Clone(a), b...))
	put(b)
	holds("the other", b)
	put([]byte("x"))
	holds("a bad file", b)
	holds("a bad file still", b)
	if err := os.Remove(at("ca.crt")); err != nil {
		t.Fatal(err)
	}
	holds("no file", b)
	if n := strings.Count(log.String(), "kept the CAs that were trusted"); n != 1 {
		t.Errorf("the log tells of it %d times:\n%s", n, log.String())
	}
	put(a)
	holds("mended", a)
	put([]byte("x"))
	holds("bad again", a)
	if n := strings.Count(log.String(), "kept the CAs that were trusted"); n != 2 {
		t.Errorf("the log tells of it %d times:\n%s", n, log.String())
	}

	if _, err := Credentials(at("nowhere"), "", "", time.Now, slog.Default()); err == nil {
		t.Error("credentials without a CA")
	}
	c, err := Credentials(at("a.crt"), at("a.crt"), at("a.key"), time.Now, slog.Default())
	if err != nil || c.Clone().Info().SecurityProtocol != "tls" {
		t.Errorf("credentials: %v", err)
	}
}
