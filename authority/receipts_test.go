package authority_test

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

func (f *fixture) receipt(caller string, r *pb.Revision) *pb.Receipt {
	f.Helper()
	resp, err := f.revocations(caller).GetReceipt(f.ctx, &pb.GetReceiptRequest{Revision: r})
	f.ok(err)
	return resp.GetReceipt()
}

// rows writes a receipt as "name:closed/lingering@after(departed)" for rows that
// are enforced and "name?deadline" for others, with "name~" for those within their
// grace, sorted, and whether it is complete.
func rows(rc *pb.Receipt) string {
	var out []string
	for _, r := range rc.GetRows() {
		switch {
		case r.GetEnforced():
			row := fmt.Sprintf("%s:%d/%d", r.GetNode(), r.GetClosed(), r.GetLingering())
			if r.GetAfter() != nil {
				row += fmt.Sprint("@", r.GetAfter().AsDuration())
			}
			if r.GetDeparted() != "" {
				row += "(" + r.GetDeparted() + ")"
			}
			out = append(out, row)
		case r.GetDeadline() != nil:
			mark := map[bool]string{true: "~", false: "?"}[r.GetInGrace()]
			out = append(out, fmt.Sprint(r.GetNode(), mark, r.GetDeadline().AsTime().Sub(start)))
		default:
			out = append(out, r.GetNode()+"?")
		}
	}
	complete := map[bool]string{true: "complete", false: "incomplete"}[rc.GetComplete()]
	return strings.Join(append(sorted(out), complete), " ")
}

// TestReceipt proves promise 4: a receipt names who has enforced a revocation,
// with how many sockets and how fast, and of the others until when they will
// have fenced themselves; it is complete when all have.
func TestReceipt(t *testing.T) {
	f := newFixture(t)
	a, b := f.node("node-1"), f.node("node-2")
	resp := f.revoke(bySubject("acme", "ada"))
	r := resp.GetRevision()
	c := f.node("node-2") // registered after the commit: not waited for
	f.equal("at first", rows(f.receipt("admin", r)), "node-1?1h0m4.6s node-2?1h0m4.6s incomplete")
	watch, err := f.revocations("admin").WatchReceipt(f.ctx, &pb.WatchReceiptRequest{Revision: r})
	f.ok(err)
	next := func() string {
		t.Helper()
		w, err := watch.Recv()
		f.ok(err)
		f.equal("revision", w.GetReceipt().GetRevision(), r)
		return rows(w.GetReceipt())
	}
	f.equal("first message", next(), "node-1?1h0m4.6s node-2?1h0m4.6s incomplete")

	f.clock.advance(3 * time.Millisecond)
	a.acknowledge(r, &pb.Enforced{Sequence: r.GetSequence(), Closed: 4, Lingering: 1})
	f.equal("second message", next(), "node-1:4/1@3ms incomplete")
	a.acknowledge(r, &pb.Enforced{Sequence: r.GetSequence(), Closed: 4})
	f.equal("a count that changed", next(), "node-1:4/0@3ms incomplete")
	c.acknowledge(r)
	f.clock.advance(4 * time.Millisecond)
	b.beat(r) // tells what is applied, but not what that ended
	f.equal("after a heartbeat", rows(f.receipt("admin", r)), "node-1:4/0@3ms node-2?1h0m4.6s incomplete")
	b.acknowledge(r)
	f.equal("last message", next(), "node-2:0/0@7ms complete")
	if _, err := watch.Recv(); err != io.EOF {
		t.Errorf("after it is complete: %v", err)
	}
	f.equal("at last", rows(f.receipt("admin", r)), "node-1:4/0@3ms node-2:0/0@7ms complete")

	watch, err = f.revocations("admin").WatchReceipt(f.ctx, &pb.WatchReceiptRequest{Revision: r})
	f.ok(err)
	f.equal("of a complete one the only message", next(), "node-1:4/0@3ms node-2:0/0@7ms complete")
	if _, err := watch.Recv(); err != io.EOF {
		t.Errorf("after it is complete: %v", err)
	}
	f.equal("audit line", f.lastLine("GetReceipt"), "caller=admin outcome=ok revision=1")

	bare := &pb.Revision{Sequence: r.GetSequence()}
	got, err := f.revocations("admin").GetReceipt(f.ctx, &pb.GetReceiptRequest{Revision: bare})
	f.ok(err)
	f.equal("asked for without an epoch", got.GetReceipt(), f.receipt("admin", r))
	f.equal("audit line", f.lastLine("GetReceipt"), "caller=admin outcome=ok revision=1")
	watch, err = f.revocations("admin").WatchReceipt(f.ctx, &pb.WatchReceiptRequest{Revision: bare})
	f.ok(err)
	f.equal("watched without an epoch", next(), "node-1:4/0@3ms node-2:0/0@7ms complete")
}

// TestReceiptOfNobody proves that without nodes there is nothing to wait for.
func TestReceiptOfNobody(t *testing.T) {
	f := newFixture(t)
	f.equal("receipt", rows(f.receipt("admin", f.revoke(bySubject("acme", "ada")).GetRevision())), "complete")
	f.equal("of a lock", rows(f.receipt("admin", f.lock("203.0.113.0/24").GetRevision())), "complete")
}

// TestReceiptWithoutFence proves that where nodes keep their sockets without
// end, no deadline is promised.
func TestReceiptWithoutFence(t *testing.T) {
	f := newFixture(t, withoutFence)
	f.node("node-1")
	f.equal("receipt", rows(f.receipt("admin", f.revoke(bySubject("acme", "ada")).GetRevision())), "node-1? incomplete")
}

// TestReceiptKnowsWhichFence proves that a node which has not heard of another
// session fence is waited for by the one that it was told, and no longer than that
// once it has.
func TestReceiptKnowsWhichFence(t *testing.T) {
	for _, c := range []struct {
		was, is time.Duration
		silent  string // deadline of one that has heard of neither since
		both    string // of one that attached since: it has the welcome, or not yet
	}{
		{time.Hour, time.Minute, "?1h0m4.6s", "?1h0m4.6s"},
		{time.Minute, time.Hour, "?1m1.06s", "?1h0m4.6s"},
		{0, time.Minute, "?", "?"},
		{time.Minute, 0, "?1m1.06s", "?"},
	} {
		f := newFixture(t, func(f *fixture) { f.cfg.Fleet.SessionFence = c.was })
		silent, back, told := f.node("node-1"), f.node("node-2"), f.node("node-2")
		_, _, _ = silent.beat(nil), back.beat(nil), told.beat(nil)
		f.cfg.Fleet.SessionFence = c.is
		f.restart()
		back.begin()
		told.begin()
		told.beat(nil)
		r := f.revoke(bySubject("acme", "ada")).GetRevision()
		is := map[time.Duration]string{time.Minute: "?1m1.06s", time.Hour: "?1h0m4.6s", 0: "?"}[c.is]
		both := sorted([]string{"node-2" + c.both, "node-2" + is})
		want := fmt.Sprintf("node-1%s %s incomplete", c.silent, strings.Join(both, " "))
		rule := fmt.Sprintf("%v, then %v", c.was, c.is)
		f.equal(rule, rows(f.receipt("admin", r)), want)
		f.restart()
		f.equal(rule+", after another restart", rows(f.receipt("admin", r)), fmt.Sprintf("node-1%s node-2%s node-2%s incomplete", c.silent, c.both, c.both))
	}
}

// TestReceiptOfThoseWhoLeft proves that an instance which is surely without
// sockets counts as having enforced.
func TestReceiptOfThoseWhoLeft(t *testing.T) {
	f := newFixture(t)
	leaves, dies, stays := f.node("node-1"), f.node("node-2"), f.node("node-2")
	r := f.revoke(bySubject("acme", "ada")).GetRevision()
	f.clock.advance(time.Second)
	stays.acknowledge(r)
	stays.beat(r)
	leaves.goodbye()
	f.equal("after the goodbye", rows(f.receipt("admin", r)), "node-1:0/0@1s(goodbye) node-2:0/0@1s node-2?1h0m4.6s incomplete")
	watch, err := f.revocations("admin").WatchReceipt(f.ctx, &pb.WatchReceiptRequest{Revision: r})
	f.ok(err)
	_, err = watch.Recv()
	f.ok(err)
	f.clock.advance(2 * time.Hour)
	stays.acknowledge(r)
	stays.beat(r)
	f.ok(f.service.Tend(f.ctx))
	_ = dies
	w, err := watch.Recv()
	f.ok(err)
	f.equal("once the silent one has fenced itself", rows(w.GetReceipt()), "node-2:0/0@2h0m1s(silent beyond the session fence) complete")
}

// TestReceiptRefuses pins who may ask for which receipt.
func TestReceiptRefuses(t *testing.T) {
	f := newFixture(t)
	mine, err := f.revocations("acme").Revoke(f.ctx, &pb.RevokeRequest{Selector: bySubject("acme", "ada")})
	f.ok(err)
	theirs := f.revoke(bySubject("acme", "ada")).GetRevision()
	ahead := proto.CloneOf(theirs)
	ahead.Sequence = 3
	epoch := proto.CloneOf(theirs)
	epoch.Epoch++
	for _, c := range []struct {
		rule, caller string
		revision     *pb.Revision
		want         string
	}{
		{"its own", "acme", mine.GetRevision(), "OK"},
		{"another's, as if there were none", "acme", theirs, fmt.Sprintf("NotFound not_found: entry 2 of epoch %d: not found", theirs.GetEpoch())},
		{"anyone's as admin", "admin", mine.GetRevision(), "OK"},
		{"an entry to come", "admin", ahead, fmt.Sprintf("NotFound not_found: entry 3 of epoch %d: not found", theirs.GetEpoch())},
		{"of another history", "admin", epoch, fmt.Sprintf("NotFound not_found: entry 2 of epoch %d: not found", epoch.GetEpoch())},
		{"none", "admin", nil, "InvalidArgument invalid_request: revision: required, as Revoke or Lock answered it (invalid request)"},
		{"of nothing", "admin", &pb.Revision{Epoch: theirs.GetEpoch()}, "InvalidArgument invalid_request: revision: required, as Revoke or Lock answered it (invalid request)"},
	} {
		_, err := f.revocations(c.caller).GetReceipt(f.ctx, &pb.GetReceiptRequest{Revision: c.revision})
		if got := failed(err); got != c.want {
			t.Errorf("GetReceipt: %s:\n got %s\nwant %s", c.rule, got, c.want)
		}
		watch, err := f.revocations(c.caller).WatchReceipt(f.ctx, &pb.WatchReceiptRequest{Revision: c.revision})
		f.ok(err)
		if err = drained(watch); err == io.EOF {
			err = nil
		}
		if got := failed(err); got != c.want {
			t.Errorf("WatchReceipt: %s:\n got %s\nwant %s", c.rule, got, c.want)
		}
	}
}

// TestRepeatedRequestKeepsItsReceipt proves that repeating a request long after
// does not disturb the receipts of others.
func TestRepeatedRequestKeepsItsReceipt(t *testing.T) {
	f := newFixture(t)
	n := f.node("node-1")
	revoke := func() *pb.Revision {
		resp, err := f.revocations("admin").Revoke(f.ctx, &pb.RevokeRequest{Selector: bySubject("acme", "ada"), RequestId: "0123456789abcdef"})
		f.ok(err)
		return resp.GetRevision()
	}
	first := revoke()
	second := f.revoke(bySubject("acme", "bob")).GetRevision()
	f.equal("repeated", revoke(), first)
	n.acknowledge(second)
	n.beat(second)
	f.equal("both", rows(f.receipt("admin", first))+", "+rows(f.receipt("admin", second)), "node-1:0/0@0s complete, node-1:0/0@0s complete")
	f.restart()
	f.equal("repeated after a restart", revoke(), first)
	third := f.revoke(bySubject("acme", "cyd")).GetRevision()
	n.begin(func(h *pb.AttachHello) { h.Applied = second })
	n.acknowledge(third)
	n.beat(third)
	f.equal("the newest", rows(f.receipt("admin", third)), "node-1:0/0@0s complete")
}
