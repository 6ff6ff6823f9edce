package authority_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/memstore"
	"github.com/gatehouse-ws/gatehouse/storage/storagetest"
)

// faulty gives the fixture a store that fails as it is told.
func faulty(f *fixture) { f.store = &storagetest.Faulty{Store: memstore.New()} }

func (f *fixture) fail(method string, errs ...error) {
	f.store.(*storagetest.Faulty).Fail(method, errs...)
}

// kill serves the store by a new authority, to which the old one has left
// nothing that was not written before.
func (f *fixture) kill() {
	f.Helper()
	f.fail("Acknowledge", errors.New("killed"))
	f.restart()
	_ = f.store.Acknowledge(f.ctx, nil) // takes the error, where the drain had nothing to write
}

// heard waits until a receipt reads so.
func (f *fixture) heard(r *pb.Revision, want string) {
	f.Helper()
	f.eventually(want, func() bool { return rows(f.receipt("admin", r)) == want })
}

// TestReceiptAfterRestart proves promise 4 of an authority that starts anew: who
// has enforced what, with how many sockets, is as durable as the entry.
func TestReceiptAfterRestart(t *testing.T) {
	f := newFixture(t)
	a, b := f.node("node-1"), f.node("node-2")
	r := f.revoke(bySubject("acme", "ada")).GetRevision()
	f.clock.advance(3 * time.Millisecond)
	a.acknowledge(r, &pb.Enforced{Sequence: 1, Closed: 4, Lingering: 1})
	const first = "node-1:4/1@3ms node-2?1h0m4.6s incomplete"
	f.heard(r, first)
	f.restart()
	f.equal("before anyone is back", rows(f.receipt("admin", r)), first)
	c := f.node("node-1") // registered after the commit
	c.acknowledge(r)
	watch, err := f.revocations("admin").WatchReceipt(f.ctx, &pb.WatchReceiptRequest{Revision: r})
	f.ok(err)
	next := func() string {
		t.Helper()
		w, err := watch.Recv()
		f.ok(err)
		return rows(w.GetReceipt())
	}
	f.equal("first message", next(), first)
	f.clock.advance(time.Second)
	b.begin()
	b.entries(1)
	b.acknowledge(r, &pb.Enforced{Sequence: 1, Closed: 2})
	f.equal("last message", next(), "node-2:2/0@1.003s complete")
	f.equal("receipt", rows(f.receipt("admin", r)), "node-1:4/1@3ms node-2:2/0@1.003s complete")
	f.restart()
	f.equal("after another restart", rows(f.receipt("admin", r)), "node-1:4/1@3ms node-2:2/0@1.003s complete")
	a.begin(func(h *pb.AttachHello) { h.Applied = r })
	f.clock.advance(time.Hour)
	a.acknowledge(r, &pb.Enforced{Sequence: 1, Closed: 4, Lingering: 1})
	a.beat(r)
	f.ok(f.service.Keep(f.ctx))
	f.equal("told again long after", rows(f.receipt("admin", r)), "node-1:4/1@3ms node-2:2/0@1.003s complete")
}

// TestReceiptOfTheDeparted proves that instances which have left are told of for
// as long as the entry: in receipts of what was revoked while they were
// registered, and with a reason where they left their count untold.
func TestReceiptOfTheDeparted(t *testing.T) {
	f := newFixture(t)
	f.node("node-1").goodbye() // before anything
	f.revoke(bySubject("acme", "nobody"))
	left, told, silent, stays := f.node("node-1"), f.node("node-1"), f.node("node-2"), f.node("node-2")
	r := f.revoke(bySubject("acme", "ada")).GetRevision()
	f.clock.advance(time.Second)
	told.acknowledge(r, &pb.Enforced{Sequence: r.GetSequence(), Closed: 4})
	stays.acknowledge(r)
	stays.beat(r)
	told.beat(r)
	told.goodbye()
	left.goodbye()
	f.node("node-1").goodbye() // after it
	f.clock.advance(2 * time.Hour)
	stays.beat(r)
	f.ok(f.service.Tend(f.ctx))
	const want = "node-1:0/0@1s(goodbye) node-1:4/0@1s node-2:0/0@1s node-2:0/0@2h0m1s(silent beyond the session fence) complete"
	f.equal("in memory", rows(f.receipt("admin", r)), want)
	f.restart()
	const after = "node-1:0/0@1s(goodbye) node-1:4/0@1s node-2:0/0 node-2:0/0@2h0m1s(silent beyond the session fence) complete"
	f.equal("after a restart", rows(f.receipt("admin", r)), after)
	silent.begin()
	f.equal("once the silent one is back", rows(f.receipt("admin", r)), after)
	before := &pb.Revision{Epoch: r.GetEpoch(), Sequence: 1}
	f.equal("of the entry before", rows(f.receipt("admin", before)), "complete")

	f.clock.advance(200 * 24 * time.Hour)
	f.ok(f.service.Tend(f.ctx)) // forgets the log so far, and then removes who was silent
	f.ok(f.service.Tend(f.ctx))
	_, err := f.revocations("admin").GetReceipt(f.ctx, &pb.GetReceiptRequest{Revision: r})
	f.fails(err, "NotFound not_found: ...")
	gone, err := f.store.Departed(f.ctx, r.GetSequence())
	f.ok(err)
	counts, err := f.store.Counts(f.ctx, r.GetSequence())
	f.ok(err)
	if len(gone)+len(counts) > 0 {
		t.Errorf("%d departed instances and %d counts are left of what is forgotten", len(gone), len(counts))
	}
}

// TestCountsSurviveKills proves that a node which tells again what no answer has
// called acknowledged completes receipts with the right counts, whoever was
// killed.
func TestCountsSurviveKills(t *testing.T) {
	f := newFixture(t, faulty)
	n := f.node("node-1")
	r := f.revoke(bySubject("acme", "ada")).GetRevision()
	count := &pb.Enforced{Sequence: 1, Closed: 4}
	n.acknowledge(r, count)
	f.heard(r, "node-1:4/0@0s complete")
	f.equal("acknowledged on disk", n.beat(r).GetAcknowledged().GetSequence(), 0)
	f.kill()
	f.equal("after a kill", rows(f.receipt("admin", r)), "node-1?1h0m4.6s incomplete")
	w := n.begin(func(h *pb.AttachHello) { h.Applied = r })
	f.equal("features", fmt.Sprint(w.GetHello().GetFeatures()), fmt.Sprint([]string{pb.FeatureAcknowledged}))
	n.acknowledge(r, count)
	f.equal("acknowledged on disk", n.beat(r).GetAcknowledged().GetSequence(), 0)
	f.ok(f.service.Keep(f.ctx))
	f.equal("acknowledged on disk", n.beat(r).GetAcknowledged(), r)
	f.kill()
	const want = "node-1:4/0@1µs complete" // the clock stands still
	f.equal("after a kill of what was kept", rows(f.receipt("admin", r)), want)
	n.end()
	f.node("node-1", func(h *pb.AttachHello) { h.DeadInstanceIds = [][]byte{n.id[:]} })
	f.equal("after the node was killed", rows(f.receipt("admin", r)), want)
}

// TestNodeThatIsCutOff proves that a node of which too many counts wait loses its
// stream, and with a new one nothing, and that another node does not notice.
func TestNodeThatIsCutOff(t *testing.T) {
	f := newFixture(t, faulty)
	n, other := f.node("node-1"), f.node("node-2")
	r := f.revoke(bySubject("acme", "ada")).GetRevision()
	relent := f.service.CrowdCounts("node-1")
	count := &pb.Enforced{Sequence: 1, Closed: 4}
	n.acknowledge(r, count)
	f.fails(drained(n.attach), "Aborted not_attached: acknowledgements of this node instance can't be kept: attach again, and tell them again")
	other.acknowledge(r, count)
	f.heard(r, "node-1:4/0@0s node-2:4/0@0s complete")
	f.ok(f.service.Keep(f.ctx))
	f.equal("other, on disk", other.beat(r).GetAcknowledged(), r)

	relent()
	n.begin(func(h *pb.AttachHello) { h.Applied = r })
	f.equal("on disk", n.beat(r).GetAcknowledged().GetSequence(), 0)
	n.acknowledge(r, count)
	n.beat(r)
	f.ok(f.service.Keep(f.ctx))
	f.equal("on disk", n.beat(r).GetAcknowledged(), r)
	f.kill()
	f.equal("after a kill", rows(f.receipt("admin", r)), "node-1:4/0@1µs node-2:4/0@1µs complete")
}

// TestAcknowledgementsAreRetried proves that a store which fails for a while
// loses none, and that nobody is called acknowledged meanwhile.
func TestAcknowledgementsAreRetried(t *testing.T) {
	f := newFixture(t, faulty)
	n, m := f.node("node-1"), f.node("node-2")
	r := f.revoke(bySubject("acme", "ada")).GetRevision()
	n.acknowledge(r, &pb.Enforced{Sequence: 1, Closed: 4})
	n.beat(r)
	f.fail("Acknowledge", storage.ErrFull, storage.ErrFull)
	if err := f.service.Keep(f.ctx); !errors.Is(err, storage.ErrFull) {
		t.Fatalf("keep: %v", err)
	}
	f.equal("live all the same", rows(f.receipt("admin", r)), "node-1:4/0@0s node-2?1h0m4.6s incomplete")
	n.acknowledge(r, &pb.Enforced{Sequence: 1, Closed: 4, Lingering: 2})
	m.acknowledge(r, &pb.Enforced{Sequence: 1, Closed: 1})
	m.beat(r)
	n.beat(r)
	if err := f.service.Keep(f.ctx); !errors.Is(err, storage.ErrFull) {
		t.Fatalf("keep: %v", err)
	}
	f.equal("acknowledged on disk", n.beat(r).GetAcknowledged().GetSequence(), 0)
	f.ok(f.service.Keep(f.ctx))
	f.equal("acknowledged on disk", n.beat(r).GetAcknowledged(), r)
	f.kill()
	f.equal("after a kill", rows(f.receipt("admin", r)), "node-1:4/2@1µs node-2:1/0@1µs complete")
}

// TestRunKeepsAcknowledgements proves that nobody need ask for it, and that an
// outage is logged once.
func TestRunKeepsAcknowledgements(t *testing.T) {
	f := newFixture(t, faulty)
	ctx, cancel := context.WithCancel(f.ctx)
	ran := make(chan error, 1)
	go func() { ran <- f.service.Run(ctx) }() // ends by cancel
	n := f.node("node-1")
	f.fail("Acknowledge", storage.ErrFull, storage.ErrFull)
	r := f.revoke(bySubject("acme", "ada")).GetRevision()
	n.acknowledge(r, &pb.Enforced{Sequence: 1, Closed: 4})
	f.eventually("on disk", func() bool { return n.beat(r).GetAcknowledged().GetSequence() == 1 })
	cancel()
	f.ok(<-ran)
	log := f.log.String()
	for _, line := range []string{"acknowledgements can't be kept", "acknowledgements can be kept again"} {
		f.equal(line, strings.Count(log, line), 1)
	}
}

// TestGoodbyeKeepsTheLastWord proves that an instance is removed only once what
// it said last is on disk.
func TestGoodbyeKeepsTheLastWord(t *testing.T) {
	f := newFixture(t, faulty)
	n := f.node("node-1")
	r := f.revoke(bySubject("acme", "ada")).GetRevision()
	n.acknowledge(r, &pb.Enforced{Sequence: 1, Closed: 4})
	f.fail("Acknowledge", storage.ErrFull)
	f.ok(n.attach.Send(&pb.AttachRequest{Message: &pb.AttachRequest_Goodbye{Goodbye: &pb.Goodbye{}}}))
	f.fails(drained(n.attach), "Unavailable store_unavailable: the store's disk is full; nothing was done")
	f.equal("nodes", len(f.instances()), 1)
	n.begin(func(h *pb.AttachHello) { h.Applied = r })
	n.acknowledge(r, &pb.Enforced{Sequence: 1, Closed: 4})
	n.goodbye()
	f.kill()
	f.equal("after a kill", rows(f.receipt("admin", r)), "node-1:4/0@1µs complete")
}

// TestReceiptCompletesAfterRestart proves that the trail says of a receipt that it
// is complete, once, though the authority was restarted while it waited for a
// silent node; that no receipt which was complete is told of again; and that
// watchers and metrics hear of it as ever.
func TestReceiptCompletesAfterRestart(t *testing.T) {
	f := newFixture(t, faulty)
	completions := func() int { f.trail.Flush(); return strings.Count(f.audit.String(), `"action":"ReceiptComplete"`) }
	quick, silent := f.node("node-1"), f.node("node-2")
	told := f.revoke(bySubject("acme", "bob")).GetRevision()
	for _, n := range []*node{quick, silent} {
		n.acknowledge(told)
		n.beat(told)
	}
	r := f.revoke(bySubject("acme", "ada")).GetRevision()
	quick.acknowledge(r, &pb.Enforced{Sequence: r.GetSequence(), Closed: 4})
	quick.beat(r)
	f.ok(f.service.Keep(f.ctx))
	f.equal("lines before", completions(), 1)

	f.kill()
	f.ok(f.service.Tend(f.ctx))
	f.equal("lines after a restart", completions(), 1)
	watch, err := f.revocations("admin").WatchReceipt(f.ctx, &pb.WatchReceiptRequest{Revision: r})
	f.ok(err)
	w, err := watch.Recv()
	f.ok(err)
	f.equal("first message", rows(w.GetReceipt()), "node-1:4/0@1µs node-2?1h0m4.6s incomplete")
	f.clock.advance(3 * time.Second)
	silent.begin()
	silent.acknowledge(r, &pb.Enforced{Sequence: r.GetSequence(), Closed: 2})
	w, err = watch.Recv()
	f.ok(err)
	f.equal("last message", rows(w.GetReceipt()), "node-2:2/0@3s complete")
	f.ok(f.service.Keep(f.ctx))
	f.ok(f.service.Tend(f.ctx))
	f.equal("lines once all are back", completions(), 2)
	f.equal("line", f.lastLine("ReceiptComplete"), fmt.Sprintf("after_ms=3000 caller=authority closed=6 instances=2 outcome=ok revision=%d", r.GetSequence()))
	f.equal("lags measured", f.metric("gatehouse_authority_receipt_complete_seconds{}"), 1.0)

	f.kill()
	f.ok(f.service.Tend(f.ctx))
	silent.begin()
	silent.acknowledge(r, &pb.Enforced{Sequence: r.GetSequence(), Closed: 2})
	silent.beat(r)
	f.ok(f.service.Keep(f.ctx))
	f.equal("lines in the end", completions(), 2)
}

// TestReceiptsOfTheRestartAreBounded proves that of many receipts which a silent
// node leaves open the newest are reopened; those that wait for the end of a grace
// are among them; and that the others are told of by the store alone.
func TestReceiptsOfTheRestartAreBounded(t *testing.T) {
	f := newFixture(t)
	n := f.node("node-1")
	graced := f.revokeWithin(time.Minute)
	n.pending(graced, graced)
	n.beat(graced)
	f.ok(f.service.Keep(f.ctx))
	f.restart()
	n.begin()
	f.clock.advance(time.Minute)
	n.acknowledge(graced, &pb.Enforced{Sequence: graced.GetSequence(), Closed: 1})
	n.beat(graced)
	f.ok(f.service.Tend(f.ctx))
	f.trail.Flush()
	f.equal("after the grace", f.lastLine("ReceiptComplete"), fmt.Sprintf("after_ms=60000 caller=authority closed=1 instances=1 outcome=ok revision=%d", graced.GetSequence()))

	const more = 1010
	var last *pb.Revision
	for range more {
		last = f.revoke(bySubject("acme", "ada")).GetRevision()
	}
	f.restart()
	if want := `"reopened":1000`; !strings.Contains(f.log.String(), want) {
		t.Errorf("no %s in the log", want)
	}
	n.begin()
	n.acknowledge(last)
	n.beat(last)
	f.ok(f.service.Tend(f.ctx))
	f.trail.Flush()
	f.equal("lines", strings.Count(f.audit.String(), `"action":"ReceiptComplete"`), 1+1000)
	oldest := &pb.Revision{Epoch: last.GetEpoch(), Sequence: graced.GetSequence() + 1}
	f.equal("beyond the bound", rows(f.receipt("admin", oldest)), "node-1:0/0 complete")
}

// departures counts how often the store is asked who has departed.
type departures struct {
	storage.Store
	asked atomic.Int64
}

func (d *departures) Departed(ctx context.Context, sequence uint64) ([]storage.Departed, error) {
	d.asked.Add(1)
	return d.Store.Departed(ctx, sequence)
}

// TestWatchingOldReceiptsIsPaced proves that whoever watches a receipt that is not
// kept in memory has the store asked at a bounded pace, however much nodes say.
func TestWatchingOldReceiptsIsPaced(t *testing.T) {
	d := &departures{Store: memstore.New()}
	f := newFixture(t, func(f *fixture) { f.store = d })
	f.node("node-1") // and is silent from now on
	const more = 1000
	first := f.revoke(bySubject("acme", "ada")).GetRevision()
	for range more {
		f.appendEntry()
	}
	f.restart() // which reopens the newest 1000 alone
	n := f.node("node-2")
	head, _ := f.store.Head()
	f.revoke(bySubject("acme", "ada")) // for which it is waited
	watch, err := f.revocations("admin").WatchReceipt(f.ctx, &pb.WatchReceiptRequest{Revision: first})
	f.ok(err)
	w, err := watch.Recv()
	f.ok(err)
	f.equal("first message", rows(w.GetReceipt()), "node-1?1h0m4.6s incomplete")

	began, before := time.Now(), d.asked.Load()
	const steps = 300
	for seq := range uint64(steps) {
		at := &pb.Revision{Epoch: head.Epoch, Sequence: seq + 1}
		n.acknowledge(at)
		n.beat(at) // it is taken
	}
	asked, most := d.asked.Load()-before, int64(time.Since(began)/(10*time.Millisecond))+2
	if asked > most {
		t.Errorf("the store is asked %d times for %d acknowledgements, want at most %d", asked, steps, most)
	}
	f.eventually("the store is asked again", func() bool { return d.asked.Load() > before })
}
