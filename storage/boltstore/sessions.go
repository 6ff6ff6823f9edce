package boltstore

import (
	"bytes"
	"context"
	"fmt"

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
	return s.endSessions(ctx, ids, false)
}

func (s *Store) endSessions(ctx context.Context, ids []storage.SessionID, sweep bool) (int, error) {
	ended := 0
	err := s.do(ctx, &call{items: len(ids), sweep: sweep, decide: func(g *group) error {
		keys := s.ledger.EndSessions(ids, make([]storage.SessionKey, 0, len(ids)))
		for _, k := range keys {
			g.ends = append(g.ends, sessionKey(k.ExpiresAt, k.ID))
		}
		ended = len(keys)
		return nil
	}})
	if err != nil {
		return 0, err
	}
	return ended, nil
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
				if key.ExpiresAt.IsZero() {
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
	return page, nil
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
