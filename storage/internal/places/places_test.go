package places

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/gatehouse-ws/gatehouse/storage"
)

func numberedID(n uint64) (id storage.TokenID) {
	binary.BigEndian.PutUint64(id[8:], n)
	return id
}

// FuzzTable compares a table with a map. Each byte of the script puts or removes
// one of 128 keys; a tag of few bits makes them meet and wrap around.
func FuzzTable(f *testing.F) {
	for _, n := range []int{1, 9, 300, 5000} {
		script := make([]byte, n)
		r := rand.NewChaCha8([32]byte{byte(n)})
		r.Read(script)
		f.Add(script, uint8(n))
	}
	f.Fuzz(func(t *testing.T, script []byte, narrow uint8) {
		keys := []storage.TokenID{{}} // by place
		p := New(func(i uint32) storage.TokenID { return keys[i] })
		if narrow&1 == 1 { // all hashes are small multiples of a seed: few shards, long runs
			p.seed = [2]uint64{0, uint64(narrow)}
		}
		want := make(map[storage.TokenID]uint32)
		for step, b := range script {
			k := numberedID(uint64(b & 0x7f))
			if b&0x80 == 0 {
				keys = append(keys, k)
				p.Put(k, uint32(len(keys)-1))
				want[k] = uint32(len(keys) - 1)
			} else {
				p.Remove(k)
				delete(want, k)
			}
			if p.n != len(want) {
				t.Fatalf("step %d: %d keys, want %d", step, p.n, len(want))
			}
		}
		for n := range uint64(128) {
			if got := p.Get(numberedID(n)); got != want[numberedID(n)] {
				t.Fatalf("key %d has place %d, want %d", n, got, want[numberedID(n)])
			}
		}
		for i := range p.shards {
			if s := &p.shards[i]; len(s.slots) > minShard && s.n < len(s.slots)/8 || s.n > len(s.slots)/4*3 {
				t.Fatalf("%d keys in %d slots", s.n, len(s.slots))
			}
		}
	})
}

// Memory follows what is live: 4.6 million keys come and go, half a million at a
// time.
func TestTableShrinks(t *testing.T) {
	const live = 20_000
	p := New(func(i uint32) storage.TokenID { return numberedID(uint64(i)) })
	slots := func() (n int) {
		for i := range p.shards {
			n += len(p.shards[i].slots)
		}
		return n
	}
	for i := uint32(1); i <= 10*live; i++ {
		p.Put(numberedID(uint64(i)), i)
		if i > live {
			p.Remove(numberedID(uint64(i - live)))
		}
	}
	if n := slots(); n > 4*live {
		t.Errorf("%d slots for %d keys", n, live)
	}
	for i := uint32(9*live + 1); i <= 10*live; i++ {
		p.Remove(numberedID(uint64(i)))
	}
	if n := slots(); p.n != 0 || n > shardCount*minShard {
		t.Errorf("%d slots and %d keys are left", n, p.n)
	}
}

// BenchmarkTable is what a redemption asks of an index, and what forgets it
// again: a look-up that finds nothing, an insertion, a removal. The map does the
// same.
func BenchmarkTable(b *testing.B) {
	for _, n := range []int{10_000, 1_000_000} {
		ids := make([]storage.TokenID, 2*n+1)
		for i := range ids {
			binary.BigEndian.PutUint64(ids[i][:], rand.Uint64())
			binary.BigEndian.PutUint64(ids[i][8:], rand.Uint64())
		}
		// The live keys move through ids, so that the next is never in the cache.
		b.Run(fmt.Sprintf("table/%d", n), func(b *testing.B) {
			p := New(func(i uint32) storage.TokenID { return ids[i] })
			for i := 1; i <= n; i++ {
				p.Put(ids[i], uint32(i))
			}
			for i := n; b.Loop(); i++ {
				in, out := 1+i%(2*n), 1+(i+n)%(2*n)
				if p.Get(ids[in]) == 0 {
					p.Put(ids[in], uint32(in))
				}
				p.Remove(ids[out])
			}
		})
		b.Run(fmt.Sprintf("map/%d", n), func(b *testing.B) {
			m := make(map[storage.TokenID]uint32)
			for i := 1; i <= n; i++ {
				m[ids[i]] = uint32(i)
			}
			for i := n; b.Loop(); i++ {
				in, out := 1+i%(2*n), 1+(i+n)%(2*n)
				if m[ids[in]] == 0 {
					m[ids[in]] = uint32(in)
				}
				delete(m, ids[out])
			}
		})
	}
}
