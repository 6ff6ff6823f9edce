package authority

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/token"
)

// redeemWindow is how many batches of one stream are under way at once.
const redeemWindow = 16

// Redeem implements NodeService. Batches are decided side by side, so that one
// commit takes many, and answered in their order.
func (s *Service) Redeem(stream pb.NodeService_RedeemServer) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	instance, err := s.openRedeem(stream, callerFrom(ctx))
	if err != nil {
		return err
	}
	pending := make(chan chan *pb.RedeemResponse, redeemWindow)
	read := make(chan error, 1)
	s.streams.Go(func() { // ends when the stream does: Recv fails then
		defer close(pending)
		err := s.takeBatches(ctx, cancel, stream, instance, pending)
		read <- err
		if err != nil {
			cancel(err)
		}
	})
	if err = sendInOrder(ctx, stream, pending); err == nil {
		err = context.Cause(ctx) // nil too where the node closed its side
	}
	return firstCause(err, read)
}

// sendInOrder sends answers as they come, until there are no more.
func sendInOrder(ctx context.Context, stream pb.NodeService_RedeemServer, pending <-chan chan *pb.RedeemResponse) error {
	for {
		var answer chan *pb.RedeemResponse
		select {
		case next, more := <-pending:
			if !more {
				return nil
			}
			answer = next
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		select {
		case resp := <-answer:
			if err := stream.Send(resp); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// firstCause is why a stream has ended: if grpc has ended it, then what the
// goroutine that reads it was told, and that goroutine ends too.
func firstCause(err error, read <-chan error) error {
	if errors.Is(err, context.Canceled) {
		if told := <-read; told != nil {
			return told
		}
	}
	return err
}

// takeBatches starts to decide each batch that comes, and hands on where its
// answer will be, until the node closes its side.
func (s *Service) takeBatches(ctx context.Context, cancel context.CancelCauseFunc, stream pb.NodeService_RedeemServer, instance storage.InstanceID, pending chan<- chan *pb.RedeemResponse) error {
	c := callerFrom(ctx)
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if n := len(req.GetItems()); n == 0 || n > maxBatch || req.GetHello() != nil {
			return invalid("items", "%d are outside 1 to %d, or came with a second hello", n, maxBatch)
		}
		answer := make(chan *pb.RedeemResponse, 1)
		select {
		case pending <- answer:
		case <-ctx.Done():
			return nil
		}
		s.streams.Go(func() { // ends when the batch is decided, whatever ctx does
			var err error
			defer func() {
				if err != nil {
					cancel(err)
				}
			}()
			defer s.recoverPanic(ctx, pb.NodeService_Redeem_FullMethodName, &err)
			var resp *pb.RedeemResponse
			if resp, err = s.redeemBatch(s.carried(ctx), c, instance, req.GetItems()); err == nil {
				answer <- resp
			}
		})
	}
}

func (s *Service) openRedeem(stream pb.NodeService_RedeemServer, c *caller) (storage.InstanceID, error) {
	req, err := stream.Recv()
	if err != nil {
		return storage.InstanceID{}, noHello(err)
	}
	if req.GetHello() == nil || len(req.GetItems()) != 0 {
		return storage.InstanceID{}, invalid("hello", "required in the first message, which has no items")
	}
	if err := checkHello(req.GetHello().GetHello()); err != nil {
		return storage.InstanceID{}, err
	}
	id, err := bytes16("hello.instance_id", req.GetHello().GetInstanceId())
	if err != nil {
		return id, err
	}
	if !s.fleet.registered(id, c.Name) {
		return id, errNotAttached
	}
	return id, stream.Send(&pb.RedeemResponse{Hello: hello()})
}

// attempt is one item on its way through a batch.
type attempt struct {
	item       *pb.RedeemItem
	ip         netip.Addr
	userAgent  []byte
	origin     []byte
	token      *storage.Token
	session    *storage.Session
	asOf       storage.Revision
	digest     token.Digest
	renews     storage.SessionID // zero for none
	late       bool              // its session is live: it may be a retry, whatever the time
	reason     pb.Reason         // set once it is refused
	mismatches []string          // bindings that did not fit and were let pass
}

// redeemBatch decides items. Its error fails the stream; what a hostile client
// can cause is a refusal of its item.
func (s *Service) redeemBatch(ctx context.Context, c *caller, instance storage.InstanceID, items []*pb.RedeemItem) (*pb.RedeemResponse, error) {
	now := s.now()
	s.metrics.batches.Inc()
	defer func() { s.metrics.batch(len(items), s.now().Sub(now)) }()
	ctx, end := s.tracing.batch(ctx, len(items))
	defer end()
	attempts := make([]attempt, len(items))
	ids := make([]storage.TokenID, len(items))
	for i, item := range items {
		if err := attempts[i].parse(item); err != nil {
			return nil, fmt.Errorf("items[%d].%w", i, err)
		}
		ids[i] = storage.TokenID(item.GetTokenId())
	}
	found, err := s.store.Lookup(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("look up %d tokens: %w", len(ids), err)
	}
	for i := range attempts {
		attempts[i].token = found[i]
		attempts[i].reason = s.judge(&attempts[i], c, now)
	}
	if err := s.judgeLateRetries(ctx, attempts, c, instance, now); err != nil {
		return nil, err
	}
	if err := s.judgeRenewals(ctx, attempts, instance); err != nil {
		return nil, err
	}
	if err := s.redeemStored(ctx, attempts, c, instance, now); err != nil {
		return nil, err
	}
	resp := &pb.RedeemResponse{Results: make([]*pb.RedeemResult, len(attempts))}
	grants := make([]yes, len(attempts))
	for i := range attempts {
		resp.Results[i] = s.conclude(ctx, &attempts[i], &grants[i], c, now)
	}
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
func (s *Service) redeemStored(ctx context.Context, attempts []attempt, c *caller, instance storage.InstanceID, now time.Time) error {
	batch := make([]storage.Redemption, 0, len(attempts))
	places := make([]*attempt, 0, len(attempts))
	sessions := make([]storage.Session, len(attempts))
	for i := range attempts {
		a := &attempts[i]
		if a.reason != 0 {
			continue
		}
		sessions[i] = s.sessionOf(a, c, instance, now)
		batch = append(batch, storage.Redemption{
			Token: a.token, Session: &sessions[i],
			SubjectSessions: a.room(tighter(a.token.Limits.SessionsPerSubject, s.cfg.Sessions.PerSubject)),
			TenantSessions:  a.room(s.cfg.Sessions.PerTenant),
		})
		places = append(places, a)
	}
	if len(batch) == 0 {
		return nil
	}
	attached := s.fleet.attached(instance)
	head, _ := s.store.Head() // before the decision, which therefore knows all of it
	redeemed, err := s.store.Redeem(ctx, batch)
	if err != nil {
		return fmt.Errorf("redeem %d tokens: %w", len(batch), err)
	}
	var ended []storage.SessionID
	for i, a := range places {
		r := &redeemed[i]
		if r.Err != nil {
			if errors.Is(r.Err, storage.ErrInstanceUnknown) {
				s.removeStale(instance, attached) // let it attach again
			}
			if a.reason, err = refusalOf(r.Err); err != nil {
				return err
			}
			continue
		}
		if s.unwanted.has(reported{instance, r.Session.ID}) {
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

func (s *Service) sessionOf(a *attempt, c *caller, instance storage.InstanceID, now time.Time) storage.Session {
	t := a.token
	return storage.Session{
		ID: storage.SessionID(a.item.GetSessionId()), Token: t.ID,
		Tenant: t.Tenant, Subject: t.Subject, Audience: t.Audience, Issuer: t.Issuer,
		TokenIP: t.ClientIP, IssuedRevision: t.IssuedRevision,
		Node: c.Name, Instance: instance,
		ClientIP: a.ip, UserAgent: a.userAgent, Origin: a.origin,
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
		return &pb.RedeemResult{Outcome: &pb.RedeemResult_Refusal{Refusal: &pb.Refusal{Reason: a.reason}}}
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
