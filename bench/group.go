package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// benchGroup shows whether a committer that shares its only processor with the
// callers still gathers them: one that syncs at once would commit each alone.
func benchGroup(ctx context.Context, l *lab) (err error) {
	v, err := l.authorityAlone("login", 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.close()) }()
	tokens := pb.NewTokenServiceClient(v.toAuthority)
	requests := issueRequests(1 << 15)
	t := l.report.table("group", "IssueToken from as many callers, GOMAXPROCS=1 in the authority",
		"callers", "calls/commit", "calls/s", "p50 ms", "p99 ms", "core busy %")
	var contenders []contender
	callers := []int{1, 64, 512}
	for _, n := range callers {
		stride := len(requests) / n
		contenders = append(contenders, contender{fmt.Sprintf("%d callers", n), func() (sample, error) {
			return l.measure(v.authority, func(d time.Duration) (tally, error) {
				return drive(n, forDuration(d), func(w, i int) error {
					_, err := tokens.IssueToken(ctx, requests[w*stride+i%stride])
					return err
				})
			})
		}})
	}
	samples, err := l.inTurns(contenders...)
	if err != nil {
		return err
	}
	for i, s := range samples {
		t.row("IssueToken", float64(callers[i]), median(s, sample.meanGroup), median(s, sample.rate), median(s, sample.p50), median(s, sample.p99), median(s, sample.busy))
	}
	l.report.atLeast("group: calls a commit, 512 callers", median(samples[2], sample.meanGroup), 100)
	return nil
}
