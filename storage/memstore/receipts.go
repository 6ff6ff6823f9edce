package memstore

import (
	"bytes"
	"cmp"
	"context"
	"maps"
	"slices"

	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/internal/record"
)

// receipts is what receipts are made of. Store.mu guards it.
type receipts struct {
	acknowledged map[storage.InstanceID]storage.Progress
	departed     []storage.Departed // in the order of their removals
	counts       map[uint64]map[storage.InstanceID]storage.Closed
	size         int // of counts, in all
}

func newReceipts() receipts {
	return receipts{acknowledged: make(map[storage.InstanceID]storage.Progress), counts: make(map[uint64]map[storage.InstanceID]storage.Closed)}
}

// Acknowledge keeps acknowledgements; see storage.Store.
func (s *Store) Acknowledge(ctx context.Context, acks []storage.Acknowledgement) error {
	if err := storage.CheckAcknowledgements(acks); err != nil {
		return err
	}
	return s.write(ctx, func() error {
		r := &s.receipts
		for _, a := range acks {
			if _, ok := s.instances[a.Instance]; !ok {
				continue
			}
			if a.Through > 0 && a.Through >= r.acknowledged[a.Instance].Through {
				r.acknowledged[a.Instance] = a.Progress()
			}
			for _, c := range a.Counts {
				if _, err := s.entry(c.Sequence); err != nil || c.Closed == 0 {
					continue
				}
				kept, err := canonical(&c, record.EncodeClosed, func(b []byte) (storage.Closed, error) {
					return record.Closed(c.Sequence, b)
				})
				if err != nil {
					return err
				}
				r.put(a.Instance, kept)
			}
		}
		return nil
	})
}

func (r *receipts) put(id storage.InstanceID, c storage.Closed) {
	of := r.counts[c.Sequence]
	if of == nil {
		of = make(map[storage.InstanceID]storage.Closed)
		r.counts[c.Sequence] = of
	}
	if _, known := of[id]; !known {
		r.size++
	}
	of[id] = c
}

// dropped is the sequence through which the log was swept.
func (s *Store) dropped() uint64 {
	if len(s.log) > 0 {
		return s.log[0].Revision.Sequence - 1
	}
	head, _ := s.ledger.Head()
	return head.Sequence
}

// sweep forgets what belongs to entries through a sequence, and then the oldest
// of what is too many.
func (r *receipts) sweep(through uint64) {
	r.departed = slices.DeleteFunc(r.departed, func(d storage.Departed) bool { return d.Head <= through })
	if n := len(r.departed) - storage.MaxDeparted; n > 0 {
		r.departed = slices.Clone(r.departed[n:])
	}
	for _, seq := range slices.Sorted(maps.Keys(r.counts)) {
		if seq > through && r.size <= storage.MaxCounts {
			return
		}
		r.size -= len(r.counts[seq])
		delete(r.counts, seq)
	}
}

// Acknowledged tells what registered instances have enforced; see storage.Store.
func (s *Store) Acknowledged(ctx context.Context) (out map[storage.InstanceID]storage.Progress, err error) {
	err = s.read(ctx, func() error {
		out = maps.Clone(s.receipts.acknowledged)
		return nil
	})
	return out, err
}

// Departed returns departed instances; see storage.Store.
func (s *Store) Departed(ctx context.Context, sequence uint64) (out []storage.Departed, err error) {
	err = s.read(ctx, func() error {
		for _, d := range s.receipts.departed {
			if d.Registered < sequence && sequence <= d.Head {
				out = append(out, d)
			}
		}
		slices.SortFunc(out, func(a, b storage.Departed) int {
			return cmp.Or(cmp.Compare(a.Head, b.Head), bytes.Compare(a.ID[:], b.ID[:]))
		})
		return nil
	})
	return out, err
}

// Counts returns what an entry closed; see storage.Store.
func (s *Store) Counts(ctx context.Context, sequence uint64) (out map[storage.InstanceID]storage.Closed, err error) {
	err = s.read(ctx, func() error {
		out = maps.Clone(s.receipts.counts[sequence])
		return nil
	})
	return out, err
}
