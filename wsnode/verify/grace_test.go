package verify

import (
	"context"
	"fmt"
	"testing"
	"time"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

// user is a session of this subject, issued before anything.
func user(subject string) *Identity {
	return &Identity{Tenant: "acme", Subject: subject, Issued: Revision{1, 0}}
}

// told writes the newest acknowledgement: through, what is pending, and what all
// acknowledgements have counted.
func (l *lab) told() string {
	acks := l.a.Seen().Acknowledgements
	last := acks[len(acks)-1]
	counts := map[uint64]uint32{}
	for _, a := range acks {
		for _, e := range a.GetEnforced() {
			counts[e.GetSequence()] = e.GetClosed()
		}
	}
	return fmt.Sprint(last.GetThrough().GetSequence(), last.GetPending(), counts)
}

func (l *lab) wantTold(when, want string) {
	l.t.Helper()
	if got := l.told(); got != want {
		l.t.Errorf("%s, at %v: told %s, want %s", when, l.clock(), got, want)
	}
}

// An entry is enforced at the end of its grace, and those after it meanwhile.
func TestGrace(t *testing.T) {
	inLab(t, func(l *lab) { l.a.Features = []string{pb.FeatureAcknowledged} }, func(l *lab) {
		l.s.have(user("a"), user("b"), user("a"), user("c"))
		l.at(time.Second)
		l.a.RevokeWithin(wstest.BySubject("acme", "a"), 10*time.Second)
		l.a.RevokeWithin(wstest.BySubject("acme", "nobody"), 10*time.Second)
		l.a.Revoke(wstest.BySubject("acme", "b"))
		l.a.RevokeWithin(wstest.BySubject("acme", "c"), 20*time.Second)
		l.at(2 * time.Second)
		if l.Standing(grantAt(Revision{1, 0}, "a")) != Revoked {
			t.Error("a grant in flight is given a grace")
		}
		l.wantTold("within both", "4 [1 4] map[3:1]")
		if n := l.s.warnings(); n != 3 {
			t.Errorf("%d entries have warned, want 3", n)
		}
		if !l.InGrace(user("a")) || l.InGrace(user("b")) || l.InGrace(user("nobody")) {
			t.Error("others are in their grace than ought to be")
		}
		l.a.Keep(4, 1, 4)
		l.at(11*time.Second - 1)
		l.wantTold("just before the end", "4 [1 4] map[3:1]")
		l.at(11*time.Second + graceTick)
		l.wantTold("at the end", "4 [4] map[1:2 3:1]")
		l.a.Keep(4, 1, 4) // as it was before
		l.at(13 * time.Second)
		seen := len(l.a.Seen().Acknowledgements)
		l.a.Break(errBroken)
		l.at(15 * time.Second)
		counted := map[uint64]uint32{}
		for _, a := range l.a.Seen().Acknowledgements[seen:] {
			for _, e := range a.GetEnforced() {
				counted[e.GetSequence()] = e.GetClosed()
			}
		}
		if fmt.Sprint(counted) != "map[1:2]" {
			t.Errorf("told again on the next stream: %v, want what is not on disk", counted)
		}
		l.s.mu.Lock()
		l.s.live[3] = nil // the last has renewed, or is gone
		l.s.mu.Unlock()
		l.at(16 * time.Second)
		l.wantTold("nobody is left", "4 [] map[1:2 3:1]")
	})
}

// Graces that end together are enforced together: none waits for the sockets of
// another.
func TestGracesEndTogether(t *testing.T) {
	inLab(t, nil, func(l *lab) {
		l.s.have(user("a"), user("b"), user("c"), user("a"))
		calls := 0
		l.s.mu.Lock()
		l.s.enforce = func() { calls++ }
		l.s.mu.Unlock()
		l.at(time.Second)
		for _, subject := range []string{"a", "b", "c"} {
			l.a.RevokeWithin(wstest.BySubject("acme", subject), 10*time.Second)
		}
		l.at(12 * time.Second)
		l.wantTold("after their end", "3 [] map[1:2 2:1 3:1]")
		l.s.mu.Lock()
		defer l.s.mu.Unlock()
		if calls != 1 {
			t.Errorf("they were enforced in %d calls, want one", calls)
		}
	})
}

// What happens to the authority meanwhile does not move the end.
func TestGraceWithoutAuthority(t *testing.T) {
	inLab(t, nil, func(l *lab) {
		l.s.have(user("a"))
		l.at(time.Second)
		l.a.RevokeWithin(wstest.BySubject("acme", "a"), 10*time.Second)
		l.at(2 * time.Second)
		l.a.Down(errBroken)
		l.at(11*time.Second + graceTick)
		if len(l.s.ends()) != 1 {
			t.Errorf("enforced %v, want the entry at the end of its grace", l.s.ends())
		}
		l.a.Down(nil)
		l.at(30 * time.Second)
		l.wantTold("when it is back", "1 [] map[1:1]")
	})
}

// The end comes no later than by the authority's clock, however long its word of
// that clock took.
func TestGraceByTheClockOfTheAuthority(t *testing.T) {
	inLab(t, func(l *lab) {
		l.a.Hold(wstest.Welcomes, true)
		l.a.Hold(wstest.Heartbeats, true)
	}, func(l *lab) {
		l.s.have(user("a"))
		l.at(3 * time.Second) // its time is read now
		l.a.Hold(wstest.Welcomes, false)
		l.at(3*time.Second + 1)
		l.a.RevokeWithin(wstest.BySubject("acme", "a"), 500*time.Millisecond)
		l.at(3*time.Second + 2)
		if len(l.s.ends()) != 1 {
			t.Error("the welcome was 3 s old by what the node knows, and so the grace over")
		}
	})
	var g graces
	g.init()
	start := time.Unix(1e9, 0)
	for _, s := range []struct {
		sample
		until time.Duration // of start
	}{
		{sample{start, 1 * time.Second, 5 * time.Second}, 1 * time.Second},
		{sample{start.Add(time.Second), 6 * time.Second, 7 * time.Second}, 5 * time.Second},
		{sample{start.Add(9 * time.Second), 8 * time.Second, 17 * time.Second}, 5 * time.Second}, // slower
		{sample{start.Add(9 * time.Second), 17 * time.Second, 18 * time.Second}, 8 * time.Second},
		{sample{start.Add(59 * time.Second), 67 * time.Second, 70 * time.Second}, 8 * time.Second},     // slower
		{sample{start.Add(70 * time.Second), 78 * time.Second, 88 * time.Second}, 8 * time.Second},     // the last is too old
		{sample{start.Add(time.Hour), 80 * time.Second, 90 * time.Second}, 80*time.Second - time.Hour}, // it was set ahead
		{sample{start, 92 * time.Second, 99 * time.Second}, 92 * time.Second},                          // and back
	} {
		if g.measure(s.sample); g.until(start) != s.until {
			t.Errorf("after %v: %v, want %v", s.sample, g.until(start), s.until)
		}
	}
}

// The authority's clock is set an hour ahead after the node has read it, and
// before a revocation: the grace is no longer than it was given.
func TestGraceOutlivesNoClock(t *testing.T) {
	inLab(t, func(*lab) {}, func(l *lab) {
		l.s.have(user("a"))
		l.at(3 * time.Second)
		l.a.RevokeUntil(wstest.BySubject("acme", "a"), time.Now().Add(time.Hour+500*time.Millisecond), 500*time.Millisecond)
		l.at(3*time.Second + 400*time.Millisecond)
		if len(l.s.ends()) != 0 {
			t.Error("the grace is over before its end")
		}
		l.at(3*time.Second + 600*time.Millisecond)
		if len(l.s.ends()) != 1 {
			t.Error("the grace has outlived its length")
		}
	})
}

// A turn that comes before Enforce does ends its session, once, and counts it.
func TestPastGrace(t *testing.T) {
	inLab(t, nil, func(l *lab) {
		l.s.have(user("a"), user("b"))
		l.at(time.Second)
		l.a.RevokeWithin(wstest.BySubject("acme", "a"), 10*time.Second+5*time.Millisecond)
		ended := 0
		end := func() bool { ended++; return ended == 1 }
		if l.PastGrace(user("a"), end) {
			t.Error("past the end of what has not begun")
		}
		l.at(11*time.Second + 5*time.Millisecond - 1)
		if l.PastGrace(user("a"), end) {
			t.Error("past its end before that")
		}
		time.Sleep(time.Nanosecond)
		if l.PastGrace(user("b"), end) || !l.PastGrace(user("a"), end) || !l.PastGrace(user("a"), end) || ended != 2 {
			t.Errorf("ended %d times", ended)
		}
		l.at(12 * time.Second)
		l.wantTold("at last", "1 [] map[1:2]") // the lab has not heard of the turn
		if l.PastGrace(user("a"), end) {
			t.Error("a grace lasts after its end")
		}
	})
}

// More graces than a node looks after are none.
func TestGracesAreBounded(t *testing.T) {
	inLab(t, nil, func(l *lab) {
		l.s.have(user("waits"), user("one too many")) // few: each look asks for the sockets of each entry
		for range maxGraces {
			l.a.RevokeWithin(wstest.BySubject("acme", "waits"), 10*time.Second)
		}
		l.a.RevokeWithin(wstest.BySubject("acme", "one too many"), 10*time.Second)
		l.at(time.Second)
		if len(l.s.ends()) != 1 || len(l.graces.pending()) != maxGraces {
			t.Errorf("%d entries are enforced, %d wait", len(l.s.ends()), len(l.graces.pending()))
		}
		// They are of a history that ends.
		l.a.Restore()
		l.at(10 * time.Second)
		if n := len(l.graces.pending()); n != 0 || l.graces.first.Load() != never {
			t.Errorf("%d of another history wait", n)
		}
	})
}

// A node that leaves has told what it closed, of every entry.
func TestGoodbyeWithinGrace(t *testing.T) {
	inLab(t, nil, func(l *lab) {
		l.s.have(user("a"))
		l.at(time.Second)
		l.a.RevokeWithin(wstest.BySubject("acme", "a"), time.Minute)
		l.at(2 * time.Second)
		l.s.have()
		if err := l.Goodbye(context.Background()); err != nil {
			t.Fatal(err)
		}
		l.wantTold("at the goodbye", "1 [] map[]")
	})
}
