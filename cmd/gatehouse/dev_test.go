package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-ws/gatehouse/cmd/internal/authorityd"
	"github.com/gatehouse-ws/gatehouse/wsnode"
	"github.com/gatehouse-ws/gatehouse/wsnode/deliver"
)

// output takes what a command prints while it runs.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// devRun is a gatehouse dev in this process.
type devRun struct {
	t              *testing.T
	state          string
	stdout, stderr output
	end            context.CancelFunc
	code           chan exitCode
}

// anyPorts are flags for ports that are free.
var anyPorts = []string{"--authority-address=localhost:0", "--wss-address=localhost:0", "--ws-address=localhost:0", "--page-address=localhost:0"}

func launchDev(t *testing.T, state string, environ []string, args ...string) *devRun {
	t.Helper()
	ctx, end := context.WithCancel(context.Background())
	d := &devRun{t: t, state: state, end: end, code: make(chan exitCode, 1)}
	c := &cli{
		stdin: strings.NewReader(""), stdout: &d.stdout, stderr: &d.stderr, environ: environ,
		now: time.Now, zone: testZone, random: rand.Reader,
	}
	go func() { d.code <- c.run(ctx, slices.Concat([]string{"dev", "--state", state}, anyPorts, args)) }()
	t.Cleanup(func() { d.stop() })
	return d
}

// startDev starts dev and waits until it says what listens where.
func startDev(t *testing.T, state string, args ...string) *devRun {
	t.Helper()
	d := launchDev(t, state, nil, args...)
	d.started()
	return d
}

func (d *devRun) started() {
	d.t.Helper()
	for end := time.Now().Add(20 * time.Second); !strings.Contains(d.stdout.String(), "Ctrl-C stops it"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) || len(d.code) > 0 {
			d.t.Fatalf("dev did not start: %s%s", d.stdout.String(), d.stderr.String())
		}
	}
}

// stop ends dev and returns its exit code, once and again.
func (d *devRun) stop() exitCode {
	d.end()
	return d.wait()
}

func (d *devRun) wait() exitCode {
	d.t.Helper()
	select {
	case code := <-d.code:
		d.code <- code
		return code
	case <-time.After(20 * time.Second):
		d.t.Fatal("dev did not end")
		return 0
	}
}

// refused wants dev to end by itself, and to say so.
func (d *devRun) refused(code exitCode, text string) {
	d.t.Helper()
	if got := d.wait(); got != code || !strings.Contains(d.stderr.String(), text) {
		d.t.Errorf("exit code %d, want %d and %q:\n%s", got, code, text, d.stderr.String())
	}
}

// cli runs a command against dev, by the clock that its certificates are of.
func (d *devRun) cli(args ...string) result {
	return liveCLI(nil, append(args, "--config", filepath.Join(d.state, "cli.yaml"))...)
}

func liveCLI(environ []string, args ...string) result {
	var stdout, stderr bytes.Buffer
	c := &cli{stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr, environ: environ, now: time.Now, zone: testZone, random: rand.Reader}
	code := c.run(context.Background(), args)
	return result{code, stdout.String(), stderr.String()}
}

func (d *devRun) wantTokens(n int) {
	d.t.Helper()
	got := d.cli("token", "list", "-ojson")
	if got.code != exitOK || strings.Count(got.stdout, `"token_id"`) != n {
		d.t.Errorf("%d tokens are wanted: %+v", n, got)
	}
}

// What runs is asked before anything is forgotten: a dev that goes on must not
// go on acknowledging into a file that is gone.
func TestFreshLeavesARunningDevAlone(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	d := startDev(t, state)
	if got := d.cli("token", "issue", "--subject=u", "--audience=chat", "--ttl=10m"); got.code != exitOK {
		t.Fatalf("%+v", got)
	}
	inUse := "gatehouse: error: " + state + " is in use: "
	hint := "gatehouse: hint: another gatehouse dev runs there, most likely: end it, or give this one a --state of its own\n"
	for _, args := range [][]string{{"--fresh", "--yes"}, {"--fresh"}, nil} {
		other := launchDev(t, state, nil, args...)
		other.refused(exitFailure, inUse)
		if !strings.HasSuffix(other.stderr.String(), hint) {
			t.Errorf("%v: no hint: %s", args, other.stderr.String())
		}
	}
	for _, listener := range []string{"authority", "wss", "ws", "page"} {
		busy, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		launchDev(t, state, nil, "--fresh", "--yes", "--"+listener+"-address", busy.Addr().String()).refused(exitFailure, "is in use by another process; choose another address with --"+listener+"-address")
		_ = busy.Close()
	}
	launchDev(t, state, nil, "--fresh", "--yes", "--log-level=loud").refused(exitUsage, "--log-level")
	d.wantTokens(1)

	// A dev of before holds no mark's lock, but the store's.
	if err := os.Rename(filepath.Join(state, devMark), filepath.Join(t.TempDir(), devMark)); err != nil {
		t.Fatal(err)
	}
	launchDev(t, state, nil, "--fresh", "--yes").refused(exitFailure, inUse)
	d.wantTokens(1)
	if code := d.stop(); code != exitOK {
		t.Errorf("exit code %d: %s", code, d.stderr.String())
	}

	launchDev(t, state, nil, "--fresh").refused(exitUsage, "say --yes too")
	d = startDev(t, state)
	d.wantTokens(1)
	d.stop()
	startDev(t, state, "--fresh", "--yes").wantTokens(0)
}

func tree(t *testing.T, dir string) string {
	t.Helper()
	var names []string
	if err := fs.WalkDir(os.DirFS(dir), ".", func(path string, _ fs.DirEntry, err error) error {
		names = append(names, path)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return strings.Join(names, " ")
}

// Folders that are not dev's are neither wiped nor used.
func TestDevTakesOnlyItsOwnFolder(t *testing.T) {
	file := func(t *testing.T, path, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const left = "they are left alone"
	for _, tc := range []struct {
		rule string
		make func(t *testing.T, dir string)
		text string
		both bool // a plain start is refused too
	}{
		{"an authority's, made by init", func(t *testing.T, dir string) {
			cfg := authorityd.DefaultConfig()
			cfg.State = dir
			if _, err := authorityd.Init(t.Context(), cfg, slog.New(slog.DiscardHandler)); err != nil {
				t.Fatal(err)
			}
		}, left, true},
		{"a project with a folder called ca", func(t *testing.T, dir string) { file(t, filepath.Join(dir, "ca", "thesis.tex"), "x") }, left, true},
		{"somebody's settings of that name", func(t *testing.T, dir string) { file(t, filepath.Join(dir, "cli.yaml"), "address: x:1\n") }, left, true},
		{"an earlier dev's with more in it", func(t *testing.T, dir string) {
			file(t, filepath.Join(dir, "cli.yaml"), devHeader)
			file(t, filepath.Join(dir, "credentials", "admin", "tls.crt"), "x")
			file(t, filepath.Join(dir, "notes.txt"), "x")
		}, left, true},
		{"one that an earlier dev shared with an authority", func(t *testing.T, dir string) {
			file(t, filepath.Join(dir, "cli.yaml"), devHeader)
			file(t, filepath.Join(dir, "credentials", "login", "tls.crt"), "x")
		}, left, true},
		{"dev's with more in it", func(t *testing.T, dir string) {
			file(t, filepath.Join(dir, devMark), devMarkText)
			file(t, filepath.Join(dir, "notes.txt"), "x")
		}, "holds what gatehouse dev did not make: notes.txt; nothing was removed", false},
	} {
		t.Run(tc.rule, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "state")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			tc.make(t, dir)
			before := tree(t, dir)
			launchDev(t, dir, nil, "--fresh", "--yes").refused(exitUsage, tc.text)
			if tc.both {
				launchDev(t, dir, nil).refused(exitUsage, tc.text)
			}
			if after := tree(t, dir); after != before {
				t.Errorf("the folder held %s and now holds %s", before, after)
			}
		})
	}
	t.Run("an empty name", func(t *testing.T) {
		launchDev(t, "", nil, "--fresh", "--yes").refused(exitUsage, "--state is empty")
	})
	t.Run("one that a dev without the mark made", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "state")
		startDev(t, dir).stop()
		if err := os.Remove(filepath.Join(dir, devMark)); err != nil {
			t.Fatal(err)
		}
		file(t, filepath.Join(dir, ".gatehouse.db.new-123"), "left by a kill")
		startDev(t, dir, "--fresh", "--yes").wantTokens(0)
		if _, err := os.Stat(filepath.Join(dir, ".gatehouse.db.new-123")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("--fresh left it: %v", err)
		}
	})
}

func TestDevUsage(t *testing.T) {
	for _, flag := range []string{"authority-address", "wss-address", "ws-address", "page-address"} {
		for _, address := range []string{"localhost", "8440", "localhost:", "::1"} {
			launchDev(t, filepath.Join(t.TempDir(), "state"), nil, "--"+flag, address).refused(exitUsage,
				"--"+flag+`: "`+address+`" is not host:port, such as localhost:8080`)
		}
	}
	for _, flag := range []string{"ws-address", "page-address"} {
		launchDev(t, filepath.Join(t.TempDir(), "state"), nil, "--"+flag, "0.0.0.0:0").refused(exitUsage, "is not on loopback")
	}
}

func TestDevTellsWhyItDoesNotStart(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	startDev(t, state).stop()
	if err := os.Remove(filepath.Join(state, "gatehouse.db")); err != nil {
		t.Fatal(err)
	}
	launchDev(t, state, nil).refused(exitFailure, "hint: gatehouse dev --fresh begins anew")
	startDev(t, state, "--fresh", "--yes").stop()
}

func TestDevWaitsNoLongerThanItSays(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // it never answers
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d := &dev{log: slog.New(slog.DiscardHandler), onAuthority: l, devOptions: devOptions{web: "localhost:8080"}}
	if d.node, err = wsnode.New(d.nodeConfig(&tlsConfig{}), deliver.Echo{}); err != nil {
		t.Fatal(err)
	}
	defer d.node.Shutdown(t.Context())
	err = d.waitReady(t.Context(), nil, 20*time.Millisecond)
	if err == nil || !strings.HasPrefix(err.Error(), "the node does not get ready within 20ms: ") {
		t.Errorf("%v", err)
	}
	broken := make(chan error, 1)
	broken <- errors.New("broken")
	if err := d.waitReady(t.Context(), broken, time.Minute); err == nil || err.Error() != "broken" {
		t.Errorf("what failed meanwhile is not told: %v", err)
	}
	gone, end := context.WithCancel(t.Context())
	end()
	if err := d.waitReady(gone, nil, time.Minute); err != nil {
		t.Errorf("Ctrl-C: %v", err)
	}
}

// What dev prints calls this dev, wherever else settings lead, and as a shell
// reads it.
func TestPrintedLinesLeadToThisDev(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the folders are others elsewhere")
	}
	home := t.TempDir()
	t.Setenv("XDG_STATE_HOME", filepath.Join(home, "state"))
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(home, "config"))
	other := filepath.Join(home, "config", "gatehouse", "cli.yaml")
	if err := os.MkdirAll(filepath.Dir(other), 0o700); err != nil {
		t.Fatal(err)
	}
	byDefault := filepath.Join(home, "state", "gatehouse", "dev")
	for _, tc := range []struct {
		rule, state, settings string
		environ               []string
		named                 bool // by --config
		unset                 string
	}{
		{rule: "a dev that is found", state: byDefault},
		{rule: "settings that name no authority", state: byDefault, settings: "call_timeout: 5s\n"},
		{rule: "settings that name another authority", state: byDefault, settings: "address: 127.0.0.1:1\n", named: true},
		{rule: "settings that are wrong", state: byDefault, settings: "adress: 127.0.0.1:1\n", named: true},
		{rule: "a state folder of one's own", state: filepath.Join(home, "own"), named: true},
		{rule: "a name that a shell would split", state: filepath.Join(home, "o'neil's $HOME"), named: true},
		{rule: "variables that win over any file", state: byDefault, environ: []string{"GATEHOUSE_ADDRESS=127.0.0.1:1", "GATEHOUSE_CALL_TIMEOUT=5s"}, named: true, unset: "GATEHOUSE_ADDRESS"},
	} {
		t.Run(tc.rule, func(t *testing.T) {
			if err := os.WriteFile(other, []byte(tc.settings), 0o600); err != nil {
				t.Fatal(err)
			}
			d := launchDev(t, tc.state, tc.environ)
			d.started()
			defer d.stop()
			environ := tc.environ
			if tc.unset != "" {
				environ = nil
				if !strings.Contains(d.stdout.String(), "\n  unset "+tc.unset+"\n") {
					t.Errorf("the banner does not say it: %s", d.stdout.String())
				}
			} else if strings.Contains(d.stdout.String(), "unset") {
				t.Errorf("the banner speaks of variables: %s", d.stdout.String())
			}
			lines := regexp.MustCompile(`(?m)^  go run ./cmd/gatehouse (.*)$`).FindAllStringSubmatch(d.stdout.String(), -1)
			if len(lines) != 2 {
				t.Fatalf("dev prints %q", lines)
			}
			for _, line := range lines {
				if strings.Contains(line[1], "--config") != tc.named {
					t.Errorf("dev prints %s", line[1])
				}
				args, err := exec.Command("sh", "-c", `printf '%s\n' `+line[1]).Output()
				if err != nil {
					t.Fatal(err)
				}
				if got := liveCLI(environ, strings.Split(strings.TrimSuffix(string(args), "\n"), "\n")...); got.code != exitOK {
					t.Errorf("%s: %+v", line[1], got)
				}
			}
		})
	}
	launchDev(t, filepath.Join(home, "a\nb"), nil).refused(exitUsage, "--state: ")
}
