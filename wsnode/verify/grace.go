package verify

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

const (
	// maxGraces is how many revocations may wait for sockets to renew, far above
	// what an authority allows; beyond, they wait no longer.
	maxGraces = 4096
	// graceTick is how often it is looked whether a grace is over.
	graceTick = 20 * time.Millisecond
	// sampleLife is for how long a better measure of the authority's clock is
	// trusted more than a newer one.
	sampleLife = time.Minute
)

// graces are the revocations within whose grace sockets may renew. What such an
// entry hits at its end is closed, by the client's clock and whether the authority
// can be reached or not. A session that has renewed by then is not hit: it was
// issued after the entry. Safe for concurrent use; what is locked inside its lock
// are counts and single sessions.
type graces struct {
	// first is when the first of them ends; never while there is none.
	first atomic.Int64
	wake  chan struct{} // of one: there are some
	news  chan struct{} // of one: some have ended, which the authority is to be told

	ending sync.Mutex // held while some are enforced, so that each counts once; locked before mu

	mu      sync.Mutex // guards what follows
	waiting []*grace   // in the order of their sequences
	sample  sample
}

// grace is one of them.
type grace struct {
	entry Entry
	end   time.Duration // of the client's clock
	any   func() bool   // whether a socket is left that it hits; nil until that is known
	late  int           // sockets whose own turn found that it is over
}

// sample is a reading of the authority's clock, which it took after sent.
type sample struct {
	told        time.Time
	sent, heard time.Duration
}

func (g *graces) init() {
	g.wake, g.news = make(chan struct{}, 1), make(chan struct{}, 1)
	g.first.Store(never)
}

// measure takes a reading of the authority's clock: the quicker the answer, the
// better it is known. One that the last can't explain says that the clock was set.
func (g *graces) measure(s sample) {
	g.mu.Lock()
	defer g.mu.Unlock()
	old := g.sample
	passed := s.told.Sub(old.told)
	jumped := passed < s.sent-old.heard || passed > s.heard-old.sent
	if old.told.IsZero() || jumped || s.heard-s.sent <= old.heard-old.sent || s.sent-old.sent > sampleLife {
		g.sample = s
	}
}

// until is when, by the client's clock, the authority's can't have passed t yet.
func (g *graces) until(t time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.sample.sent + t.Sub(g.sample.told)
}

// put begins a grace, and reports whether there is room for it.
func (g *graces) put(n *grace) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.waiting) == maxGraces {
		return false
	}
	g.waiting = append(g.waiting, n)
	g.setFirst()
	signal(g.wake)
	return true
}

// drop forgets one that has ended nothing, and reports whether it is that.
func (g *graces) drop(n *grace) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if n.late > 0 {
		return false
	}
	g.waiting = slices.DeleteFunc(g.waiting, func(w *grace) bool { return w == n })
	g.setFirst()
	return true
}

func (g *graces) setFirst() {
	first := time.Duration(never)
	for _, n := range g.waiting {
		first = min(first, n.end)
	}
	g.first.Store(int64(first))
}

// reset forgets all, with the history that they are of.
func (g *graces) reset() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiting = nil
	g.setFirst()
}

// pending are the sequences of those that wait.
func (g *graces) pending() (out []uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, n := range g.waiting {
		out = append(out, n.entry.Revision.Sequence)
	}
	return out
}

// over are those that wait no longer: they are past their end, or nobody is left
// to wait for.
func (g *graces) over(now time.Duration) (out []*grace) {
	var ask []*grace
	g.mu.Lock()
	for _, n := range g.waiting {
		switch {
		case now >= n.end:
			out = append(out, n)
		case n.any != nil:
			ask = append(ask, n)
		}
	}
	g.mu.Unlock()
	for _, n := range ask { // outside of the lock: it takes that of the sessions
		if !n.any() {
			out = append(out, n)
		}
	}
	return out
}

// beginGrace has the sockets that e hits renew. It returns false where e is to be
// enforced at once, as where there are none.
func (c *Client) beginGrace(e *Entry) bool {
	now := c.clock()
	n := &grace{entry: *e, end: c.graces.until(e.GraceUntil)}
	if e.Grace > 0 { // the authority's clock may have been set since it was read
		n.end = min(n.end, now+e.Grace)
	}
	if now >= n.end || !c.graces.put(n) {
		return false
	}
	left := c.enforcer.Warn(&n.entry)
	if !left() && c.graces.drop(n) {
		return false
	}
	c.graces.mu.Lock()
	n.any = left
	c.graces.mu.Unlock()
	return true
}

// endAll enforces entries whose grace is over, all at once, since that may wait
// for sockets, and counts what each closed.
func (c *Client) endAll(over []*grace) {
	entries := make([]Entry, len(over))
	for i, n := range over {
		entries[i] = n.entry
	}
	g := &c.graces
	g.ending.Lock()
	defer g.ending.Unlock()
	counts := make(map[*grace]Count, len(over))
	for i, of := range c.enforcer.Enforce(entries) {
		counts[over[i]] = of
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiting = slices.DeleteFunc(g.waiting, func(n *grace) bool { // what is not there was forgotten meanwhile
		of, ended := counts[n]
		if ended {
			of.Closed += n.late
			c.count(&n.entry, of) // first: whoever sees it gone sees what it closed
		}
		return ended
	})
	g.setFirst()
}

// count keeps what an entry closed, for the authority, if a receipt is made of it.
func (c *Client) count(e *Entry, n Count) {
	if n.Closed > 0 && !e.Replaced {
		c.counts.add(&pb.Enforced{Sequence: e.Revision.Sequence, Closed: uint32(n.Closed), Lingering: uint32(n.Lingering)})
	}
}

// endGraces ends each grace in its time, until ctx ends.
func (c *Client) endGraces(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.graces.wake:
		}
		for c.graces.first.Load() != never {
			select {
			case <-ctx.Done():
				return
			case <-time.After(graceTick):
			}
			if over := c.graces.over(c.clock()); len(over) > 0 {
				c.endAll(over)
				signal(c.graces.news)
			}
		}
	}
}

// AnyGraceOver reports whether PastGrace has anything to look at. It costs little
// enough to be asked in every turn.
func (c *Client) AnyGraceOver() bool {
	first := c.graces.first.Load()
	return first != never && int64(c.clock()) >= first
}

// PastGrace reports whether a grace is over of an entry that hits who, though
// Enforce has not come to that yet: the process may have been paused. Then end
// is called, which ends the session and reports whether it lived.
func (c *Client) PastGrace(who *Identity, end func() bool) bool {
	now := c.clock()
	c.graces.mu.Lock()
	defer c.graces.mu.Unlock()
	for _, n := range c.graces.waiting {
		if now >= n.end && n.entry.Hits(who) {
			if end() {
				n.late++
			}
			return true
		}
	}
	return false
}

// InGrace reports whether who lives within the grace of an entry.
func (c *Client) InGrace(who *Identity) bool {
	c.graces.mu.Lock()
	defer c.graces.mu.Unlock()
	return slices.ContainsFunc(c.graces.waiting, func(n *grace) bool { return n.entry.Hits(who) })
}
