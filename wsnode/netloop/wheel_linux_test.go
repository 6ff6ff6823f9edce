package netloop

import (
	"math/rand/v2"
	"testing"
	"time"
)

func newWheel(timers int) *wheel {
	var records table[record]
	for int(records.grow()) <= timers {
	}
	return &wheel{records: &records}
}

// Whatever is set, put off, brought forward and removed, each timer goes off
// once, at the first look at or after its tick, and not before.
func TestWheel(t *testing.T) {
	const timers = 300
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(1, seed))
		w := newWheel(timers)
		due := map[uint32]tick{}
		now := tick(1 + r.IntN(100))
		span := []int{3, 50, wheelSlots - 1, wheelSlots, 10 * wheelSlots}[seed%5]
		for range 2000 {
			for range r.IntN(20) {
				i := uint32(1 + r.IntN(timers))
				switch r.IntN(8) {
				case 0:
					w.remove(i)
					delete(due, i)
				case 1:
					w.set(i, 0)
					delete(due, i)
				default:
					due[i] = now + 1 + tick(r.IntN(span))
					w.set(i, due[i])
				}
			}
			first := never
			for _, at := range due {
				first = min(first, at)
			}
			if next := w.next(); next > first {
				t.Fatalf("seed %d: the next is said to be at %d, it is at %d", seed, next, first)
			}
			switch r.IntN(4) {
			case 0:
				now += tick(r.IntN(2 * span))
			case 1:
				now++
			}
			for i := w.pop(now); i != 0; i = w.pop(now) {
				if at, ok := due[i]; !ok || at > now {
					t.Fatalf("seed %d: %d goes off at %d, it is due at %d (%t)", seed, i, now, at, ok)
				}
				delete(due, i)
				if r.IntN(3) == 0 { // as a machine that has another deadline at once
					due[i] = now + 1 + tick(r.IntN(span))
					w.set(i, due[i])
				}
			}
			for i, at := range due {
				if at <= now {
					t.Fatalf("seed %d: %d was due at %d and has not gone off at %d", seed, i, at, now)
				}
			}
		}
		for i := range uint32(timers) {
			w.remove(i + 1)
		}
		if w.hanging != 0 || w.next() != never {
			t.Fatalf("seed %d: %d timers left, the next at %d", seed, w.hanging, w.next())
		}
	}
}

func TestTicks(t *testing.T) {
	const long = 1 << tickShift
	for _, c := range []struct {
		since     time.Duration
		at, after tick
	}{
		{0, 1, 1}, {1, 1, 2}, {long - 1, 1, 2}, {long, 2, 2}, {long + 1, 2, 3}, {-5, 1, 1},
	} {
		if got := tickAfter(c.since); got != c.after || got.begins() < c.since {
			t.Errorf("the first tick from %d on is %d and begins at %d, want %d", c.since, got, got.begins(), c.after)
		}
		if got := tickAt(c.since); c.since >= 0 && got != c.at {
			t.Errorf("the tick at %d is %d, want %d", c.since, got, c.at)
		}
	}
}

func BenchmarkWheel(b *testing.B) {
	const timers = 100_000
	w := newWheel(timers)
	for i := range uint32(timers) {
		w.set(i+1, tick(1+i%1000))
	}
	b.Run("put off", func(b *testing.B) {
		for n := range b.N {
			w.set(uint32(1+n%timers), tick(2000+n/timers))
		}
	})
	b.Run("set", func(b *testing.B) {
		for n := range b.N {
			i := uint32(1 + n%timers)
			w.remove(i)
			w.set(i, tick(1+n%1000))
		}
	})
}
