package boltstore

import (
	"encoding/binary"
	"sync"

	"github.com/gatehouse-ws/gatehouse/storage"
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
	places map[storage.TokenID]place
	chunks map[uint32]*chunk
	oldest uint32
	newest uint32 // of chunks; they are empty where it is below oldest
	bytes  int
	max    int
}

// place says where a record lies.
type place struct{ chunk, at, size uint32 }

// chunk holds records, each behind its id and its length.
type chunk struct {
	text   []byte // what is written of it stays as it is
	tokens int
	latest int64 // expiry of its tokens, in Unix milliseconds
}

const (
	chunkBytes = 256 << 10
	chunkHead  = len(storage.TokenID{}) + 4
	// freshOverhead is what a record costs beside its bytes and its head, roughly.
	freshOverhead = 64
)

func newFresh(bytes int) *fresh {
	return &fresh{places: make(map[storage.TokenID]place), chunks: make(map[uint32]*chunk), oldest: 1, max: bytes}
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
		if size+freshOverhead > f.max {
			continue
		}
		c := f.chunks[f.newest]
		if c == nil || cap(c.text)-len(c.text) < size {
			c = f.grow(size)
		}
		c.text = append(c.text, p.id[:]...)
		c.text = binary.LittleEndian.AppendUint32(c.text, uint32(len(p.value)))
		f.places[p.id] = place{f.newest, uint32(len(c.text)), uint32(len(p.value))}
		c.text = append(c.text, p.value...)
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
	for f.oldest <= f.newest && f.bytes+n+freshOverhead > f.max {
		f.dropOldest()
	}
	c := &chunk{text: make([]byte, 0, n)}
	f.newest++
	f.chunks[f.newest] = c
	f.bytes += n
	return c
}

// sweep drops chunks whose tokens all expire up to a Unix millisecond, as far as
// no older one has others.
func (f *fresh) sweep(upTo int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.oldest <= f.newest && f.chunks[f.oldest].latest <= upTo {
		f.dropOldest()
	}
}

func (f *fresh) dropOldest() {
	c := f.chunks[f.oldest]
	for at := 0; at < len(c.text); {
		id := storage.TokenID(c.text[at:])
		delete(f.places, id)
		at += chunkHead + int(binary.LittleEndian.Uint32(c.text[at+len(id):]))
	}
	f.bytes -= cap(c.text) + c.tokens*freshOverhead
	delete(f.chunks, f.oldest)
	f.oldest++
}

// find sets records[i] for the ids that it has, and says whether it had all.
func (f *fresh) find(ids []storage.TokenID, swept int64, records [][]byte) (all bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	all = true
	for i, id := range ids {
		if id.Expiry().UnixMilli() <= swept {
			continue
		}
		p, ok := f.places[id]
		if !ok {
			all = false
			continue
		}
		records[i] = f.chunks[p.chunk].text[p.at : p.at+p.size]
	}
	return all
}
