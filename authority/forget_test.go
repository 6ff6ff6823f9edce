package authority_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// endsSockets is a hello of a node that ends its sockets in their time.
func endsSockets(h *pb.AttachHello) { h.Hello.Features = []string{pb.FeatureSocketLife} }

// TestForgetNode proves that an admin can give up an instance that is lost, where
// nothing else would ever end the wait for it, and not sooner.
func TestForgetNode(t *testing.T) {
	f := newFixture(t, withoutFence)
	lost, alive := f.node("node-1"), f.node("node-2")
	alive.beat(nil)
	lost.beat(nil)
	lost.grant(lost.item(f.issue().GetToken()))
	r := f.revoke(bySubject("acme", "bob")).GetRevision()
	alive.acknowledge(r)
	forget := func(id string, dry bool) (*pb.ForgetNodeResponse, error) {
		return f.sessions("admin").ForgetNode(f.ctx, &pb.ForgetNodeRequest{InstanceId: id, Reason: "burnt", DryRun: dry})
	}
	id := fmt.Sprintf("%x", lost.id)
	for field, req := range map[string]*pb.ForgetNodeRequest{
		"instance_id: want 32 hexadecimal digits": {InstanceId: "node-1", Reason: "burnt"},
		"reason: required":                        {InstanceId: id},
	} {
		_, err := f.sessions("admin").ForgetNode(f.ctx, req)
		if got := failed(err); !strings.HasPrefix(got, "InvalidArgument invalid_request: "+field) {
			t.Errorf("%v: %s", req, got)
		}
	}
	_, err := forget(strings.Repeat("1f", 16), false)
	f.fails(err, "NotFound not_found: no node instance is registered under this id; one that was is released already (not found)")
	_, err = forget(id, false)
	f.fails(err, "FailedPrecondition instance_alive: instance of node-1 is attached: stop its process, or disable its credential (the instance is not lost)")

	lost.end()
	f.eventually("the end of its stream", func() bool { return !f.instances()[0].GetAttached() })
	f.clock.advance(11 * time.Second)
	_, err = forget(id, false)
	f.fails(err, "FailedPrecondition instance_alive: instance of node-1 was there 11s ago, and may admit sockets for another 10ms: try again then (the instance is not lost)")
	f.clock.advance(11 * time.Millisecond)
	resp, err := forget(id, true)
	f.ok(err)
	f.equal("dry run", resp.GetNode().GetName()+" "+resp.GetNode().GetInstanceId(), "node-1 "+id)
	f.equal("nodes after a dry run", len(f.instances()), 2)
	f.equal("receipt before", rows(f.receipt("admin", r)), "node-1? node-2:0/0@0s incomplete")

	_, err = forget(id, false)
	f.ok(err)
	f.equal("receipt", rows(f.receipt("admin", r)), "node-1:0/0@11.011s(forgotten by admin) node-2:0/0@0s complete")
	f.equal("sessions", f.store.Stats().Sessions, 0)
	f.equal("its line", f.lastLine("RemoveInstance"), fmt.Sprintf("caller=admin cause=forgotten by admin instance_id=%x node=node-1 outcome=ok", lost.id))
	if line := f.lastLine("ForgetNode"); !strings.Contains(line, "reason=burnt") || !strings.Contains(line, "node=node-1") {
		t.Errorf("audit line %s", line)
	}
	_, err = forget(id, false)
	f.fails(err, "NotFound not_found: no node instance is registered under this id; one that was is released already (not found)")
	f.restart()
	f.equal("receipt after a restart", rows(f.receipt("admin", r)), "node-1:0/0@11.011s(forgotten by admin) node-2:0/0 complete")

	knows := func(h *pb.AttachHello) { h.Applied = r }
	f.equal("one that comes back begins anew", lost.begin(knows).GetSnapshot(), true)
	lost.end() // it may never have read that
	f.equal("it begins anew until it was heard of", lost.begin(knows).GetSnapshot(), true)
	f.restart()
	f.equal("after a restart too", lost.begin(knows).GetSnapshot(), true)
	lost.beat(r)
	lost.end()
	f.equal("and goes on from then on", lost.begin(knows).GetSnapshot(), false)
	f.restart()
	f.equal("over a restart too", lost.begin(knows).GetSnapshot(), false)
}

// TestFencedNodesAreNotForgotten proves that no admin can have a receipt complete
// before the deadline that it names.
func TestFencedNodesAreNotForgotten(t *testing.T) {
	f := newFixture(t)
	n := f.node("node-1")
	n.beat(nil)
	n.end()
	f.eventually("the end of its stream", func() bool { return !f.instances()[0].GetAttached() })
	f.clock.advance(time.Hour)
	_, err := f.sessions("admin").ForgetNode(f.ctx, &pb.ForgetNodeRequest{InstanceId: fmt.Sprintf("%x", n.id), Reason: "burnt"})
	f.fails(err, "FailedPrecondition instance_alive: instance of node-1 ends its sockets at its session fence, and is released by itself in 4.6s: no word of an admin is needed (the instance is not lost)")
}

// TestSilentNodesWithoutFence proves that an instance without a session fence is
// forgotten once the longest session that it may have is over, by the lengths that
// it was told, and one that does not know them never.
func TestSilentNodesWithoutFence(t *testing.T) {
	f := newFixture(t, withoutFence, func(f *fixture) { f.cfg.Sessions.DefaultTTL, f.cfg.Sessions.MaxTTL = time.Hour, 10*time.Hour })
	silent, older := f.node("node-1", endsSockets), f.node("node-2")
	silent.beat(nil)
	older.beat(nil)
	f.cfg.Sessions.MaxTTL = time.Hour
	f.restart()
	f.node("node-2", endsSockets).beat(nil) // of the hour
	r := f.revoke(bySubject("acme", "bob")).GetRevision()
	names := func() (out string) {
		for _, i := range f.instances() {
			out += i.GetName() + " "
		}
		return out
	}
	after := func(d time.Duration) {
		f.clock.advance(d)
		f.ok(f.service.Tend(f.ctx))
	}
	told := func(life time.Duration) time.Duration { // admission fence, life, the minute of closing; a thousandth, a second
		d := 10*time.Second + life + time.Minute
		return d + d/1000 + time.Second
	}
	after(told(time.Hour))
	f.equal("until the hour", names(), "node-1 node-2 node-2 ")
	after(time.Millisecond)
	f.equal("after it", names(), "node-1 node-2 ")
	f.equal("receipt", rows(f.receipt("admin", r)), "node-1? node-2:0/0@1h1m14.671s(silent beyond the end of its longest session) node-2? incomplete")
	after(told(10*time.Hour) - told(time.Hour) - time.Millisecond)
	f.equal("until the ten hours", names(), "node-1 node-2 ")
	after(time.Millisecond)
	f.equal("after them", names(), "node-2 ")
	after(400 * 24 * time.Hour)
	f.equal("for ever", names(), "node-2 ")
}
