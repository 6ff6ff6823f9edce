//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/gatehouse-ws/gatehouse/authority/pki"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/tlsfile"
)

// patience bounds every wait for something that should happen at once.
const patience = 20 * time.Second

// system is a real authority and real nodes, each a process of its own, in
// folders of a test.
type system struct {
	t         *testing.T
	dir       string
	state     string // of the authority
	authority *process
	listen    string   // of the authority
	admin     string   // of the authority's health and metrics
	config    string   // of the authority
	extra     string   // more lines of the authority's configuration
	under     []string // what the authority is started by
	nodeHost  string   // where nodes listen; loopback where empty
	underNode []string // what nodes are started by
	nodes     []*node
}

// node is a real node.
type node struct {
	*process
	name       string
	wss, plain string // host:port
	admin      string
	config     string
}

// process is a program that was started; its output goes to a file that is
// searched for secrets when all tests are over.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	log  string
	done chan struct{}
	err  error
}

func start(t *testing.T, name string, args ...string) *process {
	t.Helper()
	return startIn(t, "", nil, name, args...)
}

func startIn(t *testing.T, dir string, env []string, name string, args ...string) *process {
	t.Helper()
	p := &process{t: t, log: newLog(t, filepath.Base(name)), done: make(chan struct{})}
	out, err := os.Create(p.log)
	if err != nil {
		t.Fatal(err)
	}
	p.cmd = exec.Command(name, args...)
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, out, out
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.err = p.cmd.Wait()
		_ = out.Close()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.signal(syscall.SIGKILL)
		<-p.done
		if t.Failed() {
			t.Logf("output of %s:\n%s", name, tail(p.output(), 60))
		}
	})
	return p
}

func tail(s string, n int) string {
	lines := strings.Split(s, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// signal sends s to the process and its children, by the group it leads.
func (p *process) signal(s syscall.Signal) {
	select {
	case <-p.done:
	default:
		_ = syscall.Kill(-p.cmd.Process.Pid, s)
	}
}

// says waits until the program has said text: a node's log is written behind what
// it does.
func (p *process) says(text string) {
	p.t.Helper()
	eventually(p.t, "output with "+text, func() bool { return strings.Contains(p.output(), text) })
}

func (p *process) output() string {
	b, _ := os.ReadFile(p.log)
	return string(b)
}

// wait waits for the end and returns the exit code.
func (p *process) wait() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Fatalf("%s did not end", p.cmd.Path)
	}
	return p.cmd.ProcessState.ExitCode()
}

// stop ends the process gracefully.
func (p *process) stop() {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	if code := p.wait(); code != 0 {
		p.t.Fatalf("%s ended with exit code %d\n%s", p.cmd.Path, code, tail(p.output(), 20))
	}
}

func (p *process) kill() {
	p.t.Helper()
	p.signal(syscall.SIGKILL)
	p.wait()
}

// eventually waits until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("%s: not within %v", what, patience)
}

var lastPort atomic.Int64

// address is a free one on loopback, of the ports that the kernel gives to nobody
// who asks for any. One of those could be a connection's before the program that it
// is for listens there, or while that program starts again.
func address(t *testing.T) string {
	t.Helper()
	const first, ports = 10_000, 20_000
	for range ports {
		at := fmt.Sprintf("127.0.0.1:%d", first+(int64(os.Getpid())*100+lastPort.Add(1))%ports)
		if l, err := net.Listen("tcp", at); err == nil {
			_ = l.Close()
			return at
		}
	}
	t.Fatalf("no free port from %d to %d", first, first+ports)
	return ""
}

// newSystem initialises an authority and starts it.
func newSystem(t *testing.T) *system {
	t.Helper()
	s := prepare(t)
	s.startAuthority()
	return s
}

func prepare(t *testing.T) *system {
	t.Helper()
	dir := t.TempDir()
	s := &system{t: t, dir: dir, state: filepath.Join(dir, "authority"), listen: address(t), admin: address(t), config: filepath.Join(dir, "authority.yaml")}
	s.writeConfig()
	if out, err := exec.Command(bin("gatehouse-authority"), "init", "--config", s.config).CombinedOutput(); err != nil {
		t.Fatalf("init: %v\n%s", err, out)
	}
	return s
}

func (s *system) writeConfig() {
	write(s.t, s.config, fmt.Sprintf("listen: %s\nadmin: %s\nstate: %s\nreflection: true\naudit_file: %s\n%s",
		s.listen, s.admin, s.state, newLog(s.t, "audit"), s.extra))
}

func (s *system) startAuthority() {
	s.t.Helper()
	args := append(append([]string{}, s.under...), bin("gatehouse-authority"), "--config", s.config)
	s.authority = start(s.t, args[0], args[1:]...)
	s.await(s.admin)
}

// await waits until a daemon says that it is ready.
func (s *system) await(admin string) {
	s.t.Helper()
	eventually(s.t, "ready at "+admin, func() bool { code, _ := get("http://" + admin + "/readyz"); return code == http.StatusOK })
}

func get(url string) (int, string) {
	c := http.Client{Timeout: 5 * time.Second}
	resp, err := c.Get(url)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	if strings.HasSuffix(url, "/metrics") {
		told(string(b))
	}
	return resp.StatusCode, string(b)
}

// enroll makes a credential through the real command and returns its folder.
func (s *system) enroll(role, name string, more ...string) string {
	s.t.Helper()
	dir := filepath.Join(s.dir, name)
	args := append([]string{"enroll", role, name, "--out", dir, "--config", s.config}, more...)
	if out, err := exec.Command(bin("gatehouse-authority"), args...).CombinedOutput(); err != nil {
		s.t.Fatalf("enroll: %v\n%s", err, out)
	}
	return dir
}

// routes is what the nodes of these tests serve.
const routes = `
routes:
  - path: /chat
    audience: chat
    origins: ["https://app.example.com"]
    missing_origin: allow
    messages:
      types:
        - {name: chat, schema: chat.json}
  - path: /closing
    audience: chat
    origins: ["https://app.example.com"]
    missing_origin: allow
    refuse_by_close: true
    query_token: true
    messages:
      types:
        - {name: chat, schema: chat.json}
  - path: /raw
    audience: chat
    origins: ["https://app.example.com"]
    missing_origin: allow
    unchecked: true
    binary: true
`

const chatSchema = `{
  "type": "object",
  "properties": {"type": {"const": "chat"}, "text": {"type": "string", "maxLength": 100}},
  "required": ["type", "text"],
  "additionalProperties": false
}`

// addNode enrolls a node and starts it. Unless more says so it drains at once.
func (s *system) addNode(name, more string) *node {
	s.t.Helper()
	if !strings.Contains(more, "drain_window") {
		more += "\ndrain_window: 0s\nreturn_window: 0s\n"
	}
	n := &node{name: name, wss: s.nodeAddress(), plain: s.nodeAddress(), admin: s.nodeAddress(), config: filepath.Join(s.dir, name+".yaml")}
	cred := s.enroll("node", name)
	tlsDir := filepath.Join(s.dir, name+"-tls")
	ca, err := pki.Load(filepath.Join(s.state, "ca"), time.Now, rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := ca.EnsureServer(tlsDir, []string{"localhost", "127.0.0.1", "app.example.com"}); err != nil {
		s.t.Fatal(err)
	}
	write(s.t, filepath.Join(s.dir, "chat.json"), chatSchema)
	write(s.t, n.config, fmt.Sprintf(`listeners:
  - {address: %s, cert_file: %s/server.crt, key_file: %s/server.key}
  - {address: %s, plain: true}
allow_plain: true
admin: %s
state: %s
schemas: %s
credential: {ca_file: %s/ca.crt, cert_file: %s/tls.crt, key_file: %s/tls.key}
authority: {address: %s, redeem_timeout: 1s}
limits: {new_per_address: {max: 100000}, unauthenticated_per_address: {max: 1000}, authenticated_per_address: {max: 10000}}
%s%s`, n.wss, tlsDir, tlsDir, n.plain, n.admin, filepath.Join(s.dir, name+"-state"), s.dir, cred, cred, cred, s.listen, routes, more))
	s.startNode(n)
	s.nodes = append(s.nodes, n)
	return n
}

// nodeAddress is one for a node to listen at.
func (s *system) nodeAddress() string {
	s.t.Helper()
	free := address(s.t)
	if s.nodeHost == "" {
		return free
	}
	_, port, err := net.SplitHostPort(free)
	if err != nil {
		s.t.Fatal(err)
	}
	return net.JoinHostPort(s.nodeHost, port)
}

func (s *system) startNode(n *node) {
	s.t.Helper()
	args := append(slices.Clone(s.underNode), bin("gatehouse-node"), "--config", n.config)
	n.process = start(s.t, args[0], args[1:]...)
	s.await(n.admin)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// caPool trusts the system's own CA.
func (s *system) caPool() *x509.CertPool {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.state, "ca", "ca.crt"))
	if err != nil {
		s.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	return pool
}

func (s *system) clientTLS() *tls.Config {
	return &tls.Config{RootCAs: s.caPool(), ServerName: "localhost", MinVersion: tls.VersionTLS12}
}

// dial calls the authority with a credential's folder; the first admin's where
// dir is empty.
func (s *system) dial(dir string) *grpc.ClientConn {
	s.t.Helper()
	if dir == "" {
		dir = filepath.Join(s.state, "credentials", "admin")
	}
	cfg, err := tlsfile.Client(dir+"/ca.crt", dir+"/tls.crt", dir+"/tls.key", time.Now, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	conn, err := grpc.NewClient(s.listen, grpc.WithTransportCredentials(credentials.NewTLS(cfg)), grpc.WithUnaryInterceptor(keepErrors))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// keepErrors keeps the errors that the authority answers with, and their details.
func keepErrors(ctx context.Context, method string, req, resp any, conn *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	err := call(ctx, method, req, resp, conn, opts...)
	if err != nil {
		told(status.Convert(err).Proto().String())
	}
	return err
}

// issue gets a token over gRPC and remembers it as a secret.
func (s *system) issue(conn *grpc.ClientConn, req *pb.IssueTokenRequest) *pb.IssueTokenResponse {
	s.t.Helper()
	if req.GetAudience() == "" {
		req.Audience = "chat"
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	resp, err := pb.NewTokenServiceClient(conn).IssueToken(ctx, req)
	if err != nil {
		s.t.Fatal(err)
	}
	secrets.add(resp.GetToken())
	return resp
}

// admitted opens a socket with a new token, as soon as the node admits one. While
// it attaches, anew too, handshakes are told to come back.
func (s *system) admitted(conn *grpc.ClientConn, n *node) (tok *pb.IssueTokenResponse, sock *socket) {
	s.t.Helper()
	eventually(s.t, n.name+" admits a socket", func() bool {
		tok = s.issue(conn, &pb.IssueTokenRequest{Subject: "passing"})
		var err error
		sock, err = open(s.t, offer{url: "ws://" + n.plain + "/chat", bearer: tok.GetToken()})
		if e := (&errStatus{}); err != nil && !(errors.As(err, &e) && e.code == http.StatusServiceUnavailable) {
			s.t.Fatal(err)
		}
		return err == nil
	})
	return tok, sock
}

// cli runs gatehouse as the first admin.
func (s *system) cli(args ...string) result { return s.cliIn("", args...) }

func (s *system) cliIn(stdin string, args ...string) result {
	s.t.Helper()
	dir := filepath.Join(s.state, "credentials", "admin")
	env := []string{
		"GATEHOUSE_ADDRESS=" + s.listen, "GATEHOUSE_CA_FILE=" + dir + "/ca.crt",
		"GATEHOUSE_CERT_FILE=" + dir + "/tls.crt", "GATEHOUSE_KEY_FILE=" + dir + "/tls.key",
	}
	return command(s.t, stdin, env, bin("gatehouse"), args...)
}

// result is what a command that ended printed.
type result struct {
	code           int
	stdout, stderr string
}

func command(t *testing.T, stdin string, env []string, name string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if cmd.ProcessState == nil {
		t.Fatalf("%s: %v", name, err)
	}
	r := result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
	// What a program says to its user is searched for secrets too, but for the
	// one place where a token belongs: the output of issue.
	write(t, newLog(t, filepath.Base(name)+"-stderr"), r.stderr)
	if len(args) < 2 || args[0] != "token" || args[1] != "issue" {
		write(t, newLog(t, filepath.Base(name)+"-stdout"), r.stdout)
	}
	return r
}

func (r result) want(t *testing.T, code int) result {
	t.Helper()
	if r.code != code {
		t.Fatalf("exit code %d, want %d\nstdout: %s\nstderr: %s", r.code, code, r.stdout, r.stderr)
	}
	return r
}

// decode reads JSON output.
func (r result) decode(t *testing.T, to any) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.stdout), to); err != nil {
		t.Fatalf("not JSON: %v\n%s", err, r.stdout)
	}
}

var logs struct {
	sync.Mutex
	n int
}

// newLog names a file that is searched for secrets when all tests are over.
func newLog(t *testing.T, what string) string {
	logs.Lock()
	defer logs.Unlock()
	logs.n++
	return filepath.Join(artifacts, fmt.Sprintf("%03d-%s-%s.log", logs.n, strings.ReplaceAll(t.Name(), "/", "_"), what))
}
