package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/wsnode/verify"
)

// counted is a connection that counts what it reads.
type counted struct {
	net.Conn
	read *atomic.Int64
}

func (c counted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.read.Add(int64(n))
	return n, err
}

// serveFollower is a simulated node in a process of its own, which attaches when
// it is ordered to.
func serveFollower(sp spec) (*server, error) {
	config, err := clientTLS(sp.Keys, "node")
	if err != nil {
		return nil, err
	}
	var read atomic.Int64
	conn, err := grpc.NewClient(sp.Authority, grpc.WithTransportCredentials(credentials.NewTLS(config)),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
			return counted{c, &read}, err
		}))
	if err != nil {
		return nil, err
	}
	n := newSimNode()
	start := time.Now()
	clock := func() time.Duration { return time.Since(start) }
	if n.client, err = verify.Over(pb.NewNodeServiceClient(conn), clock, verify.DefaultConfig(), nil, n, slog.New(slog.DiscardHandler)); err != nil {
		return nil, err
	}
	attach := func(order) (answer, error) {
		began := time.Now()
		n.run()
		err := n.awaitReady(context.Background())
		return answer{Took: time.Since(began), Count: read.Load()}, err
	}
	return &server{
		do: map[string]func(order) (answer, error){"attach": attach},
		close: func() (err error) {
			if n.end != nil {
				err = n.leave()
			}
			return errors.Join(err, conn.Close())
		},
	}, nil
}

func benchAttach(ctx context.Context, l *lab) (err error) {
	keys, err := l.keys()
	if err != nil {
		return err
	}
	n := l.part(1_000_000, 10_000)
	l.say("  %v revocations are made", Number(n))
	sp := spec{Kind: "authority", Keys: keys, Fill: fill{Revocations: n, Since: time.Now()}}
	authority, err := l.server(sp)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, authority.stop()) }()
	if err := authority.stop(); err != nil {
		return err
	}
	sp.Fill, sp.Dir = fill{}, authority.dir
	starting := time.Now()
	if authority, err = l.start(l.cores.server, sp); err != nil {
		return err
	}
	starts := time.Since(starting)
	before, err := authority.ask(order{Do: "memory"})
	if err != nil {
		return err
	}
	samples, err := l.inTurns(contender{fmt.Sprintf("attach, %d revocations", n), func() (sample, error) {
		return l.attachOnce(authority, spec{Kind: "follower", Keys: keys, Authority: authority.addr}, n)
	}})
	if err != nil {
		return err
	}
	after, err := authority.ask(order{Do: "memory"})
	if err != nil {
		return err
	}
	rounds := samples[0]
	t := l.report.table("attach", fmt.Sprintf("a new node attaches to a log of %v revocations: the whole snapshot is sent and applied before it admits", Number(n)),
		"seconds", "MB sent", "authority's CPU s", "node's CPU s", "node's private MB before", "and after", "and at most, with files")
	t.row("attach", figure(rounds, 0), figure(rounds, 1), figure(rounds, 2), figure(rounds, 3), figure(rounds, 4), figure(rounds, 5), figure(rounds, 6))
	m := l.report.table("attach memory", "the authority with that log", "starts in s", "private MB", "after all attached", "bytes a revocation", "at most, with the file")
	m.row("authority", starts.Seconds(), megabytes(before.Memory.Private), megabytes(after.Memory.Private),
		float64(before.Memory.Private)/float64(n), megabytes(after.Memory.Most))
	l.report.atMost(fmt.Sprintf("attach: seconds for %v revocations", Number(n)), figure(rounds, 0), 5)
	l.report.atMost("attach: seconds the authority takes to start", starts.Seconds(), 10)
	return nil
}

func megabytes(bytes int64) float64 { return float64(bytes) / 1e6 }

func (l *lab) attachOnce(authority *child, sp spec, n int) (s sample, err error) {
	follower, err := l.serverOn(l.cores.load, sp)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, follower.stop()) }()
	before, err := follower.ask(order{Do: "memory"})
	if err != nil {
		return s, err
	}
	beforeUse, err := follower.usage()
	if err != nil {
		return s, err
	}
	var attached answer
	s, err = l.measureWarm(authority, func() (t tally, err error) {
		attached, err = follower.ask(order{Do: "attach"})
		return tally{ops: n, wall: attached.Took}, err
	})
	if err != nil {
		return s, err
	}
	used, err := follower.usage()
	if err != nil {
		return s, err
	}
	after, err := follower.ask(order{Do: "memory"})
	if err != nil {
		return s, err
	}
	s.figures = []float64{
		attached.Took.Seconds(), megabytes(attached.Count), (s.user + s.system).Seconds(),
		(used.User + used.System - beforeUse.User - beforeUse.System).Seconds(),
		megabytes(before.Memory.Private), megabytes(after.Memory.Private), megabytes(after.Memory.Most),
	}
	return s, nil
}
