package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gatehouse-ws/gatehouse/cmd/internal/callerr"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// without is the environment of c without some of its variables, and with
// others.
func (c *caller) with(set ...string) *caller {
	out := *c
	out.environ = append([]string{}, c.environ...)
	for _, kv := range set {
		name, value, _ := strings.Cut(kv, "=")
		for i, old := range out.environ {
			if strings.HasPrefix(old, name+"=") {
				out.environ = append(out.environ[:i], out.environ[i+1:]...)
				break
			}
		}
		if value != "" {
			out.environ = append(out.environ, kv)
		}
	}
	return &out
}

func TestCallsShowOneCredential(t *testing.T) {
	c := newCaller(t)
	if got := c.run("", "node", "list"); got.code != exitOK {
		t.Errorf("certificate: %+v", got)
	}
	key := c.with("GATEHOUSE_CERT_FILE=", "GATEHOUSE_KEY_FILE=", "GATEHOUSE_API_KEY_FILE="+filepath.Join(c.dir, "api.key"))
	if got := key.run("", "node", "list"); got.code != exitOK {
		t.Errorf("API key: %+v", got)
	}
	wrong := filepath.Join(c.dir, "wrong.key")
	if err := os.WriteFile(wrong, []byte("ghk1_"+strings.Repeat("B", 43)), 0o600); err != nil {
		t.Fatal(err)
	}
	c.check(key.run("", "node", "list", "--api-key-file", wrong), exitDenied, "",
		"gatehouse: error: no credential: call with a client certificate or an API key\n"+
			"gatehouse: hint: the call showed the API key in DIR/wrong.key; another can be named with --cert-file and --key-file, or --api-key-file\n")
}

func TestSettingsAreCheckedTogether(t *testing.T) {
	c := newCaller(t)
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(c.dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const hint = "gatehouse: hint: gatehouse help connection lists the settings\n"
	fileHint := "gatehouse: hint: gatehouse config print tells where the file was named\n"
	for _, tc := range []struct {
		name string
		set  []string
		args []string
		want string
	}{
		{"nothing is named", []string{"GATEHOUSE_ADDRESS=", "GATEHOUSE_CA_FILE=", "GATEHOUSE_CERT_FILE=", "GATEHOUSE_KEY_FILE="}, nil,
			"gatehouse: error: no authority is named, and no gatehouse dev was found\n" +
				"gatehouse: hint: start one with gatehouse dev, or name one with --address, --ca-file and a credential (gatehouse help connection)\n"},
		{"all problems at once", []string{"GATEHOUSE_ADDRESS=localhost", "GATEHOUSE_CA_FILE=", "GATEHOUSE_KEY_FILE="}, []string{"--call-timeout=0s"},
			"gatehouse: error: GATEHOUSE_ADDRESS: address: \"localhost\" is not host:port, such as localhost:8440\n" +
				"gatehouse: error: ca_file: required, the ca.crt that came with the credential\n" +
				"gatehouse: error: key_file: required with cert_file\n" +
				"gatehouse: error: --call-timeout: call_timeout: 0s is not above 0\n" + hint},
		{"no address", []string{"GATEHOUSE_ADDRESS="}, nil, "gatehouse: error: address: required, host:port of the authority\n" + hint},
		{"no credential", []string{"GATEHOUSE_CERT_FILE=", "GATEHOUSE_KEY_FILE="}, nil, "gatehouse: error: cert_file: required with key_file, or api_key_file\n" + hint},
		{"a key without certificate", []string{"GATEHOUSE_CERT_FILE="}, nil, "gatehouse: error: cert_file: required with key_file\n" + hint},
		{"two credentials", []string{"GATEHOUSE_API_KEY_FILE=/k"}, nil,
			"gatehouse: error: GATEHOUSE_API_KEY_FILE: api_key_file: contradicts cert_file and key_file: a call shows one credential\n" + hint},
		{"a mistyped variable", []string{"GATEHOUSE_ADRESS=x:1"}, nil, "gatehouse: error: GATEHOUSE_ADRESS: unknown variable; did you mean GATEHOUSE_ADDRESS?\n" + hint},
		{"a mistyped key", nil, []string{"--config", write("typo.yaml", "adress: x:1\n", 0o600)},
			"gatehouse: error: DIR/typo.yaml:1: adress: unknown key; did you mean address?\n" + hint},
		{"a file that was named", nil, []string{"--config", filepath.Join(c.dir, "none.yaml")},
			"gatehouse: error: DIR/none.yaml: no such file or directory (named by --config)\n" + hint},
		{"a missing CA", []string{"GATEHOUSE_CA_FILE=" + filepath.Join(c.dir, "none.crt")}, nil,
			"gatehouse: error: open DIR/none.crt: no such file or directory\n" + fileHint},
		{"a CA that is none", []string{"GATEHOUSE_CA_FILE=" + filepath.Join(c.dir, "tls.key")}, nil,
			"gatehouse: error: DIR/tls.key holds something else than certificates in PEM: copy ca.crt from the authority\n" + fileHint},
		{"a key that others may read", []string{"GATEHOUSE_KEY_FILE=" + write("open.key", "x", 0o604)}, nil,
			"gatehouse: error: DIR/open.key is to hold a private key, but others may use it (mode 0604): run chmod 600 DIR/open.key\n" + fileHint},
		{"an API key that others may read", []string{"GATEHOUSE_CERT_FILE=", "GATEHOUSE_KEY_FILE=", "GATEHOUSE_API_KEY_FILE=" + write("open.api", "x", 0o604)}, nil,
			"gatehouse: error: DIR/open.api is to hold a private key, but others may use it (mode 0604): run chmod 600 DIR/open.api\n" + fileHint},
		{"an API key that is none", []string{"GATEHOUSE_CERT_FILE=", "GATEHOUSE_KEY_FILE=", "GATEHOUSE_API_KEY_FILE=" + write("two.key", "ghk1_secret ghk1_secret", 0o600)}, nil,
			"gatehouse: error: DIR/two.key does not hold an API key\n" +
				"gatehouse: hint: the file holds the key as gatehouse credential create printed it, and nothing else\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if runtime.GOOS == "windows" && strings.Contains(tc.name, "others may read") {
				t.Skip("no such modes on Windows")
			}
			got := c.with(tc.set...).run("", append([]string{"node", "list"}, tc.args...)...)
			c.check(got, exitUsage, "", tc.want)
		})
	}
}

// Who shares a container with a server has its variables too.
func TestVariablesOfServersAreNotMistyped(t *testing.T) {
	c := newCaller(t)
	for _, kv := range []string{"GATEHOUSE_LOG_LEVEL=debug", "GATEHOUSE_TOKENS_MAX_TTL=1h", "GATEHOUSE_AUTHORITY_ADDRESS=x", "GATEHOUSE_LISTEN=:1", "GATEHOUSE_PORT=tcp://10.0.0.1:1"} {
		if got := c.with(kv).run("", "node", "list"); got.code != exitOK {
			t.Errorf("%s: %+v", kv, got)
		}
	}
}

func TestFilesInSettingsAreRelativeToTheirFile(t *testing.T) {
	c := newCaller(t)
	file := filepath.Join(c.dir, "cli.yaml")
	if err := os.WriteFile(file, []byte("address: "+c.authority.addr+"\nca_file: ca.crt\ncert_file: tls.crt\nkey_file: ./tls.key\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Chdir(filepath.Dir(c.dir))
	folder := filepath.Base(c.dir)
	c.environ = []string{"GATEHOUSE_CONFIG=" + filepath.Join(folder, "cli.yaml")}
	if got := c.run("", "node", "list"); got.code != exitOK {
		t.Errorf("%+v", got)
	}
	c.check(c.run("", "config", "check"), exitOK, "ok: ADDRESS with the certificate of alice in "+folder+"/tls.crt, which ends on 2027-11-23\n", "")
	got := c.run("", "config", "print")
	for _, line := range []string{"address: ADDRESS # " + folder + "/cli.yaml:1\n", "ca_file: " + folder + "/ca.crt # " + folder + "/cli.yaml:2\n", "call_timeout: 10s\n"} {
		if !strings.Contains(got.stdout, line) {
			t.Errorf("no %q in\n%s", line, got.stdout)
		}
	}
	// A flag's file is relative to where the command runs.
	t.Chdir(t.TempDir())
	c.environ = []string{"GATEHOUSE_CONFIG=" + file}
	if got := c.run("", "node", "list", "--ca-file", "ca.crt"); got.code != exitUsage || !strings.Contains(got.stderr, "open ca.crt: no such file") {
		t.Errorf("%+v", got)
	}
}

func TestDevIsFound(t *testing.T) {
	c := newCaller(t)
	state := t.TempDir()
	dev := filepath.Join(state, "gatehouse", "dev")
	if err := os.MkdirAll(dev, 0o700); err != nil {
		t.Fatal(err)
	}
	text := "address: " + c.authority.addr + "\nca_file: " + c.dir + "/ca.crt\ncert_file: " + c.dir + "/tls.crt\nkey_file: " + c.dir + "/tls.key\n"
	if err := os.WriteFile(filepath.Join(dev, "cli.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	environ := c.environ
	c.environ = nil
	if runtime.GOOS != "linux" {
		t.Skip("the folder is another elsewhere")
	}
	t.Setenv("XDG_STATE_HOME", state)
	if got := c.run("", "node", "list"); got.code != exitOK {
		t.Errorf("%+v", got)
	}
	t.Run("one that denies, with a way to name another credential that works", func(t *testing.T) {
		c.authority.errs["ListNodes"] = withReason(codes.PermissionDenied, pb.Reason_REASON_PERMISSION_DENIED, "viewer alice may not call it")
		defer delete(c.authority.errs, "ListNodes")
		c.check(c.run("", "node", "list"), exitDenied, "", "gatehouse: error: viewer alice may not call it\n"+
			"gatehouse: hint: the call showed the certificate of alice in DIR/tls.crt, which ends on 2027-11-23; another can be named with --config, "+
			"or beside --address ADDRESS and --ca-file DIR/ca.crt with --cert-file and --key-file, or --api-key-file\n")
	})
	t.Run("not beside an address or credential of one's own", func(t *testing.T) {
		for _, kv := range environ {
			c.environ = []string{kv}
			if got := c.run("", "node", "list"); got.code != exitUsage || !strings.Contains(got.stderr, "required") {
				t.Errorf("%s: %+v", kv, got)
			}
		}
	})
	t.Run("not beside a file that was named", func(t *testing.T) {
		empty := filepath.Join(c.dir, "empty.yaml")
		if err := os.WriteFile(empty, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		c.environ = []string{"GATEHOUSE_CONFIG=" + empty}
		if got := c.run("", "node", "list"); got.code != exitUsage || !strings.Contains(got.stderr, "no authority is named") {
			t.Errorf("%+v", got)
		}
	})
	t.Run("not in a relative XDG_STATE_HOME", func(t *testing.T) {
		t.Chdir(state)
		t.Setenv("XDG_STATE_HOME", ".")
		t.Setenv("HOME", "/nonexistent")
		c.environ = nil
		if got := c.run("", "node", "list"); got.code != exitUsage {
			t.Errorf("%+v", got)
		}
	})
	t.Run("one that has ended", func(t *testing.T) {
		c.environ = nil
		text := strings.Replace(text, c.authority.addr, "127.0.0.1:1", 1)
		if err := os.WriteFile(filepath.Join(dev, "cli.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c.check(c.run("", "node", "list"), exitUnavailable, "",
			"gatehouse: error: cannot reach the authority at 127.0.0.1:1: dial tcp 127.0.0.1:1: connect: connection refused\n"+
				"gatehouse: hint: is gatehouse dev still running? its address comes from "+dev+"/cli.yaml\n")
	})
}

func TestStatusesBecomeExitCodes(t *testing.T) {
	const showed = "the call showed the certificate of alice in DIR/tls.crt, which ends on 2027-11-23; another can be named with --cert-file and --key-file, or --api-key-file"
	for _, tc := range []struct {
		err        error
		code       exitCode
		text, hint string
	}{
		{withReason(codes.InvalidArgument, pb.Reason_REASON_INVALID_REQUEST, "ttl: 2h is above 1h"), exitUsage, "ttl: 2h is above 1h", ""},
		{withReason(codes.PermissionDenied, pb.Reason_REASON_PERMISSION_DENIED, "viewer alice may not call it"), exitDenied, "viewer alice may not call it", showed},
		{withReason(codes.PermissionDenied, pb.Reason_REASON_CREDENTIAL_DISABLED, "credential alice is disabled"), exitDenied, "credential alice is disabled", callerr.ReasonHints[pb.Reason_REASON_CREDENTIAL_DISABLED]},
		{withReason(codes.Unauthenticated, pb.Reason_REASON_UNAUTHENTICATED, "unknown credential"), exitDenied, "unknown credential", showed},
		{withReason(codes.NotFound, pb.Reason_REASON_NOT_FOUND, "nothing"), exitNotFound, "nothing", ""},
		{withReason(codes.AlreadyExists, pb.Reason_REASON_ALREADY_EXISTS, "taken"), exitFailure, "taken", ""},
		{withReason(codes.ResourceExhausted, pb.Reason_REASON_QUOTA_EXCEEDED, "too many"), exitFailure, "too many", callerr.ReasonHints[pb.Reason_REASON_QUOTA_EXCEEDED]},
		{withReason(codes.FailedPrecondition, pb.Reason_REASON_LOCKED, "locked"), exitFailure, "locked", callerr.ReasonHints[pb.Reason_REASON_LOCKED]},
		{withReason(codes.Unavailable, pb.Reason_REASON_STORE_UNAVAILABLE, "the store can't write"), exitUnavailable, "the store can't write", callerr.ReasonHints[pb.Reason_REASON_STORE_UNAVAILABLE]},
		{withReason(codes.Unavailable, pb.Reason_REASON_STOPPING, "authority is stopping"), exitUnavailable, "authority is stopping", callerr.ReasonHints[pb.Reason_REASON_STOPPING]},
		{withReason(codes.Internal, pb.Reason_REASON_INTERNAL, "internal error"), exitFailure, "internal error", callerr.ReasonHints[pb.Reason_REASON_INTERNAL]},
		{status.Error(codes.Unimplemented, "unknown method ListNodes"), exitFailure, "unknown method ListNodes", "the authority is older or newer than this program, " + pb.Version},
		{status.Error(codes.Unavailable, "odd proxy"), exitUnavailable, "cannot reach the authority at ADDRESS: odd proxy", "is the authority running at ADDRESS? gatehouse dev starts one to try things with"},
	} {
		c := newCaller(t)
		c.authority.errs["ListNodes"] = tc.err
		want := "gatehouse: error: " + tc.text + "\n"
		if tc.hint != "" {
			want += "gatehouse: hint: " + tc.hint + "\n"
		}
		c.check(c.run("", "node", "list"), tc.code, "", want)
	}
}

// listen accepts and hands each connection to serve until the test ends.
func listen(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() { // ends with the listener
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				serve(conn)
			}()
		}
	}()
	return l.Addr().String()
}

// What stands between the CLI and its authority is told apart, by the texts of
// grpc and crypto/tls as they are today.
func TestUnreachable(t *testing.T) {
	c := newCaller(t)
	foreign := newCA()
	foreignDir := t.TempDir()
	foreign.writeCredential(t, foreignDir, "mallory")
	silent := listen(t, func(conn net.Conn) { time.Sleep(time.Minute) })
	plain := listen(t, func(conn net.Conn) {
		_, _ = bufio.NewReader(conn).ReadByte()
		_, _ = conn.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
	})
	old := listen(t, func(conn net.Conn) {
		_ = tls.Server(conn, &tls.Config{MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{c.authority.ca.server}}).Handshake()
	})
	impostor := listen(t, func(conn net.Conn) {
		_ = tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{foreign.server}}).Handshake()
	})
	for _, tc := range []struct {
		name       string
		args       []string
		code       exitCode
		text, hint string
	}{
		{"nobody listens", []string{"--address=127.0.0.1:1"}, exitUnavailable, "cannot reach the authority at 127.0.0.1:1: dial tcp 127.0.0.1:1: connect: connection refused",
			"is the authority running at 127.0.0.1:1? gatehouse dev starts one to try things with"},
		{"nobody answers", []string{"--address=" + silent, "--call-timeout=200ms"}, exitUnavailable, "the authority at " + silent + " did not answer in time",
			"is the authority running at " + silent + "? gatehouse dev starts one to try things with; --call-timeout, and --timeout of a dry run, wait longer"},
		{"an HTTP server", []string{"--address=" + plain}, exitUnavailable, "what answers does not speak TLS: tls: first record does not look like a TLS handshake",
			"something else than the authority listens at " + plain},
		{"an old TLS", []string{"--address=" + old}, exitUnavailable, "what answers does not speak TLS 1.3: remote error: tls: protocol version not supported",
			"something else than the authority listens at " + old},
		{"another CA's server", []string{"--address=" + impostor}, exitUnavailable,
			"what answers is not this authority: tls: failed to verify certificate: x509: certificate signed by unknown authority (possibly because of \"x509: ECDSA verification failure\" while trying to verify candidate authority certificate \"test CA\")",
			"its certificate is not of the CA in DIR/ca.crt; copy ca.crt from the authority, or correct the address"},
		{"another name", []string{"--server-name=authority.example"}, exitUnavailable,
			"what answers has another name: tls: failed to verify certificate: x509: certificate is valid for localhost, not authority.example",
			"--server-name may give the name in its certificate"},
		{"a certificate of another CA", []string{"--cert-file=" + foreignDir + "/tls.crt", "--key-file=" + foreignDir + "/tls.key"}, exitDenied,
			"the authority refused the connection: remote error: tls: unknown certificate authority",
			"it was shown the certificate of mallory in " + foreignDir + "/tls.crt, which ends on 2027-11-23: it may be of another CA, or over"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := c.run("", append([]string{"node", "list"}, tc.args...)...)
			c.check(got, tc.code, "", "gatehouse: error: "+tc.text+"\ngatehouse: hint: "+tc.hint+"\n")
		})
	}
}

func TestInterruptedCall(t *testing.T) {
	c := newCaller(t)
	silent := listen(t, func(conn net.Conn) { time.Sleep(time.Minute) })
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	stop, done := context.WithCancel(context.Background())
	context.AfterFunc(ctx, done)
	c.check(c.runCtx(stop, strings.NewReader(""), "node", "list", "--address", silent), exitInterrupted, "", "gatehouse: error: interrupted\n")
}
