package boltstore

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/internal/places"
)

// fresh holds the records of the tokens that were stored last, bounded in bytes:
// most are redeemed within seconds, and to find one in the file costs a
// microsecond. It holds committed records only. What is swept is refused before
// it is asked, and dropped by a later sweep.
//
// Records lie in chunks, one behind the other, and are forgotten by the chunk,
// the oldest first. So the collector finds a few hundred pointers here and not
// one for each token.
type fresh struct {
	mu     sync.RWMutex
	places *places.Table[storage.TokenID]
	chunks [maxChunks]*chunk // a chunk lies at its number modulo their count
	oldest uint32
	newest uint32 // of chunks' numbers; there are none where it is below oldest
	bytes  int
	max    int

	touched atomic.Uint32 // see touch
}

// chunk holds records, each behind its id and its length.
type chunk struct {
	text   []byte // what is written of it stays as it is
	tokens int
	latest int64 // expiry of its tokens, in Unix milliseconds
}

// A place is where in which chunk a record's head begins, and one more.
const (
	placeBits  = 18
	chunkBytes = 1 << placeBits
	maxChunks  = 1 << 12 // a gigabyte of full ones
	chunkHead  = len(storage.TokenID{}) + 4
	// freshOverhead is what a record costs beside its bytes and its head, roughly.
	freshOverhead = 16
)

func newFresh(bytes int) *fresh {
	f := &fresh{oldest: 1, max: bytes}
	f.places = places.New(func(place uint32) storage.TokenID { return storage.TokenID(f.record(place)) })
	return f
}

// record is a record with its head, and what lies behind it.
func (f *fresh) record(place uint32) []byte {
	place--
	return f.chunks[place>>placeBits].text[place%chunkBytes:]
}

// add copies the tokens of a group that was committed, in place of the oldest.
func (f *fresh) add(puts []tokenPut) {
	if len(puts) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range puts {
		p := &puts[i]
		size := chunkHead + len(p.value)
		if size > min(chunkBytes, f.max-freshOverhead) {
			continue
		}
		c := f.chunks[f.newest%maxChunks]
		if c == nil || cap(c.text)-len(c.text) < size {
			c = f.grow(size)
		}
		place := f.newest%maxChunks<<placeBits + uint32(len(c.text)) + 1
		c.text = append(c.text, p.id[:]...)
		c.text = binary.LittleEndian.AppendUint32(c.text, uint32(len(p.value)))
		c.text = append(c.text, p.value...)
		f.places.Put(p.id, place)
		c.tokens++
		c.latest = max(c.latest, p.id.Expiry().UnixMilli())
		f.bytes += freshOverhead
	}
	for f.bytes > f.max {
		f.dropOldest()
	}
}

// grow begins a chunk that has room for a record, after making that room.
func (f *fresh) grow(size int) *chunk {
	n := max(size, min(chunkBytes, f.max/8))
	for f.oldest <= f.newest && (f.bytes+n+freshOverhead > f.max || f.newest-f.oldest == maxChunks-1) {
		f.dropOldest()
	}
	c := &chunk{text: make([]byte, 0, n)}
	f.newest++
	f.chunks[f.newest%maxChunks] = c
	f.bytes += n
	return c
}

// sweep drops chunks whose tokens all expire up to a Unix millisecond, as far as
// no older one has others. Between them it rests: to forget the tokens of all can take
// as long as a hundred commits.
func (f *fresh) sweep(upTo int64) {
	for f.sweepOne(upTo) {
		time.Sleep(rest)
	}
}

func (f *fresh) sweepOne(upTo int64) (more bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.oldest > f.newest || f.chunks[f.oldest%maxChunks].latest > upTo {
		return false
	}
	f.dropOldest()
	return true
}

func (f *fresh) dropOldest() {
	c := f.chunks[f.oldest%maxChunks]
	for at := 0; at < len(c.text); {
		id := storage.TokenID(c.text[at:])
		f.places.Remove(id)
		at += chunkHead + int(binary.LittleEndian.Uint32(c.text[at+len(id):]))
	}
	f.bytes -= cap(c.text) + c.tokens*freshOverhead
	f.chunks[f.oldest%maxChunks] = nil
	f.oldest++
}

// find sets records[i] for the ids that it has, and says whether it had all.
func (f *fresh) find(ids []storage.TokenID, swept int64, records [][]byte) (all bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	all = true
	for i, id := range ids {
		if i%touchedAhead == 0 {
			f.touch(ids[i:min(i+touchedAhead, len(ids))])
		}
		if id.Expiry().UnixMilli() <= swept {
			continue
		}
		place := f.places.Get(id)
		if place == 0 {
			all = false
			continue
		}
		b := f.record(place)
		n := int(binary.LittleEndian.Uint32(b[len(id):]))
		records[i] = b[chunkHead : chunkHead+n]
	}
	return all
}

// touchedAhead is how many records are fetched at once.
const touchedAhead = 64

// touch fetches the memory that find will want of ids, or most of it, as the ledger
// does and for the same reason: first where the records are, and then those.
func (f *fresh) touch(ids []storage.TokenID) {
	var where [touchedAhead]uint32
	for i, id := range ids {
		where[i] = f.places.Touch(id)
	}
	var sum uint32
	for _, place := range where {
		if place != 0 {
			sum += uint32(f.record(place)[0])
		}
	}
	f.touched.Store(sum)
}
