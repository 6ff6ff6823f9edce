package boltstore

import (
	"context"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/internal/record"
)

// Count counts what an entry would hit; see storage.Store.
func (s *Store) Count(ctx context.Context, sel storage.Selector, now time.Time) (tokens, sessions int, err error) {
	switch {
	case sel.Token != storage.TokenID{}:
		return s.countToken(ctx, sel.Token, now)
	case sel.Session != storage.SessionID{}:
		found, err := s.Sessions(ctx, []storage.SessionID{sel.Session})
		return 0, countFound(found), err
	}
	if tokens, err = s.countTokens(ctx, sel, now); err != nil {
		return 0, 0, err
	}
	if sessions, err = s.countSessions(ctx, sel); err != nil {
		return 0, 0, err
	}
	return tokens, sessions, nil
}

// countToken counts one token and its sessions, which the ledger knows.
func (s *Store) countToken(ctx context.Context, id storage.TokenID, now time.Time) (tokens, sessions int, err error) {
	if err := s.ready(ctx); err != nil {
		return 0, 0, err
	}
	if id.Expiry().After(now) {
		found, err := s.Lookup(ctx, []storage.TokenID{id})
		if err != nil {
			return 0, 0, err
		}
		if found[0] != nil && !s.ledger.Revoked(found[0]) {
			tokens = 1
		}
	}
	live, err := s.Sessions(ctx, s.ledger.SessionsOf(id))
	return tokens, countFound(live), err
}

func countFound[T any](found []*T) (n int) {
	for _, x := range found {
		if x != nil {
			n++
		}
	}
	return n
}

func (s *Store) countTokens(ctx context.Context, sel storage.Selector, now time.Time) (hits int, err error) {
	above := before(firstID(now.UnixMilli() + 1)) // a token is inactive from its expiry
	var hit []storage.Token
	for more := true; more && err == nil; {
		more, hit = false, hit[:0]
		err = s.view(ctx, func(tx *bbolt.Tx) error {
			above = later(above, before(firstID(s.ledger.Swept()+1)))
			n := 0
			return s.walkTokens(tx, above, func(id storage.TokenID, v []byte) (bool, error) {
				if n == examined {
					more = true
					return false, nil
				}
				n++
				above = id
				var t storage.Token
				if err := record.Token(id, v, &t); err != nil {
					return false, fmt.Errorf("token %x: %w", id, err)
				}
				if sel.HitsToken(&t) {
					hit = append(hit, t)
				}
				return true, nil
			})
		})
		for i := range hit { // outside the transaction: the ledger's lock comes before it
			if !s.ledger.Revoked(&hit[i]) {
				hits++
			}
		}
	}
	return hits, err
}

func (s *Store) countSessions(ctx context.Context, sel storage.Selector) (hits int, err error) {
	q := storage.SessionQuery{Limit: examined}
	for {
		page, err := s.ListSessions(ctx, q)
		if err != nil {
			return 0, err
		}
		for _, x := range page.Sessions {
			if sel.HitsSession(x) {
				hits++
			}
		}
		if !page.More {
			return hits, nil
		}
		q.After = page.Next
	}
}
