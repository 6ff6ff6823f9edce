package boltstore

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/internal/record"
)

// useMinute is the minute until whose end a token's uses are kept: the one in which
// the token expires or, of a token that lives for long, the last of the 4, 16, 64 and
// so on that expire with it there. Tokens of many lives are redeemed side by side, and
// each place that a commit writes to costs it a page. So a use may outlive its token: by
// less than four times what the token has lived, or than a minute where that is more,
// and by maxUseSpan at most.
func useMinute(id storage.TokenID, issued time.Time) uint64 {
	minute := minuteOf(id)
	life := id.Expiry().Sub(issued) / time.Minute
	span := uint64(1)
	for span < maxUseSpan && life >= time.Duration(span) {
		span *= 4
	}
	return minute | (span - 1)
}

// maxUseSpan is in minutes: about eleven days.
const maxUseSpan = 1 << 14

// usesPerRecord is how many uses, or ended sessions, go into one value: four
// such values fill a page of 4 KiB to fillPercent.
const usesPerRecord = 18

func useKey(minute, number uint64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(make([]byte, 0, useKeyBytes), minute), number)
}

const useKeyBytes = 16

// keptUntil is the last millisecond for which the uses under a key are kept.
func keptUntil(k []byte) (int64, error) {
	if len(k) != useKeyBytes {
		return 0, fmt.Errorf("%w: key of a redemption: %x", storage.ErrCorrupt, k)
	}
	return int64(binary.BigEndian.Uint64(k)+1)*msPerMinute - 1, nil
}

func (g *group) writeUses() error {
	if len(g.uses) == 0 {
		return nil
	}
	slices.SortStableFunc(g.uses, func(a, b record.Redemption) int {
		return cmp.Compare(a.Minute, b.Minute)
	})
	b := g.tx.Bucket(usesBucket)
	b.FillPercent = fillPercent
	number := b.Sequence()
	for rest := g.uses; len(rest) > 0; {
		minute := rest[0].Minute
		n := 1
		for n < min(len(rest), usesPerRecord) && rest[n].Minute == minute {
			n++
		}
		value := record.AppendRedemptions(make([]byte, 0, record.RedemptionsSize(n)), rest[:n])
		if err := b.Put(useKey(minute, number), value); err != nil {
			return err
		}
		number += uint64(n)
		rest = rest[n:]
	}
	return b.SetSequence(number)
}

// rebuildUses tells the ledger of all uses that are not swept.
func (s *Store) rebuildUses(tx *bbolt.Tx, swept int64) error {
	load := func(v []byte) error { return record.Redemptions(v, s.ledger.LoadUse) }
	b := tx.Bucket(usesBucket)
	c := b.Cursor()
	for k, v := c.Seek(useKey(uint64(swept+1)/msPerMinute, 0)); k != nil; k, v = c.Next() {
		if v == nil { // of before format 3
			if err := eachOfSlot(b, k, load); err != nil {
				return err
			}
			continue
		}
		if _, err := keptUntil(k); err != nil {
			return err
		}
		if err := load(v); err != nil {
			return err
		}
	}
	return nil
}

// stepUses is how many tokens are taken from the ledger at once, and stepRecords how
// many records of uses from the file.
const (
	stepUses    = 1000
	stepRecords = 1000
)

// dropUses drops the oldest uses that are swept.
func (s *Store) dropUses(ctx context.Context, swept int64) (more bool, err error) {
	keys, used, err := s.overUses(ctx, swept)
	if err != nil || len(keys) == 0 {
		return false, err
	}
	err = s.do(ctx, &call{items: s.opts.GroupItems, sweep: true, decide: func(g *group) error {
		return g.deleteAll(usesBucket, keys)
	}})
	if err != nil {
		return false, err
	}
	for part := range slices.Chunk(used, stepUses) {
		s.ledger.Forget(part)
		time.Sleep(rest)
	}
	return len(keys) == stepRecords, nil
}

// overUses finds the oldest records of uses that are swept, and of which tokens they
// tell.
func (s *Store) overUses(ctx context.Context, swept int64) (keys [][]byte, used []storage.TokenID, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		c := tx.Bucket(usesBucket).Cursor()
		for k, v := c.First(); k != nil && len(keys) < stepRecords; k, v = c.Next() {
			kept, err := keptUntil(k)
			if err != nil {
				return err
			}
			if kept > swept {
				return nil
			}
			keys = append(keys, bytes.Clone(k))
			err = record.Redemptions(v, func(r record.Redemption) {
				used = append(used, r.Token)
				giveWay(len(used))
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	return keys, used, err
}

// Before format 3 each minute of uses had slots: buckets whose keys were its number
// times 2^16, and so above those of format 3, and the shard.

// eachOfSlot calls fn for each record of such a slot.
func eachOfSlot(b *bbolt.Bucket, k []byte, fn func(v []byte) error) error {
	slot := b.Bucket(k)
	if _, ok := numberOf(k); !ok || slot == nil {
		return fmt.Errorf("%w: slot %x of uses", storage.ErrCorrupt, k)
	}
	return slot.ForEach(func(_, v []byte) error { return fn(v) })
}

// lastSlot is the key of the last such slot, or nil.
func lastSlot(b *bbolt.Bucket) []byte {
	if k, v := b.Cursor().Last(); v == nil {
		return bytes.Clone(k)
	}
	return nil
}

// slotless takes uses out of their slots, of about stepRecords records, and reports whether
// there are more.
func slotless(tx *bbolt.Tx) (more bool, err error) {
	b := tx.Bucket(usesBucket)
	b.FillPercent = fillPercent
	for n := 0; n < stepRecords; {
		k := lastSlot(b)
		if k == nil {
			return false, nil
		}
		at, _ := numberOf(k)
		number := b.Sequence()
		err := eachOfSlot(b, k, func(v []byte) error {
			n++
			number += usesPerRecord // it has no more
			return b.Put(useKey(at>>16, number-usesPerRecord), bytes.Clone(v))
		})
		if err == nil {
			err = errors.Join(b.DeleteBucket(k), b.SetSequence(number))
		}
		if err != nil {
			return false, err
		}
	}
	return true, nil
}
