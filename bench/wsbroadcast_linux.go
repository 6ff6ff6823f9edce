package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// benchBroadcast measures what one message to very many sockets costs for each.
func benchBroadcast(ctx context.Context, l *lab) (err error) {
	w, err := l.startWS(wsServers[:2])
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	n := l.part(10_000, 100)
	t := l.report.table("ws-broadcast", fmt.Sprintf("a text of %d bytes to all of %d sockets, again when all have it; latency until the last has it", wsPayload, n),
		"messages/s", "CPU-µs/socket", "of the floor's CPU", "user µs", "allocs", "p50 ms", "p99 ms", "core busy %")
	var contenders []contender
	for i, s := range w.kinds {
		contenders = append(contenders, contender{s.name, func() (m sample, err error) {
			conns, err := w.openOn(ctx, i, n)
			if err != nil {
				return m, fmt.Errorf("%s: %w", s.name, err)
			}
			defer func() { err = errors.Join(err, conns.close()) }()
			return l.measure(w.servers[i], func(d time.Duration) (tally, error) {
				return conns.hear(d, func() error {
					_, err := w.servers[i].ask(order{Do: "broadcast"})
					return err
				})
			})
		}})
	}
	samples, err := l.inTurns(contenders...)
	if err != nil {
		return err
	}
	for i, s := range w.kinds {
		m := samples[i]
		t.row(s.name, median(m, sample.rate), median(m, sample.cpuMicros), medianRatio(m, samples[0], sample.cpuMicros),
			median(m, sample.userMicros), median(m, sample.allocations), median(m, sample.p50), median(m, sample.p99), median(m, sample.busy))
	}
	return nil
}

// hear has the server send to all connections, one message after the other for
// d. Each operation is one message to one of them, each latency that of one to all.
func (w *wsConns) hear(d time.Duration, send func() error) (t tally, err error) {
	events := make([]unix.EpollEvent, 256)
	began := time.Now()
	for time.Since(began) < d {
		start := time.Now()
		if err := send(); err != nil {
			return t, err
		}
		for left := len(w.conns); left > 0; {
			n, err := unix.EpollWait(w.epoll, events, 10_000)
			if err == unix.EINTR {
				continue
			}
			if err != nil || n == 0 {
				return t, errors.Join(err, fmt.Errorf("%d sockets have not got the message", left))
			}
			for _, e := range events[:n] {
				whole, err := w.receive(w.conns[e.Fd])
				if err != nil {
					return t, err
				}
				if whole {
					left--
				}
			}
		}
		t.latency = append(t.latency, time.Since(start))
		t.ops += len(w.conns)
	}
	t.wall = time.Since(began)
	return t, nil
}
