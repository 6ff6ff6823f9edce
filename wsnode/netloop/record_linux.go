package netloop

import (
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// record is what a loop knows of a connection: no pointer, so that the garbage
// collector never looks at it. Its machine stands in a table beside.
type record struct {
	timer             // at the earlier of the deadlines below
	queue             // what the kernel did not take
	generation        // of the slot
	fd          int32 //
	machineDue  tick  // when the machine wants to expire, or 0
	transferDue tick  // when what waits must have been sent, or the peer must have ended; or 0
	underWay    uint32
	left        uint32 // bytes to be sent before transferDue is put off, or that may yet be discarded
	interest    uint8  // what epoll is asked for, EPOLLIN and EPOLLOUT
	state       uint8
	peerEnded   bool // there is nothing more to read

	_ [5]byte // to 64 bytes: the cache has each in one piece
}

// The bytes of the queue up to underWay are those that a write has begun with:
// whatever happens, they are sent whole.

const (
	stateFree      = iota
	stateOpen      // the machine takes what is read
	stateFlushing  // the machine is done, and what it said is being sent
	stateLingering // our side has ended, and the peer's is read to its end
	stateDead      // the socket is closed; what was posted before is run, then the machine hears of it
)

// highWater is how much may wait to be sent for a socket to be read.
const highWater = 64 << 10

// errNoRoom ends a connection whose output all the memory for that has no room
// for.
var errNoRoom = errors.New("peer does not read, and there is no room for more that waits to be sent")

// adopt takes a connection that was accepted and let in.
func (l *loop) adopt(fd int32, ticket Ticket) {
	if l.stopped {
		resetSocket(fd)
		ticket.Failed(ErrStopped)
		l.forget()
		return
	}
	slot := l.takeSlot()
	r := l.records.at(slot)
	r.fd, r.state, r.interest = fd, stateOpen, unix.EPOLLIN
	l.mu.Lock()
	*l.live.at(slot) = uint32(r.generation)
	l.mu.Unlock()
	m := ticket.Open(Link{Poster: l, Ref: Ref(slot)<<32 | Ref(r.generation), Shared: l.shared}, l.now)
	*l.machines.at(slot) = m
	if err := l.control(unix.EPOLL_CTL_ADD, int(fd), unix.EPOLLIN, slot, r.generation); err != nil { // no memory, or max_user_watches
		l.end(slot, r, err)
		return
	}
	l.out = l.out[:0]
	l.finishTurn(slot, r)
}

// forget takes a connection out of the counts.
func (l *loop) forget() {
	l.count.Add(-1)
	l.d.leave()
}

func (l *loop) takeSlot() uint32 {
	slot := l.free
	if slot != 0 {
		r := l.records.at(slot)
		l.free, r.next = r.next, 0
		return slot
	}
	if int(l.slots) >= len(l.records.chunks)*chunkSize {
		l.records.grow()
		l.machines.grow()
		l.mu.Lock()
		l.live.grow()
		l.mu.Unlock()
	}
	slot = l.slots
	l.slots++
	l.records.at(slot).generation = 1
	return slot
}

// readable reads once.
func (l *loop) readable(slot uint32, r *record) {
	n, err := readNow(r.fd, l.in)
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
	case err != nil:
		l.end(slot, r, os.NewSyscallError("read", err))
	case r.state == stateLingering:
		if n == 0 || uint32(n) >= r.left {
			l.end(slot, r, nil)
			return
		}
		r.left -= uint32(n)
	case n == 0 && r.bytes == 0:
		l.end(slot, r, io.EOF)
	case n == 0: // what waits is sent before
		r.peerEnded = true
		l.ask(slot, r)
	default:
		// Not once for all sockets of the loop's turn: a process that is paused in
		// the midst of it must find out before it hands on what it has read since.
		l.setNow(time.Now())
		l.out = (*l.machines.at(slot)).Feed(l.in[:n], l.now, l.out[:0])
		l.finishTurn(slot, r)
	}
}

// finishTurn sends what a turn has appended to out, and looks at what the
// machine wants next.
func (l *loop) finishTurn(slot uint32, r *record) {
	m := *l.machines.at(slot)
	if r.state == stateLingering { // a post that was taken before the end of our side
		return
	}
	if len(l.out) > 0 {
		if err := l.send(r, m); err != nil {
			l.end(slot, r, err)
			return
		}
	}
	if r.state == stateOpen && m.Done() {
		r.state, r.machineDue = stateFlushing, 0
		l.noPosts(slot)
	}
	switch {
	case r.state == stateFlushing && r.bytes == 0:
		l.linger(slot, r)
		return
	case r.state == stateOpen:
		r.machineDue = l.tickOf(m.Deadline())
	}
	l.ask(slot, r)
}

// tickOf is the tick of a machine's deadline, at least the next one.
func (l *loop) tickOf(at time.Time) tick {
	if at.IsZero() {
		return 0
	}
	return max(tickAfter(at.Sub(l.begin)), l.tick+1)
}

// send sends out, or queues what the kernel does not take. Whoever lets more
// wait than it may gets its machine's last words instead.
func (l *loop) send(r *record, m Machine) error {
	if r.bytes == 0 {
		n, err := sendNow(r.fd, l.out)
		if err != nil && err != unix.EAGAIN && err != unix.EINTR {
			return os.NewSyscallError("write", err)
		}
		rest := l.out[max(n, 0):]
		if len(rest) == 0 {
			return nil
		}
		if len(rest) > l.blocks.room() {
			m.Overflow(l.now, nil) // which nobody would read: part of a message has been sent
			return errNoRoom
		}
		l.blocks.add(&r.queue, rest)
		r.underWay = r.bytes
		l.transferBegins(r)
		return nil
	}
	waiting := int(r.bytes - r.underWay)
	// The last is what is fair: nobody has more waiting than is left for all.
	if r.state == stateOpen && (len(l.out) > l.cfg.OutboundBytes-waiting || len(l.out) > l.blocks.room()-int(r.bytes)) {
		l.blocks.cut(&r.queue, int(r.underWay))
		l.out = m.Overflow(l.now, l.out[:0])
	}
	l.blocks.add(&r.queue, l.out)
	return nil
}

// transferBegins gives the peer time for the next piece of what waits.
func (l *loop) transferBegins(r *record) {
	r.left = writeBytes
	r.transferDue = l.tickOf(l.now.Add(l.cfg.WriteTimeout))
}

// writable sends what waits.
func (l *loop) writable(slot uint32, r *record) {
	for range 4 { // others wait
		if r.underWay == 0 {
			r.underWay = r.bytes
		}
		want := min(int(r.underWay), writeBytes)
		n, err := l.msg.sendParts(r.fd, l.blocks.front(&r.queue, want, l.msg.parts[:0]))
		if err == unix.EAGAIN || err == unix.EINTR {
			break
		}
		if err != nil {
			l.end(slot, r, os.NewSyscallError("write", err))
			return
		}
		l.blocks.drop(&r.queue, n)
		r.underWay -= uint32(n)
		if r.left -= min(r.left, uint32(n)); r.left == 0 {
			l.transferBegins(r)
		}
		if r.bytes == 0 || n < want {
			break
		}
	}
	if r.bytes > 0 {
		l.ask(slot, r)
		return
	}
	r.transferDue = 0
	switch {
	case r.state == stateFlushing:
		l.linger(slot, r)
	case r.peerEnded:
		l.end(slot, r, io.EOF)
	default:
		l.ask(slot, r)
	}
}

// ask has epoll and the wheel tell of what the connection waits for.
func (l *loop) ask(slot uint32, r *record) {
	var want uint8
	if r.bytes > 0 {
		want = unix.EPOLLOUT
	}
	if r.state == stateLingering || r.state == stateOpen && !r.peerEnded && r.bytes < highWater {
		want |= unix.EPOLLIN
	}
	if want != r.interest {
		r.interest = want
		if err := l.control(unix.EPOLL_CTL_MOD, int(r.fd), uint32(want), slot, r.generation); err != nil {
			l.end(slot, r, err)
			return
		}
	}
	due := r.machineDue
	if due == 0 || r.transferDue != 0 && r.transferDue < due {
		due = r.transferDue
	}
	l.wheel.set(slot, due)
}

// expired takes a deadline that has come.
func (l *loop) expired(slot uint32, r *record) {
	if r.transferDue != 0 && r.transferDue <= l.tick {
		if r.state == stateLingering {
			l.end(slot, r, nil)
		} else {
			l.end(slot, r, os.ErrDeadlineExceeded)
		}
		return
	}
	if r.state != stateOpen || r.machineDue == 0 || r.machineDue > l.tick {
		l.ask(slot, r)
		return
	}
	if r.interest&unix.EPOLLIN == 0 && !r.peerEnded {
		// The peer's silence may be ours: it is not read while it does not read.
		if l.readable(slot, r); r.state != stateOpen {
			return
		}
	}
	r.machineDue = 0
	l.out = (*l.machines.at(slot)).Expire(l.now, l.out[:0])
	l.finishTurn(slot, r)
}

// linger ends our side and reads the peer's to its end, bounded: a socket
// closed over unread bytes resets, and the peer may lose what we sent last.
func (l *loop) linger(slot uint32, r *record) {
	if unix.Shutdown(int(r.fd), unix.SHUT_WR) != nil || r.peerEnded {
		l.end(slot, r, nil)
		return
	}
	r.state, r.left = stateLingering, lingerBytes
	r.transferDue = l.tickOf(l.now.Add(l.cfg.LingerTimeout))
	l.ask(slot, r)
}

// end closes the socket. The machine hears of it once all that was posted for
// it has run.
func (l *loop) end(slot uint32, r *record, err error) {
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, errNoRoom) {
		resetSocket(r.fd) // the kernel's own queue for a peer that does not read goes too
	} else {
		_ = unix.Close(int(r.fd))
	}
	l.blocks.clear(&r.queue)
	l.wheel.remove(slot)
	r.state, r.interest, r.fd = stateDead, 0, -1
	l.mu.Lock()
	defer l.mu.Unlock()
	*l.live.at(slot) = 0
	l.put(post{kind: postBury, slot: slot, err: err})
}

// noPosts takes no more posts for a connection.
func (l *loop) noPosts(slot uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	*l.live.at(slot) = 0
}

// bury tells a machine that its connection is gone, and gives the slot back.
func (l *loop) bury(slot uint32, err error) {
	m := *l.machines.at(slot)
	*l.machines.at(slot) = nil
	r := l.records.at(slot)
	g := r.generation + 1
	if g == 0 {
		g = 1
	}
	*r = record{generation: g}
	r.next, l.free = l.free, slot
	m.Gone(err, l.now)
	l.forget()
}

// resetSocket closes a socket so that the peer gets a RST and nothing lingers.
func resetSocket(fd int32) {
	_ = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	_ = unix.Close(int(fd))
}
