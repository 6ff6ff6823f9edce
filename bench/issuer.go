package main

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// issuerCalls is how many IssueToken calls an issuer keeps under way: they fill
// the authority's core.
const issuerCalls = 64

// issuer is a login service that issues tokens as fast as the authority can,
// between its orders "begin" and "cease". As a process of its own it takes no
// more than its share of the core from what is measured on it.
type issuer struct {
	tokens   pb.TokenServiceClient
	requests []*pb.IssueTokenRequest
	issued   atomic.Int64
	stop     context.CancelFunc
	callers  sync.WaitGroup
	failed   atomic.Pointer[error]
}

func serveIssuer(sp spec) (*server, error) {
	config, err := clientTLS(sp.Keys, "login")
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(sp.Authority, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		return nil, err
	}
	i := &issuer{tokens: pb.NewTokenServiceClient(conn), requests: issueRequests(1 << 14)}
	return &server{
		do: map[string]func(order) (answer, error){
			"begin": func(order) (answer, error) { i.begin(); return answer{}, nil },
			"cease": func(order) (answer, error) { return i.cease() },
		},
		close: conn.Close,
	}, nil
}

func (i *issuer) begin() {
	ctx, stop := context.WithCancel(context.Background())
	i.stop = stop
	i.issued.Store(0)
	for w := range issuerCalls {
		i.callers.Go(func() {
			for n := w; ctx.Err() == nil; n += issuerCalls {
				if _, err := i.tokens.IssueToken(ctx, i.requests[n%len(i.requests)]); err != nil {
					if ctx.Err() == nil {
						i.failed.CompareAndSwap(nil, &err)
					}
					return
				}
				i.issued.Add(1)
			}
		})
	}
}

// cease waits for the calls under way and tells how many were answered.
func (i *issuer) cease() (answer, error) {
	if i.stop == nil {
		return answer{}, errors.New("issuer has not begun")
	}
	i.stop()
	i.callers.Wait()
	if err := i.failed.Load(); err != nil {
		return answer{}, *err
	}
	return answer{Count: i.issued.Load()}, nil
}

// underIssueLoad runs fn while an issuer loads the authority, and tells the rate
// of tokens issued meanwhile.
func underIssueLoad(issuer *child, fn func() error) (rate float64, err error) {
	if _, err := issuer.ask(order{Do: "begin"}); err != nil {
		return 0, err
	}
	began := time.Now()
	err = fn()
	a, ceaseErr := issuer.ask(order{Do: "cease"})
	return float64(a.Count) / time.Since(began).Seconds(), errors.Join(err, ceaseErr)
}
