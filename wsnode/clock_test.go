package wsnode

import (
	"net/netip"
	"testing"
	"time"
	"unsafe"

	"github.com/gobwas/ws"

	"github.com/gatehouse-ws/gatehouse/wsnode/limit"
	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

// setWall is at as the process sees it once its machine's wall clock was set by so
// much. A test can't set that clock: it is the whole machine's, and no namespace of
// Linux has one of its own. But a time.Time holds what both clocks showed: seconds of
// the wall clock above the lowest 30 bits of its first word.
func setWall(t *testing.T, at time.Time, by time.Duration) time.Time {
	t.Helper()
	set := at
	*(*uint64)(unsafe.Pointer(&set)) += uint64(by/time.Second) << 30
	if set.Sub(at) != 0 || set.Round(0).Sub(at.Round(0)) != by {
		t.Fatalf("%v set by %v is %v", at, by, set)
	}
	return set
}

// Whoever sets a node's wall clock, by a day in either direction, neither ends a
// session nor makes it last: its time is counted by the clock that nobody sets, from
// what the authority's showed, and so is the lease. So it is for sessions that open
// before the node has heard from its authority again.
func TestWallClockIsSet(t *testing.T) {
	const day, life = 24 * time.Hour, time.Hour // life as wstest has it
	for name, by := range map[string]time.Duration{"a day ahead": day, "a day back": -day} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			before, after := b.open(echoPath), b.accept(t)
			for _, h := range []*hand{before, after} {
				h.now = setWall(t, h.now, by)
			}
			after.open(echoPath)
			for _, h := range []*hand{before, after} {
				h.feed(wstest.Frame(ws.OpText, []byte("hello")))
				if op, payload := h.frame(); op != ws.OpText || string(payload) != "hello" {
					t.Fatalf("%v %q, want an echo", op, payload)
				}
				if ping := h.m.Deadline().Sub(h.now); ping < b.cfg.Sockets.PingInterval || ping > b.cfg.Sockets.PingInterval+time.Second {
					t.Errorf("the next ping is due in %v", ping)
				}
				begin := h.now
				h.now = begin.Add(life - time.Minute)
				h.feed(wstest.Frame(ws.OpPong, nil))
				if h.out = h.m.Expire(h.now, h.out); len(h.out) > 0 {
					t.Errorf("% x a minute before its time is over", h.out)
				}
				if left := h.m.Deadline().Sub(h.now); left > time.Minute {
					t.Errorf("a minute before its time is over the next deadline is in %v", left)
				}
				h.now = begin.Add(life + time.Second) // its grant is from after begin
				h.feed(wstest.Frame(ws.OpPong, nil))
				if h.out = h.m.Expire(h.now, h.out); len(h.out) < 4 || string(h.out[4:]) != "session expired" {
					t.Errorf("%q when its time is over", h.out)
				}
				h.gone(nil)
			}
		})
	}
}

// Nor does it empty a bucket, of a socket's messages or of an address's new sockets:
// who has sent a message before the clock is set back may send the next.
func TestWallClockEmptiesNoBucket(t *testing.T) {
	begin := time.Now()
	set := setWall(t, begin.Add(time.Minute), -time.Hour)
	rate := limit.NewRate(50, 100)
	if !rate.Allow(begin, 1) || !rate.Allow(set, 100) {
		t.Error("a bucket that was full again is not when the clock was set back")
	}
	if rate.Allow(set, 1) {
		t.Error("a bucket has more than it holds when the clock was set back")
	}
	cfg := DefaultConfig().Limits
	addresses, from := limit.NewAddresses(cfg), netip.MustParseAddr("192.0.2.1")
	for _, at := range []time.Time{begin, set} {
		if d := addresses.Accept(from, at); !d.Allow {
			t.Errorf("a new socket is refused by %v", d.Rule)
		}
	}
}
