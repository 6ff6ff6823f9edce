package authority

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/token"
)

// IssueToken implements TokenService.
func (s *Service) IssueToken(ctx context.Context, req *pb.IssueTokenRequest) (*pb.IssueTokenResponse, error) {
	s.receipts.giveWay()
	i := issuance{req: req}
	s.prepare(&i, callerFrom(ctx), s.now())
	if i.err == nil {
		inserted, err := s.store.Insert(s.carried(ctx), []*storage.Token{i.rec})
		if err == nil {
			i.issued, err = inserted[0].IssuedRevision, inserted[0].Err
		}
		if err != nil {
			i.err = fmt.Errorf("insert token %s: %w", i.token.ID, err)
		}
	}
	note(ctx, i.attrs()...)
	s.metrics.issued.WithLabelValues(i.outcome()).Inc()
	if i.err != nil {
		return nil, i.err
	}
	return i.response(), nil
}

// IssueTokens implements TokenService.
func (s *Service) IssueTokens(ctx context.Context, req *pb.IssueTokensRequest) (*pb.IssueTokensResponse, error) {
	c := callerFrom(ctx)
	n := len(req.GetRequests())
	if n == 0 || n > maxBatch {
		return nil, invalid("requests", "%d items are outside 1 to %d", n, maxBatch)
	}
	s.receipts.giveWay()
	now := s.now()
	items := make([]issuance, n)
	var ready []*issuance
	var recs []*storage.Token
	for i := range items {
		items[i].req = req.GetRequests()[i]
		if s.prepare(&items[i], c, now); items[i].err == nil {
			ready, recs = append(ready, &items[i]), append(recs, items[i].rec)
		}
	}
	err := s.insert(ctx, ready, recs)
	resp := &pb.IssueTokensResponse{Results: make([]*pb.IssueTokensResult, n)}
	refused := 0
	for i := range items {
		it := &items[i]
		if it.err != nil {
			refused++
			if err == nil && verdictOf(it.err).code == codes.Internal {
				s.log.ErrorContext(ctx, "issue token", "error", it.err)
			}
		}
		s.metrics.issued.WithLabelValues(it.outcome()).Inc()
		s.audit.record(now, "IssueToken", it.outcome(), s.inTrace(ctx, append(it.attrs(), slog.String("caller", c.Name), slog.String("peer", c.address)))...)
		resp.Results[i] = it.result()
	}
	note(ctx, slog.Int("tokens", n-refused), slog.Int("refused", refused))
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// insert stores what is ready to be. Its error is the whole batch's, and that
// of each item.
func (s *Service) insert(ctx context.Context, ready []*issuance, recs []*storage.Token) error {
	if len(ready) == 0 {
		return nil
	}
	inserted, err := s.store.Insert(s.carried(ctx), recs)
	if err != nil {
		err = fmt.Errorf("insert %d tokens: %w", len(recs), err)
		for _, it := range ready {
			it.err = err
		}
		return err
	}
	for i, it := range ready {
		if it.issued, it.err = inserted[i].IssuedRevision, inserted[i].Err; it.err != nil {
			it.err = fmt.Errorf("insert token %s: %w", it.token.ID, it.err)
		}
	}
	return nil
}

// issuance is one token on its way to its issuer.
type issuance struct {
	req    *pb.IssueTokenRequest
	rec    *storage.Token // nil where the request breaks a rule
	token  token.Token    // zero until it is drawn
	issued storage.Revision
	err    error // why there is no token
}

// prepare does all that comes before the store.
func (s *Service) prepare(i *issuance, c *caller, now time.Time) {
	rec, err := s.parseIssueToken(i.req, c, now)
	if err != nil {
		i.err = err
		return
	}
	i.rec = rec
	if i.err = takeQuota(c, now); i.err == nil {
		i.token, i.err = s.mint(rec, now)
	}
}

// mint draws the token of a parsed request and completes its record.
func (s *Service) mint(rec *storage.Token, now time.Time) (token.Token, error) {
	keys := s.keys.Load()
	t, err := keys.ring.Mint(keys.active(now), rec.ID.Expiry(), s.random)
	if err != nil {
		return token.Token{}, fmt.Errorf("mint token: %w", err)
	}
	d := t.Secret.Digest()
	rec.ID, rec.SecretHash = storage.TokenID(t.ID), d.Hash()
	return t, nil
}

func takeQuota(c *caller, now time.Time) error {
	if c.quota == nil || c.quota.AllowN(now, 1) {
		return nil
	}
	return fmt.Errorf("credential %s may issue %d tokens a second (%w)", c.Name, c.TokensPerSecond, errQuota)
}

func (i *issuance) outcome() string {
	if i.err == nil {
		return "ok"
	}
	return verdictOf(i.err).outcome()
}

func (i *issuance) result() *pb.IssueTokensResult {
	if i.err == nil {
		return &pb.IssueTokensResult{Outcome: &pb.IssueTokensResult_Token{Token: i.response()}}
	}
	v := verdictOf(i.err)
	return &pb.IssueTokensResult{Outcome: &pb.IssueTokensResult_Error{Error: &pb.ItemError{
		Code: int32(v.code), Reason: v.reason, Message: v.text,
	}}}
}

func (i *issuance) response() *pb.IssueTokenResponse {
	return &pb.IssueTokenResponse{
		Token:          string(i.token.AppendText(make([]byte, 0, token.TextSize))),
		TokenId:        i.token.ID.String(),
		ExpiresAt:      timestamppb.New(i.token.ID.Expiry()),
		IssuedRevision: revisionOf(i.issued),
	}
}

// attrs is what the audit trail says of it.
func (i *issuance) attrs() []slog.Attr {
	if i.rec == nil {
		return nil
	}
	attrs := make([]slog.Attr, 0, 8)
	if !i.token.ID.IsZero() {
		attrs = append(attrs, slog.String("token_id", i.token.ID.String()))
	}
	attrs = append(attrs,
		slog.String("tenant", i.rec.Tenant), slog.String("subject", i.rec.Subject), slog.String("audience", i.rec.Audience),
	)
	if i.rec.ClientIP.IsValid() {
		attrs = append(attrs, slog.String("client_ip", i.rec.ClientIP.String()))
	}
	if i.rec.Certificate != "" {
		attrs = append(attrs, slog.String("client_certificate", base64.RawURLEncoding.EncodeToString([]byte(i.rec.Certificate))))
	}
	return attrs
}

// parseIssueToken checks a request and fills the record that it asks for; of
// its id only the expiry.
func (s *Service) parseIssueToken(req *pb.IssueTokenRequest, c *caller, now time.Time) (*storage.Token, error) {
	rec := &storage.Token{
		Subject: req.GetSubject(), Tenant: req.GetTenant(), Audience: req.GetAudience(),
		Origin: req.GetOrigin(), Scopes: req.GetScopes(), Attributes: req.GetAttributes(),
		MaxUses: max(req.GetMaxUses(), 1), IssuedAt: now, Issuer: c.Name,
	}
	if err := text("subject", rec.Subject, 1, maxSubject); err != nil {
		return nil, err
	}
	if rec.Tenant == "" {
		if rec.Tenant = c.onlyTenant(); rec.Tenant == "" {
			rec.Tenant = DefaultTenant
		}
	}
	if err := tenant("tenant", rec.Tenant, c); err != nil {
		return nil, err
	}
	if err := text("audience", rec.Audience, 1, maxAudience); err != nil {
		return nil, err
	}
	if !c.mayAudience(rec.Audience) {
		return nil, denied("audience: credential %s may not issue for %q, only for %q", c.Name, rec.Audience, c.Audiences)
	}
	if rec.MaxUses > s.cfg.Tokens.MaxUses {
		return nil, invalid("max_uses", "%d is above %d, the authority's tokens.max_uses", rec.MaxUses, s.cfg.Tokens.MaxUses)
	}
	if err := s.parseBindings(req, rec); err != nil {
		return nil, err
	}
	if err := checkAttributes(rec.Attributes); err != nil {
		return nil, err
	}
	if len(rec.Scopes) > maxScopes {
		return nil, invalid("scopes", "%d are above %d", len(rec.Scopes), maxScopes)
	}
	for i, scope := range rec.Scopes {
		if err := text(fmt.Sprintf("scopes[%d]", i), scope, 1, maxScope); err != nil {
			return nil, err
		}
	}
	if l := req.GetLimits(); l != nil {
		rec.Limits = storage.SessionLimits{
			MessageBytes: l.GetMessageBytes(), MessagesPerSecond: l.GetMessagesPerSecond(), SessionsPerSubject: l.GetSessionsPerSubject(),
		}
	}
	if err := s.parseTimes(req, c, rec, now); err != nil {
		return nil, err
	}
	return rec, nil
}

func (s *Service) parseTimes(req *pb.IssueTokenRequest, c *caller, rec *storage.Token, now time.Time) error {
	ceiling, whose := s.cfg.Tokens.MaxTTL, "the authority's tokens.max_ttl"
	if c.MaxTTL > 0 && c.MaxTTL < ceiling {
		ceiling, whose = c.MaxTTL, "max_ttl of credential "+c.Name
	}
	ttl, err := optionalDuration("ttl", req.GetTtl(), min(s.cfg.Tokens.DefaultTTL, ceiling))
	if err != nil {
		return err
	}
	if ttl > ceiling {
		return invalid("ttl", "%v is above %v, %s", ttl, ceiling, whose)
	}
	if rec.SessionTTL, err = optionalDuration("session_ttl", req.GetSessionTtl(), s.cfg.Sessions.DefaultTTL); err != nil {
		return err
	}
	if rec.SessionTTL > s.cfg.Sessions.MaxTTL {
		return invalid("session_ttl", "%v is above %v, the authority's sessions.max_ttl", rec.SessionTTL, s.cfg.Sessions.MaxTTL)
	}
	if rec.NotBefore, err = optionalTime("not_before", req.GetNotBefore(), now); err != nil {
		return err
	}
	if rec.NotBefore.Before(now) {
		rec.NotBefore = now
	}
	if ahead := rec.NotBefore.Sub(now); ahead > ceiling {
		return invalid("not_before", "lies %v ahead, above %v, %s", ahead.Round(time.Second), ceiling, whose)
	}
	id, err := token.NewID(rec.NotBefore.Add(ttl), zeros{})
	if err != nil {
		return invalid("ttl", "%v", err)
	}
	rec.ID = storage.TokenID(id)
	return nil
}

// zeros stands for randomness in an id of which only the time counts.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func (s *Service) parseBindings(req *pb.IssueTokenRequest, rec *storage.Token) (err error) {
	if v := req.GetClientIp(); v != "" {
		if rec.ClientIP, err = addr("client_ip", v); err != nil {
			return err
		}
	}
	if len(req.GetUserAgent()) > maxUserAgent {
		return invalid("user_agent", "%d bytes are above %d: cut it as the node will", len(req.GetUserAgent()), maxUserAgent)
	}
	rec.UserAgent = observed(req.GetUserAgent())
	rec.Browser, rec.OS = s.agents.families(rec.UserAgent)
	if rec.Origin != "" {
		if err := origin("origin", rec.Origin); err != nil {
			return err
		}
	}
	rec.Certificate = string(req.GetClientCertificateSha256())
	if n := len(rec.Certificate); n != 0 && n != sha256.Size {
		return invalid("client_certificate_sha256", "%d bytes, want %d: the SHA-256 of the certificate in DER", n, sha256.Size)
	}

	var known bool
	if rec.IPBinding, known = ipBindings[req.GetIpBinding()]; !known {
		return invalid("ip_binding", "%d is not a value of the enum", req.GetIpBinding())
	}
	if !rec.ClientIP.IsValid() {
		if b := req.GetIpBinding(); b > pb.IpBinding_IP_BINDING_OFF {
			return invalid("client_ip", "required with ip_binding %v", b)
		}
		rec.IPBinding = storage.IPOff
	}
	if rec.UserAgentBinding, known = userAgentBindings[req.GetUserAgentBinding()]; !known {
		return invalid("user_agent_binding", "%d is not a value of the enum", req.GetUserAgentBinding())
	}
	if len(rec.UserAgent) == 0 {
		if b := req.GetUserAgentBinding(); b > pb.UserAgentBinding_USER_AGENT_BINDING_OFF {
			return invalid("user_agent", "required with user_agent_binding %v", b)
		}
		rec.UserAgentBinding = storage.UserAgentOff
	}
	return nil
}

var (
	ipBindings = map[pb.IpBinding]storage.IPBinding{
		pb.IpBinding_IP_BINDING_UNSPECIFIED: storage.IPLog,
		pb.IpBinding_IP_BINDING_OFF:         storage.IPOff,
		pb.IpBinding_IP_BINDING_LOG:         storage.IPLog,
		pb.IpBinding_IP_BINDING_PREFIX:      storage.IPPrefix,
		pb.IpBinding_IP_BINDING_STRICT:      storage.IPStrict,
	}
	userAgentBindings = map[pb.UserAgentBinding]storage.UserAgentBinding{
		pb.UserAgentBinding_USER_AGENT_BINDING_UNSPECIFIED: storage.UserAgentClass,
		pb.UserAgentBinding_USER_AGENT_BINDING_OFF:         storage.UserAgentOff,
		pb.UserAgentBinding_USER_AGENT_BINDING_LOG:         storage.UserAgentLog,
		pb.UserAgentBinding_USER_AGENT_BINDING_CLASS:       storage.UserAgentClass,
		pb.UserAgentBinding_USER_AGENT_BINDING_STRICT:      storage.UserAgentStrict,
	}
)

func checkAttributes(attributes map[string]string) error {
	if len(attributes) > maxAttributes {
		return invalid("attributes", "%d are above %d", len(attributes), maxAttributes)
	}
	total := 0
	for _, name := range slices.Sorted(maps.Keys(attributes)) {
		if err := text(fmt.Sprintf("attributes[%.64q]", name), name, 1, maxAttrName); err != nil {
			return err
		}
		if err := text("attributes["+name+"]", attributes[name], 0, maxAttrBytes); err != nil {
			return err
		}
		if total += len(name) + len(attributes[name]); total > maxAttrBytes {
			return invalid("attributes", "over %d bytes in all", maxAttrBytes)
		}
	}
	return nil
}
