package boltstore

import (
	"bytes"
	"context"
	"slices"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/internal/record"
)

// stepPurge is how many records of ended sessions one step takes out. They are
// less dense than what other steps delete.
const stepPurge = 500

// purgeEnded takes out the records of sessions that have ended before their
// time, in the order of their keys, once they are at least half of all: then a
// page that is written anew loses several records, not one.
func (s *Store) purgeEnded(ctx context.Context) error {
	ended, keys, err := s.endedSessions(ctx)
	if err != nil {
		return err
	}
	for len(ended) > 0 {
		n := min(stepPurge, len(ended))
		if err := s.purge(ctx, ended[:n]); err != nil {
			return err
		}
		ended = ended[n:]
	}
	for len(keys) > 0 {
		n := min(stepEntries, len(keys))
		err := s.do(ctx, &call{items: n, sweep: true, decide: func(g *group) error {
			return g.deleteAll(endedBucket, keys[:n])
		}})
		if err != nil {
			return err
		}
		keys = keys[n:]
	}
	return nil
}

// endedSessions finds the sessions to purge, in the order of their keys, and
// the keys under which they were noted; none as long as they are few.
func (s *Store) endedSessions(ctx context.Context) (ended []record.Ended, keys [][]byte, err error) {
	live := s.ledger.Stats().Sessions
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		b := tx.Bucket(endedBucket)
		first, _ := b.Cursor().First()
		from, ok := numberOf(first)
		if !ok || int(b.Sequence()-from) < max(s.opts.purgeMin, live) {
			return nil
		}
		return b.ForEach(func(k, v []byte) error {
			keys = append(keys, bytes.Clone(k))
			return record.EndedSessions(v, func(e record.Ended) { ended = append(ended, e) })
		})
	})
	slices.SortFunc(ended, func(a, b record.Ended) int {
		return a.Key.ExpiresAt.Compare(b.Key.ExpiresAt)
	})
	return ended, keys, err
}

// granted names a session for good: ids are drawn again.
type granted struct {
	end   int64 // Unix milliseconds
	id    storage.SessionID
	token storage.TokenID
}

func grantedOf(x *storage.Session) granted {
	return granted{x.ExpiresAt.UnixMilli(), x.ID, x.Token}
}

func grantedEnded(e record.Ended) granted {
	return granted{e.Key.ExpiresAt.UnixMilli(), e.Key.ID, e.Token}
}

// purge takes sessions out of their records, and out of the file the records of
// which nothing is left.
func (s *Store) purge(ctx context.Context, ended []record.Ended) error {
	over := make(map[granted]bool, len(ended))
	for _, e := range ended {
		over[grantedEnded(e)] = true
	}
	return s.do(ctx, &call{items: len(ended), sweep: true, decide: func(g *group) error {
		var keys, values [][]byte // a nil value for a record of which nothing is left
		c := g.tx.Bucket(sessionsBucket).Cursor()
		for i := range ended {
			if i > 0 && ended[i].Key.ExpiresAt.Equal(ended[i-1].Key.ExpiresAt) {
				continue
			}
			end := endKey(ended[i].Key.ExpiresAt)
			for k, v := c.Seek(end[:]); bytes.HasPrefix(k, end[:]); k, v = c.Next() {
				kept, changed, err := without(k, v, over)
				if err != nil {
					return err
				}
				if changed {
					keys, values = append(keys, bytes.Clone(k)), append(values, kept)
				}
			}
		}
		g.pages += len(keys)
		return g.bucket(sessionsBucket, func(b *bbolt.Bucket) error {
			for i, k := range keys {
				if values[i] != nil {
					if err := b.Put(k, values[i]); err != nil {
						return err
					}
				} else if err := b.Delete(k); err != nil {
					return err
				}
			}
			return nil
		})
	}})
}

// without makes a record anew without sessions that are over.
func without(k, v []byte, over map[granted]bool) (kept []byte, changed bool, err error) {
	all, err := sessionsOf(k, v)
	if err != nil {
		return nil, false, err
	}
	live := slices.DeleteFunc(slices.Clone(all), func(x storage.Session) bool {
		return over[grantedOf(&x)]
	})
	if len(live) > 0 {
		kept = record.AppendAsOf(record.AppendSessions(nil, live), live[0].AsOf)
	}
	return kept, len(live) < len(all), nil
}

// rebuildEnded finds the sessions that have ended.
func rebuildEnded(tx *bbolt.Tx) (map[granted]bool, error) {
	ended := make(map[granted]bool)
	err := tx.Bucket(endedBucket).ForEach(func(_, v []byte) error {
		return record.EndedSessions(v, func(e record.Ended) { ended[grantedEnded(e)] = true })
	})
	return ended, err
}
