package authority

import (
	"context"
	"sync"
	"time"
)

// writes gives the context of writes that are carried through though their
// caller goes away: what becomes of one must be known here, to be counted and
// audited. Safe for concurrent use.
type writes struct {
	all    context.Context // ends when even such writes must
	cutOff context.CancelFunc

	mu      sync.Mutex // guards what follows
	current context.Context
	cancel  context.CancelFunc // of current, by cutOff too
	until   time.Time
}

// writeTimeout is the least time that a write is given.
const writeTimeout = 30 * time.Second

func newWrites() *writes {
	w := &writes{}
	w.all, w.cutOff = context.WithCancel(context.Background())
	return w
}

// context ends between once and twice writeTimeout from now, or when a drain
// takes too long. One serves many writes: to make one costs as much as to store
// a token does.
func (w *writes) context() context.Context {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.until.Sub(now) < writeTimeout {
		w.until = now.Add(2 * writeTimeout)
		w.current, w.cancel = context.WithDeadline(w.all, w.until)
	}
	return w.current
}
