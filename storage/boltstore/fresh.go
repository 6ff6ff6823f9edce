package boltstore

import (
	"sync"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// fresh holds the records of the tokens that were stored last: most are
// redeemed within seconds, and to find one in the file costs a microsecond. It
// holds committed records only. What is swept is refused before it is asked.
type fresh struct {
	mu      sync.RWMutex
	records map[storage.TokenID][]byte
	order   []storage.TokenID // a ring
	next    int
}

func newFresh(size int) *fresh {
	return &fresh{records: make(map[storage.TokenID][]byte, size), order: make([]storage.TokenID, 0, size)}
}

// add adds the tokens of a group that was committed, in place of the oldest.
func (f *fresh) add(puts []tokenPut) {
	if len(puts) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range puts {
		p := &puts[i]
		if len(f.order) < cap(f.order) {
			f.order = append(f.order, p.id)
		} else {
			delete(f.records, f.order[f.next])
			f.order[f.next] = p.id
			f.next = (f.next + 1) % len(f.order)
		}
		f.records[p.id] = p.value
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
