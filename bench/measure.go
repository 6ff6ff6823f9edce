package main

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// tally is what a load did: operations, the time they took, and each one's
// latency (which may be one of several operations in a batch).
type tally struct {
	ops     int
	wall    time.Duration
	latency []time.Duration
}

// sample is one measurement of a server under a load.
type sample struct {
	tally
	user, system    time.Duration // the server's CPU time for all of it
	load            time.Duration // and that of the process that loads it
	allocs          uint64        // that it made
	groups, grouped uint64
	figures         []float64 // of the benchmark's own
}

// measure runs load against c, twice: to warm up, and to count. The server is
// idle when its CPU time is read, so that all of it belongs to the counted
// operations.
func (l *lab) measure(c *child, load func(d time.Duration) (tally, error)) (sample, error) {
	if _, err := load(l.warmup); err != nil {
		return sample{}, err
	}
	return l.measureWarm(c, func() (tally, error) { return load(l.interval) })
}

// measureWarm is measure for a load that needs no warming up.
func (l *lab) measureWarm(c *child, load func() (tally, error)) (s sample, err error) {
	time.Sleep(l.settle)
	file := ""
	if l.profile != "" {
		if file, err = l.profileName(); err != nil {
			return s, err
		}
		if _, err := c.ask(order{Do: "profile", File: file}); err != nil {
			return s, err
		}
	}
	own := usageNow()
	before, err := c.usage()
	if err != nil {
		return s, err
	}
	if s.tally, err = load(); err != nil {
		return s, err
	}
	time.Sleep(l.settle)
	after, err := c.usage()
	if err != nil {
		return s, err
	}
	ownAfter := usageNow()
	if l.profile != "" {
		if _, err := c.ask(order{Do: "unprofile", File: file}); err != nil {
			return s, err
		}
	}
	s.user, s.system = after.User-before.User, after.System-before.System
	s.load = ownAfter.User + ownAfter.System - own.User - own.System
	s.allocs = after.Allocs - before.Allocs
	s.groups, s.grouped = after.Groups-before.Groups, after.Grouped-before.Grouped
	slices.Sort(s.latency)
	return s, nil
}

// add makes one sample of two.
func (s *sample) add(o sample) {
	s.ops, s.wall = s.ops+o.ops, s.wall+o.wall
	s.user, s.system, s.load, s.allocs = s.user+o.user, s.system+o.system, s.load+o.load, s.allocs+o.allocs
	s.groups, s.grouped = s.groups+o.groups, s.grouped+o.grouped
	s.latency = append(s.latency, o.latency...)
	slices.Sort(s.latency)
}

// pooled is one sample of all rounds, for tails that no single round has enough
// operations for.
func pooled(rounds []sample) (all sample) {
	for _, s := range rounds {
		all.add(s)
	}
	return all
}

// The figures of a sample.
func (s sample) rate() float64        { return float64(s.ops) / s.wall.Seconds() }
func (s sample) cpuMicros() float64   { return micros(s.user+s.system) / float64(s.ops) }
func (s sample) userMicros() float64  { return micros(s.user) / float64(s.ops) }
func (s sample) loadMicros() float64  { return micros(s.load) / float64(s.ops) }
func (s sample) allocations() float64 { return float64(s.allocs) / float64(s.ops) }
func (s sample) busy() float64        { return 100 * (s.user + s.system).Seconds() / s.wall.Seconds() }
func (s sample) p50() float64         { return millis(s.quantile(0.50)) }
func (s sample) p99() float64         { return millis(s.quantile(0.99)) }

// figure is the median over rounds of the benchmark's own i-th figure.
func figure(rounds []sample, i int) float64 {
	return median(rounds, func(s sample) float64 { return s.figures[i] })
}

func (s sample) meanGroup() float64 {
	if s.groups == 0 {
		return none
	}
	return float64(s.grouped) / float64(s.groups)
}

func (s sample) quantile(q float64) time.Duration {
	if len(s.latency) == 0 {
		return 0
	}
	return s.latency[min(int(q*float64(len(s.latency))), len(s.latency)-1)]
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// contender is one of the cases that are measured in turns.
type contender struct {
	name    string
	measure func() (sample, error)
}

// median of a figure over rounds.
func median(samples []sample, figure func(sample) float64) float64 {
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = figure(s)
	}
	return middle(values)
}

// medianRatio is the median over rounds of a's figure by b's of the same round.
func medianRatio(a, b []sample, figure func(sample) float64) float64 {
	values := make([]float64, len(a))
	for i := range a {
		values[i] = figure(a[i]) / figure(b[i])
	}
	return middle(values)
}

func middle(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

// quota says, operation by operation, whether another one may begin.
type quota func() bool

// forDuration lets operations begin for d from the first question on.
func forDuration(d time.Duration) quota {
	end := sync.OnceValue(func() time.Time { return time.Now().Add(d) })
	return func() bool { return time.Now().Before(end()) }
}

// forCount lets n operations begin.
func forCount(n int) quota {
	var begun atomic.Int64
	return func() bool { return begun.Add(1) <= int64(n) }
}

// drive keeps workers operations under way while more lets them, and waits for
// the last. op is given its worker's number and its own among the worker's. It
// returns the first error, which ends the load.
func drive(workers int, more quota, op func(worker, i int) error) (tally, error) {
	var (
		failed atomic.Pointer[error]
		wg     sync.WaitGroup
		mu     sync.Mutex
		t      tally
	)
	began := time.Now()
	for w := range workers {
		wg.Go(func() {
			latency := make([]time.Duration, 0, 1024)
			for i := 0; failed.Load() == nil && more(); i++ {
				start := time.Now()
				if err := op(w, i); err != nil {
					failed.CompareAndSwap(nil, &err)
					break
				}
				latency = append(latency, time.Since(start))
			}
			mu.Lock()
			defer mu.Unlock()
			t.latency = append(t.latency, latency...)
		})
	}
	wg.Wait()
	t.wall, t.ops = time.Since(began), len(t.latency)
	if err := failed.Load(); err != nil {
		return t, *err
	}
	return t, nil
}

// pump keeps window requests under way on a stream until n are answered, in
// order.
func pump(n, window int, send, receive func(i int) error) (tally, error) {
	t := tally{ops: n, latency: make([]time.Duration, 0, n)}
	sent := make(chan time.Time, window)
	sending := make(chan error, 1)
	stop := make(chan struct{})
	began := time.Now()
	go func() { // ends with n, or when receiving has failed
		for i := range n {
			select {
			case sent <- time.Now():
			case <-stop:
				return
			}
			if err := send(i); err != nil {
				sending <- err
				return
			}
		}
	}()
	for i := range n {
		if err := receive(i); err != nil {
			close(stop)
			return t, err // the stream's own account; a failed send ends it too
		}
		t.latency = append(t.latency, time.Since(<-sent))
	}
	t.wall = time.Since(began)
	select {
	case err := <-sending:
		return t, err
	default:
		return t, nil
	}
}
