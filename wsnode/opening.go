package wsnode

import (
	"bytes"
	"context"
	"log/slog"
	"net/url"
	"time"
	"unique"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/token"
	"github.com/gatehouse-ws/gatehouse/wsnode/clientaddr"
	"github.com/gatehouse-ws/gatehouse/wsnode/verify"
	"github.com/gatehouse-ws/gatehouse/wsnode/wsconn"
)

const (
	maxSeen     = 256 // bytes of a logged string
	maxObserved = 512 // bytes of a header that is sent to the authority
)

// seen is what is logged of a handshake: bounded and scrubbed of tokens.
type seen struct{ path, origin, userAgent string }

// clean makes a peer's string fit to be logged: bounded, and scrubbed of
// tokens before it is cut, so that none is cut in two.
func clean(b []byte) string {
	b = token.Scrub(b)
	return string(b[:min(len(b), maxSeen)])
}

// cleanPath is clean of a path, in which escapes could hide a token.
func cleanPath(path []byte) string {
	if bytes.IndexByte(path, '%') >= 0 {
		if plain, err := url.PathUnescape(string(path)); err == nil { // its escapes are whole: wsconn has looked
			path = []byte(plain)
		}
	}
	return clean(path)
}

// Opening implements wsconn.Sink: the checks that the node makes alone, each
// with its own refusal.
func (p *peer) Opening(r *wsconn.Request) {
	p.seen = seen{path: cleanPath(r.Path), origin: clean(r.Origin), userAgent: clean(r.UserAgent)}
	if p.route = p.n.routes[string(r.Path)]; p.route != nil {
		p.subprotocol = p.route.choose(r) // a refusal by close must answer it too
	}
	if p.mode != clientaddr.Untrusted {
		if p.reason = p.learn(r); p.reason != 0 {
			return
		}
	}
	if p.reason = p.admission(); p.reason != 0 {
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
	var inURL bool
	if text, inURL, p.reason = p.route.carriers(r, p.subprotocol); p.reason != 0 {
		return
	}
	if p.reason = p.n.checkToken(text, &p.token, p.now); p.reason != 0 {
		return
	}
	if p.reason = p.reserve(); p.reason != 0 {
		return
	}
	p.observed = unique.Make(observed{
		string(r.UserAgent[:min(len(r.UserAgent), maxObserved)]), string(r.Origin[:min(len(r.Origin), maxObserved)]),
	})
	p.attempt = p.attemptWith(&p.token, p.id)
	p.attempt.SingleUseOnly, p.attempt.Done = inURL, p.redeemed
	p.asking = true
	p.token.Secret = token.Secret{}
}

// attemptWith is an attempt to redeem t for a session with this id.
func (p *peer) attemptWith(t *token.Token, session [16]byte) verify.Attempt {
	o := p.observed.Value()
	return verify.Attempt{
		Token: t.ID, Digest: t.Secret.Digest(), Session: session, Audience: p.route.Audience,
		ClientIP: p.addr, UserAgent: []byte(o.userAgent), Origin: []byte(o.origin),
	}
}

// admission is why nobody, or not this address, is let in; or 0.
func (p *peer) admission() pb.Reason {
	switch {
	case p.opening != nil && p.early != 0:
		return p.early
	case p.n.draining.Load():
		return pb.Reason_REASON_DRAINING
	case p.n.verify.Ready() != nil:
		return pb.Reason_REASON_FENCED
	}
	return 0
}

// checkToken throws away what is no token of ours, or an expired one.
func (n *Node) checkToken(text []byte, t *token.Token, now time.Time) pb.Reason {
	if err := token.Parse(text, t); err != nil {
		*t = token.Token{} // undefined
		return pb.Reason_REASON_TOKEN_MALFORMED
	}
	if err := n.verify.Ring().Verify(t); err != nil {
		*t = token.Token{} // its id means nothing
		return pb.Reason_REASON_TOKEN_FORGED
	}
	if n.verify.Expired(t.ID, now) {
		t.Secret = token.Secret{}
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

// conclude answers the handshake.
func (p *peer) conclude(o verify.Outcome, out []byte) []byte {
	if p.conn.State() != wsconn.StateVerifying {
		p.n.giveBack(o, p.id, p.now)
		return out
	}
	if o.Grant == nil {
		return p.refuse(o.Reason, o.RetryAfter, out)
	}
	s := newSession(p, o.Grant)
	switch reason, again := p.settle(s, &p.attempt, o.Grant); {
	case again:
		return out
	case reason != 0:
		return p.refuse(reason, 0, out)
	}
	out, err := p.conn.Accept(p.subprotocol, out)
	if err != nil { // no such subprotocol can be configured
		p.n.sessions.remove(s)
		p.n.verify.Ended(p.id, pb.Reason_REASON_INTERNAL, p.now)
		return p.refuse(pb.Reason_REASON_INTERNAL, 0, out)
	}
	p.open(s)
	out, err = p.conn.Feed(nil, p.now, p, out)
	return p.afterFeed(err, out)
}

// settle makes the grant of an attempt that of s, after it has checked it against
// what was revoked since, in one step for whoever enforces. If it does not hold,
// the session that it is for has ended, with the reason that is returned; where
// that cannot be told, the authority is asked again.
func (p *peer) settle(s *session, a *verify.Attempt, g *verify.Grant) (reason pb.Reason, again bool) {
	var standing verify.Standing
	if reason = p.admission(); reason == 0 { // outside of that step, since it asks the time
		reason = p.n.sessions.put(s, g, func() pb.Reason {
			standing = p.n.verify.Standing(g)
			return standingReason(standing)
		})
	}
	switch {
	case reason == 0:
	case standing == verify.Unknown:
		p.n.verify.Redeem(a)
		again = true
	default:
		p.n.verify.Ended(a.Session, reason, p.now)
	}
	return reason, again
}

// standingReason is why a grant does not hold any more, or 0.
func standingReason(of verify.Standing) pb.Reason {
	switch of {
	case verify.Revoked:
		return pb.Reason_REASON_TOKEN_REVOKED
	case verify.Locked:
		return pb.Reason_REASON_LOCKED
	case verify.Replaced:
		return pb.Reason_REASON_SESSION_ENDED
	case verify.Unknown:
		return pb.Reason_REASON_FENCED
	}
	return 0
}

// reserve takes a place among the authenticated sockets of the address, before
// the token is spent for it, or says why there is none.
func (p *peer) reserve() pb.Reason {
	d := p.n.addresses.Reserve(p.addr)
	p.n.countDry(d)
	if !d.Allow {
		p.n.metrics.dropped[d.Rule].Inc()
		reason, _ := limitReason(d.Rule)
		return reason
	}
	p.reserved = true
	return 0
}

// unreserve gives the place back, if the socket has one and no session.
func (p *peer) unreserve() {
	if p.reserved {
		p.reserved = false
		p.n.addresses.Cancel(p.addr)
	}
}

// open puts the session into force.
func (p *peer) open(s *session) {
	p.session = s
	p.n.addresses.Confirm(p.addr)
	p.reserved, p.admitted = false, true
	p.limit(s.grant)
	p.heard = p.n.instant(p.now)
	p.n.metrics.handshakes.Inc()
	who := &s.grant.Identity
	if ctx := context.Background(); p.n.log.Enabled(ctx, slog.LevelInfo) { // else its words are not even made
		p.n.log.LogAttrs(ctx, slog.LevelInfo, "session opened", slog.String("session_id", p.handshakeID()), slog.String("token_id", who.Token.String()),
			slog.String("tenant", who.Tenant), slog.String("subject", who.Subject), slog.String("path", p.seen.path),
			slog.String("client_ip", p.addr.String()), slog.Duration("took", p.now.Sub(p.began)))
	}
	p.opening = nil
	p.n.handler.Opened(s.handle())
}

// limit puts the bounds on messages of a grant into force.
func (p *peer) limit(g *verify.Grant) {
	limits := &p.n.limits
	if own := int64(g.Limits.MessageBytes); own > 0 && own < int64(limits.MessageBytes) {
		of := *limits
		of.MessageBytes = int(own)
		limits = &of
	}
	p.conn.Limit(limits)
}

// refuse answers an opening handshake that is not accepted.
func (p *peer) refuse(reason pb.Reason, retryAfter time.Duration, out []byte) []byte {
	if p.Done() {
		return out
	}
	p.reason, p.asking = 0, false
	p.unreserve()
	r := refusalOf(reason)
	p.n.metrics.refuse(reason)
	attrs := p.who("handshake_id", p.handshakeID(), "reason", reason.Label(), "status", r.status,
		"path", p.seen.path, "origin", p.seen.origin, "user_agent", p.seen.userAgent)
	if !p.token.ID.IsZero() {
		attrs = append(attrs, "token_id", p.token.ID.String())
	}
	p.n.log.Info("handshake refused", attrs...)
	if p.route != nil && p.route.RefuseByClose {
		if closed, err := p.conn.RefuseByClose(p.subprotocol, r.code, r.public, p.now, out); err == nil {
			return closed
		}
	}
	return p.conn.Refuse(r.answer(p.handshakeID(), p.retryAfter(reason, retryAfter)), p.now, out)
}

// retryAfter is when a peer may come back: as the authority has it where that is
// out of reach and nobody said otherwise.
func (p *peer) retryAfter(reason pb.Reason, told time.Duration) time.Duration {
	if told == 0 && reason == pb.Reason_REASON_FENCED {
		return p.n.verify.RetryAfter()
	}
	return told
}
