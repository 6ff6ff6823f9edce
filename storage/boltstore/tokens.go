package boltstore

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/internal/record"
)

// Insert stores tokens; see storage.Store.
func (s *Store) Insert(ctx context.Context, tokens []*storage.Token) ([]storage.Inserted, error) {
	values := encodeTokens(tokens)
	results := make([]storage.Inserted, len(tokens))
	err := s.do(ctx, &call{items: len(tokens), decide: func(g *group) error {
		if err := s.ledger.Insert(tokens, results, g); err != nil {
			return err
		}
		for i := range results {
			if r := &results[i]; r.Err == nil {
				g.tokens = append(g.tokens, tokenPut{
					id: tokens[i].ID, value: record.AppendIssued(values[i], r.IssuedRevision),
					stretch: stretchOf(tokens[i].ID.Expiry().Sub(tokens[i].IssuedAt)),
				})
			}
		}
		return nil
	}})
	if err != nil {
		return nil, err
	}
	for i := range results {
		if results[i].Err == nil {
			tokens[i].IssuedRevision = results[i].IssuedRevision
		}
	}
	return results, nil
}

// encodeTokens encodes in the caller's goroutine what does not depend on the
// commit, with room behind each record for what does.
func encodeTokens(tokens []*storage.Token) [][]byte {
	const typical = 320
	buf := make([]byte, 0, len(tokens)*typical)
	values := make([][]byte, len(tokens))
	for i, t := range tokens {
		from := len(buf)
		buf = append(record.AppendToken(buf, t), make([]byte, record.TokenTail)...)
		values[i] = buf[from : len(buf)-record.TokenTail : len(buf)]
	}
	return values
}

// Lookup finds tokens; see storage.Store.
func (s *Store) Lookup(ctx context.Context, ids []storage.TokenID) ([]*storage.Token, error) {
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	out := make([]*storage.Token, len(ids))
	records := make([][]byte, len(ids))
	swept := s.ledger.Swept()
	if s.fresh.find(ids, swept, records) {
		return out, record.Tokens(ids, records, out)
	}
	err := s.view(ctx, func(tx *bbolt.Tx) error {
		s.find(tx, ids, swept, records)
		return record.Tokens(ids, records, out)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// find sets the records of ids that are not swept and have none yet. They live as
// long as tx.
func (s *Store) find(tx *bbolt.Tx, ids []storage.TokenID, swept int64, records [][]byte) {
	f := finder{slots: s.slots, tokens: tx.Bucket(tokensBucket)}
	var where [abreast]slot
	for from := 0; from < len(ids); from += abreast {
		to := min(from+abreast, len(ids))
		part, found := ids[from:to], records[from:to]
		for n := 0; n < tries && s.slots.next(n, part, found, swept, &where); n++ {
			findTokens(tx, part, where[:], found)
		}
		for i, id := range part {
			if found[i] == nil && id.Expiry().UnixMilli() > swept {
				found[i] = f.find(id)
			}
		}
	}
}

// tries is how many slots are searched for tokens abreast before they are for one.
const tries = stretches

// Statuses tells what has become of tokens; see storage.Store.
func (s *Store) Statuses(ctx context.Context, tokens []*storage.Token) ([]storage.TokenStatus, error) {
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	return s.ledger.Statuses(tokens), nil
}

// examined bounds how many records one call, or one piece of a long one, reads.
const examined = 10_000

// ListTokens pages through tokens; see storage.Store.
func (s *Store) ListTokens(ctx context.Context, q storage.TokenQuery) (storage.TokenPage, error) {
	page := storage.TokenPage{Next: q.After}
	from := q.After
	if !q.Since.IsZero() {
		ms := q.Since.UnixMilli()
		if time.UnixMilli(ms).Before(q.Since) {
			ms++
		}
		from = later(from, before(firstID(ms)))
	}
	err := s.view(ctx, func(tx *bbolt.Tx) error {
		from = later(from, before(firstID(s.ledger.Swept()+1)))
		n := 0
		return s.walkTokens(tx, from, func(id storage.TokenID, v []byte) (bool, error) {
			if n == examined || len(page.Tokens) == max(q.Limit, 1) {
				page.More = true
				return false, nil
			}
			n++
			page.Next = id
			t := new(storage.Token)
			if err := record.Token(id, v, t); err != nil {
				return false, fmt.Errorf("token %x: %w", id, err)
			}
			if wanted(&q, t) {
				page.Tokens = append(page.Tokens, t)
			}
			return true, nil
		})
	})
	if err != nil {
		return storage.TokenPage{}, err
	}
	return page, nil
}

// before is the id just below id; that of zero is zero.
func before(id storage.TokenID) storage.TokenID {
	prior := id
	for i := len(prior) - 1; i >= 0; i-- {
		if prior[i]--; prior[i] != 0xff {
			return prior
		}
	}
	return id
}

func later(a, b storage.TokenID) storage.TokenID {
	if bytes.Compare(a[:], b[:]) < 0 {
		return b
	}
	return a
}

func wanted(q *storage.TokenQuery, t *storage.Token) bool {
	return (q.Tenant == "" || q.Tenant == t.Tenant) &&
		(q.Subject == "" || q.Subject == t.Subject) &&
		(q.Audience == "" || q.Audience == t.Audience) &&
		(q.Issuer == "" || q.Issuer == t.Issuer) &&
		(!q.Prefix.IsValid() || (&storage.Selector{Prefix: q.Prefix}).HitsToken(t))
}

// walkTokens calls fn for the tokens above an id, in the order of ids, until it
// returns false. Of the slots that the id may lie in, the one that stands lowest comes
// next.
func (s *Store) walkTokens(tx *bbolt.Tx, above storage.TokenID, fn func(storage.TokenID, []byte) (bool, error)) error {
	type standing struct {
		cursor *bbolt.Cursor
		k, v   []byte
	}
	var in []standing
	n := 0
	// drain goes on as far as the tokens below an id, or all where that is nil.
	drain := func(below []byte) (more bool, err error) {
		for len(in) > 0 {
			n++
			giveWay(n)
			low := 0
			for i := range in {
				if bytes.Compare(in[i].k, in[low].k) < 0 {
					low = i
				}
			}
			at := &in[low]
			if len(at.k) != len(above) {
				return false, fmt.Errorf("%w: key of a token: %x", storage.ErrCorrupt, at.k)
			}
			if below != nil && bytes.Compare(at.k, below) >= 0 {
				return true, nil
			}
			if more, err := fn(storage.TokenID(at.k), at.v); !more || err != nil {
				return false, err
			}
			if at.k, at.v = at.cursor.Next(); at.k == nil {
				in = append(in[:low], in[low+1:]...)
			}
		}
		return true, nil
	}
	stopped := false
	err := eachSlot(tx.Bucket(tokensBucket), above.Expiry().UnixMilli(), func(at slot, b *bbolt.Bucket) error {
		first := firstID(at.began())
		switch more, err := drain(first[:]); {
		case err != nil:
			return err
		case !more:
			stopped = true
			return errStop
		}
		x := standing{cursor: b.Cursor()}
		x.k, x.v = x.cursor.Seek(above[:])
		if x.k != nil && bytes.Equal(x.k, above[:]) {
			x.k, x.v = x.cursor.Next()
		}
		if x.k != nil {
			in = append(in, x)
		}
		return nil
	})
	if err != nil || stopped {
		return err
	}
	_, err = drain(nil)
	return err
}
