package authority

import (
	"context"
	"encoding/base64"
	"log/slog"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gatehouse-ws/gatehouse/auditlog"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/token"
)

// conclude counts, audits and answers the attempts of a batch.
func (s *Service) conclude(ctx context.Context, b *batch, c *caller, now time.Time) *pb.RedeemResponse {
	granted, span := 0, s.spanOf(ctx)
	b.begun = auditlog.Begin(b.begun[:0], now, "Redeem")
	for i := range b.attempts {
		a, outcome := &b.attempts[i], "ok"
		if a.reason != 0 {
			outcome = a.reason.Label()
			s.metrics.redeemed.WithLabelValues(outcome).Inc()
		} else {
			granted++
		}
		s.auditRedeem(b, a, c, outcome, span, now)
		b.lines = s.auditReplaced(b.lines, a, now)
	}
	s.metrics.granted.Add(float64(granted))
	s.audit.add(b.lines, now)
	resp, grants := &pb.RedeemResponse{Results: make([]*pb.RedeemResult, len(b.attempts))}, make([]yes, granted)
	for i := range b.attempts {
		a := &b.attempts[i]
		if a.reason == 0 {
			resp.Results[i] = grants[0].say(a)
			grants = grants[1:]
			continue
		}
		s.strike(ctx, a, now)
		no := &pb.Refusal{Reason: a.reason}
		if a.reason == pb.Reason_REASON_SESSION_LIMIT {
			no.RetryAfter = durationpb.New(s.cfg.Fleet.RetryAfter)
		}
		resp.Results[i] = &pb.RedeemResult{Outcome: &pb.RedeemResult_Refusal{Refusal: no}}
	}
	return resp
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

// auditRedeem appends an attempt's line to those of its batch.
func (s *Service) auditRedeem(b *batch, a *attempt, c *caller, outcome string, span *trace.SpanContext, now time.Time) {
	var skipped uint64
	if a.reason != 0 {
		var ok bool
		if skipped, ok = s.sampler.allow(kind{of: "Redeem", outcome: outcome}, now); !ok {
			return
		}
	}
	var text [64]byte // above the longest address, whose zone the parser refuses
	l := auditlog.Line(append(b.lines, b.begun...))
	l = l.Bytes("token_id", token.ID(a.item.GetTokenId()).AppendTo(text[:0]))
	l = l.Hex("session_id", a.item.GetSessionId())
	l = l.Text("audience", a.item.GetAudience())
	l = l.Bytes("client_ip", a.ip.AppendTo(text[:0]))
	l = l.Text("caller", c.Name)
	if t := a.token; t != nil {
		l = l.Text("tenant", t.Tenant).Text("subject", t.Subject)
	}
	if a.renewal() {
		l = l.Hex("renews_session_id", a.renews[:])
	}
	if len(a.mismatches) > 0 {
		l = l.Text("mismatches", strings.Join(a.mismatches, ","))
	}
	if a.reason != 0 || len(a.mismatches) > 0 {
		l = l.Bytes("user_agent", a.userAgent).Bytes("origin", a.origin)
	}
	if len(a.cert) > 0 {
		l = l.Bytes("client_certificate", base64.RawURLEncoding.AppendEncode(text[:0], a.cert))
	}
	if skipped > 0 {
		l = l.Uint("skipped_before", skipped)
	}
	if span != nil {
		id := span.TraceID()
		l = l.Hex("trace_id", id[:])
	}
	b.lines = l.End(outcome)
}

// auditReplaced appends the lines of the sessions that have ended for an attempt's.
func (s *Service) auditReplaced(lines []byte, a *attempt, now time.Time) []byte {
	for i := range a.replaced {
		r := &a.replaced[i]
		var text [64]byte
		l := auditlog.Begin(lines, now, "SessionEnd")
		l = l.Hex("session_id", r.Key.ID[:])
		l = l.Bytes("token_id", token.ID(r.Token).AppendTo(text[:0]))
		l = l.Text("tenant", a.token.Tenant).Text("subject", a.token.Subject)
		l = l.Hex("replaced_by", a.item.GetSessionId())
		l = l.Uint("epoch", r.Entry.Revision.Epoch).Uint("revision", r.Entry.Revision.Sequence)
		l = l.Text("caller", self)
		lines = l.End(pb.Reason_REASON_SESSION_REPLACED.Label())
		s.metrics.replaced.Inc()
	}
	return lines
}

// strike counts refused mismatches against a token, and revokes it at the
// third: whoever holds it is not its owner.
func (s *Service) strike(ctx context.Context, a *attempt, now time.Time) {
	switch a.reason {
	case pb.Reason_REASON_IP_MISMATCH, pb.Reason_REASON_USER_AGENT_MISMATCH, pb.Reason_REASON_ORIGIN_MISMATCH,
		pb.Reason_REASON_CLIENT_CERTIFICATE_MISMATCH:
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
			attrs = append(attrs, revisionAttrs(e.Revision)...)
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
