package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-ws/gatehouse/authority/pki"
	"github.com/gatehouse-ws/gatehouse/tlsfile"
)

// signedBy reads the name of the CA of a certificate.
func signedBy(t *testing.T, dir string) string {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"))
	if err != nil {
		t.Fatal(err)
	}
	return pair.Leaf.Issuer.CommonName
}

func certificates(t *testing.T, path string) []*x509.Certificate {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	certs, err := tlsfile.Certificates(text)
	if err != nil {
		t.Fatal(err)
	}
	return certs
}

func TestRotateCA(t *testing.T) {
	state, config := filepath.Join(t.TempDir(), "state"), filepath.Join(t.TempDir(), "authority.yaml")
	if err := os.WriteFile(config, []byte("state: "+state+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ca, admin := filepath.Join(state, "ca", "ca.crt"), filepath.Join(state, "credentials", "admin")
	run := func(code int, says []string, args ...string) string {
		t.Helper()
		return try(t, code, says, append(args, "--config", config)...)
	}
	run(0, nil, "init")
	run(0, nil, "enroll", "node", "node-1")
	run(0, nil, "enroll", "issuer", "ci", "--api-key")
	if out := run(0, []string{"signs"}, "ca", "list"); strings.Contains(out, "retired") {
		t.Errorf("before: %s", out)
	}
	if out := run(0, []string{"ok"}, "config", "check"); strings.Contains(out, "warning") {
		t.Errorf("before: %s", out)
	}
	first := certificates(t, ca)[0]

	run(2, []string{"gatehouse-authority ca needs a command"}, "ca")
	run(2, []string{"--reason is required"}, "ca", "rotate")
	run(2, []string{"--reason is required"}, "ca", "retire", "--yes")
	run(2, []string{"for good", "hint: --yes does it"}, "ca", "retire", "--reason", "x")
	run(1, []string{"there is none to retire", "hint: gatehouse-authority ca list"}, "ca", "retire", "--reason", "x", "--yes")
	run(0, []string{"rotated: Gatehouse CA ", "signs from now on"}, "ca", "rotate", "--reason", "yearly")
	trusted := certificates(t, ca)
	if len(trusted) != 2 || !trusted[1].Equal(first) {
		t.Fatalf("trusted are %d", len(trusted))
	}
	second := trusted[0].Subject.CommonName
	if got := signedBy(t, admin); got != second {
		t.Errorf("the first admin's certificate is of %s", got)
	}
	run(1, []string{"retire that first", "hint: gatehouse-authority ca list"}, "ca", "rotate", "--reason", "again")
	run(0, []string{first.Subject.CommonName + " is trusted still"}, "config", "check")
	run(0, []string{"to be retired", "who depends on the one to be retired (1):\n  node-1  node  until ", "who calls with an API key (1), and must have the new ca.crt:\n  ci\n"}, "ca", "list")
	var list struct {
		CAs []struct {
			Name  string `json:"name"`
			Signs bool   `json:"signs"`
		} `json:"cas"`
		Dependents []struct{ Name, Role string } `json:"dependents"`
	}
	if out := run(0, nil, "ca", "list", "-o", "json"); json.Unmarshal([]byte(out), &list) != nil || len(list.CAs) != 2 || list.CAs[0].Name != second || !list.CAs[0].Signs ||
		len(list.Dependents) != 1 || list.Dependents[0].Name != "node-1" {
		t.Errorf("in JSON: %s", out)
	}
	run(1, []string{"whoever depends on it could not call any more: node-1; renew"}, "ca", "retire", "--reason", "done", "--yes")

	// Reissued, it does not depend on it any more.
	run(0, nil, "enroll", "node", "node-1", "--replace")
	if got := signedBy(t, filepath.Join(state, "credentials", "node-1")); got != second {
		t.Errorf("a new certificate is of %s", got)
	}
	run(0, []string{"no credential depends on"}, "ca", "list")
	run(0, []string{"retired: " + first.Subject.CommonName + " is trusted no more"}, "ca", "retire", "--reason", "done", "--yes")
	if got := certificates(t, ca); len(got) != 1 || got[0].Subject.CommonName != second {
		t.Errorf("trusted are %v", got)
	}
	run(0, nil, "ca", "list")
	if got := certificates(t, filepath.Join(admin, "ca.crt")); len(got) != 1 || got[0].Subject.CommonName != second {
		t.Errorf("the first admin trusts %d CAs", len(got))
	}

	// By force it is said who is cut off.
	run(0, nil, "ca", "rotate", "--reason", "stolen")
	run(0, []string{"1 depended on it and can't call"}, "ca", "retire", "--reason", "stolen", "--force", "--yes")
}

// A first admin whose certificate another's rotation has left behind is made anew
// as init makes it.
func TestFirstAdminLeftBehind(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	try(t, 0, nil, "init", "--state", state)
	old := filepath.Join(t.TempDir(), "old")
	if err := os.CopyFS(old, os.DirFS(filepath.Join(state, "credentials", "admin"))); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"ca", "rotate", "--reason", "x"}, {"ca", "retire", "--reason", "x", "--yes"}} {
		try(t, 0, nil, append(args, "--state", state)...)
	}
	admin := filepath.Join(state, "credentials", "admin")
	if err := os.RemoveAll(admin); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(admin, os.DirFS(old)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(admin, "tls.key"), 0o600); err != nil {
		t.Fatal(err)
	}
	try(t, 1, []string{admin + "/tls.crt is of a CA that is not trusted any more", "hint: stop the authority, remove " + admin}, "ca", "list", "--state", state)
	if err := os.RemoveAll(admin); err != nil {
		t.Fatal(err)
	}
	try(t, 0, []string{"admin credential:"}, "init", "--state", state)
	try(t, 0, nil, "ca", "list", "--state", state)
}

// config check tells of a CA that is about to end.
func TestConfigCheckWarnsOfTheCA(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	try(t, 0, nil, "init", "--state", state)
	if err := os.RemoveAll(filepath.Join(state, "ca")); err != nil {
		t.Fatal(err)
	}
	long := time.Now().Add(-pki.CALife + 100*24*time.Hour)
	if _, err := pki.Create(filepath.Join(state, "ca"), func() time.Time { return long }, strings.NewReader(strings.Repeat("x", 100))); err != nil {
		t.Fatal(err)
	}
	try(t, 0, []string{"gatehouse-authority: warning: Gatehouse CA 78787878 ends on " + long.Add(pki.CALife).UTC().Format(time.DateOnly), "ca rotate makes its successor", ": ok"},
		"config", "check", "--state", state)
}
