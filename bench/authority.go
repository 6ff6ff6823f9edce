package main

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gatehouse-ws/gatehouse/authority"
	"github.com/gatehouse-ws/gatehouse/authority/pki"
	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/boltstore"
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
	store, err := boltstore.Open(filepath.Join(sp.Dir, "gatehouse.db"), boltstore.Options{})
	if err != nil {
		return nil, err
	}
	for name, role := range callers {
		if err := store.CreateCredential(ctx, storage.Credential{Name: name, Role: role, CreatedAt: time.Now(), Generation: 1}); err != nil {
			return nil, err
		}
	}
	auditTo, err := os.OpenFile(filepath.Join(sp.Dir, "audit.jsonl"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	logTo, err := os.Create(filepath.Join(sp.Dir, "log.jsonl"))
	if err != nil {
		return nil, err
	}
	audit := authority.NewAudit(auditTo)
	service, err := authority.New(ctx, authority.DefaultConfig(), authority.Parts{
		Store: store, CA: ca, Audit: audit, Log: slog.New(slog.NewJSONHandler(logTo, nil)),
		Metrics: prometheus.NewRegistry(), Now: time.Now, Random: rand.Reader,
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
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	ended := make(chan error, 2)
	go func() { ended <- service.Run(ctx) }() // ends by cancel
	go func() { ended <- srv.Serve(l) }()     // ends by Drain
	return &server{
		addr: l.Addr().String(),
		stats: func() (groups, grouped uint64) {
			s := store.Stats()
			return s.Groups, s.Grouped
		},
		close: func() error {
			drain, done := context.WithTimeout(context.Background(), time.Second)
			defer done()
			srv.Drain(drain)
			cancel()
			return errors.Join(<-ended, <-ended, store.Close(), audit.Close(), auditTo.Close(), logTo.Close())
		},
	}, nil
}
