package pki

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestBundleWrite(t *testing.T) {
	ca := newCA(t)
	first, second := newClient(t, ca, "a", 1), newClient(t, ca, "a", 2)
	root := t.TempDir()
	dir := filepath.Join(root, "new", "a")
	holds := func(want Bundle) {
		t.Helper()
		for name, text := range map[string][]byte{"tls.key": want.Key, "tls.crt": want.Cert, "ca.crt": want.CA} {
			if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(got, text) {
				t.Errorf("%s: %v", name, err)
			}
		}
		for name, want := range map[string]fs.FileMode{"tls.key": 0o600, "tls.crt": 0o644, "ca.crt": 0o644} {
			if got := mode(t, filepath.Join(dir, name)); got != want {
				t.Errorf("%s has mode %o, want %o", name, got, want)
			}
		}
	}
	if err := first.Write(dir, false); err != nil {
		t.Fatal(err)
	}
	holds(first)
	if got := mode(t, dir); got != 0o700 {
		t.Errorf("the folder has mode %o", got)
	}
	if err := second.Write(dir, false); !mentions(err, dir, "exists", "overwrite") {
		t.Error(err)
	}
	holds(first)
	if err := second.Write(dir, true); err != nil {
		t.Fatal(err)
	}
	holds(second)

	// Each of the files alone is enough to refuse; other files are left alone.
	for _, name := range []string{"ca.crt", "tls.crt", "tls.key"} {
		dir := filepath.Join(t.TempDir())
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := first.Write(dir, false); !mentions(err, path+" exists", "overwrite") {
			t.Errorf("%s: %v", name, err)
		}
		if list, err := os.ReadDir(dir); err != nil || len(list) != 1 {
			t.Errorf("beside %s: %v, %v", name, list, err)
		}
	}
	dir = t.TempDir() // as a mounted volume would be: it exists, and cannot be renamed
	if err := os.WriteFile(filepath.Join(dir, "notes"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := first.Write(dir, false); err != nil {
		t.Fatal(err)
	}
	holds(first)
	if text, err := os.ReadFile(filepath.Join(dir, "notes")); string(text) != "mine" {
		t.Errorf("notes: %q, %v", text, err)
	}
}

func TestBundleWriteRefusesWhatCannotWork(t *testing.T) {
	ca := newCA(t)
	good, other := newClient(t, ca, "a", 1), newClient(t, ca, "b", 1)
	for name, b := range map[string]Bundle{
		"another's key":  {Key: other.Key, Cert: good.Cert, CA: good.CA},
		"no certificate": {Key: good.Key, CA: good.CA},
		"no CA":          {Key: good.Key, Cert: good.Cert},
		"a key as CA":    {Key: good.Key, Cert: good.Cert, CA: good.Key},
	} {
		dir := filepath.Join(t.TempDir(), "c")
		err := b.Write(dir, true)
		if err == nil {
			t.Errorf("%s: written", name)
		} else if strings.Contains(err.Error(), "PRIVATE") {
			t.Errorf("%s: the error shows the key: %v", name, err)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s: a folder was made", name)
		}
	}
}

func TestFailedWriteChangesNothing(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a"), []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	// The second file cannot be staged.
	if err := replaceFiles(dir, []file{{"a", 0o600, []byte("new")}, {"b/c", 0o600, nil}}); err == nil {
		t.Fatal("no error")
	}
	if text, err := os.ReadFile(filepath.Join(dir, "a")); string(text) != "old" {
		t.Errorf("a holds %q, %v", text, err)
	}
	root := t.TempDir()
	if err := createFolder(filepath.Join(root, "d"), []file{{"a", 0o600, nil}, {"b/c", 0o600, nil}}); err == nil {
		t.Fatal("no error")
	}
	for _, dir := range []string{dir, root} {
		list, err := os.ReadDir(dir)
		for _, e := range list {
			if e.Name() != "a" {
				t.Errorf("left behind: %s, %v", e.Name(), err)
			}
		}
	}
}

func TestLeftoversAreHarmless(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "pki")
	leave := func(path string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("half a"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	leave(filepath.Join(root, ".pki.tmp-1", ".ca.key.tmp-1"))
	ca, err := Create(dir, testNow, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leave(filepath.Join(dir, ".server.crt.tmp-1"))
	leave(filepath.Join(dir, ".server.key.tmp-1"))
	if _, err := ca.EnsureServer(dir, []string{"localhost"}); err != nil {
		t.Error(err)
	}
	if _, err := Load(dir, testNow, rand.Reader); err != nil {
		t.Error(err)
	}
	creds := filepath.Join(root, "node")
	leave(filepath.Join(creds, ".tls.key.tmp-1"))
	if err := newClient(t, ca, "node", 1).Write(creds, false); err != nil {
		t.Error(err)
	}
}

// TestKilledWriters kills a process that makes CAs, server certificates and
// credentials, again and again: whatever folder or file then bears its proper
// name is whole.
func TestKilledWriters(t *testing.T) {
	if dir := os.Getenv("PKI_TEST_WRITE_INTO"); dir != "" {
		writeForever(t, dir)
	}
	cas, pairs, mixed := 0, 0, 0
	for round := range 20 {
		dir := t.TempDir()
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledWriters$")
		cmd.Env = append(os.Environ(), "PKI_TEST_WRITE_INTO="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 1)); err != nil { // it has begun
			t.Fatal(err)
		}
		time.Sleep(time.Duration(round) * 1700 * time.Microsecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		cmd.Wait()
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			switch {
			case strings.HasPrefix(e.Name(), "."): // never read
			case strings.HasPrefix(e.Name(), "ca-"):
				cas++
				if _, err := Load(path, testNow, rand.Reader); err != nil {
					t.Error(err)
				}
			case e.Name() == "server" || e.Name() == "client":
				name := map[string]string{"server": "server", "client": "tls"}[e.Name()]
				cert, certErr := os.ReadFile(filepath.Join(path, name+".crt"))
				key, keyErr := os.ReadFile(filepath.Join(path, name+".key"))
				if certErr != nil || keyErr != nil {
					if e.Name() == "client" { // appears whole
						t.Error(certErr, keyErr)
					}
					continue
				}
				pairs++
				decode(t, cert)
				decode(t, key)
				if _, err := tls.X509KeyPair(cert, key); err != nil {
					if mixed++; e.Name() == "server" || !strings.Contains(err.Error(), "does not match") {
						t.Error(err)
					}
				}
			}
		}
	}
	if cas == 0 || pairs == 0 {
		t.Errorf("looked at %d CAs and %d pairs: the test proves nothing", cas, pairs)
	}
	t.Logf("%d CAs, %d pairs, %d of them a key beside another's certificate", cas, pairs, mixed)
}

func writeForever(t *testing.T, dir string) {
	fmt.Println("began")
	for n := 0; ; n++ {
		ca, err := Create(filepath.Join(dir, fmt.Sprintf("ca-%d", n)), testNow, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ca.EnsureServer(filepath.Join(dir, "server"), []string{"localhost"}); err != nil {
			t.Fatal(err)
		}
		if err := newClient(t, ca, "a", uint32(n)).Write(filepath.Join(dir, "client"), true); err != nil {
			t.Fatal(err)
		}
	}
}
