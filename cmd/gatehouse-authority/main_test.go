package main

import (
	"bytes"
	"context"
	"flag"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatehouse-ws/gatehouse/cmd/internal/authorityd"
)

var update = flag.Bool("update", false, "write docs/authority.md anew")

// docs/authority.md is what the program itself says of its settings.
func TestReferencePage(t *testing.T) {
	var page, stderr bytes.Buffer
	if code := run(context.Background(), []string{"config", "reference"}, nil, &page, &stderr); code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr.String())
	}
	const path = "../../docs/authority.md"
	if *update {
		if err := os.WriteFile(path, page.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	written, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(written, page.Bytes()) {
		t.Errorf("%s is out of date: go test ./cmd/gatehouse-authority -update", path)
	}
}

func TestCommandLine(t *testing.T) {
	for _, c := range []struct {
		rule string
		args []string
		env  []string
		code int
		want string
	}{
		{"version says what runs", []string{"version"}, nil, 0, "gatehouse-authority 0."},
		{"help shows examples", []string{"--help"}, nil, 0, "Examples:"},
		{"so does --version", []string{"--version"}, nil, 0, "gatehouse-authority 0."},
		{"an unknown command is a usage error", []string{"strat"}, nil, 2, `has no command "strat"`},
		{"and so is one below another", []string{"config", "chekc"}, nil, 2, `gatehouse-authority config has no command "chekc"`},
		{"help of an unknown command is one too", []string{"help", "nope"}, nil, 2, `no command is called "nope"`},
		{"help of a known one is not", []string{"help", "config"}, nil, 0, "gatehouse-authority config [command]"},
		{"a command that does nothing by itself says so", []string{"config"}, nil, 2, "gatehouse-authority config needs a command"},
		{"an unknown shell is a usage error", []string{"completion", "nope"}, nil, 2, `gatehouse-authority completion has no command "nope"`},
		{"a known shell is not", []string{"completion", "bash"}, nil, 0, "gatehouse-authority"},
		{"no files are offered where none are taken", []string{"__complete", "config", "check", ""}, nil, 0, ":4\n"},
		{"an argument too many is a usage error", []string{"config", "check", "x"}, nil, 2, `takes no argument, but got "x"`},
		{"an unknown flag is a usage error", []string{"--lsiten", "x"}, nil, 2, "unknown flag"},
		{"an unknown variable is a usage error with a suggestion", []string{"config", "check"}, []string{"GATEHOUSE_LOG_LEVLE=info"}, 2, "GATEHOUSE_LOG_LEVEL"},
		{"a file that was named must be there", []string{"config", "check", "--config", "/nowhere.yaml"}, nil, 2, "/nowhere.yaml"},
		{"the sample file is right", []string{"config", "check", "--config", "../../deploy/samples/authority.yaml"}, nil, 0, "samples/authority.yaml: ok"},
		{"without a file it says so", []string{"config", "check"}, nil, 0, "no file /etc/gatehouse/authority.yaml: defaults, environment and flags: ok"},
		{"a bad value names its flag and what is wanted", []string{"config", "check", "--log-level", "loud"}, nil, 2, `--log-level: "loud" is not accepted: want debug, info, warn or error`},
		{"and the hint is at the settings", []string{"config", "check", "--log-level", "loud"}, nil, 2, "hint: gatehouse-authority config reference lists the settings"},
	} {
		var out bytes.Buffer
		code := run(context.Background(), c.args, c.env, &out, &out)
		if code != c.code || !strings.Contains(out.String(), c.want) {
			t.Errorf("%s: exit code %d, want %d; %s", c.rule, code, c.code, out.String())
		}
	}
}

// A command's help shows its own flags; those of the settings, of which there are
// many, are told by the root's.
func TestHelpShowsAFlagOnce(t *testing.T) {
	help := func(args ...string) string {
		t.Helper()
		var out bytes.Buffer
		if code := run(context.Background(), append(args, "--help"), nil, &out, &out); code != 0 {
			t.Fatalf("%v: exit code %d: %s", args, code, out.String())
		}
		return out.String()
	}
	if !strings.Contains(help(), "--sessions-max-ttl") {
		t.Errorf("no settings in %s", help())
	}
	for _, args := range [][]string{{"ca"}, {"ca", "list"}, {"config"}, {"config", "check"}, {"enroll"}, {"init"}, {"help"}, {"completion", "bash"}} {
		if got := help(args...); strings.Contains(got, "--sessions-max-ttl") || !strings.HasSuffix(got, "\n\nFlags of every command, such as --config: gatehouse-authority --help\n") {
			t.Errorf("%v: %s", args, got)
		}
	}
	if got := help("ca", "list"); !strings.Contains(got, "--output") {
		t.Errorf("its own flags are missing in %s", got)
	}
}

func TestConfigCheckFindsWhatAStartWould(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"ca/ca.crt", "ca/ca.key"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, "state", name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "state", name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "authority.yaml")
	if err := os.WriteFile(file, []byte("state: state\nserver_names: ['authority.example.com:8440']\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	code := run(context.Background(), []string{"config", "check", "--config", file}, nil, &out, &out)
	for _, want := range []string{":2: server_names: ", ":1: state: load CA: " + dir + "/state/ca/ca.", ":1: state: " + dir + "/state/gatehouse.db: the store is gone"} {
		if code != 2 || !strings.Contains(out.String(), want) {
			t.Errorf("exit code %d, no %q in %s", code, want, out.String())
		}
	}
}

func TestInit(t *testing.T) {
	state := filepath.Join(t.TempDir(), "my state")
	try := func(code int, wants []string, args ...string) {
		t.Helper()
		var out bytes.Buffer
		if got := run(context.Background(), append(args, "--state", state), nil, &out, &out); got != code {
			t.Errorf("%v: exit code %d, want %d: %s", args, got, code, out.String())
		}
		for _, want := range wants {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%v: no %q in %s", args, want, out.String())
			}
		}
		if strings.Contains(out.String(), `{"time"`) {
			t.Errorf("%v: a log line among what a person reads: %s", args, out.String())
		}
	}
	given := " --listen=0.0.0.0:8440 --state='" + state + "'\n"
	try(0, []string{
		"gatehouse --address localhost:8440 --ca-file '" + state + "/credentials/admin'/ca.crt ",
		"gatehouse-authority" + given, "gatehouse-authority enroll node node-1" + given,
	}, "init", "--listen", "0.0.0.0:8440")
	try(0, []string{"nothing to do"}, "init")
	try(1, []string{"gatehouse.db is there"}, "init", "--begin-anew")
	if err := os.Remove(filepath.Join(state, "gatehouse.db")); err != nil {
		t.Fatal(err)
	}
	lost := []string{"the store is gone", "hint: gatehouse-authority restore puts a backup in its place; or gatehouse-authority init --begin-anew --state '" + state + "'"}
	try(1, lost, "init")
	try(1, lost, "--listen", "127.0.0.1:0", "--admin", "")
	try(1, lost, "enroll", "viewer", "v")
	try(0, []string{"begun anew", "ca.lost-", "Enroll every caller again", "admin credential:"}, "init", "--begin-anew")
	try(0, []string{"viewer v: "}, "enroll", "viewer", "v")
}

// enrolment runs enroll on a state folder of its own.
type enrolment struct {
	t     *testing.T
	state string
}

func newEnrolment(t *testing.T) *enrolment {
	t.Helper()
	e := &enrolment{t, filepath.Join(t.TempDir(), "state")}
	cfg := authorityd.DefaultConfig()
	cfg.State = e.state
	if _, err := authorityd.Init(t.Context(), cfg, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	return e
}

// want runs enroll, and wants its exit code and what it prints on stderr.
func (e *enrolment) want(code int, stderr string, args ...string) {
	e.t.Helper()
	var out, errs bytes.Buffer
	got := run(context.Background(), append([]string{"enroll", "--state", e.state}, args...), nil, &out, &errs)
	said := strings.ReplaceAll(errs.String(), e.state, "STATE")
	if got != code || !strings.HasPrefix(said, stderr) || stderr == "" && said != "" {
		e.t.Errorf("%v: exit code %d, want %d:\n%swant:\n%s", args, got, code, said, stderr)
	}
}

func TestEnrollRefusesWhatItCannotMean(t *testing.T) {
	e := newEnrolment(t)
	const p = "gatehouse-authority: error: "
	for _, ttl := range []string{"-5s", "0s"} {
		e.want(2, p+"--max-ttl: "+ttl+" is not above 0\ngatehouse-authority: hint: leave it out for the authority's own ceiling\n", "issuer", "x", "--max-ttl", ttl)
	}
	e.want(2, p+"--out is for certificates, and --api-key prints a key: give one of them\n", "issuer", "x", "--api-key", "--out", "d")
	e.want(2, p+`role "king" is none of node, issuer, admin and viewer`, "king", "x")
	e.want(2, p+"gatehouse-authority enroll takes a role and a name, but got 1 arguments\n", "node")
	e.want(0, "", "issuer", "x", "--max-ttl", "5s")
}

// A name is never used again, so nothing that can be foreseen may cost one.
func TestEnrollChecksItsFolderFirst(t *testing.T) {
	e := newEnrolment(t)
	taken, file := filepath.Join(t.TempDir(), "taken"), filepath.Join(t.TempDir(), "file")
	if err := os.Mkdir(taken, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(taken, "tls.key"), file} {
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const p, hint = "gatehouse-authority: error: the credential's folder: ", "\ngatehouse-authority: hint: name another folder with --out"
	e.want(2, p+taken+"/tls.key exists already"+hint, "node", "node-1", "--out", taken)
	e.want(2, p, "node", "node-1", "--out", filepath.Join(file, "sub"))
	e.want(2, p, "node", "node-1", "--out", file)
	e.want(0, "", "node", "node-1", "--out", filepath.Join(t.TempDir(), "a", "b"))
	e.want(0, "", "node", "node-2", "--out", taken, "--replace")
	if entries, err := os.ReadDir(taken); err != nil || len(entries) != 3 {
		t.Errorf("the folder holds %v, %v", entries, err)
	}
}

func TestEnrollErrorsAreThoseOfTheCLI(t *testing.T) {
	e := newEnrolment(t)
	const p, hint = "gatehouse-authority: error: ", "gatehouse-authority: hint: "
	e.want(0, "", "viewer", "taken")
	other := t.TempDir()
	e.want(1, p+`credential.name: "taken" is taken`, "viewer", "taken", "--out", other)
	e.want(2, p+"credential.name: ", "viewer", "no such name!", "--out", other)

	// While an authority runs, it is called where the settings say.
	cfg := authorityd.DefaultConfig()
	cfg.State = e.state
	a, err := authorityd.Open(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- a.Serve(ctx, l) }()
	defer func() {
		stop()
		<-served
		_ = a.Close()
	}()
	e.want(7, p+"cannot reach the authority at 127.0.0.1:1: dial tcp 127.0.0.1:1: connect: connection refused\n"+
		hint+"an authority runs on STATE: name where it listens with --listen, or its file with --config\n", "viewer", "v", "--listen", "127.0.0.1:1")
	e.want(0, "", "viewer", "v", "--listen", l.Addr().String())
	e.want(1, p+`credential.name: "taken" is taken`, "viewer", "taken", "--out", other, "--listen", l.Addr().String())
}
