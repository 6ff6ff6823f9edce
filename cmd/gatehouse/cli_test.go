package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// TestMain lets scripts run the test binary as gatehouse, and keeps tests away
// from the settings, and the gatehouse dev, of whoever runs them.
func TestMain(m *testing.M) {
	if strings.TrimSuffix(filepath.Base(os.Args[0]), ".exe") != "gatehouse" {
		for _, name := range []string{"HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "AppData", "LocalAppData"} {
			os.Setenv(name, "/nonexistent")
		}
	}
	testscript.Main(m, map[string]func(){"gatehouse": main})
}

// caller runs commands, against a fake authority if it has one.
type caller struct {
	t         testing.TB
	authority *fakeAuthority
	dir       string // with the credential
	environ   []string
	terminal  bool
	sees      func(stderr string) // called with all of it at each write; may be nil
}

func newCaller(t testing.TB) *caller {
	t.Helper()
	c := &caller{t: t, authority: startAuthority(t), dir: t.TempDir()}
	c.authority.ca.writeCredential(t, c.dir, "alice")
	c.environ = []string{
		"GATEHOUSE_ADDRESS=" + c.authority.addr, "GATEHOUSE_CA_FILE=" + filepath.Join(c.dir, "ca.crt"),
		"GATEHOUSE_CERT_FILE=" + filepath.Join(c.dir, "tls.crt"), "GATEHOUSE_KEY_FILE=" + filepath.Join(c.dir, "tls.key"),
	}
	return c
}

// result is what an invocation did, with the address as ADDRESS and the
// caller's folder as DIR.
type result struct {
	code           exitCode
	stdout, stderr string
}

func (c *caller) run(stdin string, args ...string) result {
	return c.runCtx(context.Background(), strings.NewReader(stdin), args...)
}

func (c *caller) runCtx(ctx context.Context, stdin io.Reader, args ...string) result {
	var stdout bytes.Buffer
	stderr := watched{seen: c.sees}
	cli := &cli{
		stdin: stdin, stdout: &stdout, stderr: &stderr, environ: c.environ, terminal: c.terminal, stderrTerminal: c.terminal, stderrWidth: func() int { return 80 },
		now: func() time.Time { return testNow }, zone: testZone, random: rand.Reader,
	}
	code := cli.run(ctx, args)
	if c.authority == nil {
		return result{code, stdout.String(), stderr.String()}
	}
	names := strings.NewReplacer(c.dir, "DIR", c.authority.addr, "ADDRESS")
	return result{code, names.Replace(stdout.String()), names.Replace(stderr.String())}
}

// watched is a buffer of which seen, if there is one, learns at each write.
type watched struct {
	bytes.Buffer
	seen func(all string)
}

func (w *watched) Write(b []byte) (int, error) {
	n, err := w.Buffer.Write(b)
	if w.seen != nil {
		w.seen(w.String())
	}
	return n, err
}

// interrupt runs a command on a terminal, by a person who interrupts it as soon as
// text is shown. What was shown of the progress is not part of the result.
func (c *caller) interrupt(text string, stdin io.Reader, args ...string) result {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c.terminal, c.sees = true, func(stderr string) {
		if strings.Contains(stderr, text) {
			cancel()
		}
	}
	got := c.runCtx(ctx, stdin, args...)
	c.terminal, c.sees = false, nil
	const cleared = "\r\x1b[K"
	if i := strings.LastIndex(got.stderr, cleared); i >= 0 {
		got.stderr = got.stderr[i+len(cleared):]
	}
	return got
}

// check compares all of a result.
func (c *caller) check(got result, code exitCode, stdout, stderr string) {
	c.t.Helper()
	if got.code != code {
		c.t.Errorf("exit code %d, want %d", got.code, code)
	}
	if got.stdout != stdout {
		c.t.Errorf("stdout:\n%s\nwant:\n%s", got.stdout, stdout)
	}
	if got.stderr != stderr {
		c.t.Errorf("stderr:\n%s\nwant:\n%s", got.stderr, stderr)
	}
}

// testReceipt is a receipt of two nodes; incomplete, node-2 is silent.
func testReceipt(rev *pb.Revision, complete bool) *pb.Receipt {
	r := &pb.Receipt{
		Revision: rev, CommittedAt: timestamppb.New(testNow), Complete: complete,
		Rows: []*pb.ReceiptRow{
			{Node: "node-1", InstanceId: instance(1), Enforced: true, Closed: 2, Lingering: 1, After: durationpb.New(12 * time.Millisecond)},
			{Node: "node-2", InstanceId: instance(2), Deadline: timestamppb.New(testNow.Add(time.Hour))},
		},
	}
	if complete {
		r.Rows[1] = &pb.ReceiptRow{Node: "node-2", InstanceId: instance(2), Enforced: true, Closed: 1, After: durationpb.New(4 * time.Millisecond)}
	}
	return r
}
