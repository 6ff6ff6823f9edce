package boltstore

import (
	"slices"
	"sync"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// slots knows which shards of a minute a token can lie in: for each, the lowest
// and highest id that was ever put there, by their prefixes. Tokens come
// roughly in the order of their ids, so mostly one shard is in question and
// for a new token none. It may know of more than was committed, never of less.
type slots struct {
	mu       sync.RWMutex
	byMinute map[uint64][]span // in the order of shards
	used     map[uint64]int    // the shard of a minute that takes uses, where it is not 0
}

type span struct{ lo, hi uint64 }

// noSpan holds nothing.
var noSpan = span{lo: ^uint64(0)}

func newSlots() *slots {
	return &slots{byMinute: make(map[uint64][]span), used: make(map[uint64]int)}
}

// newestUse is the shard of a minute that takes uses.
func (x *slots) newestUse(minute uint64) int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.used[minute]
}

// use says that there is a slot of uses.
func (x *slots) use(s slot) {
	if s.shard() == 0 {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.used[s.minute()] = max(x.used[s.minute()], s.shard())
}

// forgetUses forgets a minute's slots of uses.
func (x *slots) forgetUses(minute uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.used, minute)
}

// newest is the shard of a minute that takes tokens.
func (x *slots) newest(minute uint64) int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return max(len(x.byMinute[minute])-1, 0)
}

// extend says that the slot holds ids from lo to hi.
func (x *slots) extend(s slot, lo, hi uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	spans := x.byMinute[s.minute()]
	for len(spans) <= s.shard() {
		spans = append(spans, noSpan)
	}
	p := &spans[s.shard()]
	p.lo, p.hi = min(p.lo, lo), max(p.hi, hi)
	x.byMinute[s.minute()] = spans
}

// forget forgets a slot; a minute is forgotten with its last one.
func (x *slots) forget(s slot) {
	x.mu.Lock()
	defer x.mu.Unlock()
	spans := x.byMinute[s.minute()]
	if s.shard() < len(spans) {
		spans[s.shard()] = noSpan
	}
	if !slices.ContainsFunc(spans, func(p span) bool { return p != noSpan }) {
		delete(x.byMinute, s.minute())
	}
}

// candidates appends the slots that id can lie in, the likeliest first.
func (x *slots) candidates(id storage.TokenID, to []slot) []slot {
	minute, p := minuteOf(id), prefixOf(id)
	x.mu.RLock()
	defer x.mu.RUnlock()
	spans := x.byMinute[minute]
	for shard := newestOf(spans, p); shard >= 0; shard = newestOf(spans[:shard], p) {
		to = append(to, slotOf(minute, shard))
	}
	return to
}

// newestOf is the last of spans that holds a prefix, or -1.
func newestOf(spans []span, prefix uint64) int {
	for i := len(spans) - 1; i >= 0; i-- {
		if spans[i].lo <= prefix && prefix <= spans[i].hi {
			return i
		}
	}
	return -1
}

// likeliest sets the likeliest slot of each id that is not swept and has no record
// yet; that of any other, or of one that lies in no slot, is noSlot.
func (x *slots) likeliest(ids []storage.TokenID, records [][]byte, swept int64, to *[abreast]slot) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for i, id := range ids {
		to[i] = noSlot
		if records[i] != nil || id.Expiry().UnixMilli() <= swept {
			continue
		}
		minute := minuteOf(id)
		if shard := newestOf(x.byMinute[minute], prefixOf(id)); shard >= 0 {
			to[i] = slotOf(minute, shard)
		}
	}
}

// finder looks tokens up in one transaction. It keeps the cursors of the slots
// it has met, for the next token is likely to lie in one of them.
type finder struct {
	slots  *slots
	tokens *bbolt.Bucket
	open   []openSlot
	where  []slot
}

type openSlot struct {
	slot   slot
	cursor *bbolt.Cursor // nil: there is no such slot
}

// maxOpen bounds what find must look through.
const maxOpen = 32

// find returns the record of a token, which lives as long as the transaction,
// or nil.
func (f *finder) find(id storage.TokenID) []byte {
	f.where = f.slots.candidates(id, f.where[:0])
	for _, s := range f.where {
		c := f.cursor(s)
		if c == nil {
			continue
		}
		if k, v := c.Seek(id[:]); string(k) == string(id[:]) {
			return v
		}
	}
	return nil
}

func (f *finder) cursor(s slot) *bbolt.Cursor {
	for i := range f.open {
		if f.open[i].slot == s {
			return f.open[i].cursor
		}
	}
	var c *bbolt.Cursor
	if b := f.tokens.Bucket(s.key()); b != nil {
		c = b.Cursor()
	}
	if len(f.open) < maxOpen {
		f.open = append(f.open, openSlot{s, c})
	}
	return c
}
