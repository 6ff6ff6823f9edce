package limit

import (
	"fmt"
	"math"
	"testing"
	"time"
	"unsafe"
)

func TestRateRefillsAsSet(t *testing.T) {
	for _, test := range []struct{ perSecond, burst uint32 }{
		{1, 1}, {1, 100}, {3, 3}, {7, 1}, {50, 100}, {1000, 1000}, {333_333, 10}, {100_000, 100_000},
	} {
		t.Run(fmt.Sprintf("%d a second, burst %d", test.perSecond, test.burst), func(t *testing.T) {
			r := NewRate(test.perSecond, test.burst)
			now := testNow
			for i := range test.burst {
				if !r.Allow(now, 1) {
					t.Fatalf("message %d of the burst refused", i+1)
				}
			}
			if r.Allow(now, 1) {
				t.Fatal("one more than the burst allowed")
			}
			// A greedy sender asks ten times for each message it may send. Where the
			// burst is one message it can be a tenth too late with each.
			step := time.Second / time.Duration(10*test.perSecond)
			allowed := 0
			for ; now.Before(testNow.Add(3 * time.Second)); now = now.Add(step) {
				if r.Allow(now, 1) {
					allowed++
				}
			}
			if want := 3 * int(test.perSecond); allowed > want+1 || allowed < want*9/10-1 {
				t.Errorf("%d allowed in 3 seconds, want %d", allowed, want)
			}
			// However long the pause, the burst is the most.
			now = now.Add(time.Hour)
			n := uint32(0)
			for r.Allow(now, 1) {
				n++
			}
			if n != test.burst {
				t.Errorf("%d at once after an hour, want %d", n, test.burst)
			}
		})
	}
}

func TestRate(t *testing.T) {
	t.Run("what is refused takes nothing", func(t *testing.T) {
		r := NewRate(10, 10)
		r.Allow(testNow, 6)
		for range 1000 {
			if r.Allow(testNow, 5) {
				t.Fatal("5 of the 4 that are left")
			}
		}
		if !r.Allow(testNow, 4) {
			t.Error("the 4 that were left are gone")
		}
	})
	t.Run("more than the burst never fits", func(t *testing.T) {
		r := NewRate(10, 10)
		if r.Allow(testNow, 11) || r.Allow(testNow, math.MaxInt) || r.Allow(testNow, -1) || !r.Allow(testNow, 10) {
			t.Error("11, 2^63-1 or -1 of 10 allowed, or 10 of 10 refused")
		}
	})
	t.Run("nothing costs nothing", func(t *testing.T) {
		r := NewRate(1, 1)
		r.Allow(testNow, 1)
		if !r.Allow(testNow, 0) {
			t.Error("0 units refused")
		}
	})
	t.Run("the zero Rate refuses", func(t *testing.T) {
		var r Rate
		if r.Allow(testNow, 0) || r.Allow(testNow, 1) {
			t.Error("allowed")
		}
	})
	t.Run("0 a second is off", func(t *testing.T) {
		r := NewRate(0, 0)
		if !r.Allow(testNow, math.MaxInt) {
			t.Error("refused")
		}
	})
	t.Run("a clock that went back costs at most one refill", func(t *testing.T) {
		r := NewRate(10, 20)
		r.Allow(testNow, 20)
		now := testNow.Add(-24 * time.Hour)
		if r.Allow(now, 1) {
			t.Error("going back filled the bucket")
		}
		if !r.Allow(now.Add(100*time.Millisecond), 1) {
			t.Error("not refilled by the new clock")
		}
		if !r.Allow(now.Add(2100*time.Millisecond), 20) {
			t.Error("not full after one refill by the new clock")
		}
	})
	t.Run("extremes do not overflow", func(t *testing.T) {
		for _, r := range []Rate{NewRate(1, math.MaxUint32), NewRate(math.MaxUint32-1, math.MaxUint32), NewRate(math.MaxUint32, 1)} {
			if !r.Allow(testNow, int(r.burst)) || r.Allow(testNow, int(r.burst)) {
				t.Errorf("%+v: the burst must pass once", r)
			}
			if r.Allow(time.Unix(math.MinInt32, 0), int(r.burst)) {
				t.Errorf("%+v: going back before 1970 filled the bucket", r)
			}
		}
	})
}

func TestRateSize(t *testing.T) {
	if got := unsafe.Sizeof(Rate{}); got > 16 {
		t.Errorf("%d bytes, want 16 at most: every socket has one", got)
	}
}

func TestRateAllocs(t *testing.T) {
	r := NewRate(50, 100)
	now := testNow
	if got := testing.AllocsPerRun(1000, func() { now = now.Add(time.Millisecond); r.Allow(now, 1) }); got != 0 {
		t.Errorf("%v allocations, want 0", got)
	}
}

func BenchmarkRate(b *testing.B) {
	r := NewRate(50, 100)
	now := testNow
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(time.Millisecond)
		r.Allow(now, 1)
	}
}

// A Level beside a Rate does what the Rate does alone, and leaves it as it is.
func TestLevel(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	alone, of := NewRate(2, 3), NewRate(2, 3)
	var l Level
	for i := range 40 {
		now = now.Add(time.Duration(i*i%7) * 100 * time.Millisecond)
		if want, got := alone.Allow(now, 1), l.Allow(&of, now, 1); got != want {
			t.Fatalf("step %d: %t, want %t", i, got, want)
		}
	}
	if of != NewRate(2, 3) || !of.Like(&alone) {
		t.Errorf("the rate has become %+v", of)
	}
	if other := NewRate(2, 4); of.Like(&other) {
		t.Error("rates of other bursts are alike")
	}
}
