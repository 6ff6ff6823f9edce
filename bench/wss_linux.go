package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"time"

	"github.com/gatehouse-ws/gatehouse/tlsfile"
)

// wssServers speak TLS; the first is the measure of the others.
var wssServers = []wsServer{
	{spec{Kind: "gobwas", TLS: true}, "gobwas/ws, goroutine per connection"},
	{spec{Kind: "node", TLS: true}, "Gatehouse node"},
	{spec{Kind: "node", TLS: true, Portable: true}, "Gatehouse node, portable driver"},
}

// hellos are what clients offer to agree on keys with.
var hellos = []struct {
	name   string
	curves []tls.CurveID
}{
	{"classical", []tls.CurveID{tls.X25519}},
	{"post-quantum", []tls.CurveID{tls.X25519MLKEM768, tls.X25519}},
}

// wssBytes is what an idle socket may take, with a classical hello.
const wssBytes = 6 << 10

// dialTLS dials a server of this run as its clients do.
func (l *lab) dialTLS(addr string, curves []tls.CurveID) (dialer, error) {
	keys, err := l.keys()
	if err != nil {
		return nil, err
	}
	cfg, err := tlsfile.Client(filepath.Join(keys, "login", "ca.crt"), "", "", time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	cfg.CurvePreferences = curves
	return func() (net.Conn, error) { return tls.Dial("tcp", addr, cfg) }, nil
}

func benchWSS(ctx context.Context, l *lab) (err error) {
	t := l.report.table("wss idle", fmt.Sprintf("%d sockets over TLS that say nothing, each, after a collection of garbage: what it takes more than before", l.idleWSS()), "live bytes", "private bytes", "private, of each further")
	for i, hello := range hellos {
		if err := l.idleCaseWSS(ctx, i, t); err != nil {
			return fmt.Errorf("%s: %w", hello.name, err)
		}
	}
	w, err := l.startWS(wssServers)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	t = l.report.table("wss echo", fmt.Sprintf("a masked text of %d bytes over TLS 1.3, one under way on each connection", wsPayload),
		"connections", "messages/s", "CPU-µs/message", "of the first's CPU", "user µs", "allocs", "p50 ms", "p99 ms", "core busy %")
	for _, n := range []int{100, 1000} {
		if err := l.echoCaseWSS(ctx, w, n, t); err != nil {
			return err
		}
	}
	return l.handshakeCaseWSS(ctx, w)
}

func (l *lab) idleWSS() int { return l.part(5000, 100) }

// idleCaseWSS has servers of its own: what they keep of the sockets of another case
// would hide what these take.
func (l *lab) idleCaseWSS(ctx context.Context, hello int, t *Table) (err error) {
	w, err := l.startWS(wssServers)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	n := l.idleWSS()
	for i, s := range w.kinds {
		each, err := l.idleEach(w, i, n, func(n int) (closer, error) { return l.openWSS(ctx, w, i, n, hellos[hello].curves) })
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		t.row(s.name+", "+hellos[hello].name, each.live, each.private, each.further)
		if s.Kind == "node" && !s.Portable && hello == 0 {
			l.report.atMost("wss: private bytes of an idle socket, classical hello", each.private, wssBytes)
		}
	}
	return nil
}

func (l *lab) echoCaseWSS(ctx context.Context, w *wsLab, n int, t *Table) (err error) {
	var contenders []contender
	for i, s := range w.kinds {
		conns, err := l.openWSS(ctx, w, i, n, nil)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		defer func() { err = errors.Join(err, conns.close()) }()
		contenders = append(contenders, contender{fmt.Sprintf("%s, %d connections over TLS", s.name, n), func() (sample, error) {
			return l.measure(w.servers[i], conns.echo)
		}})
	}
	samples, err := l.inTurns(contenders...)
	if err != nil {
		return err
	}
	for i, s := range w.kinds {
		m := samples[i]
		t.row(s.name, float64(n), median(m, sample.rate), median(m, sample.cpuMicros), medianRatio(m, samples[0], sample.cpuMicros),
			median(m, sample.userMicros), median(m, sample.allocations), median(m, sample.p50), median(m, sample.p99), median(m, sample.busy))
		if s.Kind == "node" && !s.Portable {
			l.report.atMost(fmt.Sprintf("wss: allocations per message, %d connections", n), float64(int(median(m, sample.allocations)*10))/10, 2)
		}
	}
	return nil
}

// handshakeCaseWSS opens and closes connections, none of which resumes a session.
func (l *lab) handshakeCaseWSS(ctx context.Context, w *wsLab) error {
	const workers, perSecond = 16, 1500
	n := max(int(l.interval.Seconds()*perSecond), 2*workers)
	t := l.report.table("wss handshake", fmt.Sprintf("connect, TLS handshake with a P-256 certificate, opening handshake, closing handshake; %d at once", workers),
		"handshakes/s", "CPU-µs each", "of the first's CPU", "user µs", "allocs", "p50 ms", "p99 ms")
	for _, hello := range hellos {
		var contenders []contender
		for i, s := range w.kinds {
			dial, err := l.dialTLS(w.servers[i].addr, hello.curves)
			if err != nil {
				return err
			}
			contenders = append(contenders, contender{s.name + " TLS handshake, " + hello.name, func() (sample, error) {
				tokens, err := w.tokens(ctx, n)
				if err != nil {
					return sample{}, err
				}
				return l.measureWarm(w.servers[i], func() (tally, error) {
					return drive(workers, forCount(n), numbered(func(j int) error { return wsOpenClose(dial, tokens[j]) }))
				})
			}})
		}
		samples, err := l.inTurns(contenders...)
		if err != nil {
			return err
		}
		for i, s := range w.kinds {
			m := samples[i]
			t.row(s.name+", "+hello.name, median(m, sample.rate), median(m, sample.cpuMicros), medianRatio(m, samples[0], sample.cpuMicros),
				median(m, sample.userMicros), median(m, sample.allocations), median(m, sample.p50), median(m, sample.p99))
		}
	}
	return nil
}

// wssConns are open connections of the load over TLS, each with a goroutine while
// it is used: the load costs as much as what it measures.
type wssConns struct {
	conns         []net.Conn
	in            [][]byte
	frame, answer []byte
}

// openWSS opens n connections to a server.
func (l *lab) openWSS(ctx context.Context, w *wsLab, server, n int, curves []tls.CurveID) (_ *wssConns, err error) {
	tokens, err := w.tokens(ctx, n)
	if err != nil {
		return nil, err
	}
	dial, err := l.dialTLS(w.servers[server].addr, curves)
	if err != nil {
		return nil, err
	}
	c := &wssConns{}
	c.frame, c.answer = wsText([4]byte{0x37, 0xfa, 0x21, 0x3d})
	for _, token := range tokens {
		nc, err := shakeHands(dial, token)
		if err == nil {
			c.conns = append(c.conns, nc)
			c.in = append(c.in, make([]byte, len(c.answer)))
			err = nc.SetDeadline(time.Time{})
		}
		if err != nil {
			return nil, errors.Join(err, c.close())
		}
	}
	return c, nil
}

// echo keeps one message under way on every connection for d. Every answer must be
// the message.
func (w *wssConns) echo(d time.Duration) (tally, error) {
	return drive(len(w.conns), forDuration(d), func(i, _ int) error {
		if _, err := w.conns[i].Write(w.frame); err != nil {
			return err
		}
		if _, err := io.ReadFull(w.conns[i], w.in[i]); err != nil {
			return err
		}
		if !bytes.Equal(w.in[i], w.answer) {
			return fmt.Errorf("wrong echo: %.40x", w.in[i])
		}
		return nil
	})
}

// close resets the connections: ports that wait for late packets would run out.
func (w *wssConns) close() error {
	var errs []error
	for _, c := range w.conns {
		raw := c.(*tls.Conn).NetConn().(*net.TCPConn)
		errs = append(errs, raw.SetLinger(0), raw.Close())
	}
	return errors.Join(errs...)
}
