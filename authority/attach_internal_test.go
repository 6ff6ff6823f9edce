package authority

import (
	"fmt"
	"testing"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
)

// TestBelowTheMissing proves that a node is sent all that lies below the first
// entry which it lacks and nobody has any more, and nothing above: else it would
// attach again for ever, or be told of a log as whole that it has not got.
func TestBelowTheMissing(t *testing.T) {
	for _, c := range []struct {
		after, whole, through uint64
		entries               []uint64
		want                  string
	}{
		{0, 0, 5, []uint64{1, 3, 4, 5}, "[1] through 1"},
		{0, 0, 5, []uint64{1, 2, 3}, "[1 2 3] through 3"},    // the last are missing
		{0, 0, 5, []uint64{2, 3, 4, 5}, "[] through 0"},      // the first is
		{0, 0, 5, nil, "[] through 0"},                       // all are
		{2, 2, 7, []uint64{3, 4, 7}, "[3 4] through 4"},      // it has those up to 2
		{0, 4, 9, []uint64{2, 4, 5, 9}, "[2 4 5] through 5"}, // a snapshot through 4 may have gaps
		{0, 4, 9, []uint64{2, 8, 9}, "[2] through 4"},        // one from within it to above
		{3, 4, 9, []uint64{5, 7, 8, 9}, "[5] through 5"},
	} {
		x := &tail{after: storage.Revision{Epoch: 1, Sequence: c.after}, through: storage.Revision{Epoch: 1, Sequence: c.through}}
		out := &pb.Entries{}
		for _, seq := range c.entries {
			out.Entries = append(out.Entries, &pb.Entry{Revision: &pb.Revision{Epoch: 1, Sequence: seq}})
		}
		x.message = newForMany(&pb.AttachResponse{Message: &pb.AttachResponse_Entries{Entries: out}})
		cut := x.below(c.whole)
		var seqs []uint64
		for _, e := range cut.message.GetEntries().GetEntries() {
			seqs = append(seqs, e.GetRevision().GetSequence())
		}
		if got := fmt.Sprintf("%v through %d", seqs, cut.through.Sequence); got != c.want || cut.message.GetEntries().GetThrough().GetSequence() != cut.through.Sequence {
			t.Errorf("%v above %d, whole through %d: %s, want %s", c.entries, c.after, c.whole, got, c.want)
		}
	}
}
