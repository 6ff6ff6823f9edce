package boltstore

import (
	"bytes"
	"context"
	"math"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/internal/ledger"
	"github.com/gatehouse-ws/gatehouse/storage/internal/record"
)

// Redeem turns tokens into sessions; see storage.Store.
func (s *Store) Redeem(ctx context.Context, batch []storage.Redemption) ([]storage.Redeemed, error) {
	sessions, observations := ledger.Prepare(batch)
	puts := encodeSessions(sessions)
	results := make([]storage.Redeemed, len(batch))
	err := s.do(ctx, &call{items: len(batch), decide: func(g *group) error {
		if err := s.ledger.Redeem(batch, sessions, observations, results, g); err != nil {
			return err
		}
		g.grant(batch, sessions, observations, results, puts)
		return g.replace(results)
	}})
	if err != nil {
		return nil, err
	}
	return results, nil
}

// replace gathers that sessions have ended for others.
func (g *group) replace(results []storage.Redeemed) error {
	for i := range results {
		for j := range results[i].Replaced {
			r := &results[i].Replaced[j]
			g.ends = append(g.ends, record.Ended{Key: r.Key, Token: r.Token})
			if err := g.addEntry(&r.Entry); err != nil {
				return err
			}
		}
	}
	return nil
}

// grant gathers what was granted of a batch. puts are records of all of it: they
// serve if it was granted whole, as most are.
func (g *group) grant(batch []storage.Redemption, sessions []storage.Session, observations []uint64, results []storage.Redeemed, puts []sessionsPut) {
	var asOf storage.Revision
	granted := 0
	for i := range sessions {
		x := &sessions[i]
		if results[i].Session != x {
			continue // refused, or a retry
		}
		asOf = x.AsOf
		g.uses = append(g.uses, record.Redemption{
			Token: x.Token, Session: x.ID, Observation: observations[i],
			Minute: useMinute(x.Token, batch[i].Token.IssuedAt),
		})
		granted++
	}
	if granted < len(sessions) {
		some := make([]storage.Session, 0, granted)
		for i := range sessions {
			if results[i].Session == &sessions[i] {
				some = append(some, sessions[i])
			}
		}
		puts = encodeSessions(some)
	}
	for _, p := range puts {
		g.grants = append(g.grants, sessionsPut{p.end, record.AppendAsOf(p.value, asOf)})
	}
}

// EndSessions ends live sessions; see storage.Store.
func (s *Store) EndSessions(ctx context.Context, ids []storage.SessionID) (int, error) {
	n := 0
	err := s.do(ctx, &call{items: len(ids), decide: func(g *group) error {
		had := len(g.ends)
		g.ends = s.ledger.EndSessions(ids, math.MaxInt64, g.ends)
		n = len(g.ends) - had
		return nil
	}})
	if err != nil {
		return 0, err
	}
	return n, nil
}

// Sessions finds live sessions; see storage.Store.
func (s *Store) Sessions(ctx context.Context, ids []storage.SessionID) ([]*storage.Session, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for {
		var (
			tx      *bbolt.Tx
			settled <-chan struct{}
			err     error
		)
		keys := s.ledger.LiveSessions(ids, func() { tx, settled, err = s.tryBegin() })
		if err != nil {
			return nil, err
		}
		if tx == nil {
			if err := s.await(ctx, settled); err != nil {
				return nil, err
			}
			continue
		}
		out := make([]*storage.Session, len(ids))
		err = s.read(tx, func(tx *bbolt.Tx) error {
			return findSessions(tx.Bucket(sessionsBucket), keys, out)
		})
		if err != nil {
			return nil, err
		}
		return out, nil
	}
}

// ListSessions pages through live sessions; see storage.Store.
func (s *Store) ListSessions(ctx context.Context, q storage.SessionQuery) (storage.SessionPage, error) {
	page := storage.SessionPage{Next: q.After}
	err := s.view(ctx, func(tx *bbolt.Tx) error {
		c := tx.Bucket(sessionsBucket).Cursor()
		from := endKey(q.After.ExpiresAt)
		k, v := c.Seek(from[:])
		for n := 0; k != nil; {
			if _, err := endOf(k); err != nil {
				return err
			}
			end := [8]byte(k)
			var together []storage.Session
			var err error
			if together, k, v, err = ending(c, k, v); err != nil {
				return err
			}
			for i := range together {
				x := &together[i]
				if end == from && bytes.Compare(x.ID[:], q.After.ID[:]) <= 0 && q.After != (storage.SessionKey{}) {
					continue
				}
				if n == examined || len(page.Sessions) == max(q.Limit, 1) {
					page.More = true
					return nil
				}
				n++
				giveWay(n)
				page.Next = storage.SessionKey{ExpiresAt: x.ExpiresAt, ID: x.ID}
				if wantedSession(&q, x) {
					page.Sessions = append(page.Sessions, x)
				}
			}
		}
		return nil
	})
	if err != nil {
		return storage.SessionPage{}, err
	}
	page.Sessions = s.stillLive(page.Sessions)
	return page, nil
}

// stillLive leaves out sessions that have ended: their records are taken out of
// the file later.
func (s *Store) stillLive(xs []*storage.Session) []*storage.Session {
	ids := make([]storage.SessionID, len(xs))
	for i, x := range xs {
		ids[i] = x.ID
	}
	keys := s.ledger.LiveSessions(ids, nil)
	live := xs[:0]
	for i, x := range xs {
		if keys[i].ID == x.ID && keys[i].ExpiresAt.Equal(x.ExpiresAt) {
			live = append(live, x)
		}
	}
	return live
}

func wantedSession(q *storage.SessionQuery, x *storage.Session) bool {
	return (q.Tenant == "" || q.Tenant == x.Tenant) &&
		(q.Subject == "" || q.Subject == x.Subject) &&
		(q.Issuer == "" || q.Issuer == x.Issuer) &&
		(q.Node == "" || q.Node == x.Node) &&
		(q.Token == storage.TokenID{} || q.Token == x.Token) &&
		(q.Instance == storage.InstanceID{} || q.Instance == x.Instance) &&
		(!q.Prefix.IsValid() || (&storage.Selector{Prefix: q.Prefix}).HitsSession(x))
}
