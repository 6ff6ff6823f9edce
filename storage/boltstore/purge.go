package boltstore

import (
	"bytes"
	"context"
	"slices"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/internal/record"
)

// stepPurge is about how many ended sessions one step takes out of their records.
// They are less dense than what other steps delete.
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
		for n < len(ended) && ended[n].Key.ExpiresAt.Equal(ended[n-1].Key.ExpiresAt) {
			n++ // their records are looked through once
		}
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
// which nothing is left. It is given all that end together, in the order of their
// ends.
func (s *Store) purge(ctx context.Context, ended []record.Ended) error {
	over := make(map[granted]bool, len(ended))
	for _, e := range ended {
		over[grantedEnded(e)] = true
	}
	var from []byte
	for {
		keys, n, err := s.holding(ctx, ended, over, from)
		if err != nil || len(keys) == 0 {
			return err
		}
		err = s.do(ctx, &call{items: n, sweep: true, decide: func(g *group) error { return g.purge(keys, over) }})
		if err != nil {
			return err
		}
		from = append(keys[len(keys)-1], 0)
	}
}

// holding finds the records of one step from a key on: those that hold some that
// are over, and how many. Most that end with them hold none, and to read those is
// not for the committer.
func (s *Store) holding(ctx context.Context, ended []record.Ended, over map[granted]bool, from []byte) (keys [][]byte, n int, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		c := tx.Bucket(sessionsBucket).Cursor()
		for i := range ended {
			if i > 0 && ended[i].Key.ExpiresAt.Equal(ended[i-1].Key.ExpiresAt) {
				continue
			}
			end := endKey(ended[i].Key.ExpiresAt)
			first := end[:]
			if bytes.Compare(first, from) < 0 {
				first = from
			}
			for k, v := c.Seek(first); bytes.HasPrefix(k, end[:]); k, v = c.Next() {
				had := n
				err := eachSession(k, v, func(x *storage.Session) bool {
					if over[grantedOf(x)] {
						n++
					}
					return true
				})
				if err != nil {
					return err
				}
				if n > had {
					keys = append(keys, bytes.Clone(k))
				}
				if n >= stepPurge {
					return nil
				}
			}
		}
		return nil
	})
	return keys, n, err
}

// purge writes records anew without sessions that are over. A sweep that was
// cancelled may have come by before.
func (g *group) purge(keys [][]byte, over map[granted]bool) error {
	var anew []keyed // without a value where nothing is left of a record
	sessions := g.tx.Bucket(sessionsBucket)
	for _, k := range keys {
		v := sessions.Get(k)
		if v == nil {
			continue
		}
		kept, changed, err := without(k, v, over)
		if err != nil {
			return err
		}
		if changed {
			anew = append(anew, keyed{k, kept})
		}
	}
	if len(anew) == 0 {
		return nil
	}
	g.pages += len(anew)
	return g.bucket(sessionsBucket, func(b *bbolt.Bucket) error {
		for _, r := range anew {
			if r.value != nil {
				if err := b.Put(r.key, r.value); err != nil {
					return err
				}
			} else if err := b.Delete(r.key); err != nil {
				return err
			}
		}
		return nil
	})
}

// without makes a record anew without sessions that are over, if it has any.
func without(k, v []byte, over map[granted]bool) (kept []byte, changed bool, err error) {
	all, err := sessionsOf(k, v)
	if err != nil {
		return nil, false, err
	}
	had := len(all)
	live := slices.DeleteFunc(all, func(x storage.Session) bool { return over[grantedOf(&x)] })
	if len(live) > 0 && len(live) < had {
		kept = record.AppendAsOf(record.AppendSessions(nil, live), live[0].AsOf)
	}
	return kept, len(live) < had, nil
}

// rebuildEnded finds the sessions that have ended.
func rebuildEnded(tx *bbolt.Tx) (map[granted]bool, error) {
	ended := make(map[granted]bool)
	err := tx.Bucket(endedBucket).ForEach(func(_, v []byte) error {
		return record.EndedSessions(v, func(e record.Ended) { ended[grantedEnded(e)] = true })
	})
	return ended, err
}
