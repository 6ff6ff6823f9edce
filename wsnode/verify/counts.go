package verify

import pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"

// maxCounts bounds the counts that are kept; beyond, the oldest are forgotten.
const maxCounts = 100_000

// counts are what entries have ended on this node, kept until the authority says
// that it has them on disk: an acknowledgement may be lost with its stream or
// with the authority, and is then told again on the next stream. Telling twice
// does no harm. Of an authority that does not say so, the answer to a heartbeat
// that followed the acknowledgement shows at least that it was heard.
type counts struct {
	kept []count // in the order of their sequences
	sent int     // of kept, how many this stream has told
}

type count struct {
	*pb.Enforced
	by uint64 // the heartbeat whose answer shows that it was heard; 0 until it is told
}

func (c *counts) add(e *pb.Enforced) {
	if len(c.kept) == maxCounts {
		c.drop(1)
	}
	c.kept = append(c.kept, count{Enforced: e})
}

// next is what to tell now, at most so many, and the sequence of what is to be
// told after it, or 0.
func (c *counts) next(most int) (part []*pb.Enforced, more uint64) {
	for c.sent < len(c.kept) {
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
	for i := c.sent - 1; i >= 0 && c.kept[i].by == 0; i-- {
		c.kept[i].by = heartbeat
	}
}

// acknowledged says that the authority has on disk what was told up to a
// sequence.
func (c *counts) acknowledged(through uint64) {
	n := 0
	for n < len(c.kept) && c.kept[n].GetSequence() <= through {
		n++
	}
	c.drop(n)
}

// heard says that a heartbeat of this stream was answered.
func (c *counts) heard(heartbeat uint64) {
	n := 0
	for n < c.sent && c.kept[n].by != 0 && c.kept[n].by <= heartbeat {
		n++
	}
	c.drop(n)
}

func (c *counts) drop(n int) {
	c.kept = c.kept[n:]
	c.sent = max(c.sent-n, 0)
	if len(c.kept) == 0 {
		c.kept = nil
	}
}

// untold begins a new stream. Where that does not go on with what the node has
// applied, kept sequences may come to name other entries.
func (c *counts) untold(goesOn bool) {
	if !goesOn {
		c.kept = nil
	}
	for i := range c.kept {
		c.kept[i].by = 0
	}
	c.sent = 0
}
