package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

const (
	audience = "bench"
	host     = "app.example.com"
	origin   = "https://" + host
)

// userAgents are what browsers say of themselves; a login service passes them
// on as it sees them.
var userAgents = []string{
	"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
	"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
	"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36",
	"Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Mobile Safari/537.36",
	"Mozilla/5.0 (iPhone; CPU iPhone OS 18_7 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.0 Mobile/15E148 Safari/604.1",
	"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.0 Safari/605.1.15",
	"Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:145.0) Gecko/20100101 Firefox/145.0",
	"Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0",
	"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36 Edg/142.0.0.0",
	"Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/28.0 Chrome/130.0.0.0 Mobile Safari/537.36",
}

// issueRequest is what a login service asks for its n-th user: a token bound as
// the defaults bind it.
func issueRequest(n int) *pb.IssueTokenRequest {
	return &pb.IssueTokenRequest{
		Subject:   fmt.Sprintf("user-%010x", n),
		Audience:  audience,
		ClientIp:  clientIP(n).String(),
		UserAgent: []byte(userAgents[n%len(userAgents)]),
		Origin:    origin,
	}
}

// clientIP is the n-th user's address.
func clientIP(n int) netip.Addr { return netip.AddrFrom4([4]byte{198, 18, byte(n >> 8), byte(n)}) }

// issueRequests are those of n users, the first of whom has the first browser.
func issueRequests(n int) []*pb.IssueTokenRequest {
	out := make([]*pb.IssueTokenRequest, n)
	first := rand.N(9_000_000) * len(userAgents)
	for i := range out {
		out[i] = issueRequest(first + i)
	}
	return out
}

func benchIssue(ctx context.Context, l *lab) (err error) {
	v, err := l.authorityAlone("login", 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.close()) }()
	tokens := pb.NewTokenServiceClient(v.toAuthority)
	requests := issueRequests(1 << 16)
	reply, err := tokens.IssueToken(ctx, requests[0])
	if err != nil {
		return err
	}
	if err := l.addBare(v, "login", requests[0], reply); err != nil {
		return err
	}
	t := l.report.table("issue", fmt.Sprintf("IssueToken, one a call, %d bytes asked and %d answered, on one connection", v.requestSize, v.answerSize),
		"calls/s", "of bare", "CPU-µs/call", "user µs", "allocs", "p50 ms", "p99 ms", "core busy %", "calls/commit")
	for _, c := range []struct {
		inFlight int
		target   float64
	}{{64, 0.35}, {512, 0.75}} {
		stride := len(requests) / c.inFlight
		samples, err := l.inTurns(
			contender{fmt.Sprintf("issue, %d in flight", c.inFlight), func() (sample, error) {
				return l.measure(v.authority, func(d time.Duration) (tally, error) {
					return drive(c.inFlight, forDuration(d), func(w, i int) error {
						_, err := tokens.IssueToken(ctx, requests[w*stride+i%stride])
						return err
					})
				})
			}},
			contender{fmt.Sprintf("bare, %d in flight", c.inFlight), func() (sample, error) {
				return l.measure(v.bare, func(d time.Duration) (tally, error) {
					return drive(c.inFlight, forDuration(d), func(int, int) error { return v.callBare(ctx) })
				})
			}},
		)
		if err != nil {
			return err
		}
		ratio := versusRows(t, fmt.Sprintf("%d in flight", c.inFlight), "IssueToken", "bare unary", samples)
		l.report.atLeast(fmt.Sprintf("issue: rate of bare, %d in flight", c.inFlight), ratio, c.target)
	}
	return nil
}

// versusRows adds a row for each of two contenders and returns the ratio of
// their rates.
func versusRows(t *Table, of, ours, theirs string, samples [][]sample) float64 {
	ratio := medianRatio(samples[0], samples[1], sample.rate)
	for i, name := range []string{ours, theirs} {
		s := samples[i]
		of, shown := of+", "+name, 1.0
		if i == 0 {
			shown = ratio
		}
		row(t, of, shown, s)
	}
	return ratio
}

// row adds the figures of one contender, whose rate is ofBare of the bare one's.
func row(t *Table, name string, ofBare float64, s []sample) {
	t.row(name, median(s, sample.rate), ofBare, median(s, sample.cpuMicros), median(s, sample.userMicros),
		median(s, sample.allocations), median(s, sample.p50), median(s, sample.p99), median(s, sample.busy), median(s, sample.meanGroup))
}

const batchSize = 64

func benchIssueBatch(ctx context.Context, l *lab) (err error) {
	v, err := l.authorityAlone("login", 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.close()) }()
	tokens := pb.NewTokenServiceClient(v.toAuthority)
	batches := make([]*pb.IssueTokensRequest, 1024)
	for i := range batches {
		batches[i] = &pb.IssueTokensRequest{Requests: issueRequests(batchSize)}
	}
	issue := func(i int) (*pb.IssueTokensResponse, error) {
		resp, err := tokens.IssueTokens(ctx, batches[i%len(batches)])
		if err != nil {
			return nil, err
		}
		for _, r := range resp.GetResults() {
			if r.GetToken() == nil {
				return nil, fmt.Errorf("token refused: %s", r.GetError().GetMessage())
			}
		}
		return resp, nil
	}
	reply, err := issue(0)
	if err != nil {
		return err
	}
	if err := l.addBare(v, "login", batches[0], reply); err != nil {
		return err
	}
	one := &versus{} // the bare peer of IssueToken
	defer func() { err = errors.Join(err, one.close()) }()
	if err := l.addBare(one, "login", batches[0].GetRequests()[0], reply.GetResults()[0].GetToken()); err != nil {
		return err
	}
	t := l.report.table("issue-batch", fmt.Sprintf("IssueTokens of %d, figures a token, %d bytes asked and %d answered a call", batchSize, v.requestSize, v.answerSize),
		"tokens/s", "of bare", "CPU-µs/token", "user µs", "allocs", "p50 ms", "p99 ms", "core busy %", "calls/commit")
	for _, inFlight := range []int{8, 16} {
		samples, err := l.inTurns(
			contender{fmt.Sprintf("issue batches, %d in flight", inFlight), func() (sample, error) {
				return l.measure(v.authority, func(d time.Duration) (tally, error) {
					return inBatches(drive(inFlight, forDuration(d), func(w, i int) error {
						_, err := issue(w*len(batches)/inFlight + i)
						return err
					}))
				})
			}},
			contender{fmt.Sprintf("bare batches, %d in flight", inFlight), func() (sample, error) {
				return l.measure(v.bare, func(d time.Duration) (tally, error) {
					return inBatches(drive(inFlight, forDuration(d), func(int, int) error { return v.callBare(ctx) }))
				})
			}},
			contender{"bare calls for one token each, 64 in flight", func() (sample, error) {
				return l.measure(one.bare, func(d time.Duration) (tally, error) {
					return drive(64, forDuration(d), func(int, int) error { return one.callBare(ctx) })
				})
			}},
		)
		if err != nil {
			return err
		}
		versusRows(t, fmt.Sprintf("%d in flight", inFlight), "IssueTokens", "bare unary", samples[:2])
		ratio := medianRatio(samples[0], samples[2], sample.rate)
		row(t, "64 in flight, bare unary, one token a call", 1/medianRatio(samples[1], samples[2], sample.rate), samples[2])
		l.report.atLeast(fmt.Sprintf("issue-batch: rate of bare unary calls for one token, %d in flight", inFlight), ratio, 2)
	}
	return nil
}

// inBatches counts each operation as a batch of items.
func inBatches(t tally, err error) (tally, error) {
	t.ops *= batchSize
	return t, err
}
