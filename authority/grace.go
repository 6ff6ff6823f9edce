package authority

import (
	"fmt"
	"maps"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// maxGraces is how many revocations may be within their grace at once: each node
// looks after all that hit a socket of its own.
const maxGraces = 1000

// graces counts the revocations that are within their grace, of those that this
// process has appended. Safe for concurrent use.
type graces struct {
	mu        sync.Mutex           // guards what follows
	ends      map[uint64]time.Time // by sequence
	appending int                  // that have a place, and no sequence yet
}

func newGraces() *graces { return &graces{ends: map[uint64]time.Time{}} }

// begin takes a place for one more, if there is any. Give it back with end.
func (g *graces) begin(now time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	maps.DeleteFunc(g.ends, func(_ uint64, at time.Time) bool { return !at.After(now) })
	if n := len(g.ends) + g.appending; n >= maxGraces {
		return fmt.Errorf("%d revocations are within their grace, which is the most: revoke without one, or later (%w)", n, errQuota)
	}
	g.appending++
	return nil
}

// end gives the place to the entry that was appended, which may have one already;
// nil where none was.
func (g *graces) end(e *storage.Entry) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.appending--
	if e != nil {
		g.ends[e.Revision.Sequence] = e.GraceUntil()
	}
}

// parseGrace checks the grace of a revocation; none is 0.
func parseGrace(d *durationpb.Duration, most time.Duration) (time.Duration, error) {
	grace, err := optionalDuration("grace", d, 0)
	switch {
	case err != nil:
		return 0, err
	case grace > most:
		return 0, invalid("grace", "%v is above %v, which is sessions.max_grace of the authority", grace, most)
	case grace%time.Millisecond != 0:
		return 0, invalid("grace", "%v is finer than a millisecond", grace)
	}
	return grace, nil
}

// graceUntil is when the grace of an entry ends, or nil.
func graceUntil(e *storage.Entry) *timestamppb.Timestamp {
	if e.Grace == 0 {
		return nil
	}
	return timestamppb.New(e.GraceUntil())
}
