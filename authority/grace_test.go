package authority_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage/storagetest"
)

// TestReceiptWithinGrace proves promise 4 of a revocation with a grace: a node
// that waits for its sockets has not enforced it, whatever else it has; the receipt
// says so, and when it will have; and nobody is admitted by it.
func TestReceiptWithinGrace(t *testing.T) {
	f := newFixture(t)
	a, b := f.node("node-1"), f.node("node-2")
	old := f.issue().GetToken()
	const grace = 100 * time.Second
	r := f.revokeWithin(grace)
	f.equal("refused", a.refusal(a.item(old)), pb.Reason_REASON_TOKEN_REVOKED)
	entries, _ := a.entries(r.GetSequence())
	f.equal("entry's grace", entries[0].GetGraceUntil().AsTime(), start.Add(grace))
	f.equal("receipt's grace", f.receipt("admin", r).GetGraceUntil().AsTime(), start.Add(grace))
	a.pending(r, r)
	b.acknowledge(r) // has no such socket
	f.heard(r, "node-1~1m41.1s node-2:0/0@0s incomplete")

	// What comes after is confirmed all the same.
	next := f.revoke(bySubject("acme", "bob")).GetRevision()
	a.pending(next, r)
	b.acknowledge(next)
	f.heard(next, "node-1:0/0@0s node-2:0/0@0s complete")
	f.equal("in its grace", rows(f.receipt("admin", r)), "node-1~1m41.1s node-2:0/0@0s incomplete")

	f.clock.advance(grace)
	a.acknowledge(next, &pb.Enforced{Sequence: r.GetSequence(), Closed: 3})
	f.heard(r, "node-1:3/0@1m40s node-2:0/0@0s complete")
	a.pending(next, r) // can't be taken back
	a.beat(next)
	f.equal("for good", rows(f.receipt("admin", r)), "node-1:3/0@1m40s node-2:0/0@0s complete")
	f.equal("audit line", f.lastLine("Enforced"), fmt.Sprintf("caller=node-1 closed=3 instance_id=%x lingering=0 node=node-1 outcome=ok revision=1", a.id))
	list, err := f.revocations("viewer").ListRevocations(f.ctx, &pb.ListRevocationsRequest{})
	f.ok(err)
	f.equal("listed", []any{list.GetRevocations()[0].GetGraceUntil().AsTime(), list.GetRevocations()[1].GetGraceUntil() == nil}, []any{start.Add(grace), true})
	if n := f.metric("gatehouse_authority_revocation_enforced_seconds{}"); n != 2 {
		t.Errorf("%v rows are measured, want the two of the revocation without a grace", n)
	}
}

// TestGraceDeadlines proves that a silent node's deadline is that of its fence or
// that of the grace, whichever it may live by.
func TestGraceDeadlines(t *testing.T) {
	f := newFixture(t, func(f *fixture) { f.cfg.Sessions.MaxGrace = 24 * time.Hour })
	a := f.node("node-1")
	f.node("node-2")
	short, long := f.revokeWithin(time.Minute), f.revokeWithin(10*time.Hour)
	a.pending(long, short, long)
	f.heard(long, "node-1~10h0m37s node-2?10h0m37s incomplete")
	f.equal("a short one", rows(f.receipt("admin", short)), "node-1~1m1.06s node-2?1h0m4.6s incomplete")

	f = newFixture(t, withoutFence)
	a = f.node("node-1")
	f.node("node-2")
	r := f.revokeWithin(time.Minute)
	a.pending(r, r)
	f.heard(r, "node-1~1m1.06s node-2? incomplete")
}

// TestGraceAcrossRestarts proves that what a node has not enforced yet is known to
// be so whoever starts anew, and is not told twice.
func TestGraceAcrossRestarts(t *testing.T) {
	f := newFixture(t, faulty)
	a, b := f.node("node-1"), f.node("node-2")
	r := f.revokeWithin(time.Minute)
	a.pending(r, r)
	b.pending(r, r)
	const within = "node-1~1m1.06s node-2~1m1.06s incomplete"
	f.heard(r, within)
	f.ok(f.service.Keep(f.ctx))
	h := a.beat(r)
	f.equal("on disk", []any{h.GetAcknowledged().GetSequence(), h.GetPending()}, []any{1, []uint64{1}})
	f.kill()
	f.equal("after a kill", rows(f.receipt("admin", r)), within)

	a.begin(func(h *pb.AttachHello) { h.Applied = r })
	f.clock.advance(time.Minute)
	a.acknowledge(r, &pb.Enforced{Sequence: 1, Closed: 3})
	f.heard(r, "node-1:3/0@1m0s node-2~1m1.06s incomplete")
	f.equal("not on disk", a.beat(r).GetPending(), []uint64{1})
	f.kill()
	f.equal("after a kill", rows(f.receipt("admin", r)), within)
	a.begin(func(h *pb.AttachHello) { h.Applied = r })
	a.acknowledge(r, &pb.Enforced{Sequence: 1, Closed: 3})
	f.heard(r, "node-1:3/0@1m0s node-2~1m1.06s incomplete")
	f.ok(f.service.Keep(f.ctx))
	f.equal("on disk", len(a.beat(r).GetPending()), 0)

	// A node that leaves has no sockets any more, but did not tell how many it closed.
	b.begin(func(h *pb.AttachHello) { h.Applied = r })
	b.goodbye()
	const want = "node-1:3/0@1m0s node-2:0/0@1m0s(goodbye) complete"
	f.heard(r, want)
	f.kill()
	f.equal("after a kill", rows(f.receipt("admin", r)), want)
}

// TestGraceRequests are requests that can't be served.
func TestGraceRequests(t *testing.T) {
	f := newFixture(t)
	ask := func(r *pb.RevokeRequest, grace time.Duration) error {
		r.Selector, r.Grace = bySubject("acme", "ada"), durationpb.New(grace)
		_, err := f.revocations("admin").Revoke(f.ctx, r)
		return err
	}
	const id = "sixteen-letters-"
	f.fails(ask(&pb.RevokeRequest{}, 0), "InvalidArgument invalid_request: grace: must be a duration above zero (invalid request)")
	f.fails(ask(&pb.RevokeRequest{DryRun: true}, 301*time.Second), "InvalidArgument invalid_request: grace: 5m1s is above 5m0s, which is sessions.max_grace of the authority (invalid request)")
	f.fails(ask(&pb.RevokeRequest{}, 1500*time.Microsecond), "InvalidArgument invalid_request: grace: 1.5ms is finer than a millisecond (invalid request)")
	f.ok(ask(&pb.RevokeRequest{DryRun: true}, time.Minute))
	f.ok(ask(&pb.RevokeRequest{RequestId: id}, time.Minute))
	f.equal("audit line", f.lastLine("Revoke"), "caller=admin dry_run=false grace_ms=60000 outcome=ok reason= revision=1 subject=ada tenant=acme")
	f.fails(ask(&pb.RevokeRequest{RequestId: id}, time.Second), "InvalidArgument invalid_request: request_id: it was used for another request; draw a new one")
}

// TestGracesAreBounded proves that what is within its grace has a bound, in which
// each revocation takes one place, however often it is asked for, and one that
// failed takes none.
func TestGracesAreBounded(t *testing.T) {
	f := newFixture(t, faulty)
	ask := func(id string) (uint64, error) {
		resp, err := f.revocations("admin").Revoke(f.ctx, &pb.RevokeRequest{Selector: bySubject("acme", "ada"), Grace: durationpb.New(time.Minute), RequestId: id})
		return resp.GetRevision().GetSequence(), err
	}
	const id, most = "sixteen-letters-", 1000
	revoke := func(id string, want int) {
		t.Helper()
		seq, err := ask(id)
		f.ok(err)
		f.equal("revision", seq, want)
	}
	for range 3 {
		f.store.(*storagetest.Faulty).Fail("Append", errors.New("told to"))
		_, err := ask("")
		f.fails(err, "Internal internal: internal error")
		revoke(id, 1)
	}
	for n := 1; n < most; n++ {
		revoke("", n+1)
	}
	full := func() {
		t.Helper()
		_, err := ask("another-request-")
		f.fails(err, "ResourceExhausted quota_exceeded: 1000 revocations are within their grace, which is the most: revoke without one, or later (...")
	}
	full()
	revoke(id, 1) // it has its place
	full()
	f.revoke(bySubject("acme", "ada")) // needs none
	f.clock.advance(time.Minute)
	revoke("", most+2)
}

// TestHostilePending proves that a node can call pending only what can be.
func TestHostilePending(t *testing.T) {
	f := newFixture(t)
	r := f.revokeWithin(time.Minute)
	two := &pb.Revision{Epoch: r.GetEpoch(), Sequence: 2}
	for _, pending := range [][]*pb.Revision{{two}, {{}}, {r, r}} {
		n := f.node("node-1")
		n.pending(r, pending...)
		f.fails(drained(n.attach), "InvalidArgument invalid_request: acknowledgement.pending: ...")
	}
	many := make([]*pb.Revision, 8193)
	n := f.node("node-1")
	n.pending(r, many...)
	f.fails(drained(n.attach), "InvalidArgument invalid_request: acknowledgement.pending: 8193 are above 8192 (invalid request)")
	n = f.node("node-1")
	n.pending(&pb.Revision{Epoch: r.GetEpoch() + 1, Sequence: 9}, two, r) // another history's
	n.beat(r)
}
