// Package places is a table from ids to the places where a slab, or whatever
// numbers what it holds, has them.
package places

import (
	"encoding/binary"
	"iter"
	"math/bits"
	"math/rand/v2"
)

// Table finds the place of a key. It keeps no keys: the slab has them, and a slot
// is as small as a place and 32 bits of the key's hash. Most look-ups of a
// redemption find nothing, since its token is unused and its session id new; among
// millions of keys that is one line of memory, where Go's map, which keeps its
// control words apart, fetches two or three.
//
// It is cut into shards that grow each by itself, so that no insertion waits for
// more than a shard to be copied. The hash is seeded: nodes choose session ids.
// One goroutine at a time, but for readers among themselves.
type Table[K ~[16]byte] struct {
	keyOf  func(place uint32) K
	seed   [2]uint64
	shards [shardCount]shard
	n      int
}

// shardCount: with ten million keys the largest copy is half a megabyte.
const shardCount = 256

// shard is an open-addressed table with linear probing. Its length is zero or a
// power of two, and at least a quarter of it is free.
type shard struct {
	slots []slotted
	n     int
}

type slotted struct {
	tag   uint32 // of the hash; its low bits say where to look first
	place uint32 // 0: free
}

const minShard = 8

// New makes an empty table. keyOf is the key that the slab has at a place.
func New[K ~[16]byte](keyOf func(place uint32) K) *Table[K] {
	return &Table[K]{keyOf: keyOf, seed: [2]uint64{rand.Uint64(), rand.Uint64()}}
}

// Len is how many keys there are.
func (p *Table[K]) Len() int { return p.n }

// locate hashes k.
func (p *Table[K]) locate(k K) (*shard, uint32) {
	b := [16]byte(k)
	hi, lo := bits.Mul64(binary.LittleEndian.Uint64(b[:8])^p.seed[0], binary.LittleEndian.Uint64(b[8:])^p.seed[1])
	h := hi ^ lo
	return &p.shards[h>>56], uint32(h)
}

// Get is the place of k, or 0.
func (p *Table[K]) Get(k K) uint32 {
	s, tag := p.locate(k)
	if i := p.find(s, tag, k); i >= 0 {
		return s.slots[i].place
	}
	return 0
}

// Touch fetches the memory that Get will want of k, or most of it.
func (p *Table[K]) Touch(k K) uint32 {
	s, tag := p.locate(k)
	if len(s.slots) == 0 {
		return 0
	}
	return s.slots[tag&s.mask()].place
}

// Put sets the place of k, whose key the slab has by now.
func (p *Table[K]) Put(k K, place uint32) {
	s, tag := p.locate(k)
	if i := p.find(s, tag, k); i >= 0 {
		s.slots[i].place = place
		return
	}
	if s.n >= len(s.slots)/4*3 {
		s.resize(max(minShard, 2*len(s.slots)))
	}
	s.insert(slotted{tag, place})
	s.n++
	p.n++
}

// Remove forgets k. It needs k's key, so that comes before the slab's place is
// given back.
func (p *Table[K]) Remove(k K) {
	s, tag := p.locate(k)
	i := p.find(s, tag, k)
	if i < 0 {
		return
	}
	s.vacate(uint32(i))
	s.n--
	p.n--
	if len(s.slots) > minShard && s.n < len(s.slots)/8 {
		s.resize(len(s.slots) / 2)
	}
}

// find is the index of k's slot, or -1.
func (p *Table[K]) find(s *shard, tag uint32, k K) int {
	if len(s.slots) == 0 {
		return -1
	}
	for i := tag & s.mask(); ; i = (i + 1) & s.mask() {
		switch x := s.slots[i]; {
		case x.place == 0:
			return -1
		case x.tag == tag && p.keyOf(x.place) == k:
			return int(i)
		}
	}
}

func (s *shard) mask() uint32 { return uint32(len(s.slots) - 1) }

func (s *shard) insert(x slotted) {
	i := x.tag & s.mask()
	for s.slots[i].place != 0 {
		i = (i + 1) & s.mask()
	}
	s.slots[i] = x
}

// vacate frees slot i and moves up what would not be found behind a free slot.
func (s *shard) vacate(i uint32) {
	mask := s.mask()
	for j := (i + 1) & mask; s.slots[j].place != 0; j = (j + 1) & mask {
		home := s.slots[j].tag & mask
		if (j-home)&mask >= (j-i)&mask { // its way from home leads through i
			s.slots[i] = s.slots[j]
			i = j
		}
	}
	s.slots[i] = slotted{}
}

func (s *shard) resize(n int) {
	old := s.slots
	s.slots = make([]slotted, n)
	for _, x := range old {
		if x.place != 0 {
			s.insert(x)
		}
	}
}

// All is every key and its place, in no order.
func (p *Table[K]) All() iter.Seq2[K, uint32] {
	return func(yield func(K, uint32) bool) {
		for i := range p.shards {
			for _, x := range p.shards[i].slots {
				if x.place != 0 && !yield(p.keyOf(x.place), x.place) {
					return
				}
			}
		}
	}
}
