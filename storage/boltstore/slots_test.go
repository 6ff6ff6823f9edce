package boltstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// A token stays in the file for an eighth of its life longer at most, or for a minute.
func TestStretchOf(t *testing.T) {
	for _, c := range []struct {
		life    time.Duration
		minutes uint64
	}{
		{-time.Hour, 1}, {0, 1}, {time.Minute, 1}, {128*time.Minute - 1, 1}, {128 * time.Minute, 16},
		{24 * time.Hour, 16}, {2048*time.Minute - 1, 16}, {2048 * time.Minute, 256}, {10 * 365 * 24 * time.Hour, 256},
	} {
		if got := stretchOf(c.life).minutes(); got != c.minutes {
			t.Errorf("a token that lives for %v lies in a slot of %d minutes, want %d", c.life, got, c.minutes)
		}
	}
	for _, over := range []stretch{oneMinute, longer, longest} {
		at := slotOf(30_000_000+255, over, 7)
		if first := at.minute(); first%over.minutes() != 0 || first > 30_000_255 || at.stretch() != over || at.shard() != 7 ||
			at.began() > 30_000_255*msPerMinute || at.ended() < 30_000_256*msPerMinute-1 ||
			at.ended()-at.began() != int64(over.minutes())*msPerMinute-1 || at.first() != slotOf(30_000_255, over, 0) {
			t.Errorf("slot %x: minute %d, stretch %d, shard %d, from %d to %d", at, at.minute(), at.stretch(), at.shard(), at.began(), at.ended())
		}
	}
}

// A token is looked for first in the slots with the most tokens to a minute, and of their
// shards in the newest.
func TestCandidates(t *testing.T) {
	const minute = 30_000_100
	x := newSlots()
	all := span{0, math.MaxUint64}
	fill := func(over stretch, tokens ...int) {
		for shard, n := range tokens {
			x.extend(slotOf(minute, over, shard), all.lo, all.hi, n)
		}
	}
	id := firstID(minute * msPerMinute)
	want := func(at ...slot) {
		t.Helper()
		if got := x.candidates(id, nil); !slices.Equal(got, at) {
			t.Errorf("token in minute %d: candidates %x, want %x", minute, got, at)
		}
		var nth [abreast]slot
		for n, s := range at {
			if !x.next(n, []storage.TokenID{id}, make([][]byte, 1), 0, &nth) || nth[0] != s {
				t.Errorf("the %d-th likeliest slot is %x, want %x", n, nth[0], s)
			}
		}
		if x.next(len(at), []storage.TokenID{id}, make([][]byte, 1), 0, &nth) {
			t.Errorf("slot %x beside %x", nth[0], at)
		}
	}
	want()
	fill(longest, 2560) // 10 to a minute
	want(slotOf(minute, longest, 0))
	fill(longer, 1600) // 100
	fill(oneMinute, 20, 20, 10)
	want(slotOf(minute, longer, 0), slotOf(minute, oneMinute, 2), slotOf(minute, oneMinute, 1), slotOf(minute, oneMinute, 0), slotOf(minute, longest, 0))
	x.forget(slotOf(minute, longer, 0))
	x.forget(slotOf(minute, oneMinute, 1))
	want(slotOf(minute, oneMinute, 2), slotOf(minute, oneMinute, 0), slotOf(minute, longest, 0))
	x.forget(slotOf(minute, oneMinute, 2))
	x.forget(slotOf(minute, oneMinute, 0))
	x.forget(slotOf(minute, longest, 0))
	for range 2 { // a slot is known again, beside another that stays
		fill(longest, 1)
		fill(longer, 1)
		want(slotOf(minute, longer, 0), slotOf(minute, longest, 0))
		x.forget(slotOf(minute, longest, 0))
		want(slotOf(minute, longer, 0))
		fill(longest, 1)
		x.forget(slotOf(minute, longest, 0))
		want(slotOf(minute, longer, 0))
		x.forget(slotOf(minute, longer, 0))
	}
	if want(); len(x.frames) != 0 {
		t.Errorf("%d frames are left", len(x.frames))
	}
}

// A slot whose tokens are all swept goes before its minutes are over, but not where
// others have come to it meanwhile, be that just before or in the same group.
func TestDropSparesNewTokens(t *testing.T) {
	issued, day := benchStart, 24*time.Hour
	token := func(n byte, life time.Duration) *storage.Token {
		x := &storage.Token{ID: firstID(issued.Add(life).UnixMilli()), Tenant: "acme", Subject: "ada", Issuer: "login", MaxUses: 1, IssuedAt: issued}
		x.ID[15] = n
		return x
	}
	lies := func(x *storage.Token) slot { return slotOf(minuteOf(x.ID), stretchOf(x.ID.Expiry().Sub(issued)), 0) }
	old, late := token(1, 10*day), token(2, 10*day+time.Minute)
	if lies(old) != lies(late) || lies(old).stretch() != longest {
		t.Fatalf("slots %x and %x", lies(old), lies(late))
	}
	for _, when := range []string{"never", "before", "in the same group"} {
		t.Run(when, func(t *testing.T) {
			s, g := gated(t)
			_, err := s.Insert(t.Context(), []*storage.Token{old})
			must(t, err)
			swept := late.ID.Expiry().UnixMilli() - 1
			must(t, s.do(t.Context(), &call{items: 1, sweep: true, decide: func(g *group) error {
				s.ledger.Sweep(swept)
				return g.bucket(metaBucket, func(b *bbolt.Bucket) error { return b.Put(sweptKey, number(uint64(swept))) })
			}}))
			at, _, err := s.overSlots(t.Context(), swept)
			must(t, err)
			if len(at) != 1 || at[0] != lies(old) {
				t.Fatalf("slots %x are over, want %x", at, lies(old))
			}
			var wg sync.WaitGroup
			insert := func() { _, err := s.Insert(t.Context(), []*storage.Token{late}); must(t, err) }
			switch when {
			case "before":
				insert()
				must(t, s.dropSlots(t.Context(), at, swept))
			case "in the same group":
				release := g.hold(s)
				wg.Go(func() { must(t, s.dropSlots(t.Context(), at, swept)) })
				for len(s.queue) < 1 {
					time.Sleep(time.Millisecond)
				}
				wg.Go(insert)
				for len(s.queue) < 2 {
					time.Sleep(time.Millisecond)
				}
				release()
				wg.Wait()
			default:
				must(t, s.dropSlots(t.Context(), at, swept))
			}
			s.fresh = newFresh(1000)
			for range 2 {
				found, err := s.Lookup(t.Context(), []storage.TokenID{old.ID, late.ID})
				must(t, err)
				if found[0] != nil || (found[1] != nil) != (when != "never") {
					t.Errorf("found %v and %v", found[0], found[1])
				}
				n := 0
				must(t, s.view(t.Context(), func(tx *bbolt.Tx) error {
					return eachSlot(tx.Bucket(tokensBucket), 0, func(_ slot, b *bbolt.Bucket) error { n += int(b.Sequence()); return nil })
				}))
				if want := map[string]int{"never": 0, "before": 2, "in the same group": 1}[when]; n != want {
					t.Errorf("%d tokens are in the file, want %d", n, want)
				}
				path := s.path
				check(t, s)
				s = open(t, path, small)
			}
			check(t, s)
		})
	}
}

// Tokens that live for half a minute to two months, issued in any order, are found and
// listed while they live, through restarts and full slots, and each is counted once when
// it is swept; with the last of a slot its room is free.
func TestTokensOfMixedLives(t *testing.T) {
	const n = 3000
	opts := small
	opts.slotTokens, opts.GroupItems = 6, 512
	path := t.TempDir() + "/gatehouse.db"
	s := open(t, path, opts)
	r := rand.New(rand.NewPCG(3, 4))
	var live []*storage.Token
	for range n {
		issued := benchStart.Add(-time.Duration(r.Int64N(int64(12 * time.Hour))))
		life := time.Duration(float64(30*time.Second) * math.Pow(2*60*24*60, r.Float64()))
		x := &storage.Token{Tenant: "acme", Subject: "ada", Issuer: "login", MaxUses: 1, UserAgent: make([]byte, r.IntN(80)), IssuedAt: issued}
		binary.BigEndian.PutUint64(x.ID[:], uint64(issued.Add(life).UnixMilli())<<16|r.Uint64N(1<<16))
		binary.BigEndian.PutUint64(x.ID[8:], r.Uint64())
		live = append(live, x)
	}
	for part := range slices.Chunk(live, 100) {
		results, err := s.Insert(t.Context(), part)
		must(t, err)
		for i := range results {
			must(t, results[i].Err)
		}
	}
	slices.SortFunc(live, func(a, b *storage.Token) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	if at, more, err := s.overSlots(t.Context(), math.MaxInt64); err != nil || !more || len(at) > opts.slotTokens {
		t.Errorf("one step would drop %d slots, and is not the last: %v; they may have %d tokens in all; %v", len(at), more, opts.slotTokens, err)
	}

	for _, at := range []time.Duration{
		-12 * time.Hour, -time.Hour, 0, 30 * time.Minute, time.Hour, 5 * time.Hour, 24 * time.Hour, 25 * time.Hour,
		10 * 24 * time.Hour, 20 * 24 * time.Hour, 61 * 24 * time.Hour,
	} {
		now := benchStart.Add(at + 17*time.Second)
		gone := 0
		for gone < len(live) && live[gone].ID.Expiry().Before(now) {
			gone++
		}
		swept, err := s.Sweep(t.Context(), now, 0)
		must(t, err)
		if swept.Tokens != gone {
			t.Fatalf("after %v %d tokens were swept, want %d", at, swept.Tokens, gone)
		}
		if n := len(s.slots.frames); len(live) == gone && n != 0 {
			t.Errorf("%d frames are known of an empty store", n)
		}
		dead := live[:min(gone, 50)]
		live = live[gone:]
		for _, restarted := range []bool{false, true} {
			if restarted {
				check(t, s)
				s = open(t, path, opts)
			}
			has(t, s, live, dead)
		}
		stretched(t, s, live)
	}
	check(t, s)
}

// One step drops so many slots at most, however small they are.
func TestStepOfSmallSlots(t *testing.T) {
	s := open(t, t.TempDir()+"/gatehouse.db", Options{MapBytes: 16 << 20, AheadBytes: 1, noSync: true})
	var tokens []*storage.Token
	for i := range stepSlots + 10 {
		x := tokenOf(t, byte(i), 10, benchStart.Add(time.Duration(i)*time.Minute))
		x.IssuedAt = x.ID.Expiry().Add(-30 * time.Second)
		tokens = append(tokens, x)
	}
	_, err := s.Insert(t.Context(), tokens)
	must(t, err)
	if at, more, err := s.overSlots(t.Context(), math.MaxInt64); err != nil || !more || len(at) != stepSlots {
		t.Errorf("the first step would drop %d slots, and is not the last: %v, %v; want %d of %d", len(at), more, err, stepSlots, len(tokens))
	}
	swept, err := s.Sweep(t.Context(), tokens[len(tokens)-1].ID.Expiry().Add(time.Minute), 0)
	must(t, err)
	if swept.Tokens != len(tokens) {
		t.Errorf("%d tokens were swept, want %d", swept.Tokens, len(tokens))
	}
	check(t, s)
}

// What is swept ends at any millisecond: around the edges of slots of every stretch
// each token, and that it was used, is kept as long as it must be and counted once.
func TestSweepAtEdges(t *testing.T) {
	for _, life := range []time.Duration{time.Minute, 200 * time.Minute, 3000 * time.Minute} {
		for _, step := range []int{1, 5} { // with 5, from one slot's first millisecond to the next one's
			sweepAtEdges(t, life, step)
		}
	}
}

func sweepAtEdges(t *testing.T, life time.Duration, step int) {
	const base = 30_000_128 &^ 255 * msPerMinute
	minutes := stretchOf(life).minutes()
	var ends []int64
	for edge := range int64(3) {
		for d := int64(-2); d <= 2; d++ {
			ends = append(ends, base+edge*int64(minutes)*msPerMinute+d)
		}
	}
	path := t.TempDir() + "/gatehouse.db"
	s := open(t, path, small)
	must(t, s.PutInstance(t.Context(), &storage.Instance{ID: testNode, Node: "node-1", RegisteredAt: benchStart}))
	n := 0
	use := func(x *storage.Token) error {
		n++
		r, err := s.Redeem(t.Context(), []storage.Redemption{{Token: x, Session: testSession(n)}})
		must(t, err)
		return r[0].Err
	}
	var live []*storage.Token
	for i, ms := range ends {
		x := &storage.Token{Tenant: "acme", Subject: "ada", MaxUses: 1, IssuedAt: time.UnixMilli(ms).Add(-life)}
		binary.BigEndian.PutUint64(x.ID[:], uint64(ms)<<16)
		x.ID[15] = byte(i)
		live = append(live, x)
	}
	_, err := s.Insert(t.Context(), live)
	must(t, err)
	for _, x := range live {
		must(t, use(x))
	}
	for i, ms := range ends {
		if i%step != step/2 && i != len(ends)-1 {
			continue
		}
		now := time.UnixMilli(ms + 1)
		gone := 0
		for gone < len(live) && live[gone].ID.Expiry().Before(now) {
			gone++
		}
		swept, err := s.Sweep(t.Context(), now, 0)
		must(t, err)
		if swept.Tokens != gone {
			t.Errorf("slots of %d minutes, at %d: %d tokens were swept, want %d", minutes, ms-base, swept.Tokens, gone)
		}
		dead := live[:gone]
		live = live[gone:]
		for range 2 {
			has(t, s, live, dead)
			for _, x := range live {
				if err := use(x); !errors.Is(err, storage.ErrUsed) {
					t.Errorf("slots of %d minutes, at %d: a used token: %v", minutes, ms-base, err)
				}
			}
			check(t, s)
			s = open(t, path, small)
		}
	}
	check(t, s)
}

// has proves that a store has these tokens and no others.
func has(t *testing.T, s *Store, live, dead []*storage.Token) {
	t.Helper()
	if n := s.Stats().Tokens; n != len(live) {
		t.Fatalf("it counts %d tokens, want %d", n, len(live))
	}
	ids := make([]storage.TokenID, 0, len(live)+len(dead))
	for _, x := range slices.Concat(live, dead) {
		ids = append(ids, x.ID)
	}
	found, err := s.Lookup(t.Context(), ids)
	must(t, err)
	for i, x := range found {
		if (x != nil) != (i < len(live)) || x != nil && x.ID != ids[i] {
			t.Fatalf("token %x of %d live and %d dead ones: found %v", ids[i], len(live), len(dead), x != nil)
		}
	}
	must(t, s.view(t.Context(), func(tx *bbolt.Tx) error {
		f := finder{slots: s.slots, tokens: tx.Bucket(tokensBucket)}
		for _, x := range live {
			if f.find(x.ID) == nil {
				t.Fatalf("token %x is not found by a cursor", x.ID)
			}
		}
		return nil
	}))
	for _, from := range []int{0, len(live) / 3, len(live) * 2 / 3} {
		q := storage.TokenQuery{Limit: 70}
		if from > 0 {
			q.After = live[from-1].ID
		}
		var listed []storage.TokenID
		for more := true; more; {
			page, err := s.ListTokens(t.Context(), q)
			must(t, err)
			for _, x := range page.Tokens {
				listed = append(listed, x.ID)
			}
			q.After, more = page.Next, page.More
		}
		if !slices.Equal(listed, ids[from:len(live)]) {
			t.Fatalf("from the %d-th on %d tokens are listed, want %d in their order", from, len(listed), len(live)-from)
		}
	}
	n, _, err := s.Count(t.Context(), storage.Selector{Tenant: "acme"}, time.UnixMilli(0))
	must(t, err)
	if n != len(live) {
		t.Fatalf("%d tokens would be hit, want %d", n, len(live))
	}
}

// stretched proves that slots hold what they may, and are gone when they are over; and
// where there are many tokens, that each stretch has some, the longer one also some that
// the longest had no room for.
func stretched(t *testing.T, s *Store, live []*storage.Token) {
	t.Helper()
	seen, spilled := map[stretch]int{}, 0
	wants := map[storage.TokenID]stretch{}
	for _, x := range live {
		wants[x.ID] = stretchOf(x.ID.Expiry().Sub(x.IssuedAt))
	}
	must(t, s.view(t.Context(), func(tx *bbolt.Tx) error {
		return eachSlot(tx.Bucket(tokensBucket), 0, func(at slot, b *bbolt.Bucket) error {
			n := 0
			must(t, b.ForEach(func(k, _ []byte) error {
				n++
				id := storage.TokenID(k)
				want, alive := wants[id]
				if slotOf(minuteOf(id), at.stretch(), at.shard()) != at || alive && want < at.stretch() {
					return fmt.Errorf("token %x lies in slot %x", k, at)
				}
				if alive && want == longest && at.stretch() == longer {
					spilled++
				}
				return nil
			}))
			if isOver(at, b, s.ledger.Swept()) {
				return fmt.Errorf("slot %x with %d tokens is over", at, n)
			}
			if n == 0 || n > s.opts.slotTokens || n != int(b.Sequence()) {
				return fmt.Errorf("slot %x has %d tokens and counts %d, at most %d are allowed", at, n, b.Sequence(), s.opts.slotTokens)
			}
			seen[at.stretch()]++
			return nil
		})
	}))
	if len(live) > 1500 && (len(seen) < stretches || spilled == 0) {
		t.Errorf("slots by their stretch: %v; %d tokens spilled over", seen, spilled)
	}
}
