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
		x, y := sessionKey(a.Key.ExpiresAt, a.Key.ID), sessionKey(b.Key.ExpiresAt, b.Key.ID)
		return bytes.Compare(x[:], y[:])
	})
	return ended, keys, err
}

func (s *Store) purge(ctx context.Context, ended []record.Ended) error {
	return s.do(ctx, &call{items: len(ended), sweep: true, decide: func(g *group) error {
		stale := make([][]byte, 0, len(ended))
		b := g.tx.Bucket(sessionsBucket)
		for i := range ended {
			k := sessionKey(ended[i].Key.ExpiresAt, ended[i].Key.ID)
			v := b.Get(k[:])
			if v == nil {
				continue // its time was over first
			}
			opened, err := record.SessionToken(v)
			if err != nil {
				return err
			}
			if opened == ended[i].Token {
				stale = append(stale, k[:])
			}
		}
		g.pages += len(stale)
		return g.deleteAll(sessionsBucket, stale)
	}})
}

// rebuildEnded finds the sessions that have ended, by their keys.
func rebuildEnded(tx *bbolt.Tx) (map[[sessionKeySize]byte]storage.TokenID, error) {
	ended := make(map[[sessionKeySize]byte]storage.TokenID)
	err := tx.Bucket(endedBucket).ForEach(func(_, v []byte) error {
		return record.EndedSessions(v, func(e record.Ended) {
			ended[sessionKey(e.Key.ExpiresAt, e.Key.ID)] = e.Token
		})
	})
	return ended, err
}
