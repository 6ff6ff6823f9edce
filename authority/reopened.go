package authority

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/gatehouse-ws/gatehouse/storage"
)

const (
	// maxReopened is how many receipts are reopened at the start, the newest that
	// are incomplete.
	maxReopened = 1000
	// maxRead is how many entries of the log's end are looked at for them.
	maxRead = 100_000
	// reopenWithin is how long the start waits for them: with each come the
	// instances that have departed since.
	reopenWithin = 2 * time.Second
)

// reopen keeps in memory, as if this process had opened them, the receipts that
// still wait for registered instances. Those beyond the bounds can be asked for
// and watched too, of what the store has; the audit trail does not tell of their
// completion. Nobody is served yet.
func (s *Service) reopen(ctx context.Context, head storage.Revision) error {
	entries, more, err := s.unacknowledged(ctx, head)
	if err != nil {
		return err
	}
	began, left := time.Now(), more
	for n := len(entries) - 1; n >= 0; n-- {
		if s.receipts.rows >= maxReceiptRows/2 || time.Since(began) > reopenWithin {
			left = true
			break
		}
		e := &entries[n]
		rows, _, err := s.storedRows(ctx, e)
		if err != nil {
			return fmt.Errorf("entry %d: %w", e.Revision.Sequence, err)
		}
		s.receipts.reopen(e, rows)
	}
	if left {
		s.log.Warn("not all receipts that wait for nodes could be reopened: those of older entries complete without a ReceiptComplete in the audit trail",
			"reopened", len(s.receipts.kept))
	}
	return nil
}

// unacknowledged are the newest entries that an instance lacks which was
// registered at their commit; more says that there may be older ones.
func (s *Service) unacknowledged(ctx context.Context, head storage.Revision) (out []storage.Entry, more bool, err error) {
	low, pending := s.receipts.missing(head.Sequence)
	if low+maxRead < head.Sequence {
		low, more = head.Sequence-maxRead, true
	}
	keep := func(e storage.Entry) {
		if e.Kind != storage.Revoke && e.Kind != storage.SetLock {
			return // it has no receipt
		}
		if len(out) == 2*maxReopened {
			out, more = slices.Delete(out, 0, maxReopened), true
		}
		out = append(out, e)
	}
	for _, seq := range pending {
		if seq > low {
			break // it comes below
		}
		switch e, err := s.store.Entry(ctx, storage.Revision{Epoch: head.Epoch, Sequence: seq}); {
		case err == nil:
			keep(e)
		case !errors.Is(err, storage.ErrNotFound): // else it is swept
			return nil, false, fmt.Errorf("entry %d: %w", seq, err)
		}
	}
	for after := (storage.Revision{Epoch: head.Epoch, Sequence: low}); after.Sequence < head.Sequence; {
		page, err := s.store.Entries(ctx, after, maxReopened)
		if err != nil {
			return nil, false, fmt.Errorf("entries above %d: %w", after.Sequence, err)
		}
		if len(page) == 0 {
			break
		}
		for i := range page {
			keep(page[i])
		}
		after = page[len(page)-1].Revision
	}
	if n := len(out) - maxReopened; n > 0 {
		out, more = out[n:], true
	}
	return out, more, nil
}

// missing is the sequence above which a registered instance has enforced nothing
// that it has to, and the sequences for whose grace instances wait, rising.
func (r *receipts) missing(head uint64) (low uint64, pending []uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	low = head
	for _, i := range r.fleet.snapshot() {
		p := r.applied[i.ID]
		low = min(low, max(p.Through, i.Registered))
		pending = append(pending, p.Pending...)
	}
	slices.Sort(pending)
	return low, slices.Compact(pending)
}

// reopen keeps the receipt of an entry with rows of the store, if it waits for
// anybody.
func (r *receipts) reopen(e *storage.Entry, rows map[storage.InstanceID]*receiptRow) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rc := &receipt{sequence: e.Revision.Sequence, committed: e.CommittedAt, grace: e.Grace > 0, rows: rows}
	for _, row := range rows {
		if !row.done {
			rc.waiting++
		}
	}
	if at, kept := r.find(rc.sequence); !kept && rc.waiting > 0 {
		r.keep(rc, at)
	}
}
