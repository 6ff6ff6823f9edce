package boltstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"reflect"
	"runtime"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/internal/record"
)

// Uses go with others of tokens that live about as long: to few places, which last for
// four times the token's life longer at most.
func TestUseMinute(t *testing.T) {
	issued := time.UnixMilli(1_800_000_030_000)
	day := 24 * time.Hour
	for _, c := range []struct {
		life    time.Duration
		minutes int // for tokens of that life that are issued within it
	}{
		{time.Second, 1}, {time.Minute, 2}, {3 * time.Minute, 2}, {4 * time.Minute, 2}, {15 * time.Minute, 2},
		{16 * time.Minute, 2}, {time.Hour, 2}, {day, 2}, {30 * day, 4}, {365 * day, 33},
	} {
		seen := map[uint64]bool{}
		for at := time.Duration(0); at <= c.life; at += max(c.life/5000, time.Millisecond) {
			id := firstID(issued.Add(at + c.life).UnixMilli())
			minute, kept := minuteOf(id), useMinute(id, issued.Add(at))
			if kept < minute || time.Duration(kept-minute)*time.Minute >= max(4*c.life, time.Minute) {
				t.Fatalf("a token that lives for %v and expires in minute %d: its uses are kept until minute %d", c.life, minute, kept)
			}
			seen[kept] = true
		}
		if len(seen) < c.minutes-1 || len(seen) > c.minutes+1 {
			t.Errorf("the uses of tokens that live for %v go to %d places, want about %d", c.life, len(seen), c.minutes)
		}
	}
	if id := firstID(issued.UnixMilli()); useMinute(id, issued.Add(time.Hour)) != minuteOf(id) {
		t.Error("the uses of a token that expired before it was issued are kept beyond its minute")
	}
}

// A used token stays used through a restart, whatever its life and whenever
// others expire, and its uses go once it is forgotten.
func TestUsesOfMixedLives(t *testing.T) {
	path := t.TempDir() + "/gatehouse.db"
	s := open(t, path, small)
	must(t, s.PutInstance(t.Context(), &storage.Instance{ID: testNode, Node: "node-1", RegisteredAt: benchStart}))
	var tokens []*storage.Token
	for i, minutes := range []time.Duration{1, 2, 7, 8, 9, 30, 60, 200, 3000, 43_200} {
		x := testToken(i)
		x.ID = storage.TokenID(tokenOf(t, byte(i), 10, benchStart.Add(minutes*time.Minute)).ID)
		x.IssuedAt, x.MaxUses = benchStart, 2
		tokens = append(tokens, x)
	}
	_, err := s.Insert(t.Context(), tokens)
	must(t, err)
	n := 0
	use := func(x *storage.Token) error {
		n++
		y := testSession(n)
		y.ExpiresAt = benchStart.Add(60 * 24 * time.Hour)
		r, err := s.Redeem(t.Context(), []storage.Redemption{{Token: x, Session: y}})
		must(t, err)
		return r[0].Err
	}
	for range 2 { // together, as they are written side by side
		var batch []storage.Redemption
		for _, x := range tokens {
			n++
			y := testSession(n)
			y.ExpiresAt = benchStart.Add(60 * 24 * time.Hour)
			batch = append(batch, storage.Redemption{Token: x, Session: y})
		}
		results, err := s.Redeem(t.Context(), batch)
		must(t, err)
		for i := range results {
			must(t, results[i].Err)
		}
	}
	for _, x := range tokens {
		gone := x.ID.Expiry().Add(time.Minute)
		must(t, s.Close())
		s = open(t, path, small)
		if err := use(x); !errors.Is(err, storage.ErrUsed) {
			t.Errorf("the token that expires at %v: %v after a restart", x.ID.Expiry(), err)
		}
		if st, err := s.Statuses(t.Context(), []*storage.Token{x}); err != nil || st[0].Uses != 2 {
			t.Errorf("the token that expires at %v: %+v, %v", x.ID.Expiry(), st, err)
		}
		_, err := s.Sweep(t.Context(), gone, 0)
		must(t, err)
		if err := use(x); !errors.Is(err, storage.ErrExpired) {
			t.Errorf("the token that expired at %v: %v", x.ID.Expiry(), err)
		}
	}
	last := tokens[len(tokens)-1].ID
	later := tokenOf(t, 99, 10, last.Expiry().Add(maxUseSpan*time.Minute))
	_, err = s.Insert(t.Context(), []*storage.Token{later})
	must(t, err)
	_, err = s.Sweep(t.Context(), later.ID.Expiry().Add(time.Minute), 0)
	must(t, err)
	must(t, s.view(t.Context(), func(tx *bbolt.Tx) error {
		return tx.Bucket(usesBucket).ForEach(func(k, _ []byte) error {
			t.Errorf("record %x of uses is left", k)
			return nil
		})
	}))
	check(t, s)
}

// Promise 6: uses of swept tokens leave memory, round after round.
func TestSweptUsesLeaveMemory(t *testing.T) {
	const many = 5000
	s := open(t, t.TempDir()+"/gatehouse.db", Options{MapBytes: 64 << 20, AheadBytes: 1, freshBytes: 100_000, noSync: true})
	must(t, s.PutInstance(t.Context(), &storage.Instance{ID: testNode, Node: "node-1", RegisteredAt: benchStart}))
	r := rand.New(rand.NewPCG(1, 2))
	var before, after runtime.MemStats
	for round := range 12 {
		issued := benchStart.Add(time.Duration(round) * 10 * time.Minute)
		tokens, batch := make([]*storage.Token, many), make([]storage.Redemption, many)
		for i := range batch {
			x := testToken(i)
			binary.BigEndian.PutUint64(x.ID[:], uint64(issued.Add(time.Minute).UnixMilli())<<16|r.Uint64N(1<<16))
			binary.BigEndian.PutUint64(x.ID[8:], r.Uint64())
			x.IssuedAt, x.IssuedRevision.Epoch = issued, s.epoch
			y := testSession(i)
			binary.BigEndian.PutUint64(y.ID[:], r.Uint64())
			y.StartedAt, y.ExpiresAt = issued, issued.Add(time.Minute)
			tokens[i], batch[i] = x, storage.Redemption{Token: x, Session: y}
		}
		_, err := s.Insert(t.Context(), tokens)
		must(t, err)
		results, err := s.Redeem(t.Context(), batch)
		must(t, err)
		for i := range results {
			must(t, results[i].Err)
		}
		for range 3 { // sessions that still live hold their uses
			_, err = s.Sweep(t.Context(), issued.Add(5*time.Minute), 0)
			must(t, err)
		}
		switch round {
		case 3:
			runtime.GC()
			runtime.ReadMemStats(&before)
		case 11:
			runtime.GC()
			runtime.ReadMemStats(&after)
		}
	}
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 8*many*32 { // a quarter of what they take
		t.Errorf("eight rounds of %d uses left %d bytes in memory", many, grown)
	}
}

// asFormat2 rewrites a file as format 2 had it: slots of a minute for tokens, and for
// the uses of a minute slots too, here of three records each.
func asFormat2(t *testing.T, path string) {
	type put struct{ k, v []byte }
	edit(t, path, func(tx *bbolt.Tx) error {
		all := tx.Bucket(tokensBucket)
		var tokens []put
		var names [][]byte
		must(t, eachSlot(all, 0, func(at slot, b *bbolt.Bucket) error {
			names = append(names, at.key())
			return b.ForEach(func(k, v []byte) error {
				tokens = append(tokens, put{bytes.Clone(k), bytes.Clone(v)})
				return nil
			})
		}))
		for _, k := range names {
			must(t, all.DeleteBucket(k))
		}
		for _, p := range tokens {
			b, err := all.CreateBucketIfNotExists(number(minuteOf(storage.TokenID(p.k)) << 16))
			must(t, err)
			must(t, b.Put(p.k, p.v))
			must(t, b.SetSequence(b.Sequence()+1))
		}
		uses := tx.Bucket(usesBucket)
		var used []put
		must(t, uses.ForEach(func(k, v []byte) error {
			used = append(used, put{bytes.Clone(k), bytes.Clone(v)})
			return nil
		}))
		must(t, uses.SetSequence(0))
		for i, p := range used {
			must(t, uses.Delete(p.k))
			minute := binary.BigEndian.Uint64(p.k)
			b, err := uses.CreateBucketIfNotExists(number(minute<<16 | uint64(i/3)))
			must(t, err)
			must(t, b.Put(number(uint64(i)), p.v))
		}
		return tx.Bucket(metaBucket).Put(formatKey, number(2))
	})
}

// A file of format 2 opens with its tokens and uses, and is of this format from then
// on. Uses stay in the order of their commits, through restarts and beside later ones,
// and all are dropped in their time.
func TestFormat2(t *testing.T) {
	path := filled(t)
	s := open(t, path, small)
	often := testToken(299) // expires last
	often.MaxUses = 100
	_, err := s.Insert(t.Context(), []*storage.Token{often})
	must(t, err)
	session := 1000
	use := func(s *Store) {
		session++
		r, err := s.Redeem(t.Context(), []storage.Redemption{{Token: often, Session: testSession(session)}})
		must(t, err)
		must(t, r[0].Err)
	}
	for range 8 {
		use(s)
	}
	statuses := func(s *Store) (tokens []*storage.Token, st []storage.TokenStatus) {
		page, err := s.ListTokens(t.Context(), storage.TokenQuery{Limit: 1000})
		must(t, err)
		st, err = s.Statuses(t.Context(), page.Tokens)
		must(t, err)
		return page.Tokens, st
	}
	tokens, want := statuses(s)
	check(t, s)
	asFormat2(t, path)
	const early = 100 // minutes after the beginning of 1970, of a clock that was not set
	edit(t, path, func(tx *bbolt.Tx) error {
		b, err := tx.Bucket(usesBucket).CreateBucket(number(early << 16))
		must(t, err)
		return b.Put(number(0), record.AppendRedemptions(nil, []record.Redemption{{Token: firstID(early * msPerMinute)}}))
	})
	for round := range 3 {
		s = open(t, path, small)
		gotTokens, got := statuses(s)
		if !reflect.DeepEqual(gotTokens, tokens) || s.Stats().Tokens != len(tokens) || len(tokens) < 100 {
			t.Fatalf("%d tokens, and %d by the count, want %d", len(gotTokens), s.Stats().Tokens, len(tokens))
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("round %d: statuses\n%+v, want\n%+v", round, got, want)
		}
		use(s)
		_, want = statuses(s)
		check(t, s)
	}
	edit(t, path, func(tx *bbolt.Tx) error {
		if f, _ := numberOf(tx.Bucket(metaBucket).Get(formatKey)); f != format {
			t.Errorf("format %d, want %d", f, format)
		}
		return nil
	})
	s = open(t, path, small)
	day := 24 * time.Hour
	mid, late, last := tokenOf(t, 97, 10, benchStart.Add(time.Hour)), tokenOf(t, 98, 10, benchStart.Add(100*day)), tokenOf(t, 99, 10, benchStart.Add(200*day))
	for _, x := range []*storage.Token{mid, late, last} {
		x.IssuedAt, x.MaxUses = benchStart, 1
	}
	_, err = s.Insert(t.Context(), []*storage.Token{mid, late, last})
	must(t, err)
	redeem := func(x *storage.Token, n int) {
		y := testSession(n)
		y.ExpiresAt = benchStart.Add(time.Hour)
		r, err := s.Redeem(t.Context(), []storage.Redemption{{Token: x, Session: y}})
		must(t, err)
		if r[0].Err != nil {
			t.Errorf("session %d: %v", n, r[0].Err)
		}
	}
	redeem(late, 2000)
	left := func() (n int) {
		must(t, s.view(t.Context(), func(tx *bbolt.Tx) error {
			return tx.Bucket(usesBucket).ForEach(func(_, _ []byte) error { n++; return nil })
		}))
		return n
	}
	for _, c := range []struct {
		at           time.Duration
		tokens, uses int
	}{{2 * time.Hour, len(tokens) + 1, 1}, {150 * day, 1, 2}, {300 * day, 1, 1}} {
		swept, err := s.Sweep(t.Context(), benchStart.Add(c.at), 0)
		must(t, err)
		if n := left(); swept.Tokens != c.tokens || n != c.uses {
			t.Errorf("after %v: %d tokens were swept, want %d; %d records of uses are left, want %d", c.at, swept.Tokens, c.tokens, n, c.uses)
		}
		if c.at == 2*time.Hour {
			redeem(last, session) // the id is free, since its use is forgotten
		}
	}
	check(t, s)
}
