package boltstore

import (
	"sync"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// fresh holds the records of the tokens that were stored last, bounded in bytes:
// most are redeemed within seconds, and to find one in the file costs a
// microsecond. It holds committed records only. What is swept is refused before
// it is asked, and dropped by the next sweep.
type fresh struct {
	mu      sync.RWMutex
	records map[storage.TokenID][]byte
	order   []storage.TokenID // oldest first, from first on
	first   int
	bytes   int
	max     int
}

// freshOverhead is what a record costs beside its bytes, roughly.
const freshOverhead = 96

func newFresh(bytes int) *fresh {
	return &fresh{records: make(map[storage.TokenID][]byte), max: bytes}
}

// add adds the tokens of a group that was committed, in place of the oldest.
// Their records' capacity is their length, so that what is counted is what is
// kept.
func (f *fresh) add(puts []tokenPut) {
	if len(puts) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range puts {
		p := &puts[i]
		f.records[p.id] = p.value
		f.order = append(f.order, p.id)
		f.bytes += len(p.value) + freshOverhead
	}
	for f.bytes > f.max {
		f.dropFirst()
	}
	f.compact()
}

// sweep drops what expires up to a Unix millisecond, as far as nothing younger
// was stored before it.
func (f *fresh) sweep(upTo int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.first < len(f.order) && f.order[f.first].Expiry().UnixMilli() <= upTo {
		f.dropFirst()
	}
	f.compact()
}

func (f *fresh) dropFirst() {
	id := f.order[f.first]
	f.first++
	f.bytes -= len(f.records[id]) + freshOverhead
	delete(f.records, id)
}

// compact gives room at the front of order back, once that is most of it.
func (f *fresh) compact() {
	if f.first > len(f.order)/2 {
		n := copy(f.order, f.order[f.first:])
		f.order, f.first = f.order[:n], 0
	}
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
		records[i] = f.records[id]
		all = all && records[i] != nil
	}
	return all
}
