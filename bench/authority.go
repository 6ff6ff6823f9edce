package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/gatehouse-ws/gatehouse/authority"
	"github.com/gatehouse-ws/gatehouse/authority/pki"
	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/boltstore"
	"github.com/gatehouse-ws/gatehouse/token"
)

// serveAuthority is an authority as gatehouse-authority runs it: boltstore, the
// audit trail and the log in files, mTLS, housekeeping each second.
func serveAuthority(sp spec) (_ *server, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			cancel() // and the process ends, so nothing else needs closing
		}
	}()
	ca, err := pki.Load(filepath.Join(sp.Keys, "ca"), time.Now, rand.Reader)
	if err != nil {
		return nil, err
	}
	w := &watched{}
	store, err := boltstore.Open(filepath.Join(sp.Dir, storeName), boltstore.Options{Observe: w.commit})
	if err != nil {
		return nil, err
	}
	for name, role := range callers {
		err := store.CreateCredential(ctx, storage.Credential{Name: name, Role: role, CreatedAt: time.Now(), Generation: 1})
		if err != nil && !errors.Is(err, storage.ErrExists) {
			return nil, err
		}
	}
	if err := sp.Fill.into(ctx, store); err != nil {
		return nil, err
	}
	audit, err := authority.OpenAudit(filepath.Join(sp.Dir, "audit.jsonl"))
	if err != nil {
		return nil, err
	}
	logTo, err := os.Create(filepath.Join(sp.Dir, "log.jsonl"))
	if err != nil {
		return nil, err
	}
	settings := authority.DefaultConfig()
	settings.Fleet.MaxInstances = 10_000 // of one credential, those of earlier measurements among them
	settings.Tokens.MaxTTL = max(settings.Tokens.MaxTTL, sp.MaxTTL)
	service, err := authority.New(ctx, settings, authority.Parts{
		Store: store, CA: ca, Audit: audit, Log: slog.New(slog.NewJSONHandler(logTo, nil)),
		Metrics: prometheus.NewRegistry(), Now: w.now, Random: rand.Reader,
	})
	if err != nil {
		return nil, err
	}
	config, err := serverTLS(sp.Keys, ca)
	if err != nil {
		return nil, err
	}
	srv, err := authority.NewServer(service, config, false)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", cmp.Or(sp.Addr, "127.0.0.1:0"))
	if err != nil {
		return nil, err
	}
	ended := make(chan error, 2)
	go func() { ended <- service.Run(ctx) }() // ends by cancel
	go func() {                               // ends by Drain, which may come first
		err := srv.Serve(l)
		if errors.Is(err, grpc.ErrServerStopped) {
			err = nil
		}
		ended <- err
	}()
	return &server{
		addr: l.Addr().String(),
		stats: func() (groups, grouped uint64) {
			s := store.Stats()
			return s.Groups, s.Grouped
		},
		do: map[string]func(order) (answer, error){
			"skip":    w.skip,
			"commits": func(order) (answer, error) { return answer{Commits: w.take()}, nil },
			"warm":    func(order) (answer, error) { return answer{}, warm(ctx, store) },
			"expire":  func(o order) (answer, error) { return answer{}, w.expire(ctx, store, o) },
		},
		close: func() error {
			drain, done := context.WithTimeout(context.Background(), time.Second)
			defer done()
			srv.Drain(drain)
			cancel()
			return errors.Join(<-ended, <-ended, store.Close(), audit.Close(), logTo.Close())
		},
	}, nil
}

// warm looks at every token, so that all of the file is in memory.
func warm(ctx context.Context, store storage.Store) error {
	_, _, err := store.Count(ctx, storage.Selector{Tenant: authority.DefaultTenant}, time.Now())
	return err
}

// storeName is the store's file in its authority's folder.
const storeName = "gatehouse.db"

// watched is the clock of an authority, which can be put forward, and what is
// seen of its commits.
type watched struct {
	ahead atomic.Int64 // of the time

	mu   sync.Mutex
	seen commits
}

// commits are those of some time.
type commits struct {
	Longest      time.Duration
	Sweeps       int // that forgot what was over
	LongestSweep time.Duration
	First, Last  time.Time // when the first of those began, and the last ended
}

func (w *watched) now() time.Time { return time.Now().Add(time.Duration(w.ahead.Load())) }

func (w *watched) skip(o order) (answer, error) {
	w.ahead.Add(int64(o.For))
	return answer{Time: w.now()}, nil
}

func (w *watched) commit(took time.Duration, sweep bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen.Longest = max(w.seen.Longest, took)
	if !sweep {
		return
	}
	now := time.Now()
	if w.seen.Sweeps++; w.seen.Sweeps == 1 {
		w.seen.First = now.Add(-took)
	}
	w.seen.LongestSweep, w.seen.Last = max(w.seen.LongestSweep, took), now
}

// take returns what was seen since the last call.
func (w *watched) take() commits {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := w.seen
	w.seen = commits{}
	return seen
}

// expire stores tokens that expire within one second, at o.Time.
func (w *watched) expire(ctx context.Context, store storage.Store, o order) error {
	for from := 0; from < o.Count; from += fillBatch {
		batch := make([]*storage.Token, min(fillBatch, o.Count-from))
		for i := range batch {
			var t token.Token
			if _, err := rand.Read(t.Secret[:]); err != nil {
				return err
			}
			n := from + i
			t.ID = idExpiring(o.Time.Add(time.Duration(n)*time.Second/time.Duration(o.Count)), t.Secret[:10])
			batch[i] = recordOf(t, n, w.now())
		}
		if err := insertAll(ctx, store, batch); err != nil {
			return err
		}
	}
	return nil
}
