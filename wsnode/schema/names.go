package schema

import (
	"bytes"
	"hash/maphash"
)

// fewNames is how many names of an object are compared one by one.
const fewNames = 16

// seenBefore reports whether an object that is still open has the name at n
// already, to which the tape has come; count names stand before it.
func (t *tape) seenBefore(object, count, n uint32) bool {
	name := &t.entries[n]
	text := t.bytes(name)
	if count < fewNames {
		for i := object + 1; i < n; i = t.entries[i+1].next {
			if e := &t.entries[i]; e.n == name.n && bytes.Equal(t.bytes(e), text) {
				return true
			}
		}
		return false
	}
	if count == fewNames { // from here on the set knows them all
		for i := object + 1; i < n; i = t.entries[i+1].next {
			t.set.add(t.set.hash(t.bytes(&t.entries[i]), object), i, func(uint32) bool { return false })
		}
	}
	return t.set.add(t.set.hash(text, object), n, func(other uint32) bool {
		return bytes.Equal(t.bytes(&t.entries[other]), text) && t.within(other, object)
	})
}

// within reports whether a name is one of an object that is still open. All
// that comes after an open object's entry is in it; what is in a nested one has
// another hash, by chance aside.
func (t *tape) within(name, object uint32) bool {
	if name < object {
		return false
	}
	for i := object + 1; i <= name; i = t.entries[i+1].next {
		if i == name {
			return true
		}
	}
	return false
}

// set is a hash table of entries that costs nothing to clear.
type set struct {
	slots []slot // a power of two, at most half of them in use
	used  int
	round uint32 // in which slots in use were filled
}

type slot struct {
	hash  uint64
	entry uint32
	round uint32
}

// seed keeps peers from choosing names that collide.
var seed = maphash.MakeSeed()

func (*set) hash(text []byte, salt uint32) uint64 {
	return maphash.Bytes(seed, text) ^ uint64(salt)*scramble
}

func (s *set) clear() {
	s.used = 0
	if s.round++; s.round == 0 { // all rounds are used up
		clear(s.slots)
		s.round = 1
	}
}

// add puts an entry in unless one is there that has its hash and is the same,
// and reports whether one is.
func (s *set) add(hash uint64, e uint32, same func(other uint32) bool) bool {
	if 2*s.used >= len(s.slots) {
		s.grow()
	}
	mask := uint64(len(s.slots) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		at := &s.slots[i]
		if at.round != s.round {
			*at = slot{hash, e, s.round}
			s.used++
			return false
		}
		if at.hash == hash && same(at.entry) {
			return true
		}
	}
}

func (s *set) grow() {
	old := s.slots
	s.slots = make([]slot, max(64, 2*len(old)))
	mask := uint64(len(s.slots) - 1)
	for _, at := range old {
		if at.round != s.round {
			continue
		}
		i := at.hash & mask
		for s.slots[i].round == s.round {
			i = (i + 1) & mask
		}
		s.slots[i] = at
	}
}
