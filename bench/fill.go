package main

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"sync"
	"time"

	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/token"
)

// fill is a stock of tokens and revocations that a store holds before its
// authority serves. Each follows from its number, so that the load knows the
// tokens too: to issue so many would take longer than to measure.
type fill struct {
	Tokens      int
	Since       time.Time // from which their expiries count
	Mixed       bool      // they live for up to 30 days, else for about an hour
	Revocations int
}

const (
	shortest = 30 * time.Second // of mixed lives
	longest  = 30 * 24 * time.Hour
)

// mixedLife spreads lives so that each doubling of their length has as many,
// from the least one to the longest. at is from 0 to 1.
func mixedLife(least time.Duration, at float64) time.Duration {
	return time.Duration(float64(least) * math.Pow(float64(longest)/float64(least), at))
}

// life is how long the i-th token lives.
func (f *fill) life(i int) time.Duration {
	at := float64(i) / float64(f.Tokens)
	if f.Mixed {
		return mixedLife(10*time.Minute, at) // none must expire under measurement
	}
	return 30*time.Minute + time.Duration(at*float64(time.Hour))
}

// token is the i-th token of the stock.
func (f *fill) token(i int) token.Token {
	secret := sha256.Sum256(binary.BigEndian.AppendUint64([]byte("gatehouse bench"), uint64(i)))
	random := sha256.Sum256(secret[:])
	t := token.Token{ID: idExpiring(f.Since.Add(f.life(i)), random[:]), Secret: token.Secret(secret)}
	return t
}

// idExpiring is the id of a token that expires then.
func idExpiring(at time.Time, random []byte) (id token.ID) {
	binary.BigEndian.PutUint64(id[:8], uint64(at.UnixMilli())<<16)
	copy(id[6:], random)
	return id
}

// record is what the authority keeps of the i-th token.
func (f *fill) record(i int) *storage.Token { return recordOf(f.token(i), i, f.Since) }

func recordOf(t token.Token, user int, issued time.Time) *storage.Token {
	digest := t.Secret.Digest()
	return &storage.Token{
		ID: storage.TokenID(t.ID), SecretHash: digest.Hash(),
		Tenant: "default", Subject: fmt.Sprintf("user-%08d", user), Audience: audience,
		ClientIP: clientIP(user), IPBinding: storage.IPLog,
		UserAgent: []byte(userAgents[user%len(userAgents)]), Browser: "Chrome", OS: "Windows", UserAgentBinding: storage.UserAgentClass,
		Origin: origin, MaxUses: 1, IssuedAt: issued, NotBefore: issued, SessionTTL: 12 * time.Hour, Issuer: "login",
	}
}

// tickets are n of the stock, spread over all of it; each call with another
// first gives others, up to the n-th part of the stock.
func (f *fill) tickets(first, n int) []ticket {
	out, stride := make([]ticket, n), f.Tokens/n
	for i := range out {
		at := i*stride + first
		t := f.token(at)
		out[i] = ticket{text: string(t.AppendText(nil)), user: at}
	}
	return out
}

// fillBatch is how many tokens are stored at once.
const fillBatch = 4096

// into puts the stock into a store, and tells progress on stderr.
func (f *fill) into(ctx context.Context, store storage.Store) error {
	said := time.Now()
	for from := 0; from < f.Tokens; from += fillBatch {
		batch := make([]*storage.Token, min(fillBatch, f.Tokens-from))
		for i := range batch {
			batch[i] = f.record(from + i)
		}
		if err := insertAll(ctx, store, batch); err != nil {
			return err
		}
		if time.Since(said) > 5*time.Second {
			said = time.Now()
			fmt.Fprintf(os.Stderr, "bench:   %v of %v tokens are stored\n", Number(from), Number(f.Tokens))
		}
	}
	return f.revoke(ctx, store)
}

func insertAll(ctx context.Context, store storage.Store, tokens []*storage.Token) error {
	done, err := store.Insert(ctx, tokens)
	if err != nil {
		return fmt.Errorf("fill the store: %w", err)
	}
	for i := range done {
		if done[i].Err != nil {
			return fmt.Errorf("fill the store: %w", done[i].Err)
		}
	}
	return nil
}

// revoke appends revocations, each of a token of its own.
func (f *fill) revoke(ctx context.Context, store storage.Store) error {
	const callers = 512 // so that a commit takes many
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for w := range min(callers, f.Revocations) {
		wg.Go(func() {
			for i := w; i < f.Revocations && ctx.Err() == nil; i += callers {
				random := sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(i)))
				if _, err := store.Append(ctx, storage.Entry{
					Kind: storage.Revoke, Selector: storage.Selector{Token: storage.TokenID(idExpiring(f.Since.Add(time.Hour), random[:]))},
					Reason: "leaked", Actor: "admin", CommittedAt: time.Now(), KeepUntil: f.Since.Add(30 * 24 * time.Hour),
				}); err != nil {
					cancel(fmt.Errorf("fill the log: %w", err))
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}
