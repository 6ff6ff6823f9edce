package authority

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gatehouse-ws/gatehouse/authority/pki"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
)

const (
	maxDependents = 1000 // that one answer lists
	maxNamed      = 10   // that an error names
	// keepShownEvery is how often it is written by which CAs callers were seen to
	// connect.
	keepShownEvery = 10 * time.Second
)

// RotateCA implements CredentialService.
func (s *Service) RotateCA(ctx context.Context, req *pb.RotateCARequest) (*pb.RotateCAResponse, error) {
	if err := why(req.GetReason(), true); err != nil {
		return nil, err
	}
	note(ctx, slog.String("reason", req.GetReason()))
	if err := s.ca.Rotate(); err != nil {
		return nil, err
	}
	signs := s.ca.Trusted()[0]
	note(ctx, slog.String("ca_id", pki.ID(signs.Cert)))
	s.showCA(ctx)
	return &pb.RotateCAResponse{Ca: caOf(signs)}, nil
}

// RetireCA implements CredentialService.
func (s *Service) RetireCA(ctx context.Context, req *pb.RetireCARequest) (*pb.RetireCAResponse, error) {
	if err := why(req.GetReason(), true); err != nil {
		return nil, err
	}
	note(ctx, slog.String("reason", req.GetReason()), slog.Bool("force", req.GetForce()))
	elder := s.elder()
	if elder == nil {
		return nil, pki.ErrNoElder
	}
	id := pki.ID(elder)
	dependents := s.callers.dependents(id, s.now())
	note(ctx, slog.String("ca_id", id), slog.Int("dependents", len(dependents)))
	if len(dependents) > 0 && !req.GetForce() {
		return nil, dependedOn(dependents)
	}
	if err := s.ca.Retire(); err != nil {
		return nil, err
	}
	s.showCA(ctx) // before callers come again
	closed := s.conns.closeUntrusted()
	s.log.InfoContext(ctx, "CA retired", "ca_id", id, "connections_closed", closed)
	return &pb.RetireCAResponse{Ca: caOf(pki.Trusted{Cert: elder}), Dependents: uint32(len(dependents))}, nil
}

func dependedOn(dependents []dependent) error {
	var names []string
	for _, d := range dependents[:min(len(dependents), maxNamed)] {
		names = append(names, d.name)
	}
	more := ""
	if n := len(dependents) - len(names); n > 0 {
		more = fmt.Sprintf(" and %d more", n)
	}
	return fmt.Errorf("%w: %s%s; renew or reissue their certificates, disable them, or retire it by force", errDepended, strings.Join(names, ", "), more)
}

// showCA has callers shown a certificate of the CA as it is now. Where that
// fails, the daily look at the certificate mends it.
func (s *Service) showCA(ctx context.Context) {
	if s.recertify == nil {
		return
	}
	if err := s.recertify(); err != nil {
		s.log.ErrorContext(ctx, "server certificate not renewed though the CA has changed", "error", err)
	}
}

// ListCAs implements CredentialService.
func (s *Service) ListCAs(context.Context, *pb.ListCAsRequest) (*pb.ListCAsResponse, error) {
	resp := &pb.ListCAsResponse{}
	for _, t := range s.ca.Trusted() {
		resp.Cas = append(resp.Cas, caOf(t))
	}
	elder := s.elder()
	if elder == nil {
		return resp, nil
	}
	dependents := s.callers.dependents(pki.ID(elder), s.now())
	resp.DependentsTotal = uint32(len(dependents))
	for _, d := range dependents[:min(len(dependents), maxDependents)] {
		out := &pb.CADependent{Name: d.name, Role: pb.Role(d.role)}
		if d.ends != 0 {
			out.ExpiresAt = timestamppb.New(time.Unix(d.ends, 0))
		}
		resp.Dependents = append(resp.Dependents, out)
	}
	for _, c := range s.callers.all() {
		if c.APIKeyHash == nil || c.Disabled {
			continue
		}
		if resp.UnseenTotal++; resp.UnseenTotal <= maxDependents {
			resp.Unseen = append(resp.Unseen, c.Name)
		}
	}
	return resp, nil
}

func caOf(t pki.Trusted) *pb.CertificateAuthority {
	return &pb.CertificateAuthority{
		Name: t.Cert.Subject.CommonName, CaId: pki.ID(t.Cert), Signs: t.Signs,
		NotBefore: timestamppb.New(t.Cert.NotBefore), ExpiresAt: timestamppb.New(t.Cert.NotAfter),
	}
}

// elder is the CA to be retired, or nil.
func (s *Service) elder() *x509.Certificate {
	if all := s.ca.Trusted(); len(all) > 1 {
		return all[1].Cert
	}
	return nil
}

// trust is what nodes are told of the CAs.
func (s *Service) trust() *pb.Trust { return &pb.Trust{CaPem: string(s.ca.Bundle())} }

// dependent is a credential that can't call without the CA of its certificate.
type dependent struct {
	name string
	role storage.Role
	ends int64 // of its certificate, in Unix seconds; zero where that is not known
}

// dependents are the credentials that depend on the CA with this id, by name. One
// of which nothing is known may.
func (c *callers) dependents(id string, now time.Time) (out []dependent) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for name, k := range c.byName {
		by := k.shown.Load()
		if k.Disabled || k.APIKeyHash != nil || by.ca != "" && by.ca != id || by.ends != 0 && by.ends <= now.Unix() {
			continue
		}
		out = append(out, dependent{name, k.Role, by.ends})
	}
	slices.SortFunc(out, func(a, b dependent) int { return cmp.Compare(a.name, b.name) })
	return out
}

// unkept are the names of credentials whose records do not tell of the
// certificate that they last called with.
func (c *callers) unkept() (names []string) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for name, k := range c.byName {
		if k.APIKeyHash == nil && !k.shown.Load().same(signatureOf(&k.Credential)) {
			names = append(names, name)
		}
	}
	return names
}

// keepShownOn writes by which certificates credentials call until ctx ends, so
// that a CA is not retired under one that has not called since a restart.
func (s *Service) keepShownOn(ctx context.Context) {
	tick := time.NewTicker(keepShownEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := s.keepShown(ctx); err != nil && ctx.Err() == nil && s.store.Err() == nil {
			s.log.Error("certificates that callers show can't be noted", "error", err)
		}
	}
}

func (s *Service) keepShown(ctx context.Context) error {
	for _, name := range s.callers.unkept() {
		if ctx.Err() != nil {
			return nil
		}
		if err := s.keepShownOf(name); err != nil {
			return fmt.Errorf("change credential %s: %w", name, err)
		}
	}
	return nil
}

func (s *Service) keepShownOf(name string) error {
	s.callers.changing.Lock()
	defer s.callers.changing.Unlock()
	by, generation := s.callers.shownBy(name)
	cred, err := s.store.UpdateCredential(s.writes.context(), name, func(c *storage.Credential) error {
		if c.Generation != generation || c.APIKeyHash != nil {
			return errStale
		}
		c.SignedBy, c.CertificateEnds = by.ca, time.Unix(by.ends, 0)
		return nil
	})
	if errors.Is(err, errStale) { // what it showed is of no use any more
		return nil
	}
	if err == nil {
		s.callers.put(cred)
	}
	return err
}

var errStale = errors.New("reissued meanwhile")

func (c *callers) shownBy(name string) (signature, uint32) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	k := c.byName[name]
	return *k.shown.Load(), k.Generation
}
