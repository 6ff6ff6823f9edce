package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/gatehouse-ws/gatehouse/wsnode/verify"
)

// storm is clients that meet an authority which is away. Each handshake that is
// refused with a Retry-After is made again after it, as clients do.
type storm struct {
	fleet   simFleet
	waiting sync.WaitGroup // clients without a session that have not given up

	mu      sync.Mutex // guards what follows
	granted int
	refused int // handshakes, with a Retry-After
	lost    int // clients that gave up, or were refused for good
	longest time.Duration
	last    time.Time
	failed  error
}

// comebacks is how often a client comes back before it gives up.
const comebacks = 5

// shake makes the handshake of a ticket, on the i-th node.
func (s *storm) shake(i int, tk ticket, comebacks int) {
	var began time.Time
	a, err := attemptOf(tk, func(o verify.Outcome) {
		if s.answered(began, o, comebacks > 0) {
			time.AfterFunc(o.RetryAfter, func() { s.shake(i+1, tk, comebacks-1) })
		} else {
			s.waiting.Done()
		}
	})
	if err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.failed = err
		s.waiting.Done()
		return
	}
	began = time.Now()
	s.fleet[i%len(s.fleet)].client.Redeem(a)
}

// answered notes an answer, and says whether its client, which may, comes back.
func (s *storm) answered(began time.Time, o verify.Outcome, may bool) (again bool) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.longest, s.last = max(s.longest, now.Sub(began)), now
	switch {
	case o.Grant != nil:
		s.granted++
	case o.RetryAfter > 0 && may:
		s.refused++
		return true
	default:
		s.lost++
	}
	return false
}

// benchRestart kills an authority, lets handshakes come to its nodes, and starts
// it again.
func benchRestart(ctx context.Context, l *lab) (err error) {
	keys, err := l.keys()
	if err != nil {
		return err
	}
	nodes, handshakes := l.part(100, 5), l.part(100_000, 1000)
	v, err := l.authorityAlone("node", 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.close()) }()
	again := spec{Kind: "authority", Keys: keys, Addr: v.authority.addr, Dir: v.authority.dir}
	fleet, err := l.simFleet(ctx, v.authority.addr, nodes)
	if err != nil {
		return err
	}
	defer func() { _ = fleet.each(func(_ int, n *simNode) error { n.cut(); return nil }) }()

	samples, err := l.inTurns(contender{fmt.Sprintf("restart, %d nodes", nodes), func() (s sample, err error) {
		tickets, err := issueTickets(ctx, v.login, handshakes, issueRequest)
		if err != nil {
			return s, err
		}
		if err := fleet.each(func(_ int, n *simNode) error { return n.awaitReady(ctx) }); err != nil {
			return s, err
		}
		return l.stormOnce(v, again, fleet, tickets)
	}})
	if err != nil {
		return err
	}
	t := l.report.table("restart", fmt.Sprintf("%v clients come to %d nodes at once while their authority is away after a kill -9; it starts again at once, and who is told to come back does", Number(handshakes), nodes),
		"granted", "503 with Retry-After", "no session", "longest wait s", "all granted s", "authority's CPU s", "serves after s", "load's CPU s")
	rounds, row := samples[0], make([]float64, 8)
	for i := range row {
		row[i] = figure(rounds, i)
	}
	t.row("restart", row...)
	l.report.atMost("restart: clients without a session in the end", row[2], 0)
	l.report.atMost("restart: authority's CPU s", row[5], 3)
	l.report.atMost("restart: longest wait s", row[3], (verify.DefaultConfig().RedeemTimeout + time.Second).Seconds())
	return nil
}

func (l *lab) stormOnce(v *versus, again spec, fleet simFleet, tickets []ticket) (s sample, err error) {
	if err := v.authority.kill(); err != nil {
		return s, err
	}
	own, starting := usageNow(), time.Now()
	storm := storm{fleet: fleet}
	storm.waiting.Add(len(tickets))
	for i, tk := range tickets {
		storm.shake(i, tk, comebacks)
	}
	served := time.Now()
	if v.authority, err = l.start(l.cores.server, again); err != nil {
		return s, err
	}
	serves := time.Since(served)
	storm.waiting.Wait()
	if storm.failed != nil {
		return s, storm.failed
	}
	time.Sleep(l.settle)
	used, err := v.authority.usage() // since its start
	if err != nil {
		return s, err
	}
	ownAfter := usageNow()
	s.tally = tally{ops: len(tickets), wall: storm.last.Sub(starting)}
	s.user, s.system = used.User, used.System
	s.figures = []float64{
		float64(storm.granted), float64(storm.refused), float64(storm.lost), storm.longest.Seconds(), s.wall.Seconds(),
		(used.User + used.System).Seconds(), serves.Seconds(), (ownAfter.User + ownAfter.System - own.User - own.System).Seconds(),
	}
	return s, nil
}
