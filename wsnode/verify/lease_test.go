package verify

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

var errBroken = status.Error(codes.Unavailable, "broken")

func TestLease(t *testing.T) {
	var now time.Duration
	l := &lease{}
	l.init(func() time.Duration { return now })
	wall := time.Unix(1000, 0)
	check := func(rule string, ready, lapsed bool) {
		t.Helper()
		l.looked.Store(0) // long ago
		if got := l.ready(); (got == nil) != ready || got != nil && !errors.Is(got, ErrFenced) {
			t.Errorf("%s: ready is %v, want %v", rule, got, ready)
		}
		if got := l.lapsed(wall); got != lapsed {
			t.Errorf("%s: lapsed is %v, want %v", rule, got, lapsed)
		}
	}
	check("nobody is admitted before the authority was heard of", false, false)
	l.set(10*time.Second, time.Minute)
	l.caught()
	check("nor before a heartbeat was answered", false, false)
	now = 100 * time.Second
	l.extend(99 * time.Second)
	check("an answer counts from when its heartbeat was sent", true, false)
	now = 109*time.Second - 1
	check("until the admission fence", true, false)
	now = 109 * time.Second
	check("and no longer", false, false)
	l.extend(105 * time.Second)
	check("a later heartbeat's answer extends it", true, false)
	l.extend(101 * time.Second)
	check("an older one's takes nothing away", true, false)
	l.behind()
	check("after a reconnect nobody is admitted", false, false)
	l.caught()
	check("before the node has caught up", true, false)
	now = 165*time.Second - 1
	check("sessions live until the session fence", false, false)
	if l.overdue(wall) {
		t.Error("overdue before the session fence")
	}
	now = 165 * time.Second // and nobody but lapsed has looked since
	if l.lapsed(wall.Add(freshLook - 1)) {
		t.Error("lapsed asks the clock though overdue has just looked")
	}
	for _, later := range []time.Duration{freshLook, -1} { // the process was paused, or the wall clock was set back
		if !l.lapsed(wall.Add(later)) {
			t.Errorf("%v after overdue has looked, lapsed trusts it", later)
		}
	}
	now = 165 * time.Second
	check("and no longer", false, true)
	if !l.overdue(wall) || l.overdue(wall) {
		t.Error("the session fence is not told of exactly once")
	}
	for _, later := range []time.Duration{0, freshLook - 1} { // sessions are being ended
		if !l.lapsed(wall.Add(later)) {
			t.Errorf("%v after the session fence was told of, sessions live on", later)
		}
	}
	l.extend(164 * time.Second)
	check("an answer ends the fence", true, false)
	now = 300 * time.Second
	if !l.overdue(wall) {
		t.Error("the next session fence is not told of")
	}
	l.set(10*time.Second, 0)
	check("a session fence of 0 is none", false, false)
	if l.overdue(wall) {
		t.Error("overdue without a session fence")
	}
}

// A machine that was paused with its clock goes on as if no time had passed,
// whatever its wall clock says by then, as docs/operations.md warns.
func TestLeaseOfAPausedMachine(t *testing.T) {
	now := 100 * time.Second
	l := &lease{}
	l.init(func() time.Duration { return now })
	l.set(10*time.Second, time.Minute)
	l.caught()
	l.extend(now)
	wall := time.Unix(1000, 0)
	now += 5 * time.Second
	if l.overdue(wall) {
		t.Fatal("overdue before the pause")
	}
	wall = wall.Add(time.Hour)
	if l.ready() != nil || l.lapsed(wall) || l.overdue(wall) || l.waning() != 0 {
		t.Error("a pause that the clock hides is noticed: docs/operations.md says otherwise")
	}
	now += 55*time.Second - 1
	if l.lapsed(wall.Add(time.Minute)) {
		t.Error("lapsed before what was left of the fence is over")
	}
	now++
	if !l.lapsed(wall.Add(time.Minute)) {
		t.Error("not lapsed at the end of what was left")
	}
}

// Sessions end one after the other over the last quarter of the session fence, or
// its last minute, unless the authority answers.
func TestWaning(t *testing.T) {
	for _, c := range []struct {
		fence time.Duration
		age   time.Duration // of the lease
		want  float64
	}{
		{0, time.Hour, 0},
		{12 * time.Second, 9 * time.Second, 0},
		{12 * time.Second, 10500 * time.Millisecond, 0.5},
		{12 * time.Second, 12 * time.Second, 1},
		{12 * time.Second, time.Hour, 1},
		{time.Hour, 59 * time.Minute, 0},
		{time.Hour, 59*time.Minute + 15*time.Second, 0.25},
		{time.Hour, time.Hour - 1, 1 - 1/float64(maxSpread)},
		{3, 2, 0}, // a fence that is no multiple of anything
		{3, 3, 1},
	} {
		l := &lease{}
		l.init(func() time.Duration { return time.Minute + c.age })
		l.set(1, c.fence)
		if got := l.waning(); got != 0 {
			t.Errorf("%v without a lease: %v", c.fence, got)
		}
		l.extend(time.Minute)
		if got := l.waning(); got != c.want {
			t.Errorf("fence %v, %v old: %v, want %v", c.fence, c.age, got, c.want)
		}
	}
}

func TestSessionsEndSpread(t *testing.T) {
	inLab(t, nil, func(l *lab) {
		shares := func() []float64 {
			l.s.mu.Lock()
			defer l.s.mu.Unlock()
			return slices.Clone(l.s.thinned)
		}
		l.at(10500 * time.Millisecond)
		l.a.Hold(wstest.Heartbeats, true)
		l.a.Hold(wstest.Welcomes, true)
		l.at(55 * time.Second)
		if got := shares(); len(got) != 0 {
			t.Fatalf("%v before the last quarter", got)
		}
		l.at(62500 * time.Millisecond)
		got := shares()
		if !slices.IsSorted(got) || len(got) < 300 || got[0] > 0.01 || got[len(got)-1] != 0.5 {
			t.Errorf("%d shares up to %v after half of the time", len(got), got[len(got)-1])
		}
		l.a.Hold(wstest.Heartbeats, false)
		l.a.Hold(wstest.Welcomes, false)
		l.at(66 * time.Second)
		n := len(shares())
		l.at(200 * time.Second)
		if l.s.fenced() != 0 || len(shares()) != n {
			t.Error("sessions end though the authority answers")
		}
		l.a.Down(errBroken)
		l.at(200*time.Second + 50*time.Second)
		if got := shares(); got[n] > 0.01 {
			t.Errorf("the next time begins with %v", got[n])
		}
	})
}

// However late the answer to a heartbeat comes, the lease is no longer for it.
func TestLeaseCountsFromSending(t *testing.T) {
	inLab(t, func(l *lab) { l.a.HeartbeatInterval = 5 * time.Second }, func(l *lab) {
		l.at(4 * time.Second)
		l.a.Hold(wstest.Heartbeats, true)
		l.at(9 * time.Second) // the heartbeat of 5 s is unanswered
		l.a.Hold(wstest.Heartbeats, false)
		synctest.Wait()
		l.a.Hold(wstest.Heartbeats, true)
		l.at(15*time.Second - 1)
		l.wantReady(true)
		l.at(15 * time.Second)
		l.wantReady(false)
	})
}

// An answer counts once all that its head covers is enforced.
func TestLeaseWaitsForHead(t *testing.T) {
	inLab(t, nil, func(l *lab) {
		l.at(5500 * time.Millisecond) // the heartbeat of 5 s is answered
		l.a.Hold(wstest.Entries, true)
		l.a.Revoke(wstest.BySubject("default", "somebody"))
		l.at(15*time.Second - 1)
		l.wantReady(true)
		l.at(15 * time.Second) // heartbeats were answered all the time, with a head that is not applied
		l.wantReady(false)
		l.a.Hold(wstest.Entries, false)
		synctest.Wait()
		l.wantReady(true)
	})
}

// A node admits nobody before it has applied what welcome named, at its start
// and after each reconnect.
func TestCatchingUp(t *testing.T) {
	inLab(t, func(l *lab) {
		l.a.Revoke(wstest.BySubject("default", "somebody"))
		l.a.Lock(&pb.LockSelector{By: &pb.LockSelector_Tenant{Tenant: "acme"}})
		l.a.Hold(wstest.Entries, true)
	}, func(l *lab) {
		l.at(3 * time.Second)
		l.wantReady(false)
		l.a.Hold(wstest.Entries, false)
		synctest.Wait()
		l.at(4500 * time.Millisecond) // answers with a head that is applied now
		l.wantReady(true)

		l.a.Hold(wstest.Entries, true)
		l.a.Revoke(wstest.BySubject("default", "somebody else"))
		l.a.Break(errBroken)
		l.at(6 * time.Second)
		l.wantReady(false)
		l.a.Hold(wstest.Entries, false)
		l.at(7 * time.Second)
		l.wantReady(true)

		seen := l.a.Seen()
		if len(seen.Hellos) != 2 || seen.Hellos[0].GetApplied() != nil {
			t.Fatalf("hellos %v: want two, the first of a node that has nothing", seen.Hellos)
		}
		if got := revisionFrom(seen.Hellos[1].GetApplied()); got != (Revision{1, 2}) {
			t.Errorf("the second hello says that %v is applied, want 2 of epoch 1", got)
		}
		l.s.mu.Lock()
		defer l.s.mu.Unlock()
		if n := len(l.s.enforced); n != 4 { // the snapshot's lock, then each entry once
			t.Errorf("%d entries were enforced, want 4: %+v", n, l.s.enforced)
		}
	})
}

// A restored store has another history: what lived by the old one ends, and its
// grants are asked for again.
func TestNewEpoch(t *testing.T) {
	inLab(t, nil, func(l *lab) {
		l.a.Revoke(wstest.BySubject("default", "somebody"))
		l.at(2 * time.Second)
		g := l.want(l.grantNow(), 0)
		if l.Standing(g) != Holds {
			t.Fatalf("standing %v", l.Standing(g))
		}
		l.a.Restore()
		l.at(4 * time.Second)
		l.wantReady(true)
		if n := l.s.fenced(); n != 1 {
			t.Errorf("Fence was called %d times, want once", n)
		}
		if got := l.Standing(g); got != Unknown {
			t.Errorf("a grant of the old history has standing %v, want Unknown", got)
		}
		if got := l.recent.appliedRevision(); got != (Revision{2, 0}) {
			t.Errorf("applied %v, want nothing of epoch 2", got)
		}
		l.a.Revoke(wstest.BySubject("default", "somebody"))
		synctest.Wait()
		if got := l.recent.appliedRevision(); got != (Revision{2, 1}) {
			t.Errorf("applied %v, want 1 of epoch 2", got)
		}
	})
}

func (l *lab) grantNow() *try {
	t := l.redeemNew()
	synctest.Wait()
	return t
}

// Without an answer for the session fence every session ends, once; Lapsed says
// so to whoever asks before.
func TestSessionFence(t *testing.T) {
	inLab(t, nil, func(l *lab) {
		l.at(10500 * time.Millisecond)
		l.a.Hold(wstest.Heartbeats, true)
		l.a.Hold(wstest.Welcomes, true) // a new stream helps neither
		l.at(70*time.Second - 1)
		if l.s.fenced() != 0 || l.Lapsed(time.Now()) {
			t.Error("fenced before its time")
		}
		l.at(70*time.Second + 20*time.Millisecond)
		if l.s.fenced() != 1 {
			t.Errorf("Fence was called %d times, want once", l.s.fenced())
		}
		if !l.Lapsed(time.Now().Add(time.Second)) {
			t.Error("not lapsed")
		}
		l.at(200 * time.Second)
		if l.s.fenced() != 1 {
			t.Errorf("Fence was called %d times, want once", l.s.fenced())
		}
		l.a.Hold(wstest.Heartbeats, false)
		l.a.Hold(wstest.Welcomes, false)
		l.at(220 * time.Second)
		l.wantReady(true)
		if l.Lapsed(time.Now().Add(time.Second)) {
			t.Error("lapsed though the authority is back")
		}
		l.a.Down(errBroken)
		l.at(300 * time.Second)
		if l.s.fenced() != 2 {
			t.Errorf("Fence was called %d times, want twice", l.s.fenced())
		}
	})
}

// Without a session fence sockets end by their life, where the authority tells one.
func TestSocketLife(t *testing.T) {
	for _, c := range []struct {
		life   time.Duration
		fences int // by the eleventh minute of silence
	}{{0, 0}, {10 * time.Minute, 1}, {12 * time.Minute, 0}} {
		inLab(t, func(l *lab) { l.a.SessionFence, l.a.SocketLife = 0, c.life }, func(l *lab) {
			l.at(10500 * time.Millisecond)
			l.a.Down(errBroken)
			l.at(11 * time.Minute)
			if n := l.s.fenced(); n != c.fences {
				t.Errorf("socket life %v: Fence was called %d times, want %d", c.life, n, c.fences)
			}
		})
	}
}

// A stream over which the authority says nothing is given up for a new one.
func TestSilentAuthority(t *testing.T) {
	t.Run("no welcome", func(t *testing.T) {
		inLab(t, func(l *lab) { l.a.Hold(wstest.Welcomes, true) }, func(l *lab) {
			l.at(helloTimeout - 1)
			if n := len(l.a.Seen().Hellos); n != 1 {
				t.Fatalf("%d hellos, want 1", n)
			}
			l.at(helloTimeout + time.Second)
			if n := len(l.a.Seen().Hellos); n != 2 {
				t.Errorf("%d hellos, want 2", n)
			}
			l.a.Hold(wstest.Welcomes, false)
			l.at(helloTimeout + 3*time.Second)
			l.wantReady(true)
		})
	})
	t.Run("no answer to heartbeats", func(t *testing.T) {
		inLab(t, nil, func(l *lab) {
			l.at(time.Second)
			l.a.Hold(wstest.Heartbeats, true)
			l.at(20 * time.Second) // twice the admission fence
			if n := len(l.a.Seen().Hellos); n != 1 {
				t.Fatalf("%d hellos, want 1", n)
			}
			l.at(30 * time.Second)
			if n := len(l.a.Seen().Hellos); n != 2 {
				t.Errorf("%d hellos, want 2", n)
			}
		})
	})
	t.Run("no hello on the Redeem stream", func(t *testing.T) {
		inLab(t, func(l *lab) { l.a.Hold(wstest.RedeemHellos, true) }, func(l *lab) {
			l.at(time.Second)
			late := l.redeemNew()
			l.at(helloTimeout + time.Second)
			l.want(late, pb.Reason_REASON_AUTHORITY_UNAVAILABLE)
			l.a.Hold(wstest.RedeemHellos, false)
			l.at(helloTimeout + 2*time.Second)
			l.want(l.grantNow(), 0)
			l.wantEnds(0, late) // it was never asked for
		})
	})
}
