package netloop

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"time"
)

const (
	// readBytes is what one read takes at most.
	readBytes = 4096
	// writeBytes is what one write takes at most, so that WriteTimeout bounds how
	// slowly a peer may read and not how much waits for it.
	writeBytes = 64 << 10
	// keepBytes is how large an output buffer may be to be kept for the next
	// turn.
	keepBytes = 16 << 10
	// lingerBytes is what a peer may still send while we wait for its end.
	lingerBytes = 64 << 10
)

// conn is one connection of a Portable. Its reader takes turns with whoever
// posts: a turn runs in the reader, or in a goroutine that Post starts when no
// turn is under way, which then runs those posted meanwhile too. Writes come
// after turns, so that a peer that does not read holds up no turn.
type conn struct {
	p   *Portable
	raw net.Conn
	nc  net.Conn  // raw, or from the TLS handshake on the connection over it
	tls *tls.Conn // nil without TLS

	// Owned by whoever runs a turn.
	m        Machine
	out      []byte
	deadline time.Time // as set on nc
	fired    bool      // that deadline has come: until it is set anew each read fails

	// Owned by whoever writes.
	writeBy time.Time // as set on nc

	mu      sync.Mutex
	changed sync.Cond // signalled when a turn or a write has ended
	opened  bool      // there is a machine, or will be in this very turn
	running bool      // a turn is under way
	wanted  bool      // the reader waits for its turn, and will run what is posted
	writing bool
	ended   bool // the machine is done: nothing more will be pending
	gone    bool // the reader has ended: no turn may begin
	posts   []func(now time.Time, out []byte) []byte
	pending []byte // to be sent
	sending int    // bytes of the write under way, or 0
	spare   []byte // the buffer that was sent last
	failure error  // of the first write that failed
}

func newConn(p *Portable, nc net.Conn) *conn {
	c := &conn{p: p, nc: nc, raw: nc}
	c.changed.L = &c.mu
	return c
}

func (c *conn) run(ticket Ticket, tlsConfig *tls.Config) {
	if err := c.shakeHands(ticket, tlsConfig); err != nil {
		_ = c.raw.Close()
		if c.p.hasGivenUp() { // which has cut it off
			err = ErrStopped
		}
		ticket.Failed(err)
		return
	}
	c.mu.Lock()
	c.opened, c.running = true, true
	c.mu.Unlock()
	if c.tls != nil {
		if shown := shownBy(c.tls); shown != nil {
			ticket.Shown(shown)
		}
	}
	c.m = ticket.Open(Link{Poster: c, Shared: c.p.opener.Share(c)}, time.Now())
	c.finishTurn()
	c.end(c.read())
}

// shakeHands does what comes before the machine.
func (c *conn) shakeHands(ticket Ticket, tlsConfig *tls.Config) error {
	if tlsConfig == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.p.cfg.HandshakeTimeout)
	defer cancel()
	by, _ := ctx.Deadline()
	_ = c.raw.SetReadDeadline(by) // the read tells
	early, err := c.preface(ticket)
	if err != nil {
		if err != io.EOF { // that was the peer's own end
			reset(c.raw)
		}
		return err
	}
	if early, err = c.hello(early); err != nil {
		return err
	}
	if !c.p.shakes.enter() {
		reset(c.raw)
		return ErrBusy
	}
	defer c.p.shakes.leave()
	_ = c.raw.SetReadDeadline(time.Time{})
	over := &begun{Conn: c.raw, early: fragmentHello(early), shakes: c.p.shakes}
	c.tls = tls.Server(over, tlsConfig)
	c.nc = c.tls
	err = c.tls.HandshakeContext(ctx)
	over.shakes = nil
	return err
}

// preface gives the ticket what comes before TLS, and returns what was read
// beyond that.
func (c *conn) preface(ticket Ticket) ([]byte, error) {
	early, done, err := ticket.Preface(nil, time.Now())
	if done || err != nil {
		return early, err
	}
	buf := make([]byte, readBytes)
	for !done {
		n, err := c.raw.Read(buf)
		if n == 0 && err != nil {
			return nil, err
		}
		if early, done, err = ticket.Preface(buf[:n], time.Now()); err != nil {
			return nil, err
		}
	}
	return early, nil
}

// hello reads a ClientHello, of which early was read already, and returns what was
// read by then. Until it is whole no handshake is under way, so that who says
// nothing takes no place of one.
func (c *conn) hello(early []byte) ([]byte, error) {
	var scan helloScan
	in := append(make([]byte, 0, readBytes), early...)
	for !scan.whole(in) && len(in) < helloBytes {
		in = slices.Grow(in, readBytes)
		n, err := c.raw.Read(in[len(in):cap(in)])
		switch in = in[:len(in)+n]; {
		case n > 0 || err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil, context.DeadlineExceeded
		case err == io.EOF && len(in) > 0:
			return nil, io.ErrUnexpectedEOF
		default:
			return nil, err
		}
	}
	return in, nil
}

// begun is a connection of which some was read already.
type begun struct {
	net.Conn
	early  []byte
	shakes *shakes // those that it is one of, or nil once its handshake has ended
}

func (b *begun) Read(p []byte) (int, error) {
	if len(b.early) > 0 {
		n := copy(p, b.early)
		if b.early = b.early[n:]; len(b.early) == 0 {
			b.early = nil
		}
		return n, nil
	}
	if b.shakes == nil {
		return b.Conn.Read(p)
	}
	b.shakes.parked.Add(1)
	defer b.shakes.parked.Add(-1)
	return b.Conn.Read(p)
}

// stop asks the machine to end. Where there is none yet nobody waits for a
// word.
func (c *conn) stop() {
	c.mu.Lock()
	opened := c.opened
	c.mu.Unlock()
	if !opened {
		_ = c.raw.Close() // the TLS handshake fails
		return
	}
	c.Post(0, func(now time.Time, out []byte) []byte { return c.m.Stop(now, out) })
}

// read feeds the machine until it is done, or the transport fails.
func (c *conn) read() error {
	buf := make([]byte, readBytes)
	for {
		n, err := c.nc.Read(buf)
		c.beginTurn()
		now := time.Now()
		late := errors.Is(err, os.ErrDeadlineExceeded)
		c.fired = c.fired || late
		if n > 0 {
			c.out = c.m.Feed(buf[:n], now, c.out)
		} else if late {
			c.out = c.m.Expire(now, c.out)
		}
		c.finishTurn()
		// To wait here is what holds up a peer that sends but does not read.
		if err := c.flush(); err != nil {
			return err
		}
		c.mu.Lock()
		ended := c.ended
		c.mu.Unlock()
		if ended {
			return nil
		}
		if err != nil && !late {
			return err
		}
	}
}

// beginTurn waits until no turn is under way and begins one.
func (c *conn) beginTurn() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wanted = true
	for c.running {
		c.changed.Wait()
	}
	c.running, c.wanted = true, false
}

// finishTurn runs what was posted during the turn and ends it, or leaves that to
// the reader if it waits. The machine is never called under the lock: it may
// post to other connections.
func (c *conn) finishTurn() {
	for {
		done, deadline := c.m.Done(), c.m.Deadline()
		c.mu.Lock()
		if !c.ended && len(c.pending) > 0 && len(c.out) > c.p.cfg.OutboundBytes-len(c.pending) {
			c.pending = c.pending[:0]
			c.mu.Unlock()
			c.out = c.m.Overflow(time.Now(), c.out[:0])
			continue
		}
		c.takeOutput()
		c.ended = c.ended || done
		if len(c.posts) == 0 || c.wanted {
			c.setDeadline(deadline)
			c.running = false
			c.changed.Broadcast()
			c.mu.Unlock()
			return
		}
		posts := c.posts
		c.posts = nil
		if len(c.pending) > 0 && !c.writing {
			// Whoever posts again and again must not keep what is pending from
			// being sent: it would overflow though the peer reads.
			c.p.wg.Go(c.flushAside)
		}
		c.mu.Unlock()
		for _, fn := range posts {
			c.out = fn(time.Now(), c.out)
		}
	}
}

// takeOutput queues what the turn appended.
func (c *conn) takeOutput() {
	switch {
	case len(c.out) == 0:
	case len(c.pending) == 0:
		c.pending, c.out = c.out, c.spare[:0]
		c.spare = nil
	default:
		c.pending = append(c.pending, c.out...)
		if c.out = c.out[:0]; cap(c.out) > keepBytes {
			c.out = nil
		}
	}
}

// setDeadline has the reader wake up in time: for the machine's deadline or,
// once it is done, at once. A deadline that moves away, as it does with every
// message, is left as it is set: the reader then wakes up early, once. One that
// has fired is always set anew: where the clock went back the machine may want
// the same one again.
func (c *conn) setDeadline(at time.Time) {
	if c.ended {
		at = time.Unix(1, 0)
	}
	early := !c.deadline.IsZero() && (at.IsZero() || !at.Before(c.deadline))
	if !c.fired && (early || at.Equal(c.deadline)) {
		return
	}
	c.deadline, c.fired = at, false
	_ = c.nc.SetReadDeadline(at) // fails only on a closed socket, whose reader knows
}

// Post implements Poster.
func (c *conn) Post(_ Ref, fn func(now time.Time, out []byte) []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone || c.ended {
		return false
	}
	c.posts = append(c.posts, fn)
	if !c.running && !c.wanted {
		c.running = true
		c.p.wg.Go(c.runPosts) // ends with its write, which has a timeout
	}
	return true
}

// runPosts is the turn that Post began.
func (c *conn) runPosts() {
	c.finishTurn()
	c.flushAside()
}

// flushAside flushes beside the reader, which finds out of errors by itself.
func (c *conn) flushAside() { _ = c.flush() }

// flush sends what is pending, after whoever sends already, and returns the
// first error of any write.
func (c *conn) flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.writing {
		c.changed.Wait()
	}
	c.writing = true
	for len(c.pending) > 0 && c.failure == nil {
		b := c.pending
		c.pending = c.spare[:0]
		c.spare = nil
		c.sending = len(b)
		c.mu.Unlock()
		err := c.write(b)
		c.mu.Lock()
		c.sending = 0
		if c.failure = err; err != nil {
			c.cut(err) // wakes the reader
		}
		if cap(b) <= keepBytes {
			c.spare = b[:0]
		}
	}
	c.writing = false
	c.changed.Broadcast()
	return c.failure
}

// cut closes the socket after an error. For a peer that did not read in time,
// what the kernel still holds is given up too.
func (c *conn) cut(err error) {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		reset(c.raw)
	} else {
		_ = c.raw.Close()
	}
}

// write sends b in pieces, each of which has between half and all of
// WriteTimeout: to set a deadline for each costs more than a small write.
func (c *conn) write(b []byte) error {
	for len(b) > 0 {
		if now := time.Now(); c.writeBy.Sub(now) < c.p.cfg.WriteTimeout/2 {
			c.writeBy = now.Add(c.p.cfg.WriteTimeout)
			_ = c.nc.SetWriteDeadline(c.writeBy) // the write tells
		}
		n, err := c.nc.Write(b[:min(len(b), writeBytes)])
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// end says goodbye to the peer and to the machine.
func (c *conn) end(err error) {
	if err != nil {
		_ = c.raw.Close() // frees a write that is stuck
	}
	c.mu.Lock()
	c.gone = true
	for c.running || c.writing {
		c.changed.Wait()
	}
	if errors.Is(err, net.ErrClosed) && c.failure != nil {
		err = c.failure // for which the socket was closed
	}
	c.mu.Unlock()
	if err == nil {
		c.linger()
		_ = c.raw.Close()
	}
	c.m.Gone(err, time.Now())
}

// linger ends our side and reads the peer's to its end, bounded: a socket
// closed over unread bytes resets, and the peer may lose what we sent last.
func (c *conn) linger() {
	if c.tls == nil && c.m.PeerDone() {
		return
	}
	if c.tls != nil {
		_ = c.tls.CloseWrite() // the TCP FIN below ends it all the same
	}
	tc, ok := c.raw.(*net.TCPConn)
	if !ok || tc.CloseWrite() != nil || tc.SetReadDeadline(time.Now().Add(c.p.cfg.LingerTimeout)) != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, tc, lingerBytes) // whatever ends it, ends it
}
