package noded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/tlsfile"
	"github.com/gatehouse-ws/gatehouse/wsnode"
)

const (
	// looks are how many times a certificate is looked at in its life, at least:
	// the last third of it has ten for a renewal that fails.
	looks = 30
	// lookEvery and lookSoonest bound how often that is.
	lookEvery   = time.Hour
	lookSoonest = time.Second
	// lookAgain is after how long a certificate that can't be read is looked at.
	lookAgain = time.Minute
	// renewTimeout bounds one renewal.
	renewTimeout = 30 * time.Second
	// renewSpread is over how long the nodes of a fleet renew their certificates
	// when they are told of another CA.
	renewSpread = 10 * time.Second
)

// renewer keeps the certificate fresh that the node calls its authority with,
// and by which CAs it knows that.
type renewer struct {
	cfg     CredentialConfig
	address string
	trust   *trust
	creds   credentials.TransportCredentials
	log     *slog.Logger
	now     func() time.Time
	told    chan string  // of one: what the authority told last of its CAs
	pending []byte       // of that, what is not taken yet; owned by run
	from    atomic.Int64 // Unix seconds of the certificate's life; 0 while it is not known
	ends    atomic.Int64
}

func newRenewer(cfg *Config, log *slog.Logger) (*renewer, error) {
	call, err := cfg.Credential.load(log)
	if err != nil {
		return nil, err
	}
	t, err := newTrust(cfg, log)
	if err != nil {
		return nil, fmt.Errorf("credential.ca_file: %w", err)
	}
	return &renewer{
		cfg: cfg.Credential, address: cfg.Authority.Address, trust: t, creds: tlsfile.Trusting(call, t.current),
		log: log, now: time.Now, told: make(chan string, 1),
	}, nil
}

// register tells when the certificate ends, and the CAs do.
func (r *renewer) register(reg prometheus.Registerer) error {
	return errors.Join(reg.Register(wsnode.CredentialExpiry(r.ends.Load)), reg.Register(wsnode.TrustExpiry(func() int64 {
		if last := r.trust.ends(); !last.IsZero() {
			return last.Unix()
		}
		return 0
	})))
}

// tell hands over what the authority tells of its CAs.
func (r *renewer) tell(caPEM string) {
	select { // what waits is out of date
	case <-r.told:
	default:
	}
	select {
	case r.told <- caPEM:
	default: // another was quicker
	}
}

// run looks at the certificate until ctx ends, and renews it in time.
func (r *renewer) run(ctx context.Context) {
	for {
		err := r.look(ctx)
		again := r.again()
		if err != nil && ctx.Err() == nil {
			r.log.Error("certificate not renewed", "error", err, "ends", time.Unix(r.ends.Load(), 0).UTC(), "again_in", again)
		}
		if !r.wait(ctx, again) {
			return
		}
	}
}

// wait waits until the certificate is to be looked at again, or for word of CAs
// that calls for it; false says that ctx has ended.
func (r *renewer) wait(ctx context.Context, again time.Duration) bool {
	timer := time.NewTimer(again)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			return true
		case caPEM := <-r.told:
			r.pending = []byte(caPEM)
			switch changed, err := r.learn(); {
			case err != nil:
				timer.Reset(min(again, lookAgain))
			case changed:
				timer.Reset(rand.N(renewSpread))
			}
		}
	}
}

// learn puts what the authority has told of its CAs into force, and reports
// whether it is new. What fails stays pending.
func (r *renewer) learn() (changed bool, err error) {
	if r.pending == nil {
		return false, nil
	}
	changed, err = r.trust.learn(r.pending)
	if err != nil {
		r.log.Error("what the authority tells of its CAs is not taken", "error", err, "again_in", lookAgain)
		return false, err
	}
	r.pending = nil
	if changed {
		r.log.Info("the authority is known by other CAs", "trusted", r.trust.names())
	}
	return changed, nil
}

// again is when to look next: when the certificate is due, or before.
func (r *renewer) again() time.Duration {
	from, to := r.from.Load(), r.ends.Load()
	if to == 0 || r.pending != nil {
		return lookAgain
	}
	life := time.Duration(to-from) * time.Second
	due := time.Unix(from, 0).Add(life * 2 / 3).Sub(r.now())
	return min(max(due, life/looks, lookSoonest), lookEvery)
}

// look renews the certificate if two thirds of its life are over, or if it is
// not of the CA that signs now.
func (r *renewer) look(ctx context.Context) error {
	_, _ = r.learn() // the log has heard of it, and the certificate may be due all the same
	due, err := r.due()
	if err != nil || !due || !r.cfg.Renew {
		return err
	}
	if err := tlsfile.Renew(r.cfg.CertFile, r.cfg.KeyFile, func(csr []byte) ([]byte, error) { return r.ask(ctx, csr) }); err != nil {
		return err
	}
	_, err = r.due()
	r.log.Info("certificate renewed", "file", r.cfg.CertFile, "ends", time.Unix(r.ends.Load(), 0).UTC())
	return errors.Join(err, r.show(ctx))
}

func (r *renewer) due() (bool, error) {
	pair, err := tlsfile.LoadPair(r.cfg.CertFile, r.cfg.KeyFile, 0)
	if err != nil {
		r.ends.Store(0)
		return false, err
	}
	from, to := pair.Leaf.NotBefore, pair.Leaf.NotAfter
	r.from.Store(from.Unix())
	r.ends.Store(to.Unix())
	signs := r.trust.signs()
	return !r.now().Before(from.Add(to.Sub(from)*2/3)) || signs != nil && pair.Leaf.CheckSignatureFrom(signs) != nil, nil
}

// ask has the certificate renewed. The CAs that come with it count before it
// does: who shows a certificate of a new CA knows the authority by that.
func (r *renewer) ask(ctx context.Context, csr []byte) (cert []byte, err error) {
	err = r.call(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		resp, err := pb.NewCredentialServiceClient(conn).RenewCertificate(ctx, &pb.RenewCertificateRequest{CertificateRequest: csr})
		if err != nil {
			return fmt.Errorf("ask the authority: %w", err)
		}
		cert = []byte(resp.GetIssued().GetCertificatePem())
		if _, err := r.trust.learn([]byte(resp.GetIssued().GetCaPem())); err != nil {
			return err
		}
		return nil
	})
	return cert, err
}

// show calls with the new certificate once, so that the authority knows who no
// longer depends on a CA that is to be retired.
func (r *renewer) show(ctx context.Context) error {
	return r.call(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		if _, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}); err != nil {
			return fmt.Errorf("show the authority the new certificate: %w", err)
		}
		return nil
	})
}

func (r *renewer) call(ctx context.Context, do func(context.Context, *grpc.ClientConn) error) (err error) {
	conn, err := grpc.NewClient(r.address, grpc.WithTransportCredentials(r.creds.Clone()))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	return do(ctx, conn)
}
