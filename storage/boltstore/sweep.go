package boltstore

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"time"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/internal/ledger"
)

// Sweep forgets what is over; see storage.Store.
//
// It first commits up to when tokens are swept, unless that is nothing new: from then on nothing below can
// be stored, found or redeemed, whatever is still in the file. Then it drops
// whole slots of minutes that are over, some at a time, in as many transactions
// as it takes. What a crash leaves behind the next Sweep drops.
func (s *Store) Sweep(ctx context.Context, now time.Time, keep time.Duration) (storage.Swept, error) {
	s.sweeping.Lock()
	defer s.sweeping.Unlock()
	var done storage.Swept
	err := s.Err()
	if err != nil {
		return done, err
	}
	if done.Tokens, err = s.sweepTokens(ctx, now.Add(-keep).UnixMilli()-1); err != nil {
		return done, err
	}
	if done.Sessions, err = s.sweepSessions(ctx, now); err != nil {
		return done, err
	}
	if err := s.purgeEnded(ctx); err != nil {
		return done, err
	}
	if done.Entries, err = s.sweepLog(ctx, now); err != nil {
		return done, err
	}
	n, err := s.sweepBriefs(ctx, now)
	if done.Entries += n; err != nil {
		return done, err
	}
	return done, s.sweepReceipts(ctx)
}

func (s *Store) sweepTokens(ctx context.Context, upTo int64) (int, error) {
	n := 0
	prior := s.ledger.Swept()
	latest, err := s.latestToken(ctx, prior, upTo)
	if err != nil {
		return 0, err
	}
	if upTo = ledger.SweepTo(prior, upTo, latest); upTo > prior {
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
	s.fresh.sweep(swept)
	s.slots.forgetSwept(swept)
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

// latestToken is the latest expiry of a token above prior and up to upTo, or
// prior.
func (s *Store) latestToken(ctx context.Context, prior, upTo int64) (latest int64, err error) {
	latest = prior
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		all := tx.Bucket(tokensBucket)
		slots := all.Cursor()
		last := firstID(upTo + 1)
		k, _ := slots.Seek(slotOf(minuteOf(last)+1, oneMinute, 0).key())
		if k == nil {
			k, _ = slots.Last()
		} else {
			k, _ = slots.Prev()
		}
		for ; k != nil; k, _ = slots.Prev() {
			at, b, err := slotAt(all, k)
			switch {
			case err != nil:
				return err
			case at.began()+int64(longest.minutes())*msPerMinute <= latest:
				return nil // so do all before it
			case at.ended() <= latest:
				continue
			}
			if id := lastBefore(b, last); id != nil {
				latest = max(latest, storage.TokenID(id).Expiry().UnixMilli())
			}
		}
		return nil
	})
	return latest, err
}

// lastBefore is the last key of a slot below an id, or nil.
func lastBefore(b *bbolt.Bucket, id storage.TokenID) []byte {
	c := b.Cursor()
	k, _ := c.Seek(id[:])
	if k == nil {
		k, _ = c.Last()
	} else {
		k, _ = c.Prev()
	}
	if len(k) != len(id) {
		return nil
	}
	return k
}

// countSwept counts the tokens that expire after one Unix millisecond and not
// after another. It does so slot by slot, whatever the caller's context: what it
// counts is gone already.
func (s *Store) countSwept(after, upTo int64) (n int, err error) {
	var at []slot
	err = s.view(context.Background(), func(tx *bbolt.Tx) error {
		return eachSlot(tx.Bucket(tokensBucket), after+1, func(x slot, b *bbolt.Bucket) error {
			switch {
			case x.began() > upTo:
				return errStop
			case after < x.began() && x.ended() <= upTo:
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
				for range between(b, after, upTo) {
					n++
					giveWay(n)
				}
			}
			return nil
		})
	}
	return n, err
}

// giveWay rests after every so many steps of something long. Where there is one
// processor, the runtime looks for what has come in from the network only when
// nothing else can run, or every 10 ms: to yield is not enough.
func giveWay(n int) {
	if n%1024 == 0 {
		time.Sleep(rest)
	}
}

// rest is about as long as 1,024 steps take. Where nothing else wants to run, the
// runtime makes a millisecond of it.
const rest = 50 * time.Microsecond

// stepSlots bounds how many slots one step drops, where they are small.
const stepSlots = 256

// isOver reports whether all tokens of a slot are swept.
func isOver(x slot, b *bbolt.Bucket, swept int64) bool {
	if x.ended() <= swept {
		return true
	}
	k, _ := b.Cursor().Last()
	return len(k) == len(storage.TokenID{}) && storage.TokenID(k).Expiry().UnixMilli() <= swept
}

// overSlots finds slots that are over, of about one full slot in all.
func (s *Store) overSlots(ctx context.Context, swept int64) (at []slot, more bool, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		items := 0
		return eachSlot(tx.Bucket(tokensBucket), 0, func(x slot, b *bbolt.Bucket) error {
			switch {
			case x.began() > swept:
				return errStop
			case !isOver(x, b, swept):
				return nil
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

// dropSlots drops slots in a transaction of their own, but for those to which tokens
// have come since.
func (s *Store) dropSlots(ctx context.Context, at []slot, swept int64) error {
	return s.do(ctx, &call{items: s.opts.GroupItems, sweep: true, decide: func(g *group) error {
		g.pages += len(at)
		return g.bucket(tokensBucket, func(all *bbolt.Bucket) error {
			for _, x := range at {
				if b := all.Bucket(x.key()); b == nil || !isOver(x, b, swept) {
					continue
				}
				if err := all.DeleteBucket(x.key()); err != nil {
					return fmt.Errorf("slot %x: %w", x.key(), err)
				}
				s.slots.forget(x) // before the group's tokens come to it
			}
			return nil
		})
	}})
}

// touchSlots has the system read the pages of slots of tokens. To drop a slot is to
// look at each of its pages: where they are not in memory, as after a start, the
// writers must not wait for the disk as often.
func (s *Store) touchSlots(ctx context.Context, at []slot) error {
	return s.view(ctx, func(tx *bbolt.Tx) error {
		for _, x := range at {
			if b := tx.Bucket(tokensBucket).Bucket(x.key()); b != nil {
				n := 0
				if err := b.ForEach(func(_, _ []byte) error { n++; giveWay(n); return nil }); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func (s *Store) dropTokens(ctx context.Context, swept int64) (more bool, err error) {
	at, more, err := s.overSlots(ctx, swept)
	if err != nil || len(at) == 0 {
		return false, err
	}
	if err := s.touchSlots(ctx, at); err != nil {
		return false, err
	}
	return more, s.dropSlots(ctx, at, swept)
}

// sweepSessions ends the sessions whose time is over and takes out their
// records, and with them those of sessions that had ended before.
func (s *Store) sweepSessions(ctx context.Context, now time.Time) (n int, err error) {
	for {
		var keys [][]byte
		var ids []storage.SessionID
		err := s.view(ctx, func(tx *bbolt.Tx) error {
			c := tx.Bucket(sessionsBucket).Cursor()
			for k, v := c.First(); k != nil && len(ids) < stepSessions; k, v = c.Next() {
				end, err := endOf(k)
				if err != nil {
					return err
				}
				if end.UnixMilli() >= now.UnixMilli() {
					break
				}
				keys = append(keys, bytes.Clone(k))
				err = eachSession(k, v, func(x *storage.Session) bool {
					ids = append(ids, x.ID)
					return true
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil || len(keys) == 0 {
			return n, err
		}
		ended := 0
		err = s.do(ctx, &call{items: len(ids), sweep: true, decide: func(g *group) error {
			ended = len(s.ledger.EndSessions(ids, now.UnixMilli(), nil))
			return g.deleteAll(sessionsBucket, keys)
		}})
		if err != nil {
			return n, err
		}
		n += ended
	}
}

// deleteAll deletes keys that lie side by side.
func (g *group) deleteAll(bucket []byte, keys [][]byte) error {
	g.pages += len(keys) / 4
	return g.bucket(bucket, func(b *bbolt.Bucket) error {
		for _, k := range keys {
			if err := b.Delete(k); err != nil {
				return err
			}
		}
		return nil
	})
}

// stepEntries is how many entries of the log one step drops.
const stepEntries = 1000

// dropEntries drops entries of the log, but for those that a sweep which was
// cancelled has dropped before.
func (g *group) dropEntries(over []storage.Entry, keys [][]byte) error {
	log := g.tx.Bucket(logBucket)
	var there []storage.Entry
	for i := range over {
		if log.Get(keys[i]) != nil {
			there = append(there, over[i])
		}
	}
	g.store.ledger.DropEntries(there)
	return g.deleteAll(logBucket, keys)
}

func (s *Store) sweepLog(ctx context.Context, now time.Time) (n int, err error) {
	for {
		var over []storage.Entry
		var keys [][]byte
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
				keys = append(keys, bytes.Clone(k))
			}
			return nil
		})
		if err != nil || len(over) == 0 {
			return n, err
		}
		err = s.do(ctx, &call{items: len(over), sweep: true, decide: func(g *group) error {
			return g.dropEntries(over, keys)
		}})
		if err != nil {
			return n, err
		}
		n += len(over)
	}
}

// sweepBriefs drops entries that need not wait for those before them.
func (s *Store) sweepBriefs(ctx context.Context, now time.Time) (n int, err error) {
	for {
		sequences := s.ledger.Brief(now.UnixMilli(), stepEntries)
		if len(sequences) == 0 {
			return n, nil
		}
		over := make([]storage.Entry, len(sequences))
		keys := make([][]byte, len(sequences))
		for i, seq := range sequences {
			over[i] = storage.Entry{Revision: storage.Revision{Epoch: s.epoch, Sequence: seq}, Kind: storage.Replace}
			keys[i] = number(seq)
		}
		err := s.do(ctx, &call{items: len(over), sweep: true, decide: func(g *group) error {
			g.pages += len(keys) // they lie apart
			return g.dropEntries(over, keys)
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
	st.Groups, st.Grouped, st.Queued = s.groups.Load(), s.grouped.Load(), len(s.queue)
	s.commits.read(&st)
	return st
}
