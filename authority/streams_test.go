package authority_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
)

// fillLog appends more entries than fit into what grpc buffers for a stream.
func (f *fixture) fillLog() {
	f.Helper()
	for range 4000 {
		f.appendEntry()
	}
}

// appendEntry puts an entry into the log, past the service.
func (f *fixture) appendEntry() {
	f.Helper()
	_, err := f.store.Append(f.ctx, storage.Entry{
		Kind: storage.Revoke, Selector: storage.Selector{Tenant: "elsewhere", Subject: strings.Repeat("s", 200)},
		Actor: "test", CommittedAt: start, KeepUntil: start.Add(time.Hour),
	})
	f.ok(err)
}

// deaf attaches a node that never reads after the welcome, and waits until the
// authority can send it no more.
func (f *fixture) deaf() *node {
	f.Helper()
	n := f.node("node-1")
	f.waitsToSend("sendEntries")
	return n
}

// waitsToSend waits until the authority waits for a node to read what a function
// sends.
func (f *fixture) waitsToSend(function string) {
	f.Helper()
	f.eventually("the authority waits for it to read", func() bool {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		for s := range strings.SplitSeq(string(stacks), "\n\n") {
			state, _, _ := strings.Cut(s, "\n")
			if strings.Contains(state, "[select") && strings.Contains(s, "."+function+"(") && strings.Contains(s, ".SendMsg(") {
				return true
			}
		}
		return false
	})
}

// waitEnded waits until the authority has no stream of an instance.
func (f *fixture) waitEnded(n *node) {
	f.Helper()
	id := fmt.Sprintf("%x", n.id)
	f.eventually("the stream ends", func() bool {
		for _, i := range f.instances() {
			if i.GetInstanceId() == id && i.GetAttached() {
				return false
			}
		}
		return true
	})
}

// TestDeafNodes proves that a node which does not read holds up nobody, and
// that its stream still ends when it must.
func TestDeafNodes(t *testing.T) {
	for _, c := range []struct {
		rule string
		end  func(f *fixture, n *node)
	}{
		{"its credential is disabled", func(f *fixture, n *node) {
			_, err := f.credentials("admin").DisableCredential(f.ctx, &pb.DisableCredentialRequest{Name: "node-1", Reason: "test"})
			f.ok(err)
		}},
		{"it attaches anew", func(f *fixture, n *node) {
			again := &node{fixture: f, name: "node-1", id: n.id}
			head, _ := f.store.Head()
			again.begin(func(h *pb.AttachHello) { h.Applied = &pb.Revision{Epoch: head.Epoch, Sequence: head.Sequence} })
			again.end()
		}},
		{"its successor declares it dead", func(f *fixture, n *node) {
			f.node("node-1", func(h *pb.AttachHello) { h.DeadInstanceIds = [][]byte{n.id[:]} })
		}},
		{"it is silent beyond the fence", func(f *fixture, _ *node) {
			f.clock.advance(2 * time.Hour)
			f.ok(f.service.Tend(f.ctx))
		}},
		{"it goes away", func(_ *fixture, n *node) { n.end() }},
	} {
		t.Run(c.rule, func(t *testing.T) {
			f := newFixture(t)
			f.fillLog()
			n := f.deaf()
			other := &node{fixture: f, name: "node-2", id: draw()}
			head, _ := f.store.Head()
			other.begin(func(h *pb.AttachHello) { h.Applied = &pb.Revision{Epoch: head.Epoch, Sequence: head.Sequence} })
			resp := f.revoke(byTenant("elsewhere"))
			other.entries(resp.GetRevision().GetSequence())
			other.beat(resp.GetRevision())
			c.end(f, n)
			f.waitEnded(n)
		})
	}
}

// TestDisabledCredentialEndsStreams proves that all streams of a credential end
// at once when it is disabled, and when it is issued anew; idle ones too.
func TestDisabledCredentialEndsStreams(t *testing.T) {
	type credentials = pb.CredentialServiceClient
	for _, c := range []struct {
		rule string
		do   func(f *fixture, api credentials, name string) error
	}{
		{"disabled", func(f *fixture, api credentials, name string) error {
			_, err := api.DisableCredential(f.ctx, &pb.DisableCredentialRequest{Name: name, Reason: "stolen"})
			return err
		}},
		{"reissued", func(f *fixture, api credentials, name string) error {
			_, csr := f.request()
			_, err := api.ReissueCredential(f.ctx, &pb.ReissueCredentialRequest{Name: name, CertificateRequest: csr})
			return err
		}},
	} {
		t.Run(c.rule, func(t *testing.T) {
			f := newFixture(t)
			idle := f.node("node-2")
			n := f.node("node-1")
			redeem := n.open(f.ctx)
			n.redeem = n.open(f.ctx) // by default it ends with n.attach, whose end comes first
			n.grant(n.item(f.issue().GetToken()))
			resp, err := f.revocations("login").Revoke(f.ctx, &pb.RevokeRequest{Selector: bySubject("acme", "ada")})
			f.ok(err)
			watch, err := f.revocations("login").WatchReceipt(f.ctx, &pb.WatchReceiptRequest{Revision: resp.GetRevision()})
			f.ok(err)
			_, err = watch.Recv()
			f.ok(err)

			f.ok(c.do(f, f.credentials("admin"), "node-1"))
			f.ok(c.do(f, f.credentials("admin"), "login"))
			want := func(name string) string {
				return "PermissionDenied credential_disabled: credential " + name + " was disabled or reissued (credential disabled)"
			}
			f.fails(drained(n.attach), want("node-1"))
			f.fails(drained(redeem), want("node-1"))
			f.fails(drained(n.redeem), want("node-1"))
			f.fails(drained(watch), want("login"))
			idle.beat(nil)
			f.equal("audit line", f.lastLine("WatchReceiptStream"), "caller=login outcome=credential_disabled revision=1")
		})
	}
}

// TestDisabledMeanwhile proves that a call which is under way when its
// credential is disabled is not answered: its caller learns no token.
func TestDisabledMeanwhile(t *testing.T) {
	slow := &slowStore{began: make(chan struct{}), proceed: make(chan struct{})}
	f := newFixture(t, func(f *fixture) { slow.Store, f.store = f.store, slow })
	answer := make(chan error, 1)
	go func() {
		_, err := f.tokens("login").IssueToken(f.ctx, request())
		answer <- err
	}()
	<-slow.began
	_, err := f.credentials("admin").DisableCredential(f.ctx, &pb.DisableCredentialRequest{Name: "login", Reason: "stolen"})
	f.ok(err)
	close(slow.proceed)
	f.fails(<-answer, "PermissionDenied credential_disabled: credential login is disabled (credential disabled)")
	f.equal("audit line", strings.Contains(f.lastLine("IssueToken"), "outcome=credential_disabled"), true)
}

// slowStore holds the first Insert up.
type slowStore struct {
	storage.Store
	began, proceed chan struct{}
}

func (s *slowStore) Insert(ctx context.Context, tokens []*storage.Token) ([]storage.Inserted, error) {
	select {
	case <-s.began:
	default:
		close(s.began)
		<-s.proceed
	}
	return s.Store.Insert(ctx, tokens)
}

// TestStopEndsStreams proves that every stream ends when the authority drains,
// idle or not, with a reason and the time to come back.
func TestStopEndsStreams(t *testing.T) {
	f := newFixture(t)
	n := f.node("node-1")
	redeem := n.open(f.ctx)
	resp := f.revoke(bySubject("acme", "ada"))
	watch, err := f.revocations("admin").WatchReceipt(f.ctx, &pb.WatchReceiptRequest{Revision: resp.GetRevision()})
	f.ok(err)
	_, err = watch.Recv()
	f.ok(err)
	f.service.Stop()
	f.service.Stop() // again is no harm
	for name, err := range map[string]error{"Attach": drained(n.attach), "Redeem": drained(redeem), "WatchReceipt": drained(watch)} {
		f.equal(name, failed(err), "Unavailable stopping: authority is stopping")
		f.equal(name+", retry after", retryAfter(err), time.Second)
	}
	stream, err := f.nodes("node-1").Attach(f.ctx)
	f.ok(err)
	f.fails(drained(stream), "Unavailable stopping: authority is stopping")
	f.issue() // unary calls go on
}

// withoutFence lets silent nodes stay.
func withoutFence(f *fixture) { f.cfg.Fleet.SessionFence = 0 }

// TestEdgeKeysRotate proves that a key is known to nodes before tokens are made
// with it, and as long as such tokens live.
func TestEdgeKeysRotate(t *testing.T) {
	f := newFixture(t, withoutFence)
	n := f.node("node-1")
	key := func() uint16 { return f.parsed(f.issue().GetToken()).KeyID }
	f.equal("key", key(), 1)
	f.clock.advance(24*time.Hour - time.Millisecond)
	f.ok(f.service.Tend(f.ctx))
	f.equal("key", key(), 1)
	f.clock.advance(time.Millisecond)
	f.ok(f.service.Tend(f.ctx))
	f.equal("audit line", f.lastLine("RotateEdgeKey"), "active_from=2026-11-24T12:01:00Z caller=authority key_id=2 outcome=ok")
	keys := n.next().GetEdgeKeys().GetKeys()
	f.equal("keys sent", []any{len(keys), keys[0].GetKeyId(), keys[1].GetKeyId(), len(keys[1].GetKey())}, []any{2, 1, 2, 32})
	f.equal("key, while the new one is not active", key(), 1)
	f.clock.advance(time.Minute)
	f.equal("key", key(), 2)

	// Tokens of the first key may expire two hours after its last use.
	f.clock.advance(2*time.Hour + 2*time.Minute - time.Millisecond)
	f.ok(f.service.Tend(f.ctx))
	other := f.node("node-2")
	f.equal("keys in a welcome", len(other.begin().GetEdgeKeys().GetKeys()), 2)
	f.clock.advance(time.Millisecond)
	f.ok(f.service.Tend(f.ctx))
	keys = n.next().GetEdgeKeys().GetKeys()
	f.equal("keys sent", []any{len(keys), keys[0].GetKeyId()}, []any{1, 2})
	if got := f.audit.String() + f.log.String(); strings.Contains(got, fmt.Sprintf("%x", keys[0].GetKey())) {
		t.Error("an edge key is in the log or the audit trail")
	}

	// After a restart they are the same, and a long pause skips nothing.
	f.restart()
	f.equal("key", key(), 2)
	f.clock.advance(100 * 24 * time.Hour)
	f.ok(f.service.Tend(f.ctx))
	f.equal("key", key(), 2)
	f.clock.advance(time.Minute)
	f.equal("key", key(), 3)
}

// TestKeysOutliveARaisedCeiling proves that a key stays known for tokens which
// a ceiling raised after its rotation lets live longer.
func TestKeysOutliveARaisedCeiling(t *testing.T) {
	f := newFixture(t)
	f.clock.advance(24 * time.Hour)
	f.ok(f.service.Tend(f.ctx))
	f.cfg.Tokens.MaxTTL = 10 * time.Hour
	f.restart()
	old := f.issue(func(r *pb.IssueTokenRequest) { r.Ttl = duration(10 * time.Hour) })
	f.equal("key", f.parsed(old.GetToken()).KeyID, 1)
	f.clock.advance(9 * time.Hour)
	f.ok(f.service.Tend(f.ctx))
	n := &node{fixture: f, name: "node-1", id: draw()}
	f.equal("keys", len(n.begin().GetEdgeKeys().GetKeys()), 2)
}

// TestSlowKeyReaderGetsTheNewest proves that key sets which a node has not read
// do not pile up.
func TestSlowKeyReaderGetsTheNewest(t *testing.T) {
	f := newFixture(t, withoutFence)
	n := f.node("node-1")
	for range 50 {
		f.clock.advance(25 * time.Hour)
		f.ok(f.service.Tend(f.ctx))
	}
	f.eventually("the newest set", func() bool {
		keys := n.next().GetEdgeKeys().GetKeys()
		return keys[len(keys)-1].GetKeyId() == 51
	})
}

// TestDroppedBeforeTold proves that no node is told of a log as whole that it
// did not get: entries that are dropped while it reads slowly, as when the clock
// jumps, end its stream, and it begins again with a snapshot.
func TestDroppedBeforeTold(t *testing.T) {
	f := newFixture(t)
	n := f.node("node-1")
	f.fillLog()
	f.waitsToSend("sendEntries")
	dropped, _ := f.store.Head()
	_, err := f.store.Sweep(f.ctx, start.Add(2*time.Hour), 0)
	f.ok(err)
	if left, err := f.store.Entries(f.ctx, storage.Revision{Epoch: dropped.Epoch}, 1); err != nil || len(left) > 0 {
		t.Fatalf("%d entries are left, %v", len(left), err)
	}
	var through *pb.Revision
	for {
		m, err := n.attach.Recv()
		if err != nil {
			f.equal("code", status.Code(err), codes.Aborted)
			break
		}
		if r := m.GetEntries().GetThrough(); r != nil {
			through = r
		}
		if through.GetSequence() == dropped.Sequence {
			t.Fatal("the node is told that it has all of the log")
		}
	}
	again := &node{fixture: f, name: "node-1", id: n.id}
	f.equal("snapshot", again.begin(func(h *pb.AttachHello) { h.Applied = through }).GetSnapshot(), true)
	again.end()
}
