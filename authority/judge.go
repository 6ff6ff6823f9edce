package authority

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"time"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/token"
)

// attempt is one item on its way through a batch.
type attempt struct {
	item       *pb.RedeemItem
	ip         netip.Addr
	userAgent  []byte
	origin     []byte
	cert       []byte // its SHA-256, or empty
	token      *storage.Token
	session    *storage.Session
	asOf       storage.Revision
	digest     token.Digest
	renews     storage.SessionID // zero for none
	replaced   []storage.Replaced
	late       bool      // its session is live: it may be a retry, whatever the time
	reason     pb.Reason // set once it is refused
	mismatches []string  // bindings that did not fit and were let pass
}

// redeemWait is how long a batch may wait for the store to decide it: by then
// handshakes have been told to come back, and must find their tokens unused.
const redeemWait = 5 * time.Second

// redeemBatch decides items. Its error fails the stream; what a hostile client
// can cause is a refusal of its item.
func (s *Service) redeemBatch(ctx context.Context, c *caller, instance storage.InstanceID, items []*pb.RedeemItem) (*pb.RedeemResponse, error) {
	now := s.now()
	s.metrics.batches.Inc()
	defer func() { s.metrics.batch(len(items), s.now().Sub(now)) }()
	ctx, end := s.tracing.batch(ctx, items)
	defer end()
	b := newBatch(len(items))
	for i, item := range items {
		if err := b.attempts[i].parse(item); err != nil {
			return nil, fmt.Errorf("items[%d].%w", i, err)
		}
		b.ids[i] = storage.TokenID(item.GetTokenId())
	}
	found, err := s.store.Lookup(ctx, b.ids)
	if err != nil {
		return nil, fmt.Errorf("look up %d tokens: %w", len(b.ids), err)
	}
	for i := range b.attempts {
		a := &b.attempts[i]
		a.token = found[i]
		a.reason = s.judge(a, c, now)
	}
	if err := s.judgeLateRetries(ctx, b.attempts, c, instance, now); err != nil {
		return nil, err
	}
	if err := s.judgeRenewals(ctx, b.attempts, instance); err != nil {
		return nil, err
	}
	if err := s.redeemStored(ctx, b, c, instance, now); err != nil {
		return nil, err
	}
	resp := s.conclude(ctx, b, c, now)
	b.release()
	return resp, nil
}

// judgeLateRetries lets a retry pass although its token has expired since: the
// session that the first try was granted is live, and only its node can end it.
// The store tells a retry from a new attempt, which it refuses, since the
// session id is taken.
func (s *Service) judgeLateRetries(ctx context.Context, attempts []attempt, c *caller, instance storage.InstanceID, now time.Time) error {
	var expired []*attempt
	var ids []storage.SessionID
	for i := range attempts {
		if a := &attempts[i]; a.reason == pb.Reason_REASON_TOKEN_EXPIRED {
			expired, ids = append(expired, a), append(ids, storage.SessionID(a.item.GetSessionId()))
		}
	}
	if len(ids) == 0 {
		return nil
	}
	live, err := s.store.Sessions(ctx, ids)
	if err != nil {
		return fmt.Errorf("look up %d sessions: %w", len(ids), err)
	}
	for i, x := range live {
		if a := expired[i]; x != nil && x.Token == a.token.ID && x.Instance == instance {
			a.late = true
			a.reason = s.judge(a, c, now)
		}
	}
	return nil
}

// redeemStored has the store decide what is not refused yet.
func (s *Service) redeemStored(ctx context.Context, b *batch, c *caller, instance storage.InstanceID, now time.Time) error {
	for i := range b.attempts {
		a := &b.attempts[i]
		if a.reason != 0 {
			continue
		}
		s.begin(&b.sessions[i], a, c, instance, now)
		b.redemptions = append(b.redemptions, storage.Redemption{
			Token: a.token, Session: &b.sessions[i],
			SubjectSessions: tighter(a.token.Limits.SessionsPerSubject, s.cfg.Sessions.PerSubject),
			TenantSessions:  s.cfg.Sessions.PerTenant,
			CloseOldest:     s.cfg.Sessions.AtLimit == CloseOldest, KeepReplaced: s.cfg.keepReplaced(), Renews: a.renews,
		})
		b.open = append(b.open, a)
	}
	if len(b.open) == 0 {
		return nil
	}
	attached := s.fleet.attached(instance)
	head, _ := s.store.Head() // before the decision, which therefore knows all of it
	within, done := context.WithTimeout(ctx, redeemWait)
	defer done()
	redeemed, err := s.store.Redeem(within, b.redemptions)
	if err != nil {
		return fmt.Errorf("redeem %d tokens: %w", len(b.open), err)
	}
	var ended []storage.SessionID
	for i, a := range b.open {
		r := &redeemed[i]
		a.replaced = r.Replaced
		if r.Err != nil {
			if errors.Is(r.Err, storage.ErrInstanceUnknown) {
				s.removeStale(instance, attached) // let it attach again
			}
			if a.reason, err = refusalOf(r.Err); err != nil {
				return err
			}
			continue
		}
		if s.unwanted.has(reported{instance, r.Session.ID}, c.Name) {
			a.reason = pb.Reason_REASON_SESSION_ENDED
			ended = append(ended, r.Session.ID)
			continue
		}
		a.session = r.Session
		// A retry is checked against everything up to now. The as_of of the first
		// decision may lie below all that the node still keeps, and would make it
		// ask for ever.
		if a.asOf = r.Session.AsOf; r.Retried && head.After(a.asOf) {
			a.asOf = head
		}
	}
	if len(ended) > 0 {
		if _, err := s.store.EndSessions(ctx, ended); err != nil {
			return fmt.Errorf("end %d sessions that nobody wants: %w", len(ended), err)
		}
	}
	return nil
}

// parse checks what a node, not its client, is answerable for.
func (a *attempt) parse(item *pb.RedeemItem) error {
	a.item = item
	if _, err := bytes16("token_id", item.GetTokenId()); err != nil {
		return err
	}
	if len(item.GetDigest()) != len(a.digest) {
		return invalid("digest", "%d bytes, want %d", len(item.GetDigest()), len(a.digest))
	}
	a.digest = token.Digest(item.GetDigest())
	if _, err := bytes16("session_id", item.GetSessionId()); err != nil {
		return err
	}
	if err := a.parseRenewal(); err != nil {
		return err
	}
	if n := len(item.GetSpan()); n != 0 && n != spanBytes {
		return invalid("span", "%d bytes, want %d, or none", n, spanBytes)
	}
	o := item.GetObserved()
	ip, ok := netip.AddrFromSlice(o.GetIp())
	if !ok {
		return invalid("observed.ip", "%d bytes, want 4 or 16", len(o.GetIp()))
	}
	a.ip = ip.Unmap()
	if n := len(o.GetUserAgent()); n > maxUserAgent {
		return invalid("observed.user_agent", "%d bytes are above %d", n, maxUserAgent)
	}
	if n := len(o.GetOrigin()); n > maxOrigin {
		return invalid("observed.origin", "%d bytes are above %d", n, maxOrigin)
	}
	if a.cert = o.GetClientCertificateSha256(); len(a.cert) != 0 && len(a.cert) != sha256.Size {
		return invalid("observed.client_certificate_sha256", "%d bytes, want %d, or none", len(a.cert), sha256.Size)
	}
	a.userAgent, a.origin = observed(o.GetUserAgent()), observed(o.GetOrigin())
	return text("audience", item.GetAudience(), 1, maxAudience)
}

// judge decides all that depends on the token alone, the secret first: whoever
// does not know it learns nothing and strikes nobody.
func (s *Service) judge(a *attempt, c *caller, now time.Time) pb.Reason {
	t := a.token
	if t == nil {
		return pb.Reason_REASON_TOKEN_UNKNOWN
	}
	switch {
	case !knowsSecret(t, &a.digest):
		return pb.Reason_REASON_TOKEN_SECRET_WRONG
	case !now.Before(s.expiryOf(t)) && !a.late:
		return pb.Reason_REASON_TOKEN_EXPIRED
	case now.Before(t.NotBefore):
		return pb.Reason_REASON_TOKEN_NOT_YET_ACTIVE
	case a.item.GetSingleUseOnly() && t.MaxUses > 1:
		return pb.Reason_REASON_TOKEN_CARRIER
	case t.Audience != a.item.GetAudience() || !c.mayAudience(t.Audience):
		return pb.Reason_REASON_AUDIENCE_MISMATCH
	case t.Origin != "" && t.Origin != string(a.origin):
		return s.mismatch(a, "origin", pb.Reason_REASON_ORIGIN_MISMATCH, false)
	case t.Certificate != "" && t.Certificate != string(a.cert):
		return s.mismatch(a, "client_certificate", pb.Reason_REASON_CLIENT_CERTIFICATE_MISMATCH, false)
	}
	if !s.agents.fits(t, a.userAgent) {
		if reason := s.mismatch(a, "user_agent", pb.Reason_REASON_USER_AGENT_MISMATCH, t.UserAgentBinding == storage.UserAgentLog); reason != 0 {
			return reason
		}
	}
	if !ipFits(t, a.ip) {
		if reason := s.mismatch(a, "ip", pb.Reason_REASON_IP_MISMATCH, t.IPBinding == storage.IPLog); reason != 0 {
			return reason
		}
	}
	return 0
}

// mismatch counts that a binding does not fit, and returns the reason to refuse
// for unless such are let pass.
func (s *Service) mismatch(a *attempt, binding string, reason pb.Reason, pass bool) pb.Reason {
	if pass {
		s.metrics.mismatches.WithLabelValues(binding, "let_pass").Inc()
		a.mismatches = append(a.mismatches, binding)
		return 0
	}
	s.metrics.mismatches.WithLabelValues(binding, "refused").Inc()
	return reason
}

func ipFits(t *storage.Token, ip netip.Addr) bool {
	switch t.IPBinding {
	case storage.IPOff:
		return true
	case storage.IPPrefix:
		bits := 64
		if t.ClientIP.Is4() {
			bits = 24
		}
		p, err := t.ClientIP.Prefix(bits)
		return err == nil && p.Contains(ip)
	}
	return t.ClientIP == ip
}

// begin makes x the session that a would open.
func (s *Service) begin(x *storage.Session, a *attempt, c *caller, instance storage.InstanceID, now time.Time) {
	t := a.token
	*x = storage.Session{
		ID: storage.SessionID(a.item.GetSessionId()), Token: t.ID,
		Tenant: t.Tenant, Subject: t.Subject, Audience: t.Audience, Issuer: t.Issuer,
		TokenIP: t.ClientIP, IssuedRevision: t.IssuedRevision,
		Node: c.Name, Instance: instance,
		ClientIP: a.ip, UserAgent: a.userAgent, Origin: a.origin, Certificate: a.cert,
		StartedAt: now, ExpiresAt: now.Add(min(t.SessionTTL, s.cfg.Sessions.MaxTTL)),
	}
}

// refusalOf is the reason for which the store refused one redemption, or the
// error that fails the batch.
func refusalOf(err error) (pb.Reason, error) {
	for _, row := range []struct {
		err    error
		reason pb.Reason
	}{
		{storage.ErrExpired, pb.Reason_REASON_TOKEN_EXPIRED},
		{storage.ErrUsed, pb.Reason_REASON_TOKEN_USED},
		{storage.ErrRevoked, pb.Reason_REASON_TOKEN_REVOKED},
		{storage.ErrLocked, pb.Reason_REASON_LOCKED},
		{storage.ErrSessionEnded, pb.Reason_REASON_SESSION_ENDED},
		{storage.ErrSessionTaken, pb.Reason_REASON_SESSION_ID_TAKEN},
		{storage.ErrSessionLimit, pb.Reason_REASON_SESSION_LIMIT},
	} {
		if errors.Is(err, row.err) {
			return row.reason, nil
		}
	}
	return 0, err
}
