package boltstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/internal/record"
)

// A file from before there were receipts on disk opens, and keeps them from then
// on. Its instances count as registered before every entry: a receipt may name
// one too many, never one too few.
func TestFileOfBefore(t *testing.T) {
	path := filled(t)
	edit(t, path, func(tx *bbolt.Tx) error {
		for _, name := range laterBuckets {
			if err := tx.DeleteBucket(name); err != nil {
				return err
			}
		}
		v, err := record.EncodeInstance(&storage.Instance{Node: "node-1"})
		if err != nil {
			return err
		}
		return tx.Bucket(instancesBucket).Put(testNode[:], v)
	})
	for range 2 {
		s := open(t, path, small)
		counts, err := s.Counts(t.Context(), 20)
		must(t, err)
		if len(counts) > 0 {
			t.Errorf("counts %v", counts)
		}
		must(t, s.Acknowledge(t.Context(), []storage.Acknowledgement{{Instance: testNode, Through: 20}}))
		check(t, s)
	}
	s := open(t, path, small)
	must(t, s.Acknowledge(t.Context(), []storage.Acknowledgement{{Instance: testNode, Counts: []storage.Closed{{Sequence: 20, Closed: 2}}}}))
	must(t, s.RemoveInstance(t.Context(), testNode, benchStart, "goodbye"))
	check(t, s)
	s = open(t, path, small)
	defer check(t, s)
	counts, err := s.Counts(t.Context(), 20)
	must(t, err)
	departed, err := s.Departed(t.Context(), 1)
	must(t, err)
	want := []storage.Departed{{ID: testNode, Node: "node-1", Head: 20, RemovedAt: benchStart, Cause: "goodbye", Acknowledged: storage.Progress{Through: 20}}}
	if counts[testNode].Closed != 2 || fmt.Sprint(departed) != fmt.Sprint(want) {
		t.Errorf("counts %v, departed %v, want %v", counts, departed, want)
	}
}

// Counts and departed instances are bounded: the oldest make room.
func TestReceiptsAreBounded(t *testing.T) {
	opts := small
	opts.counts, opts.departed = 7, 3
	s := open(t, filepath.Join(t.TempDir(), "gatehouse.db"), opts)
	defer check(t, s)
	const n = 10
	for i := range byte(n) {
		id := storage.InstanceID{0xff - i}
		must(t, s.PutInstance(t.Context(), &storage.Instance{ID: id, Node: "node-1"}))
		_, err := s.Append(t.Context(), storage.Entry{Kind: storage.Revoke, Selector: storage.Selector{Tenant: "acme"}, KeepUntil: benchStart.Add(time.Hour)})
		must(t, err)
		must(t, s.Acknowledge(t.Context(), []storage.Acknowledgement{{Instance: id, Counts: []storage.Closed{{Sequence: uint64(i) + 1, Closed: 1}}}}))
		must(t, s.RemoveInstance(t.Context(), id, benchStart, "goodbye"))
	}
	look := func() (counts, departed string) {
		for seq := uint64(1); seq <= n; seq++ {
			c, err := s.Counts(t.Context(), seq)
			must(t, err)
			d, err := s.Departed(t.Context(), seq)
			must(t, err)
			counts, departed = counts+fmt.Sprint(len(c)), departed+fmt.Sprint(len(d))
		}
		return counts, departed
	}
	for range 2 {
		_, err := s.Sweep(t.Context(), benchStart, 0)
		must(t, err)
		if counts, departed := look(); counts != "0001111111" || departed != "0000000111" {
			t.Errorf("counts %s, departed %s", counts, departed)
		}
	}
}

// What a sweep that was cancelled has queued is still done, and then the same again
// by the next: nothing is counted twice as dropped.
func TestCancelledSweep(t *testing.T) {
	g := &gate{}
	opts := small
	opts.counts, opts.commit = 7, g.commit
	s := open(t, filepath.Join(t.TempDir(), "gatehouse.db"), opts)
	defer check(t, s)
	must(t, s.PutInstance(t.Context(), &storage.Instance{ID: testNode, Node: "node-1"}))
	for i := range uint64(20) {
		_, err := s.Append(t.Context(), storage.Entry{Kind: storage.Revoke, Selector: storage.Selector{Tenant: "acme"}, KeepUntil: benchStart.Add(time.Hour)})
		must(t, err)
		must(t, s.Acknowledge(t.Context(), []storage.Acknowledgement{{Instance: testNode, Counts: []storage.Closed{{Sequence: i + 1, Closed: 1}}}}))
	}
	for _, c := range []struct {
		what  string
		sweep func(ctx context.Context) error
	}{
		{"counts", s.sweepReceipts},
		{"entries", func(ctx context.Context) error {
			_, err := s.sweepLog(ctx, benchStart.Add(time.Hour))
			return err
		}},
	} {
		release := g.hold(s)
		ctx, cancel := context.WithCancel(t.Context())
		first, second := make(chan error), make(chan error)
		go func() { first <- c.sweep(ctx) }()
		for len(s.queue) < 1 {
			time.Sleep(time.Millisecond)
		}
		cancel()
		if err := <-first; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v, want %v", c.what, err, context.Canceled)
		}
		go func() { second <- c.sweep(t.Context()) }()
		for len(s.queue) < 2 {
			time.Sleep(time.Millisecond)
		}
		release()
		must(t, <-second)
	}
	must(t, s.view(t.Context(), func(tx *bbolt.Tx) error {
		b, n := tx.Bucket(countsBucket), uint64(0)
		err := b.ForEach(func(_, _ []byte) error { n++; return nil })
		if n != opts.counts || b.Sequence() != n {
			t.Errorf("%d counts are left, and %d counted, want %d", n, b.Sequence(), opts.counts)
		}
		return err
	}))
	if n := s.Stats().Entries; n != 0 {
		t.Errorf("%d entries are counted, want 0", n)
	}
}

// BenchmarkAcknowledge keeps what 1,000 instances say of one more entry, which
// closed something on 100 of them.
func BenchmarkAcknowledge(b *testing.B) {
	const instances, counts = 1000, 100
	s := open(b, filepath.Join(b.TempDir(), "gatehouse.db"), Options{})
	defer s.Close()
	acks := make([]storage.Acknowledgement, instances)
	var wg sync.WaitGroup
	for i := range acks {
		binary.BigEndian.PutUint64(acks[i].Instance[:], rand.Uint64())
		wg.Go(func() { must(b, s.PutInstance(b.Context(), &storage.Instance{ID: acks[i].Instance, Node: "node-1"})) })
	}
	wg.Wait()
	var used time.Duration
	n := uint64(0)
	for b.Loop() {
		b.StopTimer()
		_, err := s.Append(b.Context(), storage.Entry{Kind: storage.Revoke, Selector: storage.Selector{Tenant: "acme"}, KeepUntil: benchStart.Add(time.Hour)})
		must(b, err)
		n++
		for i := range acks {
			acks[i].Through, acks[i].Counts = n, nil
			if i < counts {
				acks[i].Counts = []storage.Closed{{Sequence: n, Closed: 1, After: time.Millisecond}}
			}
		}
		before := cpu()
		b.StartTimer()
		must(b, s.Acknowledge(b.Context(), acks))
		used += cpu() - before
	}
	b.ReportMetric(float64(used.Nanoseconds())/1e3/float64(n), "cpu-µs/op")
}
