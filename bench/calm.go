package main

import (
	"fmt"
	"math"
	"time"
)

// calm is what share of the run's two cores others may take during a
// measurement before its round is measured again.
const calm = 0.10

// ownTime is the CPU time of this run: of the load and of every server, those that have ended too.
func (l *lab) ownTime() (time.Duration, error) {
	a := usageNow()
	total := a.User + a.System + l.ended
	for _, c := range l.children {
		a, err := c.usage()
		if err != nil {
			return 0, err
		}
		total += a.User + a.System
	}
	return total, nil
}

// watched runs fn and tells what share of the two cores others took meanwhile;
// NaN where that cannot be told.
func (l *lab) watched(fn func() error) (others float64, err error) {
	own, err := l.ownTime()
	if err != nil {
		return none, err
	}
	began := time.Now()
	all, ok := coreTime(l.cores)
	if err := fn(); err != nil {
		return none, err
	}
	allAfter, okAfter := coreTime(l.cores)
	took := time.Since(began)
	ownAfter, err := l.ownTime()
	if err != nil || !ok || !okAfter {
		return none, err
	}
	return max(0, float64((allAfter-all)-(ownAfter-own))/float64(2*took)), nil
}

// attempt is one try at a round.
type attempt struct {
	samples []sample
	others  float64 // the most that others took during one of them
}

// round measures each contender once, again while others disturb it and
// patience lasts, and returns the calmest try.
func (l *lab) round(contenders []contender) (attempt, error) {
	var best attempt
	for try := range l.patience + 1 {
		a := attempt{samples: make([]sample, len(contenders)), others: none}
		for i, c := range contenders {
			l.current = c.name
			others, err := l.watched(func() (err error) {
				a.samples[i], err = c.measure()
				return err
			})
			if err != nil {
				return a, err
			}
			a.others = worse(a.others, others)
		}
		if try == 0 || a.others < best.others {
			best = a
		}
		if !(best.others > calm) { // so that NaN is calm
			break
		}
	}
	return best, nil
}

// worse is the greater of two shares, of which any may be unknown.
func worse(a, b float64) float64 {
	if math.IsNaN(a) || b > a {
		return b
	}
	return a
}

// inTurns measures each contender once in every round, A B A B, so that what
// else the machine does meets them alike. The samples of contender i are
// result[i], one a round.
func (l *lab) inTurns(contenders ...contender) ([][]sample, error) {
	out := make([][]sample, len(contenders))
	for n := range l.rounds {
		a, err := l.round(contenders)
		if err != nil {
			return nil, err
		}
		l.report.others = append(l.report.others, a.others)
		disturbed := ""
		if a.others > calm {
			disturbed = fmt.Sprintf(" (others took %.0f %% of the cores)", 100*a.others)
		}
		for i, c := range contenders {
			s := a.samples[i]
			out[i] = append(out[i], s)
			l.say("  round %d of %d: %s: %v/s, %v CPU-µs%s", n+1, l.rounds, c.name, Number(s.rate()), Number(s.cpuMicros()), disturbed)
		}
	}
	return out, nil
}
