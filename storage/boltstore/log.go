package boltstore

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/internal/record"
)

// Append adds an entry to the log; see storage.Store.
func (s *Store) Append(ctx context.Context, e storage.Entry) (storage.Entry, error) {
	var entry storage.Entry
	err := s.do(ctx, &call{items: 1, urgent: true, decide: func(g *group) error {
		got, added, err := s.ledger.Append(e, g)
		if err != nil {
			return err
		}
		entry = got
		if !added {
			return nil
		}
		return g.addEntry(&entry)
	}})
	if err != nil {
		return storage.Entry{}, err
	}
	return entry, nil
}

// addEntry gathers an entry of the log, and writes what it does to a lock.
func (g *group) addEntry(e *storage.Entry) error {
	v, err := record.EncodeEntry(e)
	if err != nil {
		return fmt.Errorf("encode log entry: %w", err)
	}
	var lock []byte
	if e.Kind == storage.SetLock {
		if lock, err = record.EncodeLock(lockOf(e)); err != nil {
			return fmt.Errorf("encode lock: %w", err)
		}
	}
	g.entries = append(g.entries, keyed{number(e.Revision.Sequence), v})
	if e.Kind == storage.Revoke || e.Kind == storage.Replace {
		return nil
	}
	return g.bucket(locksBucket, func(b *bbolt.Bucket) error {
		if e.Kind == storage.SetLock {
			return b.Put(e.Lock[:], lock)
		}
		return b.Delete(e.Lock[:])
	})
}

// writeEntries writes the group's entries, whose sequences rise.
func (g *group) writeEntries() error {
	if len(g.entries) == 0 {
		return nil
	}
	b := g.tx.Bucket(logBucket)
	b.FillPercent = fillPercent
	for i := range g.entries {
		if err := b.Put(g.entries[i].key, g.entries[i].value); err != nil {
			return err
		}
	}
	last, _ := numberOf(g.entries[len(g.entries)-1].key)
	return b.SetSequence(last)
}

// lockOf is the lock that an entry sets.
func lockOf(e *storage.Entry) *storage.Lock {
	return &storage.Lock{
		ID:          e.Lock,
		Selector:    e.Selector,
		Reason:      e.Reason,
		Actor:       e.Actor,
		CommittedAt: e.CommittedAt,
		Revision:    e.Revision,
	}
}

// Entries returns entries above a revision; see storage.Store.
func (s *Store) Entries(ctx context.Context, after storage.Revision, limit int) ([]storage.Entry, error) {
	if after.Epoch != s.epoch {
		after.Sequence = 0
	}
	var out []storage.Entry
	err := s.view(ctx, func(tx *bbolt.Tx) error {
		c := tx.Bucket(logBucket).Cursor()
		k, v := c.Seek(number(after.Sequence))
		if n, _ := numberOf(k); k != nil && n == after.Sequence {
			k, v = c.Next()
		}
		for ; k != nil && len(out) < limit; k, v = c.Next() {
			e, err := s.entryAt(k, v)
			if err != nil {
				return err
			}
			out = append(out, e)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Entry finds one entry; see storage.Store.
func (s *Store) Entry(ctx context.Context, r storage.Revision) (storage.Entry, error) {
	if r.Epoch != s.epoch {
		return storage.Entry{}, storage.ErrNotFound
	}
	var e storage.Entry
	err := s.view(ctx, func(tx *bbolt.Tx) (err error) {
		k := number(r.Sequence)
		v := tx.Bucket(logBucket).Get(k)
		if v == nil {
			return storage.ErrNotFound
		}
		e, err = s.entryAt(k, v)
		return err
	})
	return e, err
}

// Requested finds an entry by its request id; see storage.Store.
func (s *Store) Requested(id string) (storage.Revision, bool) { return s.ledger.Requested(id) }

// Locks returns the standing locks; see storage.Store.
func (s *Store) Locks(ctx context.Context) (out []storage.Lock, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) (err error) {
		out, err = s.locks(tx)
		return err
	})
	return out, err
}

func (s *Store) locks(tx *bbolt.Tx) ([]storage.Lock, error) {
	var out []storage.Lock
	err := tx.Bucket(locksBucket).ForEach(func(k, v []byte) error {
		if len(k) != len(storage.LockID{}) {
			return fmt.Errorf("%w: key of a lock: %x", storage.ErrCorrupt, k)
		}
		l, err := record.Lock(s.epoch, storage.LockID(k), v)
		if err != nil {
			return err
		}
		out = append(out, l)
		return nil
	})
	slices.SortFunc(out, func(a, b storage.Lock) int {
		return cmp.Compare(a.Revision.Sequence, b.Revision.Sequence)
	})
	return out, err
}

// Head is the revision of the last entry; see storage.Store.
func (s *Store) Head() (storage.Revision, <-chan struct{}) { return s.ledger.Head() }
