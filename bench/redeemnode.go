package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/wsnode/verify"
)

// handshakes are attempts that wait to be made, and what came of them.
type handshakes struct {
	attempts []*verify.Attempt
	room     chan struct{} // a place for each that is under way
	began    []time.Time
	latency  []time.Duration
	refused  atomic.Pointer[verify.Outcome] // the first
}

// handshakesOf prepares one for each ticket, of which window may be under way.
func handshakesOf(tickets []ticket, window int) (*handshakes, error) {
	h := &handshakes{
		attempts: make([]*verify.Attempt, len(tickets)), room: make(chan struct{}, window),
		began: make([]time.Time, len(tickets)), latency: make([]time.Duration, len(tickets)),
	}
	for i, tk := range tickets {
		a, err := attemptOf(tk, func(o verify.Outcome) {
			h.latency[i] = time.Since(h.began[i])
			if o.Grant == nil {
				h.refused.CompareAndSwap(nil, &o)
			}
			<-h.room
		})
		if err != nil {
			return nil, err
		}
		h.attempts[i] = a
	}
	return h, nil
}

// run is a measured load: all of them, as fast as they are answered.
func (h *handshakes) run(n *simNode) (tally, error) {
	began := time.Now()
	for i, a := range h.attempts {
		h.room <- struct{}{}
		h.began[i] = time.Now()
		n.client.Redeem(a)
	}
	for range cap(h.room) {
		h.room <- struct{}{}
	}
	t := tally{ops: len(h.attempts), wall: time.Since(began), latency: h.latency}
	if o := h.refused.Load(); o != nil {
		return t, fmt.Errorf("token refused: %v", o.Reason)
	}
	return t, nil
}

// nodeCase is one shape of the load.
type nodeCase struct {
	waiting  int // handshakes that wait for the authority at once
	inFlight int // bare calls
}

// A node that gets as many handshakes as the authority can take, and one with
// few.
var nodeCases = []nodeCase{{waiting: 2048, inFlight: unaryInFlight}, {waiting: 64, inFlight: unaryInFlight}}

const unaryInFlight = 64

// unaryShare is a redemption's bound: 5 CPU-µs of the 10.9 that a bare unary call
// took on the machine for which that was set, and so the same on one of another
// speed.
const unaryShare = 0.46

func benchRedeemNode(ctx context.Context, l *lab) (err error) {
	v, err := l.authorityAlone("node", 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.close()) }()
	if err := l.addBareRedeem(ctx, v); err != nil {
		return err
	}
	fleet, err := l.simFleet(ctx, v.authority.addr, 1)
	if err != nil {
		return err
	}
	defer fleet[0].cut() // a goodbye would end hundreds of thousands of sessions first
	t := l.report.table("redeem-node", fmt.Sprintf("handshakes redeemed by a node's own client over mTLS, %d bytes asked and %d answered each, beside as many bare unary calls of those sizes", v.requestSize, v.answerSize),
		"tokens/s", "of bare", "CPU-µs/token", "user µs", "allocs", "p50 ms", "p99 ms", "core busy %", "calls/commit")
	for _, c := range nodeCases {
		samples, err := l.redeemNodeInTurns(ctx, v, fleet[0], c)
		if err != nil {
			return err
		}
		ratio := versusRows(t, fmt.Sprintf("%v wait at once", Number(c.waiting)), "node", fmt.Sprintf("bare unary, %d in flight", c.inFlight), samples)
		if c.waiting > c.inFlight {
			l.report.atLeast("redeem-node: rate of bare unary", ratio, 2.5)
			l.report.atMost("redeem-node: CPU of a bare unary call", medianRatio(samples[0], samples[1], sample.cpuMicros), unaryShare)
		}
		l.say("  the load's own CPU-µs: %v a token, %v a bare call", Number(median(samples[0], sample.loadMicros)), Number(median(samples[1], sample.loadMicros)))
	}
	return nil
}

// addBareRedeem starts a bare peer for what one redemption takes on the wire.
func (l *lab) addBareRedeem(ctx context.Context, v *versus) error {
	tickets, err := issueTickets(ctx, v.login, 1, issueRequest)
	if err != nil {
		return err
	}
	requests, err := redeemRequests(tickets, 1)
	if err != nil {
		return err
	}
	r, err := openRedeem(ctx, v.toAuthority)
	if err != nil {
		return err
	}
	defer r.close()
	if err := r.Send(requests[0]); err != nil {
		return err
	}
	answer, err := r.receive(requests[0])
	if err != nil {
		return err
	}
	return l.addBare(v, "node", requests[0], answer)
}

func (l *lab) redeemNodeInTurns(ctx context.Context, v *versus, n *simNode, c nodeCase) ([][]sample, error) {
	perSecond := 60_000 // about as many as are redeemed in a second
	if c.waiting < 1000 {
		perSecond = 20_000
	}
	tokens := max(int(l.interval.Seconds()*float64(perSecond)), 2*c.waiting)
	const chunk = 20_480 // browsers connect within a second of their login
	return l.inTurns(
		contender{fmt.Sprintf("node, %d wait at once", c.waiting), func() (sample, error) {
			var all sample
			for all.ops < tokens {
				tickets, err := issueTickets(ctx, v.login, min(chunk, tokens), issueRequest)
				if err != nil {
					return all, err
				}
				shuffle(tickets)
				h, err := handshakesOf(tickets, c.waiting)
				if err != nil {
					return all, err
				}
				s, err := l.measureWarm(v.authority, func() (tally, error) { return h.run(n) })
				if err != nil {
					return all, err
				}
				all.add(s)
			}
			return all, nil
		}},
		contender{fmt.Sprintf("bare unary, %d in flight", c.inFlight), func() (sample, error) {
			return l.measureUnary(ctx, v, c.inFlight)
		}},
	)
}

func (l *lab) measureUnary(ctx context.Context, v *versus, inFlight int) (sample, error) {
	return l.measure(v.bare, func(d time.Duration) (tally, error) {
		return drive(inFlight, forDuration(d), func(int, int) error { return v.callBare(ctx) })
	})
}

// paced makes each handshake at its time, perSecond of them, however slowly the
// others are answered: latencies count from when a handshake was due.
func (n *simNode) paced(tickets []ticket, perSecond int) (due []time.Time, took []time.Duration, err error) {
	var answered sync.WaitGroup
	due, took = make([]time.Time, len(tickets)), make([]time.Duration, len(tickets))
	var refused atomic.Pointer[pb.Reason]
	attempts := make([]*verify.Attempt, len(tickets))
	for i, tk := range tickets {
		answered.Add(1)
		if attempts[i], err = attemptOf(tk, func(o verify.Outcome) {
			took[i] = time.Since(due[i])
			if o.Grant == nil {
				refused.CompareAndSwap(nil, &o.Reason)
			}
			answered.Done()
		}); err != nil {
			return nil, nil, err
		}
	}
	began := time.Now()
	for i, a := range attempts {
		due[i] = began.Add(time.Duration(i) * time.Second / time.Duration(perSecond))
		time.Sleep(time.Until(due[i]))
		n.client.Redeem(a)
	}
	answered.Wait()
	if r := refused.Load(); r != nil {
		return nil, nil, fmt.Errorf("token refused: %v", *r)
	}
	return due, took, nil
}
