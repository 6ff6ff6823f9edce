package boltstore

import (
	"bytes"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/token"
)

// tokenOf makes a token of about so many bytes, the nth that expires at expiry.
func tokenOf(t *testing.T, n byte, bytes int, expiry time.Time) *storage.Token {
	id, err := token.NewID(expiry, strings.NewReader(strings.Repeat(string(rune('a'+n%26)), 9)+string(rune(n))))
	must(t, err)
	return &storage.Token{ID: storage.TokenID(id), Tenant: "acme", Subject: "ada", MaxUses: 1, UserAgent: make([]byte, bytes)}
}

// Promise 6: what is kept in memory of fresh tokens is bounded in bytes, counts
// what it keeps, and goes when they are swept.
func TestFreshIsBounded(t *testing.T) {
	const bound = 100_000
	s := open(t, t.TempDir()+"/gatehouse.db", Options{MapBytes: 64 << 20, AheadBytes: 1, freshBytes: bound})
	expiry := time.UnixMilli(1_800_000_000_000)
	for round := range 20 {
		batch := make([]*storage.Token, 100)
		for i := range batch {
			batch[i] = tokenOf(t, byte(i), 10+round*50, expiry.Add(time.Duration(round)*time.Millisecond))
		}
		_, err := s.Insert(t.Context(), batch)
		must(t, err)
		f := s.fresh
		held, tokens := 0, 0
		chunks := 0
		for _, c := range f.chunks {
			if c == nil {
				continue
			}
			chunks++
			held += cap(c.text) + c.tokens*freshOverhead
			tokens += c.tokens
		}
		if held != f.bytes || held > bound || tokens != f.places.Len() || chunks != int(f.newest-f.oldest+1) {
			t.Fatalf("round %d: %d chunks of %d tokens hold %d bytes, counted %d and %d", round, chunks, tokens, held, f.bytes, f.places.Len())
		}
		if tokens == 0 {
			t.Fatalf("round %d: nothing is kept", round)
		}
		records := make([][]byte, 1)
		for id := range f.places.All() { // what is kept is what is in the file
			if !f.find([]storage.TokenID{id}, 0, records) {
				t.Fatalf("round %d: token %x is not found", round, id)
			}
			must(t, s.view(t.Context(), func(tx *bbolt.Tx) error {
				x := finder{slots: s.slots, tokens: tx.Bucket(tokensBucket)}
				if !bytes.Equal(x.find(id), records[0]) {
					return fmt.Errorf("token %x is %x", id, records[0])
				}
				return nil
			}))
		}
	}
	f := s.fresh
	oldest, latest := f.oldest, f.chunks[f.oldest%maxChunks].latest
	if f.sweep(latest - 1); f.oldest != oldest {
		t.Error("a chunk was dropped before all its tokens had expired")
	}
	if f.sweep(latest); f.oldest == oldest {
		t.Error("a chunk was left after all its tokens had expired")
	}
	_, err := s.Sweep(t.Context(), expiry.Add(time.Hour), 0)
	must(t, err)
	if f.places.Len() != 0 || f.bytes != 0 || f.newest >= f.oldest {
		t.Errorf("after a sweep of all: %d records, %d bytes", f.places.Len(), f.bytes)
	}
}

// An empty store costs little memory.
func TestOpenCostsLittle(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	s := open(t, t.TempDir()+"/gatehouse.db", Options{})
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 8<<20 {
		t.Errorf("opening an empty store takes %d MiB of heap", grown>>20)
	}
	runtime.KeepAlive(s)
}

// Where nothing is over, a sweep writes nothing.
func TestIdleSweepWritesNothing(t *testing.T) {
	s := open(t, t.TempDir()+"/gatehouse.db", small)
	expiry := time.UnixMilli(1_800_000_030_000)
	before := s.Stats().Groups
	for n := range time.Duration(100) {
		_, err := s.Sweep(t.Context(), expiry.Add(n*time.Second), 0)
		must(t, err)
	}
	if n := s.Stats().Groups - before; n != 0 {
		t.Errorf("%d groups for sweeps of an empty store", n)
	}
	_, err := s.Insert(t.Context(), []*storage.Token{tokenOf(t, 1, 10, expiry)})
	must(t, err)
	before = s.Stats().Groups
	for n := range time.Duration(600) {
		_, err := s.Sweep(t.Context(), expiry.Add(n*time.Second-5*time.Minute), 0)
		must(t, err)
	}
	if n := s.Stats().Groups - before; n < 2 || n > 35 { // second by second to the end of its minute, then its slot
		t.Errorf("%d groups for the sweep of one token", n)
	}
	if n := s.Stats().Tokens; n != 0 {
		t.Errorf("%d tokens are left", n)
	}
}

// Observe is told of every commit, and which of them forget.
func TestObserve(t *testing.T) {
	var commits, sweeps int // of the committer
	opts := small
	opts.Observe = func(took time.Duration, sweep bool) {
		if took <= 0 {
			t.Errorf("a commit took %v", took)
		}
		if commits++; sweep {
			sweeps++
		}
	}
	s := open(t, t.TempDir()+"/gatehouse.db", opts)
	expiry := time.UnixMilli(1_800_000_030_000)
	_, err := s.Insert(t.Context(), []*storage.Token{tokenOf(t, 1, 10, expiry)})
	must(t, err)
	if commits != 1 || sweeps != 0 {
		t.Errorf("after an insert %d commits, %d that forget", commits, sweeps)
	}
	_, err = s.Sweep(t.Context(), expiry.Add(time.Hour), 0)
	must(t, err)
	if n := s.Stats().Groups; uint64(commits) != n || sweeps != commits-1 {
		t.Errorf("after a sweep %d commits, %d that forget, of %d", commits, sweeps, n)
	}
}
