package verify

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// maxBatch is how many attempts one request takes.
const maxBatch = 256

// queue holds the attempts that have no answer, bounded: those that wait to be
// sent, and those of the requests under way. Safe for concurrent use. It calls
// nobody; what it takes out is its caller's to finish.
type queue struct {
	mu       sync.Mutex
	waiting  []*Attempt // oldest first
	flights  []flight   // requests on the stream without an answer, oldest first
	flying   int        // attempts that were in flights and are not finished
	max      int
	stopped  bool
	wake     chan struct{} // of one: there is something to take
	finished chan struct{} // of one: nothing is flying any more
}

// flight is one request on its way.
type flight struct {
	attempts []*Attempt
	since    time.Duration
}

func (q *queue) init(limit int) {
	q.max, q.wake, q.finished = limit, make(chan struct{}, 1), make(chan struct{}, 1)
}

// signal fills a channel of one.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// put queues an attempt. A reason other than 0 refuses it.
func (q *queue) put(a *Attempt) pb.Reason {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stopped {
		return pb.Reason_REASON_STOPPING
	}
	if len(q.waiting)+q.flying >= q.max {
		return pb.Reason_REASON_OVERLOADED
	}
	a.refused = false
	q.waiting = append(q.waiting, a)
	signal(q.wake)
	return 0
}

// take makes a flight of what waits, up to maxBatch, or returns nil. What comes
// while as many requests as may be are under way rides in the next one: there
// is no timer.
func (q *queue) take(now time.Duration) []*Attempt {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := min(len(q.waiting), maxBatch)
	if n == 0 {
		return nil
	}
	batch := slices.Clone(q.waiting[:n])
	q.waiting = slices.Delete(q.waiting, 0, n)
	if len(q.waiting) > 0 {
		signal(q.wake)
	}
	for _, a := range batch {
		a.asked++
	}
	q.flights = append(q.flights, flight{batch, now})
	q.flying += n
	return batch
}

// land takes out the oldest flight, which results answer. Call finish once each
// of its attempts is.
func (q *queue) land(results int) ([]*Attempt, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.flights) == 0 {
		return nil, errors.New("authority answered what it was not asked")
	}
	batch := q.flights[0].attempts
	if results != len(batch) {
		return nil, fmt.Errorf("authority answered %d items with %d results", len(batch), results)
	}
	q.flights = slices.Delete(q.flights, 0, 1)
	return batch, nil
}

// finish takes attempts that land or ground returned out of the count.
func (q *queue) finish(n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.flying -= n; q.flying == 0 {
		signal(q.finished)
	}
}

// ground ends all flights, since their stream is gone. Attempts go back to the
// front, in their order, to be asked again, which is safe; it returns those
// that were refused meanwhile, and after stop all: call finish for them.
func (q *queue) ground() (over []*Attempt) {
	q.mu.Lock()
	defer q.mu.Unlock()
	var back []*Attempt
	for _, f := range q.flights {
		for _, a := range f.attempts {
			if a.refused || q.stopped {
				over = append(over, a)
			} else {
				back = append(back, a)
			}
		}
	}
	q.flights = nil
	q.flying -= len(back)
	q.waiting = slices.Insert(q.waiting, 0, back...)
	if len(q.waiting) > 0 {
		signal(q.wake)
	}
	return over
}

// expire marks what is past its deadline as refused. What waited is taken out;
// what is under way stays, since its answer may come yet.
func (q *queue) expire(now time.Duration) (waited, flying []*Attempt) {
	q.mu.Lock()
	defer q.mu.Unlock()
	late := func(a *Attempt) bool { return now >= a.deadline && !a.refused }
	for _, f := range q.flights {
		for _, a := range f.attempts {
			if late(a) {
				a.refused = true
				flying = append(flying, a)
			}
		}
	}
	q.waiting = slices.DeleteFunc(q.waiting, func(a *Attempt) bool {
		if !late(a) {
			return false
		}
		a.refused = true
		waited = append(waited, a)
		return true
	})
	return waited, flying
}

// stalled reports whether a request has been without an answer since before.
func (q *queue) stalled(before time.Duration) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.flights) > 0 && q.flights[0].since < before
}

// stop lets nothing in any more and returns what waited.
func (q *queue) stop() []*Attempt {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stopped = true
	waited := q.waiting
	q.waiting = nil
	return waited
}

// idle reports whether nothing is flying.
func (q *queue) idle() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.flying == 0
}
