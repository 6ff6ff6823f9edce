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
	to    func(m Machine, now time.Time) bool
	loops atomic.Int32 // that have it to send
}

func newBroadcast(frame *Frame, to func(m Machine, now time.Time) bool) *broadcast {
	return &broadcast{frame: frame, to: to}
}

// Broadcast sends a frame to each connection of the loops whose machine to says it
// is for, without a copy for each. It does not wait. to is asked in a turn of its
// machine, after all that was posted before, and must not keep what it is given. Who
// is sent more than may wait meets with Overflow, as in any turn.
//
// A loop broadcasts to some hundred connections before it looks after others again:
// what is posted later may come first. Broadcast reports false, and sends nothing, if
// frames of LoopBytes wait for loops already.
//
// Connections with a goroutine of their own are not sent it: each would have to be
// posted to, and those whose turns last have a queue without bound.
func (d *Driver) Broadcast(frame *Frame, to func(m Machine, now time.Time) bool) bool {
	return d.loops == nil || d.loops.broadcast(newBroadcast(frame, to))
}
