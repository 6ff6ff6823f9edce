package netloop

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// loops drive TCP connections from a few event loops.
type loops struct {
	cfg    Config
	opener Opener
	log    *slog.Logger
	shakes *shakes

	casting atomic.Int64 // bytes of broadcasts that some loop has still to send, a block more for each

	mu      sync.Mutex
	empty   sync.Cond // signalled when the last connection is gone
	conns   int
	stopped bool    // no connection is let in any more
	all     []*loop // started with the first listener
	next    int     // loop for the next listener
}

func newLoops(cfg Config, opener Opener, log *slog.Logger, shakes *shakes) driver {
	d := &loops{cfg: cfg, opener: opener, log: log, shakes: shakes}
	d.empty.L = &d.mu
	return d
}

// listener is a listening socket that a loop accepts from.
type listener struct {
	id     uint32
	fd     int
	addr   string
	tls    *tls.Config   // nil for none
	ended  chan error    // of one
	early  bool          // who is accepted may have come before the listener had TCP_NODELAY to inherit
	wait   time.Duration // after the next failure
	resume tick          // when to accept again, or 0
}

// takes implements driver.
func (d *loops) takes(l net.Listener) bool {
	_, tcp := l.(*net.TCPListener)
	return tcp
}

// Serve implements driver. It closes l, of which it has a descriptor of its own,
// and returns when the loops are stopped.
func (d *loops) Serve(l net.Listener, tlsConfig *tls.Config) error {
	li := &listener{addr: l.Addr().String(), tls: tlsConfig, ended: make(chan error, 1), early: true}
	var err error
	li.fd, err = descriptorOf(l)
	if err == nil {
		err = unix.SetsockoptInt(li.fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) // sockets inherit it
		_ = l.Close()                                                          // else it stays in the netpoller too
	}
	if err != nil {
		return fmt.Errorf("listener on %s: %w", li.addr, err)
	}
	to, err := d.forListener()
	if err != nil {
		_ = unix.Close(li.fd)
		return fmt.Errorf("listener on %s: %w", li.addr, err)
	}
	if to == nil || !to.order(post{kind: postListen, l: li}) {
		return unix.Close(li.fd)
	}
	return <-li.ended
}

func descriptorOf(l net.Listener) (int, error) {
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		return -1, err
	}
	fd := -1
	if e := raw.Control(func(f uintptr) { fd, err = unix.FcntlInt(f, unix.F_DUPFD_CLOEXEC, 0) }); e != nil {
		return -1, e
	}
	return fd, err
}

// forListener is the loop for the next listener, or nil once stopped.
func (d *loops) forListener() (*loop, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stopped {
		return nil, nil
	}
	for len(d.all) < max(d.cfg.Loops, 1) {
		l, err := newLoop(d)
		if err != nil {
			return nil, err
		}
		d.all = append(d.all, l)
		go l.run() // ends by Close
	}
	d.next++
	return d.all[d.next%len(d.all)], nil
}

// enter counts a connection, unless nobody is let in any more.
func (d *loops) enter() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.stopped {
		d.conns++
	}
	return !d.stopped
}

func (d *loops) leave() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conns--; d.conns == 0 {
		d.empty.Broadcast()
	}
}

// LetNobodyIn implements driver.
func (d *loops) LetNobodyIn() { d.order(postLetNobodyIn) }

// Stop implements driver.
func (d *loops) Stop() { d.order(postStop) }

// Close implements driver.
func (d *loops) Close() {
	for _, l := range d.order(postClose) {
		<-l.ended
	}
	d.shakes.all.Wait()
}

// order has every loop do something, after which no connection is let in.
func (d *loops) order(kind postKind) []*loop {
	d.mu.Lock()
	d.stopped = true
	all := d.all
	d.mu.Unlock()
	for _, l := range all {
		l.order(post{kind: kind})
	}
	return all
}

// Wait implements driver.
func (d *loops) Wait(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() {
		d.mu.Lock() // so that the wait below has begun or sees ctx's end
		defer d.mu.Unlock()
		d.empty.Broadcast()
	})()
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.conns > 0 {
		if ctx.Err() != nil {
			return fmt.Errorf("%d connections left: %w", d.conns, ctx.Err())
		}
		d.empty.Wait()
	}
	return nil
}

// Queued implements driver.
func (d *loops) Queued() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for _, l := range d.all {
		n += int(l.blocks.held.Load()) * blockBytes
	}
	return n
}

// least is the loop with the fewest connections; from, if it is one of them.
func (d *loops) least(from *loop) *loop {
	least := from
	for _, l := range d.all { // which does not change once a loop has a listener
		if l.count.Load() < least.count.Load() {
			least = l
		}
	}
	return least
}

// listen begins to accept from a listener.
func (l *loop) listen(li *listener) {
	l.lastID++
	li.id, li.wait = l.lastID, pauseLow
	if l.stopped {
		l.unlisten(li, nil)
		return
	}
	if err := l.control(unix.EPOLL_CTL_ADD, li.fd, unix.EPOLLIN, 0, generation(li.id)); err != nil {
		l.unlisten(li, err)
		return
	}
	l.listeners[li.id] = li
}

// unlisten closes a listener, whose Serve returns err.
func (l *loop) unlisten(li *listener, err error) {
	delete(l.listeners, li.id)
	if li.resume != 0 {
		l.paused--
	}
	_ = unix.Close(li.fd)
	li.ended <- err
}

// Pauses after accept has failed for want of something.
const pauseLow, pauseHigh = 50 * time.Millisecond, time.Second

// accept lets in who is waiting, some at a time.
func (l *loop) accept(li *listener) {
	l.setNow(time.Now()) // who comes while the loop turns is not earlier than that
	for range acceptsPerTurn {
		fd, err := l.from.acceptNow(li.fd)
		switch err {
		case nil:
			li.wait = pauseLow
			if li.early {
				_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) // fails where the peer has gone
			}
			l.welcome(fd, li)
		case unix.EAGAIN, unix.EINTR, unix.ECONNABORTED: // the next one
		default:
			l.acceptFailed(li, os.NewSyscallError("accept4", err))
			return
		}
		if !somebodyWaits(li.fd) {
			li.early = false
			return
		}
	}
}

// acceptFailed pauses: without descriptors the listener would stay readable, and
// the loop would turn for nothing.
func (l *loop) acceptFailed(li *listener, err error) {
	if passes(err) {
		l.log.Warn("accept failed", "listener", li.addr, "error", err, "again_in", li.wait)
		li.resume = l.tickOf(l.now.Add(li.wait))
		l.paused++
		li.wait = min(2*li.wait, pauseHigh)
		err = l.control(unix.EPOLL_CTL_MOD, li.fd, 0, 0, generation(li.id))
	}
	if err != nil {
		l.unlisten(li, fmt.Errorf("accept on %s: %w", li.addr, err))
	}
}

// resumeListeners ends the pauses that are over.
func (l *loop) resumeListeners() {
	if l.paused == 0 {
		return
	}
	for _, li := range l.listeners {
		if li.resume == 0 || li.resume > l.tick {
			continue
		}
		li.resume = 0
		l.paused--
		if err := l.control(unix.EPOLL_CTL_MOD, li.fd, unix.EPOLLIN, 0, generation(li.id)); err != nil {
			l.unlisten(li, fmt.Errorf("accept on %s: %w", li.addr, err))
		}
	}
}

// welcome has the opener decide about a connection, and hands it to the loop
// with the fewest.
func (l *loop) welcome(fd int32, li *listener) {
	ticket, ok := l.d.opener.Accepted(l.from.peer(), li.tls != nil, l.now)
	if !ok {
		resetSocket(fd)
		return
	}
	if !l.d.enter() {
		resetSocket(fd)
		ticket.Failed(ErrStopped)
		return
	}
	to := l.d.least(l)
	to.count.Add(1)
	if to == l {
		l.adopt(fd, ticket, li.tls)
		return
	}
	if !to.order(post{kind: postAdopt, fd: fd, ticket: ticket, l: li}) { // it counts for to, which cannot have ended
		panic(errors.New("netloop: a loop has ended that has connections"))
	}
}
