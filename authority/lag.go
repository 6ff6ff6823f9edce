package authority

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// lag measures how long entries take from their commit to the nodes. A nil one
// measures nothing.
type lag struct {
	enforced, complete prometheus.Histogram
	tracing            *tracing
}

// acknowledged notes that an instance has enforced an entry so long after its
// commit. With a grace, how long that takes is not ours.
func (l *lag) acknowledged(rc *receipt, after time.Duration) {
	if l != nil && !rc.grace {
		l.enforced.Observe(after.Seconds())
	}
}

// completed notes that a receipt waits for nobody any more.
func (l *lag) completed(rc *receipt, now time.Time) {
	if l == nil {
		return
	}
	if len(rc.rows) > 0 && !rc.grace { // else it never waited, or for clients
		l.complete.Observe(max(now.Sub(rc.committed), 0).Seconds())
	}
	l.tracing.completed(rc, now)
}
