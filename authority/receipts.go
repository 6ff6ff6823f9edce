package authority

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
)

const (
	// maxReceiptRows is how many rows of receipts are kept in memory, newest
	// receipts first. Those of older entries, and of those before the authority's
	// start that reopen leaves out, are made of what the store has.
	maxReceiptRows = 200_000
	// maxEarly is how many entries may have counts before they have a receipt.
	maxEarly = 1000
)

// receipts gathers who has enforced what. Revisions are of the store's one
// epoch, so that sequences name them. Safe for concurrent use; fleet's lock may
// be taken inside its own.
type receipts struct {
	fleet  *fleet
	lag    *lag                 // set before the first entry; nil measures nothing
	newest atomic.Pointer[hold] // of what was opened last; nil until then

	mu   sync.Mutex // guards what follows
	kept []*receipt // in the order of their sequences
	rows int        // of all of them
	// floor is the highest sequence that gets no receipt any more; up to it, kept
	// has those that were reopened.
	floor     uint64
	completed []*receipt // whose completion the audit trail has not told yet
	// applied is how far instances have enforced.
	applied map[storage.InstanceID]storage.Progress
	// durable is the same, as far as it is on disk; what is not waits in unkept,
	// or is being written.
	durable         map[storage.InstanceID]storage.Progress
	unkept, writing unkept
	waiting         map[string]int              // counts of both, by node
	cut             map[storage.InstanceID]bool // of which nothing more is written
	left            []*leaver                   // the last to leave, or about to, in their order
	news            chan struct{}               // of one: something waits
	// early are counts of entries whose commit nobody has told of yet: a node
	// can be faster than the goroutine that appended.
	early map[uint64]map[storage.InstanceID]*pb.Enforced
	// changed is closed when what a receipt says may have changed; nil while nobody
	// waits for that.
	changed chan struct{}
}

type receipt struct {
	sequence  uint64
	committed time.Time
	grace     bool
	rows      map[storage.InstanceID]*receiptRow
	waiting   int                // rows that are not done
	hold      *hold              // nil where it holds nothing up
	from      *trace.SpanContext // of the call that appended the entry; nil where that is not traced
	watchers  []*watcher
}

type receiptRow struct {
	node             string
	releaseAfter     time.Duration // when it has closed all if it is silent; 0 is never
	done             bool
	inGrace          bool   // it waits for sockets to renew
	departed         string // why, of an instance that left before it had enforced
	closed, lingered uint32
	counted          bool // these are newer than what the store has
	after            time.Duration
	timed            bool // after is known
}

// newReceipts keeps receipts of the entries above head in memory. acknowledged is
// what the store has.
func newReceipts(f *fleet, head storage.Revision, acknowledged map[storage.InstanceID]storage.Progress) *receipts {
	return &receipts{
		fleet: f, floor: head.Sequence,
		applied: maps.Clone(acknowledged), durable: acknowledged,
		unkept: unkept{}, waiting: map[string]int{}, cut: map[storage.InstanceID]bool{}, news: make(chan struct{}, 1),
		early: map[uint64]map[storage.InstanceID]*pb.Enforced{},
	}
}

// open starts the receipt of an entry that is committed, by the call of a span or
// of none. Whoever registers after the commit is sent the entry before it admits
// anyone; who was there at the commit has a row though it has left since.
func (r *receipts) open(e *storage.Entry, from *trace.SpanContext) {
	r.mu.Lock()
	defer r.mu.Unlock()
	seq := e.Revision.Sequence
	at, repeated := r.find(seq)
	if repeated || seq <= r.floor { // a request id came again
		return
	}
	instances := r.fleet.snapshot()
	rc := &receipt{sequence: seq, committed: e.CommittedAt, from: from, grace: e.Grace > 0, rows: make(map[storage.InstanceID]*receiptRow, len(instances))}
	rows := make([]receiptRow, len(instances))
	for n, i := range instances {
		if i.Registered >= seq {
			continue
		}
		p := r.applied[i.ID] // faster than we
		row := &rows[n]
		*row = receiptRow{node: i.Node, releaseAfter: releaseAfter(i.SessionFence), done: p.Has(seq), inGrace: p.Waits(seq)}
		row.timed = row.done
		if n := r.early[seq][i.ID]; n != nil {
			row.closed, row.lingered = n.GetClosed(), n.GetLingering()
		}
		if row.done {
			r.lag.acknowledged(rc, 0)
		} else {
			rc.waiting++
		}
		rc.rows[i.ID] = row
	}
	r.addLeft(rc)
	r.concluded(rc, rc.committed)
	if rc.waiting > 0 && !rc.grace {
		rc.hold = newHold()
		r.newest.Store(rc.hold)
	}
	delete(r.early, seq)
	r.keep(rc, at)
}

// keep gives a receipt its place in kept, for which the oldest make room; mu is
// held.
func (r *receipts) keep(rc *receipt, at int) {
	r.kept = slices.Insert(r.kept, at, rc)
	r.rows += len(rc.rows) + 1
	for r.rows > maxReceiptRows && len(r.kept) > 1 {
		old := r.kept[0]
		r.kept[0] = nil
		r.kept, r.floor = r.kept[1:], max(r.floor, old.sequence)
		old.dismiss()
		r.rows -= len(old.rows) + 1
	}
}

// find is the place of a sequence in kept, and whether it is there.
func (r *receipts) find(seq uint64) (int, bool) {
	return slices.BinarySearchFunc(r.kept, seq, func(rc *receipt, seq uint64) int { return cmp.Compare(rc.sequence, seq) })
}

// row is the row of an instance in a receipt that is kept, or nil.
func (r *receipts) row(seq uint64, id storage.InstanceID) *receiptRow {
	if at, ok := r.find(seq); ok {
		return r.kept[at].rows[id]
	}
	return nil
}

// enforced notes how far an instance has enforced the log, with what each of
// counts ended. After an error its stream has to end: it has to tell again.
func (r *receipts) enforced(id storage.InstanceID, told storage.Progress, counts []*pb.Enforced, now time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range counts {
		seq := n.GetSequence()
		if seq > told.Through {
			continue // not enforced yet
		}
		if at, ok := r.find(seq); !ok {
			if seq > r.floor { // else no longer kept
				r.keepEarly(id, n)
			}
		} else if row := r.kept[at].rows[id]; row != nil && (row.closed != n.GetClosed() || row.lingered != n.GetLingering()) {
			row.closed, row.lingered = n.GetClosed(), n.GetLingering()
			r.kept[at].tell(id)
			r.wake()
		}
	}
	node := r.fleet.owner(id)
	if node == "" { // gone comes after fleet.remove
		return nil
	}
	from := r.applied[id]
	if to := advance(from, told); !to.Equal(&from) {
		r.applied[id] = to
		r.wake()
		first, _ := r.find(from.Through + 1)
		for _, rc := range r.kept[first:] {
			if rc.sequence > to.Through {
				break
			}
			r.settle(rc, id, &to, now)
		}
		for _, seq := range from.Pending {
			if at, ok := r.find(seq); ok {
				r.settle(r.kept[at], id, &to, now)
			}
		}
	}
	return r.unkeep(id, node, told, counts, now)
}

// advance is where an instance is that was at from and says so: what was
// enforced stays so.
func advance(from, told storage.Progress) storage.Progress {
	to := storage.Progress{Through: max(from.Through, told.Through)}
	for _, seq := range told.Pending {
		if seq > from.Through || from.Waits(seq) {
			to.Pending = append(to.Pending, seq)
		}
	}
	for _, seq := range from.Pending {
		if seq > told.Through {
			to.Pending = append(to.Pending, seq)
		}
	}
	return to
}

// settle brings an instance's row up to where that is.
func (r *receipts) settle(rc *receipt, id storage.InstanceID, at *storage.Progress, now time.Time) {
	if !at.Has(rc.sequence) {
		if row := rc.rows[id]; row != nil && !row.done && row.inGrace != at.Waits(rc.sequence) {
			row.inGrace = !row.inGrace
			rc.tell(id)
		}
		return
	}
	if rc.settle(id, now) {
		r.lag.acknowledged(rc, rc.rows[id].after)
		r.concluded(rc, now)
	}
}

// concluded sees to what is told of a receipt that has just become complete, if
// it has; mu is held.
func (r *receipts) concluded(rc *receipt, now time.Time) {
	if rc.waiting == 0 {
		if rc.hold != nil {
			rc.hold.end()
			rc.hold = nil
		}
		r.lag.completed(rc, now)
		r.completed = append(r.completed, rc)
	}
}

// keepEarly keeps a count for open to find. Those of entries that open is never
// told of make room for newer ones.
func (r *receipts) keepEarly(id storage.InstanceID, n *pb.Enforced) {
	if len(r.early) >= maxEarly {
		clear(r.early)
	}
	seq := n.GetSequence()
	if r.early[seq] == nil {
		r.early[seq] = map[storage.InstanceID]*pb.Enforced{}
	}
	r.early[seq][id] = n
}

// gone settles all rows of an instance that has no sockets any more, and says why
// in those that it had not acknowledged.
// head is not below what it was when the store forgot the instance.
func (r *receipts) gone(id storage.InstanceID, head uint64, cause string, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hasLeft(id, head, cause, now)
	r.forget(id)
	for _, rc := range r.kept {
		row := rc.rows[id]
		if row == nil || row.done {
			continue
		}
		row.departed = cause
		rc.settle(id, now)
		r.concluded(rc, now)
	}
	r.wake()
}

// settle marks an instance's row as enforced, tells watchers, and reports whether
// it was not.
func (rc *receipt) settle(id storage.InstanceID, now time.Time) bool {
	row := rc.rows[id]
	if row == nil || row.done {
		return false
	}
	row.inGrace = false
	row.done, row.after, row.timed = true, max(now.Sub(rc.committed), 0), true
	rc.waiting--
	rc.tell(id)
	return true
}

// wake tells those who wait on change.
func (r *receipts) wake() {
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
}

// change is closed when what a receipt says may have changed; mu is held.
func (r *receipts) change() <-chan struct{} {
	if r.changed == nil {
		r.changed = make(chan struct{})
	}
	return r.changed
}

// of is the receipt of an entry as it is now, and a channel that is closed when
// that may have changed; nil of one that is not kept.
func (r *receipts) of(e *storage.Entry) (*pb.Receipt, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at, ok := r.find(e.Revision.Sequence)
	if !ok {
		return nil, nil
	}
	return r.message(e, r.kept[at].rows), r.change()
}

// live are the rows of registered instances for an entry that is not kept, as far
// as memory tells, and a channel that is closed when they may have changed.
func (r *receipts) live(e *storage.Entry) (map[storage.InstanceID]*receiptRow, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	seq, rows := e.Revision.Sequence, map[storage.InstanceID]*receiptRow{}
	for _, i := range r.fleet.snapshot() {
		if i.Registered >= seq {
			continue
		}
		p := r.applied[i.ID]
		row := &receiptRow{node: i.Node, releaseAfter: releaseAfter(i.SessionFence), done: p.Has(seq), inGrace: p.Waits(seq)}
		for _, u := range []unkept{r.writing, r.unkept} {
			if u[i.ID] == nil {
				continue
			}
			if c, ok := u[i.ID].counts[seq]; ok {
				row.closed, row.lingered, row.counted = c.closed, c.lingering, true
				row.after, row.timed = max(c.at.Sub(e.CommittedAt), 0), true
			}
		}
		rows[i.ID] = row
	}
	return rows, r.change()
}

// receipt is the receipt of an entry as it is now, and a channel that is closed
// when that may have changed. Of one that is not kept in memory the store has
// the rest: first the live are looked at, so that none departs unseen.
func (s *Service) receipt(ctx context.Context, e *storage.Entry) (*pb.Receipt, <-chan struct{}, error) {
	if rc, changed := s.receipts.of(e); rc != nil {
		return rc, changed, nil
	}
	rows, changed, err := s.storedRows(ctx, e)
	if err != nil {
		return nil, nil, err
	}
	return s.receipts.message(e, rows), changed, nil
}

// storedRows are the rows of a receipt that is not kept in memory, and a channel
// that is closed when they may have changed.
func (s *Service) storedRows(ctx context.Context, e *storage.Entry) (map[storage.InstanceID]*receiptRow, <-chan struct{}, error) {
	seq := e.Revision.Sequence
	rows, changed := s.receipts.live(e)
	departed, err := s.store.Departed(ctx, seq)
	if err != nil {
		return nil, nil, fmt.Errorf("read departed instances: %w", err)
	}
	counts, err := s.store.Counts(ctx, seq)
	if err != nil {
		return nil, nil, fmt.Errorf("read counts: %w", err)
	}
	for i := range departed {
		d := &departed[i]
		row := &receiptRow{node: d.Node, done: true}
		if !d.Acknowledged.Has(seq) {
			row.departed, row.after, row.timed = d.Cause, max(d.RemovedAt.Sub(e.CommittedAt), 0), true
		}
		rows[d.ID] = row
	}
	for id, c := range counts {
		row := rows[id]
		if row == nil || row.counted {
			continue
		}
		row.closed, row.lingered = c.Closed, c.Lingering
		if !row.timed && c.After > 0 {
			row.after, row.timed = c.After, true
		}
	}
	return rows, changed, nil
}

// message writes a receipt.
func (r *receipts) message(e *storage.Entry, rows map[storage.InstanceID]*receiptRow) *pb.Receipt {
	out := &pb.Receipt{Revision: revisionOf(e.Revision), CommittedAt: timestamppb.New(e.CommittedAt), GraceUntil: graceUntil(e), Complete: true}
	for id, row := range rows {
		m := &pb.ReceiptRow{
			Node: row.node, InstanceId: hex.EncodeToString(id[:]), Enforced: row.done,
			Closed: row.closed, Lingering: row.lingered, Departed: row.departed, InGrace: row.inGrace,
		}
		switch {
		case !row.done:
			out.Complete = false
			if at := row.deadline(e); !at.IsZero() {
				m.Deadline = timestamppb.New(at)
			}
		case row.timed:
			m.After = durationpb.New(row.after)
		}
		out.Rows = append(out.Rows, m)
	}
	slices.SortFunc(out.Rows, func(a, b *pb.ReceiptRow) int {
		return cmp.Or(cmp.Compare(a.GetNode(), b.GetNode()), cmp.Compare(a.GetInstanceId(), b.GetInstanceId()))
	})
	return out
}

// deadline is when an instance that stays silent from now on has surely closed
// what e hits; zero is never. One that lacks e closes all at its session fence.
// One that has e closes at the end of the grace what has not renewed, by a clock
// that may differ from ours as a fence's may; which of both it is the authority
// can't always know.
func (r *receiptRow) deadline(e *storage.Entry) time.Time {
	fenced, graced := e.CommittedAt.Add(r.releaseAfter), e.GraceUntil().Add(slack(e.Grace))
	switch {
	case r.inGrace:
		return graced
	case r.releaseAfter == 0:
		return time.Time{}
	case e.Grace > 0 && graced.After(fenced):
		return graced
	}
	return fenced
}

// GetReceipt implements RevocationService.
func (s *Service) GetReceipt(ctx context.Context, req *pb.GetReceiptRequest) (*pb.GetReceiptResponse, error) {
	e, err := s.entry(ctx, req.GetRevision())
	if err != nil {
		return nil, err
	}
	rc, _, err := s.receipt(ctx, &e)
	if err != nil {
		return nil, err
	}
	return &pb.GetReceiptResponse{Receipt: rc}, nil
}

// entry finds the entry of a receipt, within the caller's reach.
func (s *Service) entry(ctx context.Context, revision *pb.Revision) (storage.Entry, error) {
	r := revisionFrom(revision)
	if r.Sequence == 0 {
		return storage.Entry{}, invalid("revision", "required, as Revoke or Lock answered it")
	}
	if r.Epoch == 0 { // which none has
		head, _ := s.store.Head()
		r.Epoch = head.Epoch
	}
	note(ctx, revisionAttrs(r)...)
	e, err := s.store.Entry(ctx, r)
	if err != nil {
		return e, fmt.Errorf("entry %d of epoch %d: %w", r.Sequence, r.Epoch, err)
	}
	if c := callerFrom(ctx); c.Role == issuer && e.Actor != c.Name {
		// As if there were none: it may be another tenant's.
		return e, fmt.Errorf("entry %d of epoch %d: %w", r.Sequence, r.Epoch, storage.ErrNotFound)
	}
	return e, nil
}
