package verify

import (
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// ErrFenced says that the node may admit nobody: it has not caught up with the
// authority yet, or has not heard from it for too long.
var ErrFenced = errors.New("no lease from the authority")

// lease is how long the node may go on without a word from its authority. It
// is counted from when the heartbeat that was answered was sent, so that
// however long the answer took, the authority knew of nothing newer by then.
// Instants are of clock.
type lease struct {
	clock func() time.Duration

	mu        sync.Mutex
	admission time.Duration // fence length
	session   time.Duration // fence length; 0 is none
	caughtUp  bool          // what welcome promised is applied
	held      bool          // an answer was ever taken
	from      time.Duration // when the answered heartbeat was sent
	fenced    bool          // sessions were ended since
	attached  chan struct{} // closed once the instance was ever registered
	attach    event         // each time that it is registered

	// For lapsed, which takes no lock.
	end    atomic.Int64 // when live sessions must end; never where that is without end
	looked atomic.Int64 // when overdue found that it has not come, in Unix nanoseconds; 0 once it has
}

const never = math.MaxInt64

// maxFence is the longest fence that an authority may set, far above any use.
const maxFence = 366 * 24 * time.Hour

func (l *lease) init(clock func() time.Duration) {
	l.clock, l.attached = clock, make(chan struct{})
	l.attach.init()
	l.end.Store(never)
}

// set takes the lengths that the authority dictates.
func (l *lease) set(admission, session time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.admission, l.session = admission, session
	l.setEnd()
	if !l.registered() {
		close(l.attached)
	}
	l.attach.happen()
}

func (l *lease) setEnd() {
	if !l.held || l.session == 0 {
		l.end.Store(never)
		return
	}
	l.end.Store(int64(l.from + l.session))
}

// registered reports whether the instance ever was.
func (l *lease) registered() bool {
	select {
	case <-l.attached:
		return true
	default:
		return false
	}
}

// waitAttached waits until the instance was registered.
func (l *lease) waitAttached(ctx context.Context) error {
	select {
	case <-l.attached:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// behind says that the node must catch up before it admits anyone.
func (l *lease) behind() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.caughtUp = false
}

// caught says that it has.
func (l *lease) caught() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.caughtUp = true
}

// extend counts the answer to a heartbeat sent at from, all of whose head is
// applied.
func (l *lease) extend(from time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.held || from > l.from {
		l.held, l.from, l.fenced = true, from, false
		l.setEnd()
	}
}

func (l *lease) ready() error { return l.readyAt(l.clock()) }

func (l *lease) readyAt(now time.Duration) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.held || !l.caughtUp || now-l.from >= l.admission {
		return ErrFenced
	}
	return nil
}

// overdue reports, once each time, that live sessions must end. now is the
// wall clock's.
func (l *lease) overdue(now time.Time) bool {
	at := int64(l.clock())
	l.mu.Lock()
	defer l.mu.Unlock()
	if at < l.end.Load() {
		l.looked.Store(now.UnixNano())
		return false
	}
	l.looked.Store(0) // lapsed must not trust it while sessions are being ended
	first := !l.fenced
	l.fenced = true
	return first
}

// maxSpread bounds over how long sockets are closed before the session fence.
const maxSpread = time.Minute

// waning is how much of the time has passed over which live sessions are ended,
// so that their peers do not all come back at once: 0 before it begins, 1 from
// the session fence on. It is the last quarter of the fence, at most maxSpread.
func (l *lease) waning() float64 {
	now := l.clock()
	l.mu.Lock()
	defer l.mu.Unlock()
	end := time.Duration(l.end.Load())
	span := min(l.session/4, maxSpread)
	switch left := end - now; {
	case left <= 0:
		return 1
	case end == never || left >= span:
		return 0
	default:
		return 1 - float64(left)/float64(span)
	}
}

// freshLook is how long lapsed trusts a look of overdue.
const freshLook = 200 * time.Millisecond

// lapsed reports whether live sessions must have ended by now, the wall clock's
// time. A process that was paused finds out before anything else does: the wall
// clock has then moved on since overdue looked. While it has not, what lapsed
// costs is no system call.
func (l *lease) lapsed(now time.Time) bool {
	since := time.Duration(now.UnixNano() - l.looked.Load())
	if 0 <= since && since < freshLook {
		return false
	}
	return int64(l.clock()) >= l.end.Load()
}
