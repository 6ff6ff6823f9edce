package authority

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// maxGraces is how many revocations may be within their grace at once: each node
// looks after all that hit a socket of its own.
const maxGraces = 1000

// graces counts the revocations that are within their grace, from the start of
// this process on. Safe for concurrent use.
type graces struct {
	mu   sync.Mutex
	ends []time.Time
}

// begin counts one more; none of them is no grace.
func (g *graces) begin(now time.Time, grace time.Duration) error {
	if grace == 0 {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ends = slices.DeleteFunc(g.ends, func(at time.Time) bool { return !at.After(now) })
	if len(g.ends) >= maxGraces {
		return fmt.Errorf("%d revocations are within their grace, which is the most: revoke without one, or later (%w)", len(g.ends), errQuota)
	}
	g.ends = append(g.ends, now.Add(grace))
	return nil
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
