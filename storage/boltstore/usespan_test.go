package boltstore

import (
	"errors"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// Uses go with others of tokens that live about as long: into few slots, which
// last for four times the token's life longer at most.
func TestUseMinute(t *testing.T) {
	issued := time.UnixMilli(1_800_000_030_000)
	day := 24 * time.Hour
	for _, c := range []struct {
		life  time.Duration
		slots int // that tokens of that life use which are issued within it
	}{
		{time.Second, 1}, {time.Minute, 2}, {3 * time.Minute, 2}, {4 * time.Minute, 2}, {15 * time.Minute, 2},
		{16 * time.Minute, 2}, {time.Hour, 2}, {day, 2}, {30 * day, 4}, {365 * day, 33},
	} {
		seen := map[uint64]bool{}
		for at := time.Duration(0); at <= c.life; at += max(c.life/5000, time.Millisecond) {
			id := firstID(issued.Add(at + c.life).UnixMilli())
			minute, slot := minuteOf(id), useMinute(id, issued.Add(at))
			if slot < minute || time.Duration(slot-minute)*time.Minute >= max(4*c.life, time.Minute) {
				t.Fatalf("a token that lives for %v and expires in minute %d: slot %d", c.life, minute, slot)
			}
			seen[slot] = true
		}
		if len(seen) < c.slots-1 || len(seen) > c.slots+1 {
			t.Errorf("tokens that live for %v: %d slots, want about %d", c.life, len(seen), c.slots)
		}
	}
	if id := firstID(issued.UnixMilli()); useMinute(id, issued.Add(time.Hour)) != minuteOf(id) {
		t.Error("a token that expired before it was issued has a slot beyond its minute")
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
		return eachSlot(tx.Bucket(usesBucket), 0, func(at slot, _ *bbolt.Bucket) error {
			t.Errorf("slot %x of uses is left", at.key())
			return nil
		})
	}))
	check(t, s)
}
