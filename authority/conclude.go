package authority

import (
	"context"
	"encoding/hex"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/token"
)

// conclude counts and audits an attempt and answers it, a grant in y.
func (s *Service) conclude(ctx context.Context, a *attempt, y *yes, c *caller, now time.Time) *pb.RedeemResult {
	outcome := "ok"
	if a.reason != 0 {
		outcome = a.reason.Label()
	}
	s.metrics.redeemed.WithLabelValues(outcome).Inc()
	s.auditRedeem(a, c, outcome, now)
	if a.reason != 0 {
		s.strike(ctx, a, now)
		no := &pb.Refusal{Reason: a.reason}
		if a.reason == pb.Reason_REASON_SESSION_LIMIT {
			no.RetryAfter = durationpb.New(s.cfg.Fleet.RetryAfter)
		}
		return &pb.RedeemResult{Outcome: &pb.RedeemResult_Refusal{Refusal: no}}
	}
	return y.say(a)
}

// yes is a grant with all that it points to, so that those of a batch are one
// allocation and not seven each.
type yes struct {
	result  pb.RedeemResult
	outcome pb.RedeemResult_Grant
	grant   pb.Grant
	expires timestamppb.Timestamp
	issued  pb.Revision
	asOf    pb.Revision
	ip      [16]byte
}

func (y *yes) say(a *attempt) *pb.RedeemResult {
	t, end := a.token, a.session.ExpiresAt
	y.expires.Seconds, y.expires.Nanos = end.Unix(), int32(end.Nanosecond())
	y.issued.Epoch, y.issued.Sequence = t.IssuedRevision.Epoch, t.IssuedRevision.Sequence
	y.asOf.Epoch, y.asOf.Sequence = a.asOf.Epoch, a.asOf.Sequence
	g := &y.grant
	g.Tenant, g.Subject, g.Scopes, g.Attributes, g.Issuer = t.Tenant, t.Subject, t.Scopes, t.Attributes, t.Issuer
	g.SessionExpiresAt, g.IssuedRevision, g.AsOf = &y.expires, &y.issued, &y.asOf
	if t.Limits != (storage.SessionLimits{}) {
		g.Limits = sessionLimits(t.Limits)
	}
	switch {
	case t.ClientIP.Is4():
		ip := t.ClientIP.As4()
		g.ClientIp = y.ip[:copy(y.ip[:], ip[:])]
	case t.ClientIP.IsValid():
		y.ip = t.ClientIP.As16()
		g.ClientIp = y.ip[:]
	}
	y.outcome.Grant = g
	y.result.Outcome = &y.outcome
	return &y.result
}

func (s *Service) auditRedeem(a *attempt, c *caller, outcome string, now time.Time) {
	var skipped uint64
	if a.reason != 0 {
		var ok bool
		if skipped, ok = s.refusals.allow(refusal{"Redeem", outcome}, now); !ok {
			return
		}
	}
	attrs := make([]slog.Attr, 0, 13)
	attrs = append(attrs,
		slog.String("token_id", token.ID(a.item.GetTokenId()).String()),
		slog.String("session_id", hex.EncodeToString(a.item.GetSessionId())),
		slog.String("audience", a.item.GetAudience()),
		slog.String("client_ip", a.ip.String()),
		slog.String("caller", c.Name),
	)
	if t := a.token; t != nil {
		attrs = append(attrs, slog.String("tenant", t.Tenant), slog.String("subject", t.Subject))
	}
	if a.renewal() {
		attrs = append(attrs, slog.String("renews_session_id", hex.EncodeToString(a.renews[:])))
	}
	if len(a.mismatches) > 0 {
		attrs = append(attrs, slog.String("mismatches", strings.Join(a.mismatches, ",")))
	}
	if a.reason != 0 || len(a.mismatches) > 0 {
		attrs = append(attrs, slog.String("user_agent", string(a.userAgent)), slog.String("origin", string(a.origin)))
	}
	if skipped > 0 {
		attrs = append(attrs, slog.Uint64("skipped_before", skipped))
	}
	s.audit.record(now, "Redeem", outcome, attrs...)
}

// strike counts refused mismatches against a token, and revokes it at the
// third: whoever holds it is not its owner.
func (s *Service) strike(ctx context.Context, a *attempt, now time.Time) {
	switch a.reason {
	case pb.Reason_REASON_IP_MISMATCH, pb.Reason_REASON_USER_AGENT_MISMATCH, pb.Reason_REASON_ORIGIN_MISMATCH:
	default:
		return
	}
	if !s.strikes.add(a.token.ID) {
		return
	}
	// Once revoked is enough, however often the token comes back.
	st, err := s.store.Statuses(ctx, []*storage.Token{a.token})
	if err == nil && st[0].RevokedBy != (storage.Revision{}) {
		return
	}
	id := token.ID(a.token.ID).String()
	attrs := []slog.Attr{slog.String("token_id", id), slog.String("reason", struckReason), slog.String("caller", self)}
	outcome := "ok"
	if err == nil {
		var e storage.Entry
		if e, err = s.appendEntry(ctx, storage.Entry{
			Kind: storage.Revoke, Selector: storage.Selector{Token: a.token.ID}, Reason: struckReason, Actor: self,
		}); err == nil {
			attrs = append(attrs, slog.Uint64("revision", e.Revision.Sequence))
			s.metrics.revocations.WithLabelValues("token_id").Inc()
		}
	}
	if err != nil { // the next mismatch tries again
		outcome = verdictOf(err).outcome()
		s.log.ErrorContext(ctx, "revoke after mismatches", "token_id", id, "error", err)
	}
	s.audit.record(now, "Revoke", outcome, attrs...)
}

const (
	struckReason = "three refused mismatches"
	// self is the actor of what the authority does by itself. No credential has
	// this name.
	self = "authority"
)

// tighter is the smaller of two bounds, of which zero is none.
func tighter(a, b uint32) uint32 {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}
