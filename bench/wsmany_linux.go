package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// manyConnections are the numbers that a message must cost the same with. The
// load needs a descriptor for each, and no process here may have more than
// 20,000.
var manyConnections = []int{100, 1000, 5000, 17_000}

// benchWSMany measures what a message and an idle socket cost with few and with
// many connections. Each measurement opens its own, since there are descriptors
// for those of one server only.
func benchWSMany(ctx context.Context, l *lab) (err error) {
	w, err := l.startWS(wsServers[:2])
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	if err := l.idleCase(ctx, w); err != nil { // first: what servers keep for more sockets to come counts for these
		return err
	}
	t := l.report.table("ws-many echo", fmt.Sprintf("a masked text of %d bytes on plain ws, one under way on each connection", wsPayload),
		"connections", "messages/s", "CPU-µs/message", "of the floor's CPU", "user µs", "allocs", "p50 ms", "p99 ms", "core busy %")
	var ratios []float64
	for _, n := range manyConnections {
		n = l.part(n, 10)
		var contenders []contender
		for i, s := range w.kinds {
			contenders = append(contenders, contender{fmt.Sprintf("%s, %d connections", s.name, n), func() (m sample, err error) {
				conns, err := w.openOn(ctx, i, n)
				if err != nil {
					return m, fmt.Errorf("%s: %w", s.name, err)
				}
				defer func() { err = errors.Join(err, conns.close()) }()
				return l.measure(w.servers[i], conns.echo)
			}})
		}
		samples, err := l.inTurns(contenders...)
		if err != nil {
			return err
		}
		for i, s := range w.kinds {
			m := samples[i]
			ratio := medianRatio(m, samples[0], sample.cpuMicros)
			t.row(s.name, float64(n), median(m, sample.rate), median(m, sample.cpuMicros), ratio,
				median(m, sample.userMicros), median(m, sample.allocations), median(m, sample.p50), median(m, sample.p99), median(m, sample.busy))
			if i > 0 {
				ratios = append(ratios, ratio)
			}
		}
	}
	l.report.atMost("ws-many: of the floor's CPU, 100 connections", ratios[0], 1.10)
	l.report.atMost("ws-many: of the floor's CPU, 5,000 connections", ratios[2], 1.10)
	l.report.atMost("ws-many: that ratio at 17,000 connections by the one at 100", ratios[3]/ratios[0], 1.15)
	return nil
}

// openOn opens n connections to a server.
func (w *wsLab) openOn(ctx context.Context, server, n int) (*wsConns, error) {
	tokens, err := w.tokens(ctx, n)
	if err != nil {
		return nil, err
	}
	return openWS(w.servers[server].addr, tokens)
}

// idleCase tells what a socket takes that says nothing.
func (l *lab) idleCase(ctx context.Context, w *wsLab) error {
	n := l.part(17_000, 1000)
	t := l.report.table("ws-many idle", fmt.Sprintf("%d sockets that say nothing, each, after a collection of garbage: what it takes more than before", n), "live bytes", "private bytes", "private, of each further")
	for i, s := range w.kinds {
		each, err := l.idleEach(w, i, n, func(n int) (closer, error) { return w.openOn(ctx, i, n) })
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		t.row(s.name, each.live, each.private, each.further)
		if s.Kind == "node" {
			l.report.atMost("ws-many: live bytes of an idle socket", each.live, 300)
			l.report.atMost("ws-many: private bytes of an idle socket", each.private, 300)
			l.report.atMost("ws-many: private bytes of each further one", each.further, 300)
		}
	}
	return nil
}

// closer is connections that were opened together.
type closer interface{ close() error }

// idle is what a socket takes that says nothing, in bytes after a collection of
// garbage.
type idle struct {
	live, private float64
	further       float64 // private, beyond the first tenth: without what a server has once
}

// warmings is how often warmSockets come and go before what idle ones take is
// measured.
const warmings, warmSockets = 128, 16

// idleEach opens n connections to a server and returns what each takes. Others come
// and go before, for what the first handshakes of a process make it hold; they are
// few at once, so that the server keeps nothing for as many as n.
func (l *lab) idleEach(w *wsLab, server, n int, open func(n int) (closer, error)) (each idle, err error) {
	for range l.part(warmings, 1) {
		conns, err := open(warmSockets)
		if err != nil {
			return each, err
		}
		if err := conns.close(); err != nil {
			return each, err
		}
	}
	few := n / 10
	read := []memory{}
	for _, more := range []int{0, few, n - few} {
		if more > 0 {
			conns, err := open(more)
			if err != nil {
				return each, err
			}
			defer func() { err = errors.Join(err, conns.close()) }()
			time.Sleep(l.settle)
		}
		a, err := w.servers[server].ask(order{Do: "memory"})
		if err != nil {
			return each, err
		}
		read = append(read, a.Memory)
	}
	none, some, all := read[0], read[1], read[2]
	each.live = float64(all.Heap-none.Heap) / float64(n)
	each.private = float64(all.Private-none.Private) / float64(n)
	each.further = float64(all.Private-some.Private) / float64(n-few)
	return each, nil
}
