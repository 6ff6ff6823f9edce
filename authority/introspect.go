package authority

import (
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/token"
)

// IntrospectToken implements TokenService.
func (s *Service) IntrospectToken(ctx context.Context, req *pb.IntrospectTokenRequest) (*pb.IntrospectTokenResponse, error) {
	c := callerFrom(ctx)
	if req.GetToken() == "" {
		return nil, invalid("token", "required, a token's text")
	}
	inactive := &pb.IntrospectTokenResponse{}
	var t token.Token
	if err := token.Parse([]byte(req.GetToken()), &t); err != nil {
		note(ctx, slog.String("state", "malformed"))
		return inactive, nil
	}
	note(ctx, slog.String("token_id", t.ID.String()))
	rec, err := s.lookup(ctx, storage.TokenID(t.ID))
	if err != nil {
		return nil, err
	}
	d := t.Secret.Digest()
	// The stored hash decides; the tag is for nodes, and its key may be gone.
	switch {
	case rec == nil:
		note(ctx, slog.String("state", "unknown"))
		return inactive, nil
	case !knowsSecret(rec, &d):
		note(ctx, slog.String("state", "secret_wrong"))
		return inactive, nil
	case !c.mayTenant(rec.Tenant):
		note(ctx, slog.String("state", "out_of_reach"))
		return inactive, nil
	}
	info, err := s.describe(ctx, []*storage.Token{rec}, s.now())
	if err != nil {
		return nil, err
	}
	note(ctx, slog.String("state", stateLabel(info[0].GetState())))
	if info[0].GetState() != pb.TokenState_TOKEN_STATE_ACTIVE {
		return inactive, nil
	}
	return &pb.IntrospectTokenResponse{Active: true, Token: info[0]}, nil
}

// GetToken implements TokenService.
func (s *Service) GetToken(ctx context.Context, req *pb.GetTokenRequest) (*pb.GetTokenResponse, error) {
	c := callerFrom(ctx)
	id, err := tokenID("token_id", req.GetTokenId())
	if err != nil {
		return nil, err
	}
	note(ctx, slog.String("token_id", token.ID(id).String()))
	rec, err := s.lookup(ctx, id)
	if err != nil {
		return nil, err
	}
	if rec == nil || !c.mayTenant(rec.Tenant) {
		return nil, notFound("no token has the id %s, or it expired and was forgotten", token.ID(id))
	}
	info, err := s.describe(ctx, []*storage.Token{rec}, s.now())
	if err != nil {
		return nil, err
	}
	return &pb.GetTokenResponse{Token: info[0]}, nil
}

// describeStep is how many tokens ListTokens describes at once.
const describeStep = 32

// ListTokens implements TokenService.
func (s *Service) ListTokens(ctx context.Context, req *pb.ListTokensRequest) (*pb.ListTokensResponse, error) {
	c := callerFrom(ctx)
	now := s.now()
	q, err := parseListTokens(req, c, now)
	if err != nil {
		return nil, err
	}
	page, err := s.store.ListTokens(ctx, q)
	if err != nil {
		return nil, fmt.Errorf("list tokens: %w", err)
	}
	resp := &pb.ListTokensResponse{}
	bytes, left := 0, page.Tokens
	for len(left) > 0 { // some at a time: a token may have opened thousands of sessions
		some := left[:min(describeStep, len(left))]
		left = left[len(some):]
		info, err := s.describe(ctx, some, now)
		if err != nil {
			return nil, err
		}
		for i, t := range info {
			if req.GetState() != 0 && t.GetState() != req.GetState() || !c.mayTenant(some[i].Tenant) {
				continue
			}
			if bytes += proto.Size(t); bytes > maxPageBytes && len(resp.Tokens) > 0 {
				last, _ := token.ParseID(resp.Tokens[len(resp.Tokens)-1].GetTokenId())
				page.More, page.Next, left = true, storage.TokenID(last), nil
				break
			}
			resp.Tokens = append(resp.Tokens, t)
		}
	}
	if page.More {
		resp.NextPageToken = pageToken(page.Next[:])
	}
	note(ctx, slog.Int("tokens", len(resp.Tokens)))
	return resp, nil
}

func parseListTokens(req *pb.ListTokensRequest, c *caller, now time.Time) (q storage.TokenQuery, err error) {
	q = storage.TokenQuery{
		Tenant: req.GetTenant(), Subject: req.GetSubject(), Audience: req.GetAudience(), Issuer: req.GetIssuer(), Since: now,
	}
	if q.Tenant == "" {
		q.Tenant = c.onlyTenant()
	} else if err := tenant("tenant", q.Tenant, c); err != nil {
		return q, err
	}
	if v := req.GetIpPrefix(); v != "" {
		if q.Prefix, err = prefix("ip_prefix", v); err != nil {
			return q, err
		}
	}
	if _, ok := pb.TokenState_name[int32(req.GetState())]; !ok {
		return q, invalid("state", "%d is not a value of the enum", req.GetState())
	}
	if q.Limit, err = pageSize(req.GetPageSize()); err != nil {
		return q, err
	}
	after, err := parsePageToken(req.GetPageToken(), len(q.After))
	if err != nil {
		return q, err
	}
	q.After = storage.TokenID(after)
	return q, nil
}

// knowsSecret reports whether a digest is that of a token's secret, in constant
// time.
func knowsSecret(t *storage.Token, d *token.Digest) bool {
	hash := token.SecretHash(t.SecretHash)
	return hash.Matches(d)
}

// lookup finds a record; nil where there is none.
func (s *Service) lookup(ctx context.Context, id storage.TokenID) (*storage.Token, error) {
	found, err := s.store.Lookup(ctx, []storage.TokenID{id})
	if err != nil {
		return nil, fmt.Errorf("look up token %s: %w", token.ID(id), err)
	}
	return found[0], nil
}

// describe tells all that is known of tokens.
func (s *Service) describe(ctx context.Context, tokens []*storage.Token, now time.Time) ([]*pb.Token, error) {
	statuses, err := s.store.Statuses(ctx, tokens)
	if err != nil {
		return nil, fmt.Errorf("look up the state of %d tokens: %w", len(tokens), err)
	}
	out := make([]*pb.Token, len(tokens))
	for i, t := range tokens {
		out[i] = s.describeToken(t, &statuses[i], now)
	}
	return out, nil
}

func (s *Service) describeToken(t *storage.Token, st *storage.TokenStatus, now time.Time) *pb.Token {
	info := &pb.Token{
		TokenId: token.ID(t.ID).String(), State: s.stateOf(t, st, now),
		Tenant: t.Tenant, Subject: t.Subject, Audience: t.Audience,
		UserAgent: t.UserAgent, Browser: t.Browser, Os: t.OS, Origin: t.Origin,
		Attributes: t.Attributes, Scopes: t.Scopes,
		MaxUses: t.MaxUses, Uses: st.Uses,
		IssuedAt: timestamppb.New(t.IssuedAt), NotBefore: timestamppb.New(t.NotBefore), ExpiresAt: timestamppb.New(s.expiryOf(t)),
		SessionTtl: durationpb.New(t.SessionTTL), Issuer: t.Issuer, IssuedRevision: revisionOf(t.IssuedRevision),
		IpBinding: pb.IpBinding(t.IPBinding), UserAgentBinding: pb.UserAgentBinding(t.UserAgentBinding),
	}
	if t.Certificate != "" {
		info.ClientCertificateSha256 = []byte(t.Certificate)
	}
	if t.ClientIP.IsValid() {
		info.ClientIp = t.ClientIP.String()
	}
	if t.Limits != (storage.SessionLimits{}) {
		info.Limits = sessionLimits(t.Limits)
	}
	if st.RevokedBy != (storage.Revision{}) {
		info.RevokedBy = revisionOf(st.RevokedBy)
	}
	if st.Lock != (storage.LockID{}) {
		info.LockId = hex.EncodeToString(st.Lock[:])
	}
	for _, id := range st.Sessions {
		info.SessionIds = append(info.SessionIds, hex.EncodeToString(id[:]))
	}
	return info
}

func sessionLimits(l storage.SessionLimits) *pb.SessionLimits {
	return &pb.SessionLimits{
		MessageBytes: l.MessageBytes, MessagesPerSecond: l.MessagesPerSecond, SessionsPerSubject: l.SessionsPerSubject,
	}
}

// expiryOf is until when a token may open sockets: its own expiry, or earlier
// where the ceiling was lowered since. Entries of the log are kept by the
// ceiling, so nothing may outlive it.
func (s *Service) expiryOf(t *storage.Token) time.Time {
	ceiling := t.NotBefore.Add(s.cfg.Tokens.MaxTTL)
	if own := t.ID.Expiry(); own.Before(ceiling) {
		return own
	}
	return ceiling
}

// stateLabel is a state as the audit trail writes it.
func stateLabel(state pb.TokenState) string {
	return strings.ToLower(strings.TrimPrefix(state.String(), "TOKEN_STATE_"))
}

func (s *Service) stateOf(t *storage.Token, st *storage.TokenStatus, now time.Time) pb.TokenState {
	switch {
	case st.RevokedBy != (storage.Revision{}):
		return pb.TokenState_TOKEN_STATE_REVOKED
	case st.Lock != (storage.LockID{}):
		return pb.TokenState_TOKEN_STATE_LOCKED
	case st.Uses >= t.MaxUses:
		return pb.TokenState_TOKEN_STATE_USED
	case !now.Before(s.expiryOf(t)):
		return pb.TokenState_TOKEN_STATE_EXPIRED
	case now.Before(t.NotBefore):
		return pb.TokenState_TOKEN_STATE_NOT_YET_ACTIVE
	}
	return pb.TokenState_TOKEN_STATE_ACTIVE
}
