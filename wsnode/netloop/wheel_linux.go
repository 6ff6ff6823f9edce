package netloop

import (
	"math/bits"
	"time"
)

// tick counts time as a loop does: stretches of 34 ms from a little before the
// loop began, for four years. 0 is never.
type tick uint32

const tickShift = 25 // a tick is 1<<tickShift nanoseconds

// tickAt is the tick under way after so much time.
func tickAt(since time.Duration) tick { return tick(since>>tickShift) + 1 }

// tickAfter is the first tick that begins no earlier than that.
func tickAfter(since time.Duration) tick {
	if since <= 0 {
		return 1
	}
	return tick((since-1)>>tickShift) + 2
}

// begins is when a tick begins.
func (t tick) begins() time.Duration { return time.Duration(t-1) << tickShift }

const (
	wheelSlots = 1024 // of a tick each: 34 s
	slotMask   = wheelSlots - 1
)

// timer is one deadline in a wheel.
type timer struct {
	due        tick   // when it is to go off, or 0
	at         tick   // whose slot it hangs in, no later than due, or 0
	next, prev uint32 // in that slot
}

// wheel is a hashed timing wheel: a list of timers for each tick to come. A
// timer that is put off stays where it hangs, and moves when its slot comes up;
// so does one that lies beyond the wheel's horizon.
type wheel struct {
	records *table[record]
	heads   [wheelSlots]uint32
	busy    [wheelSlots / 64]uint64 // slots that have a list
	at      tick                    // all slots before it are empty
	hanging int
}

// set has a timer go off at due, or never. A timer that pop gave is set for a
// tick after that of pop.
func (w *wheel) set(i uint32, due tick) {
	t := &w.records.at(i).timer
	t.due = due
	if due == 0 || t.at != 0 && t.at <= due {
		return
	}
	w.remove(i)
	t.due = due
	w.hang(i, t)
}

func (w *wheel) hang(i uint32, t *timer) {
	t.at = min(max(t.due, w.at), w.at+wheelSlots-1)
	slot := t.at & slotMask
	t.prev, t.next = 0, w.heads[slot]
	if t.next != 0 {
		w.records.at(t.next).prev = i
	}
	w.heads[slot] = i
	w.busy[slot/64] |= 1 << (slot % 64)
	w.hanging++
}

// remove takes a timer out for good.
func (w *wheel) remove(i uint32) {
	t := &w.records.at(i).timer
	if t.at == 0 {
		t.due = 0
		return
	}
	slot := t.at & slotMask
	if t.prev != 0 {
		w.records.at(t.prev).next = t.next
	} else if w.heads[slot] = t.next; t.next == 0 {
		w.busy[slot/64] &^= 1 << (slot % 64)
	}
	if t.next != 0 {
		w.records.at(t.next).prev = t.prev
	}
	*t = timer{}
	w.hanging--
}

// pop takes out one timer that is due by now, or returns 0 if there is none.
func (w *wheel) pop(now tick) uint32 {
	for w.at <= now {
		i := w.heads[w.at&slotMask]
		if i == 0 {
			w.at = min(w.next(), now+1)
			continue
		}
		t := &w.records.at(i).timer
		due := t.due
		w.remove(i)
		if due != 0 && due <= now {
			return i
		}
		if due != 0 {
			t.due = due
			w.hang(i, t)
		}
	}
	return 0
}

// never is a tick that does not come, for who waits for the next.
const never = ^tick(0)

// next is the tick at which pop may find something, or never.
func (w *wheel) next() tick {
	if w.hanging == 0 {
		return never
	}
	first := w.at & slotMask
	for k := range tick(len(w.busy) + 1) {
		word := (first/64 + k) % tick(len(w.busy))
		b := w.busy[word]
		if k == 0 {
			b &= ^uint64(0) << (first % 64)
		}
		if b != 0 {
			slot := word*64 + tick(bits.TrailingZeros64(b))
			return w.at + (slot-first)&slotMask
		}
	}
	return never
}
