package authority_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
)

func TestWelcome(t *testing.T) {
	f := newFixture(t)
	head := f.revoke(byTenant("elsewhere")).GetRevision()
	n := &node{fixture: f, name: "node-1", id: draw()}
	w := n.begin()
	f.equal("welcome", []any{
		w.GetHello().GetVersion(), w.GetHead(), w.GetSnapshot(), w.GetTime().AsTime(), w.GetHeartbeatInterval().AsDuration(),
		w.GetAdmissionFence().AsDuration(), w.GetSessionFence().AsDuration(), w.GetRetryAfter().AsDuration(), len(w.GetEdgeKeys().GetKeys()),
	}, []any{pb.Version, head, true, start, time.Second, 10 * time.Second, time.Hour, 2 * time.Second, 1})
	f.equal("audit line", f.lastLine("RegisterInstance"), fmt.Sprintf("caller=node-1 instance_id=%x node=node-1 outcome=ok version=%s", n.id, pb.Version))
	f.revoke(byTenant("elsewhere"))
	n.entries(2)
	h := n.beat(head)
	f.equal("head, read after the heartbeat arrived", h.GetHead().GetSequence(), 2)
	f.equal("time", h.GetTime().AsTime(), start)

	list, err := f.sessions("viewer").ListNodes(f.ctx, &pb.ListNodesRequest{})
	f.ok(err)
	f.equal("nodes", len(list.GetNodes()), 1)
	x := list.GetNodes()[0]
	f.equal("node", []any{x.GetName(), x.GetInstanceId(), x.GetAttached(), x.GetRegisteredAt().AsTime(), x.GetLastHeartbeatAt().AsTime(), x.GetApplied(), x.GetSessions(), x.GetVersion(), x.GetAddress()},
		[]any{"node-1", fmt.Sprintf("%x", n.id), true, start, start, head, 7, pb.Version, "127.0.0.1"})
	n.end()
	f.eventually("detached", func() bool {
		list, err := f.sessions("viewer").ListNodes(f.ctx, &pb.ListNodesRequest{})
		f.ok(err)
		return !list.GetNodes()[0].GetAttached()
	})

	// A node that comes back keeps the time of its registration.
	f.clock.advance(time.Minute)
	n.begin()
	list, err = f.sessions("viewer").ListNodes(f.ctx, &pb.ListNodesRequest{})
	f.ok(err)
	f.equal("registered", list.GetNodes()[0].GetRegisteredAt().AsTime(), start)
}

// eventually waits for what another goroutine does.
func (f *fixture) eventually(what string, ok func() bool) {
	f.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			f.Fatal("not within 10 s: ", what)
		}
	}
}

// TestHellos pins which first messages streams take.
func TestHellos(t *testing.T) {
	f := newFixture(t)
	theirs := f.node("node-2")
	id := draw()
	const required = "InvalidArgument invalid_request: hello: required in the first message (invalid request)"
	hello := func(version string, edits ...func(*pb.AttachHello)) *pb.AttachRequest {
		h := &pb.AttachHello{Hello: &pb.Hello{Version: version}, InstanceId: id[:]}
		for _, edit := range edits {
			edit(h)
		}
		return &pb.AttachRequest{Message: &pb.AttachRequest_Hello{Hello: h}}
	}
	for _, c := range []struct {
		rule string
		msg  *pb.AttachRequest // nil: close at once
		want string
	}{
		{"this version", hello(pb.Version), "OK"},
		{"an older patch", hello("0.1.99"), "OK"},
		{"the minor version before", hello("0.0.1"), "OK"},
		{"the minor version after", hello("0.2.0"), "OK"},
		{"two minor versions after", hello("0.3.0"), "FailedPrecondition incompatible_version: version 0.3.0 does not work with 0.1.0: at most one minor version may lie between (incompatible version)"},
		{"another major version", hello("1.1.0"), "FailedPrecondition incompatible_version: version 1.1.0 does not work with 0.1.0: at most one minor version may lie between (incompatible version)"},
		{"no version", hello(""), `FailedPrecondition incompatible_version: version "" is not MAJOR.MINOR.PATCH (incompatible version)`},
		{"a token's text for a version", hello(someToken), `FailedPrecondition incompatible_version: version "gh1_[scrubbed]" is not MAJOR.MINOR.PATCH (incompatible version)`},
		{"a version without end", hello(strings.Repeat("1", 1<<20)), `FailedPrecondition incompatible_version: version "111...`},
		{"no hello within", hello("", func(h *pb.AttachHello) { h.Hello = nil }), required},
		{"a heartbeat first", &pb.AttachRequest{Message: &pb.AttachRequest_Heartbeat{Heartbeat: &pb.Heartbeat{}}}, required},
		{"an empty message", &pb.AttachRequest{}, required},
		{"closed at once", nil, required},
		{"a short instance id", hello(pb.Version, func(h *pb.AttachHello) { h.InstanceId = id[:15] }), "InvalidArgument invalid_request: hello.instance_id: 15 bytes, want 16 (invalid request)"},
		{"a zero instance id", hello(pb.Version, func(h *pb.AttachHello) { h.InstanceId = make([]byte, 16) }), "InvalidArgument invalid_request: hello.instance_id: is all zeros (invalid request)"},
		{"another node's instance id", hello(pb.Version, func(h *pb.AttachHello) { h.InstanceId = theirs.id[:] }), "PermissionDenied permission_denied: hello.instance_id: it is registered by another node (permission denied)"},
		{"too many dead instances", hello(pb.Version, func(h *pb.AttachHello) { h.DeadInstanceIds = make([][]byte, 17) }), "InvalidArgument invalid_request: hello.dead_instance_ids: 17 are above 16 (invalid request)"},
		{"a malformed dead instance", hello(pb.Version, func(h *pb.AttachHello) { h.DeadInstanceIds = [][]byte{id[:], id[:3]} }), "InvalidArgument invalid_request: hello.dead_instance_ids[1]: 3 bytes, want 16 (invalid request)"},
	} {
		ctx, cancel := context.WithCancel(f.ctx)
		stream, err := f.nodes("node-1").Attach(ctx)
		f.ok(err)
		if c.msg == nil {
			f.ok(stream.CloseSend())
		} else {
			f.ok(stream.Send(c.msg))
		}
		_, err = stream.Recv()
		if got, want := failed(err), c.want; got != want && !(strings.HasSuffix(want, "...") && strings.HasPrefix(got, want[:len(want)-3]) && len(got) < 2000) {
			t.Errorf("Attach: %s:\n got %s\nwant %s", c.rule, got, want)
		}
		cancel()
	}
	n := f.node("node-1")
	const first = "InvalidArgument invalid_request: hello: required in the first message, which has no items (invalid request)"
	redeem := func(version string, id []byte) *pb.RedeemRequest {
		return &pb.RedeemRequest{Hello: &pb.RedeemHello{Hello: &pb.Hello{Version: version}, InstanceId: id}}
	}
	items := redeem(pb.Version, n.id[:])
	items.Items = []*pb.RedeemItem{{}}
	stranger := draw()
	for _, c := range []struct {
		rule string
		msg  *pb.RedeemRequest
		want string
	}{
		{"this version", redeem(pb.Version, n.id[:]), "OK"},
		{"the minor version after", redeem("0.2.9", n.id[:]), "OK"},
		{"two minor versions after", redeem("0.3.0", n.id[:]), "FailedPrecondition incompatible_version: version 0.3.0 does not work with 0.1.0: at most one minor version may lie between (incompatible version)"},
		{"no hello", &pb.RedeemRequest{}, first},
		{"items beside the hello", items, first},
		{"closed at once", nil, required},
		{"a short instance id", redeem(pb.Version, n.id[:4]), "InvalidArgument invalid_request: hello.instance_id: 4 bytes, want 16 (invalid request)"},
		{"an instance that never attached", redeem(pb.Version, stranger[:]), "FailedPrecondition not_attached: node instance is not attached: call Attach first"},
		{"another node's instance", redeem(pb.Version, theirs.id[:]), "FailedPrecondition not_attached: node instance is not attached: call Attach first"},
	} {
		ctx, cancel := context.WithCancel(f.ctx)
		stream, err := f.nodes("node-1").Redeem(ctx)
		f.ok(err)
		if c.msg == nil {
			f.ok(stream.CloseSend())
		} else {
			f.ok(stream.Send(c.msg))
		}
		if _, err = stream.Recv(); failed(err) != c.want {
			t.Errorf("Redeem: %s:\n got %s\nwant %s", c.rule, failed(err), c.want)
		}
		cancel()
	}
	if got := f.log.String(); strings.Contains(got, `"level":"ERROR"`) || strings.Contains(got, someToken) {
		t.Errorf("log: %s", got)
	}
}

// TestAttachRefusesNonsense pins what ends a stream that has begun well.
func TestAttachRefusesNonsense(t *testing.T) {
	f := newFixture(t)
	head := f.revoke(byTenant("elsewhere")).GetRevision()
	ahead := &pb.Revision{Epoch: head.GetEpoch(), Sequence: 2}
	heartbeat := func(r *pb.Revision) *pb.AttachRequest {
		return &pb.AttachRequest{Message: &pb.AttachRequest_Heartbeat{Heartbeat: &pb.Heartbeat{Sequence: 1, Applied: r}}}
	}
	acknowledge := func(r *pb.Revision, n int) *pb.AttachRequest {
		return &pb.AttachRequest{Message: &pb.AttachRequest_Acknowledgement{Acknowledgement: &pb.Acknowledgement{Through: r, Enforced: make([]*pb.Enforced, n)}}}
	}
	const future = "InvalidArgument invalid_request: applied: revision 2 lies ahead of the log's head 1 (invalid request)"
	for _, c := range []struct {
		rule string
		msg  *pb.AttachRequest
		want string // empty: it is taken
	}{
		{"a heartbeat of the future", heartbeat(ahead), future},
		{"an acknowledgement of the future", acknowledge(ahead, 0), future},
		{"too many counts", acknowledge(head, 4097), "InvalidArgument invalid_request: acknowledgement.enforced: 4097 are above 4096 (invalid request)"},
		{"a second hello", &pb.AttachRequest{Message: &pb.AttachRequest_Hello{Hello: &pb.AttachHello{}}}, "InvalidArgument invalid_request: message: a second hello, or none of heartbeat, acknowledgement and goodbye (invalid request)"},
		{"an empty message", &pb.AttachRequest{}, "InvalidArgument invalid_request: message: a second hello, or none of heartbeat, acknowledgement and goodbye (invalid request)"},
		{"nothing applied", heartbeat(nil), ""},
		{"applied of another history", heartbeat(&pb.Revision{Epoch: 1, Sequence: 99}), ""},
		{"an acknowledgement of another history", acknowledge(&pb.Revision{Epoch: 1, Sequence: 99}, 0), ""},
		{"counts of entries without a receipt", acknowledge(head, 4096), ""},
	} {
		n := f.node("node-1")
		f.ok(n.attach.Send(c.msg))
		if c.want == "" {
			n.beat(head)
		} else if got := failed(drained(n.attach)); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.rule, got, c.want)
		}
		n.end()
	}
}

// TestResume proves that a node is sent what it missed and no more, or all of
// it where its place in the log cannot be found.
func TestResume(t *testing.T) {
	f := newFixture(t)
	f.cfg.Fleet.MaxEntries = 2
	f.restart()
	f.lock("203.0.113.0/24") // 1
	for range 6 {
		f.revoke(byTenant("elsewhere")) // 2 to 7
	}
	head, _ := f.store.Head()
	at := func(epoch, sequence uint64) func(*pb.AttachHello) {
		return func(h *pb.AttachHello) { h.Applied = &pb.Revision{Epoch: epoch, Sequence: sequence} }
	}
	check := func(rule string, hello func(*pb.AttachHello), snapshot bool, first, last, locks int) {
		t.Helper()
		n := f.in(t).node("node-1")
		n.beat(nil)
		n.end()
		w := n.begin(hello)
		f.equal(rule+": snapshot", w.GetSnapshot(), snapshot)
		var got, want []uint64
		if first > 0 {
			entries, l := n.entries(uint64(last))
			f.equal(rule+": locks", len(l), locks)
			for _, e := range entries {
				got = append(got, e.GetRevision().GetSequence())
			}
		}
		for i := first; i <= last && i > 0; i++ {
			want = append(want, uint64(i))
		}
		f.equal(rule+": entries", got, want)
		f.equal(rule+": next comes a heartbeat's answer", n.beat(nil).GetHead().GetSequence(), head.Sequence)
		n.end()
	}
	check("new", func(*pb.AttachHello) {}, true, 1, 7, 1)
	check("at the head", at(head.Epoch, 7), false, 0, 0, 0)
	check("behind", at(head.Epoch, 4), false, 5, 7, 0)
	check("at the beginning", at(head.Epoch, 0), false, 1, 7, 0)
	check("of another history", at(head.Epoch+1, 4), true, 1, 7, 1)
	check("ahead of the log", at(head.Epoch, 8), true, 1, 7, 1)

	f.clock.advance(200 * 24 * time.Hour)
	f.ok(f.service.Tend(f.ctx)) // forgets the log so far
	check("at the head of an emptied log", at(head.Epoch, 7), false, 0, 0, 0)
	f.revoke(byTenant("elsewhere")) // 8
	head.Sequence = 8
	check("right below what is kept", at(head.Epoch, 7), false, 8, 8, 0)
	check("below what was dropped", at(head.Epoch, 6), true, 8, 8, 1)
	check("new, on a log without its beginning", func(*pb.AttachHello) {}, true, 8, 8, 1)

	forgotten := f.node("node-1")
	forgotten.goodbye()
	f.equal("forgotten, at the head: snapshot", forgotten.begin(at(head.Epoch, 8)).GetSnapshot(), true)
}

// TestEntriesDuringSnapshot proves that a node which attaches while entries are
// appended gets all of them once and in order, and can acknowledge the last.
func TestEntriesDuringSnapshot(t *testing.T) {
	f := newFixture(t)
	f.cfg.Fleet.MaxEntries = 3
	f.restart()
	const total = 300
	var wg sync.WaitGroup
	wg.Go(func() {
		for range total {
			if _, err := f.store.Append(f.ctx, storage.Entry{
				Kind: storage.Revoke, Selector: storage.Selector{Tenant: "elsewhere"}, Actor: "test", CommittedAt: start, KeepUntil: start.Add(time.Hour),
			}); err != nil {
				t.Error(err)
			}
		}
	})
	for range 8 {
		n := f.node("node-1")
		wg.Go(func() {
			entries, _ := n.entries(total)
			for i, e := range entries {
				if e.GetRevision().GetSequence() != uint64(i+1) {
					t.Errorf("entry %d has the revision %v", i, e.GetRevision())
					return
				}
			}
			if len(entries) != total {
				t.Errorf("%d entries, want %d", len(entries), total)
			}
			if h := n.beat(entries[len(entries)-1].GetRevision()); h.GetHead().GetSequence() != total {
				t.Errorf("head %v", h.GetHead())
			}
		})
	}
	wg.Wait()
}

// TestNewerAttachEndsTheOlder proves that an instance has one stream, the
// newest, and that the older one can say nothing for it any more.
func TestNewerAttachEndsTheOlder(t *testing.T) {
	f := newFixture(t)
	n := f.node("node-1")
	old := n.attach
	n.begin()
	f.fails(drained(old), "Aborted not_attached: replaced by a newer Attach of this instance")
	n.beat(nil)
	f.equal("nodes", len(f.instances()), 1)
	if err := old.Send(&pb.AttachRequest{Message: &pb.AttachRequest_Goodbye{Goodbye: &pb.Goodbye{}}}); err != io.EOF {
		t.Errorf("the older stream takes messages: %v", err)
	}
	n.beat(nil)
	f.equal("nodes", len(f.instances()), 1)
}

func (f *fixture) instances() []*pb.Node {
	f.Helper()
	list, err := f.sessions("admin").ListNodes(f.ctx, &pb.ListNodesRequest{})
	f.ok(err)
	return list.GetNodes()
}

// TestGoodbye proves that a clean end forgets the instance and its sessions.
func TestGoodbye(t *testing.T) {
	f := newFixture(t)
	n := f.node("node-1")
	n.grant(n.item(f.issue().GetToken()))
	f.equal("sessions", f.store.Stats().Sessions, 1)
	n.goodbye()
	f.equal("sessions", f.store.Stats().Sessions, 0)
	f.equal("nodes", len(f.instances()), 0)
	f.equal("audit line", f.lastLine("RemoveInstance"), fmt.Sprintf("caller=node-1 cause=goodbye instance_id=%x node=node-1 outcome=ok", n.id))
	stream, err := f.nodes("node-1").Redeem(f.ctx)
	f.ok(err)
	f.ok(stream.Send(&pb.RedeemRequest{Hello: &pb.RedeemHello{Hello: &pb.Hello{Version: pb.Version}, InstanceId: n.id[:]}}))
	_, err = stream.Recv()
	f.code(err, codes.FailedPrecondition)
	f.eventually("the stream's line", func() bool { return strings.Contains(f.audit.String(), `"action":"AttachStream"`) })
	f.equal("audit line", f.lastLine("AttachStream"), fmt.Sprintf("caller=node-1 instance_id=%x outcome=ok", n.id))
}

// TestDeadInstances proves that a successor's word ends its own predecessors,
// their streams and sessions, and nobody else's.
func TestDeadInstances(t *testing.T) {
	f := newFixture(t)
	dead, other := f.node("node-1"), f.node("node-2")
	dead.grant(dead.item(f.issue().GetToken()))
	other.grant(other.item(f.issue().GetToken()))
	unknown := draw()
	successor := f.node("node-1", func(h *pb.AttachHello) {
		h.DeadInstanceIds = [][]byte{dead.id[:], other.id[:], unknown[:], h.GetInstanceId()}
	})
	f.fails(drained(dead.attach), "Aborted not_attached: replaced by a newer Attach of this instance")
	f.equal("audit line", f.lastLine("RemoveInstance"), fmt.Sprintf("caller=node-1 cause=declared dead by its successor instance_id=%x node=node-1 outcome=ok", dead.id))
	other.beat(nil)
	successor.beat(nil)
	f.equal("nodes", len(f.instances()), 2)
	f.equal("sessions", f.store.Stats().Sessions, 1)
}

// TestSlowNodesAreMarked proves that who lists nodes, and who reads the log, sees
// which do not keep up.
func TestSlowNodesAreMarked(t *testing.T) {
	f := newFixture(t)
	n := f.node("node-1")
	interval, fence := f.cfg.Fleet.HeartbeatInterval, f.cfg.Fleet.AdmissionFence
	is := func(rule string, state pb.NodeState, behind uint64) {
		t.Helper()
		x := f.instances()[0]
		f.equal(rule, []any{x.GetState(), x.GetBehind()}, []any{state, behind})
		f.equal(rule+": silent by the metric", f.metric("gatehouse_authority_nodes_silent{}") == 1, state == pb.NodeState_NODE_STATE_SILENT)
	}
	logged := func(rule string, silent, heard int) {
		t.Helper()
		for range 2 { // once, however long it lasts
			f.ok(f.service.Tend(f.ctx))
		}
		log := f.log.String()
		f.equal(rule, []int{strings.Count(log, `"level":"WARN","msg":"node is silent`), strings.Count(log, `"level":"INFO","msg":"node is heard again`)}, []int{silent, heard})
	}
	n.beat(nil)
	is("an empty log", pb.NodeState_NODE_STATE_ATTACHED, 0)
	f.revoke(byTenant("elsewhere"))
	second := f.revoke(byTenant("elsewhere")).GetRevision()
	f.clock.advance(interval)
	is("a heartbeat after the commit", pb.NodeState_NODE_STATE_ATTACHED, 2)
	f.clock.advance(time.Millisecond)
	is("later", pb.NodeState_NODE_STATE_BEHIND, 2)
	n.beat(&pb.Revision{Epoch: second.GetEpoch(), Sequence: 1})
	is("it lacks the second", pb.NodeState_NODE_STATE_BEHIND, 1)
	third := f.revoke(byTenant("elsewhere")).GetRevision()
	n.beat(second)
	is("it lacks what is new", pb.NodeState_NODE_STATE_ATTACHED, 1)
	n.beat(third)
	is("it lacks nothing", pb.NodeState_NODE_STATE_ATTACHED, 0)
	f.clock.advance(fence)
	is("the fence is not over", pb.NodeState_NODE_STATE_ATTACHED, 0)
	logged("the fence is not over", 0, 0)
	f.clock.advance(time.Millisecond)
	is("the fence is over", pb.NodeState_NODE_STATE_SILENT, 0)
	logged("the fence is over", 1, 0)
	n.beat(third)
	is("it is heard again", pb.NodeState_NODE_STATE_ATTACHED, 0)
	logged("it is heard again", 1, 1)
	n.end()
	f.eventually("the end of its stream", func() bool { return !f.instances()[0].GetAttached() })
	is("its stream has ended", pb.NodeState_NODE_STATE_DETACHED, 0)
	f.clock.advance(fence + time.Millisecond)
	is("it stays away", pb.NodeState_NODE_STATE_SILENT, 0)
	logged("it stays away", 2, 1)
	f.revoke(byTenant("elsewhere"))
	f.clock.advance(time.Hour / 2)
	n.begin()
	is("it has just come back", pb.NodeState_NODE_STATE_ATTACHED, 1)
	logged("it has just come back", 2, 2)
}

// TestSilentNodesAreReleased proves that an instance is forgotten once it has
// surely fenced itself, not sooner, and that it can come back.
func TestSilentNodesAreReleased(t *testing.T) {
	f := newFixture(t)
	silent, alive := f.node("node-1"), f.node("node-2")
	silent.grant(silent.item(f.issue().GetToken()))
	tend := func() {
		alive.beat(nil)
		f.ok(f.service.Tend(f.ctx))
	}
	f.clock.advance(time.Hour + 4600*time.Millisecond) // fence, its thousandth, a second
	tend()
	f.equal("nodes", len(f.instances()), 2)
	f.clock.advance(time.Millisecond)
	tend()
	f.equal("nodes", len(f.instances()), 1)
	f.equal("sessions", f.store.Stats().Sessions, 0)
	f.equal("audit line", f.lastLine("RemoveInstance"), fmt.Sprintf("caller=authority cause=silent beyond the session fence instance_id=%x node=node-1 outcome=ok", silent.id))
	f.fails(drained(silent.attach), "Aborted not_attached: replaced by a newer Attach of this instance")
	silent.begin()
	silent.grant(silent.item(f.issue().GetToken()))
}

// TestSilentNodesKeepTheirFence proves that an instance is not forgotten by the
// shorter session fence of an authority that it has not heard of.
func TestSilentNodesKeepTheirFence(t *testing.T) {
	f := newFixture(t)
	silent := f.node("node-1")
	silent.beat(nil)
	f.cfg.Fleet.SessionFence = time.Minute
	f.restart()
	f.node("node-2").beat(nil)
	f.clock.advance(time.Hour + 4600*time.Millisecond)
	f.ok(f.service.Tend(f.ctx))
	f.equal("nodes", f.instances()[0].GetName()+fmt.Sprint(len(f.instances())), "node-11") // node-2 lives by the minute
	f.clock.advance(time.Millisecond)
	f.ok(f.service.Tend(f.ctx))
	f.equal("nodes", len(f.instances()), 0)
}

// TestReleasedWhileItCameBack proves that an instance which the store has
// forgotten, while its stream lives, is made to attach again, and that no receipt
// waits for it.
func TestReleasedWhileItCameBack(t *testing.T) {
	f := newFixture(t)
	n := f.node("node-1")
	r := f.revoke(bySubject("acme", "bob")).GetRevision()
	f.ok(f.store.RemoveInstance(f.ctx, n.id, start, "goodbye"))
	stream := n.open(f.ctx)
	f.ok(stream.Send(&pb.RedeemRequest{Items: []*pb.RedeemItem{n.item(f.issue().GetToken())}}))
	_, err := stream.Recv()
	f.fails(err, "FailedPrecondition not_attached: node instance is not attached: call Attach first")
	f.fails(drained(n.attach), "Aborted not_attached: replaced by a newer Attach of this instance")
	f.equal("receipt", rows(f.receipt("admin", r)), "node-1:0/0@0s(not in the store) complete")
	n.begin()
	n.grant(n.item(f.issue().GetToken()))
}
