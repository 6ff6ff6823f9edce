package boltstore

import (
	"maps"
	"slices"
	"sync"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// slots knows which slots a token can lie in: for each shard, the lowest and
// highest id that was ever put there, by their prefixes. Tokens come roughly in the
// order of their ids, so mostly one shard is in question and for a new token none.
// It may know of more than was committed, and of less only of what is swept.
type slots struct {
	mu     sync.RWMutex
	frames map[uint64]*frame // by frameOf their minutes
}

// frame is the slots of one longest stretch.
type frame struct {
	at   [framed]uint16 // where in all, from 1, the shards of a slot are; 0: nowhere yet
	all  []shards
	live int // of all, those that are known
}

// framed is how many slots a frame has, shards apart.
const framed = 1 + 1<<stretchStep + 1<<(2*stretchStep)

// shards are the slots of the same minutes, and how many tokens were put there.
type shards struct {
	spans  []span
	tokens int
}

type span struct{ lo, hi uint64 }

// noSpan holds nothing.
var noSpan = span{lo: ^uint64(0)}

func newSlots() *slots { return &slots{frames: make(map[uint64]*frame)} }

// place is where in its frame a slot is: the longest come first.
func place(minute uint64, over stretch) int {
	const mask = 1<<(2*stretchStep) - 1
	first := [stretches]int{oneMinute: 1 + 1<<stretchStep, longer: 1, longest: 0}
	return first[over] + int(minute&mask)>>(int(over)*stretchStep)
}

func frameOf(minute uint64) uint64 { return minute >> (int(longest) * stretchStep) }

// of is the shards of a slot's minutes, or nil.
func (x *slots) of(s slot) *shards {
	f := x.frames[frameOf(s.minute())]
	if f == nil {
		return nil
	}
	return f.shards(s.minute(), s.stretch())
}

func (f *frame) shards(minute uint64, over stretch) *shards {
	n := f.at[place(minute, over)]
	if n == 0 || f.all[n-1].spans == nil {
		return nil
	}
	return &f.all[n-1]
}

// newest is the shard that takes tokens, of those of a slot's minutes.
func (x *slots) newest(s slot) slot {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if of := x.of(s); of != nil {
		return s.first() + slot(len(of.spans)-1)
	}
	return s.first()
}

// extend says that the slot holds so many more tokens, with ids from lo to hi.
func (x *slots) extend(s slot, lo, hi uint64, tokens int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	f := x.frames[frameOf(s.minute())]
	if f == nil {
		f = new(frame)
		x.frames[frameOf(s.minute())] = f
	}
	n := &f.at[place(s.minute(), s.stretch())]
	if *n == 0 {
		f.all = append(f.all, shards{})
		*n = uint16(len(f.all))
	}
	of := &f.all[*n-1]
	if of.spans == nil {
		f.live++
	}
	for len(of.spans) <= s.shard() {
		of.spans = append(of.spans, noSpan)
	}
	p := &of.spans[s.shard()]
	p.lo, p.hi = min(p.lo, lo), max(p.hi, hi)
	of.tokens += tokens
}

// forget forgets a slot; those of the same minutes are forgotten with the last.
func (x *slots) forget(s slot) {
	x.mu.Lock()
	defer x.mu.Unlock()
	of := x.of(s)
	if of == nil {
		return
	}
	if s.shard() < len(of.spans) {
		of.spans[s.shard()] = noSpan
	}
	if slices.ContainsFunc(of.spans, func(p span) bool { return p != noSpan }) {
		return
	}
	*of = shards{}
	f := x.frames[frameOf(s.minute())]
	if f.live--; f.live == 0 {
		delete(x.frames, frameOf(s.minute()))
	}
}

// forgetSwept forgets what is left of slots that have ended by a Unix millisecond: those
// of groups that failed.
func (x *slots) forgetSwept(swept int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	now := frameOf(uint64(max(swept, 0)) / msPerMinute)
	maps.DeleteFunc(x.frames, func(n uint64, _ *frame) bool { return n < now })
}

// candidates appends the slots that id can lie in, the likeliest first: those with
// the most tokens to a minute, and of their shards the newest.
func (x *slots) candidates(id storage.TokenID, to []slot) []slot {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.likely(id, to)
}

func (x *slots) likely(id storage.TokenID, to []slot) []slot {
	minute, p := minuteOf(id), prefixOf(id)
	f := x.frames[frameOf(minute)]
	if f == nil {
		return to
	}
	var density [stretches]int // of what was appended, by stretch
	began := len(to)
	for over := longest; over >= oneMinute; over-- {
		of := f.shards(minute, over)
		if of == nil {
			continue
		}
		density[over] = of.tokens << (int(longest-over) * stretchStep)
		at := began
		for at < len(to) && density[to[at].stretch()] > density[over] {
			at++
		}
		first := slotOf(minute, over, 0)
		for shard := newestOf(of.spans, p); shard >= 0; shard = newestOf(of.spans[:shard], p) {
			to = slices.Insert(to, at, first+slot(shard))
			at++
		}
	}
	return to
}

// next sets, for each id that is not swept and has no record yet, the slot that is the
// n-th likeliest, and noSlot for the others and where there are not as many. It
// reports whether it has set any.
func (x *slots) next(n int, ids []storage.TokenID, records [][]byte, swept int64, to *[abreast]slot) (some bool) {
	var buf [4]slot
	x.mu.RLock()
	defer x.mu.RUnlock()
	for i, id := range ids {
		to[i] = noSlot
		if records[i] != nil || id.Expiry().UnixMilli() <= swept {
			continue
		}
		if at := x.likely(id, buf[:0]); n < len(at) {
			to[i], some = at[n], true
		}
	}
	return some
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
