package netloop

import (
	"sync/atomic"
	"time"
)

// Frame is bytes that many connections are sent: they share them. Nobody changes
// them, and the garbage collector has them once the last connection has sent them.
type Frame struct{ b []byte }

// NewFrame makes a frame of b, which must not be changed any more, and is not
// empty.
func NewFrame(b []byte) *Frame { return &Frame{b} }

// broadcast is a frame for those whose machines are to have it.
type broadcast struct {
	frame *Frame
	to    func(Machine) bool
	loops atomic.Int32 // that have it to send
}

func newBroadcast(frame *Frame, to func(Machine) bool) *broadcast {
	return &broadcast{frame: frame, to: to}
}

// Broadcast sends a frame to each connection whose machine to says it is for,
// without a copy for each. It does not wait. to is asked in a turn of its machine,
// before those that are asked for later, and must not keep what it is given. Who is
// sent more than may wait meets with Overflow, as in any turn.
//
// A loop does nothing else until it has asked for all its connections. Broadcast
// reports false, and sends nothing, if frames of LoopBytes wait for loops already.
func (d *Driver) Broadcast(frame *Frame, to func(Machine) bool) bool {
	b := newBroadcast(frame, to)
	return (d.loops == nil || d.loops.broadcast(b)) && d.portable.broadcast(b)
}

// broadcast has every connection send b in a turn of its own.
func (p *Portable) broadcast(b *broadcast) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.broadcast(b)
	}
	return true
}

func (c *conn) broadcast(b *broadcast) {
	c.mu.Lock()
	opened := c.opened
	c.mu.Unlock()
	if !opened {
		return
	}
	c.Post(0, func(now time.Time, out []byte) []byte {
		switch {
		case !b.to(c.m):
			return out
		case len(out) > 0 && len(out) > c.p.cfg.OutboundBytes-len(b.frame.b):
			// Of many that have come before the turn: what one turn appends has no
			// bound else.
			c.mu.Lock()
			c.pending = c.pending[:0]
			c.mu.Unlock()
			return c.m.Overflow(now, out[:0])
		}
		return append(out, b.frame.b...)
	})
}
