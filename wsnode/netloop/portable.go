package netloop

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// Config bounds what a connection may take.
type Config struct {
	HandshakeTimeout time.Duration // for the TLS handshake
	WriteTimeout     time.Duration // for one write; a peer that takes longer is gone
	OutboundBytes    int           // that may wait to be sent, beside the write under way
	LingerTimeout    time.Duration // for the peer to end its side after we ended ours
}

// Portable drives each connection with a goroutine that reads it, on any
// system. Its methods are safe for concurrent use.
type Portable struct {
	cfg    Config
	opener Opener
	log    *slog.Logger

	mu     sync.Mutex
	conns  map[*conn]struct{}
	closed bool
	wg     sync.WaitGroup
}

// NewPortable makes a driver of the connections that opener lets in.
func NewPortable(cfg Config, opener Opener, log *slog.Logger) *Portable {
	return &Portable{cfg: cfg, opener: opener, log: log, conns: map[*conn]struct{}{}}
}

// ErrClosed says that the driver was closed.
var ErrClosed = errors.New("driver closed")

// Serve accepts from l, over TLS if tlsConfig is not nil, until l is closed;
// then it returns nil.
func (p *Portable) Serve(l net.Listener, tlsConfig *tls.Config) error {
	const low, high = 5 * time.Millisecond, time.Second
	wait := low
	for {
		nc, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil { // out of descriptors, or a peer that was gone by then
			p.log.Warn("accept failed", "listener", l.Addr(), "error", err, "again_in", wait)
			time.Sleep(wait)
			wait = min(2*wait, high)
			continue
		}
		wait = low
		p.accept(nc, tlsConfig)
	}
}

func (p *Portable) accept(nc net.Conn, tlsConfig *tls.Config) {
	ticket, ok := p.opener.Accepted(addrPort(nc.RemoteAddr()), tlsConfig != nil, time.Now())
	if !ok {
		reset(nc)
		return
	}
	c := &conn{p: p, nc: nc, raw: nc}
	c.idle.L = &c.mu
	if tlsConfig != nil {
		c.tls = tls.Server(nc, tlsConfig)
		c.nc = c.tls
	}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		reset(nc)
		ticket.Failed(ErrClosed)
		return
	}
	p.conns[c] = struct{}{}
	p.wg.Add(1)
	p.mu.Unlock()
	go func() {
		defer p.wg.Done()
		defer p.forget(c)
		c.run(ticket)
	}()
}

func (p *Portable) forget(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

// Close cuts every connection off and waits until all are gone. Listeners are
// their owner's to close, before.
func (p *Portable) Close() {
	p.mu.Lock()
	p.closed = true
	for c := range p.conns {
		_ = c.raw.Close() // its reader finds out
	}
	p.mu.Unlock()
	p.wg.Wait()
}

// Wait waits until every connection is gone, or ctx ends.
func (p *Portable) Wait(ctx context.Context) error {
	for {
		p.mu.Lock()
		n := len(p.conns)
		p.mu.Unlock()
		if n == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d connections left: %w", n, ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// readBytes is what one read takes at most.
const readBytes = 4096

// keepBytes is how large an output buffer may be to be kept for the next turn.
const keepBytes = 16 << 10

// conn is one connection. Its reader takes turns with whoever posts: the one
// that finds no turn under way runs its own and those posted meanwhile.
type conn struct {
	p   *Portable
	nc  net.Conn // raw, or the TLS connection over it
	raw net.Conn
	tls *tls.Conn

	// Owned by whoever runs a turn.
	m   Machine
	out []byte

	mu       sync.Mutex
	idle     sync.Cond // signalled when no turn is under way
	running  bool
	gone     bool
	posts    []func(now time.Time, out []byte) []byte
	pending  []byte // to be sent
	spare    []byte // the buffer that was sent last
	flushing bool
	ended    bool      // the machine is done: nothing more will be pending
	deadline time.Time // as set on nc
	failure  error     // of the first write that failed
}

func (c *conn) run(ticket Ticket) {
	if err := c.shakeHands(); err != nil {
		ticket.Failed(err)
		_ = c.nc.Close()
		return
	}
	c.mu.Lock()
	c.running = true
	c.mu.Unlock()
	c.m = ticket.Open(c, time.Now())
	c.finishTurn()
	err := c.read()
	c.end(err)
}

func (c *conn) shakeHands() error {
	if c.tls == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.p.cfg.HandshakeTimeout)
	defer cancel()
	return c.tls.HandshakeContext(ctx)
}

// read feeds the machine until it is done, or the transport fails.
func (c *conn) read() error {
	buf := make([]byte, readBytes)
	for {
		n, err := c.nc.Read(buf)
		c.beginTurn()
		now := time.Now()
		if n > 0 {
			c.out = c.m.Feed(buf[:n], now, c.out)
		} else if errors.Is(err, os.ErrDeadlineExceeded) {
			c.out = c.m.Expire(now, c.out)
		}
		c.finishTurn()
		if err := c.flush(); err != nil {
			return err
		}
		c.mu.Lock()
		done := c.ended
		c.mu.Unlock()
		if done {
			return nil
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
}

// beginTurn waits until no turn is under way and begins one.
func (c *conn) beginTurn() {
	c.mu.Lock()
	for c.running {
		c.idle.Wait()
	}
	c.running = true
	c.mu.Unlock()
}

// finishTurn runs what was posted during the turn and ends it. The machine is
// never called under the lock: it may post to other connections.
func (c *conn) finishTurn() {
	for {
		done, deadline := c.m.Done(), c.m.Deadline()
		c.mu.Lock()
		if len(c.out) > c.p.cfg.OutboundBytes-len(c.pending) && len(c.pending) > 0 && !c.ended {
			c.pending = c.pending[:0]
			c.mu.Unlock()
			c.out = c.m.Overflow(time.Now(), c.out[:0])
			continue
		}
		c.takeOutput()
		c.ended = c.ended || done
		if len(c.posts) == 0 {
			c.setDeadline(deadline)
			c.running = false
			c.idle.Broadcast()
			c.mu.Unlock()
			return
		}
		posts := c.posts
		c.posts = nil
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
		c.out = c.out[:0]
	}
}

// setDeadline has the reader wake up in time: for the machine's deadline or,
// once it is done, at once.
func (c *conn) setDeadline(at time.Time) {
	if c.ended {
		at = time.Unix(1, 0)
	}
	if !at.Equal(c.deadline) {
		c.deadline = at
		_ = c.nc.SetReadDeadline(at) // fails only on a closed socket, whose reader knows
	}
}

// Post implements Link.
func (c *conn) Post(fn func(now time.Time, out []byte) []byte) bool {
	c.mu.Lock()
	if c.gone || c.ended {
		c.mu.Unlock()
		return false
	}
	c.posts = append(c.posts, fn)
	if c.running {
		c.mu.Unlock()
		return true
	}
	c.running = true
	c.mu.Unlock()
	c.finishTurn()

	c.mu.Lock()
	needs := len(c.pending) > 0 && !c.flushing
	c.mu.Unlock()
	if needs {
		go func() { _ = c.flush() }() // the reader finds out; it ends with the write
	}
	return true
}

// flush sends what is pending, after whoever sends already, and returns the
// first error of any write. The reader's waiting here is what holds up a peer
// that sends but does not read.
func (c *conn) flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.flushing {
		c.idle.Wait()
	}
	c.flushing = true
	for len(c.pending) > 0 && c.failure == nil {
		b := c.pending
		c.pending = c.spare[:0]
		c.spare = nil
		c.mu.Unlock()
		_ = c.nc.SetWriteDeadline(time.Now().Add(c.p.cfg.WriteTimeout)) // the write tells
		_, err := c.nc.Write(b)
		c.mu.Lock()
		if c.failure = err; err != nil {
			_ = c.raw.Close() // wakes the reader
		}
		if cap(b) <= keepBytes {
			c.spare = b[:0]
		}
	}
	c.flushing = false
	c.idle.Broadcast()
	return c.failure
}

// end says goodbye to the peer and to the machine.
func (c *conn) end(err error) {
	c.mu.Lock()
	for c.running || c.flushing {
		c.idle.Wait()
	}
	c.gone = true
	if c.failure != nil {
		err = c.failure
	}
	posts := c.posts
	c.posts = nil
	c.mu.Unlock()
	for _, fn := range posts { // what was posted runs, though nobody reads it
		c.out = fn(time.Now(), c.out)
	}
	if err == nil {
		c.linger()
	}
	_ = c.nc.Close()
	c.m.Gone(err, time.Now())
}

// lingerBytes is what a peer may still send while we wait for its end.
const lingerBytes = 64 << 10

// linger ends our side and reads the peer's to its end, bounded: a socket
// closed over unread bytes resets, and the peer may lose what we sent last.
func (c *conn) linger() {
	if c.tls != nil {
		_ = c.tls.CloseWrite() // the TCP FIN below ends it all the same
	}
	tc, ok := c.raw.(*net.TCPConn)
	if !ok || tc.CloseWrite() != nil || tc.SetReadDeadline(time.Now().Add(c.p.cfg.LingerTimeout)) != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, tc, lingerBytes) // whatever ends it, ends it
}

// reset closes a connection so that the peer gets a RST and nothing lingers.
func reset(nc net.Conn) {
	if tc, ok := nc.(*net.TCPConn); ok {
		_ = tc.SetLinger(0)
	}
	_ = nc.Close()
}

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
	}
	ap, _ := netip.ParseAddrPort(a.String())
	return ap
}
