package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// terminal is a program's terminal, seen from the person's side.
type terminal struct {
	master, slave *os.File

	mu    sync.Mutex
	shown bytes.Buffer
}

func newTerminal(t *testing.T) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	term := &terminal{master: master, slave: slave}
	t.Cleanup(func() {
		_ = slave.Close()
		_ = master.Close()
	})
	go func() { // ends with the master
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			term.mu.Lock()
			term.shown.Write(buf[:n])
			term.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return term
}

// text is what the terminal has shown so far.
func (term *terminal) text() string {
	term.mu.Lock()
	defer term.mu.Unlock()
	return term.shown.String()
}

// wait waits until the terminal shows text.
func (term *terminal) wait(t *testing.T, text string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(term.text(), text); {
		if time.Now().After(deadline) {
			t.Fatalf("no %q in %q", text, term.text())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (term *terminal) resize(t *testing.T, columns uint16) {
	t.Helper()
	if err := unix.IoctlSetWinsize(int(term.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: columns}); err != nil {
		t.Fatal(err)
	}
}

func (term *terminal) echoes(t *testing.T) bool {
	t.Helper()
	state, err := unix.IoctlGetTermios(int(term.slave.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return state.Lflag&unix.ECHO != 0
}

// start runs the program on the terminal; its output goes to stdout.
func (term *terminal) start(t *testing.T, c *caller, stdout io.Writer, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("gatehouse", args...)
	cmd.Env = append(append(os.Environ(), c.environ...), "HOME="+c.dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = term.slave, stdout, term.slave
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd
}

func exitOf(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		return -1
	}
	return 0
}

func TestTerminalConfirmation(t *testing.T) {
	for typed, want := range map[string]int{"acme\n": 0, "yes\n": 1, "\x04": 1} {
		c, term := newCaller(t), newTerminal(t)
		var stdout bytes.Buffer
		cmd := term.start(t, c, &stdout, "revoke", "--tenant", "acme", "--reason", "left")
		term.wait(t, "Type acme to go on: ")
		if _, err := term.master.WriteString(typed); err != nil {
			t.Fatal(err)
		}
		if got := exitOf(cmd.Wait()); got != want {
			t.Errorf("%q: exit code %d, want %d: %s", typed, got, want, term.text())
		}
		revoked := strings.HasPrefix(stdout.String(), "revoked: 12 tokens, 3 live sockets; 3 sockets closed on 2 of 2 nodes in 12 ms\n")
		if n := len(requestsOf[*pb.RevokeRequest](c.authority)); revoked != (want == 0) || (n == 2) != revoked {
			t.Errorf("%q: %d requests, %s", typed, n, stdout.String())
		}
	}
}

// A token that is typed or pasted must not stay on the screen.
func TestTerminalHidesTokens(t *testing.T) {
	c, term := newCaller(t), newTerminal(t)
	_, text := testToken(1)
	var stdout bytes.Buffer
	cmd := term.start(t, c, &stdout, "token", "introspect")
	term.wait(t, "Token: ")
	for term.echoes(t) {
		time.Sleep(time.Millisecond)
	}
	if _, err := term.master.WriteString(text + "\n"); err != nil {
		t.Fatal(err)
	}
	if got := exitOf(cmd.Wait()); got != 0 || stdout.String() != "inactive\n" {
		t.Errorf("exit code %d: %s", got, stdout.String())
	}
	if strings.Contains(term.text(), text[4:]) {
		t.Errorf("the terminal shows the token: %q", term.text())
	}
	if !term.echoes(t) {
		t.Error("the terminal's echo stays off")
	}
}

func TestTerminalAfterAnInterruption(t *testing.T) {
	c, term := newCaller(t), newTerminal(t)
	cmd := term.start(t, c, io.Discard, "token", "introspect")
	term.wait(t, "Token: ")
	for term.echoes(t) {
		time.Sleep(time.Millisecond)
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if got := exitOf(cmd.Wait()); got != int(exitInterrupted) {
		t.Errorf("exit code %d", got)
	}
	if !term.echoes(t) {
		t.Error("the terminal's echo stays off")
	}
}

func TestTerminalProgress(t *testing.T) {
	c, term := newCaller(t), newTerminal(t)
	c.authority.silence()
	var stdout bytes.Buffer
	cmd := term.start(t, c, &stdout, "revoke", "--subject", "u42", "--timeout", "10s")
	term.wait(t, "\r\x1b[Kgatehouse: waiting for 1 of 2 nodes: node-2")
	term.resize(t, 32)
	term.wait(t, "\r\x1b[Kgatehouse: waiting for 1 of ...\r")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got := exitOf(cmd.Wait()); got != int(exitInterrupted) || !strings.HasPrefix(stdout.String(), "revoked: 12 tokens, 3 live sockets; 2 sockets closed on 1 of 2 nodes") {
		t.Errorf("exit code %d: %s", got, stdout.String())
	}
	term.wait(t, "\r\x1b[Kgatehouse: error: revoked, but who has enforced it could not be learnt: interrupted")
}
