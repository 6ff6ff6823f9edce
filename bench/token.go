package main

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"runtime"
	"time"

	"github.com/gatehouse-ws/gatehouse/token"
)

// benchToken runs in the load's own process: there is no server.
func benchToken(_ context.Context, l *lab) error {
	key := token.EdgeKey{ID: 1}
	if _, err := rand.Read(key.Key[:]); err != nil {
		return err
	}
	ring := token.NewRing([]token.EdgeKey{key})
	expiry := time.Now().Add(time.Hour)
	minted, err := ring.Mint(key.ID, expiry, rand.Reader)
	if err != nil {
		return err
	}
	text := minted.AppendText(nil)
	mac, sum := hmac.New(sha256.New, key.Key[:]), make([]byte, 0, sha256.Size)
	body := make([]byte, token.Size-token.TagSize)

	cases := []struct {
		name string
		op   func() error
	}{
		{"parse and tag", func() error {
			var t token.Token
			if err := token.Parse(text, &t); err != nil {
				return err
			}
			return ring.Verify(&t)
		}},
		{"HMAC-SHA256 of the tagged bytes alone", func() error {
			mac.Reset()
			mac.Write(body)
			sum = mac.Sum(sum[:0])
			return nil
		}},
		{"mint", func() error {
			t, err := ring.Mint(key.ID, expiry, rand.Reader)
			text = t.AppendText(text[:0])
			return err
		}},
	}
	nanos, allocs := make([][]float64, len(cases)), make([][]float64, len(cases))
	for range l.rounds {
		for i, c := range cases {
			n, a, err := timeAlone(l.interval/4, c.op)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			nanos[i], allocs[i] = append(nanos[i], n), append(allocs[i], a)
		}
	}
	t := l.report.table("token", "in the load's process, one goroutine", "CPU ns", "allocations")
	for i, c := range cases {
		t.row(c.name, middle(nanos[i]), middle(allocs[i]))
	}
	l.report.atMost("token: parse and tag, CPU ns", middle(nanos[0]), 350)
	l.report.atMost("token: parse and tag, allocations", middle(allocs[0]), 0)
	return nil
}

// timeAlone calls op for about d and returns nanoseconds of CPU time and
// allocations a call.
func timeAlone(d time.Duration, op func() error) (nanos, allocs float64, err error) {
	const chunk = 1000
	runtime.GC()
	before := usageNow()
	n := 0
	for began := time.Now(); time.Since(began) < d; {
		for range chunk {
			if err := op(); err != nil {
				return 0, 0, err
			}
		}
		n += chunk
	}
	after := usageNow()
	used := after.User + after.System - before.User - before.System
	// What the runtime itself allocates meanwhile is below one in a thousand.
	return float64(used.Nanoseconds()) / float64(n), float64((after.Allocs - before.Allocs) / uint64(n)), nil
}
