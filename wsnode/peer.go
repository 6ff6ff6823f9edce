package wsnode

import (
	"context"
	"encoding/hex"
	"log/slog"
	"net/netip"
	"slices"
	"time"
	"unique"

	"github.com/gobwas/ws"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/token"
	"github.com/gatehouse-ws/gatehouse/wsnode/clientaddr"
	"github.com/gatehouse-ws/gatehouse/wsnode/deliver"
	"github.com/gatehouse-ws/gatehouse/wsnode/netloop"
	"github.com/gatehouse-ws/gatehouse/wsnode/tunnel"
	"github.com/gatehouse-ws/gatehouse/wsnode/verify"
	"github.com/gatehouse-ws/gatehouse/wsnode/wsconn"
)

// peer is one connection: the order in which it meets its checks (opening.go),
// then its session. It is the Machine of its driver and the Sink of its
// protocol, and does its work in their turns. What each message needs stands
// first, and what the opening handshake needs is given up with it: of many
// sockets most of the time a message takes is waiting for memory.
type peer struct {
	// owned by the turn
	n       *Node
	session *session // from the 101 on
	route   *route
	now     time.Time // of the turn
	heard   instant
	pinged  instant // when a ping was sent that has no answer; zero for none
	conn    wsconn.Conn

	*opening                         // nil from the 101 on
	observed unique.Handle[observed] // for the authority
	peerCode ws.StatusCode
	reserved bool // has a place among the authenticated
	admitted bool // counts as authenticated
	tunnel   tunnel.Socket

	place place

	// set once
	addr netip.Addr // the client's; invalid as long as its proxy has not told it
	link netloop.Link
}

// opening is what a peer needs until it has a session.
type opening struct {
	// set at construction
	id    [16]byte // of the handshake, and of the session that it opens
	began time.Time
	via   netip.Addr // the trusted proxy that the client comes through, if any

	// early is the limit that refuses as soon as there is a request to answer.
	early  pb.Reason
	retry  time.Duration   // with early
	mode   clientaddr.Mode // of via; none once it has told who the client is
	header []byte          // of a PROXY header, in part

	// owned by the turn
	subprotocol string         // to be answered; empty for none
	token       token.Token    // id and key only, once parsed
	attempt     verify.Attempt // that the handshake waits for
	asking      bool           // the turn's Feed has made the attempt, to be redeemed after it
	reason      pb.Reason      // to refuse with after the turn's Feed
	seen        seen
}

// observed is what the authority is told of a client. Most clients share theirs
// with many others.
type observed struct{ userAgent, origin string }

// instant is a time as sockets keep it: since the node was made, on the clock
// that nobody sets. Zero is none.
type instant time.Duration

func (n *Node) instant(t time.Time) instant { return instant(t.Sub(n.made)) }

func (n *Node) time(i instant) time.Time { return n.made.Add(time.Duration(i)) }

// Feed implements netloop.Machine.
func (p *peer) Feed(in []byte, now time.Time, out []byte) []byte {
	p.now, p.heard, p.pinged = now, p.n.instant(now), 0
	if p.conn.State() == wsconn.StateOpen {
		switch { // what is fed to a closing connection is discarded, frame by frame
		case p.n.verify.Lapsed(now):
			out = p.close(errFence, out)
		case p.session.dead.Load(): // the turn that is to close it comes later
			out = p.close(p.session.ending(), out)
		case p.pastGrace():
			out = p.close(errRevoked, out)
		}
	} else if p.opening != nil && p.mode == clientaddr.Proxy {
		if in = p.afterHeader(in); len(in) == 0 {
			return out
		}
	}
	out, err := p.conn.Feed(in, now, p, out)
	return p.afterFeed(err, out)
}

// pastGrace ends the session if a revocation was to by now that nobody has come
// to enforce.
func (p *peer) pastGrace() bool {
	s := p.session
	return p.n.verify.PastGrace(&s.grant.Identity, func() bool { return s.end(errRevoked) })
}

func (p *peer) afterFeed(err error, out []byte) []byte {
	switch {
	case err != nil:
		return p.fail(err, out)
	case p.opening == nil:
	case p.reason != 0 && p.place == placeNone: // its limit drops
		p.dropped()
	case p.reason != 0:
		return p.refuse(p.reason, p.retry, out)
	case p.asking:
		p.asking = false
		p.n.verify.Redeem(&p.attempt)
	}
	return out
}

// fail ends the connection over an error of the protocol or of a check.
func (p *peer) fail(err error, out []byte) []byte {
	switch {
	case p.session != nil:
		return p.close(err, out)
	case p.mode == clientaddr.Proxy:
		p.refuseHeader(openingReason(err), err)
		return out
	case p.early != 0:
		return p.refuse(p.early, p.retry, out)
	}
	return p.refuse(openingReason(err), 0, out)
}

// Deadline implements netloop.Machine.
func (p *peer) Deadline() time.Time {
	at := p.conn.Deadline()
	if p.conn.State() != wsconn.StateOpen {
		return at
	}
	next := p.heard + instant(p.n.cfg.Sockets.PingInterval)
	if p.pinged != 0 {
		next = p.pinged + instant(p.n.cfg.Sockets.PongTimeout)
	}
	own := p.n.time(min(next, p.session.expires))
	if !at.IsZero() && at.Before(own) {
		return at
	}
	return own
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
	sockets, at := &p.n.cfg.Sockets, p.n.instant(now)
	switch {
	case at >= p.session.expires:
		return p.close(errSessionExpired, out)
	case p.pinged != 0 && at >= p.pinged+instant(sockets.PongTimeout):
		return p.close(errIdle, out)
	case p.pinged == 0 && at >= p.heard+instant(sockets.PingInterval):
		p.pinged = at
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

// Stop implements netloop.Machine.
func (p *peer) Stop(now time.Time, out []byte) []byte {
	p.now = now
	switch state := p.conn.State(); {
	case p.session != nil:
		return p.close(errDraining, out)
	case p.mode == clientaddr.Proxy && !p.Done():
		p.refuseHeader(pb.Reason_REASON_DRAINING, errDraining)
	case state == wsconn.StateOpening, state == wsconn.StateVerifying:
		return p.refuse(pb.Reason_REASON_DRAINING, 0, out)
	}
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
		if p.mode == clientaddr.Proxy && !p.Done() {
			p.headerBroken(err)
		}
		p.n.log.Debug("connection ended before its handshake", p.who("handshake_id", p.handshakeID(), "error", err)...)
	}
	p.conn.Release()
	p.unreserve()
	p.leave()
}

// Message implements wsconn.Sink.
func (p *peer) Message(op ws.OpCode, payload, out []byte) ([]byte, error) {
	s := p.session
	if s.dead.Load() {
		return out, s.ending()
	}
	if !s.rate.Allow(p.now, 1) {
		if !s.rateDryRun {
			return out, errRate
		}
		p.n.metrics.dryMessages.Inc()
	}
	if p.throttled(payload) {
		return out, errRate
	}
	if op == ws.OpText && forNode(payload) {
		return out, p.renew(payload)
	}
	if kind, err := p.check(op, payload); err != nil {
		return p.forgive(kind, err, out)
	}
	if err := p.lookForTunnel(op, payload); err != nil {
		return out, err
	}
	p.n.metrics.messages.Inc()
	return s.deliver(deliver.Op(op), payload, out)
}

// check decides whether a message may pass, and returns its type if it is known.
func (p *peer) check(op ws.OpCode, payload []byte) (kind string, err error) {
	if op == ws.OpBinary && !p.route.Binary {
		return "", errBinary
	}
	scoped := p.session.scoped
	checks := p.route.checks.Load()
	if checks == nil {
		if scoped { // the type of an unchecked message is not known
			return "", errScope
		}
		return "", nil
	}
	if kind, err = checks.Check(payload); err != nil {
		return kind, err
	}
	if scoped && !slices.Contains(p.session.grant.Scopes, kind) {
		return kind, errScope
	}
	if p.route.rated != nil && !p.session.allowType(kind) {
		return kind, errRate
	}
	return kind, nil
}

// PeerClose implements wsconn.Sink.
func (p *peer) PeerClose(code ws.StatusCode, _ []byte) { p.peerCode = code }

// close ends the session and begins the closing handshake, or closes a
// connection that has no session. Of several causes the first counts.
func (p *peer) close(cause error, out []byte) []byte {
	s := p.session
	if s == nil {
		return p.conn.Close(0, "", p.now, out)
	}
	s.end(cause)
	cause = s.ending()
	rule := closeFor(cause)
	code, text := rule.code, rule.text
	if cause == errApplication {
		code, text = s.asked.code, s.asked.text
	}
	// After a close frame nothing may follow, and who does not read gets no more.
	if replies := s.lastReplies(nil); p.conn.State() != wsconn.StateClosed && cause != errSlowReader {
		out = append(out, replies...)
	}
	out = p.conn.Close(code, text, p.now, out)
	p.end(cause)
	return out
}

// end reports the session's end, once.
func (p *peer) end(cause error) {
	s := p.session
	s.end(cause)
	if !p.n.sessions.remove(s) {
		return
	}
	cause = s.ending()
	rule := closeFor(cause)
	code := rule.code
	switch {
	case cause == errApplication:
		code = s.asked.code
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
	who := &s.grant.Identity
	if ctx := context.Background(); p.n.log.Enabled(ctx, level) {
		p.n.log.LogAttrs(ctx, level, "session closed", slog.String("session_id", hex.EncodeToString(who.Session[:])), slog.String("token_id", who.Token.String()),
			slog.String("reason", rule.reason.Label()), slog.Int("code", int(code)), slog.String("detail", clean([]byte(cause.Error()))),
			slog.String("tenant", who.Tenant), slog.String("subject", who.Subject), slog.String("client_ip", p.addr.String()),
			slog.Duration("lasted", time.Duration(p.n.instant(p.now)-s.opened).Round(time.Millisecond)))
	}
	p.n.verify.Ended(who.Session, rule.reason, p.now)
	p.n.handler.Closed(s.handle(), uint16(code), rule.reason.Label())
}

func (p *peer) handshakeID() string { return hex.EncodeToString(p.id[:]) }
