package ops

import (
	"bytes"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// logQueueBytes is how much may wait to be written.
	logQueueBytes = 1 << 20
	// logPatience is how long Close waits for what waits.
	logPatience = time.Second
)

// LogQueue is a writer for a log that nobody may wait for: a goroutine writes on
// what was written to it, so that a full disk or a pipe that nobody reads stops
// the log and not who logs. What there is no room for, or can't be written, is
// lost, counted, and told of in the log once that goes on. It is safe for
// concurrent use.
type LogQueue struct {
	w      io.Writer
	report *slog.Logger // to w
	lost   atomic.Uint64
	ended  chan struct{} // closed when run has returned

	mu      sync.Mutex
	changed sync.Cond
	pending []byte // whole lines
	closed  bool

	// owned by run
	spare []byte
	told  uint64 // of lost
	torn  bool   // w has the beginning of a line
}

// Queue is a LogQueue before w, and the logger to it. Close it at the end.
func (c *LogConfig) Queue(w io.Writer) (*slog.Logger, *LogQueue) {
	q := &LogQueue{w: w, report: c.Logger(w), ended: make(chan struct{})}
	q.changed.L = &q.mu
	go q.run() // ends by Close
	return c.Logger(q), q
}

// Write takes one line, or some whole ones. It does not wait, keeps nothing of
// them, and never fails.
func (q *LogQueue) Write(lines []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || len(lines) > logQueueBytes-len(q.pending) {
		q.lose(lines)
		return len(lines), nil
	}
	q.pending = append(q.pending, lines...)
	q.changed.Signal()
	return len(lines), nil
}

// Lost counts the lines that were lost.
func (q *LogQueue) Lost() uint64 { return q.lost.Load() }

func (q *LogQueue) lose(lines []byte) {
	q.lost.Add(uint64(bytes.Count(lines, []byte("\n"))))
}

// Close waits until all is written, but no longer than a second. What is written
// to q later is lost.
func (q *LogQueue) Close() {
	q.mu.Lock()
	q.closed = true
	q.changed.Signal()
	q.mu.Unlock()
	select {
	case <-q.ended:
	case <-time.After(logPatience):
	}
}

func (q *LogQueue) run() {
	defer close(q.ended)
	for {
		q.mu.Lock()
		for len(q.pending) == 0 && !q.closed {
			q.changed.Wait()
		}
		lines := q.pending
		q.pending = q.spare[:0]
		q.mu.Unlock()
		if len(lines) == 0 {
			return
		}
		q.write(lines)
		if q.spare = lines; cap(lines) > logQueueBytes/8 { // a burst is over
			q.spare = nil
		}
	}
}

// write writes lines on, and tells of those that were lost before. A line that
// was begun and could not be finished is one of them.
func (q *LogQueue) write(lines []byte) {
	if q.torn {
		if _, err := q.w.Write([]byte("\n")); err != nil {
			q.lose(lines)
			return
		}
		q.torn = false
	}
	n, err := q.w.Write(lines)
	if err != nil {
		q.torn = n > 0 && lines[n-1] != '\n'
		q.lose(lines[n:])
		return
	}
	if lost := q.lost.Load(); lost > q.told {
		q.report.Warn("lines of this log were lost: they could not be written, or not as fast as they came", "lines", lost-q.told)
		q.told = lost
	}
}
