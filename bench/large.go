package main

import (
	"context"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
)

// stocked is an authority with a stock of live tokens.
type stocked struct {
	*child
	stock   fill
	login   *grpc.ClientConn
	node    *grpc.ClientConn
	stream  *redeemer
	taken   int // chunks of the stock that were redeemed
	starts  time.Duration
	file    int64
	startup memory
	began   time.Duration // CPU time of the start
}

func (s *stocked) close() error {
	if s.stream != nil {
		s.stream.close()
	}
	return errors.Join(s.login.Close(), s.node.Close(), s.stop(), os.RemoveAll(s.dir))
}

// stocked fills a store, starts an authority on it with no page of it in memory,
// and connects.
func (l *lab) stocked(ctx context.Context, stock fill) (_ *stocked, err error) {
	keys, err := l.keys()
	if err != nil {
		return nil, err
	}
	l.say("  %v tokens are stored", Number(stock.Tokens))
	sp := spec{Kind: "authority", Keys: keys, Fill: stock, MaxTTL: 2 * longest}
	filled, err := l.server(sp)
	if err != nil {
		return nil, err
	}
	if err := filled.stop(); err != nil {
		return nil, err
	}
	sp.Dir, sp.Fill = filled.dir, fill{}
	s := &stocked{stock: stock}
	info, err := os.Stat(filepath.Join(sp.Dir, storeName))
	if err != nil {
		return nil, err
	}
	s.file = info.Size()
	if err := forgetPages(filepath.Join(sp.Dir, storeName)); err != nil {
		return nil, err
	}
	starting := time.Now()
	if s.child, err = l.start(l.cores.server, sp); err != nil {
		return nil, err
	}
	s.starts = time.Since(starting)
	used, err := s.usage()
	if err != nil {
		return nil, err
	}
	s.began = used.User + used.System
	a, err := s.ask(order{Do: "memory"})
	if err != nil {
		return nil, err
	}
	s.startup = a.Memory
	l.say("  an authority with %v tokens serves after %v", Number(stock.Tokens), s.starts.Round(time.Millisecond))
	if _, err := s.ask(order{Do: "warm"}); err != nil {
		return nil, err
	}
	if s.login, err = l.dial(s.addr, "login"); err != nil {
		return nil, err
	}
	if s.node, err = l.dial(s.addr, "node"); err != nil {
		return nil, err
	}
	s.stream, err = openRedeem(ctx, s.node)
	return s, err
}

// tickets says which tokens are redeemed.
type tickets func(ctx context.Context, s *stocked, n int) ([]ticket, error)

// freshHour are issued for an hour, just before.
func freshHour(ctx context.Context, s *stocked, n int) ([]ticket, error) {
	return issueTickets(ctx, s.login, n, issueRequest)
}

// freshMixed are issued for 30 seconds to 30 days, just before.
func freshMixed(ctx context.Context, s *stocked, n int) ([]ticket, error) {
	return issueTicketsFor(ctx, s.login, n, issueRequest, func() *durationpb.Duration {
		return durationpb.New(mixedLife(shortest, mathrand.Float64()))
	})
}

// ofStock are spread over the whole stock.
func ofStock(_ context.Context, s *stocked, n int) ([]ticket, error) {
	if n > s.stock.Tokens {
		return nil, fmt.Errorf("%d tokens of a stock of %d", n, s.stock.Tokens)
	}
	s.taken++
	return s.stock.tickets(s.taken-1, n), nil
}

// redeemStocked measures a Redeem stream: requests of 64, 16 under way, of tokens
// in random order.
func (l *lab) redeemStocked(ctx context.Context, s *stocked, of tickets) (all sample, err error) {
	const batch, window = 64, 16
	total := l.part(100_000, 2*batch*window)
	chunk := min(total, 10_240)
	for all.ops < total {
		tickets, err := of(ctx, s, chunk)
		if err != nil {
			return all, err
		}
		requests, err := redeemRequests(tickets, batch)
		if err != nil {
			return all, err
		}
		one, err := l.measureWarm(s.child, func() (tally, error) { return s.stream.redeem(requests, window) })
		if err != nil {
			return all, err
		}
		all.add(one)
	}
	return all, nil
}

func benchLarge(ctx context.Context, l *lab) (err error) {
	few, many := l.part(10_000, 1000), l.part(10_000_000, 20_000)
	small, err := l.stocked(ctx, fill{Tokens: few, Since: time.Now()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, small.close()) }()
	t := l.report.table("large", "the Redeem stream, 64 a request, 16 under way, 10,240 fresh, or spread over all that are live; CPU of few is the ratio to the first row in the same round, of such few to that of the same lives",
		"live tokens", "CPU-µs/token", "CPU of few", "of such few", "user µs", "tokens/s", "p50 ms", "p99 ms", "calls/commit")
	m := l.report.table("large size", "the store and its authority: started with nothing of the file in memory",
		"live tokens", "starts in s", "CPU s of it", "file MB", "bytes/token on disk", "private MB", "private bytes/token", "mapped MB after the runs")
	size := func(name string, s *stocked) error {
		a, err := s.ask(order{Do: "memory"})
		if err != nil {
			return err
		}
		n := float64(s.stock.Tokens)
		m.row(name, n, s.starts.Seconds(), s.began.Seconds(), megabytes(s.file), float64(s.file)/n, megabytes(s.startup.Private), float64(s.startup.Private)/n, megabytes(a.Memory.Mapped))
		return nil
	}
	if err := size("few", small); err != nil {
		return err
	}
	for _, c := range []struct {
		name  string
		mixed bool
		runs  []struct {
			name  string
			of    tickets
			bound float64
		}
	}{
		{"an hour", false, []struct {
			name  string
			of    tickets
			bound float64
		}{{"fresh", freshHour, 1.15}, {"of all that are live", ofStock, 1.15}}},
		{"30 s to 30 days", true, []struct {
			name  string
			of    tickets
			bound float64
		}{{"fresh", freshMixed, 1.25}, {"of all that are live", ofStock, 1.25}}},
	} {
		big, err := l.stocked(ctx, fill{Tokens: many, Since: time.Now(), Mixed: c.mixed})
		if err != nil {
			return err
		}
		contenders := []contender{{"few, an hour, fresh", func() (sample, error) { return l.redeemStocked(ctx, small, freshHour) }}}
		if c.mixed {
			contenders = append(contenders, contender{"few, " + c.name + ", fresh", func() (sample, error) { return l.redeemStocked(ctx, small, freshMixed) }})
		}
		first := len(contenders)
		for _, r := range c.runs {
			contenders = append(contenders, contender{"many, " + c.name + ", " + r.name, func() (sample, error) { return l.redeemStocked(ctx, big, r.of) }})
		}
		samples, err := l.inTurns(contenders...)
		if err == nil {
			err = size(c.name, big)
		}
		if err = errors.Join(err, big.close()); err != nil {
			return err
		}
		for i, rounds := range samples {
			live, such := float64(few), medianRatio(rounds, samples[min(i, first-1)], sample.cpuMicros)
			if i >= first {
				live = float64(many)
				r := c.runs[i-first]
				l.report.atMost(fmt.Sprintf("large: CPU of such few, %v live, %s, %s", Number(many), c.name, r.name), such, r.bound)
			}
			t.row(contenders[i].name, live, median(rounds, sample.cpuMicros), medianRatio(rounds, samples[0], sample.cpuMicros), such, median(rounds, sample.userMicros), median(rounds, sample.rate), median(rounds, sample.p50), median(rounds, sample.p99), median(rounds, sample.meanGroup))
		}
		l.report.atMost(fmt.Sprintf("large: seconds until an authority with %v tokens serves, %s", Number(many), c.name), big.starts.Seconds(), 10)
	}
	return nil
}
