package boltstore

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
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

// useSlotBits is what lies below the minute in the key of a slot: before format 3 the
// records of a minute lay in buckets, which are read and dropped as they are. They lie
// above all minutes, from firstUseSlot on, but for those of early 1970.
const (
	useSlotBits  = 16
	firstUseSlot = 1 << 33
)

// keptUntil is the last millisecond for which the uses under a key are kept.
func keptUntil(k, v []byte) (int64, error) {
	minute := uint64(firstUseSlot)
	switch {
	case v != nil && len(k) == useKeyBytes:
		minute = binary.BigEndian.Uint64(k)
	case v == nil && len(k) == 8:
		minute = binary.BigEndian.Uint64(k) >> useSlotBits
	}
	if minute >= firstUseSlot {
		return 0, fmt.Errorf("%w: key of redemptions: %x", storage.ErrCorrupt, k)
	}
	return int64(minute+1)*msPerMinute - 1, nil
}

// eachUse calls each for the uses under a key, in the order of their commits.
func eachUse(b *bbolt.Bucket, k, v []byte, each func(record.Redemption)) error {
	if v != nil {
		return record.Redemptions(v, each)
	}
	return b.Bucket(k).ForEach(func(_, v []byte) error { return record.Redemptions(v, each) })
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

// rebuildUses tells the ledger of all uses that are not swept, those of slots first:
// they are older than others of the same token.
func (s *Store) rebuildUses(tx *bbolt.Tx, swept int64) error {
	b := tx.Bucket(usesBucket)
	for _, from := range [][]byte{number(firstUseSlot), useKey(uint64(swept+1)/msPerMinute, 0)} {
		c := b.Cursor()
		for k, v := c.Seek(from); k != nil; k, v = c.Next() {
			if len(from) == useKeyBytes && bytes.Compare(k, number(firstUseSlot)) >= 0 {
				break
			}
			kept, err := keptUntil(k, v)
			if err == nil && kept > swept {
				err = eachUse(b, k, v, s.ledger.LoadUse)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// dropUses drops the oldest uses that are swept.
func (s *Store) dropUses(ctx context.Context, swept int64) (more bool, err error) {
	keys, used, err := s.overUses(ctx, swept)
	if err != nil || len(keys) == 0 {
		return false, err
	}
	err = s.do(ctx, &call{items: s.opts.GroupItems, sweep: true, decide: func(g *group) error {
		g.pages += len(keys) / 4
		return g.bucket(usesBucket, func(b *bbolt.Bucket) error {
			for _, k := range keys {
				remove := b.Delete
				if len(k) != useKeyBytes {
					remove = b.DeleteBucket
				}
				if err := remove(k); err != nil {
					return err
				}
			}
			return nil
		})
	}})
	if err != nil {
		return false, err
	}
	for part := range slices.Chunk(used, stepUses) {
		s.ledger.Forget(part)
		time.Sleep(rest)
	}
	return true, nil
}

// stepUses is how many tokens are taken from the ledger at once.
const stepUses = 1000

// overUses finds the keys of the oldest uses that are swept, and of which tokens those
// are: useRecords of them, or a slot.
func (s *Store) overUses(ctx context.Context, swept int64) (keys [][]byte, used []storage.TokenID, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		b := tx.Bucket(usesBucket)
		c := b.Cursor()
		for k, v := c.First(); k != nil && len(keys) < s.opts.useRecords; {
			kept, err := keptUntil(k, v)
			if err != nil {
				return err
			}
			slot := v == nil
			switch {
			case kept <= swept:
				keys = append(keys, bytes.Clone(k))
				err := eachUse(b, k, v, func(r record.Redemption) {
					used = append(used, r.Token)
					giveWay(len(used))
				})
				if err != nil || slot {
					return err
				}
				k, v = c.Next()
			case slot:
				return nil
			default:
				k, v = c.Seek(number(firstUseSlot))
			}
		}
		return nil
	})
	return keys, used, err
}
