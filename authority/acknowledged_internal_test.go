package authority

import (
	"errors"
	"testing"
	"time"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/memstore"
	"github.com/gatehouse-ws/gatehouse/storage/storagetest"
)

// newKeeper is a service of receipts alone, whose store has one instance and a
// log of n entries.
func newKeeper(t *testing.T, n int) (*Service, *storagetest.Faulty, storage.InstanceID) {
	t.Helper()
	store := &storagetest.Faulty{Store: memstore.New()}
	r, ids := newTestReceipts(t, 1)
	if err := store.PutInstance(t.Context(), &storage.Instance{ID: ids[0], Node: "node-0"}); err != nil {
		t.Fatal(err)
	}
	for range n {
		if _, err := store.Append(t.Context(), storage.Entry{Kind: storage.Revoke, Selector: storage.Selector{Tenant: "acme"}, CommittedAt: testStart, KeepUntil: testStart.Add(time.Hour)}); err != nil {
			t.Fatal(err)
		}
	}
	return &Service{now: func() time.Time { return testStart }, store: store, fleet: r.fleet, receipts: r}, store, ids[0]
}

func enforcedFrom(first, n int) (out []*pb.Enforced) {
	for i := range n {
		out = append(out, &pb.Enforced{Sequence: uint64(first + i), Closed: 1})
	}
	return out
}

// TestManyCountsAreKeptInParts proves that an instance is called acknowledged
// with the last of its counts, not before.
func TestManyCountsAreKeptInParts(t *testing.T) {
	const n = 3*maxKept + 7
	s, store, id := newKeeper(t, n)
	s.receipts.enforced(id, storage.Progress{Through: n}, enforcedFrom(1, n), testStart.Add(time.Second))
	failed := errors.New("told to")
	store.Fail("Acknowledge", nil, nil, failed)
	if err := s.keepAcknowledged(t.Context(), nil); !errors.Is(err, failed) {
		t.Fatal(err)
	}
	known, err := store.Acknowledged(t.Context())
	if err != nil || known[id].Through != 0 || s.receipts.acknowledged(id).Through != 0 {
		t.Fatalf("acknowledged through %d on disk, %d in memory, %v: counts are missing", known[id].Through, s.receipts.acknowledged(id).Through, err)
	}
	s.receipts.enforced(id, storage.Progress{Through: n}, enforcedFrom(n, 1), testStart.Add(time.Minute)) // one of them again
	if err := s.keepAcknowledged(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if known, err = store.Acknowledged(t.Context()); err != nil || known[id].Through != n || s.receipts.acknowledged(id).Through != n {
		t.Fatalf("acknowledged through %d on disk, %d in memory, %v", known[id].Through, s.receipts.acknowledged(id).Through, err)
	}
	for _, seq := range []uint64{1, maxKept, maxKept + 1, n} {
		counts, err := store.Counts(t.Context(), seq)
		if want := (storage.Closed{Sequence: seq, Closed: 1, After: time.Second}); err != nil || counts[id] != want {
			t.Errorf("count %+v, %v, want %+v", counts[id], err, want)
		}
	}
	if len(s.receipts.waiting) != 0 || len(s.receipts.unkept) != 0 {
		t.Errorf("%v counts of %d instances still wait", s.receipts.waiting, len(s.receipts.unkept))
	}
}

// TestUnkeptIsBounded proves that what can't be written does not pile up, and
// that an instance is not called acknowledged with counts missing until it has
// told them again.
func TestUnkeptIsBounded(t *testing.T) {
	const n = maxUnkept + 10
	s, store, id := newKeeper(t, 0)
	r := s.receipts
	var err error
	for first := 1; first <= n; first += maxEnforced {
		err = r.enforced(id, storage.Progress{Through: uint64(first + maxEnforced - 1)}, enforcedFrom(first, maxEnforced), testStart)
	}
	if r.waiting["node-0"] > maxUnkept || !r.cut[id] || err != errCut {
		t.Fatalf("%d counts wait, cut off: %t, %v", r.waiting["node-0"], r.cut[id], err)
	}
	last := r.unkept[id].progress.Through
	if err := s.keepAcknowledged(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	r.enforced(id, storage.Progress{Through: n + 1}, nil, testStart)
	if err := s.keepAcknowledged(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if known, err := store.Acknowledged(t.Context()); err != nil || known[id].Through != last {
		t.Fatalf("acknowledged through %d, %v, want %d", known[id], err, last)
	}
	r.begin(id)
	r.enforced(id, storage.Progress{Through: n + 1}, enforcedFrom(int(last)+1, maxEnforced), testStart)
	if err := s.keepAcknowledged(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if got := r.acknowledged(id).Through; got != n+1 {
		t.Errorf("acknowledged through %d after it was told again, want %d", got, n+1)
	}
}

// TestLeavingIsNotAcknowledged proves that what an instance says while it is
// removed is not called kept.
func TestLeavingIsNotAcknowledged(t *testing.T) {
	s, _, id := newKeeper(t, 3)
	s.receipts.enforced(id, storage.Progress{Through: 1}, enforcedFrom(1, 1), testStart)
	s.receipts.leave(id)
	s.receipts.enforced(id, storage.Progress{Through: 3}, enforcedFrom(2, 2), testStart)
	if err := s.keepAcknowledged(t.Context(), &id); err != nil {
		t.Fatal(err)
	}
	if got := s.receipts.acknowledged(id).Through; got != 1 {
		t.Errorf("acknowledged through %d, want 1", got)
	}
}

// TestNewInstanceIsNotAcknowledged proves that one which registers anew, under an
// id that was known, is not called acknowledged by what it said before.
func TestNewInstanceIsNotAcknowledged(t *testing.T) {
	s, _, id := newKeeper(t, 3)
	r := s.receipts
	r.enforced(id, storage.Progress{Through: 2}, enforcedFrom(1, 2), testStart)
	if err := s.keepAcknowledged(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	r.enforced(id, storage.Progress{Through: 3}, enforcedFrom(3, 1), testStart)
	r.begin(id)
	if got := r.acknowledged(id).Through; got != 2 || r.waiting["node-0"] != 1 {
		t.Errorf("on another stream: acknowledged through %d, %v counts wait; want 2 and 1", got, r.waiting)
	}
	r.fleet.remove(id)
	r.begin(id)
	if got := r.acknowledged(id).Through; got != 0 || len(r.waiting) != 0 || len(r.applied) != 0 {
		t.Errorf("anew: acknowledged through %d, %v counts wait, applied %v", got, r.waiting, r.applied)
	}
}
