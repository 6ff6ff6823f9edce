package wsnode

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/gobwas/ws"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/token"
	"github.com/gatehouse-ws/gatehouse/wsnode/deliver"
	"github.com/gatehouse-ws/gatehouse/wsnode/netloop"
	"github.com/gatehouse-ws/gatehouse/wsnode/verify"
	"github.com/gatehouse-ws/gatehouse/wsnode/wsconn"
)

// peer is one connection: the order in which it meets its checks, then its
// session. It is the Machine of its driver and the Sink of its protocol, and
// does its work in their turns.
type peer struct {
	// set at construction
	n     *Node
	link  netloop.Link
	id    [16]byte // of the handshake, then of the session
	addr  netip.Addr
	began time.Time
	// early refuses as soon as there is a request to answer; counted says whether
	// the limits count this socket.
	early   pb.Reason
	counted bool

	// owned by the turn
	conn        wsconn.Conn
	limits      wsconn.Limits // of the session, where its token has its own
	now         time.Time     // of the turn
	route       *route
	subprotocol string          // to be answered; empty for none
	token       token.Token     // id and key only, once parsed
	attempt     *verify.Attempt // to be redeemed after the turn's Feed
	reason      pb.Reason       // to refuse with after the turn's Feed
	retry       time.Duration
	session     *session // from the grant on
	admitted    bool     // counts as authenticated
	heard       time.Time
	pinged      time.Time // when a ping was sent that has no answer; zero for none
	peerCode    ws.StatusCode
	seen        seen
}

// seen is what is logged of a handshake: bounded and scrubbed of tokens.
type seen struct{ path, origin, userAgent string }

const (
	maxSeen     = 256 // bytes of a logged string
	maxObserved = 512 // bytes of a header that is sent to the authority
)

// Feed implements netloop.Machine.
func (p *peer) Feed(in []byte, now time.Time, out []byte) []byte {
	p.now, p.heard, p.pinged = now, now, time.Time{}
	if p.session != nil && p.session.dead.Load() && p.conn.State() == wsconn.StateOpen {
		return out // discarded: the turn that closes it is on its way
	}
	out, err := p.conn.Feed(in, now, p, out)
	return p.afterFeed(err, out)
}

func (p *peer) afterFeed(err error, out []byte) []byte {
	switch {
	case err != nil:
		return p.fail(err, out)
	case p.reason != 0:
		return p.refuse(p.reason, p.retry, out)
	case p.attempt != nil:
		a := p.attempt
		p.attempt = nil
		p.n.verify.Redeem(a)
	}
	return out
}

// fail ends the connection over an error of the protocol or of a check.
func (p *peer) fail(err error, out []byte) []byte {
	if p.session == nil {
		return p.refuse(openingReason(err), 0, out)
	}
	return p.close(err, out)
}

// Deadline implements netloop.Machine.
func (p *peer) Deadline() time.Time {
	at := p.conn.Deadline()
	if p.conn.State() != wsconn.StateOpen {
		return at
	}
	next := p.heard.Add(p.n.cfg.Sockets.PingInterval)
	if !p.pinged.IsZero() {
		next = p.pinged.Add(p.n.cfg.Sockets.PongTimeout)
	}
	for _, other := range []time.Time{next, p.session.expires} {
		if at.IsZero() || other.Before(at) {
			at = other
		}
	}
	return at
}

// Expire implements netloop.Machine.
func (p *peer) Expire(now time.Time, out []byte) []byte {
	p.now = now
	if err := p.conn.Expire(now); err != nil {
		return p.fail(err, out)
	}
	if p.conn.State() != wsconn.StateOpen {
		return out
	}
	switch {
	case !now.Before(p.session.expires):
		return p.close(errSessionExpired, out)
	case !p.pinged.IsZero() && !now.Before(p.pinged.Add(p.n.cfg.Sockets.PongTimeout)):
		return p.close(errIdle, out)
	case p.pinged.IsZero() && !now.Before(p.heard.Add(p.n.cfg.Sockets.PingInterval)):
		p.pinged = now
		return p.conn.Ping(nil, out)
	}
	return out
}

// Overflow implements netloop.Machine.
func (p *peer) Overflow(now time.Time, out []byte) []byte {
	p.now = now
	out = p.close(errSlowReader, out)
	p.conn.Release()
	return out
}

// Done implements netloop.Machine.
func (p *peer) Done() bool { return p.conn.State() == wsconn.StateClosed }

// Gone implements netloop.Machine.
func (p *peer) Gone(err error, now time.Time) {
	p.now = now
	if p.session != nil {
		p.end(errConnectionLost) // unless it has ended already
	} else if err != nil {
		p.n.log.Debug("connection ended before its handshake", "handshake_id", p.handshakeID(), "client_ip", p.addr.String(), "error", err)
	}
	p.conn.Release()
	p.n.gone(p.addr, p.counted, p.admitted)
}

// Opening implements wsconn.Sink: the checks that the node makes alone, each
// with its own refusal.
func (p *peer) Opening(r *wsconn.Request) {
	p.seen = seen{path: clean(r.Path), origin: clean(r.Origin), userAgent: clean(r.UserAgent)}
	if p.route = p.n.routes[string(r.Path)]; p.route != nil {
		p.subprotocol = p.route.choose(r) // a refusal by close must answer it too
	}
	if p.reason = p.early; p.reason != 0 {
		return
	}
	if p.route == nil {
		p.reason = pb.Reason_REASON_ROUTE_UNKNOWN
		return
	}
	if p.reason = p.route.originReason(r); p.reason != 0 {
		return
	}
	var text []byte
	if text, p.reason = p.route.carriers(r, p.subprotocol); p.reason != 0 {
		return
	}
	if p.reason = p.checkToken(text); p.reason != 0 {
		return
	}
	p.attempt = &verify.Attempt{
		Token: p.token.ID, Digest: p.token.Secret.Digest(), Session: p.id, Audience: p.route.Audience, ClientIP: p.addr,
		UserAgent: bytes.Clone(r.UserAgent[:min(len(r.UserAgent), maxObserved)]),
		Origin:    bytes.Clone(r.Origin[:min(len(r.Origin), maxObserved)]),
	}
	p.attempt.Done = func(o verify.Outcome) { p.redeemed(o) }
	p.token.Secret = token.Secret{}
}

// checkToken throws away what is no token of ours, or an expired one.
func (p *peer) checkToken(text []byte) pb.Reason {
	if err := token.Parse(text, &p.token); err != nil {
		return pb.Reason_REASON_TOKEN_MALFORMED
	}
	if err := p.n.verify.Ring().Verify(&p.token); err != nil {
		p.token = token.Token{} // its id means nothing
		return pb.Reason_REASON_TOKEN_FORGED
	}
	if p.n.verify.Expired(p.token.ID, p.now) {
		return pb.Reason_REASON_TOKEN_EXPIRED
	}
	return 0
}

// redeemed takes the authority's answer to the connection's next turn.
func (p *peer) redeemed(o verify.Outcome) {
	if !p.link.Post(func(now time.Time, out []byte) []byte {
		p.now = now
		return p.conclude(o, out)
	}) {
		p.n.giveBack(o, p.id, time.Now())
	}
}

// conclude answers the handshake. The grant is checked in this turn against
// what was revoked since, after the session can be found by whoever enforces.
func (p *peer) conclude(o verify.Outcome, out []byte) []byte {
	if p.conn.State() != wsconn.StateVerifying {
		p.n.giveBack(o, p.id, p.now)
		return out
	}
	if o.Grant == nil {
		return p.refuse(o.Reason, o.RetryAfter, out)
	}
	d := p.n.addresses.Authenticated(p.addr)
	p.n.countDry(d)
	if !d.Allow {
		p.n.metrics.dropped[d.Rule].Inc()
		p.n.giveBack(o, p.id, p.now)
		return p.refuse(pb.Reason_REASON_ADDRESS_LIMIT, d.RetryAfter, out)
	}
	p.admitted = true
	s := newSession(p, o.Grant)
	p.n.sessions.add(s)
	if reason := p.standing(o.Grant); reason != 0 {
		p.n.sessions.remove(s)
		p.n.verify.Ended(p.id, reason, p.now)
		return p.refuse(reason, 0, out)
	}
	out, err := p.conn.Accept(p.subprotocol, out)
	if err != nil {
		p.n.sessions.remove(s)
		p.n.verify.Ended(p.id, pb.Reason_REASON_HANDSHAKE_MALFORMED, p.now)
		return p.refuse(pb.Reason_REASON_HANDSHAKE_MALFORMED, 0, out)
	}
	p.open(s)
	out, err = p.conn.Feed(nil, p.now, p, out)
	return p.afterFeed(err, out)
}

// standing is why a grant does not hold any more, or 0.
func (p *peer) standing(g *verify.Grant) pb.Reason {
	switch p.n.verify.Standing(g) {
	case verify.Ended:
		return pb.Reason_REASON_TOKEN_REVOKED
	case verify.Unknown:
		return pb.Reason_REASON_FENCED
	}
	switch {
	case p.n.verify.Ready() != nil:
		return pb.Reason_REASON_FENCED
	case p.n.draining.Load():
		return pb.Reason_REASON_DRAINING
	}
	return 0
}

// open puts the session into force.
func (p *peer) open(s *session) {
	p.session = s
	p.limits = p.n.limits
	if m := int(s.grant.Limits.MessageBytes); m > 0 {
		p.limits.MessageBytes = min(p.limits.MessageBytes, max(m, ws.MaxControlFramePayloadSize))
	}
	p.conn.Limit(&p.limits)
	p.heard = p.now
	p.n.metrics.handshakes.Inc()
	p.n.log.Info("session opened", "session_id", p.handshakeID(), "token_id", s.grant.Identity.Token.String(),
		"tenant", s.grant.Identity.Tenant, "subject", s.grant.Identity.Subject, "path", p.seen.path,
		"client_ip", p.addr.String(), "took", p.now.Sub(p.began))
	p.n.handler.Opened(s.handle())
}

// Message implements wsconn.Sink.
func (p *peer) Message(op ws.OpCode, payload, out []byte) ([]byte, error) {
	s := p.session
	if s.dead.Load() {
		return out, errRevoked // closed with its own cause, which is on its way
	}
	if !s.rate.Allow(p.now, 1) {
		if !p.n.cfg.Limits.Messages.DryRun {
			return out, errRate
		}
		p.n.metrics.dry.WithLabelValues("messages").Inc()
	}
	if err := p.check(op, payload); err != nil {
		return out, err
	}
	p.n.metrics.messages.Inc()
	err := s.deliver(deliver.Op(op), payload)
	out = s.takeReplies(out)
	if err != nil {
		return out, errors.Join(errHandler, err)
	}
	return out, s.closing()
}

// check decides whether a message may pass.
func (p *peer) check(op ws.OpCode, payload []byte) error {
	if op == ws.OpBinary && !p.route.Binary {
		return errBinary
	}
	scopes := p.session.grant.Scopes
	if p.route.checks == nil {
		if len(scopes) > 0 { // the type of an unchecked message is not known
			return errScope
		}
		return nil
	}
	kind, err := p.route.checks.Check(payload)
	if err != nil {
		return err
	}
	if len(scopes) > 0 && !slices.Contains(scopes, kind) {
		return errScope
	}
	return nil
}

// PeerClose implements wsconn.Sink.
func (p *peer) PeerClose(code ws.StatusCode, reason []byte) { p.peerCode = code }

// close ends the session and begins the closing handshake.
func (p *peer) close(cause error, out []byte) []byte {
	if p.session == nil {
		return p.conn.Close(0, "", p.now, out)
	}
	rule := closeFor(cause)
	code, text := rule.code, rule.text
	if errors.Is(cause, errApplication) {
		code, text = p.session.closeCode, p.session.closeText
	}
	out = p.session.takeReplies(out)
	out = p.conn.Close(code, text, p.now, out)
	p.end(cause)
	return out
}

// end reports the session's end, once.
func (p *peer) end(cause error) {
	s := p.session
	s.dead.Store(true)
	if !p.n.sessions.remove(s) {
		return
	}
	rule := closeFor(cause)
	code := rule.code
	switch {
	case errors.Is(cause, errApplication):
		code = s.closeCode
	case rule.reason == pb.Reason_REASON_PEER_CLOSED:
		code = p.peerCode
	case code == 0:
		code = ws.StatusAbnormalClosure
	}
	p.n.metrics.closed[rule.reason].Inc()
	level := slog.LevelInfo
	if rule.reason == pb.Reason_REASON_INTERNAL {
		level = slog.LevelError
	}
	p.n.log.Log(context.Background(), level, "session closed", "session_id", p.handshakeID(), "reason", rule.reason.Label(), "code", int(code),
		"detail", cause.Error(), "tenant", s.grant.Identity.Tenant, "subject", s.grant.Identity.Subject,
		"client_ip", p.addr.String(), "lasted", p.now.Sub(s.opened).Round(time.Millisecond))
	p.n.verify.Ended(p.id, rule.reason, p.now)
	p.n.handler.Closed(s.handle(), uint16(code), rule.reason.Label())
}

// refuse answers an opening handshake that is not accepted.
func (p *peer) refuse(reason pb.Reason, retryAfter time.Duration, out []byte) []byte {
	if p.Done() {
		return out
	}
	p.reason = 0
	r := refusalOf(reason)
	if c := p.n.metrics.refused[reason]; c != nil {
		c.Inc()
	}
	attrs := []any{
		"handshake_id", p.handshakeID(), "reason", reason.Label(), "status", r.status, "client_ip", p.addr.String(),
		"path", p.seen.path, "origin", p.seen.origin, "user_agent", p.seen.userAgent,
	}
	if !p.token.ID.IsZero() {
		attrs = append(attrs, "token_id", p.token.ID.String())
	}
	p.n.log.Info("handshake refused", attrs...)
	if p.route != nil && p.route.RefuseByClose {
		if closed, err := p.conn.RefuseByClose(p.subprotocol, r.code, r.public, p.now, out); err == nil {
			return closed
		}
	}
	return p.conn.Refuse(r.answer(p.handshakeID(), retryAfter), p.now, out)
}

func (p *peer) handshakeID() string { return hex.EncodeToString(p.id[:]) }

// clean makes a peer's string fit to be logged: bounded, and scrubbed of
// tokens before it is cut, so that none is cut in two.
func clean(b []byte) string {
	b = token.Scrub(b)
	return string(b[:min(len(b), maxSeen)])
}
