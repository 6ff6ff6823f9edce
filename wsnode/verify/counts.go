package verify

import (
	"cmp"
	"slices"
	"sync"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// maxCounts bounds the counts that are kept; beyond, the oldest are forgotten.
const maxCounts = 100_000

// counts are what entries have ended on this node, kept until the authority says
// that it has them on disk: an acknowledgement may be lost with its stream or
// with the authority, and is then told again on the next stream. Telling twice
// does no harm. Of an authority that does not say so, the answer to a heartbeat
// that followed the acknowledgement shows at least that it was heard. Safe for
// concurrent use.
type counts struct {
	mu   sync.Mutex
	kept []count // in the order of their sequences
	sent int     // of kept, how many this stream has told
}

type count struct {
	*pb.Enforced
	by uint64 // the heartbeat whose answer shows that it was heard; 0 until it is told
}

// add keeps a count. One that comes after those of later entries, at the end of
// its grace, is told next, and those again.
func (c *counts) add(e *pb.Enforced) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.kept) == maxCounts {
		c.drop(1)
	}
	at, _ := slices.BinarySearchFunc(c.kept, e.GetSequence(), func(k count, seq uint64) int { return cmp.Compare(k.GetSequence(), seq) })
	c.kept = slices.Insert(c.kept, at, count{Enforced: e})
	c.sent = min(c.sent, at)
}

// next is what to tell now of entries up to a sequence, at most so many, and the
// sequence of what is to be told after it, or 0.
func (c *counts) next(most int, upTo uint64) (part []*pb.Enforced, more uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.sent < len(c.kept) && c.kept[c.sent].GetSequence() <= upTo {
		if len(part) == most {
			return part, c.kept[c.sent].GetSequence()
		}
		part = append(part, c.kept[c.sent].Enforced)
		c.sent++
	}
	return part, 0
}

// told says that what next gave is sent, before that heartbeat.
func (c *counts) told(heartbeat uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := c.sent - 1; i >= 0 && c.kept[i].by == 0; i-- {
		c.kept[i].by = heartbeat
	}
}

// acknowledged says that the authority has on disk what was told up to a
// sequence, but for what it still knows as pending.
func (c *counts) acknowledged(through uint64, pending []uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	sent := 0
	left := c.kept[:0]
	for i, k := range c.kept {
		if k.GetSequence() > through || slices.Contains(pending, k.GetSequence()) {
			left = append(left, k)
			if i < c.sent {
				sent++
			}
		}
	}
	clear(c.kept[len(left):])
	if c.kept, c.sent = left, sent; len(left) == 0 {
		c.kept = nil
	}
}

// heard says that a heartbeat of this stream was answered.
func (c *counts) heard(heartbeat uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for n < c.sent && c.kept[n].by != 0 && c.kept[n].by <= heartbeat {
		n++
	}
	c.drop(n)
}

// drop drops the oldest; mu is held.
func (c *counts) drop(n int) {
	c.kept = c.kept[n:]
	c.sent = max(c.sent-n, 0)
	if len(c.kept) == 0 {
		c.kept = nil
	}
}

// untold begins a new stream. Where the authority's log is not the one that the
// node has applied, kept sequences may come to name other entries. A snapshot alone
// says nothing of that: what it leaves out has receipts still.
func (c *counts) untold(same bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !same {
		c.kept = nil
	}
	for i := range c.kept {
		c.kept[i].by = 0
	}
	c.sent = 0
}
