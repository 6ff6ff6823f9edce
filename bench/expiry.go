package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"
)

// The authority forgets a token two minutes after its expiry, and gives its
// place in the file back once all of its minute are forgotten.
const forgetAfter = 2 * time.Minute

// phase is a part of what happens to tokens that expire together.
type phase struct {
	name string
	at   func(expiry time.Time) time.Time // when it begins, by the authority's clock
}

var phases = []phase{
	{"their second", func(e time.Time) time.Time { return e }},
	{"they are forgotten", func(e time.Time) time.Time { return e.Add(forgetAfter) }},
	{"their slots are dropped", func(e time.Time) time.Time { return e.Truncate(time.Minute).Add(time.Minute + forgetAfter) }},
}

// expiry is a run of benchExpiry.
type expiry struct {
	authority *child
	login     *grpc.ClientConn
	node      *simNode
	tokens    int
	perSecond int // handshakes
}

// lead is how long before a phase the clock is put, and tail how long after its
// beginning handshakes go on.
const lead, tail = time.Second, 2500 * time.Millisecond

func benchExpiry(ctx context.Context, l *lab) (err error) {
	v, err := l.authorityAlone("node", 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.close()) }()
	fleet, err := l.simFleet(ctx, v.authority.addr, 1)
	if err != nil {
		return err
	}
	defer fleet[0].cut()
	x := &expiry{authority: v.authority, login: v.login, node: fleet[0], tokens: l.part(1_000_000, 10_000), perSecond: l.part(4000, 200)}
	samples, err := l.inTurns(contender{fmt.Sprintf("expiry of %v", Number(x.tokens)), func() (sample, error) { return l.expireOnce(ctx, x) }})
	if err != nil {
		return err
	}
	rounds := samples[0]
	t := l.report.table("expiry", fmt.Sprintf("%v tokens expire in the same second, while a node redeems %v others a second, each at its time; of before is the ratio of p99", Number(x.tokens), Number(x.perSecond)),
		"p50 ms", "p99 ms", "of before", "longest commit ms", "longest that forgets ms", "commits that forget", "forgetting s")
	t.row("before", figure(rounds, 0), figure(rounds, 1), 1, figure(rounds, 2), none, none, none)
	for i, p := range phases {
		at := func(n int) float64 { return figure(rounds, 3+7*i+n) }
		t.row(p.name, at(0), at(1), at(2), at(3), at(4), at(5), at(6))
		l.report.atMost("expiry: p99 of before, while "+p.name, at(2), 2)
		if i > 0 {
			l.report.atMost("expiry: longest commit that forgets ms, while "+p.name, at(4), 10)
		}
	}
	return nil
}

// expireOnce is one round; its figures are those of the table, row by row.
func (l *lab) expireOnce(ctx context.Context, x *expiry) (s sample, err error) {
	for range 2 { // the first finds nothing of what an earlier round has left
		if s, err = l.before(ctx, x); err != nil {
			return s, err
		}
	}
	p99 := s.figures[1]
	clock, err := x.authority.ask(order{Do: "skip"})
	if err != nil {
		return s, err
	}
	// In the middle of a minute, far enough for as many to be stored.
	expires := clock.Time.Add(3 * time.Minute).Truncate(time.Minute).Add(30 * time.Second)
	if _, err := x.authority.ask(order{Do: "expire", Time: expires, Count: x.tokens}); err != nil {
		return s, err
	}
	time.Sleep(5 * l.settle) // the disk has much to write
	for _, p := range phases {
		figures, t, err := l.during(ctx, x, p.at(expires), p99)
		if err != nil {
			return s, err
		}
		s.figures = append(s.figures, figures...)
		s.tally.ops += t.ops
	}
	return s, nil
}

// before measures the quiet.
func (l *lab) before(ctx context.Context, x *expiry) (s sample, err error) {
	quiet := max(2*l.interval, 400*time.Millisecond)
	tickets, err := issueTickets(ctx, x.login, int(quiet.Seconds()*float64(x.perSecond)), issueRequest)
	if err != nil {
		return s, err
	}
	time.Sleep(l.settle)
	if _, err := x.authority.ask(order{Do: "commits"}); err != nil {
		return s, err
	}
	began := time.Now()
	_, took, err := x.node.paced(tickets, x.perSecond)
	if err != nil {
		return s, err
	}
	seen, err := x.authority.ask(order{Do: "commits"})
	if err != nil {
		return s, err
	}
	slices.Sort(took)
	s.tally = tally{ops: len(took), wall: time.Since(began), latency: took}
	s.figures = []float64{s.p50(), s.p99(), millis(seen.Commits.Longest)}
	return s, nil
}

// during measures while something begins at an instant of the authority's clock.
func (l *lab) during(ctx context.Context, x *expiry, begins time.Time, before float64) (figures []float64, t tally, err error) {
	tickets, err := issueTickets(ctx, x.login, int((lead+tail).Seconds()*float64(x.perSecond)), issueRequest)
	if err != nil {
		return nil, t, err
	}
	clock, err := x.authority.ask(order{Do: "skip"})
	if err != nil {
		return nil, t, err
	}
	forward := begins.Add(-lead).Sub(clock.Time)
	if forward < 0 {
		return nil, t, fmt.Errorf("storing the tokens took %v too long", -forward)
	}
	if _, err := x.authority.ask(order{Do: "commits"}); err != nil {
		return nil, t, err
	}
	if _, err := x.authority.ask(order{Do: "skip", For: forward}); err != nil {
		return nil, t, err
	}
	began := time.Now()
	due, took, err := x.node.paced(tickets, x.perSecond)
	if err != nil {
		return nil, t, err
	}
	seen, err := x.authority.ask(order{Do: "commits"})
	if err != nil {
		return nil, t, err
	}
	from, to, forgetting := began.Add(lead), began.Add(lead+time.Second), none
	sweeps, longestSweep := none, none
	if c := seen.Commits; c.Sweeps > 0 {
		sweeps, longestSweep, forgetting = float64(c.Sweeps), millis(c.LongestSweep), c.Last.Sub(c.First).Seconds()
		from, to = c.First, later(c.Last, c.First.Add(time.Second))
	}
	var within []time.Duration
	for i, at := range due {
		if at.Add(took[i]).After(from) && at.Before(to) {
			within = append(within, took[i])
		}
	}
	slices.Sort(within)
	s := sample{tally: tally{ops: len(within), wall: to.Sub(from), latency: within}}
	return []float64{s.p50(), s.p99(), s.p99() / before, millis(seen.Commits.Longest), longestSweep, sweeps, forgetting}, s.tally, nil
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
