package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/token"
)

// ticket is an issued token and whom it was issued for.
type ticket struct {
	text string
	user int // of issueRequest
}

// crowd is how many users in a row may be made one subject.
const crowd = 100

// ttl keeps tokens that are issued ahead from expiring before their turn.
var ttl = durationpb.New(time.Hour)

// issueTickets issues n tokens that live for an hour, outside any measurement.
// ask says for each user what is asked for.
func issueTickets(ctx context.Context, conn *grpc.ClientConn, n int, ask func(user int) *pb.IssueTokenRequest) ([]ticket, error) {
	return issueTicketsFor(ctx, conn, n, ask, func() *durationpb.Duration { return ttl })
}

// issueTicketsFor is issueTickets for other lives.
func issueTicketsFor(ctx context.Context, conn *grpc.ClientConn, n int, ask func(user int) *pb.IssueTokenRequest, ttl func() *durationpb.Duration) ([]ticket, error) {
	const batch, callers = 256, 8
	out := make([]ticket, n)
	api := pb.NewTokenServiceClient(conn)
	first := mathrand.N(1<<33) * crowd // so many that hardly ever two draws meet
	_, err := drive(callers, forCount((n+batch-1)/batch), numbered(func(i int) error {
		part := out[i*batch : min((i+1)*batch, n)]
		req := &pb.IssueTokensRequest{Requests: make([]*pb.IssueTokenRequest, len(part))}
		for j := range part {
			part[j].user = first + i*batch + j
			req.Requests[j] = ask(part[j].user)
			req.Requests[j].Ttl = ttl()
		}
		resp, err := api.IssueTokens(ctx, req)
		if err != nil {
			return err
		}
		for j, r := range resp.GetResults() {
			if part[j].text = r.GetToken().GetToken(); part[j].text == "" {
				return fmt.Errorf("token refused: %s", r.GetError().GetMessage())
			}
		}
		return nil
	}))
	return out, err
}

// numbered gives each operation of all workers a number of its own, from 0.
func numbered(op func(i int) error) func(worker, i int) error {
	var mu sync.Mutex
	next := 0
	return func(int, int) error {
		mu.Lock()
		i := next
		next++
		mu.Unlock()
		return op(i)
	}
}

func shuffle(tickets []ticket) {
	mathrand.Shuffle(len(tickets), func(i, j int) { tickets[i], tickets[j] = tickets[j], tickets[i] })
}

// redeemRequests asks for sessions of all tickets, in an order of their own and
// size at a time, as a node asks.
func redeemRequests(tickets []ticket, size int) ([]*pb.RedeemRequest, error) {
	shuffle(tickets)
	out := make([]*pb.RedeemRequest, 0, (len(tickets)+size-1)/size)
	for len(tickets) > 0 {
		part := tickets[:min(size, len(tickets))]
		tickets = tickets[len(part):]
		req := &pb.RedeemRequest{Items: make([]*pb.RedeemItem, len(part))}
		for i, tk := range part {
			var t token.Token
			if err := token.Parse([]byte(tk.text), &t); err != nil {
				return nil, err
			}
			digest, session := t.Secret.Digest(), make([]byte, 16)
			if _, err := rand.Read(session); err != nil {
				return nil, err
			}
			ip := clientIP(tk.user)
			req.Items[i] = &pb.RedeemItem{
				TokenId: t.ID[:], Digest: digest[:], SessionId: session, Audience: audience,
				Observed: &pb.Observation{
					Ip: ip.AsSlice(), UserAgent: []byte(userAgents[tk.user%len(userAgents)]), Origin: []byte(origin),
				},
			}
		}
		out = append(out, req)
	}
	return out, nil
}

// redeemer is a node's Redeem stream.
type redeemer struct {
	pb.NodeService_RedeemClient
	node   *fleetNode
	cancel context.CancelFunc
}

// openRedeem attaches a node and opens its Redeem stream.
func openRedeem(ctx context.Context, conn *grpc.ClientConn) (_ *redeemer, err error) {
	n, err := attachNode(ctx, conn)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	r := &redeemer{node: n, cancel: cancel}
	if r.NodeService_RedeemClient, err = pb.NewNodeServiceClient(conn).Redeem(ctx); err == nil {
		err = r.Send(&pb.RedeemRequest{Hello: &pb.RedeemHello{Hello: &pb.Hello{Version: pb.Version}, InstanceId: n.id[:]}})
	}
	if err == nil {
		_, err = r.Recv()
	}
	if err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

// close cuts the streams: a goodbye would end hundreds of thousands of sessions
// first.
func (r *redeemer) close() {
	r.cancel()
	r.node.cut()
}

// receive takes the answer to req, which must grant everything.
func (r *redeemer) receive(req *pb.RedeemRequest) (*pb.RedeemResponse, error) {
	resp, err := r.Recv()
	if err != nil {
		return nil, err
	}
	if len(resp.GetResults()) != len(req.GetItems()) {
		return nil, fmt.Errorf("%d results for %d tokens", len(resp.GetResults()), len(req.GetItems()))
	}
	for _, x := range resp.GetResults() {
		if x.GetGrant() == nil {
			return nil, fmt.Errorf("token refused: %v", x.GetRefusal().GetReason())
		}
	}
	return resp, nil
}

// redeem is a measured load: all requests, window of them under way.
func (r *redeemer) redeem(requests []*pb.RedeemRequest, window int) (tally, error) {
	t, err := pump(len(requests), window,
		func(i int) error { return r.Send(requests[i]) },
		func(i int) error {
			_, err := r.receive(requests[i])
			return err
		})
	t.ops = 0
	for _, req := range requests {
		t.ops += len(req.GetItems())
	}
	return t, err
}

// redeemCase is one shape of the Redeem load.
type redeemCase struct {
	batch, window int // tokens in a request, requests under way
	// chunk is how many tokens are issued before they are redeemed, in random
	// order: it says how old tokens are.
	chunk     int
	perSecond int  // about as many as are redeemed in a second
	held      bool // to its bound
}

func (c redeemCase) String() string {
	return fmt.Sprintf("%d a request, %d under way, %v fresh", c.batch, c.window, Number(c.chunk))
}

var redeemCases = []redeemCase{
	{batch: 64, window: 8, chunk: 10_240, perSecond: 50_000, held: true},
	{batch: 64, window: 16, chunk: 10_240, perSecond: 50_000, held: true},
	{batch: 64, window: 16, chunk: 204_800, perSecond: 100_000},
	{batch: 1, window: 16, chunk: 10_240, perSecond: 10_000},
}

func benchRedeem(ctx context.Context, l *lab) (err error) {
	v, err := l.authorityAlone("node", 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.close()) }()
	r, err := openRedeem(ctx, v.toAuthority)
	if err != nil {
		return err
	}
	defer r.close()
	t := l.report.table("redeem", "the Redeem stream, figures a token, in random order of the last so many issued",
		"tokens/s", "of bare", "CPU-µs/token", "user µs", "allocs", "p50 ms", "p99 ms", "core busy %", "calls/commit")
	unary := &versus{toAuthority: v.toAuthority, login: v.login} // beside v, whose bare peer has the sizes of a batch
	if err := l.addBareRedeem(ctx, unary); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unary.dropBare()) }()
	for _, c := range redeemCases {
		samples, err := l.redeemInTurns(ctx, v, unary, r, c)
		if err != nil {
			return err
		}
		versusRows(t, c.String(), "Redeem", "bare stream", samples)
		row(t, c.String()+", bare unary", medianRatio(samples[2], samples[1], sample.rate), samples[2])
		if c.held {
			l.report.atMost("redeem: CPU of a bare unary call, "+c.String(), medianRatio(samples[0], samples[2], sample.cpuMicros), unaryShare)
		}
	}
	return nil
}

func (l *lab) redeemInTurns(ctx context.Context, v, unary *versus, r *redeemer, c redeemCase) (_ [][]sample, err error) {
	prepare := func(tokens int) ([]*pb.RedeemRequest, error) {
		tickets, err := issueTickets(ctx, v.login, tokens, issueRequest)
		if err != nil {
			return nil, err
		}
		return redeemRequests(tickets, c.batch)
	}
	first, err := prepare(c.batch)
	if err != nil {
		return nil, err
	}
	if err := r.Send(first[0]); err != nil {
		return nil, err
	}
	answer, err := r.receive(first[0])
	if err != nil {
		return nil, err
	}
	if err := l.addBare(v, "node", first[0], answer); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, v.dropBare()) }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	bare, err := openBare(ctx, v.toBare, bareStream)
	if err != nil {
		return nil, err
	}
	tokens := int(l.interval.Seconds() * float64(c.perSecond)) // of one sample
	chunk := max(min(c.chunk, tokens)/c.batch, 2*c.window) * c.batch
	return l.inTurns(
		contender{"redeem, " + c.String(), func() (sample, error) {
			var all sample
			for all.ops < tokens {
				requests, err := prepare(chunk)
				if err != nil {
					return sample{}, err
				}
				s, err := l.measureWarm(v.authority, func() (tally, error) { return r.redeem(requests, c.window) })
				if err != nil {
					return sample{}, err
				}
				all.add(s)
			}
			return all, nil
		}},
		contender{"bare stream, " + c.String(), func() (sample, error) {
			n := max(4*tokens/c.batch, 2*c.window)
			return l.measureWarm(v.bare, func() (tally, error) {
				t, err := pump(n, c.window,
					func(int) error { return bare.SendMsg(v.request) },
					func(int) error { return bare.RecvMsg(new(blob)) })
				t.ops *= c.batch
				return t, err
			})
		}},
		contender{fmt.Sprintf("bare unary, %d in flight", unaryInFlight), func() (sample, error) { return l.measureUnary(ctx, unary, unaryInFlight) }},
	)
}
