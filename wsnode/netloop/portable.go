package netloop

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Config bounds what a connection may take.
type Config struct {
	HandshakeTimeout time.Duration // for the TLS handshake, with what comes before it
	WriteTimeout     time.Duration // for 64 KiB of a write; a peer that takes longer is gone
	OutboundBytes    int           // that may wait to be sent, beside the write under way
	LingerTimeout    time.Duration // for the peer to end its side after we ended ours
	Loops            int           // event loops for TCP, where the system has them; 0 for none
	Handshakes       int           // TLS handshakes under way at once
	LoopBytes        int           // that may wait to be sent by one loop, for all its connections
}

// Portable drives each connection with a goroutine that reads it, on any
// system. Its methods are safe for concurrent use.
type Portable struct {
	cfg    Config
	opener Opener
	log    *slog.Logger
	shakes *shakes
	wg     sync.WaitGroup // of every goroutine of the driver

	mu      sync.Mutex
	empty   sync.Cond // signalled when the last connection is gone
	conns   map[*conn]struct{}
	stopped bool // no connection is let in any more
	gaveUp  bool // and those without a machine are cut off
}

// NewPortable makes a driver of the connections that opener lets in.
func NewPortable(cfg Config, opener Opener, log *slog.Logger) *Portable {
	p := &Portable{cfg: cfg, opener: opener, log: log, shakes: newShakes(cfg), conns: map[*conn]struct{}{}}
	p.empty.L = &p.mu
	return p
}

// ErrStopped says that the driver lets no connection in any more.
var ErrStopped = errors.New("driver stopped")

// ErrBusy says that a TLS handshake was refused before it began.
var ErrBusy = errors.New("as many TLS handshakes are under way as may be")

// passing are errors of accept that time mends: a shortage, or a connection that
// failed or was forbidden before it was taken, which Linux reports so (accept(2)).
var passing = []error{
	syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EINTR,
	syscall.ECONNABORTED, syscall.ECONNRESET, syscall.EPERM, syscall.EPROTO, syscall.ENOPROTOOPT,
	syscall.ENETDOWN, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.EHOSTUNREACH,
}

func passes(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout() ||
		slices.ContainsFunc(passing, func(p error) bool { return errors.Is(err, p) })
}

// Serve accepts from l, over TLS if tlsConfig is not nil, until l is closed;
// then it returns nil. When accept fails for a while, as without descriptors, it
// tries again; any other error of accept ends it and is returned.
func (p *Portable) Serve(l net.Listener, tlsConfig *tls.Config) error {
	const low, high = 5 * time.Millisecond, time.Second
	wait := low
	for {
		nc, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil && !passes(err) {
			return fmt.Errorf("accept on %v: %w", l.Addr(), err)
		}
		if err != nil {
			p.log.Warn("accept failed", "listener", l.Addr().String(), "error", err, "again_in", wait)
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
	c := newConn(p, nc)
	p.mu.Lock()
	if p.stopped {
		p.mu.Unlock()
		reset(nc)
		ticket.Failed(ErrStopped)
		return
	}
	p.conns[c] = struct{}{}
	p.wg.Go(func() { // ends with the connection
		defer p.forget(c)
		c.run(ticket, tlsConfig)
	})
	p.mu.Unlock()
}

func (p *Portable) forget(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	if len(p.conns) == 0 {
		p.empty.Broadcast()
	}
}

// LetNobodyIn lets no connection in any more, and leaves those that there are as
// they are.
func (p *Portable) LetNobodyIn() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = true
}

// Stop lets no connection in any more, gives up those whose TLS handshake has
// not ended, and asks the machines of all others to end. Listeners are their
// owner's to close, before.
func (p *Portable) Stop() {
	for _, c := range p.stop() {
		c.stop()
	}
}

// Close cuts every connection off and waits until all are gone.
func (p *Portable) Close() {
	for _, c := range p.stop() {
		_ = c.raw.Close() // its reader finds out
	}
	p.wg.Wait()
}

// stop lists the connections that there will ever be.
func (p *Portable) stop() []*conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped, p.gaveUp = true, true
	all := make([]*conn, 0, len(p.conns))
	for c := range p.conns {
		all = append(all, c)
	}
	return all
}

// Queued is how many bytes wait for peers to read them.
func (p *Portable) Queued() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for c := range p.conns {
		c.mu.Lock() // never held by who waits for p.mu
		n += len(c.pending) + c.sending
		c.mu.Unlock()
	}
	return n
}

func (p *Portable) hasGivenUp() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.gaveUp
}

// Wait waits until there is no connection, or ctx ends.
func (p *Portable) Wait(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() {
		p.mu.Lock() // so that the wait below has begun or sees ctx's end
		defer p.mu.Unlock()
		p.empty.Broadcast()
	})()
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.conns) > 0 {
		if ctx.Err() != nil {
			return fmt.Errorf("%d connections left: %w", len(p.conns), ctx.Err())
		}
		p.empty.Wait()
	}
	return nil
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
	return netip.AddrPort{} // as over a unix socket
}
