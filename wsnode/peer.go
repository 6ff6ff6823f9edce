package wsnode

import (
	"context"
	"encoding/hex"
	"log/slog"
	"math"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/gobwas/ws"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/token"
	"github.com/gatehouse-ws/gatehouse/wsnode/clientaddr"
	"github.com/gatehouse-ws/gatehouse/wsnode/deliver"
	"github.com/gatehouse-ws/gatehouse/wsnode/limit"
	"github.com/gatehouse-ws/gatehouse/wsnode/netloop"
	"github.com/gatehouse-ws/gatehouse/wsnode/tunnel"
	"github.com/gatehouse-ws/gatehouse/wsnode/verify"
	"github.com/gatehouse-ws/gatehouse/wsnode/wsconn"
)

// peer is one connection: the order in which it meets its checks (opening.go),
// then its session (session.go). It is the Machine of its driver and the Sink of
// its protocol, and does its work in their turns. There are very many, most of
// them idle: what only a turn or an opening handshake needs is not here, but in
// loop and opening. What each message needs stands first, in one line of the
// processor's cache, of which a peer takes three: most of the time that a message
// takes is waiting for memory.
type peer struct {
	// owned by the turn
	*seat
	conn    wsconn.Conn
	since   stamp         // when the peer was heard last, or, if no more has come, was sent a ping
	cause   atomic.Uint32 // why the session has ended: a row of closeTable, from 1 on; set under loop's mu
	expires instant       // of the session
	level   limit.Level   // of the node's rate
	party   *party        // as session

	admitted bool // there is a session: from the 101 on
	ruled    bool // more has what each message must be held against
	tunnel   tunnel.Socket
	boxed    bool  // has an outbox; guarded by loop's mu
	listed   bool  // guarded by sessions.mu
	bound    bound // as session

	// The holder, as party and bound: changed by the turn alone, under sessions.mu
	// and loop's mu. The id alone is that of the handshake before there is a session.
	session [16]byte
	token   token.ID
	subject string
	issued  uint32

	opened moment  // the session
	addr   address // the client's; set once

	*opening                      // nil from the 101 on
	more     atomic.Pointer[more] // nil for most
	ref      netloop.Ref

	byToken, bySubject links // guarded by sessions.mu
}

// more is what only some sessions need.
type more struct {
	// set before there is a session
	attributes  map[string]string
	certificate string // as opening has it; empty for none

	// owned by the turn
	scopes   []string
	rated    bool                   // rate rules, and not the node's
	rate     limit.Rate             // the token's own
	limits   *wsconn.Limits         // with the token's own bound of messages, or nil
	rates    map[string]*limit.Rate // of types with a rate of their own, once they came
	strikes  int                    // messages refused and forgiven
	renewal  *verify.Attempt        // under way, or nil
	mayRenew instant                // when the next one may come
	throttle *limit.Rate            // of a tunnel that goes on, or nil

	// as peer.session
	tokenIP netip.Addr        // where that is neither none nor the client's
	renewed [][16]byte        // as verify.Identity has it
	first   *deliver.Identity // that of the opening handshake, once it was renewed
}

// needMore is more, which is made if need be. Call it in the turn.
func (p *peer) needMore() *more {
	m := p.more.Load()
	if m == nil {
		m = new(more)
		p.more.Store(m)
	}
	return m
}

// holder is who a session belongs to, as far as more does not tell it.
type holder struct {
	party   *party
	session [16]byte
	token   token.ID
	subject string
	issued  uint32 // lower half of the sequence of the revision at which the token was issued
}

// bound tells what address the token is bound to.
type bound uint8

const (
	boundNowhere bound = iota
	boundToClient
	boundElsewhere // more.tokenIP has it
)

// become makes h the holder of p, as who has it. sessions.mu is locked.
func (p *peer) become(h holder, who *verify.Identity) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case who.TokenIP == who.ClientIP:
		p.bound = boundToClient
	case who.TokenIP.IsValid():
		p.bound = boundElsewhere
	default:
		p.bound = boundNowhere
	}
	if p.listed || p.bound == boundElsewhere || len(who.Renewed) > 0 {
		m := p.needMore()
		if p.listed && m.first == nil {
			id := p.identity()
			m.first = &id
		}
		m.tokenIP, m.renewed = who.TokenIP, who.Renewed
	}
	if p.listed && !p.party.rate.Like(&h.party.rate) {
		p.level = limit.Level{}
	}
	p.party, p.session, p.token, p.subject, p.issued = h.party, h.session, h.token, h.subject, h.issued
}

// bearer is a session's identity as verify has it. Call it in the peer's turn, or
// with sessions.mu locked.
func (p *peer) bearer() verify.Identity {
	who := verify.Identity{
		Session: p.session, Token: p.token, Tenant: p.party.tenant, Subject: p.subject, Issuer: p.party.issuer,
		ClientIP: p.addr.ip(), Issued: verify.Revision{Epoch: p.party.epoch, Sequence: uint64(p.party.issued)<<32 | uint64(p.issued)},
	}
	if p.bound == boundToClient {
		who.TokenIP = who.ClientIP
	}
	if m := p.more.Load(); m != nil {
		who.Renewed = m.renewed
		if p.bound == boundElsewhere {
			who.TokenIP = m.tokenIP
		}
	}
	return who
}

// address is a client's, without a zone, IPv4 as IPv6: 16 bytes, where netip.Addr
// has 24 with a pointer.
type address [16]byte

func (a address) ip() netip.Addr { return netip.AddrFrom16(a).Unmap() }

func (a address) String() string { return a.ip().String() }

// instant is a time as sockets keep it: since the node was made, on the clock
// that nobody sets. Zero is none.
type instant time.Duration

// moment is an instant to a hundredth of a second, within 497 days: one later
// counts as their last.
type moment uint32

const momentLength = instant(10 * time.Millisecond)

func momentOf(i instant) moment { return moment(min(i/momentLength, math.MaxUint32)) }

func (m moment) instant() instant { return instant(m) * momentLength }

// stamp is an instant rounded up to stampLength, about a millisecond, in four
// bytes, so that it comes again every 52 days: it names the one within 26 days of
// now.
type stamp uint32

const stampLength = instant(1 << 20)

func stampOf(i instant) stamp { return stamp((i + stampLength - 1) / stampLength) }

func (s stamp) instant(now instant) instant {
	at := now / stampLength
	return (at + instant(int32(s-stamp(at)))) * stampLength
}

func (n *Node) instant(t time.Time) instant { return instant(t.Sub(n.made)) }

func (n *Node) time(i instant) time.Time { return n.made.Add(time.Duration(i)) }

// Feed implements netloop.Machine.
func (p *peer) Feed(in []byte, now time.Time, out []byte) []byte {
	p.now, p.since = now, stampOf(p.n.instant(now))
	if p.conn.State() == wsconn.StateOpen {
		switch { // what is fed to a closing connection is discarded, frame by frame
		case p.n.verify.Lapsed(now):
			out = p.close(errFence, out)
		case p.cause.Load() != 0: // the turn that is to close it comes later
			out = p.close(p.ending(), out)
		case p.pastGrace():
			out = p.close(errRevoked, out)
		}
	} else if p.opening != nil && p.mode == clientaddr.Proxy {
		if in = p.afterHeader(in); len(in) == 0 {
			return out
		}
	}
	out, err := p.conn.Feed(in, p.limits(), now, p, out)
	return p.afterFeed(err, out)
}

// pastGrace ends the session if a revocation was to by now that nobody has come
// to enforce.
func (p *peer) pastGrace() bool {
	if !p.n.verify.AnyGraceOver() {
		return false
	}
	who := p.bearer()
	return p.n.verify.PastGrace(&who, func() bool { return p.setCause(errRevoked) })
}

func (p *peer) afterFeed(err error, out []byte) []byte {
	if err != nil {
		return p.fail(err, out)
	}
	switch {
	case p.admitted:
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
	case p.admitted:
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
	own := p.n.time(min(p.silentUntil(p.n.instant(p.now)), p.expires))
	if !at.IsZero() && at.Before(own) {
		return at
	}
	return own
}

// silentUntil is until when the peer may say nothing: then it is pinged, or, if
// that was done, closed.
func (p *peer) silentUntil(now instant) instant {
	may := p.n.cfg.Sockets.PingInterval
	if p.conn.PingPending() {
		may = p.n.cfg.Sockets.PongTimeout
	}
	return p.since.instant(now) + instant(may)
}

// Expire implements netloop.Machine.
func (p *peer) Expire(now time.Time, out []byte) []byte {
	p.now = now
	if err := p.conn.Expire(p.limits(), now); err != nil {
		return p.fail(err, out)
	}
	if p.conn.State() != wsconn.StateOpen {
		return out
	}
	at := p.n.instant(now)
	switch {
	case at >= p.expires:
		return p.close(errSessionExpired, out)
	case at < p.silentUntil(at):
		return out
	case p.conn.PingPending():
		return p.close(errIdle, out)
	}
	p.since = stampOf(at)
	return p.conn.Ping(nil, out)
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
	case p.admitted:
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

// PeerDone implements netloop.Machine.
func (p *peer) PeerDone() bool { return p.conn.PeerClosed() }

// Gone implements netloop.Machine.
func (p *peer) Gone(err error, now time.Time) {
	p.now = now
	if p.admitted {
		p.end(p.firstCause(errConnectionLost)) // unless it has ended already
		p.forgetOutbox()
		p.leaveParty(p.party)
	} else if err != nil {
		if p.mode == clientaddr.Proxy && !p.Done() {
			p.headerBroken(err)
		}
		p.n.log.Debug("connection ended before its handshake", p.who("handshake_id", p.handshakeID(), "error", err)...)
	}
	p.endSpan(pb.Reason_REASON_CONNECTION_LOST.Label()) // unless it had ended
	p.conn.Release()
	p.unreserve()
	p.leave()
}

// Message implements wsconn.Sink.
func (p *peer) Message(op ws.OpCode, payload, out []byte) ([]byte, error) {
	if p.cause.Load() != 0 {
		return out, p.ending()
	}
	if !p.allow() || p.throttled(payload) {
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
	p.messages.Add(1)
	return p.deliver(deliver.Op(op), payload, out)
}

// check decides whether a message may pass, and returns its type if it is known.
func (p *peer) check(op ws.OpCode, payload []byte) (kind string, err error) {
	if op == ws.OpBinary && !p.route.Binary {
		return "", errBinary
	}
	checks := p.route.checks.Load()
	if checks == nil {
		if len(p.scopes()) > 0 { // the type of an unchecked message is not known
			return "", errScope
		}
		return "", nil
	}
	if kind, err = checks.Check(payload); err != nil {
		return kind, err
	}
	if scopes := p.scopes(); len(scopes) > 0 && !slices.Contains(scopes, kind) {
		return kind, errScope
	}
	if p.route.rated != nil && !p.allowType(kind) {
		return kind, errRate
	}
	return kind, nil
}

// PeerClose implements wsconn.Sink.
func (p *peer) PeerClose(code ws.StatusCode, _ []byte) { p.peerCode = code }

// close ends the session and begins the closing handshake, or closes a
// connection that has no session. Of several causes the first counts.
func (p *peer) close(cause error, out []byte) []byte {
	if !p.admitted {
		return p.conn.Close(0, "", p.limits(), p.now, out)
	}
	cause = p.firstCause(cause)
	rule := closeFor(cause)
	code, text := rule.code, rule.text
	if cause == errApplication {
		asked := p.asked()
		code, text = asked.code, asked.text
	}
	if cause == errDraining {
		text = p.n.withSlot(text)
	}
	// After a close frame nothing may follow, and who does not read, or may not be
	// here any more, gets no more.
	may := p.conn.State() != wsconn.StateClosed && cause != errSlowReader && !barred(cause)
	out = p.takeFrames(out, may)
	out = p.conn.Close(code, text, p.limits(), p.now, out)
	p.end(cause)
	return out
}

// barred reports whether whoever ends by cause may not be sent what waits for it.
func barred(cause error) bool {
	return cause == errRevoked || cause == errLocked || cause == errFence
}

// end reports the session's end, once.
func (p *peer) end(cause error) {
	if !p.n.sessions.remove(p) {
		return
	}
	rule := closeFor(cause)
	code := rule.code
	switch {
	case cause == errApplication:
		code = p.asked().code
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
	if ctx := context.Background(); p.n.log.Enabled(ctx, level) {
		p.n.log.LogAttrs(ctx, level, "session closed", slog.String("session_id", p.handshakeID()), slog.String("token_id", p.token.String()),
			slog.String("reason", rule.reason.Label()), slog.Int("code", int(code)), slog.String("detail", clean([]byte(cause.Error()))),
			slog.String("tenant", p.party.tenant), slog.String("subject", p.subject), slog.String("client_ip", p.addr.String()),
			slog.Duration("lasted", time.Duration(p.n.instant(p.now)-p.opened.instant()).Round(time.Millisecond)))
	}
	p.n.verify.Ended(p.session, rule.reason, p.now)
	p.n.handler.Closed(p.handle(), uint16(code), rule.reason.Label())
}

// post has a turn of the peer run fn.
func (p *peer) post(fn func(now time.Time, out []byte) []byte) bool {
	return p.poster.Post(p.ref, fn)
}

// handshakeID is also the session's id, until that is renewed.
func (p *peer) handshakeID() string { return hex.EncodeToString(p.session[:]) }
