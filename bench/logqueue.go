package main

import (
	"errors"
	"os"
	"sync"
)

// queuedLog is a file that a goroutine writes to what was written to it, as
// gatehouse-node has its log, so that many lines share a system call.
type queuedLog struct {
	f     *os.File
	ended chan error

	mu      sync.Mutex
	changed sync.Cond
	pending []byte
	closed  bool
}

func queueLog(path string) (*queuedLog, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	q := &queuedLog{f: f, ended: make(chan error, 1)}
	q.changed.L = &q.mu
	go func() { q.ended <- q.run() }() // ends by Close
	return q, nil
}

func (q *queuedLog) Write(line []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.pending = append(q.pending, line...)
	q.changed.Signal()
	return len(line), nil
}

func (q *queuedLog) run() error {
	var lines []byte
	for {
		q.mu.Lock()
		for len(q.pending) == 0 && !q.closed {
			q.changed.Wait()
		}
		lines, q.pending = q.pending, lines[:0]
		q.mu.Unlock()
		if len(lines) == 0 {
			return nil
		}
		if _, err := q.f.Write(lines); err != nil {
			return err
		}
	}
}

// Close writes what is left.
func (q *queuedLog) Close() error {
	q.mu.Lock()
	q.closed = true
	q.changed.Signal()
	q.mu.Unlock()
	return errors.Join(<-q.ended, q.f.Close())
}
