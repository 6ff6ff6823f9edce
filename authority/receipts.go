package authority

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
)

const (
	// maxReceiptRows is how many rows of receipts are kept, newest receipts first.
	// Of older entries, and of those before the authority's start, a receipt is
	// made from what the instances have applied: it names who has enforced them,
	// not how many sockets each closed, nor how fast.
	maxReceiptRows = 200_000
	// maxEarly is how many entries may have counts before they have a receipt.
	maxEarly = 1000
)

// receipts gathers who has enforced what. Revisions are of the store's one
// epoch, so that sequences name them. Safe for concurrent use; fleet's lock may
// be taken inside its own.
type receipts struct {
	fleet        *fleet
	releaseAfter time.Duration // when a silent node has closed all; 0 is never

	mu   sync.Mutex // guards what follows
	kept []*receipt // in the order of their sequences
	rows int        // of all of them
	// floor is the highest sequence that has no receipt and gets none.
	floor uint64
	// applied is through where instances have enforced, while attached.
	applied map[storage.InstanceID]uint64
	// early are counts of entries whose commit nobody has told of yet: a node
	// can be faster than the goroutine that appended.
	early map[uint64]map[storage.InstanceID]*pb.Enforced
	// changed is closed, and replaced, when what a receipt says may have changed.
	changed chan struct{}
}

type receipt struct {
	sequence  uint64
	committed time.Time
	rows      map[storage.InstanceID]*receiptRow
	waiting   int // rows that are not done
}

type receiptRow struct {
	node             string
	done             bool
	closed, lingered uint32
	after            time.Duration
}

// newReceipts keeps receipts of the entries above head.
func newReceipts(f *fleet, head storage.Revision, releaseAfter time.Duration) *receipts {
	return &receipts{
		fleet: f, releaseAfter: releaseAfter, floor: head.Sequence,
		applied: map[storage.InstanceID]uint64{},
		early:   map[uint64]map[storage.InstanceID]*pb.Enforced{},
		changed: make(chan struct{}),
	}
}

// open starts the receipt of an entry that is committed. Whoever registers
// after the commit is sent the entry before it admits anyone.
func (r *receipts) open(e *storage.Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	seq := e.Revision.Sequence
	at, repeated := r.find(seq)
	if repeated || seq <= r.floor { // a request id came again
		return
	}
	rc := &receipt{sequence: seq, committed: e.CommittedAt, rows: map[storage.InstanceID]*receiptRow{}}
	for _, i := range r.fleet.snapshot() {
		row := &receiptRow{node: i.Node, done: seq <= r.applied[i.ID]} // faster than we
		if n := r.early[seq][i.ID]; n != nil {
			row.closed, row.lingered = n.GetClosed(), n.GetLingering()
		}
		if !row.done {
			rc.waiting++
		}
		rc.rows[i.ID] = row
	}
	delete(r.early, seq)
	r.kept = slices.Insert(r.kept, at, rc)
	r.rows += len(rc.rows) + 1
	for r.rows > maxReceiptRows && len(r.kept) > 1 {
		old := r.kept[0]
		r.kept[0] = nil
		r.kept, r.floor = r.kept[1:], old.sequence
		r.rows -= len(old.rows) + 1
	}
}

// find is the place of a sequence in kept, and whether it is there.
func (r *receipts) find(seq uint64) (int, bool) {
	return slices.BinarySearchFunc(r.kept, seq, func(rc *receipt, seq uint64) int { return cmp.Compare(rc.sequence, seq) })
}

// enforced notes that an instance has enforced all entries through a sequence,
// with what each of counts ended.
func (r *receipts) enforced(id storage.InstanceID, through uint64, counts []*pb.Enforced, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range counts {
		seq := n.GetSequence()
		if seq > through || seq <= r.floor {
			continue // not enforced yet, or no longer kept
		}
		if at, ok := r.find(seq); !ok {
			r.keepEarly(id, n)
		} else if row := r.kept[at].rows[id]; row != nil {
			row.closed, row.lingered = n.GetClosed(), n.GetLingering()
			r.wake()
		}
	}
	from := r.applied[id]
	if through <= from || r.fleet.owner(id) == "" { // gone comes after fleet.remove
		return
	}
	r.applied[id] = through
	r.wake()
	first, _ := r.find(from + 1)
	for _, rc := range r.kept[first:] {
		if rc.sequence > through {
			break
		}
		rc.settle(id, now)
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

// gone settles all rows of an instance that has no sockets any more.
func (r *receipts) gone(id storage.InstanceID, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.applied, id)
	for _, rc := range r.kept {
		rc.settle(id, now)
	}
	r.wake()
}

// settle marks an instance's row as enforced.
func (rc *receipt) settle(id storage.InstanceID, now time.Time) {
	if row := rc.rows[id]; row != nil && !row.done {
		row.done, row.after = true, max(now.Sub(rc.committed), 0)
		rc.waiting--
	}
}

func (r *receipts) wake() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// of is the receipt of an entry as it is now, and a channel that is closed when
// that may have changed.
func (r *receipts) of(e *storage.Entry) (*pb.Receipt, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := &pb.Receipt{Revision: revisionOf(e.Revision), CommittedAt: timestamppb.New(e.CommittedAt), Complete: true}
	if at, ok := r.find(e.Revision.Sequence); ok {
		rc := r.kept[at]
		out.Complete = rc.waiting == 0
		for id, row := range rc.rows {
			m := r.message(id, row, e.CommittedAt)
			if row.done {
				m.After = durationpb.New(row.after)
			}
			out.Rows = append(out.Rows, m)
		}
	} else {
		for _, i := range r.fleet.snapshot() {
			row := &receiptRow{node: i.Node, done: e.Revision.Sequence <= r.applied[i.ID]}
			out.Complete = out.Complete && row.done
			out.Rows = append(out.Rows, r.message(i.ID, row, e.CommittedAt))
		}
	}
	slices.SortFunc(out.Rows, func(a, b *pb.ReceiptRow) int {
		return cmp.Or(cmp.Compare(a.GetNode(), b.GetNode()), cmp.Compare(a.GetInstanceId(), b.GetInstanceId()))
	})
	return out, r.changed
}

func (r *receipts) message(id storage.InstanceID, row *receiptRow, committed time.Time) *pb.ReceiptRow {
	out := &pb.ReceiptRow{
		Node: row.node, InstanceId: hex.EncodeToString(id[:]), Enforced: row.done,
		Closed: row.closed, Lingering: row.lingered,
	}
	if !row.done && r.releaseAfter > 0 {
		out.Deadline = timestamppb.New(committed.Add(r.releaseAfter))
	}
	return out
}

// GetReceipt implements RevocationService.
func (s *Service) GetReceipt(ctx context.Context, req *pb.GetReceiptRequest) (*pb.GetReceiptResponse, error) {
	e, err := s.entry(ctx, req.GetRevision())
	if err != nil {
		return nil, err
	}
	rc, _ := s.receipts.of(&e)
	return &pb.GetReceiptResponse{Receipt: rc}, nil
}

// WatchReceipt implements RevocationService.
func (s *Service) WatchReceipt(req *pb.WatchReceiptRequest, stream pb.RevocationService_WatchReceiptServer) error {
	ctx := stream.Context()
	e, err := s.entry(ctx, req.GetRevision())
	if err != nil {
		return err
	}
	told := map[string]*pb.ReceiptRow{} // by instance id
	for first := true; ; first = false {
		rc, changed := s.receipts.of(&e)
		rc.Rows = slices.DeleteFunc(rc.Rows, func(row *pb.ReceiptRow) bool {
			same := proto.Equal(told[row.GetInstanceId()], row)
			told[row.GetInstanceId()] = row
			return same
		})
		if first || len(rc.GetRows()) > 0 || rc.GetComplete() {
			if err := stream.Send(&pb.WatchReceiptResponse{Receipt: rc}); err != nil {
				return err
			}
		}
		if rc.GetComplete() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// entry finds the entry of a receipt, within the caller's reach.
func (s *Service) entry(ctx context.Context, r *pb.Revision) (storage.Entry, error) {
	if r.GetSequence() == 0 {
		return storage.Entry{}, invalid("revision", "required, as Revoke or Lock answered it")
	}
	note(ctx, slog.Uint64("revision", r.GetSequence()))
	e, err := s.store.Entry(ctx, revisionFrom(r))
	if err != nil {
		return e, fmt.Errorf("entry %d of epoch %d: %w", r.GetSequence(), r.GetEpoch(), err)
	}
	if c := callerFrom(ctx); c.Role == issuer && e.Actor != c.Name {
		// As if there were none: it may be another tenant's.
		return e, fmt.Errorf("entry %d of epoch %d: %w", r.GetSequence(), r.GetEpoch(), storage.ErrNotFound)
	}
	return e, nil
}
