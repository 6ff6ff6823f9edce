//go:build e2e

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// TestReceiptsOutliveKills proves promise 4 by kill -9 of either side: what a
// receipt has told it tells again, by the store or by nodes that repeat what was
// not on disk.
func TestReceiptsOutliveKills(t *testing.T) {
	s := prepare(t)
	s.extra = "fleet: {heartbeat_interval: 50ms}\n"
	s.writeConfig()
	s.startAuthority()
	a, b := s.addNode("node-1", ""), s.addNode("node-2", "")
	var revision string
	receipt := func(more ...string) string {
		t.Helper()
		var r struct {
			Rows []struct {
				Node     string
				Enforced bool
				Closed   int
				Departed string
			}
		}
		s.cli(append([]string{"revocation", "show", revision, "-o", "json"}, more...)...).want(t, 0).decode(t, &r)
		var out []string
		for _, row := range r.Rows {
			out = append(out, fmt.Sprintf("%s:%d%s", row.Node, row.Closed, row.Departed))
		}
		slices.Sort(out)
		return strings.Join(out, " ")
	}
	for round := range 5 {
		admin := s.dial("")
		var socks []*socket
		for i := range 4 {
			n := []*node{a, a, a, b}[i]
			tok := s.issue(admin, &pb.IssueTokenRequest{Subject: "u"}).GetToken()
			socks = append(socks, mustOpen(t, offer{url: "ws://" + n.plain + "/chat", bearer: tok}))
		}
		var revoked struct{ Revision string }
		s.cli("revoke", "--subject", "u", "--reason", "test", "-o", "json").want(t, 0).decode(t, &revoked)
		s.authority.kill() // at once: hardly anything of it is on disk
		for _, sock := range socks {
			sock.wantClose(4501, "token revoked")
		}
		s.startAuthority()
		s.await(a.admin)
		s.await(b.admin)
		revision = revoked.Revision
		if got := receipt("--wait"); got != "node-1:3 node-2:1" {
			t.Fatalf("round %d: after the authority was killed: %s", round, got)
		}
	}
	s.authority.stop()
	a.kill()
	s.startAuthority()
	if got := receipt(); got != "node-1:3 node-2:1" {
		t.Errorf("after a node was killed: %s", got)
	}
	s.startNode(a) // declares its predecessor dead
	b.stop()
	s.authority.stop()
	s.startAuthority()
	if got := receipt(); got != "node-1:3 node-2:1" {
		t.Errorf("after its nodes have left: %s", got)
	}
}

// Where sockets may live without a word of the authority, the receipt of what a
// lost machine had waits until an admin says that it is lost.
func TestForgetALostNode(t *testing.T) {
	s := prepare(t)
	s.extra = "fleet: {heartbeat_interval: 200ms, admission_fence: 2s, session_fence: 0s}\n"
	s.writeConfig()
	s.startAuthority()
	n := s.addNode("node-1", "")
	tok := s.issue(s.dial(""), &pb.IssueTokenRequest{Subject: "u"}).GetToken()
	mustOpen(t, offer{url: "ws://" + n.plain + "/chat", bearer: tok})
	var nodes struct {
		Nodes []struct {
			InstanceID string `json:"instance_id"`
		}
	}
	s.cli("node", "list", "-o", "json").want(t, 0).decode(t, &nodes)
	if len(nodes.Nodes) != 1 {
		t.Fatalf("%d instances are registered, want 1", len(nodes.Nodes))
	}
	forget := func() result {
		return s.cli("node", "forget", nodes.Nodes[0].InstanceID, "--reason", "machine burnt", "--yes")
	}
	if out := forget().want(t, 1).stderr; !strings.Contains(out, "is attached") {
		t.Errorf("an attached instance: %s", out)
	}
	n.kill()
	var revoked struct{ Revision string }
	s.cli("revoke", "--subject", "u", "--reason", "test", "-o", "json", "--timeout", "1s").want(t, 6).decode(t, &revoked)
	eventually(t, "forgotten once it can't admit any more", func() bool {
		out := forget()
		return out.code == 0 || !strings.Contains(out.stderr, "may admit sockets for another") && !strings.Contains(out.stderr, "is attached")
	})
	receipt := s.cli("revocation", "show", revoked.Revision).want(t, 0)
	if !strings.Contains(receipt.stdout, "forgotten by admin") {
		t.Errorf("the receipt does not say who forgot the node: %s", receipt.stdout)
	}
	var trail struct {
		Records []struct {
			Fields struct{ Epoch, Revision string }
		}
	}
	s.cli("audit", "list", "--action", "Revoke", "-o", "json").want(t, 0).decode(t, &trail)
	if told := trail.Records[0].Fields; told.Epoch+"."+told.Revision != revoked.Revision {
		t.Errorf("the audit trail tells of %s.%s, the revocation of %s", told.Epoch, told.Revision, revoked.Revision)
	} else if again := s.cli("revocation", "show", told.Revision).want(t, 0); !strings.Contains(again.stdout, "revision "+revoked.Revision+", ") {
		t.Errorf("asked for without its epoch: %s", again.stdout)
	}
	if out := s.cli("session", "list", "-o", "json").want(t, 0).stdout; strings.Contains(out, `"session_id"`) {
		t.Errorf("a session of the lost node is listed: %s", out)
	}
	forget().want(t, 3)
}
