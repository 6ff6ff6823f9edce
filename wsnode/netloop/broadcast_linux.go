package netloop

import (
	"os"

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

// broadcast sends a frame to those that are to have it.
func (l *loop) broadcast(b *broadcast) {
	l.each(func(slot uint32, r *record) {
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
	})
	l.d.hasBroadcast(b)
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
	n, err := sendNow(r.fd, f.b)
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
