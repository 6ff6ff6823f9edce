package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/gatehouse-ws/gatehouse/wsnode/verify"
)

// storm is what came of handshakes that met an authority which was away.
type storm struct {
	mu               sync.Mutex
	granted, refused int
	bare             int // refused without being told when to come back
	longest          time.Duration
	last             time.Time
}

func (s *storm) answered(began time.Time, o verify.Outcome) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case o.Grant != nil:
		s.granted++
	case o.RetryAfter > 0:
		s.refused++
	default:
		s.bare++
	}
	s.longest, s.last = max(s.longest, now.Sub(began)), now
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
	login, err := l.dial(v.authority.addr, "login")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, login.Close()) }()
	fleet, err := l.simFleet(ctx, v.authority.addr, nodes)
	if err != nil {
		return err
	}
	defer func() { _ = fleet.each(func(_ int, n *simNode) error { n.cut(); return nil }) }()

	samples, err := l.inTurns(contender{fmt.Sprintf("restart, %d nodes", nodes), func() (s sample, err error) {
		tickets, err := issueTickets(ctx, login, handshakes, issueRequest)
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
	t := l.report.table("restart", fmt.Sprintf("%v handshakes come to %d nodes at once while their authority is away after a kill -9; it starts again at once", Number(handshakes), nodes),
		"granted", "503 with Retry-After", "unanswered", "longest wait s", "all answered s", "authority's CPU s", "serves after s", "load's CPU s")
	rounds := samples[0]
	t.row("restart", figure(rounds, 0), figure(rounds, 1), figure(rounds, 2), figure(rounds, 3), figure(rounds, 4), figure(rounds, 5), figure(rounds, 6), figure(rounds, 7))
	l.report.atMost("restart: handshakes without an answer", figure(rounds, 2), 0)
	l.report.atMost("restart: authority's CPU s", figure(rounds, 5), 3)
	l.report.atMost("restart: longest wait s", figure(rounds, 3), (verify.DefaultConfig().RedeemTimeout + time.Second).Seconds())
	return nil
}

func (l *lab) stormOnce(v *versus, again spec, fleet simFleet, tickets []ticket) (s sample, err error) {
	var storm storm
	var wait sync.WaitGroup
	attempts := make([]*verify.Attempt, len(tickets))
	began := time.Now() // corrected below: no handshake is made before
	for i, tk := range tickets {
		if attempts[i], err = attemptOf(tk, func(o verify.Outcome) {
			storm.answered(began, o)
			wait.Done()
		}); err != nil {
			return s, err
		}
	}
	if err := v.authority.kill(); err != nil {
		return s, err
	}
	own := usageNow()
	began = time.Now()
	wait.Add(len(attempts))
	for i, a := range attempts {
		fleet[i%len(fleet)].client.Redeem(a)
	}
	starting := time.Now()
	if v.authority, err = l.start(l.cores.server, again); err != nil {
		return s, err
	}
	serves := time.Since(starting)
	wait.Wait()
	used, err := v.authority.usage() // since its start
	if err != nil {
		return s, err
	}
	ownAfter := usageNow()
	s.tally = tally{ops: len(tickets), wall: storm.last.Sub(starting)}
	s.user, s.system = used.User, used.System
	s.figures = []float64{
		float64(storm.granted), float64(storm.refused), float64(storm.bare), storm.longest.Seconds(), s.wall.Seconds(),
		(used.User + used.System).Seconds(), serves.Seconds(), (ownAfter.User + ownAfter.System - own.User - own.System).Seconds(),
	}
	return s, nil
}
