package ledger

import "github.com/gatehouse-ws/gatehouse/storage/internal/places"

// slab holds values by place, a small number that is never zero. It grows
// without moving what it holds.
type slab[T any] struct {
	chunks []*[chunkSize]T
	used   uint32 // places given out so far
	free   []uint32
}

const chunkSize = 1024

func (s *slab[T]) at(i uint32) *T { return &s.chunks[i/chunkSize][i%chunkSize] }

func (s *slab[T]) take() uint32 {
	if n := len(s.free); n > 0 {
		i := s.free[n-1]
		s.free = s.free[:n-1]
		return i
	}
	s.used++
	if int(s.used/chunkSize) >= len(s.chunks) {
		s.chunks = append(s.chunks, new([chunkSize]T))
	}
	return s.used
}

func (s *slab[T]) giveBack(i uint32) {
	var zero T
	*s.at(i) = zero
	s.free = append(s.free, i)
}

// tally counts live sessions by key. A key has a place as long as its count is
// not zero, so that a session can name its keys in few bytes. Places whose
// count falls to zero are given up only by settle: until then the group may
// still be undone.
type tally[K ~[16]byte] struct {
	places *places.Table[K]
	slab[counter[K]]
	zero []uint32
}

type counter[K ~[16]byte] struct {
	key    K
	n      uint32
	newest uint32 // of the subject's uses that are live
	pin    bool   // keeps its place at zero
}

func newTally[K ~[16]byte]() *tally[K] {
	t := &tally[K]{}
	t.places = places.New(func(i uint32) K { return t.at(i).key })
	return t
}

// place finds or makes k's place, without counting.
func (t *tally[K]) place(k K) uint32 {
	if i := t.places.Get(k); i != 0 {
		return i
	}
	i := t.take()
	t.at(i).key = k
	t.places.Put(k, i)
	t.zero = append(t.zero, i)
	return i
}

func (t *tally[K]) add1(i uint32) { t.at(i).n++ }

func (t *tally[K]) drop1(i uint32) {
	c := t.at(i)
	if c.n--; c.n == 0 {
		t.zero = append(t.zero, i)
	}
}

func (t *tally[K]) setPin(i uint32, pin bool) {
	t.at(i).pin = pin
	t.zero = append(t.zero, i)
}

func (t *tally[K]) settle() {
	for _, i := range t.zero {
		c := t.at(i)
		if c.n > 0 || c.pin {
			continue
		}
		if t.places.Get(c.key) == i {
			t.places.Remove(c.key)
			t.giveBack(i)
		}
	}
	t.zero = t.zero[:0]
}
