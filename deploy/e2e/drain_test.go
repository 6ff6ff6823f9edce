//go:build e2e

package e2e

import (
	"errors"
	"net/http"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

var slot = regexp.MustCompile(`^node restarts; retry_after=[0-4]\.[0-9]{3}$`)

// SIGTERM drains a node: readiness first, sockets with 1012 over the drain window,
// each with a slot of its own to come back in, and a goodbye.
func TestNodeDrains(t *testing.T) {
	const sockets = 10
	s := newSystem(t)
	n := s.addNode("node-1", "\ndrain_window: 2s\nreturn_window: 5s\n")
	admin := s.dial("")
	type end struct {
		at  time.Time
		err error
	}
	ends := make(chan end, sockets)
	for i := range sockets {
		o := offer{url: "ws://" + n.plain + "/chat", bearer: s.issue(admin, &pb.IssueTokenRequest{Subject: "u"}).GetToken()}
		if i%2 == 1 { // of each driver
			o.url, o.tls, o.bearer = "wss://"+n.wss+"/chat", s.clientTLS(), s.issue(admin, &pb.IssueTokenRequest{Subject: "u"}).GetToken()
		}
		sock := mustOpen(t, o)
		sock.echo(hello)
		go func() {
			_, err := sock.receive()
			ends <- end{time.Now(), err}
			_ = sock.nc.Close()
		}()
	}
	n.signal(syscall.SIGTERM)
	var first, last time.Time
	slots := map[string]bool{}
	for i := range sockets {
		e := <-ends
		var closed *errClosed
		if !errors.As(e.err, &closed) || closed.code != 1012 || !slot.MatchString(closed.reason) {
			t.Errorf("a socket ends with %v, want 1012 and a slot", e.err)
			continue
		}
		slots[closed.reason] = true
		if last = e.at; i > 0 {
			continue
		}
		first = e.at
		if code, body := get("http://" + n.admin + "/readyz"); code != http.StatusServiceUnavailable {
			t.Errorf("/readyz: %d %s while sockets are closed, want 503", code, body)
		}
		if _, err := open(t, offer{url: "ws://" + n.plain + "/chat", bearer: s.issue(admin, &pb.IssueTokenRequest{Subject: "u"}).GetToken()}); err == nil {
			t.Error("a handshake is accepted")
		}
	}
	if took := last.Sub(first); took < time.Second {
		t.Errorf("%d sockets are closed within %v, want about 2 s", sockets, took)
	}
	if len(slots) < sockets-1 {
		t.Errorf("%d slots for %d sockets: %v", len(slots), sockets, slots)
	}
	if code := n.wait(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	eventually(t, "instance gone", func() bool {
		return !strings.Contains(s.cli("node", "list", "-o", "json").want(t, 0).stdout, "node-1")
	})
}

// A second SIGTERM does not wait for the rest of the window.
func TestSecondSignalEndsANode(t *testing.T) {
	s := newSystem(t)
	n := s.addNode("node-1", "\ndrain_window: 1h\n")
	admin := s.dial("")
	for range 3 {
		mustOpen(t, offer{url: "ws://" + n.plain + "/chat", bearer: s.issue(admin, &pb.IssueTokenRequest{Subject: "u"}).GetToken()}).echo(hello)
	}
	n.signal(syscall.SIGTERM)
	eventually(t, "the node drains", func() bool { return strings.Contains(n.output(), "node drains") })
	eventually(t, "the node ends", func() bool { // a signal that comes with the first is one with it
		n.signal(syscall.SIGTERM)
		select {
		case <-n.done:
			return true
		default:
			return false
		}
	})
	if status, ok := n.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGTERM {
		t.Errorf("it ended with %v, want by SIGTERM", n.cmd.ProcessState)
	}
	if strings.Contains(n.output(), "node stopped") {
		t.Error("it says that it drained to the end")
	}
}
