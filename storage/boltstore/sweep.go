package boltstore

import (
	"context"
	"fmt"
	"os"
	"time"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/internal/record"
)

// Sweep forgets what is over; see storage.Store.
//
// It first commits up to when tokens are swept: from then on nothing below can
// be stored, found or redeemed, whatever is still in the file. Then it drops
// whole slots of minutes that are over, some at a time, in as many transactions
// as it takes. What a crash leaves behind the next Sweep drops.
func (s *Store) Sweep(ctx context.Context, now time.Time, keep time.Duration) (storage.Swept, error) {
	s.sweeping.Lock()
	defer s.sweeping.Unlock()
	var done storage.Swept
	var err error
	if done.Tokens, err = s.sweepTokens(ctx, now.Add(-keep).UnixMilli()-1); err != nil {
		return done, err
	}
	if done.Sessions, err = s.sweepSessions(ctx, now); err != nil {
		return done, err
	}
	done.Entries, err = s.sweepLog(ctx, now)
	return done, err
}

func (s *Store) sweepTokens(ctx context.Context, upTo int64) (int, error) {
	n := 0
	if prior := s.ledger.Swept(); upTo > prior {
		err := s.do(ctx, &call{items: 1, sweep: true, decide: func(g *group) error {
			s.ledger.Sweep(upTo)
			return g.bucket(metaBucket, func(b *bbolt.Bucket) error { return b.Put(sweptKey, number(uint64(upTo))) })
		}})
		if err != nil {
			return 0, err
		}
		if n, err = s.countSwept(prior, upTo); err != nil {
			return 0, err
		}
		s.ledger.Gone(n)
	}
	swept := s.ledger.Swept()
	for {
		more, err := s.dropTokens(ctx, swept)
		if err != nil {
			return n, err
		}
		if !more {
			break
		}
	}
	for {
		more, err := s.dropUses(ctx, swept)
		if err != nil || !more {
			return n, err
		}
	}
}

// countSwept counts the tokens that expire after one Unix millisecond and not
// after another. It does so slot by slot, whatever the caller's context: what it
// counts is gone already.
func (s *Store) countSwept(after, upTo int64) (n int, err error) {
	var at []slot
	err = s.view(context.Background(), func(tx *bbolt.Tx) error {
		return eachSlot(tx.Bucket(tokensBucket), uint64(max(after, 0))/msPerMinute, func(x slot, b *bbolt.Bucket) error {
			began := x.ended() - msPerMinute + 1
			switch {
			case began > upTo:
				return errStop
			case after < began && x.ended() <= upTo:
				n += int(b.Sequence())
			default:
				at = append(at, x)
			}
			return nil
		})
	})
	for _, x := range at {
		if err != nil {
			break
		}
		err = s.view(context.Background(), func(tx *bbolt.Tx) error {
			if b := tx.Bucket(tokensBucket).Bucket(x.key()); b != nil {
				n += countKeys(b, after, upTo)
			}
			return nil
		})
	}
	return n, err
}

// stepSlots bounds how many slots one step drops, where they are small.
const stepSlots = 256

// overSlots finds slots whose minute is swept, of about one full slot in all.
func (s *Store) overSlots(ctx context.Context, bucket []byte, swept int64) (at []slot, more bool, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		items := 0
		return eachSlot(tx.Bucket(bucket), 0, func(x slot, b *bbolt.Bucket) error {
			if x.ended() > swept {
				return errStop
			}
			n := int(b.Sequence())
			if len(at) > 0 && (items+n > s.opts.slotTokens || len(at) == stepSlots) {
				more = true
				return errStop
			}
			items += n
			at = append(at, x)
			return nil
		})
	})
	return at, more, err
}

// dropSlots drops slots in a transaction of their own.
func (s *Store) dropSlots(ctx context.Context, bucket []byte, at []slot) error {
	return s.do(ctx, &call{items: s.opts.GroupItems, sweep: true, decide: func(g *group) error {
		g.pages += len(at)
		return g.bucket(bucket, func(b *bbolt.Bucket) error {
			for _, x := range at {
				if err := b.DeleteBucket(x.key()); err != nil {
					return fmt.Errorf("slot %x: %w", x.key(), err)
				}
			}
			return nil
		})
	}})
}

func (s *Store) dropTokens(ctx context.Context, swept int64) (more bool, err error) {
	at, more, err := s.overSlots(ctx, tokensBucket, swept)
	if err != nil || len(at) == 0 {
		return false, err
	}
	if err := s.dropSlots(ctx, tokensBucket, at); err != nil {
		return false, err
	}
	for _, x := range at {
		s.slots.forget(x)
	}
	return more, nil
}

// stepUses is how many uses are taken from the ledger at once.
const stepUses = 1000

func (s *Store) dropUses(ctx context.Context, swept int64) (more bool, err error) {
	at, more, err := s.overSlots(ctx, usesBucket, swept)
	if err != nil || len(at) == 0 {
		return false, err
	}
	var uses []record.Redemption
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		for _, x := range at {
			err := tx.Bucket(usesBucket).Bucket(x.key()).ForEach(func(_, v []byte) error {
				return record.Redemptions(v, func(r record.Redemption) { uses = append(uses, r) })
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	if err := s.dropSlots(ctx, usesBucket, at); err != nil {
		return false, err
	}
	for _, x := range at {
		s.slots.forgetUses(x.minute())
	}
	for len(uses) > 0 {
		n := min(stepUses, len(uses))
		s.ledger.Forget(uses[:n])
		uses = uses[n:]
	}
	return more, nil
}

func (s *Store) sweepSessions(ctx context.Context, now time.Time) (n int, err error) {
	for {
		var ids []storage.SessionID
		err := s.view(ctx, func(tx *bbolt.Tx) error {
			c := tx.Bucket(sessionsBucket).Cursor()
			for k, _ := c.First(); k != nil && len(ids) < stepSessions; k, _ = c.Next() {
				end, id, ok := sessionKeyOf(k)
				if !ok {
					return fmt.Errorf("%w: key of a session: %x", storage.ErrCorrupt, k)
				}
				if end.UnixMilli() >= now.UnixMilli() {
					break
				}
				ids = append(ids, id)
			}
			return nil
		})
		if err != nil || len(ids) == 0 {
			return n, err
		}
		ended, err := s.endSessions(ctx, ids, true)
		n += ended
		if err != nil {
			return n, err
		}
	}
}

// stepEntries is how many entries of the log one step drops.
const stepEntries = 1000

func (s *Store) sweepLog(ctx context.Context, now time.Time) (n int, err error) {
	for {
		var over []storage.Entry
		err := s.view(ctx, func(tx *bbolt.Tx) error {
			c := tx.Bucket(logBucket).Cursor()
			for k, v := c.First(); k != nil && len(over) < stepEntries; k, v = c.Next() {
				e, err := s.entryAt(k, v)
				if err != nil {
					return err
				}
				if e.KeepUntil.After(now) {
					break
				}
				over = append(over, e)
			}
			return nil
		})
		if err != nil || len(over) == 0 {
			return n, err
		}
		err = s.do(ctx, &call{items: len(over), sweep: true, decide: func(g *group) error {
			s.ledger.DropEntries(over)
			return g.bucket(logBucket, func(b *bbolt.Bucket) error {
				g.pages += len(over) / 8
				for i := range over {
					if err := b.Delete(number(over[i].Revision.Sequence)); err != nil {
						return err
					}
				}
				return nil
			})
		}})
		if err != nil {
			return n, err
		}
		n += len(over)
	}
}

// Stats tells the sizes of things; see storage.Store.
func (s *Store) Stats() storage.Stats {
	st := s.ledger.Stats()
	if info, err := os.Stat(s.path); err == nil {
		st.FileBytes = info.Size()
	}
	st.Groups, st.Grouped = s.groups.Load(), s.grouped.Load()
	return st
}
