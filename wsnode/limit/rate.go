package limit

import "time"

// Rate is a bucket that bounds messages or bytes: 16 bytes without a pointer,
// so that a socket's record can hold it. The zero Rate refuses everything;
// NewRate makes one that is full. One goroutine at a time.
//
// It keeps a single instant, the one at which the bucket would be full again.
// Each call moves it by what n units take to refill, rounded down to the
// nanosecond.
type Rate struct {
	level     Level
	perSecond uint32
	burst     uint32
}

// Level is what changes in a Rate, for who has many that are alike: 8 bytes beside
// one Rate for all. The zero Level is full.
type Level struct {
	fullAt int64 // see nanosOf
}

// off marks a Rate that lets everything through.
const off = 1<<32 - 1

// NewRate makes a full bucket of burst units that is refilled evenly with
// perSecond units a second, at most 1e9. A perSecond of 0 switches it off:
// everything is allowed.
func NewRate(perSecond, burst uint32) Rate {
	if perSecond == 0 {
		return Rate{perSecond: off}
	}
	return Rate{perSecond: min(perSecond, maxPerSecond), burst: burst}
}

// Like reports whether two rates allow the same, but for what was taken.
func (r *Rate) Like(other *Rate) bool {
	return r.perSecond == other.perSecond && r.burst == other.burst
}

// Allow takes n units at now and reports whether they were there; if not, it
// takes none. It goes by the clock that nobody sets, where now tells of that as
// time.Now does; another that goes back costs at most one refill of the whole
// bucket. It allocates nothing.
func (r *Rate) Allow(now time.Time, n int) bool { return r.level.Allow(r, now, n) }

// Allow is that of a Rate like of, which is not changed.
func (l *Level) Allow(of *Rate, now time.Time, n int) bool {
	if of.perSecond == off {
		return true
	}
	if of.perSecond == 0 || n < 0 || int64(n) > int64(of.burst) {
		return false
	}
	// burst is below 2^32, so that neither product overflows.
	whole := int64(of.burst) * int64(time.Second) / int64(of.perSecond)
	cost := int64(n) * int64(time.Second) / int64(of.perSecond)
	at := nanosOf(now)
	missing := missingAt(&l.fullAt, at, whole)
	if cost > whole-missing {
		return false
	}
	l.fullAt = at + missing + cost
	return true
}

// missingAt is how much of a bucket is missing at an instant, in the time that
// its refilling takes; whole is the time for the whole bucket. More than that
// is missing only if the clock went back: the bucket then counts as empty, and
// refills by the new clock.
func missingAt(fullAt *int64, at, whole int64) int64 {
	*fullAt = min(*fullAt, at+whole)
	return max(*fullAt-at, 0)
}

// began is when the process did, by both of its clocks, and in Unix nanoseconds.
var (
	began     = time.Now()
	beganUnix = began.UnixNano()
)

// nanosOf is t in Unix nanoseconds, as the wall clock would have it that nobody has
// set since the process began. It is never negative, so that differences do not
// overflow.
func nanosOf(t time.Time) int64 { return max(beganUnix+int64(t.Sub(began)), 0) }
