package boltstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"reflect"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-ws/gatehouse/storage"
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
	for range 2 {
		for _, x := range tokens {
			must(t, use(x))
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

// asFormat2 rewrites a file as format 2 had it: slots of a minute for tokens, buckets
// named by a minute and a shard for uses.
func asFormat2(t *testing.T, path string) {
	edit(t, path, func(tx *bbolt.Tx) error {
		all := tx.Bucket(tokensBucket)
		type put struct{ k, v []byte }
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
			b, err := uses.CreateBucketIfNotExists(number(binary.BigEndian.Uint64(p.k)<<16 | uint64(i%3)))
			must(t, err)
			must(t, b.Put(number(uint64(i)), p.v))
		}
		return tx.Bucket(metaBucket).Put(formatKey, number(2))
	})
}

// A file of format 2 opens with its tokens and uses, and becomes one of this format,
// also when that is cut short: used tokens stay used, others can be, and all go.
func TestFormat2(t *testing.T) {
	path := filled(t)
	s := open(t, path, small)
	want, err := s.ListTokens(t.Context(), storage.TokenQuery{Limit: 1000})
	must(t, err)
	used := uint32(0)
	for _, x := range want.Tokens {
		st, err := s.Statuses(t.Context(), []*storage.Token{x})
		must(t, err)
		used += st[0].Uses
	}
	check(t, s)
	asFormat2(t, path)
	edit(t, path, func(tx *bbolt.Tx) error { // as one of the steps of an upgrade would leave it
		b := tx.Bucket(usesBucket)
		k := lastSlot(b)
		at, _ := numberOf(k)
		n := uint64(0)
		must(t, eachOfSlot(b, k, func(v []byte) error { n += usesPerRecord; return b.Put(useKey(at>>16, n), bytes.Clone(v)) }))
		must(t, b.SetSequence(n+usesPerRecord))
		must(t, b.DeleteBucket(k))
		return tx.Bucket(metaBucket).Put(formatKey, number(3))
	})
	for range 2 {
		s = open(t, path, small)
		got, err := s.ListTokens(t.Context(), storage.TokenQuery{Limit: 1000})
		must(t, err)
		if !reflect.DeepEqual(got, want) || s.Stats().Tokens != len(want.Tokens) || used < 50 {
			t.Fatalf("%d tokens, and %d by the count, want %d; %d uses", len(got.Tokens), s.Stats().Tokens, len(want.Tokens), used)
		}
		n := uint32(0)
		for _, x := range got.Tokens {
			st, err := s.Statuses(t.Context(), []*storage.Token{x})
			must(t, err)
			n += st[0].Uses
		}
		if n != used {
			t.Fatalf("%d uses, want %d", n, used)
		}
		must(t, s.view(t.Context(), func(tx *bbolt.Tx) error {
			if f, _ := numberOf(tx.Bucket(metaBucket).Get(formatKey)); f != format {
				t.Errorf("format %d, want %d", f, format)
			}
			return tx.Bucket(usesBucket).ForEach(func(k, v []byte) error {
				if v == nil || len(k) != useKeyBytes {
					t.Errorf("%x is no key of uses", k)
				}
				return nil
			})
		}))
		check(t, s)
	}
	s = open(t, path, small)
	must(t, insert(t, s, 500))
	must(t, redeem(t, s, 500, 500))
	swept, err := s.Sweep(t.Context(), benchStart.Add(100*24*time.Hour), 0)
	must(t, err)
	if swept.Tokens != len(want.Tokens)+1 || s.Stats().Tokens != 0 {
		t.Fatalf("%d tokens were swept, want %d; %d are left", swept.Tokens, len(want.Tokens)+1, s.Stats().Tokens)
	}
	must(t, s.view(t.Context(), func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{tokensBucket, usesBucket} {
			if k, _ := tx.Bucket(name).Cursor().First(); k != nil {
				t.Errorf("%s: %x is left", name, k)
			}
		}
		return nil
	}))
	check(t, s)
}
