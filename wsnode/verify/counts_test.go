package verify

import (
	"fmt"
	"testing"
	"time"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

// What entries ended is told until the authority has surely heard it, and
// through a revision only with all counts up to it.
func TestCountsAreToldUntilHeard(t *testing.T) {
	var c counts
	told := func(most int) (out string) {
		for {
			part, more := c.next(most, 20)
			out += "["
			for _, e := range part {
				out += fmt.Sprintf("%d:%d ", e.GetSequence(), e.GetClosed())
			}
			out += "]"
			if more == 0 {
				return out
			}
			out += fmt.Sprintf("<%d", more)
		}
	}
	want := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: told %s, want %s", what, got, want)
		}
	}
	for seq := uint64(1); seq <= 5; seq++ {
		c.add(&pb.Enforced{Sequence: seq, Closed: uint32(10 * seq)})
	}
	want("what can't be sent", told(9), "[1:10 2:20 3:30 4:40 5:50 ]")
	c.heard(99)
	c.untold(true)
	want("in parts", told(2), "[1:10 2:20 ]<3[3:30 4:40 ]<5[5:50 ]")
	c.told(7)
	want("nothing new", told(2), "[]")
	c.add(&pb.Enforced{Sequence: 6, Closed: 60})
	want("what is new", told(2), "[6:60 ]")
	c.told(9)
	c.heard(6) // sent before it was told
	c.untold(true)
	want("after the stream broke", told(9), "[1:10 2:20 3:30 4:40 5:50 6:60 ]")
	c.told(1)
	c.add(&pb.Enforced{Sequence: 7, Closed: 70})
	c.heard(1)
	want("after it was heard", told(9), "[7:70 ]")
	c.untold(true)
	want("on the third stream", told(9), "[7:70 ]")
	c.untold(false)
	want("in another history", told(9), "[]")
	c.add(&pb.Enforced{Sequence: 11, Closed: 1})
	c.add(&pb.Enforced{Sequence: 13, Closed: 3})
	c.add(&pb.Enforced{Sequence: 14, Closed: 4})
	want("before any is on disk", told(2), "[11:1 13:3 ]<14[14:4 ]")
	c.acknowledged(12, nil)
	want("nothing new", told(9), "[]")
	c.untold(true)
	want("what is not on disk", told(9), "[13:3 14:4 ]")
	c.add(&pb.Enforced{Sequence: 21, Closed: 5})
	want("what is not enforced yet", told(9), "[]")
	c.add(&pb.Enforced{Sequence: 12, Closed: 2})
	want("what comes at the end of its grace, and what it goes before", told(9), "[12:2 13:3 14:4 ]")
	c.acknowledged(15, []uint64{12, 14})
	want("nothing new", told(9), "[]")
	c.add(&pb.Enforced{Sequence: 20, Closed: 4})
	want("what is new", told(9), "[20:4 ]")
	c.untold(true)
	want("what is not on disk", told(9), "[12:2 14:4 20:4 ]")
	c.acknowledged(99, nil)
	c.untold(true)
	want("when all is on disk", told(9), "[]")
	for seq := range uint64(2 * maxCounts) {
		c.add(&pb.Enforced{Sequence: seq + 1})
	}
	if len(c.kept) != maxCounts || c.kept[0].GetSequence() != maxCounts+1 {
		t.Errorf("%d counts are kept, from %d", len(c.kept), c.kept[0].GetSequence())
	}
}

// TestCountsAreToldUntilKept proves that counts are told on each new stream until
// the authority says that it has them on disk: an answer to a heartbeat alone
// shows that it was heard, which is enough only where it can't say more.
func TestCountsAreToldUntilKept(t *testing.T) {
	for _, c := range []struct {
		rule     string
		features []string
		again    bool // told on the second stream, though heartbeats were answered
	}{
		{"an authority that tells what it keeps", []string{"other", pb.FeatureAcknowledged}, true},
		{"an authority that does not", nil, false},
	} {
		t.Run(c.rule, func(t *testing.T) {
			inLab(t, func(l *lab) { l.a.Features = c.features }, func(l *lab) {
				l.s.live = []*Identity{{Tenant: "acme", Subject: "a", Issued: Revision{1, 0}}, {Tenant: "acme", Subject: "b", Issued: Revision{1, 0}}}
				told := func() (out string) {
					for _, a := range l.a.Seen().Acknowledgements {
						for _, e := range a.GetEnforced() {
							out += fmt.Sprintf("%d:%d ", e.GetSequence(), e.GetClosed())
						}
					}
					return out
				}
				want := func(when, want string) {
					t.Helper()
					if got := told(); got != want {
						t.Errorf("%s: told %q, want %q", when, got, want)
					}
				}
				l.a.Revoke(wstest.BySubject("acme", "a"))
				l.a.Revoke(wstest.BySubject("acme", "b"))
				l.at(5 * time.Second)
				want("at first", "1:1 2:1 ")
				l.a.Break(errBroken)
				l.at(10 * time.Second)
				if !c.again {
					want("on the second stream", "1:1 2:1 ")
					return
				}
				want("on the second stream", "1:1 2:1 1:1 2:1 ")
				l.a.Keep(1)
				l.at(12 * time.Second)
				l.a.Break(errBroken)
				l.at(15 * time.Second)
				want("with the first on disk", "1:1 2:1 1:1 2:1 2:1 ")
				l.a.Keep(2)
				l.at(17 * time.Second)
				l.a.Break(errBroken)
				l.at(20 * time.Second)
				want("with both on disk", "1:1 2:1 1:1 2:1 2:1 ")
			})
		})
	}
}

// TestCountsOutliveSnapshots proves that a count is told after a snapshot of the
// same history, and not to another history, where its sequence names something else.
func TestCountsOutliveSnapshots(t *testing.T) {
	for rule, c := range map[string]struct {
		during func(*wstest.Authority)
		want   string
	}{
		"entries were dropped": {func(a *wstest.Authority) {
			a.Revoke(wstest.BySubject("acme", "nobody"))
			a.Drop()
		}, "1:1 1:1 "},
		"another history": {(*wstest.Authority).Restore, "1:1 "},
	} {
		t.Run(rule, func(t *testing.T) {
			inLab(t, func(l *lab) { l.a.Features = []string{pb.FeatureAcknowledged} }, func(l *lab) {
				l.s.live = []*Identity{{Tenant: "acme", Subject: "a", Issued: Revision{1, 0}}}
				l.a.Revoke(wstest.BySubject("acme", "a"))
				l.at(5 * time.Second)
				l.a.Down(errBroken)
				c.during(l.a)
				l.a.Down(nil)
				l.at(20 * time.Second)
				var told string
				for _, a := range l.a.Seen().Acknowledgements {
					for _, e := range a.GetEnforced() {
						told += fmt.Sprintf("%d:%d ", e.GetSequence(), e.GetClosed())
					}
				}
				if told != c.want {
					t.Errorf("told %q, want %q", told, c.want)
				}
				if n := len(l.a.Seen().Hellos); n != 2 {
					t.Errorf("%d hellos, want 2", n)
				}
			})
		})
	}
}
