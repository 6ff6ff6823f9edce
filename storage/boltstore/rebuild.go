package boltstore

import (
	"bytes"
	"errors"
	"fmt"
	"iter"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/internal/ledger"
	"github.com/gatehouse-ws/gatehouse/storage/internal/record"
)

// rebuild fills the ledger and the slots from the file. It reads no token: of
// those it wants their number and their slots.
func (s *Store) rebuild() error {
	err := guard(func() error {
		return s.db().View(func(tx *bbolt.Tx) error {
			s.db().visible.Store(uint64(tx.ID()))
			s.room.used = tx.Size()
			s.pageSize = s.db().Info().PageSize
			meta := tx.Bucket(metaBucket)
			epoch, _ := numberOf(meta.Get(epochKey))
			swept, _ := numberOf(meta.Get(sweptKey))
			s.system = systemOf(tx)
			s.epoch, s.ledger, s.slots = epoch, ledger.New(epoch), newSlots()
			tokens, err := s.rebuildSlots(tx, int64(swept))
			if err != nil {
				return err
			}
			s.ledger.LoadHead(tx.Bucket(logBucket).Sequence(), int64(swept), tokens)
			return errors.Join(
				s.rebuildUses(tx, int64(swept)),
				s.rebuildSessions(tx),
				s.rebuildLog(tx),
				s.rebuildLocks(tx),
				s.rebuildInstances(tx),
			)
		})
	})
	return describe(s.path, err)
}

func (s *Store) rebuildSlots(tx *bbolt.Tx, swept int64) (tokens int, err error) {
	all := tx.Bucket(tokensBucket)
	err = eachSlot(all, swept+1, func(at slot, b *bbolt.Bucket) error { // the next Sweep drops the others
		c := b.Cursor()
		lo, _ := c.First()
		hi, _ := c.Last()
		if lo == nil {
			return nil
		}
		if len(lo) != len(storage.TokenID{}) || len(hi) != len(lo) {
			return fmt.Errorf("%w: key of a token in slot %x", storage.ErrCorrupt, at.key())
		}
		s.slots.extend(at, prefixOf(storage.TokenID(lo)), prefixOf(storage.TokenID(hi)), int(b.Sequence()))
		tokens += int(b.Sequence())
		if at.began() <= swept {
			for range between(b, -1, swept) {
				tokens--
			}
		}
		return nil
	})
	return tokens, err
}

// between yields the ids in a slot of tokens that expire after one Unix millisecond
// and not after another.
func between(b *bbolt.Bucket, after, upTo int64) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		from, end := firstID(after+1), firstID(upTo+1)
		c := b.Cursor()
		for k, _ := c.Seek(from[:]); k != nil && bytes.Compare(k, end[:]) < 0 && yield(k); k, _ = c.Next() {
		}
	}
}

// errStop ends eachSlot early, without an error.
var errStop = errors.New("stop")

// eachSlot calls fn for the slots that do not end before a Unix millisecond, in the
// order of their first minutes.
func eachSlot(all *bbolt.Bucket, from int64, fn func(slot, *bbolt.Bucket) error) error {
	c := all.Cursor()
	first := slotOf(uint64(max(from, 0))/msPerMinute, longest, 0).minute()
	for k, _ := c.Seek(slotOf(first, oneMinute, 0).key()); k != nil; k, _ = c.Next() {
		at, b, err := slotAt(all, k)
		if err != nil {
			return err
		}
		if at.ended() < from {
			continue
		}
		switch err := fn(at, b); {
		case err == errStop:
			return nil
		case err != nil:
			return err
		}
	}
	return nil
}

// slotAt is the slot that a key of a bucket of slots names.
func slotAt(all *bbolt.Bucket, k []byte) (slot, *bbolt.Bucket, error) {
	n, ok := numberOf(k)
	b := all.Bucket(k)
	at := slot(n)
	if !ok || b == nil || at.stretch() > longest || slotOf(at.minute(), at.stretch(), at.shard()) != at {
		return 0, nil, fmt.Errorf("%w: slot %x", storage.ErrCorrupt, k)
	}
	return at, b, nil
}

func (s *Store) rebuildSessions(tx *bbolt.Tx) error {
	ended, err := rebuildEnded(tx)
	if err != nil {
		return err
	}
	err = tx.Bucket(sessionsBucket).ForEach(func(k, v []byte) error {
		var known error
		err := eachSession(k, v, func(x *storage.Session) bool {
			if !ended[grantedOf(x)] {
				known = s.ledger.LoadSession(x)
			}
			return known == nil
		})
		if err != nil {
			return err
		}
		return known
	})
	s.ledger.LoadLines()
	return err
}

func (s *Store) rebuildLog(tx *bbolt.Tx) error {
	head := tx.Bucket(logBucket).Sequence()
	return tx.Bucket(logBucket).ForEach(func(k, v []byte) error {
		e, err := s.entryAt(k, v)
		if err != nil {
			return err
		}
		if e.Revision.Sequence > head {
			return fmt.Errorf("%w: log entry %d lies above its head %d", storage.ErrCorrupt, e.Revision.Sequence, head)
		}
		s.ledger.LoadEntry(&e)
		return nil
	})
}

func (s *Store) entryAt(k, v []byte) (storage.Entry, error) {
	seq, ok := numberOf(k)
	if !ok {
		return storage.Entry{}, fmt.Errorf("%w: key of a log entry: %x", storage.ErrCorrupt, k)
	}
	return record.Entry(storage.Revision{Epoch: s.epoch, Sequence: seq}, v)
}

func (s *Store) rebuildLocks(tx *bbolt.Tx) error {
	locks, err := s.locks(tx)
	for i := range locks {
		s.ledger.LoadLock(&locks[i])
	}
	return err
}

func (s *Store) rebuildInstances(tx *bbolt.Tx) error {
	return tx.Bucket(instancesBucket).ForEach(func(k, _ []byte) error {
		if len(k) != len(storage.InstanceID{}) {
			return fmt.Errorf("%w: key of a node instance: %x", storage.ErrCorrupt, k)
		}
		s.ledger.LoadInstance(storage.InstanceID(k))
		return nil
	})
}
