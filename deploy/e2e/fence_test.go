//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

const sessionFence = 12 * time.Second

// shortlyFenced is a system whose nodes go without their authority for no longer
// than sessionFence.
func shortlyFenced(t *testing.T) (*system, *node) {
	t.Helper()
	s := prepare(t)
	s.extra = "fleet: {heartbeat_interval: 200ms, admission_fence: 2s, session_fence: " + sessionFence.String() + "}\n"
	s.writeConfig()
	s.startAuthority()
	return s, s.addNode("node-1", "")
}

// Without its authority a node's sockets work until shortly before the session
// fence, and are then closed one after the other: none is left after it.
func TestSocketsOutliveTheAuthorityUntilTheFence(t *testing.T) {
	s, n := shortlyFenced(t)
	admin := s.dial("")
	url := "ws://" + n.plain + "/chat"
	socks := make([]*socket, 24)
	for i := range socks {
		socks[i] = mustOpen(t, offer{url: url, bearer: s.issue(admin, &pb.IssueTokenRequest{Subject: "u"}).GetToken()})
	}
	late := s.issue(admin, &pb.IssueTokenRequest{Subject: "u"}).GetToken()
	s.authority.kill()
	begin := time.Now()
	eventually(t, "admission fence", func() bool {
		code, _ := get("http://" + n.admin + "/readyz")
		return code == http.StatusServiceUnavailable
	})
	wantStatus(t, offer{url: url, bearer: late}, http.StatusServiceUnavailable)
	for time.Since(begin) < sessionFence/2 {
		for _, sock := range socks {
			sock.echo(hello)
		}
		time.Sleep(500 * time.Millisecond)
	}

	type end struct {
		after time.Duration
		err   error
	}
	ends := make(chan end, len(socks))
	for _, sock := range socks {
		go func() {
			_, err := sock.receive()
			ends <- end{time.Since(begin), err}
		}()
	}
	var after []time.Duration
	for range socks {
		e := <-ends
		var c *errClosed
		if !errors.As(e.err, &c) || c.code != 1013 || c.reason != "node has lost its authority" {
			t.Fatalf("after %v: %v, want close 1013", e.after, e.err)
		}
		after = append(after, e.after)
	}
	slices.Sort(after)
	first, last := after[0], after[len(after)-1]
	// The lease counts from a heartbeat before the kill.
	if first < 3*sessionFence/4-time.Second || last > sessionFence+time.Second || last-first < sessionFence/8 {
		t.Errorf("closed after %v, want them spread over the last quarter of %v", after, sessionFence)
	}
	t.Logf("closed between %v and %v after the kill, half of them after %v", first, last, after[len(after)/2])
}

// stopped reports whether no thread of a process runs (proc_pid_stat(5)).
func stopped(t *testing.T, pid int) bool {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(files) == 0 {
		t.Fatalf("threads of %d: %v", pid, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if _, state, _ := strings.Cut(string(b), ") "); err == nil && !strings.HasPrefix(state, "T") {
			return false
		}
	}
	return true
}

var received = regexp.MustCompile(`(?m)^gatehouse_node_messages_received_total (\d+)$`)

// A node that is paused for longer than the session fence takes no message after
// the deadline that a receipt named meanwhile, though it finds some in its
// sockets.
func TestPausedNodeTakesNothingAfterTheDeadline(t *testing.T) {
	s, n := shortlyFenced(t)
	admin := s.dial("")
	messages := func() string {
		_, text := get("http://" + n.admin + "/metrics")
		m := received.FindStringSubmatch(text)
		if m == nil {
			t.Fatalf("no count of messages in\n%s", text)
		}
		return m[1]
	}
	tok := s.issue(admin, &pb.IssueTokenRequest{Subject: "u42"})
	sock := mustOpen(t, offer{url: "ws://" + n.plain + "/chat", bearer: tok.GetToken()})
	sock.echo(hello)
	before := messages()

	n.signal(syscall.SIGSTOP)
	eventually(t, "every thread is stopped", func() bool { return stopped(t, n.cmd.Process.Pid) })
	sock.send(hello)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	revocations := pb.NewRevocationServiceClient(admin)
	revoked, err := revocations.Revoke(ctx, &pb.RevokeRequest{Selector: &pb.Selector{By: &pb.Selector_TokenId{TokenId: tok.GetTokenId()}}, Reason: "test"})
	if err != nil {
		t.Fatal(err)
	}
	receipt, err := revocations.GetReceipt(ctx, &pb.GetReceiptRequest{Revision: revoked.GetRevision()})
	if err != nil {
		t.Fatal(err)
	}
	rows := receipt.GetReceipt().GetRows()
	if len(rows) != 1 || rows[0].GetDeadline() == nil {
		t.Fatalf("receipt %v, want node-1 with a deadline", receipt)
	}
	marked := func(state string, behind uint64) func() bool {
		return func() bool {
			var list struct {
				Nodes []struct {
					State  string
					Behind uint64
				}
			}
			s.cli("node", "list", "-o", "json").want(t, 0).decode(t, &list)
			return len(list.Nodes) == 1 && list.Nodes[0].State == state && list.Nodes[0].Behind == behind
		}
	}
	eventually(t, "the paused node is listed as silent", marked("silent", 1))
	s.authority.says("node is silent")
	deadline := rows[0].GetDeadline().AsTime()
	t.Logf("the deadline is %v after the revocation", time.Until(deadline))
	time.Sleep(time.Until(deadline) + 100*time.Millisecond)
	sock.send(hello)
	n.signal(syscall.SIGCONT)
	for {
		text, err := sock.receive()
		if err != nil {
			t.Logf("the socket ended with: %v", err)
			break
		}
		t.Errorf("%q was answered after the deadline", text)
	}
	if after := messages(); after != before {
		t.Errorf("%s messages were accepted, %s before the pause", after, before)
	}
	s.await(n.admin) // and it goes on
	eventually(t, "the node is listed as attached", marked("attached", 0))
}
