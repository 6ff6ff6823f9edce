package limit

import (
	"math"
	"sync"
)

// shard is a hash table of fixed size: chains through an array of entries.
type shard struct {
	mu sync.Mutex

	// set at construction
	entries []entry  // the first is never used: an index of 0 means none
	heads   []uint32 // by hash, a power of two of them

	// guarded by mu
	used  int
	fresh uint32 // entries from here on were never used
	free  uint32 // chain of entries given back
	// Until this instant no address can be forgotten, so that a full table costs
	// its next stranger no search.
	fullUntil int64

	_ [24]byte // shards on cache lines of their own
}

// never as fullUntil: every address has a socket.
const never = math.MaxInt64

type entry struct {
	key             uint64
	fullAt          int64 // when its window's bucket is full again; see nanosOf
	unauthenticated uint32
	reserved        uint32 // of the unauthenticated
	authenticated   uint32
	next            uint32
}

func (s *shard) init(capacity int) {
	heads := 1
	for heads < capacity {
		heads *= 2
	}
	s.entries = make([]entry, capacity+1)
	s.heads = make([]uint32, heads)
	s.fresh = 1
}

func (s *shard) head(hash uint64) *uint32 { return &s.heads[hash&uint64(len(s.heads)-1)] }

// find returns the entry of a key, or nil.
func (s *shard) find(hash, key uint64) *entry {
	for i := *s.head(hash); i != 0; i = s.entries[i].next {
		if s.entries[i].key == key {
			return &s.entries[i]
		}
	}
	return nil
}

// makeRoom reports whether there is room for one more entry, after forgetting
// what may be forgotten if there was none. whole is the length of a window.
func (s *shard) makeRoom(at, whole int64) bool {
	if s.free != 0 || int(s.fresh) < len(s.entries) {
		return true
	}
	if s.fullUntil == never || at < s.fullUntil && s.fullUntil-at <= whole {
		return false
	}
	s.fullUntil = never
	for h := range s.heads {
		for link := &s.heads[h]; *link != 0; {
			i := *link
			e := &s.entries[i]
			switch {
			case e.unauthenticated != 0 || e.authenticated != 0:
			case e.fullAt <= at || e.fullAt-at > whole: // the latter: the clock went back, or the window was longer
				*link, e.next, s.free = e.next, s.free, i
				s.used--
				continue
			default:
				s.fullUntil = min(s.fullUntil, e.fullAt)
			}
			link = &e.next
		}
	}
	return s.free != 0
}

// add makes an entry; makeRoom has said that there is room.
func (s *shard) add(hash, key uint64) *entry {
	i := s.free
	if i != 0 {
		s.free = s.entries[i].next
	} else {
		i = s.fresh
		s.fresh++
	}
	head := s.head(hash)
	s.entries[i] = entry{key: key, next: *head}
	*head = i
	s.used++
	return &s.entries[i]
}
