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
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

var update = flag.Bool("update", false, "write docs/node.md and testdata/deps.txt anew")

// docs/node.md is what the program itself says of its settings.
func TestReferencePage(t *testing.T) {
	var page, stderr bytes.Buffer
	if code := run(context.Background(), []string{"config", "reference"}, nil, &page, &stderr); code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr.String())
	}
	const path = "../../docs/node.md"
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
		t.Errorf("%s is out of date: go test ./cmd/gatehouse-node -update", path)
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
		{"version says what runs", []string{"version"}, nil, 0, "gatehouse-node 0."},
		{"help shows examples", []string{"--help"}, nil, 0, "Examples:"},
		{"so does --version", []string{"--version"}, nil, 0, "gatehouse-node 0."},
		{"an unknown command is a usage error", []string{"strat"}, nil, 2, `has no command "strat"`},
		{"and so is one below another", []string{"config", "chekc"}, nil, 2, `gatehouse-node config has no command "chekc"`},
		{"help of an unknown command is one too", []string{"help", "nope"}, nil, 2, `no command is called "nope"`},
		{"help of a known one is not", []string{"help", "config"}, nil, 0, "gatehouse-node config [command]"},
		{"a command that does nothing by itself says so", []string{"config"}, nil, 2, "gatehouse-node config needs a command"},
		{"an unknown shell is a usage error", []string{"completion", "nope"}, nil, 2, `gatehouse-node completion has no command "nope"`},
		{"a known shell is not", []string{"completion", "bash"}, nil, 0, "gatehouse-node"},
		{"no files are offered where none are taken", []string{"__complete", "config", "check", ""}, nil, 0, ":4\n"},
		{"an argument too many is a usage error", []string{"config", "check", "x"}, nil, 2, `takes no argument, but got "x"`},
		{"an unknown flag is a usage error", []string{"--lsiten", "x"}, nil, 2, "unknown flag"},
		{"an unknown variable is a usage error with a suggestion", []string{"config", "check"}, []string{"GATEHOUSE_LOG_LEVLE=info"}, 2, "GATEHOUSE_LOG_LEVEL"},
		{"a file that was named must be there", []string{"config", "check", "--config", "/nowhere.yaml"}, nil, 2, "/nowhere.yaml"},
		{"without a file it says so", []string{"config", "check"}, nil, 2, "listeners: required"},
		{"a bad value names its flag and what is wanted", []string{"config", "check", "--log-level", "loud"}, nil, 2, `--log-level: "loud" is not accepted: want debug, info, warn or error`},
		{"and the hint is at the settings", []string{"config", "check", "--log-level", "loud"}, nil, 2, "hint: gatehouse-node config reference lists the settings"},
	} {
		var out bytes.Buffer
		code := run(context.Background(), c.args, c.env, &out, &out)
		if code != c.code || !strings.Contains(out.String(), c.want) {
			t.Errorf("%s: exit code %d, want %d; %s", c.rule, code, c.code, out.String())
		}
	}
}

// sample is the sample file in a folder with all that it names.
func sample(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("../../deploy/samples")); err != nil {
		t.Fatal(err)
	}
	cfg, quiet := authorityd.DefaultConfig(), slog.New(slog.DiscardHandler)
	cfg.State = filepath.Join(t.TempDir(), "state")
	if _, err := authorityd.Init(t.Context(), cfg, quiet); err != nil {
		t.Fatal(err)
	}
	e := authorityd.Enrolment{Credential: &pb.Credential{Name: "node-1", Role: pb.Role_ROLE_NODE}, Out: filepath.Join(dir, "node")}
	if _, err := authorityd.Enroll(t.Context(), cfg, e, quiet); err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{"server.crt": "public.crt", "server.key": "public.key"} {
		if err := os.Rename(filepath.Join(cfg.State, "tls", from), filepath.Join(dir, to)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// config check finds what a start would, all of it at once, from any folder.
func TestConfigCheck(t *testing.T) {
	dir := sample(t)
	file := filepath.Join(dir, "node.yaml")
	check := func(code int, want ...string) {
		t.Helper()
		var out bytes.Buffer
		if got := run(context.Background(), []string{"config", "check", "--config", file}, nil, &out, &out); got != code {
			t.Errorf("exit code %d, want %d", got, code)
		}
		for _, w := range want {
			if !strings.Contains(out.String(), w) {
				t.Errorf("no %q in %s", w, out.String())
			}
		}
	}
	check(0, file+": ok")

	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("public.key", "x")
	write("node/ca.crt", "x")
	write("schemas/chat.json", `{"$defs": {"chat": {"type": "objekt"}, "ping": {}}}`)
	check(2, ":5: listeners[0].cert_file: ", "error: credential: "+dir+"/node/ca.crt", ":21: routes[0].messages: ", "chat.json#/$defs/chat/type: type is \"objekt\"", "hint: gatehouse-node config reference")
	write("schemas/chat.json", "{")
	check(2, "chat.json")

	// Schemas of what the application sends are looked at too.
	write("schemas/chat.json", `{"$defs": {"chat": {}, "ping": {}, "news": {"maxLenght": 5}}}`)
	sent, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	write("node.yaml", strings.Replace(string(sent), "    messages:\n", "    outgoing:\n      types: [{name: news, schema: \"chat.json#/$defs/news\"}]\n    messages:\n", 1))
	check(2, "routes[0].outgoing: chat.json#/$defs/news/maxLenght: maxLenght is no keyword")
	write("node.yaml", string(sent))
	write("schemas/chat.json", "{")

	// A value of the wrong kind does not hide one of the wrong meaning, nor either
	// what is wrong with a file.
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	write("node.yaml", strings.Replace(string(text), "max: 60,", "max: many,", 1)+"allow_plain: maybe\nhandler: own\n")
	check(2, "limits.new_per_address.max: ", "allow_plain: ", "handler: \"own\" is not echo",
		":5: listeners[0].cert_file: ", ": credential: "+dir+"/node/ca.crt", ":21: routes[0].messages: chat.json")
	write("node.yaml", "handler: own\nlisteners: [")
	var out bytes.Buffer
	run(context.Background(), []string{"config", "check", "--config", file}, nil, &out, &out)
	if strings.Count(out.String(), "error: ") != 1 {
		t.Errorf("a file that can't be read is judged: %s", out.String())
	}
}

// What a listener's TLS can't be is told with its line and the ways out.
func TestConfigCheckTLS(t *testing.T) {
	file := filepath.Join(sample(t), "node.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for listener, want := range map[string]string{
		"key_file: public.key\n    key_exchange: [X25519, secp256r1]":                                                      ": ok\n",
		"key_file: public.key\n    key_exchange: [x25519, X448]":                                                           file + `:7: listeners[0].key_exchange: "X448" is none of X25519MLKEM768, SecP256r1MLKEM768, SecP384r1MLKEM1024, X25519, P-256, P-384, P-521`,
		"key_file: public.key\n    key_exchange: [X25519, P-256, secp256r1]":                                               `listeners[0].key_exchange: "secp256r1" stands there twice`,
		"key_file: public.key\n    client_certificates: optional\n    client_ca: node/ca.crt":                              ": ok\n",
		"key_file: public.key\n    client_certificates: require":                                                           "listeners[0].client_ca: required with client_certificates: require",
		"key_file: public.key\n    client_certificates: always":                                                            `listeners[0].client_certificates: "always" is none of off, optional and require`,
		"key_file: public.key\n    client_certificates: off\n    client_ca: node/ca.crt":                                   "listeners[0].client_ca: nobody is asked for a certificate",
		"key_file: public.key\n    client_certificates: optional\n    client_ca: public.key":                               "listeners[0].client_ca: " + filepath.Dir(file) + "/public.key holds something else than certificates in PEM",
		"key_file: public.key\n  - {address: '127.0.0.1:1', plain: true, client_certificates: require}\nallow_plain: true": "listeners[1].client_certificates: a plain listener has no TLS",
		"key_file: public.key\n  - {address: '127.0.0.1:1', plain: true, key_exchange: [X25519]}\nallow_plain: true":       "listeners[1].key_exchange: a plain listener has no TLS",
	} {
		if err := os.WriteFile(file, bytes.Replace(text, []byte("key_file: public.key"), []byte(listener), 1), 0o600); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		run(context.Background(), []string{"config", "check", "--config", file}, nil, &out, &out)
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s: no %q in %s", listener, want, out.String())
		}
	}
}

func TestBusyPortNamesItsSetting(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	file := filepath.Join(sample(t), "node.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, bytes.Replace(text, []byte("0.0.0.0:8443"), []byte(l.Addr().String()), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if code := run(context.Background(), []string{"--config", file}, nil, &out, &out); code != 1 || !strings.Contains(out.String(), "choose another address with listeners[0].address, or end the other") {
		t.Errorf("exit code %d: %s", code, out.String())
	}
}
