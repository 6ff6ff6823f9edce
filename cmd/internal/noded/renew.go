package noded

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/tlsfile"
	"github.com/gatehouse-ws/gatehouse/wsnode"
)

const (
	// renewEvery is how often the certificate is looked at.
	renewEvery = time.Hour
	// renewTimeout bounds one renewal.
	renewTimeout = 30 * time.Second
)

// renewer keeps the certificate fresh that the node calls its authority with.
type renewer struct {
	cfg     CredentialConfig
	address string
	tls     *tls.Config
	log     *slog.Logger
	now     func() time.Time
	ends    atomic.Int64 // Unix seconds; 0 until it is known
}

// register tells when the certificate ends.
func (r *renewer) register(reg prometheus.Registerer) error {
	return reg.Register(wsnode.CredentialExpiry(r.ends.Load))
}

// run looks at the certificate until ctx ends, and renews it in time.
func (r *renewer) run(ctx context.Context) {
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	for {
		if err := r.look(ctx); err != nil && ctx.Err() == nil {
			r.log.Error("certificate not renewed", "error", err, "ends", time.Unix(r.ends.Load(), 0).UTC(), "again_in", renewEvery)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// look renews the certificate if two thirds of its life are over.
func (r *renewer) look(ctx context.Context) error {
	due, err := r.due()
	if err != nil || !due || !r.cfg.Renew {
		return err
	}
	if err := tlsfile.Renew(r.cfg.CertFile, r.cfg.KeyFile, func(csr []byte) ([]byte, error) { return r.ask(ctx, csr) }); err != nil {
		return err
	}
	_, err = r.due()
	r.log.Info("certificate renewed", "file", r.cfg.CertFile, "ends", time.Unix(r.ends.Load(), 0).UTC())
	return err
}

func (r *renewer) due() (bool, error) {
	pair, err := tlsfile.LoadPair(r.cfg.CertFile, r.cfg.KeyFile, 0)
	if err != nil {
		r.ends.Store(0)
		return false, err
	}
	from, to := pair.Leaf.NotBefore, pair.Leaf.NotAfter
	r.ends.Store(to.Unix())
	return !r.now().Before(from.Add(to.Sub(from) * 2 / 3)), nil
}

func (r *renewer) ask(ctx context.Context, csr []byte) (_ []byte, err error) {
	conn, err := grpc.NewClient(r.address, grpc.WithTransportCredentials(credentials.NewTLS(r.tls.Clone())))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	resp, err := pb.NewCredentialServiceClient(conn).RenewCertificate(ctx, &pb.RenewCertificateRequest{CertificateRequest: csr})
	if err != nil {
		return nil, fmt.Errorf("ask the authority: %w", err)
	}
	return []byte(resp.GetIssued().GetCertificatePem()), nil
}
