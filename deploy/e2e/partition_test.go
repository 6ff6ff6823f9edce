//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"google.golang.org/grpc"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// link is a node's way to its authority: the node lives in a network namespace of
// its own, and the packets between the two can be dropped there, each way for
// itself. Nobody is told: there is no reset, and no unreachable host.
type link struct {
	t         *testing.T
	namespace string
	outside   string // the test's end, where the authority listens
	inside    string // the node's
	authority string // port
}

var links atomic.Int32

// newLink makes a namespace, which goes with the test whatever becomes of it, and
// with it the interfaces and rules that are in it.
func newLink(t *testing.T) *link {
	t.Helper()
	needs(t, "ip")
	needs(t, "nft")
	if os.Geteuid() != 0 {
		t.Fatal("network namespaces need root: run as root, as CI does")
	}
	n := int(links.Add(1))
	// A name and a network that other runs on the machine don't have.
	net := (os.Getpid() + n) % 16384
	l := &link{
		t: t, namespace: fmt.Sprintf("ghe2e-%d-%d", os.Getpid(), n),
		outside: fmt.Sprintf("100.%d.%d.1", 64+net/256, net%256), inside: fmt.Sprintf("100.%d.%d.2", 64+net/256, net%256),
	}
	device := fmt.Sprintf("ghe2e%d", net)
	l.run("ip", "netns", "add", l.namespace)
	t.Cleanup(func() { // after the node is gone: it was started later
		if out, err := exec.Command("ip", "netns", "del", l.namespace).CombinedOutput(); err != nil {
			t.Errorf("remove the namespace: %v %s", err, out)
		}
		_ = exec.Command("ip", "link", "del", device).Run() // it has gone with its peer, or goes now
	})
	l.run("ip", "link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", l.namespace)
	l.run("ip", "addr", "add", l.outside+"/24", "dev", device)
	l.run("ip", "link", "set", device, "up")
	for _, args := range [][]string{{"addr", "add", l.inside + "/24", "dev", "eth0"}, {"link", "set", "eth0", "up"}, {"link", "set", "lo", "up"}} {
		l.run("ip", append([]string{"-n", l.namespace}, args...)...)
	}
	return l
}

func (l *link) run(name string, args ...string) {
	l.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		l.t.Fatalf("%s %s: %v %s", name, strings.Join(args, " "), err, out)
	}
}

// cut drops what the node sends its authority, what it would get from there, or
// both.
func (l *link) cut(toAuthority, toNode bool) {
	l.t.Helper()
	rules := "table inet cut {\n"
	if toAuthority {
		rules += "chain out { type filter hook output priority 0; tcp dport " + l.authority + " drop; }\n"
	}
	if toNode {
		rules += "chain in { type filter hook input priority 0; tcp sport " + l.authority + " drop; }\n"
	}
	cmd := exec.Command("ip", "netns", "exec", l.namespace, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules + "}\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		l.t.Fatalf("nft: %v %s", err, out)
	}
}

func (l *link) heal() {
	l.t.Helper()
	l.run("ip", "netns", "exec", l.namespace, "nft", "delete", "table", "inet", "cut")
}

// parted is a system whose node-1 is behind a link, and whose node-2 is not.
type parted struct {
	*system
	link      *link
	far, near *node
	admin     *grpc.ClientConn
}

func newParted(t *testing.T) *parted {
	t.Helper()
	l := newLink(t)
	s := prepare(t)
	_, l.authority, _ = net.SplitHostPort(s.listen)
	s.listen = l.outside + ":" + l.authority
	s.extra = "server_names: [localhost, 127.0.0.1, " + l.outside + "]\n" +
		"fleet: {heartbeat_interval: 200ms, admission_fence: 2s, session_fence: " + sessionFence.String() + ", retry_after: 3s}\n"
	s.writeConfig()
	s.startAuthority()
	p := &parted{system: s, link: l, admin: s.dial("")}
	p.near = s.addNode("node-2", "")
	s.nodeHost, s.underNode = l.inside, []string{"ip", "netns", "exec", l.namespace}
	p.far = s.addNode("node-1", "")
	return p
}

func (p *parted) url(n *node) string { return "ws://" + n.plain + "/chat" }

func (p *parted) token(subject string) *pb.IssueTokenResponse {
	p.t.Helper()
	return p.issue(p.admin, &pb.IssueTokenRequest{Subject: subject, Ttl: durationOf(10 * time.Minute)})
}

func (p *parted) sockets(n *node, subject string, count int) (out []*socket) {
	p.t.Helper()
	for range count {
		out = append(out, mustOpen(p.t, offer{url: p.url(n), bearer: p.token(subject).GetToken()}))
	}
	return out
}

// receipt is as the CLI prints it.
type receipt struct {
	Revision string
	Rows     []row
}

type row struct {
	Node     string
	Enforced bool
	Closed   int
	Deadline time.Time
}

func (r *receipt) of(node string) row {
	for _, row := range r.Rows {
		if row.Node == node {
			return row
		}
	}
	return row{}
}

// revokeParted revokes a subject, and wants a receipt in which node-1 alone is
// unconfirmed, with its deadline, and the exit code that says so.
func (p *parted) revokeParted(subject string) receipt {
	p.t.Helper()
	began := time.Now()
	var told struct {
		Revision string
		Receipt  receipt
	}
	p.cli("revoke", "--subject", subject, "--reason", "partition", "--timeout", "1s", "-o", "json").want(p.t, 6).decode(p.t, &told)
	r := told.Receipt
	r.Revision = told.Revision
	if len(r.Rows) != 2 {
		p.t.Fatalf("receipt %+v, want a row for each node", r)
	}
	for _, row := range r.Rows {
		switch left := row.Deadline.Sub(began); {
		case row.Node == "node-2" && !row.Enforced:
			p.t.Errorf("node-2 is unconfirmed: %+v", row)
		case row.Node == "node-1" && (row.Enforced || left < sessionFence-2*time.Second || left > sessionFence+5*time.Second):
			p.t.Errorf("node-1 %+v: want it unconfirmed, with a deadline about %v away", row, sessionFence)
		}
	}
	return r
}

// wantHealed waits until node-1 is attached again, and wants the receipt complete
// with so many sockets that node-1 has closed for it.
func (p *parted) wantHealed(r receipt, closed int) {
	p.t.Helper()
	p.await(p.far.admin)
	var now receipt
	p.cli("revocation", "show", r.Revision, "--wait", "-o", "json").want(p.t, 0).decode(p.t, &now)
	if row := now.of("node-1"); !row.Enforced || row.Closed != closed {
		p.t.Errorf("after it is healed: %+v, want %d sockets closed on node-1", now, closed)
	}
}

// wantFenced waits for the admission fence of node-1, and wants a handshake to be
// told to come back.
func (p *parted) wantFenced(token string) {
	p.t.Helper()
	eventually(p.t, "admission fence", func() bool {
		code, _ := get("http://" + p.far.admin + "/readyz")
		return code == http.StatusServiceUnavailable
	})
	e := wantStatus(p.t, offer{url: p.url(p.far), bearer: token}, http.StatusServiceUnavailable)
	if got := e.header.Get("Retry-After"); got == "" || got == "0" {
		p.t.Errorf("503 with Retry-After %q", got)
	}
}

// wantOnce offers each token to both nodes at once, and wants none to open more
// than one socket, in all; those in fresh, exactly one. It returns the open ones.
func (p *parted) wantOnce(tokens []*pb.IssueTokenResponse, fresh bool) (opened []*socket) {
	p.t.Helper()
	for _, tok := range tokens {
		type result struct {
			sock *socket
			err  error
		}
		results := make(chan result, 4)
		for i := range cap(results) {
			n := []*node{p.far, p.near}[i%2]
			go func() {
				sock, err := open(p.t, offer{url: p.url(n), bearer: tok.GetToken()})
				results <- result{sock, err}
			}()
		}
		before := len(opened)
		for range cap(results) {
			r := <-results
			var refused *errStatus
			switch {
			case r.err == nil:
				opened = append(opened, r.sock)
			case !errors.As(r.err, &refused) || refused.code != http.StatusUnauthorized:
				p.t.Errorf("token %s: %v", tok.GetTokenId(), r.err)
			}
		}
		if n := len(opened) - before; n > 1 || fresh && n != 1 {
			p.t.Errorf("token %s opened %d sockets", tok.GetTokenId(), n)
		}
	}
	return opened
}

// wantSessions waits until as many sessions of a subject are live as sockets.
func (p *parted) wantSessions(subject string, count int) {
	p.t.Helper()
	var list struct{ Sessions []struct{ Subject string } }
	eventually(p.t, fmt.Sprintf("%d sessions of %s", count, subject), func() bool {
		p.cli("session", "list", "--subject", subject, "-o", "json").want(p.t, 0).decode(p.t, &list)
		return len(list.Sessions) == count
	})
}

// Nothing passes between node and authority, and nobody is told: the receipt says
// who has not confirmed and until when, the node fences itself, and what was
// offered meanwhile opens one socket at most.
func TestPartition(t *testing.T) {
	p := newParted(t)
	hit, others := p.sockets(p.far, "hit", 4), p.sockets(p.far, "others", 20)
	offered := []*pb.IssueTokenResponse{p.token("offered"), p.token("offered"), p.token("offered")}
	revoked := p.token("hit")
	p.link.cut(true, true)
	begin := time.Now()
	// Within the lease handshakes wait for the authority in vain.
	for _, tok := range offered[:2] {
		wantStatus(t, offer{url: p.url(p.far), bearer: tok.GetToken()}, http.StatusServiceUnavailable)
	}
	r := p.revokeParted("hit")
	for _, sock := range append(slices.Clone(hit), others...) {
		sock.echo(hello) // the node does not know
	}
	p.wantFenced(offered[2].GetToken())

	// All are closed before the deadline, not all at once.
	ends := make(chan error, len(hit)+len(others))
	var first, last atomic.Int64
	for _, sock := range append(slices.Clone(hit), others...) {
		go func() {
			_, err := sock.receive()
			after := int64(time.Since(begin))
			first.CompareAndSwap(0, after)
			last.Store(max(last.Load(), after))
			ends <- err
		}()
	}
	for range cap(ends) {
		var c *errClosed
		if err := <-ends; !errors.As(err, &c) || c.code != ws.StatusCode(1013) {
			t.Fatalf("%v, want close 1013", err)
		}
	}
	if over := time.Since(r.of("node-1").Deadline); over > 0 {
		t.Errorf("the last socket was closed %v after the deadline that the receipt named", over)
	}
	if from, to := time.Duration(first.Load()), time.Duration(last.Load()); from < 3*sessionFence/4-time.Second || to > sessionFence+time.Second || to-from < sessionFence/8 {
		t.Errorf("closed between %v and %v, want them spread over the last quarter of %v", from, to, sessionFence)
	}

	p.link.heal()
	p.wantHealed(r, 0) // the fence had closed them
	wantStatus(t, offer{url: p.url(p.far), bearer: revoked.GetToken()}, http.StatusUnauthorized)
	p.wantSessions("others", 0)
	p.wantSessions("offered", len(p.wantOnce(offered, true))) // no request of before has come through
	after := p.sockets(p.far, "after", 1)
	after[0].echo(hello)
	p.cli("revoke", "--subject", "after", "--reason", "test").want(t, 0)
	after[0].wantClose(4501, "token revoked")
}

// What the node says is lost: it hears of the revocation and enforces it at once,
// but nobody hears that it did.
func TestPartitionTowardsTheAuthority(t *testing.T) {
	p := newParted(t)
	hit, others := p.sockets(p.far, "hit", 3), p.sockets(p.far, "others", 3)
	offered := []*pb.IssueTokenResponse{p.token("offered"), p.token("offered")}
	p.link.cut(true, false)
	r := p.revokeParted("hit")
	for _, sock := range hit {
		sock.wantClose(4501, "token revoked")
	}
	p.wantFenced(offered[0].GetToken())
	for _, sock := range others {
		sock.echo(hello)
	}
	p.link.heal()
	p.wantHealed(r, 3)
	for _, sock := range others {
		sock.echo(hello)
	}
	p.wantSessions("hit", 0)
	p.wantSessions("others", 3)
	p.wantSessions("offered", len(p.wantOnce(offered, true)))
}

// What the authority says is lost: redemptions reach it whose answers nobody
// gets, and its word of a revocation does not reach the node before it is healed.
func TestPartitionTowardsTheNode(t *testing.T) {
	p := newParted(t)
	hit, others := p.sockets(p.far, "hit", 3), p.sockets(p.far, "others", 3)
	offered := []*pb.IssueTokenResponse{p.token("offered"), p.token("offered"), p.token("offered")}
	p.link.cut(false, true)
	for _, tok := range offered {
		wantStatus(t, offer{url: p.url(p.far), bearer: tok.GetToken()}, http.StatusServiceUnavailable)
	}
	r := p.revokeParted("hit")
	for _, sock := range append(slices.Clone(hit), others...) {
		sock.echo(hello)
	}
	p.wantFenced(p.token("late").GetToken())
	p.link.heal()
	for _, sock := range hit {
		sock.wantClose(4501, "token revoked")
	}
	p.wantHealed(r, 3)
	for _, sock := range others {
		sock.echo(hello)
	}
	p.wantSessions("hit", 0)
	p.wantSessions("others", 3)
	p.wantSessions("offered", len(p.wantOnce(offered, false)))
}
