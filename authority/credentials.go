package authority

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gatehouse-ws/gatehouse/authority/pki"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
)

const (
	maxName   = 64  // bytes of a credential's name
	maxScoped = 256 // tenants, and audiences, that a credential may list
)

// CreateCredential implements CredentialService.
func (s *Service) CreateCredential(ctx context.Context, req *pb.CreateCredentialRequest) (*pb.CreateCredentialResponse, error) {
	cred, err := parseCredential(req.GetCredential())
	if err != nil {
		return nil, err
	}
	note(ctx, slog.String("name", cred.Name), slog.String("role", roleName(cred.Role)), slog.Bool("api_key", len(req.GetCertificateRequest()) == 0))
	cred.CreatedAt, cred.Generation = s.now(), 1
	issued, err := s.equip(&cred, req.GetCertificateRequest())
	if err != nil {
		return nil, err
	}
	s.callers.changing.Lock()
	defer s.callers.changing.Unlock()
	// Even if the caller goes away: what is on disk must count here.
	err = s.store.CreateCredential(context.WithoutCancel(ctx), cred)
	if errors.Is(err, storage.ErrExists) {
		return nil, fmt.Errorf("credential.name: %q is taken, and names are not used again; reissue it, or choose another (%w)", cred.Name, err)
	}
	if err != nil {
		return nil, fmt.Errorf("store credential %s: %w", cred.Name, err)
	}
	s.callers.put(cred)
	return &pb.CreateCredentialResponse{Credential: credentialOf(&cred), Issued: issued}, nil
}

// ReissueCredential implements CredentialService.
func (s *Service) ReissueCredential(ctx context.Context, req *pb.ReissueCredentialRequest) (*pb.ReissueCredentialResponse, error) {
	var issued *pb.IssuedCredential
	cred, err := s.update(ctx, req.GetName(), func(c *storage.Credential) (err error) {
		c.Generation++
		issued, err = s.equip(c, req.GetCertificateRequest())
		return err
	})
	if err != nil {
		return nil, err
	}
	return &pb.ReissueCredentialResponse{Credential: credentialOf(&cred), Issued: issued}, nil
}

// ListCredentials implements CredentialService.
func (s *Service) ListCredentials(_ context.Context, req *pb.ListCredentialsRequest) (*pb.ListCredentialsResponse, error) {
	limit, err := pageSize(req.GetPageSize())
	if err != nil {
		return nil, err
	}
	after, err := parseNameToken(req.GetPageToken(), maxName)
	if err != nil {
		return nil, err
	}
	resp := &pb.ListCredentialsResponse{}
	bytes := 0
	for _, c := range s.callers.all() {
		if c.Name <= after {
			continue
		}
		info := credentialOf(&c)
		bytes += proto.Size(info)
		if n := len(resp.Credentials); n == limit || n > 0 && bytes > maxPageBytes {
			resp.NextPageToken = pageToken([]byte(resp.Credentials[n-1].GetName()))
			break
		}
		resp.Credentials = append(resp.Credentials, info)
	}
	return resp, nil
}

// DisableCredential implements CredentialService.
func (s *Service) DisableCredential(ctx context.Context, req *pb.DisableCredentialRequest) (*pb.DisableCredentialResponse, error) {
	role := roles[req.GetRole()]
	if role == 0 && req.GetRole() != pb.Role_ROLE_UNSPECIFIED {
		return nil, invalid("role", "%d is none of issuer, node, admin and viewer", req.GetRole())
	}
	cred, err := s.setDisabled(ctx, req.GetName(), req.GetReason(), role, true)
	if err != nil {
		return nil, err
	}
	return &pb.DisableCredentialResponse{Credential: cred}, nil
}

// EnableCredential implements CredentialService.
func (s *Service) EnableCredential(ctx context.Context, req *pb.EnableCredentialRequest) (*pb.EnableCredentialResponse, error) {
	cred, err := s.setDisabled(ctx, req.GetName(), req.GetReason(), 0, false)
	if err != nil {
		return nil, err
	}
	return &pb.EnableCredentialResponse{Credential: cred}, nil
}

// setDisabled switches a credential, of any role if that is 0.
func (s *Service) setDisabled(ctx context.Context, name, reason string, role storage.Role, disabled bool) (*pb.Credential, error) {
	if err := why(reason, true); err != nil {
		return nil, err
	}
	note(ctx, slog.String("reason", reason))
	if disabled && name == callerFrom(ctx).Name {
		return nil, invalid("name", "%q is the caller itself: let another admin disable it", name)
	}
	cred, err := s.update(ctx, name, func(c *storage.Credential) error {
		if role != 0 && c.Role != role {
			return invalid("role", "%s is of role %s, not %s: use gatehouse credential disable %s", name, roleName(c.Role), roleName(role), name)
		}
		c.Disabled = disabled
		return nil
	})
	if err != nil {
		return nil, err
	}
	return credentialOf(&cred), nil
}

// update changes a credential on disk, then for calls.
func (s *Service) update(ctx context.Context, name string, change func(*storage.Credential) error) (storage.Credential, error) {
	if err := text("name", name, 1, maxName); err != nil {
		return storage.Credential{}, err
	}
	note(ctx, slog.String("name", name))
	s.callers.changing.Lock()
	defer s.callers.changing.Unlock()
	cred, err := s.store.UpdateCredential(context.WithoutCancel(ctx), name, change) // as in CreateCredential
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return cred, notFound("no credential has the name %q", name)
	case errors.Is(err, errInvalidRequest):
		return cred, err
	case err != nil:
		return cred, fmt.Errorf("change credential %s: %w", name, err)
	}
	s.callers.put(cred)
	return cred, nil
}

// equip gives a credential what it calls with: a certificate for the key of a
// request, or else an API key.
func (s *Service) equip(c *storage.Credential, csrDER []byte) (*pb.IssuedCredential, error) {
	issued := &pb.IssuedCredential{}
	defer func() { issued.CaPem = string(s.ca.Bundle()) }() // with the CA that signed, whatever has changed meanwhile
	if len(csrDER) == 0 {
		if c.Role == node {
			return nil, invalid("certificate_request", "required: nodes call with certificates only")
		}
		key, hash, err := newAPIKey(s.random)
		if err != nil {
			return nil, err
		}
		issued.ApiKey, c.APIKeyHash = key, hash
		c.SignedBy, c.CertificateEnds = "", time.Time{}
		return issued, nil
	}
	cert, err := s.ca.SignClient(csrDER, c.Name, c.Generation, pki.ClientLife)
	if errors.Is(err, pki.ErrBadRequest) {
		return nil, invalid("certificate_request", "%v", err)
	}
	if err != nil {
		return nil, err
	}
	c.APIKeyHash, c.SignedBy, c.CertificateEnds = nil, s.ca.SignerOf(cert), cert.NotAfter
	issued.CertificatePem, issued.ExpiresAt = string(pki.EncodeCertificate(cert)), timestamppb.New(cert.NotAfter)
	return issued, nil
}

// RenewCertificate implements CredentialService.
func (s *Service) RenewCertificate(ctx context.Context, req *pb.RenewCertificateRequest) (*pb.RenewCertificateResponse, error) {
	c := callerFrom(ctx)
	if c.APIKeyHash != nil {
		return nil, invalid("certificate_request", "credential %s calls with an API key: let an admin reissue it", c.Name)
	}
	if len(req.GetCertificateRequest()) == 0 {
		return nil, invalid("certificate_request", "required, PKCS #10 in DER")
	}
	renewed := *c.Credential // of which equip changes nothing that is kept
	issued, err := s.equip(&renewed, req.GetCertificateRequest())
	if err != nil {
		return nil, err
	}
	note(ctx, slog.Time("expires_at", issued.GetExpiresAt().AsTime()))
	return &pb.RenewCertificateResponse{Issued: issued}, nil
}

func parseCredential(in *pb.Credential) (storage.Credential, error) {
	cred := storage.Credential{
		Name: in.GetName(), Role: roles[in.GetRole()], Tenants: in.GetTenants(), Audiences: in.GetAudiences(),
		TokensPerSecond: in.GetTokensPerSecond(),
	}
	if err := pki.CheckName(cred.Name); err != nil {
		return cred, invalid("credential.name", "%v", err)
	}
	if cred.Name == self {
		return cred, invalid("credential.name", "%q is what the audit trail calls the authority itself", self)
	}
	if in.GetDisabled() || in.GetCreatedAt() != nil || in.GetApiKey() || in.GetGeneration() != 0 {
		return cred, invalid("credential", "disabled, created_at, api_key and generation are the authority's to set")
	}
	if cred.Role == 0 {
		return cred, invalid("credential.role", "required: issuer, node, admin or viewer")
	}
	if cred.Role != issuer && (len(cred.Tenants) > 0 || in.GetMaxTtl() != nil || cred.TokensPerSecond > 0) {
		return cred, invalid("credential", "tenants, max_ttl and tokens_per_second are for issuers; the role is %s", roleName(cred.Role))
	}
	if len(cred.Audiences) > 0 && cred.Role != issuer && cred.Role != node {
		return cred, invalid("credential.audiences", "are for issuers and nodes; the role is %s", roleName(cred.Role))
	}
	if err := checkNames("credential.tenants", cred.Tenants, maxTenant); err != nil {
		return cred, err
	}
	if err := checkNames("credential.audiences", cred.Audiences, maxAudience); err != nil {
		return cred, err
	}
	var err error
	cred.MaxTTL, err = optionalDuration("credential.max_ttl", in.GetMaxTtl(), 0)
	if err == nil && cred.MaxTTL > 0 && cred.MaxTTL < time.Second {
		err = invalid("credential.max_ttl", "%v is below 1s", cred.MaxTTL)
	}
	return cred, err
}

func checkNames(field string, list []string, high int) error {
	if len(list) > maxScoped {
		return invalid(field, "%d are above %d", len(list), maxScoped)
	}
	for i, v := range list {
		if err := text(fmt.Sprintf("%s[%d]", field, i), v, 1, high); err != nil {
			return err
		}
	}
	return nil
}

var roles = map[pb.Role]storage.Role{
	pb.Role_ROLE_ISSUER: issuer, pb.Role_ROLE_NODE: node, pb.Role_ROLE_ADMIN: admin, pb.Role_ROLE_VIEWER: viewer,
}

func credentialOf(c *storage.Credential) *pb.Credential {
	out := &pb.Credential{
		Name: c.Name, Role: pb.Role(c.Role), Tenants: c.Tenants, Audiences: c.Audiences,
		TokensPerSecond: c.TokensPerSecond, Disabled: c.Disabled, CreatedAt: timestamppb.New(c.CreatedAt),
		ApiKey: c.APIKeyHash != nil, Generation: c.Generation,
	}
	if c.MaxTTL > 0 {
		out.MaxTtl = durationpb.New(c.MaxTTL)
	}
	return out
}
