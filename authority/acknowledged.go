package authority

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
)

const (
	// keepInterval is how long acknowledgements are gathered before they are
	// written: receipts tell of them at once, and nodes repeat what was lost.
	keepInterval = 100 * time.Millisecond
	// maxUnkept is how many counts of one node may wait to be written.
	maxUnkept = 200_000
	// maxKept is how many counts are written at once.
	maxKept = 4096
)

// unkept are acknowledgements that are heard and not on disk yet.
type unkept map[storage.InstanceID]*unkeptOf

type unkeptOf struct {
	node     string
	progress storage.Progress
	counts   map[uint64]unkeptCount // by sequence
}

type unkeptCount struct {
	closed, lingering uint32
	after             time.Duration // 0 where it is to be found out
	at                time.Time     // when it was heard first
}

func (u unkept) of(id storage.InstanceID, node string) *unkeptOf {
	if u[id] == nil {
		u[id] = &unkeptOf{node: node, counts: map[uint64]unkeptCount{}}
	}
	return u[id]
}

// unkeep notes an acknowledgement of a node's instance to be written; mu is held.
// Beyond what may wait of its node nothing more of the instance is written until
// it attaches anew, and tells again: errCut says that it has to.
func (r *receipts) unkeep(id storage.InstanceID, node string, told storage.Progress, counts []*pb.Enforced, now time.Time) error {
	if r.waiting[node]+len(counts) > maxUnkept {
		r.cut[id] = true
	}
	if r.cut[id] {
		return errCut
	}
	durable := r.durable[id]
	from := durable // or what will be by then, if nothing fails
	if of := cmp.Or(r.unkept[id], r.writing[id]); of != nil {
		from = of.progress
	}
	to := advance(from, told)
	if to.Equal(&from) && len(counts) == 0 {
		return nil
	}
	of := r.unkept.of(id, node)
	of.progress = to
	for _, n := range counts {
		seq := n.GetSequence()
		if seq > told.Through || n.GetClosed() == 0 {
			continue
		}
		row := r.row(seq, id)
		if durable.Has(seq) && (row == nil || !row.timed) {
			continue // told again, perhaps long after
		}
		c, again := of.counts[seq]
		if !again {
			c.at = now
			r.waiting[node]++
		}
		c.closed, c.lingering = n.GetClosed(), n.GetLingering()
		if row != nil && row.done {
			c.after = max(row.after, time.Microsecond)
		}
		of.counts[seq] = c
	}
	select {
	case r.news <- struct{}{}:
	default:
	}
	return nil
}

// written says that n counts of a node wait no more; mu is held.
func (r *receipts) written(node string, n int) {
	if r.waiting[node] -= n; r.waiting[node] == 0 {
		delete(r.waiting, node)
	}
}

// leave says that an instance is about to be removed: what it tells from now on
// is not written any more, lest it be called so after its record is gone.
func (r *receipts) leave(id storage.InstanceID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cut[id] = true
	r.leaves(id)
}

// begin says that an instance attaches: it tells again what is not on disk. Of
// one that is new the store has nothing, whatever was known of it.
func (r *receipts) begin(id storage.InstanceID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.cut, id)
	if r.fleet.owner(id) == "" {
		r.forget(id)
	}
}

// forget forgets what an instance has said; mu is held.
func (r *receipts) forget(id storage.InstanceID) {
	if of := r.unkept[id]; of != nil {
		r.written(of.node, len(of.counts))
		delete(r.unkept, id)
	}
	delete(r.applied, id)
	delete(r.durable, id)
	delete(r.cut, id)
}

// acknowledged is how far an instance's acknowledgements are on disk.
func (r *receipts) acknowledged(id storage.InstanceID) storage.Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.durable[id]
}

// take begins to write what waits, of one instance or of all.
func (r *receipts) take(only *storage.InstanceID) unkept {
	r.mu.Lock()
	defer r.mu.Unlock()
	if only == nil {
		r.writing, r.unkept = r.unkept, unkept{}
	} else if of := r.unkept[*only]; of != nil {
		r.writing = unkept{*only: of}
		delete(r.unkept, *only)
	}
	return r.writing
}

// wrote ends what take has begun: what was not written waits again.
func (r *receipts) wrote(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, was := range r.writing {
		r.written(was.node, len(was.counts))
		if r.fleet.owner(id) == "" {
			continue
		}
		if err == nil {
			r.durable[id] = was.progress
			continue
		}
		again := r.unkept[id] == nil
		of := r.unkept.of(id, was.node)
		if again {
			of.progress = was.progress
		}
		for seq, c := range was.counts {
			if newer, ok := of.counts[seq]; ok {
				newer.at = c.at
				c = newer
			} else {
				r.waiting[was.node]++
			}
			of.counts[seq] = c
		}
	}
	r.writing = nil
	if err != nil {
		select {
		case r.news <- struct{}{}:
		default:
		}
	}
}

// keepAcknowledged writes the acknowledgements that wait, of one instance or of
// all.
func (s *Service) keepAcknowledged(ctx context.Context, only *storage.InstanceID) error {
	s.keeping.Lock()
	defer s.keeping.Unlock()
	all := s.receipts.take(only)
	s.auditComplete(s.now()) // who starts on what is written now finds these complete
	err := s.writeAcknowledged(ctx, all)
	s.receipts.wrote(err)
	return err
}

// writeAcknowledged writes counts in parts, and each instance's through with the
// last of its own.
func (s *Service) writeAcknowledged(ctx context.Context, all unkept) error {
	var part []storage.Acknowledgement
	n := 0
	flush := func() error {
		if len(part) == 0 {
			return nil
		}
		if err := s.store.Acknowledge(ctx, part); err != nil {
			return fmt.Errorf("keep acknowledgements: %w", err)
		}
		part, n = nil, 0
		return nil
	}
	committed := map[uint64]time.Time{}
	for id, of := range all {
		ack := storage.Acknowledgement{Instance: id}
		for seq, c := range of.counts {
			after, err := s.afterOf(ctx, seq, c, committed)
			if err != nil {
				return err
			}
			ack.Counts = append(ack.Counts, storage.Closed{Sequence: seq, Closed: c.closed, Lingering: c.lingering, After: after})
		}
		slices.SortFunc(ack.Counts, func(a, b storage.Closed) int { return cmp.Compare(a.Sequence, b.Sequence) })
		for len(ack.Counts) > maxKept-n {
			room := maxKept - n
			part = append(part, storage.Acknowledgement{Instance: id, Counts: ack.Counts[:room]})
			if err := flush(); err != nil {
				return err
			}
			ack.Counts = ack.Counts[room:]
		}
		ack.Through, ack.Pending = of.progress.Through, of.progress.Pending
		part = append(part, ack)
		if n += len(ack.Counts) + 1; n >= maxKept {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// afterOf is how long after its entry's commit a count was heard first.
func (s *Service) afterOf(ctx context.Context, seq uint64, c unkeptCount, committed map[uint64]time.Time) (time.Duration, error) {
	if c.after > 0 {
		return c.after, nil
	}
	at, known := committed[seq]
	if !known {
		head, _ := s.store.Head()
		e, err := s.store.Entry(ctx, storage.Revision{Epoch: head.Epoch, Sequence: seq})
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return 0, fmt.Errorf("entry %d: %w", seq, err)
		}
		at = e.CommittedAt // zero where the entry is swept: so is the count
		committed[seq] = at
	}
	return max(c.at.Sub(at), time.Microsecond), nil
}

// keepOn writes acknowledgements, as long as there is something new, until ctx
// ends.
func (s *Service) keepOn(ctx context.Context) {
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.receipts.news:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(keepInterval):
		}
		err := s.keepAcknowledged(ctx, nil)
		if failed := err != nil; failed != failing && ctx.Err() == nil {
			failing = failed
			if failed {
				s.log.Error("acknowledgements can't be kept", "error", err)
			} else {
				s.log.Info("acknowledgements can be kept again")
			}
		}
	}
}
