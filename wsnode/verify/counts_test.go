package verify

import (
	"fmt"
	"testing"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// What entries ended is told until the authority has surely heard it, and
// through a revision only with all counts up to it.
func TestCountsAreToldUntilHeard(t *testing.T) {
	var c counts
	told := func(most int) (out string) {
		for {
			part, more := c.next(most)
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
	for seq := range uint64(2 * maxCounts) {
		c.add(&pb.Enforced{Sequence: seq + 1})
	}
	if len(c.kept) != maxCounts || c.kept[0].GetSequence() != maxCounts+1 {
		t.Errorf("%d counts are kept, from %d", len(c.kept), c.kept[0].GetSequence())
	}
}
