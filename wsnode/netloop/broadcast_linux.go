package netloop

import (
	"os"

	"golang.org/x/sys/unix"
)

// broadcast implements driver.
func (d *loops) broadcast(b *broadcast) {
	d.mu.Lock()
	all := d.all
	d.mu.Unlock()
	for _, l := range all {
		l.order(post{kind: postBroadcast, broadcast: b})
	}
}

// broadcast sends a frame to those that are to have it.
func (l *loop) broadcast(b *broadcast) {
	l.each(func(slot uint32, r *record) {
		if r.state != stateOpen {
			return
		}
		m := *l.machines.at(slot)
		if r.layered {
			if m = m.(layer).Inner(); m == nil {
				return
			}
		}
		if b.to(m) {
			l.sendFrame(slot, r, b.frame)
		}
	})
}

// sendFrame is finishTurn for a turn that has appended a frame to out, which is
// not copied where it need not be: under TLS, and for who has more waiting than may
// be.
func (l *loop) sendFrame(slot uint32, r *record, f *Frame) {
	var x *transfer
	if r.transfer != 0 {
		x = l.transferOf(r)
	}
	if r.layered || x != nil && l.exceeds(x, len(f.b)) {
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
