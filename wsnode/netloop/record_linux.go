package netloop

import (
	"crypto/tls"
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// record is what a loop knows of a connection: no pointer, so that the garbage
// collector never looks at it, and two to a line of the cache. Its machine stands
// in a table beside.
type record struct {
	timer      // at the earlier of the deadlines of its machine and its transfer
	generation // of the slot; changed under mu
	fd         int32
	transfer   uint32 // which one, or 0
	interest   uint8  // what epoll is asked for, EPOLLIN and EPOLLOUT
	state      uint8
	is         uint8
	posts      bool // are taken for it; guarded by mu
}

// What a record is, beside its state.
const (
	layered   = 1 << iota // its machine is a layer
	peerEnded             // there is nothing more to read, or that matters
)

// transfer is what a loop knows of a connection beside that while the peer has to
// read, or to end. Few have one.
type transfer struct {
	queue           // what the kernel did not take
	machineDue tick // when the machine wants to expire, or 0; without a transfer the timer has it
	due        tick // when what waits must have been sent, or the peer must have ended; or 0
	// The bytes of the queue up to underWay are those that a write has begun with:
	// whatever happens, they are sent whole.
	underWay uint32
	left     uint32 // bytes to be sent before due is put off, or that may yet be discarded
}

// transfers are those of a loop, and how many there are room for.
type transfers struct {
	all  table[transfer]
	free uint32 // list of those that are not used, by their heads
	end  uint32 // first number that was never used
	used int
}

func (t *transfers) take() uint32 {
	t.used++
	i := t.free
	if i != 0 {
		x := t.all.at(i)
		t.free, x.head = x.head, 0
		return i
	}
	if t.end == 0 {
		t.end = 1
	}
	if int(t.end) >= len(t.all.chunks)*chunkSize {
		t.all.grow()
	}
	i = t.end
	t.end++
	return i
}

func (t *transfers) give(i uint32) {
	t.used--
	*t.all.at(i) = transfer{queue: queue{head: t.free}}
	t.free = i
}

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
func (l *loop) adopt(fd int32, ticket Ticket, tlsConfig *tls.Config) {
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
	r.posts = true
	l.mu.Unlock()
	link := Link{Poster: l, Ref: Ref(slot)<<32 | Ref(r.generation), Shared: l.shared}
	if tlsConfig != nil {
		local, remote := addressesOf(fd)
		*l.machines.at(slot), r.is = l.secure(link, ticket, tlsConfig, local, remote), layered
	} else {
		*l.machines.at(slot) = ticket.Open(link, l.now)
	}
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
		l.machines.grow()
		l.mu.Lock()
		l.records.grow()
		l.mu.Unlock()
	}
	slot = l.slots
	l.slots++
	l.records.at(slot).generation = 1
	return slot
}

// transferOf is the transfer of a connection, which may be new.
func (l *loop) transferOf(r *record) *transfer {
	if r.transfer == 0 {
		r.transfer = l.transfers.take()
		l.transfers.all.at(r.transfer).machineDue = r.due
	}
	return l.transfers.all.at(r.transfer)
}

// endTransfer drops what waits, if anything.
func (l *loop) endTransfer(r *record) {
	if r.transfer != 0 {
		l.blocks.clear(&l.transfers.all.at(r.transfer).queue)
		l.transfers.give(r.transfer)
		r.transfer = 0
	}
}

// machineDue is when the machine wants to expire, or 0.
func (l *loop) machineDue(r *record) tick {
	if r.transfer == 0 {
		return r.due
	}
	return l.transfers.all.at(r.transfer).machineDue
}

// readable reads once.
func (l *loop) readable(slot uint32, r *record) {
	n, err := readNow(r.fd, l.in)
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
	case err != nil:
		l.end(slot, r, os.NewSyscallError("read", err))
	case r.state == stateLingering:
		x := l.transferOf(r)
		if n == 0 || uint32(n) >= x.left {
			l.end(slot, r, nil)
			return
		}
		x.left -= uint32(n)
	case n == 0 && r.transfer == 0:
		l.end(slot, r, io.EOF)
	case n == 0: // what waits is sent before
		r.is |= peerEnded
		l.ask(slot, r, l.machineDue(r))
	default:
		l.readClock()
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
	if len(l.out) > 0 || r.is&layered != 0 {
		if err := l.send(r, m); err != nil {
			l.end(slot, r, err)
			return
		}
	}
	if r.state == stateOpen && m.Done() {
		r.state = stateFlushing
		if m.PeerDone() {
			r.is |= peerEnded
		}
		l.noPosts(r)
	}
	if r.state == stateOpen && r.is&layered != 0 {
		err := m.(layer).Err()
		if _, now := err.(abrupt); now || err != nil && r.transfer == 0 {
			l.end(slot, r, err)
			return
		}
		if err != nil { // what waits is sent before
			r.is |= peerEnded
		}
	}
	switch {
	case r.state == stateOpen:
		l.ask(slot, r, l.tickOf(m.Deadline()))
	case r.transfer == 0:
		l.linger(slot, r)
	default:
		l.ask(slot, r, 0)
	}
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
	if r.transfer == 0 {
		out := l.seal(r, m)
		if len(out) == 0 {
			return nil
		}
		n, err := sendNow(r.fd, out, m.Done())
		if err != nil && err != unix.EAGAIN && err != unix.EINTR {
			return os.NewSyscallError("write", err)
		}
		rest := out[max(n, 0):]
		if len(rest) == 0 {
			return nil
		}
		if len(rest) > l.blocks.room() {
			m.Overflow(l.now, nil) // which nobody would read: part of a message has been sent
			return errNoRoom
		}
		x := l.transferOf(r)
		l.blocks.add(&x.queue, rest)
		x.underWay = x.bytes
		l.transferBegins(x)
		return nil
	}
	x := l.transferOf(r)
	if r.state == stateOpen && len(l.out) > 0 && l.exceeds(x, len(l.out)) {
		if r.is&layered == 0 { // else a part that is missing would spoil what follows
			l.blocks.cut(&x.queue, int(x.underWay))
		}
		l.out = m.Overflow(l.now, l.out[:0])
	}
	out := l.seal(r, m)
	if r.is&layered != 0 && len(out) > l.blocks.room() {
		m.Overflow(l.now, nil)
		return errNoRoom
	}
	l.blocks.add(&x.queue, out)
	return nil
}

// exceeds reports whether more bytes are more than may wait. The last is what is
// fair: nobody has more waiting than is left for all.
func (l *loop) exceeds(x *transfer, more int) bool {
	waiting := int(x.bytes - x.underWay)
	return more > l.cfg.OutboundBytes-waiting || more > l.blocks.room()-int(x.bytes)
}

// seal is what is to be sent of what a turn has appended to out.
func (l *loop) seal(r *record, m Machine) []byte {
	if r.is&layered != 0 {
		return m.(layer).Seal(l.out)
	}
	return l.out
}

// transferBegins gives the peer time for the next piece of what waits.
func (l *loop) transferBegins(x *transfer) {
	x.left = writeBytes
	x.due = l.tickOf(l.now.Add(l.cfg.WriteTimeout))
}

// writable sends what waits.
func (l *loop) writable(slot uint32, r *record) {
	x := l.transferOf(r)
	for range 4 { // others wait
		if x.underWay == 0 {
			x.underWay = x.bytes
		}
		want := min(int(x.underWay), writeBytes)
		n, err := l.msg.sendParts(r.fd, l.blocks.front(&x.queue, want, l.msg.parts[:0]))
		if err == unix.EAGAIN || err == unix.EINTR {
			break
		}
		if err != nil {
			l.end(slot, r, os.NewSyscallError("write", err))
			return
		}
		l.blocks.drop(&x.queue, n)
		x.underWay -= uint32(n)
		if x.left -= min(x.left, uint32(n)); x.left == 0 {
			l.transferBegins(x)
		}
		if x.bytes == 0 || n < want {
			break
		}
	}
	due := x.machineDue
	if x.bytes > 0 {
		l.ask(slot, r, due)
		return
	}
	l.endTransfer(r)
	switch {
	case r.state == stateFlushing:
		l.linger(slot, r)
	case r.is&peerEnded != 0:
		l.end(slot, r, l.whyEnded(slot, r))
	default:
		l.ask(slot, r, due)
	}
}

// whyEnded is how a connection ends of which nothing more can be read.
func (l *loop) whyEnded(slot uint32, r *record) error {
	if r.is&layered != 0 {
		if err := (*l.machines.at(slot)).(layer).Err(); err != nil {
			return err
		}
	}
	return io.EOF
}

// ask has epoll and the wheel tell of what the connection waits for. due is when
// its machine wants to expire, or 0.
func (l *loop) ask(slot uint32, r *record, due tick) {
	waiting := 0
	if r.transfer != 0 {
		x := l.transferOf(r)
		x.machineDue = due
		if due == 0 || x.due != 0 && x.due < due {
			due = x.due
		}
		waiting = int(x.bytes)
	}
	var want uint8
	if waiting > 0 {
		want = unix.EPOLLOUT
	}
	if r.state == stateLingering || r.state == stateOpen && r.is&peerEnded == 0 && waiting < highWater {
		want |= unix.EPOLLIN
	}
	if want != r.interest {
		r.interest = want
		if err := l.control(unix.EPOLL_CTL_MOD, int(r.fd), uint32(want), slot, r.generation); err != nil {
			l.end(slot, r, err)
			return
		}
	}
	l.wheel.set(slot, due)
}

// expired takes a deadline that has come.
func (l *loop) expired(slot uint32, r *record) {
	if r.transfer != 0 {
		x := l.transferOf(r)
		if x.due != 0 && x.due <= l.tick {
			if r.state == stateLingering {
				l.end(slot, r, nil)
			} else {
				l.end(slot, r, os.ErrDeadlineExceeded)
			}
			return
		}
		if r.state != stateOpen || x.machineDue == 0 || x.machineDue > l.tick {
			l.ask(slot, r, x.machineDue)
			return
		}
	}
	if r.interest&unix.EPOLLIN == 0 && r.is&peerEnded == 0 {
		// The peer's silence may be ours: it is not read while it does not read.
		if l.readable(slot, r); r.state != stateOpen {
			return
		}
	}
	l.out = (*l.machines.at(slot)).Expire(l.now, l.out[:0])
	l.finishTurn(slot, r)
}

// linger ends our side and reads the peer's to its end, bounded: a socket
// closed over unread bytes resets, and the peer may lose what we sent last.
func (l *loop) linger(slot uint32, r *record) {
	if unix.Shutdown(int(r.fd), unix.SHUT_WR) != nil || r.is&peerEnded != 0 {
		l.end(slot, r, nil)
		return
	}
	r.state = stateLingering
	x := l.transferOf(r)
	x.left, x.due = lingerBytes, l.tickOf(l.now.Add(l.cfg.LingerTimeout))
	l.ask(slot, r, 0)
}

// end closes the socket. The machine hears of it once all that was posted for
// it has run.
func (l *loop) end(slot uint32, r *record, err error) {
	if a, is := err.(abrupt); is && a.reset || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, errNoRoom) {
		resetSocket(r.fd) // the kernel's own queue for a peer that does not read goes too
	} else {
		_ = unix.Close(int(r.fd))
	}
	l.endTransfer(r)
	l.wheel.remove(slot)
	r.state, r.interest, r.fd = stateDead, 0, -1
	l.mu.Lock()
	defer l.mu.Unlock()
	r.posts = false
	l.put(post{kind: postBury, slot: slot, err: err})
}

// noPosts takes no more posts for a connection.
func (l *loop) noPosts(r *record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r.posts = false
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
	l.mu.Lock()
	*r = record{generation: g}
	l.mu.Unlock()
	r.next, l.free = l.free, slot
	m.Gone(err, l.now)
	l.forget()
}

// resetSocket closes a socket so that the peer gets a RST and nothing lingers.
func resetSocket(fd int32) {
	_ = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	_ = unix.Close(int(fd))
}
