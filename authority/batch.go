package authority

import (
	"slices"
	"sync"

	"github.com/gatehouse-ws/gatehouse/auditlog"
	"github.com/gatehouse-ws/gatehouse/storage"
)

// batch is the memory in which a request of the Redeem stream is decided, and
// another after it. The answer is none of it: grpc may read that whenever it
// likes.
type batch struct {
	attempts    []attempt // one for each item
	ids         []storage.TokenID
	open        []*attempt // which the store has to decide
	redemptions []storage.Redemption
	sessions    []storage.Session // that they would open
	lines       []byte            // of the audit trail
	begun       auditlog.Line     // as each of them begins that is of an attempt
}

var batches = sync.Pool{New: func() any { return new(batch) }}

func newBatch(items int) *batch {
	b := batches.Get().(*batch)
	b.attempts = slices.Grow(b.attempts, items)[:items]
	b.ids = slices.Grow(b.ids, items)[:items]
	b.sessions = slices.Grow(b.sessions, items)[:items]
	return b
}

// release gives b's memory to the next request. A batch that has failed is never
// released: the store may still be busy with it.
func (b *batch) release() {
	clear(b.attempts)
	clear(b.open)
	clear(b.redemptions)
	clear(b.sessions)
	*b = batch{b.attempts[:0], b.ids[:0], b.open[:0], b.redemptions[:0], b.sessions[:0], b.lines[:0], b.begun[:0]}
	batches.Put(b)
}
