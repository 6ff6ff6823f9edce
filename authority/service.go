// Package authority issues, redeems, introspects and revokes handshake tokens
// over gRPC. It is the only writer of its store, and the only truth.
//
// Every handler parses its request, decides, stores and answers, in that
// order. Who may call is in rules.go; which error is which status in status.go.
package authority

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/gatehouse-ws/gatehouse/authority/pki"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
)

// Parts are what an authority works with. All but Traces, Recertify, Backup and
// Compact are required.
type Parts struct {
	Store   storage.Store
	CA      *pki.CA
	Audit   *Audit
	Log     *slog.Logger
	Metrics prometheus.Registerer
	Now     func() time.Time
	Random  io.Reader            // of cryptographic quality, safe for concurrent use
	Traces  trace.TracerProvider // nil makes no spans, and costs nothing
	// Recertify sees to it that callers are shown a server certificate of CA. It is
	// called when that has changed, and nil where others see to it.
	Recertify func() error
	// Backup writes a backup of Store to w while that goes on working, and first
	// tells begun what it will be. It is nil where there is none to be had.
	Backup func(ctx context.Context, w io.Writer, begun func(storage.Backup)) error
	// Compact makes the file of Store as small as what it holds while that goes on
	// working, and tells progress, from any goroutine, how many bytes it has written of
	// at most how many. It is nil where Store has no file.
	Compact func(ctx context.Context, progress func(written, atMost int64)) (storage.Compacted, error)
}

// Service is an authority. Make it with New, register its services with
// Server, and keep Run running beside it.
type Service struct {
	cfg     Config
	store   storage.Store
	ca      *pki.CA
	audit   *Audit
	log     *slog.Logger
	now     func() time.Time
	random  io.Reader
	metrics *metrics
	tracing *tracing // nil where there is none

	callers  *callers
	fleet    *fleet
	tail     atomic.Pointer[tail]
	receipts *receipts
	graces   *graces
	keeping  sync.Mutex // one writes acknowledgements at a time; locked before receipts
	strikes  *strikes
	unwanted *unwanted
	agents   *agents
	rotating sync.Mutex // held from a change of edge keys on disk until it counts here
	keys     atomic.Pointer[keyring]
	tls      atomic.Pointer[tls.Config] // that callers are served with; nil without
	conns    *connections
	newest   newest

	sampler      *sampler
	enforcements enforcements

	recertify func() error
	backup    func(ctx context.Context, w io.Writer, begun func(storage.Backup)) error
	compact   func(ctx context.Context, progress func(written, atMost int64)) (storage.Compacted, error)
	maintains chan struct{} // of one: held by who makes a backup or compacts

	writes   *writes
	stranger time.Duration // how long a connection may be without a credential

	stop     sync.Once
	stopping chan struct{}  // closed when streams must end
	streams  sync.WaitGroup // their handlers

	auditFailed bool // owned by Run: it has logged so
}

// New makes an authority on an opened store. On a store without edge keys it
// makes the first.
func New(ctx context.Context, cfg Config, p Parts) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Service{
		cfg: cfg, ca: p.CA, audit: p.Audit, now: p.Now, random: p.Random,
		strikes:   newStrikes(),
		unwanted:  newUnwanted(),
		graces:    newGraces(),
		agents:    newAgents(),
		writes:    newWrites(),
		conns:     newConnections(p.CA),
		sampler:   newSampler(),
		stopping:  make(chan struct{}),
		tracing:   newTracing(p.Traces),
		recertify: p.Recertify,
		stranger:  maxStranger,
		backup:    p.Backup,
		compact:   p.Compact,
		maintains: make(chan struct{}, 1),
	}
	s.store, s.log = s.tracing.store(p.Store), s.tracing.log(p.Log)
	var err error
	if s.callers, err = loadCallers(ctx, p.Store); err != nil {
		return nil, err
	}
	if s.fleet, err = loadFleet(ctx, p.Store, &cfg, p.Now()); err != nil {
		return nil, err
	}
	head, _ := p.Store.Head()
	acknowledged, err := p.Store.Acknowledged(ctx)
	if err != nil {
		return nil, fmt.Errorf("read acknowledgements: %w", err)
	}
	s.newest.see(p.Now(), s.log)
	for _, c := range s.callers.all() {
		s.newest.seen(c.CreatedAt)
	}
	for _, i := range s.fleet.snapshot() {
		s.newest.seen(i.RegisteredAt)
	}
	s.receipts = newReceipts(s.fleet, head, acknowledged)
	if s.metrics, err = newMetrics(p.Metrics, s); err != nil {
		return nil, err
	}
	s.receipts.lag = s.metrics.lag
	s.metrics.lag.tracing = s.tracing
	if err := s.reopen(ctx, head); err != nil {
		return nil, fmt.Errorf("reopen receipts: %w", err)
	}
	s.audit.opened(p.Now(), head.Epoch)
	if err := s.loadKeys(ctx); err != nil {
		return nil, err
	}
	if t := p.Audit.tail; t.Damaged || t.Unsealed > 0 {
		s.log.Warn("the audit trail does not end with a whole batch: gatehouse audit verify tells more", "damaged", t.Damaged, "unsealed_lines", t.Unsealed, "torn", t.Torn)
	}
	return s, nil
}

// sweepKeep is how long an expired token is still known, so that a handshake
// that comes late is refused with the exact reason.
const sweepKeep = 2 * time.Minute

// sweepUnit is by how much the store may keep a token longer than it was told.
const sweepUnit = time.Minute

// Run sweeps what has expired, rotates edge keys, releases dead nodes and keeps
// what nodes acknowledge until ctx ends or the store fails; then it returns why.
func (s *Service) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() { s.keepOn(ctx) })
	wg.Go(func() { s.keepShownOn(ctx) })
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.store.Failed():
			return fmt.Errorf("store failed: %w", s.store.Err())
		case <-tick.C:
		}
		if err := s.tend(ctx); err != nil && ctx.Err() == nil && s.store.Err() == nil {
			s.log.Error("housekeeping failed", "error", err)
		}
	}
}

func (s *Service) tend(ctx context.Context) error {
	now := s.now()
	s.newest.see(now, s.log)
	s.tellAudit(now)
	s.watchAudit()
	s.tellSilence(now)
	s.strikes.sweep(now)
	s.unwanted.sweep(now)
	began := s.now()
	swept, err := s.store.Sweep(ctx, now, sweepKeep)
	s.metrics.sweep(swept, s.now().Sub(began))
	return errors.Join(err, s.rotateKeys(ctx, now), s.releaseDead(ctx, now))
}

// tellAudit writes the lines that no call writes.
func (s *Service) tellAudit(now time.Time) {
	s.tellSkipped(now)
	s.auditComplete(now)
}

// watchAudit logs when the audit trail begins to fail, and when it no longer
// does.
func (s *Service) watchAudit() {
	lost, err := s.audit.failure()
	if failed := err != nil; failed != s.auditFailed {
		s.auditFailed = failed
		if failed {
			s.log.Error("audit trail can't be written", "error", err)
		} else {
			s.log.Info("audit trail can be written again", "lines_lost", lost)
		}
	}
}

// Stop ends the streams of nodes and watchers. Unary calls go on.
func (s *Service) Stop() { s.stop.Do(func() { close(s.stopping) }) }

func revisionOf(r storage.Revision) *pb.Revision {
	return &pb.Revision{Epoch: r.Epoch, Sequence: r.Sequence}
}

func revisionFrom(r *pb.Revision) storage.Revision {
	return storage.Revision{Epoch: r.GetEpoch(), Sequence: r.GetSequence()}
}
