package wsnode

import (
	"bytes"
	"net/url"
	"time"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/token"
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
	if p.reason = p.checkToken(text); p.reason != 0 {
		return
	}
	if p.reason = p.reserve(); p.reason != 0 {
		return
	}
	p.attempt = &verify.Attempt{
		Token: p.token.ID, Digest: p.token.Secret.Digest(), Session: p.id, Audience: p.route.Audience, SingleUseOnly: inURL,
		ClientIP:  p.addr,
		UserAgent: bytes.Clone(r.UserAgent[:min(len(r.UserAgent), maxObserved)]),
		Origin:    bytes.Clone(r.Origin[:min(len(r.Origin), maxObserved)]),
		Done:      p.redeemed,
	}
	p.asking = true
	p.token.Secret = token.Secret{}
}

// admission is why nobody, or not this address, is let in; or 0.
func (p *peer) admission() pb.Reason {
	switch {
	case p.early != 0:
		return p.early
	case p.n.draining.Load():
		return pb.Reason_REASON_DRAINING
	case p.n.verify.Ready() != nil:
		return pb.Reason_REASON_FENCED
	}
	return 0
}

// checkToken throws away what is no token of ours, or an expired one.
func (p *peer) checkToken(text []byte) pb.Reason {
	if err := token.Parse(text, &p.token); err != nil {
		p.token = token.Token{} // undefined
		return pb.Reason_REASON_TOKEN_MALFORMED
	}
	if err := p.n.verify.Ring().Verify(&p.token); err != nil {
		p.token = token.Token{} // its id means nothing
		return pb.Reason_REASON_TOKEN_FORGED
	}
	if p.n.verify.Expired(p.token.ID, p.now) {
		p.token.Secret = token.Secret{}
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
	s := newSession(p, o.Grant)
	p.n.sessions.add(s)
	standing := p.n.verify.Standing(o.Grant)
	if reason := p.standing(standing); reason != 0 {
		p.n.sessions.remove(s)
		if standing == verify.Unknown {
			p.n.verify.Redeem(p.attempt)
			return out
		}
		p.n.verify.Ended(p.id, reason, p.now)
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

// standing is why a grant does not hold any more, or 0.
func (p *peer) standing(of verify.Standing) pb.Reason {
	switch of {
	case verify.Revoked:
		return pb.Reason_REASON_TOKEN_REVOKED
	case verify.Locked:
		return pb.Reason_REASON_LOCKED
	case verify.Unknown:
		return pb.Reason_REASON_FENCED
	}
	return p.admission()
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
	p.session, p.attempt = s, nil
	p.n.addresses.Confirm(p.addr)
	p.reserved, p.admitted = false, true
	p.limits = p.n.limits
	if own := int64(s.grant.Limits.MessageBytes); own > 0 && own < int64(p.limits.MessageBytes) {
		p.limits.MessageBytes = int(own)
	}
	p.conn.Limit(&p.limits)
	p.heard = p.now
	p.n.metrics.handshakes.Inc()
	who := &s.grant.Identity
	p.n.log.Info("session opened", "session_id", p.handshakeID(), "token_id", who.Token.String(),
		"tenant", who.Tenant, "subject", who.Subject, "path", p.seen.path,
		"client_ip", p.addr.String(), "took", p.now.Sub(p.began))
	p.n.handler.Opened(s.handle())
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
