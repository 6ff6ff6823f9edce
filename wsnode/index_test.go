package wsnode

import (
	"hash/maphash"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
)

// Whatever peers come and go, the index finds those that are there, in lists
// that stay short, and gives back what it grew by.
func TestIndex(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 1))
	seed := maphash.MakeSeed()
	x := newIndex(func(p *peer) string { return p.subject }, func(s string) uint64 { return maphash.String(seed, s) }, func(p *peer) *links { return &p.bySubject })
	have := map[string][]*peer{}
	n := 0
	check := func() {
		t.Helper()
		found := 0
		x.all(func(p *peer) {
			found++
			if l := p.bySubject; l.next != nil && l.next.bySubject.prev != p || l.prev != nil && l.prev.bySubject.next != p {
				t.Fatal("a list is broken")
			}
		})
		if found != n || x.peers != n || x.lists < 1 || x.lists > x.high || x.high > 1 && x.lists <= x.high/2 {
			t.Fatalf("%d of %d peers in %d lists of %d", found, n, x.lists, x.high)
		}
		if x.lists < n/peersPerList || x.lists > 2*max(n, 1) || len(x.chunks)*chunkLists > x.lists+2*chunkLists {
			t.Fatalf("%d peers have %d lists and %d chunks", n, x.lists, len(x.chunks))
		}
		for key, want := range have {
			var got []*peer
			for p := x.first(key); p != nil; p = x.next(p) {
				got = append(got, p)
			}
			if len(got) != len(want) || slices.ContainsFunc(want, func(p *peer) bool { return !slices.Contains(got, p) }) {
				t.Fatalf("%d peers found for %s, want %d", len(got), key, len(want))
			}
		}
	}
	for _, phase := range []struct{ steps, adds int }{{3000, 90}, {3000, 50}, {6000, 20}} { // grow, stay, shrink
		for range phase.steps {
			key := strconv.Itoa(r.IntN(800)) // some have several peers
			if list := have[key]; r.IntN(100) < phase.adds {
				p := &peer{subject: key}
				x.add(p)
				have[key] = append(list, p)
				n++
			} else if len(list) > 0 {
				i := r.IntN(len(list))
				x.remove(list[i])
				if list[i].bySubject != (links{}) {
					t.Fatal("who is gone still has links")
				}
				have[key] = slices.Delete(list, i, i+1)
				n--
			}
		}
		check()
	}
	for _, list := range have {
		for _, p := range list {
			x.remove(p)
			n--
		}
	}
	clear(have)
	if check(); x.lists != 1 || x.high != 1 {
		t.Errorf("%d lists of %d for nobody", x.lists, x.high)
	}
}

// A peer leaves the list of a key that very many have as fast as any.
func TestIndexOfOneKey(t *testing.T) {
	seed := maphash.MakeSeed()
	x := newIndex(func(p *peer) string { return p.subject }, func(s string) uint64 { return maphash.String(seed, s) }, func(p *peer) *links { return &p.bySubject })
	peers := make([]peer, 50_000)
	for i := range peers {
		peers[i].subject = "u42"
		x.add(&peers[i])
	}
	for i := range peers { // in the order that is the worst for a list with one direction
		x.remove(&peers[i])
	}
	if x.peers != 0 || x.first("u42") != nil {
		t.Errorf("%d peers are left", x.peers)
	}
}
