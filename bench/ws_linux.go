package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// wsServers are measured in turns; the first is the measure of the others. Of the
// first two ws-many has more to tell.
var wsServers = []wsServer{
	{spec{Kind: "floor"}, "raw epoll, nothing but the echo"},
	{spec{Kind: "node"}, "Gatehouse node"},
	{spec{Kind: "checked"}, "Gatehouse node, messages held against a schema"},
	{spec{Kind: "node", Portable: true}, "Gatehouse node, portable driver"},
	{spec{Kind: "gobwas"}, "gobwas/ws, goroutine per connection"},
	{spec{Kind: "gws"}, "lxzan/gws"},
	{spec{Kind: "gorilla"}, "gorilla/websocket"},
}

type wsServer struct {
	spec
	name string
}

// wsLab is an authority and servers beside it.
type wsLab struct {
	kinds     []wsServer
	authority *child
	login     *grpc.ClientConn
	servers   []*child
}

func (l *lab) startWS(kinds []wsServer) (_ *wsLab, err error) {
	keys, err := l.keys()
	if err != nil {
		return nil, err
	}
	w := &wsLab{kinds: kinds}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if w.authority, err = l.serverOn(l.cores.load, spec{Kind: "authority", Keys: keys}); err != nil {
		return nil, err
	}
	if w.login, err = l.dial(w.authority.addr, "login"); err != nil {
		return nil, err
	}
	for _, s := range kinds {
		s.Keys, s.Authority = keys, w.authority.addr
		c, err := l.server(s.spec)
		if err != nil {
			return nil, err
		}
		w.servers = append(w.servers, c)
	}
	return w, nil
}

func (w *wsLab) close() error {
	var errs []error
	for _, c := range w.servers {
		errs = append(errs, c.stop())
	}
	if w.login != nil {
		errs = append(errs, w.login.Close())
	}
	if w.authority != nil {
		errs = append(errs, w.authority.stop())
	}
	return errors.Join(errs...)
}

// tokens are n texts, real ones, for any server.
func (w *wsLab) tokens(ctx context.Context, n int) ([]string, error) {
	tickets, err := issueTickets(ctx, w.login, n, func(user int) *pb.IssueTokenRequest {
		req := issueRequest(user)
		req.ClientIp, req.UserAgent = "127.0.0.1", []byte(userAgents[0]) // as wsRequest comes
		return req
	})
	if err != nil {
		return nil, err
	}
	out := make([]string, n)
	for i, t := range tickets {
		out[i] = t.text
	}
	return out, nil
}

func benchWS(ctx context.Context, l *lab) (err error) {
	w, err := l.startWS(wsServers)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	t := l.report.table("ws echo", fmt.Sprintf("a masked text of %d bytes on plain ws, one under way on each connection", wsPayload),
		"connections", "messages/s", "CPU-µs/message", "of the floor's CPU", "user µs", "allocs", "p50 ms", "p99 ms", "core busy %")
	for _, n := range []int{100, 1000} {
		if err := l.echoCase(ctx, w, n, t); err != nil {
			return err
		}
	}
	t = l.report.table("ws handshake", "connect, opening handshake, closing handshake",
		"at once", "handshakes/s", "CPU-µs each", "of the floor's CPU", "user µs", "allocs", "authority's CPU-µs", "p50 ms", "p99 ms")
	for _, atOnce := range []int{16, 256} {
		if err := l.handshakeCase(ctx, w, atOnce, t); err != nil {
			return err
		}
	}
	return nil
}

func (l *lab) echoCase(ctx context.Context, w *wsLab, n int, t *Table) (err error) {
	var contenders []contender
	for i, s := range wsServers {
		tokens, err := w.tokens(ctx, n)
		if err != nil {
			return err
		}
		conns, err := openWS(w.servers[i].addr, tokens)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		defer func() { err = errors.Join(err, conns.close()) }()
		contenders = append(contenders, contender{fmt.Sprintf("%s, %d connections", s.name, n), func() (sample, error) {
			return l.measure(w.servers[i], conns.echo)
		}})
	}
	samples, err := l.inTurns(contenders...)
	if err != nil {
		return err
	}
	for i, s := range wsServers {
		m := samples[i]
		t.row(s.name, float64(n), median(m, sample.rate), median(m, sample.cpuMicros), medianRatio(m, samples[0], sample.cpuMicros),
			median(m, sample.userMicros), median(m, sample.allocations), median(m, sample.p50), median(m, sample.p99), median(m, sample.busy))
		if s.Kind == "checked" {
			l.report.atMost(fmt.Sprintf("ws echo: CPU of the floor's, messages held against a schema, %d connections", n), medianRatio(m, samples[0], sample.cpuMicros), 1.2)
			l.report.atMost(fmt.Sprintf("ws echo: allocations, messages held against a schema, %d connections", n), float64(int(median(m, sample.allocations)*10))/10, 0)
		}
	}
	return nil
}

// handshakeShare is a handshake's bound: 30 CPU-µs of the 17 that the floor's took on
// the machine for which that was set, and so the same on one of another speed.
const handshakeShare = 1.76

// handshakeCase opens and closes connections. What the authority does for the
// node's is on the load's core, and told apart.
func (l *lab) handshakeCase(ctx context.Context, w *wsLab, workers int, t *Table) error {
	const perSecond = 5000
	n := max(int(l.interval.Seconds()*perSecond), 2*workers)
	authority := make([][]float64, len(wsServers))
	var contenders []contender
	for i, s := range wsServers {
		contenders = append(contenders, contender{fmt.Sprintf("%s, %d handshakes at once", s.name, workers), func() (sample, error) {
			tokens, err := w.tokens(ctx, n)
			if err != nil {
				return sample{}, err
			}
			time.Sleep(l.settle)
			before, err := w.authority.usage()
			if err != nil {
				return sample{}, err
			}
			m, err := l.measureWarm(w.servers[i], func() (tally, error) {
				return drive(workers, forCount(n), numbered(func(j int) error { return wsOpenClose(dialPlain(w.servers[i].addr), tokens[j]) }))
			})
			if err != nil {
				return sample{}, fmt.Errorf("%s: %w", s.name, err)
			}
			after, err := w.authority.usage()
			used := after.User + after.System - before.User - before.System
			authority[i] = append(authority[i], micros(used)/float64(n))
			return m, err
		}})
	}
	samples, err := l.inTurns(contenders...)
	if err != nil {
		return err
	}
	for i, s := range wsServers {
		m, behind := samples[i], none
		if s.Kind == "node" || s.Kind == "checked" {
			behind = middle(authority[i])
		}
		t.row(s.name, float64(workers), median(m, sample.rate), median(m, sample.cpuMicros), medianRatio(m, samples[0], sample.cpuMicros),
			median(m, sample.userMicros), median(m, sample.allocations), behind, median(m, sample.p50), median(m, sample.p99))
		if s.spec.Kind == "node" && !s.Portable && workers > 100 {
			l.report.atMost(fmt.Sprintf("ws handshake: CPU of the floor's, %d at once", workers), medianRatio(m, samples[0], sample.cpuMicros), handshakeShare)
		}
	}
	return nil
}
