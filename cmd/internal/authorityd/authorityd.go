package authorityd

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gatehouse-ws/gatehouse/authority"
	"github.com/gatehouse-ws/gatehouse/authority/pki"
	"github.com/gatehouse-ws/gatehouse/cmd/internal/ops"
	"github.com/gatehouse-ws/gatehouse/cmd/internal/tracing"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/boltstore"
	"github.com/gatehouse-ws/gatehouse/tlsfile"
)

var (
	// ErrNotInitialised says that the state folder holds no CA yet.
	ErrNotInitialised = errors.New("it holds no CA")
	// ErrStoreMissing says that there is a CA, but not the store that was made
	// with it.
	ErrStoreMissing = errors.New("the store is gone, and with it all tokens, credentials, revocations and locks")
	// ErrInUse says that another process works on the state folder.
	ErrInUse = storage.ErrInUse
)

// drainTimeout bounds how long calls under way may take once the end was
// asked for.
const drainTimeout = 10 * time.Second

// Authority is an opened state folder, and the authority that works on it.
type Authority struct {
	cfg     Config
	log     *slog.Logger
	store   storage.Store
	audit   *authority.Audit
	ca      *pki.CA
	service *authority.Service
	server  *authority.Server
	metrics *prometheus.Registry
	traces  *tracing.Exporter
	ready   chan struct{} // closed once it serves

	certifying sync.Mutex // held while the server certificate is looked at
}

// Open loads the CA, opens the store and the audit trail, and builds the
// server. Close what it returns.
func Open(ctx context.Context, cfg Config, log *slog.Logger) (_ *Authority, err error) {
	a := &Authority{cfg: cfg, log: log, ready: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Close())
		}
	}()
	if _, err := os.Stat(cfg.caDir()); errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("state folder %s: %w", cfg.State, ErrNotInitialised)
	}
	// An empty store in its place would know no caller and no revocation.
	if _, err := os.Lstat(cfg.storeAt()); errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", cfg.storeAt(), ErrStoreMissing)
	}
	if a.ca, err = pki.Load(cfg.caDir(), time.Now, rand.Reader); err != nil {
		return nil, err
	}
	if err := a.ensureCertificate(); err != nil {
		return nil, err
	}
	store, err := boltstore.Open(cfg.storeAt(), boltstore.Options{})
	if err != nil {
		return nil, err
	}
	a.store = store
	if err := noteSystem(cfg, store.System()); err != nil { // the store has it too
		log.Warn("system id can't be kept beside the store: once that is lost, a restore can't tell a backup of another system", "error", err)
	}
	if a.audit, err = authority.OpenAudit(cfg.auditAt()); err != nil {
		return nil, err
	}
	a.metrics = ops.NewMetrics()
	if a.traces, err = tracing.Start(ctx, "gatehouse-authority", pb.Version, log); err != nil {
		return nil, err
	}
	if a.service, err = authority.New(ctx, cfg.Config, authority.Parts{
		Store: a.store, CA: a.ca, Audit: a.audit, Log: log, Metrics: a.metrics, Now: time.Now, Random: rand.Reader, Traces: a.traces.Provider(),
		Recertify: a.ensureCertificate, Backup: store.Backup, Compact: store.Compact,
	}); err != nil {
		return nil, err
	}
	tlsConfig, err := tlsfile.Server(filepath.Join(cfg.tlsDir(), "server.crt"), filepath.Join(cfg.tlsDir(), "server.key"), a.ca.Pool, time.Now, log)
	if err != nil {
		return nil, err
	}
	if a.server, err = authority.NewServer(a.service, tlsConfig, cfg.Reflection); err != nil {
		return nil, err
	}
	return a, nil
}

// CheckUnused is ErrInUse while another process works on the state folder.
func CheckUnused(cfg Config) error {
	if _, err := os.Stat(cfg.storeAt()); err != nil {
		return nil
	}
	store, err := boltstore.Open(cfg.storeAt(), boltstore.Options{})
	switch {
	case errors.Is(err, ErrInUse):
		return err
	case err != nil: // it can't be read, but nobody holds it
		return nil
	}
	return store.Close()
}

func (a *Authority) ensureCertificate() error {
	a.certifying.Lock()
	defer a.certifying.Unlock()
	why, err := a.ca.EnsureServer(a.cfg.tlsDir(), a.cfg.ServerNames)
	if err != nil {
		return err
	}
	if why != "" {
		a.log.Info("server certificate issued", "names", a.cfg.ServerNames, "why", why)
	}
	return nil
}

// EnsureServer keeps a certificate of the authority's CA for names in dir, for
// another server of the same machine.
func (a *Authority) EnsureServer(dir string, names []string) error {
	_, err := a.ca.EnsureServer(dir, names)
	return err
}

// Close closes the store and the audit trail, after Serve has returned.
func (a *Authority) Close() error {
	var errs []error
	if a.store != nil {
		errs = append(errs, a.store.Close())
	}
	if a.audit != nil {
		errs = append(errs, a.audit.Close())
	}
	a.traces.Close() // last: it may wait for the collector
	return errors.Join(errs...)
}

// Serve answers calls on l until ctx ends, then lets those under way finish. It
// returns early, with the cause, if the store fails.
func (a *Authority) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := a.service.Run(ctx); err != nil {
			cancel(err)
		}
	})
	wg.Go(func() { a.tendCertificate(ctx) })
	served := make(chan error, 1)
	go func() { served <- a.server.Serve(l) }() // ends by Drain
	close(a.ready)
	var err error
	select {
	case err = <-served:
		cancel(err)
	case <-ctx.Done():
		drain, done := context.WithTimeout(context.Background(), drainTimeout)
		a.server.Drain(drain)
		done()
		<-served
		if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
			err = cause
		}
	}
	wg.Wait()
	return err
}

// tendCertificate renews the server certificate in time, and warns of a CA that
// is about to end.
func (a *Authority) tendCertificate(ctx context.Context) {
	const warnEvery = 24 // looks
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for look := 1; ; look++ {
		if look%warnEvery == 0 {
			a.warnOfCA()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := a.ensureCertificate(); err != nil {
				a.log.Error("server certificate", "error", err)
			}
		}
	}
}

func (a *Authority) warnOfCA() {
	for _, w := range warnOf(a.ca, time.Now()) {
		a.log.Warn(w)
	}
}

// Ready is nil while calls are answered.
func (a *Authority) Ready() error {
	select {
	case <-a.ready:
		return a.store.Err()
	default:
		return errors.New("starting")
	}
}

// Run opens the state folder and serves until ctx ends: the whole daemon.
func Run(ctx context.Context, cfg Config, log *slog.Logger) (err error) {
	l, err := ops.Listen(cfg.Listen, "--listen")
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }() // closed already once Serve has run
	a, err := Open(ctx, cfg, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	if cfg.Admin != "" {
		admin, err := ops.Listen(cfg.Admin, "--admin")
		if err != nil {
			return err
		}
		var wg sync.WaitGroup
		defer wg.Wait()
		adminCtx, stop := context.WithCancel(context.Background())
		defer stop()
		wg.Go(func() {
			ready := func() error {
				if ctx.Err() != nil {
					return errors.New("stopping")
				}
				return a.Ready()
			}
			if err := ops.ServeAdmin(adminCtx, admin, a.metrics, ready); err != nil {
				log.Error("admin listener", "error", err)
			}
		})
	}
	log.Info("authority started", "version", pb.Version, "listen", l.Addr().String(), "admin", cfg.Admin, "state", cfg.State,
		"admission_fence", cfg.Fleet.AdmissionFence.String(), "session_fence", cfg.Fleet.SessionFence.String(), "reflection", cfg.Reflection, "traces", a.traces.To())
	a.warnOfCA()
	defer log.Info("authority stopped")
	return a.Serve(ctx, l)
}
