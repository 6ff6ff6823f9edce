package authority

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/memstore"
)

var testStart = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// newTestReceipts has n instances, whose ids begin at 1.
func newTestReceipts(t *testing.T, n int) (*receipts, []storage.InstanceID) {
	t.Helper()
	cfg := DefaultConfig()
	f, err := loadFleet(context.Background(), memstore.New(), &cfg, testStart)
	if err != nil {
		t.Fatal(err)
	}
	ids := make([]storage.InstanceID, n)
	for i := range ids {
		ids[i] = storage.InstanceID{byte(i + 1), byte((i + 1) >> 8)}
		f.attach(storage.Instance{ID: ids[i], Node: fmt.Sprint("node-", i)}, time.Hour, testStart)
	}
	return newReceipts(f, storage.Revision{Epoch: 1}, map[storage.InstanceID]storage.Progress{}), ids
}

func entryAt(sequence uint64) *storage.Entry {
	return &storage.Entry{Kind: storage.Revoke, Revision: storage.Revision{Epoch: 1, Sequence: sequence}, CommittedAt: testStart}
}

// look is a receipt as far as memory tells.
func (r *receipts) look(sequence uint64) (*pb.Receipt, <-chan struct{}) {
	e := entryAt(sequence)
	if rc, changed := r.of(e); rc != nil {
		return rc, changed
	}
	rows, changed := r.live(e)
	return r.message(e, rows), changed
}

func (r *receipts) complete(sequence uint64) bool {
	rc, _ := r.look(sequence)
	return rc.GetComplete()
}

// TestReceiptsInAnyOrder proves that every receipt gets complete, whatever the
// order in which commits are told of and acknowledged; revocations that run
// side by side come in any.
func TestReceiptsInAnyOrder(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		r, ids := newTestReceipts(t, 3)
		const entries = 8
		type step func()
		var steps []step
		for _, i := range rnd.Perm(entries) {
			steps = append(steps, func() { r.open(entryAt(uint64(i+1)), nil) })
		}
		for _, id := range ids { // acknowledgements of one instance come in order
			at := 0
			for through := uint64(1); through <= entries; through += 1 + uint64(rnd.IntN(3)) {
				at += rnd.IntN(len(steps) - at + 1)
				ack := func() {
					r.enforced(id, storage.Progress{Through: through}, []*pb.Enforced{{Sequence: through, Closed: uint32(through)}}, testStart)
				}
				steps = append(steps[:at], append([]step{ack}, steps[at:]...)...)
				at++
			}
			steps = append(steps, func() { r.enforced(id, storage.Progress{Through: entries}, nil, testStart) })
		}
		for _, s := range steps {
			s()
		}
		for seq := uint64(1); seq <= entries; seq++ {
			if !r.complete(seq) {
				t.Fatalf("seed %d: the receipt of entry %d never gets complete", seed, seq)
			}
		}
		if len(r.early) != 0 {
			t.Fatalf("seed %d: counts left over: %v", seed, r.early)
		}
	}
}

// TestAcknowledgedBeforeTold proves that an acknowledgement which is faster than
// the goroutine that appended loses neither its row nor its count.
func TestAcknowledgedBeforeTold(t *testing.T) {
	r, ids := newTestReceipts(t, 2)
	r.enforced(ids[0], storage.Progress{Through: 2}, []*pb.Enforced{{Sequence: 1, Closed: 3}, {Sequence: 2, Closed: 4, Lingering: 1}}, testStart)
	r.open(entryAt(2), nil) // before the first
	r.open(entryAt(1), nil)
	for seq, want := range map[uint64]uint32{1: 3, 2: 4} {
		rc, _ := r.of(entryAt(seq))
		if row := rc.GetRows()[0]; !row.GetEnforced() || row.GetClosed() != want {
			t.Errorf("entry %d: row %v, want %d closed", seq, row, want)
		}
		if rc.GetComplete() {
			t.Errorf("entry %d: complete without the second node", seq)
		}
	}
}

// TestHeartbeatFasterThanCount proves that a count which comes after its row is
// enforced is still told.
func TestHeartbeatFasterThanCount(t *testing.T) {
	r, ids := newTestReceipts(t, 1)
	r.open(entryAt(1), nil)
	r.enforced(ids[0], storage.Progress{Through: 1}, nil, testStart)
	_, changed := r.of(entryAt(1))
	r.enforced(ids[0], storage.Progress{Through: 1}, []*pb.Enforced{{Sequence: 1, Closed: 9}}, testStart)
	select {
	case <-changed:
	default:
		t.Error("nobody is told")
	}
	if rc, _ := r.of(entryAt(1)); rc.GetRows()[0].GetClosed() != 9 {
		t.Errorf("receipt %v", rc)
	}
}

// TestReceiptsAreBounded proves that neither entries nor counts pile up.
func TestReceiptsAreBounded(t *testing.T) {
	r, ids := newTestReceipts(t, 999)
	const entries = 500
	for seq := range uint64(entries) {
		r.open(entryAt(seq+1), nil)
	}
	if r.rows > maxReceiptRows || len(r.kept) != maxReceiptRows/1000 || r.floor != entries-uint64(len(r.kept)) {
		t.Errorf("%d receipts of %d rows, floor %d", len(r.kept), r.rows, r.floor)
	}
	for _, id := range ids {
		r.enforced(id, storage.Progress{Through: entries}, nil, testStart)
	}
	for _, seq := range []uint64{1, r.floor, r.floor + 1, entries} {
		if !r.complete(seq) {
			t.Errorf("entry %d is incomplete", seq)
		}
	}
	r.open(entryAt(7), nil) // a request id came again
	if _, kept := r.find(7); kept {
		t.Error("a dropped receipt is back")
	}

	r, ids = newTestReceipts(t, 1)
	for seq := range uint64(5 * maxEarly) {
		r.enforced(ids[0], storage.Progress{Through: seq + 1}, []*pb.Enforced{{Sequence: seq + 1, Closed: 1}}, testStart)
	}
	if len(r.early) > maxEarly {
		t.Errorf("counts of %d entries wait", len(r.early))
	}
	r.fleet.remove(ids[0])
	r.gone(ids[0], 0, "goodbye", testStart)
	r.enforced(ids[0], storage.Progress{Through: 9}, nil, testStart) // from a stream that has not ended yet
	if len(r.applied) != 0 || len(r.unkept) != 0 || len(r.waiting) != 0 {
		t.Errorf("%d instances are remembered, %d with %v counts to be written", len(r.applied), len(r.unkept), r.waiting)
	}
}

// TestReceiptsSideBySide drives all of it at once, for the race detector.
func TestReceiptsSideBySide(t *testing.T) {
	r, ids := newTestReceipts(t, 4)
	const entries = 200
	var wg sync.WaitGroup
	for half := range uint64(2) {
		wg.Go(func() {
			for seq := half; seq < entries; seq += 2 {
				r.open(entryAt(seq+1), nil)
			}
		})
	}
	for _, id := range ids {
		wg.Go(func() {
			for seq := range uint64(entries) {
				r.enforced(id, storage.Progress{Through: seq + 1}, []*pb.Enforced{{Sequence: seq + 1, Closed: 1}}, testStart)
			}
		})
	}
	wg.Go(func() {
		for !r.complete(entries) {
			_, changed := r.look(entries)
			if r.complete(entries) {
				return
			}
			<-changed
		}
	})
	wg.Wait()
	for seq := range uint64(entries) {
		rc, _ := r.of(entryAt(seq + 1))
		closed := uint32(0)
		for _, row := range rc.GetRows() {
			closed += row.GetClosed()
		}
		if !rc.GetComplete() || closed != 4 {
			t.Fatalf("entry %d: %v", seq+1, rc)
		}
	}
}

// TestFleetIsBounded proves that a credential cannot register without end.
func TestFleetIsBounded(t *testing.T) {
	cfg := DefaultConfig()
	f, err := loadFleet(context.Background(), memstore.New(), &cfg, testStart)
	if err != nil {
		t.Fatal(err)
	}
	id := func(i int) storage.InstanceID { return storage.InstanceID{1, byte(i), byte(i >> 8)} }
	for i := range cfg.Fleet.MaxInstances {
		inst := storage.Instance{ID: id(i), Node: "node-1"}
		if err := f.mayRegister(&inst); err != nil {
			t.Fatal(err)
		}
		f.attach(inst, time.Hour, testStart)
	}
	more := storage.Instance{ID: id(cfg.Fleet.MaxInstances), Node: "node-1"}
	switch err := f.mayRegister(&more); {
	case verdictOf(err).reason != pb.Reason_REASON_QUOTA_EXCEEDED:
		t.Errorf("one more: %v", err)
	case !strings.Contains(verdictOf(err).text, "has 1000 node instances registered, of at most 1000: ") || !strings.Contains(verdictOf(err).text, "raise fleet.max_instances"):
		t.Errorf("it does not name the bound and what can be done: %v", err)
	}
	if err := f.mayRegister(&storage.Instance{ID: id(0), Node: "node-1"}); err != nil {
		t.Errorf("one of them again: %v", err)
	}
	if err := f.mayRegister(&storage.Instance{ID: id(cfg.Fleet.MaxInstances), Node: "node-2"}); err != nil {
		t.Errorf("another credential's: %v", err)
	}
	f.remove(id(7))
	if err := f.mayRegister(&more); err != nil {
		t.Errorf("one in place of another: %v", err)
	}
}

// TestStrikesAreBounded proves that struck tokens are remembered up to a bound,
// beyond which the first strike is the last, and forgotten when they expire.
func TestStrikesAreBounded(t *testing.T) {
	s := newStrikes()
	id := func(i int) (id storage.TokenID) {
		id[5], id[13], id[14], id[15] = 100, byte(i>>16), byte(i>>8), byte(i) // expires at 100 ms
		return id
	}
	for i := range maxStruck {
		if s.add(id(i)) {
			t.Fatalf("token %d has had its last", i)
		}
	}
	if !s.add(id(maxStruck)) || len(s.counts) != maxStruck {
		t.Errorf("beyond the bound: %d tokens", len(s.counts))
	}
	if s.add(id(0)) || !s.add(id(0)) || !s.add(id(0)) {
		t.Error("not the third and each that follows")
	}
	s.sweep(time.UnixMilli(99))
	if len(s.counts) != maxStruck {
		t.Error("forgotten too soon")
	}
	s.sweep(time.UnixMilli(100))
	if len(s.counts) != 0 {
		t.Error("not forgotten")
	}
}

// TestWatchersAreToldOfWhatChanges proves that a watcher is told each row when it
// changes and no other, of the last at once, and when its receipt is dropped.
func TestWatchersAreToldOfWhatChanges(t *testing.T) {
	r, ids := newTestReceipts(t, 3)
	e := entryAt(1)
	if rc, w := r.watch(e); rc != nil || w != nil {
		t.Fatalf("a receipt that there is not: %v", rc)
	}
	r.open(e, nil)
	first, w := r.watch(e)
	if len(first.GetRows()) != 3 || first.GetComplete() {
		t.Fatalf("at first %v", first)
	}
	_, other := r.watch(e)
	r.unwatch(e, other)
	pending := func(c <-chan struct{}) bool {
		select {
		case <-c:
			return true
		default:
			return false
		}
	}
	told := func(want int, complete bool) {
		t.Helper()
		if !pending(w.news) {
			t.Error("no news")
		}
		rc := r.latest(e, w)
		if len(rc.GetRows()) != want || rc.GetComplete() != complete || pending(w.over) != complete {
			t.Errorf("told %v, want %d rows, complete %v", rc, want, complete)
		}
		for _, row := range rc.GetRows() {
			if !row.GetEnforced() {
				t.Errorf("told of %v", row)
			}
		}
	}
	count := []*pb.Enforced{{Sequence: 1, Closed: 9}}
	r.enforced(ids[0], storage.Progress{Through: 1}, nil, testStart)
	r.enforced(ids[1], storage.Progress{Through: 1}, count, testStart)
	told(2, false)
	r.enforced(ids[1], storage.Progress{Through: 1}, count, testStart) // again
	if pending(w.news) {
		t.Error("the same count is news")
	}
	r.gone(ids[2], 0, "goodbye", testStart)
	told(1, true)
	if pending(other.news) || pending(other.over) {
		t.Error("who no longer watches is told")
	}
	if rc, w := r.watch(e); !rc.GetComplete() || w == nil {
		t.Errorf("of a complete receipt %v", rc)
	}

	r, _ = newTestReceipts(t, 999)
	r.open(e, nil)
	_, w = r.watch(e)
	for seq := uint64(2); r.floor == 0; seq++ {
		r.open(entryAt(seq), nil)
	}
	if !pending(w.over) || r.latest(e, w) != nil {
		t.Error("nobody is told that the receipt is no longer kept")
	}
	r.unwatch(e, w)
}

// TestLeavesBeforeItsReceiptIsOpened proves that an instance which was registered
// at an entry's commit has its row though it leaves before the receipt is opened,
// whatever of its leave comes first.
func TestLeavesBeforeItsReceiptIsOpened(t *testing.T) {
	count := []*pb.Enforced{{Sequence: 5, Closed: 2}}
	for _, c := range []struct {
		rule string
		do   func(r *receipts, id storage.InstanceID, open func())
		want string
	}{
		{"it has left", func(r *receipts, id storage.InstanceID, open func()) {
			r.leave(id)
			r.fleet.remove(id)
			r.gone(id, 5, "goodbye", testStart.Add(time.Second))
			open()
		}, "node-0 enforced true closed 0 departed goodbye after 1s"},
		{"it is about to leave", func(r *receipts, id storage.InstanceID, open func()) {
			r.leave(id)
			r.fleet.remove(id)
			open()
			r.gone(id, 5, "goodbye", testStart.Add(time.Second))
		}, "node-0 enforced true closed 0 departed goodbye after 1s"},
		{"it has acknowledged before", func(r *receipts, id storage.InstanceID, open func()) {
			r.enforced(id, storage.Progress{Through: 5}, count, testStart)
			r.leave(id)
			r.fleet.remove(id)
			r.gone(id, 5, "goodbye", testStart.Add(time.Second))
			open()
		}, "node-0 enforced true closed 2 departed  after 0s"},
		{"it had left before the commit", func(r *receipts, id storage.InstanceID, open func()) {
			r.leave(id)
			r.fleet.remove(id)
			r.gone(id, 4, "goodbye", testStart)
			open()
		}, ""},
		{"it could not be removed, and stays", func(r *receipts, id storage.InstanceID, open func()) {
			r.leave(id)
			open()
			r.enforced(id, storage.Progress{Through: 5}, count, testStart.Add(time.Second))
		}, "node-0 enforced true closed 2 departed  after 1s"},
	} {
		r, ids := newTestReceipts(t, 1)
		c.do(r, ids[0], func() { r.open(entryAt(5), nil) })
		rc, _ := r.look(5)
		got := ""
		for _, row := range rc.GetRows() {
			got += fmt.Sprintf("%s enforced %t closed %d departed %s after %v", row.GetNode(), row.GetEnforced(), row.GetClosed(), row.GetDeparted(), row.GetAfter().AsDuration())
		}
		if got != c.want || !rc.GetComplete() {
			t.Errorf("%s:\n got %s, complete %t\nwant %s", c.rule, got, rc.GetComplete(), c.want)
		}
	}
}

// TestRemovalsOverlap proves that a receipt has a row for each instance that was
// registered at its commit, in whatever order those left that were leaving at the
// same time.
func TestRemovalsOverlap(t *testing.T) {
	slow, quick := storage.InstanceID{1}, storage.InstanceID{2}
	r := newReceipts(nil, storage.Revision{Epoch: 1}, map[storage.InstanceID]storage.Progress{})
	r.left = []*leaver{{id: slow, node: "slow"}, {id: quick, node: "quick"}}
	r.hasLeft(quick, 5, "goodbye", time.Time{})
	r.hasLeft(slow, 9, "goodbye", time.Time{})
	rc := &receipt{sequence: 7, rows: map[storage.InstanceID]*receiptRow{}}
	r.addLeft(rc)
	if len(rc.rows) != 1 || rc.rows[slow] == nil {
		t.Errorf("rows %v, want that of the one that left after the commit", rc.rows)
	}
}
