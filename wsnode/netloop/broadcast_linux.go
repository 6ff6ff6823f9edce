package netloop

import (
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// broadcast implements driver.
func (d *loops) broadcast(b *broadcast) bool {
	size := int64(len(b.frame.b) + blockBytes) // whoever sends few bytes at a time counts too
	if waiting := d.casting.Add(size); waiting > size && waiting > int64(d.cfg.LoopBytes) {
		d.casting.Add(-size)
		return false
	}
	d.mu.Lock()
	all := d.all
	d.mu.Unlock()
	b.loops.Store(int32(len(all)) + 1)
	for _, l := range all {
		if !l.order(post{kind: postBroadcast, broadcast: b}) {
			d.hasBroadcast(b)
		}
	}
	d.hasBroadcast(b)
	return true
}

// hasBroadcast says that one more has b behind it: a loop, or whoever asked all
// loops for it.
func (d *loops) hasBroadcast(b *broadcast) {
	if b.loops.Add(-1) == 0 {
		d.casting.Add(-int64(len(b.frame.b) + blockBytes))
	}
}

// broadcasts goes on with those that wait, as far as the turn has sockets for them.
// What is posted after them comes before the rest.
func (l *loop) broadcasts() {
	for len(l.casts) > 0 {
		b := l.casts[0]
		if b == nil {
			l.stop()
		} else if !l.castOn(b) {
			return
		}
		l.casts = slices.Delete(l.casts, 0, 1)
	}
}

// castOn goes on with a broadcast, and reports whether all have it who are to.
func (l *loop) castOn(b *broadcast) bool {
	for ; l.castSlot < l.slots; l.castSlot++ {
		if l.castsLeft == 0 {
			return false
		}
		l.castsLeft--
		l.cast(b, l.castSlot)
	}
	l.castSlot = 1
	l.d.hasBroadcast(b)
	return true
}

// cast sends a broadcast to the connection of a slot, if it is to have it.
func (l *loop) cast(b *broadcast, slot uint32) {
	r := l.records.at(slot)
	if r.state != stateOpen {
		return
	}
	m := *l.machines.at(slot)
	if r.is&layered != 0 {
		if m = m.(layer).Inner(); m == nil {
			return
		}
	}
	l.readClock()
	if b.to(m, l.now) {
		l.sendFrame(slot, r, b.frame)
	}
}

// sendFrame is finishTurn for a turn that has appended a frame to out, which is
// not copied where it need not be: under TLS, and for who has more waiting than may
// be.
func (l *loop) sendFrame(slot uint32, r *record, f *Frame) {
	var x *transfer
	if r.transfer != 0 {
		x = l.transferOf(r)
	}
	if r.is&layered != 0 || x != nil && l.exceeds(x, len(f.b)) {
		l.out = append(l.out[:0], f.b...)
		l.finishTurn(slot, r)
		return
	}
	if x != nil {
		l.blocks.addFrame(&x.queue, f, 0)
		l.ask(slot, r, x.machineDue)
		return
	}
	n, err := sendNow(r.fd, f.b, false)
	if err != nil && err != unix.EAGAIN && err != unix.EINTR {
		l.end(slot, r, os.NewSyscallError("write", err))
		return
	}
	n = max(n, 0)
	if n == len(f.b) {
		return
	}
	if len(f.b) > l.blocks.room() {
		(*l.machines.at(slot)).Overflow(l.now, nil)
		l.end(slot, r, errNoRoom)
		return
	}
	x = l.transferOf(r)
	l.blocks.addFrame(&x.queue, f, n)
	x.underWay = x.bytes
	l.transferBegins(x)
	l.ask(slot, r, x.machineDue)
}
