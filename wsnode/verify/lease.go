package verify

import (
	"context"
	"errors"
	"sync"
	"time"
)

// ErrFenced says that the node may admit nobody: it has not caught up with the
// authority yet, or has not heard from it for too long.
var ErrFenced = errors.New("no lease from the authority")

// lease is how long the node may go on without a word from its authority. It
// is counted from when the heartbeat that was answered was sent, so that
// however long the answer took, the authority knew of nothing newer by then.
type lease struct {
	mu        sync.Mutex
	admission time.Duration // fence length
	session   time.Duration // fence length; 0 is none
	caughtUp  bool          // what welcome promised is applied
	held      bool          // an answer was ever taken
	from      time.Duration // boottime at which the answered heartbeat was sent
	fenced    bool          // sessions were ended since
	attached  chan struct{} // closed once the instance was ever registered
}

func (l *lease) init() { l.attached = make(chan struct{}) }

// set takes the lengths that the authority dictates.
func (l *lease) set(admission, session time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.admission, l.session = admission, session
	select {
	case <-l.attached:
	default:
		close(l.attached)
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
	}
}

func (l *lease) ready() error {
	now := boottime()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.held || !l.caughtUp || now-l.from >= l.admission {
		return ErrFenced
	}
	return nil
}

// overdue reports, once each time, that live sessions must end.
func (l *lease) overdue() bool {
	now := boottime()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.held || l.fenced || l.session == 0 || now-l.from < l.session {
		return false
	}
	l.fenced = true
	return true
}
