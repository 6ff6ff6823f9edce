package verify

import "sync"

// event is something that happens again and again. Its methods are safe for
// concurrent use.
type event struct {
	mu sync.Mutex
	c  chan struct{}
}

func (e *event) init() { e.c = make(chan struct{}) }

// next is closed when the event happens the next time.
func (e *event) next() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.c
}

func (e *event) happen() {
	e.mu.Lock()
	defer e.mu.Unlock()
	close(e.c)
	e.c = make(chan struct{})
}
