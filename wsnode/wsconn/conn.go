// Package wsconn is the server's side of the WebSocket protocol (RFC 6455) as
// a state machine: bytes and the current time go in, events and bytes come
// out. It knows no socket, goroutine or clock, so that any driver can own a
// connection, and tests and fuzzers drive it directly. A bare § means RFC 6455.
//
// A driver Resets a Conn, Feeds it what it reads, sends what is appended to
// its output, and calls Expire at Deadline. In StateVerifying it waits for its
// owner to Accept or Refuse. When Feed or Expire returns an error, the owner
// answers it: with Refuse before the connection was open, with Close after.
// At StateClosed the driver sends what is left, shuts down its direction, and
// reads on for a bounded while before it drops the connection: input left
// unread would reset it, and the peer might lose our last words.
//
// No extension is ever negotiated.
package wsconn

import (
	"time"

	"github.com/gobwas/ws"
)

// State is how far a connection has come.
type State uint8

const (
	// StateOpening waits for the end of the request head.
	StateOpening State = iota
	// StateVerifying waits for Accept or Refuse. It has no deadline here:
	// whoever verifies bounds that.
	StateVerifying
	// StateOpen takes and gives messages.
	StateOpen
	// StateClosing discards what arrives but for the peer's close frame. It
	// begins with Close, or with an error that Close must answer.
	StateClosing
	// StateClosed has nothing more to say or to hear.
	StateClosed
)

// String names the state for logs.
func (s State) String() string {
	switch s {
	case StateOpening:
		return "opening"
	case StateVerifying:
		return "verifying"
	case StateOpen:
		return "open"
	case StateClosing:
		return "closing"
	case StateClosed:
		return "closed"
	}
	return "unknown"
}

// Sink takes a connection's events, in the order they happened. Its methods
// run inside Feed and must not call the Conn's, except AppendMessage and Ping.
type Sink interface {
	// Opening says that a whole, valid request is there and waits for Accept
	// or Refuse, which may follow as soon as Feed has returned. r is borrowed
	// until Opening returns.
	Opening(r *Request)
	// Message takes a complete message, op telling text from binary. Text is
	// valid UTF-8. payload is borrowed until Message returns and may be written
	// to. Answers are appended to out and returned; so they leave before
	// anything Feed appends later. An error ends the connection: Feed
	// discards what follows and returns it.
	Message(op ws.OpCode, payload, out []byte) ([]byte, error)
	// PeerClose says that the peer began the closing handshake, with
	// ws.StatusNoStatusRcvd if it gave no code. reason is valid UTF-8 and
	// borrowed until PeerClose returns. Feed then returns ErrPeerClosed.
	PeerClose(code ws.StatusCode, reason []byte)
}

// Conn is one connection. It keeps a copy of what has arrived in part and of
// nothing else: an open one that waits for its next message is 16 bytes, and owns
// no buffer. Its limits come with each call; others than before, as when a token
// brings its own, count from the next frame, and for deadlines set from then on.
// One goroutine at a time.
type Conn struct {
	*part     // nil at rest: while open with nothing in part, and once closed
	state     State
	pipelined bool // part.buf holds frames that came before Accept
	closeSent bool
	closeGot  bool
	ended     bool // no byte that follows can be understood, or matters
	pingSent  bool // and nothing has come since
	bodiless  bool // the request is a HEAD, whose answer has no body
}

// Reset makes c a new connection whose request head is awaited from now on. Give
// back what c held before by Release.
func (c *Conn) Reset(l *Limits, now time.Time) {
	*c = Conn{}
	c.needPart().deadline = now.Add(l.HandshakeTimeout)
}

// State tells how far the connection has come.
func (c *Conn) State() State { return c.state }

// PeerClosed reports whether the peer's close frame has come: it sends nothing
// after it (§5.5.1), and waits for the end of the connection from here (§7.1.1).
func (c *Conn) PeerClosed() bool { return c.closeGot }

// Deadline is when Expire must be called, or zero. It changes only in calls
// that are given the time.
func (c *Conn) Deadline() time.Time {
	if c.part == nil {
		return time.Time{}
	}
	return c.deadline
}

// PingPending reports whether nothing has come since the last Ping.
func (c *Conn) PingPending() bool { return c.pingSent }

// Feed takes bytes the peer sent and appends to out what must be sent back.
// What they complete goes to sink, in order. The same bytes give the same
// events and the same error however they are cut, but for pongs: of the pings
// that came whole, a call answers the latest alone (§5.5.3), so that a flood
// of them does not make out grow.
//
// in is unmasked in place, and nothing of it is kept but copies of what is
// incomplete. Feed returns an error once in a connection's life: why to refuse
// it, or why to close it; afterwards, while closing, bytes are discarded until
// the peer's close frame, and once closed they are ignored.
func (c *Conn) Feed(in []byte, l *Limits, now time.Time, sink Sink, out []byte) ([]byte, error) {
	c.pingSent = c.pingSent && len(in) == 0
	var err error
	switch c.state {
	case StateOpening:
		err = c.feedOpening(in, l, sink)
	case StateVerifying:
		err = c.keepPipelined(in, l)
	case StateOpen:
		c.needPart()
		if c.pipelined {
			out, err = c.feedPipelined(in, l, now, sink, out)
		} else {
			out, err = c.feedOpen(in, l, now, sink, out)
		}
		c.settle()
	case StateClosing:
		c.feedClosing(in)
	}
	return out, err
}

// feedPipelined feeds what came before Accept, then in.
func (c *Conn) feedPipelined(in []byte, l *Limits, now time.Time, sink Sink, out []byte) ([]byte, error) {
	early := c.takePipelined()
	out, err := c.feedOpen(early.b, l, now, sink, out)
	early.release()
	if err != nil {
		c.feedClosing(in)
		return out, err
	}
	return c.feedOpen(in, l, now, sink, out)
}

// Expire says what timed out: ErrHandshakeTimeout, ErrMessageTimeout or
// ErrCloseTimeout, which is the end; or nil if Deadline has not come, so that
// a timer may be early. Refuse or Close answers an error as one of Feed's.
func (c *Conn) Expire(l *Limits, now time.Time) error {
	if at := c.Deadline(); at.IsZero() || now.Before(at) {
		return nil
	}
	switch c.state {
	case StateOpening:
		if c.ended { // the owner did not answer an earlier error
			c.finish()
		}
		c.ended = true
		c.drop()
		return ErrHandshakeTimeout
	case StateOpen:
		c.startClosing(l, now)
		return ErrMessageTimeout
	case StateClosing:
		c.finish()
		return ErrCloseTimeout
	}
	return nil
}

// Release gives back what c holds and closes it, without a word to the peer:
// for when the transport is gone.
func (c *Conn) Release() { c.finish() }

// finish is the way into StateClosed.
func (c *Conn) finish() {
	c.state = StateClosed
	c.ended = true
	c.pipelined = false
	if c.part != nil {
		c.part.giveBack()
		c.part = nil
	}
}

// drop gives back the buffers and forgets what they held.
func (c *Conn) drop() {
	c.pipelined = false
	if c.part != nil {
		c.part.empty()
	}
}
