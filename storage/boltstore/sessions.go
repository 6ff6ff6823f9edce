package boltstore

import (
	"bytes"
	"context"
	"fmt"
	"math"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/internal/ledger"
	"github.com/gatehouse-ws/gatehouse/storage/internal/record"
)

// Redeem turns tokens into sessions; see storage.Store.
func (s *Store) Redeem(ctx context.Context, batch []storage.Redemption) ([]storage.Redeemed, error) {
	sessions, observations := ledger.Prepare(batch)
	values := encodeSessions(sessions)
	results := make([]storage.Redeemed, len(batch))
	err := s.do(ctx, &call{items: len(batch), decide: func(g *group) error {
		if err := s.ledger.Redeem(batch, sessions, observations, results, g); err != nil {
			return err
		}
		for i := range results {
			if results[i].Session != &sessions[i] {
				continue // refused, or a retry
			}
			x := &sessions[i]
			g.grants = append(g.grants, sessionPut{sessionKey(x.ExpiresAt, x.ID), record.AppendAsOf(values[i], x.AsOf)})
			g.uses = append(g.uses, record.Redemption{Token: x.Token, Session: x.ID, Observation: observations[i]})
		}
		return nil
	}})
	if err != nil {
		return nil, err
	}
	return results, nil
}

// encodeSessions does for sessions what encodeTokens does for tokens.
func encodeSessions(sessions []storage.Session) [][]byte {
	const typical = 320
	buf := make([]byte, 0, len(sessions)*(typical+record.SessionTail))
	values := make([][]byte, len(sessions))
	for i := range sessions {
		if cap(buf)-len(buf) < typical+record.SessionTail {
			buf = make([]byte, 0, (len(sessions)-i)*(typical+record.SessionTail))
		}
		from := len(buf)
		buf = record.AppendSession(buf, &sessions[i])
		values[i] = buf[from:len(buf):len(buf)]
		if cap(buf)-len(buf) >= record.SessionTail {
			to := len(buf) + record.SessionTail
			values[i] = buf[from:len(buf):to]
			buf = buf[:to]
		}
	}
	return values
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
			b := tx.Bucket(sessionsBucket)
			for i, key := range keys {
				if key == (storage.SessionKey{}) {
					continue
				}
				k := sessionKey(key.ExpiresAt, key.ID)
				v := b.Get(k[:])
				if v == nil {
					return fmt.Errorf("%w: no record of live session %x", storage.ErrCorrupt, key.ID)
				}
				if out[i], err = sessionAt(k[:], v); err != nil {
					return err
				}
			}
			return nil
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
		k, v := c.First()
		if q.After != (storage.SessionKey{}) {
			after := sessionKey(q.After.ExpiresAt, q.After.ID)
			if k, v = c.Seek(after[:]); bytes.Equal(k, after[:]) {
				k, v = c.Next()
			}
		}
		for n := 0; k != nil; k, v = c.Next() {
			if n == examined || len(page.Sessions) == max(q.Limit, 1) {
				page.More = true
				return nil
			}
			n++
			x, err := sessionAt(k, v)
			if err != nil {
				return err
			}
			page.Next.ExpiresAt, page.Next.ID, _ = sessionKeyOf(k)
			if wantedSession(&q, x) {
				page.Sessions = append(page.Sessions, x)
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
