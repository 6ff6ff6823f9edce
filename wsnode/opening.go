package wsnode

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"log/slog"
	"net/netip"
	"net/url"
	"sync"
	"time"

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

// opening is what a connection needs until it has a session. Where it gets one it
// is used again: then nobody else knows it any more.
type opening struct {
	// set with the first connection of it
	redeemed func(verify.Outcome)                          // takeAnswer
	conclude func(now time.Time, out []byte) (sent []byte) // answer

	// set for each connection
	of    *peer
	began time.Time
	place place
	via   netip.Addr // the trusted proxy that the client comes through, if any
	named bool       // the client's address is known: its proxy, if any, has told it

	// early is the limit that refuses as soon as there is a request to answer.
	early  pb.Reason
	retry  time.Duration   // with early
	mode   clientaddr.Mode // of via; none once it has told who the client is
	header []byte          // of a PROXY header, in part

	// certificate is the SHA-256 of the client's, which only some have shown.
	certificate [sha256.Size]byte
	shown       bool
	span        HandshakeSpan // nil for most

	// owned by the turn
	subprotocol string         // to be answered; empty for none
	offered     token.Token    // id and key only, once parsed
	attempt     verify.Attempt // that the handshake waits for
	reserved    bool           // has a place among the authenticated
	asking      bool           // the turn's Feed has made the attempt, to be redeemed after it
	reason      pb.Reason      // to refuse with after the turn's Feed
	path        string         // as it is logged: bounded and scrubbed of tokens
	text        []byte         // what userAgent and origin are views into
	userAgent   []byte         // as the authority is told; it may hold a token
	origin      []byte         // as userAgent

	outcome verify.Outcome // handed from takeAnswer to answer
}

var openings sync.Pool

func newOpening() *opening {
	if o, ok := openings.Get().(*opening); ok {
		return o
	}
	o := new(opening)
	o.redeemed, o.conclude = o.takeAnswer, o.answer
	return o
}

// release gives o back: nobody knows it any more.
func (o *opening) release() {
	*o = opening{redeemed: o.redeemed, conclude: o.conclude, text: o.text[:0]}
	openings.Put(o)
}

// observe keeps what the authority and the log are told of a client.
func (o *opening) observe(r *wsconn.Request) {
	agent := r.UserAgent[:min(len(r.UserAgent), maxObserved)]
	o.text = append(append(o.text[:0], agent...), r.Origin[:min(len(r.Origin), maxObserved)]...)
	o.userAgent, o.origin = o.text[:len(agent):len(agent)], o.text[len(agent):]
}

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
	p.observe(r)
	if to := p.n.routes[string(r.Path)]; to != nil {
		p.seat = p.seatOn(to)
		p.path = p.route.Path
		p.subprotocol = p.route.choose(r) // a refusal by close must answer it too
	} else {
		p.path = cleanPath(r.Path)
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
	if p.reason = p.route.origins.Load().originReason(r); p.reason != 0 {
		return
	}
	var text []byte
	var inURL bool
	if text, inURL, p.reason = p.route.carriers(r, p.subprotocol); p.reason != 0 {
		return
	}
	if p.reason = p.n.checkToken(text, &p.offered, p.now); p.reason != 0 {
		return
	}
	if p.reason = p.reserve(); p.reason != 0 {
		return
	}
	p.session = p.n.sessions.idFor(p.session, p.offered.ID)
	p.attempt = p.attemptWith(&p.offered, p.session)
	p.attempt.UserAgent, p.attempt.Origin = p.userAgent, p.origin
	if p.shown {
		p.attempt.Certificate = p.certificate[:]
	}
	p.attempt.SingleUseOnly, p.attempt.Done = inURL, p.redeemed
	p.redeemSpan()
	p.asking = true
	p.offered.Secret = token.Secret{}
}

// attemptWith is an attempt to redeem t for a session with this id.
func (p *peer) attemptWith(t *token.Token, session [16]byte) verify.Attempt {
	return verify.Attempt{Token: t.ID, Digest: t.Secret.Digest(), Session: session, Audience: p.route.Audience, ClientIP: p.addr.ip()}
}

// admission is why nobody, or not this address, is let in; or 0.
func (p *peer) admission() pb.Reason {
	switch {
	case !p.admitted && p.early != 0:
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

// takeAnswer takes the authority's answer to the connection's next turn. Once
// that has it, o may be another connection's.
func (o *opening) takeAnswer(out verify.Outcome) {
	p, id := o.of, o.attempt.Session
	o.outcome = out
	if !p.post(o.conclude) {
		p.n.giveBack(out, id, time.Now())
	}
}

// answer answers the handshake.
func (o *opening) answer(now time.Time, out []byte) []byte {
	p, told := o.of, o.outcome
	p.now, o.outcome = now, verify.Outcome{}
	g := told.Grant
	if p.conn.State() != wsconn.StateVerifying {
		p.n.giveBack(told, p.session, p.now)
		return out
	}
	p.redeemedSpan(told.Reason)
	if g == nil {
		return p.refuse(told.Reason, told.RetryAfter, out)
	}
	h := p.holderOf(g, o.userAgent, o.origin)
	switch reason, again := p.settle(h, &o.attempt, g); {
	case again:
		return out
	case reason != 0:
		return p.refuse(reason, 0, out)
	}
	out, err := p.conn.Accept(o.subprotocol, out)
	if err != nil { // no such subprotocol can be configured
		p.n.sessions.remove(p)
		p.leaveParty(p.party)
		p.n.verify.Ended(p.session, pb.Reason_REASON_INTERNAL, p.now)
		return p.refuse(pb.Reason_REASON_INTERNAL, 0, out)
	}
	p.open(g)
	out, err = p.conn.Feed(nil, p.limits(), p.now, p, out)
	return p.afterFeed(err, out)
}

// holderOf is who a grant's session belongs to. Whoever does not put it into
// force has to leave its party.
func (p *peer) holderOf(g *verify.Grant, userAgent, origin []byte) holder {
	who := &g.Identity
	return holder{
		session: who.Session, token: who.Token, subject: who.Subject, issued: uint32(who.Issued.Sequence),
		party: p.partyOf(who, userAgent, origin),
	}
}

// settle makes h, the holder of g, that of p, after it has checked the grant
// against what was revoked since, in one step for whoever enforces. If it does not
// hold, the session that it is for has ended, with the reason that is returned;
// where that cannot be told, the authority is asked again.
func (p *peer) settle(h holder, a *verify.Attempt, g *verify.Grant) (reason pb.Reason, again bool) {
	var standing verify.Standing
	if reason = p.admission(); reason == 0 { // outside of that step, since it asks the time
		reason = p.n.sessions.put(p, h, g, func() pb.Reason {
			standing = p.n.verify.Standing(g)
			return standingReason(standing)
		})
	}
	if reason == 0 {
		return 0, false
	}
	p.leaveParty(h.party)
	if standing == verify.Unknown {
		p.n.verify.Redeem(a)
		return reason, true
	}
	p.n.verify.Ended(a.Session, reason, p.now)
	return reason, false
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
	d := p.n.addresses.Reserve(p.addr.ip())
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
	if p.opening != nil && p.reserved {
		p.reserved = false
		p.n.addresses.Cancel(p.addr.ip())
	}
}

// open puts the session into force.
func (p *peer) open(g *verify.Grant) {
	p.opened = momentOf(p.n.instant(p.now))
	p.bind(g)
	if len(g.Attributes) > 0 {
		p.needMore().attributes = g.Attributes
	}
	if p.shown {
		p.needMore().certificate = string(p.certificate[:])
	}
	p.n.addresses.Confirm(p.addr.ip())
	p.admitted = true
	p.since = stampOf(p.n.instant(p.now))
	p.n.metrics.handshakes.Inc()
	if ctx := context.Background(); p.n.log.Enabled(ctx, slog.LevelInfo) { // else its words are not even made
		p.n.log.LogAttrs(ctx, slog.LevelInfo, "session opened", slog.String("session_id", p.handshakeID()), slog.String("token_id", p.token.String()),
			slog.String("tenant", p.party.tenant), slog.String("subject", p.subject), slog.String("path", p.path),
			slog.String("client_ip", p.addr.String()), slog.Duration("took", p.now.Sub(p.began)))
	}
	p.endSpan(answered)
	p.opening.release()
	p.opening = nil
	p.n.handler.Opened(p.handle())
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
	p.endSpan(reason.Label())
	attrs := p.who("handshake_id", p.handshakeID(), "reason", reason.Label(), "status", r.status,
		"path", p.path, "origin", clean(p.origin), "user_agent", clean(p.userAgent))
	if !p.offered.ID.IsZero() {
		attrs = append(attrs, "token_id", p.offered.ID.String())
	}
	if p.shown {
		attrs = append(attrs, "client_certificate", base64.RawURLEncoding.EncodeToString(p.certificate[:]))
	}
	p.n.log.Info("handshake refused", attrs...)
	if p.route != nil && p.route.RefuseByClose {
		if closed, err := p.conn.RefuseByClose(p.subprotocol, r.code, r.public, p.limits(), p.now, out, handshakeField(p.handshakeID())); err == nil {
			return closed
		}
	}
	return p.conn.Refuse(r.answer(p.handshakeID(), p.retryAfter(reason, retryAfter)), p.now, out)
}

// retryAfter is when a peer may come back, where nobody said otherwise: as the
// authority has it where that is out of reach, and in a slot of its own where the
// node is to end.
func (p *peer) retryAfter(reason pb.Reason, told time.Duration) time.Duration {
	switch {
	case told != 0:
	case reason == pb.Reason_REASON_FENCED:
		return p.n.verify.RetryAfter()
	case reason == pb.Reason_REASON_DRAINING:
		return p.n.comeBack()
	}
	return told
}
