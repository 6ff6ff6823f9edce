package main

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

func TestCredentialList(t *testing.T) {
	c := newCaller(t)
	c.authority.creds = []*pb.Credential{
		{Name: "alice", Role: pb.Role_ROLE_ADMIN, CreatedAt: ago(3 * time.Hour), Generation: 1},
		{Name: "login", Role: pb.Role_ROLE_ISSUER, Tenants: []string{"acme", "beta"}, Audiences: []string{"chat"}, MaxTtl: durationpb.New(2 * time.Minute),
			TokensPerSecond: 100, Disabled: true, CreatedAt: ago(time.Hour), ApiKey: true, Generation: 2},
	}
	c.check(c.run("", "credential", "list"), exitOK, `NAME   ROLE    CALLS WITH   STATE     TENANTS    AUDIENCES  MAX TTL  TOKENS/S  CREATED
alice  admin   certificate  enabled   any        any        -        -         3 h ago
login  issuer  API key      disabled  acme,beta  chat       2 min    100       60 min ago
`, "")
	got := c.run("", "credential", "list", "-ojson")
	if want := `{"name": "login", "role": "issuer", "tenants": ["acme", "beta"], "audiences": ["chat"], "max_ttl": "120s", "tokens_per_second": 100, ` +
		`"disabled": true, "created_at": "2026-11-23T11:00:00Z", "api_key": true, "generation": 2}`; !strings.Contains(got.stdout, want) {
		t.Errorf("no %s in\n%s", want, got.stdout)
	}
}

// checkCredential proves that a folder holds a certificate with its key.
func checkCredential(t *testing.T, dir string) {
	t.Helper()
	if _, err := tls.LoadX509KeyPair(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")); err != nil {
		t.Error(err)
	}
	if ca, err := os.ReadFile(filepath.Join(dir, "ca.crt")); err != nil || string(ca) != string(testCA().pem) {
		t.Errorf("ca.crt: %v", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 3 {
		t.Errorf("the folder holds %v, %v", entries, err)
	}
	info, err := os.Stat(filepath.Join(dir, "tls.key"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("tls.key: %v, %v", info.Mode(), err)
	}
}

func TestCredentialCreate(t *testing.T) {
	c := newCaller(t)
	dir := filepath.Join(c.dir, "new", "login")
	c.check(c.run("", "credential", "create", "login", "--role=issuer", "--tenant=acme", "--tenant=beta", "--audience=chat", "--max-ttl=2m",
		"--tokens-per-second=100", "--out", dir), exitOK, "issuer login: DIR/new/login, until 2027-11-23\n", "")
	checkCredential(t, dir)
	sent := requestsOf[*pb.CreateCredentialRequest](c.authority)[0]
	want := &pb.Credential{Name: "login", Role: pb.Role_ROLE_ISSUER, Tenants: []string{"acme", "beta"}, Audiences: []string{"chat"}, MaxTtl: durationpb.New(2 * time.Minute), TokensPerSecond: 100}
	if !proto.Equal(sent.GetCredential(), want) {
		t.Errorf("sent %v", sent.GetCredential())
	}

	// What was written is what calls are made with.
	made := c.with("GATEHOUSE_CERT_FILE="+filepath.Join(dir, "tls.crt"), "GATEHOUSE_KEY_FILE="+filepath.Join(dir, "tls.key"), "GATEHOUSE_CA_FILE="+filepath.Join(dir, "ca.crt"))
	c.check(made.run("", "config", "check"), exitOK, "ok: ADDRESS with the certificate of login in DIR/new/login/tls.crt, which ends on 2027-11-23\n", "")
	if got := made.run("", "node", "list"); got.code != exitOK {
		t.Errorf("%+v", got)
	}

	before := readAll(t, dir)
	c.check(c.run("", "credential", "create", "login", "--role=issuer", "--out", dir), exitUsage, "",
		"gatehouse: error: --out: DIR/new/login/tls.key exists already\ngatehouse: hint: name another folder; reissue can --replace\n")
	if n := len(requestsOf[*pb.CreateCredentialRequest](c.authority)); n != 1 || readAll(t, dir) != before {
		t.Error("a credential was made, or files were changed")
	}
}

func readAll(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	for _, name := range []string{"tls.key", "tls.crt", "ca.crt"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		all.Write(b)
	}
	return all.String()
}

func TestCredentialReissue(t *testing.T) {
	c := newCaller(t)
	dir := filepath.Join(c.dir, "node-2")
	for _, args := range [][]string{{"credential", "create", "node-2", "--role=node", "--out", dir}, {"credential", "reissue", "node-2", "--out", dir, "--replace"}} {
		c.check(c.run("", args...), exitOK, "node node-2: DIR/node-2, until 2027-11-23\n", "")
		checkCredential(t, dir)
	}
	if got := c.run("", "credential", "reissue", "node-2", "--out", dir); got.code != exitUsage {
		t.Errorf("%+v", got)
	}
	checkCredential(t, dir)
}

// A caller renews its certificate in place: the key stays, and the CAs that the
// authority tells of come first.
func TestCredentialRenew(t *testing.T) {
	c := newCaller(t)
	dir := filepath.Join(c.dir, "alice")
	c.check(c.run("", "credential", "create", "alice", "--role=admin", "--out", dir), exitOK, "admin alice: DIR/alice, until 2027-11-23\n", "")
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	cert, key, ca := read("tls.crt"), read("tls.key"), read("ca.crt")
	made := c.with("GATEHOUSE_CERT_FILE="+filepath.Join(dir, "tls.crt"), "GATEHOUSE_KEY_FILE="+filepath.Join(dir, "tls.key"), "GATEHOUSE_CA_FILE="+filepath.Join(dir, "ca.crt"))
	c.check(made.run("", "credential", "renew"), exitOK, "DIR/alice/tls.crt: until 2027-11-23\n", "")
	if read("tls.crt") == cert || read("tls.key") != key || read("ca.crt") != ca {
		t.Error("not the certificate alone was renewed")
	}
	if block, _ := pem.Decode([]byte(read("tls.crt"))); !bytes.Equal(c.authority.lastShown().Raw, block.Bytes) {
		t.Error("the authority was not shown the new certificate")
	}
	c.authority.caPEM = ca + ca
	c.check(made.run("", "credential", "renew"), exitOK, "DIR/alice/tls.crt: until 2027-11-23\n", "")
	if read("ca.crt") != ca+ca {
		t.Error("the CAs are not kept")
	}
	if info, err := os.Stat(filepath.Join(dir, "ca.crt")); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("ca.crt: %v, %v", info.Mode(), err)
	}
	cert = read("tls.crt")
	c.authority.errs["Check"] = withReason(codes.Unavailable, pb.Reason_REASON_STOPPING, "the authority stops")
	if got := made.run("", "credential", "renew"); got.code != exitUnavailable || got.stdout != "" || read("tls.crt") == cert ||
		!strings.HasPrefix(got.stderr, "gatehouse: error: the certificate is renewed, but a call with it failed: the authority stops\n") {
		t.Errorf("%+v", got)
	}
	delete(c.authority.errs, "Check")
	cert, c.authority.caPEM = read("tls.crt"), "x"
	if got := made.run("", "credential", "renew"); got.code != exitFailure || !strings.Contains(got.stderr, "what the authority tells of its CAs holds no certificate") || read("tls.crt") != cert {
		t.Errorf("%+v", got)
	}
	keyFile := filepath.Join(c.dir, "api.key")
	if err := os.WriteFile(keyFile, []byte(testAPIKey), 0o600); err != nil {
		t.Fatal(err)
	}
	c.check(c.with("GATEHOUSE_CERT_FILE=", "GATEHOUSE_KEY_FILE=", "GATEHOUSE_API_KEY_FILE="+keyFile).run("", "credential", "renew"), exitUsage, "",
		"gatehouse: error: calls show an API key, which does not end\ngatehouse: hint: gatehouse credential reissue makes another API key, or a certificate\n")
}

func TestAPIKeyIsPrintedOnce(t *testing.T) {
	c := newCaller(t)
	c.check(c.run("", "credential", "create", "ci", "--role=issuer", "--api-key"), exitOK, testAPIKey+"\n", "gatehouse: API key of issuer ci, shown once; its caller also needs the CA, DIR/ca.crt\n")
	got := c.run("", "credential", "reissue", "ci", "--api-key", "-ojson")
	if got.code != exitOK || strings.Count(got.stdout, testAPIKey) != 1 || got.stderr != "" {
		t.Errorf("%+v", got)
	}
	for _, r := range requestsOf[*pb.CreateCredentialRequest](c.authority) {
		if len(r.GetCertificateRequest()) != 0 {
			t.Error("a certificate was asked for")
		}
	}
}

func TestCredentialUsage(t *testing.T) {
	c := newCaller(t)
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"create", "x", "--out=d"}, "--role is required"},
		{[]string{"create", "x", "--role=admin"}, "say where the certificate goes with --out, or ask for an API key with --api-key"},
		{[]string{"create", "x", "--role=admin", "--out=d", "--api-key"}, "--out is for certificates, and --api-key prints a key: give one of them"},
		{[]string{"create", "x", "--role=issuer", "--max-ttl=-1s", "--api-key"}, "--max-ttl: -1s is not above 0"},
		{[]string{"create", "x", "--role=issuer", "--max-ttl=0s", "--api-key"}, "--max-ttl: 0s is not above 0"},
		{[]string{"create", "--role=admin", "--api-key"}, "gatehouse credential create takes one argument, a name, but got 0"},
		{[]string{"reissue", "x", "--api-key", "--replace"}, "--replace is about the files in --out"},
		{[]string{"disable", "x"}, "--reason is required"},
		{[]string{"enable", "x"}, "--reason is required"},
	} {
		got := c.run("", append([]string{"credential"}, tc.args...)...)
		if got.code != exitUsage || got.stdout != "" || !strings.HasPrefix(got.stderr, "gatehouse: error: "+tc.want+"\n") {
			t.Errorf("%v: %+v", tc.args, got)
		}
	}
}

// Neither a refusal nor an odd answer leaves anything behind, and a key that was
// certified is not lost for want of a folder.
func TestFailedCredentialLeavesNothing(t *testing.T) {
	c := newCaller(t)
	dir := filepath.Join(c.dir, "taken")
	c.authority.errs["CreateCredential"] = withReason(codes.AlreadyExists, pb.Reason_REASON_ALREADY_EXISTS, `credential.name: "taken" is taken`)
	c.check(c.run("", "credential", "create", "taken", "--role=admin", "--out", dir), exitFailure, "", "gatehouse: error: credential.name: \"taken\" is taken\n")
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder stands: %v", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	c.run("", "credential", "create", "taken", "--role=admin", "--out", dir)
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("the folder holds %v, %v", entries, err)
	}

	file := filepath.Join(c.dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	before := len(requestsOf[*pb.CreateCredentialRequest](c.authority))
	if got := c.run("", "credential", "create", "x", "--role=admin", "--out", filepath.Join(file, "sub")); got.code == exitOK {
		t.Errorf("%+v", got)
	}
	if len(requestsOf[*pb.CreateCredentialRequest](c.authority)) != before {
		t.Error("a credential was made that can't be written")
	}
}

func TestCredentialSwitch(t *testing.T) {
	c := newCaller(t)
	c.check(c.run("", "credential", "disable", "login", "--reason=leaked"), exitOK, "disabled: issuer login\n", "")
	c.check(c.run("", "credential", "enable", "login", "--reason=false alarm"), exitOK, "enabled: issuer login\n", "")
	if got := c.run("", "credential", "disable", "login", "--reason=leaked", "-ojson"); !strings.Contains(got.stdout, "\"disabled\": true") {
		t.Errorf("%+v", got)
	}
}
