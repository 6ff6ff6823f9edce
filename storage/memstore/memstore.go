// Package memstore keeps Gatehouse's state in memory, for tests and trials. It
// decides as every store does, and forgets all when its process ends.
package memstore

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/internal/ledger"
	"github.com/gatehouse-ws/gatehouse/storage/internal/record"
)

// Store is a storage.Store in memory. Each call is a group of its own.
type Store struct {
	failed chan struct{} // never closed

	// mu is locked before the ledger. It guards what follows.
	mu          sync.RWMutex
	ledger      *ledger.Ledger
	epoch       uint64
	closed      bool
	tokens      map[storage.TokenID]*storage.Token
	sessions    map[storage.SessionID]*storage.Session
	log         []storage.Entry
	locks       map[storage.LockID]storage.Lock
	instances   map[storage.InstanceID]storage.Instance
	receipts    receipts
	credentials map[string]storage.Credential
	edgeKeys    []storage.EdgeKey
	groups      uint64
	seconds     storage.Distribution // of the groups
	calls       storage.Distribution // of each group: always one
}

var _ storage.Store = (*Store)(nil)

// New makes an empty store.
func New() *Store { return newStore(rand.Uint64() | 1) } // never zero

func newStore(epoch uint64) *Store {
	return &Store{
		failed:      make(chan struct{}),
		ledger:      ledger.New(epoch),
		epoch:       epoch,
		tokens:      make(map[storage.TokenID]*storage.Token),
		sessions:    make(map[storage.SessionID]*storage.Session),
		locks:       make(map[storage.LockID]storage.Lock),
		instances:   make(map[storage.InstanceID]storage.Instance),
		receipts:    newReceipts(),
		credentials: make(map[string]storage.Credential),
		seconds:     storage.NewDistribution(storage.CommitBounds.Seconds),
		calls:       storage.NewDistribution(storage.CommitBounds.Calls),
	}
}

// write runs fn as one group.
func (s *Store) write(ctx context.Context, fn func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return storage.ErrClosed
	}
	began := time.Now()
	if err := fn(); err != nil {
		s.ledger.Rollback()
		return err
	}
	s.ledger.Commit(nil)
	s.groups++
	s.seconds.Observe(time.Since(began).Seconds())
	s.calls.Observe(1)
	return nil
}

// read runs fn while nothing is written.
func (s *Store) read(ctx context.Context, fn func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return storage.ErrClosed
	}
	return fn()
}

// records answers the ledger's questions.
type records struct{ *Store }

func (r records) HasToken(id storage.TokenID) (bool, error) { return r.tokens[id] != nil, nil }

func (r records) Sessions(keys []storage.SessionKey) ([]*storage.Session, error) {
	out := make([]*storage.Session, len(keys))
	for i, key := range keys {
		out[i] = r.sessions[key.ID]
	}
	return out, nil
}

func (r records) Entry(sequence uint64) (storage.Entry, error) { return r.entry(sequence) }

func (s *Store) entry(sequence uint64) (storage.Entry, error) {
	i, ok := slices.BinarySearchFunc(s.log, sequence, func(e storage.Entry, n uint64) int {
		return cmp.Compare(e.Revision.Sequence, n)
	})
	if !ok {
		return storage.Entry{}, storage.ErrNotFound
	}
	return s.log[i], nil
}

// Insert stores tokens; see storage.Store.
func (s *Store) Insert(ctx context.Context, tokens []*storage.Token) ([]storage.Inserted, error) {
	results := make([]storage.Inserted, len(tokens))
	err := s.write(ctx, func() error {
		if err := s.ledger.Insert(tokens, results, records{s}); err != nil {
			return err
		}
		for i, t := range tokens {
			if results[i].Err != nil {
				continue
			}
			// What is kept is a record's worth, as in a durable store.
			var kept storage.Token
			b := record.AppendIssued(record.AppendToken(nil, t), results[i].IssuedRevision)
			if err := record.Token(t.ID, b, &kept); err != nil {
				return err
			}
			s.tokens[t.ID] = &kept
			t.IssuedRevision = kept.IssuedRevision
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return results, nil
}

// Lookup finds tokens; see storage.Store.
func (s *Store) Lookup(ctx context.Context, ids []storage.TokenID) ([]*storage.Token, error) {
	out := make([]*storage.Token, len(ids))
	err := s.read(ctx, func() error {
		for i, id := range ids {
			out[i] = s.tokens[id]
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Statuses tells what has become of tokens; see storage.Store.
func (s *Store) Statuses(ctx context.Context, tokens []*storage.Token) (out []storage.TokenStatus, err error) {
	err = s.read(ctx, func() error {
		out = s.ledger.Statuses(tokens)
		return nil
	})
	return out, err
}

// ListTokens pages through tokens; see storage.Store.
func (s *Store) ListTokens(ctx context.Context, q storage.TokenQuery) (page storage.TokenPage, err error) {
	page.Next = q.After
	err = s.read(ctx, func() error {
		ids := slices.SortedFunc(maps.Keys(s.tokens), func(a, b storage.TokenID) int { return bytes.Compare(a[:], b[:]) })
		for _, id := range ids {
			t := s.tokens[id]
			if bytes.Compare(id[:], q.After[:]) <= 0 || id.Expiry().Before(q.Since) {
				continue
			}
			if len(page.Tokens) == max(q.Limit, 1) {
				page.More = true
				break
			}
			page.Next = id
			if (q.Tenant == "" || q.Tenant == t.Tenant) &&
				(q.Subject == "" || q.Subject == t.Subject) &&
				(q.Audience == "" || q.Audience == t.Audience) &&
				(q.Issuer == "" || q.Issuer == t.Issuer) &&
				(!q.Prefix.IsValid() || (&storage.Selector{Prefix: q.Prefix}).HitsToken(t)) {
				page.Tokens = append(page.Tokens, t)
			}
		}
		return nil
	})
	return page, err
}

// Redeem turns tokens into sessions; see storage.Store.
func (s *Store) Redeem(ctx context.Context, batch []storage.Redemption) ([]storage.Redeemed, error) {
	sessions, observations := ledger.Prepare(batch)
	results := make([]storage.Redeemed, len(batch))
	err := s.write(ctx, func() error {
		if err := s.ledger.Redeem(batch, sessions, observations, results, records{s}); err != nil {
			return err
		}
		for i := range results {
			x := &sessions[i]
			if results[i].Session != x {
				continue // refused, or a retry
			}
			s.sessions[x.ID] = x
			for _, r := range results[i].Replaced {
				delete(s.sessions, r.Key.ID)
				s.log = append(s.log, r.Entry)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return results, nil
}

// EndSessions ends live sessions; see storage.Store.
func (s *Store) EndSessions(ctx context.Context, ids []storage.SessionID) (n int, err error) {
	err = s.write(ctx, func() error {
		n = s.endSessions(ids, math.MaxInt64)
		return nil
	})
	return n, err
}

func (s *Store) endSessions(ids []storage.SessionID, before int64) int {
	ended := s.ledger.EndSessions(ids, before, nil)
	for _, e := range ended {
		delete(s.sessions, e.Key.ID)
	}
	return len(ended)
}

// Sessions finds live sessions; see storage.Store.
func (s *Store) Sessions(ctx context.Context, ids []storage.SessionID) ([]*storage.Session, error) {
	out := make([]*storage.Session, len(ids))
	err := s.read(ctx, func() error {
		for i, id := range ids {
			out[i] = s.sessions[id]
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// ListSessions pages through live sessions; see storage.Store.
func (s *Store) ListSessions(ctx context.Context, q storage.SessionQuery) (page storage.SessionPage, err error) {
	page.Next = q.After
	err = s.read(ctx, func() error {
		for _, x := range slices.SortedFunc(maps.Values(s.sessions), compareSessions) {
			if q.After != (storage.SessionKey{}) && compareSessions(x, &storage.Session{ID: q.After.ID, ExpiresAt: q.After.ExpiresAt}) <= 0 {
				continue
			}
			if len(page.Sessions) == max(q.Limit, 1) {
				page.More = true
				break
			}
			page.Next = storage.SessionKey{ExpiresAt: x.ExpiresAt, ID: x.ID}
			if (q.Tenant == "" || q.Tenant == x.Tenant) &&
				(q.Subject == "" || q.Subject == x.Subject) &&
				(q.Issuer == "" || q.Issuer == x.Issuer) &&
				(q.Node == "" || q.Node == x.Node) &&
				(q.Token == storage.TokenID{} || q.Token == x.Token) &&
				(q.Instance == storage.InstanceID{} || q.Instance == x.Instance) &&
				(!q.Prefix.IsValid() || (&storage.Selector{Prefix: q.Prefix}).HitsSession(x)) {
				page.Sessions = append(page.Sessions, x)
			}
		}
		return nil
	})
	return page, err
}

func compareSessions(a, b *storage.Session) int {
	if c := a.ExpiresAt.Compare(b.ExpiresAt); c != 0 {
		return c
	}
	return bytes.Compare(a.ID[:], b.ID[:])
}

// Count counts what an entry would hit; see storage.Store.
func (s *Store) Count(ctx context.Context, sel storage.Selector, now time.Time) (tokens, sessions int, err error) {
	err = s.read(ctx, func() error {
		for _, t := range s.tokens {
			if t.ID.Expiry().After(now) && sel.HitsToken(t) && !s.ledger.Revoked(t) {
				tokens++
			}
		}
		for _, x := range s.sessions {
			if sel.HitsSession(x) {
				sessions++
			}
		}
		return nil
	})
	return tokens, sessions, err
}

// Sweep forgets what is over; see storage.Store.
func (s *Store) Sweep(ctx context.Context, now time.Time, keep time.Duration) (done storage.Swept, err error) {
	err = s.write(ctx, func() error {
		upTo, latest := now.Add(-keep).UnixMilli()-1, s.ledger.Swept()
		for id := range s.tokens {
			if at := id.Expiry().UnixMilli(); at <= upTo {
				latest = max(latest, at)
			}
		}
		s.ledger.Sweep(ledger.SweepTo(s.ledger.Swept(), upTo, latest))
		var over []storage.SessionID
		for id := range s.sessions {
			over = append(over, id)
		}
		done.Sessions = s.endSessions(over, now.UnixMilli())
		for done.Entries < len(s.log) && !s.log[done.Entries].KeepUntil.After(now) {
			done.Entries++
		}
		s.ledger.DropEntries(s.log[:done.Entries])
		s.log = slices.Clone(s.log[done.Entries:])
		done.Entries += s.dropBriefs(now)
		s.receipts.sweep(s.dropped())
		s.ledger.Commit(nil)
		done.Tokens = s.forgetTokens()
		return nil
	})
	return done, err
}

// dropBriefs drops entries that need not wait for those before them.
func (s *Store) dropBriefs(now time.Time) int {
	var over []storage.Entry
	s.log = slices.DeleteFunc(s.log, func(e storage.Entry) bool {
		drop := e.Kind == storage.Replace && !e.KeepUntil.After(now)
		if drop {
			over = append(over, e)
		}
		return drop
	})
	s.ledger.DropEntries(over)
	return len(over)
}

// forgetTokens forgets tokens whose sweeping is committed.
func (s *Store) forgetTokens() (n int) {
	swept := s.ledger.Swept()
	for id := range s.tokens {
		if id.Expiry().UnixMilli() > swept {
			continue
		}
		delete(s.tokens, id)
		s.ledger.Forget([]storage.TokenID{id})
		n++
	}
	s.ledger.Gone(n)
	return n
}

// Stats tells the sizes of things; see storage.Store.
func (s *Store) Stats() storage.Stats {
	s.mu.RLock()
	defer s.mu.RUnlock()
	st := s.ledger.Stats()
	st.Groups, st.Grouped = s.groups, s.groups
	st.CommitSeconds, st.CommitCalls = s.seconds.Clone(), s.calls.Clone()
	return st
}

// Failed is never closed.
func (s *Store) Failed() <-chan struct{} { return s.failed }

// Err is nil.
func (s *Store) Err() error { return nil }

// Close ends the store.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}

// canonical gives v as its record would give it back.
func canonical[V any](v *V, encode func(*V) ([]byte, error), decode func([]byte) (V, error)) (V, error) {
	b, err := encode(v)
	if err != nil {
		return *v, fmt.Errorf("encode: %w", err)
	}
	return decode(b)
}
