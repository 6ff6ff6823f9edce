package wsnode

import (
	"fmt"
	"time"

	"github.com/gobwas/ws"

	"github.com/gatehouse-ws/gatehouse/wsnode/deliver"
	"github.com/gatehouse-ws/gatehouse/wsnode/limit"
	"github.com/gatehouse-ws/gatehouse/wsnode/verify"
	"github.com/gatehouse-ws/gatehouse/wsnode/wsconn"
)

// An admitted peer, as handlers and enforcers see it, is the deliver.Sockets of
// its own socket.
var _ deliver.Sockets = (*peer)(nil)

// closing is how an application closes a session.
type closing struct {
	code ws.StatusCode
	text string
}

// longestLife is far above any session's, and does not overflow.
const longestLife = 100 * 365 * 24 * time.Hour

// bind puts what a grant allows into force: its end, its rate, its scopes and the
// bounds of its messages. What is left of the rate of the grant before, if any,
// stays as it is where both allow the same.
func (p *peer) bind(g *verify.Grant) {
	left := g.ExpiresAt.Sub(p.n.verify.AuthorityTime(p.now))
	p.expires = p.n.instant(p.now) + instant(min(left, longestLife))
	rate, rated := ownRate(p.party.messages, g.Limits.MessagesPerSecond)
	bytes := int64(g.Limits.MessageBytes)
	smaller := bytes > 0 && bytes < int64(p.n.limits.MessageBytes)
	p.ruled = len(g.Scopes) > 0 || rated || smaller
	if m := p.more.Load(); m == nil && !p.ruled {
		return
	}
	m := p.needMore()
	m.scopes, m.limits = g.Scopes, nil
	if smaller {
		of := p.n.limits
		of.MessageBytes = int(bytes)
		m.limits = &of
	}
	switch {
	case !rated && m.rated:
		p.level = limit.Level{}
	case rated && !(m.rated && m.rate.Like(&rate)):
		m.rate = rate
	}
	m.rated = rated
}

// scopes are those of the token; none allow every type.
func (p *peer) scopes() []string {
	if !p.ruled {
		return nil
	}
	return p.more.Load().scopes
}

// limits are those of the protocol.
func (p *peer) limits() *wsconn.Limits {
	if p.ruled {
		if own := p.more.Load().limits; own != nil {
			return own
		}
	}
	return &p.n.limits
}

// ownRate is a token's own rate, if that rules: it is tighter than the node's, or
// the node's is in dry_run, which does not switch it off.
func ownRate(m limit.Messages, own uint32) (r limit.Rate, rules bool) {
	switch {
	case own == 0 || m.PerSecond != 0 && m.PerSecond <= own && !m.DryRun:
		return r, false
	case m.PerSecond == 0:
		return limit.NewRate(own, own), true
	}
	return limit.NewRate(own, min(own, m.Burst)), true
}

// allow takes one message, and reports whether the session's rate has one left.
func (p *peer) allow() bool {
	if p.ruled {
		if m := p.more.Load(); m.rated {
			return m.rate.Allow(p.now, 1)
		}
	}
	if p.level.Allow(&p.party.rate, p.now, 1) {
		return true
	}
	if p.party.messages.DryRun {
		p.n.metrics.dryMessages.Inc()
	}
	return p.party.messages.DryRun
}

// allowType takes a message of a type, and reports whether the type's own rate
// has one left.
func (p *peer) allowType(kind string) bool {
	t := p.route.rated[kind]
	if t.PerSecond == 0 {
		return true
	}
	m := p.needMore()
	rate := m.rates[kind]
	if rate == nil {
		if m.rates == nil {
			m.rates = make(map[string]*limit.Rate, 1)
		}
		full := limit.NewRate(t.PerSecond, t.Burst)
		rate = &full
		m.rates[kind] = rate
	}
	return rate.Allow(p.now, 1)
}

func (p *peer) handle() deliver.Session { return deliver.Session{Sockets: p} }

// Identity implements deliver.Sockets.
func (p *peer) Identity(deliver.Ref) deliver.Identity {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.identity()
}

// identity is called with the lock held, or in the turn.
func (p *peer) identity() deliver.Identity {
	m := p.more.Load()
	if m != nil && m.first != nil {
		return *m.first
	}
	id := deliver.Identity{
		Session: p.session, Token: p.token, Tenant: p.party.tenant, Subject: p.subject, Route: p.route.Audience,
		ClientAddr: p.addr.ip(), OpenedAt: p.n.time(p.opened.instant()), ExpiresAt: p.n.time(p.expires),
	}
	if m != nil {
		id.Scopes, id.Attributes = m.scopes, m.attributes
	}
	return id
}

// setCause makes the session dead and reports whether it was alive: the first
// cause counts. After it nothing can be queued to be sent.
func (p *peer) setCause(cause error) bool {
	if p.cause.Load() != 0 {
		return false
	}
	row := closeRow(cause) + 1
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cause.CompareAndSwap(0, uint32(row))
}

// firstCause makes cause that of the session's end, or is the one that came before.
func (p *peer) firstCause(cause error) error {
	if p.setCause(cause) {
		return cause
	}
	return p.ending()
}

// ending is why the session has ended, as closeTable has it, or is to end because
// the application asked for it; nil while it lives on.
func (p *peer) ending() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.endingLocked()
}

func (p *peer) endingLocked() error {
	if row := p.cause.Load(); row != 0 {
		return closeTable[row-1].err
	}
	if p.boxed && p.outbox[p].asked != nil {
		return errApplication
	}
	return nil
}

// asked is how the application closes the session, once that is why it ends.
func (p *peer) asked() closing {
	p.mu.Lock()
	defer p.mu.Unlock()
	return *p.outbox[p].asked
}

// deliver hands a message to the handler and appends to out what that sends
// meanwhile to this session. An error ends the session.
func (p *peer) deliver(op deliver.Op, payload, out []byte) ([]byte, error) {
	p.mu.Lock()
	if err := p.endingLocked(); err != nil {
		p.mu.Unlock()
		return out, err
	}
	// What is sent meanwhile goes to out at once: nothing is copied, and no socket
	// keeps a buffer of its own.
	p.serving, p.before = p, len(out)
	p.replies = p.takeFramesLocked(out, true)
	p.mu.Unlock()
	err := p.n.handler.Message(p.handle(), op, payload)
	p.mu.Lock()
	defer p.mu.Unlock()
	out = p.replies
	p.serving, p.replies = nil, nil
	if err != nil {
		return out, fmt.Errorf("%w: %v", errHandler, err)
	}
	if p.boxed && p.outbox[p].asked != nil {
		return out, errApplication
	}
	return out, nil
}

// takeFrames takes what waits to be sent out of the outbox, and appends it to out
// if it may be.
func (p *peer) takeFrames(out []byte, may bool) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.takeFramesLocked(out, may)
}

func (p *peer) takeFramesLocked(out []byte, may bool) []byte {
	if !p.boxed {
		return out
	}
	o := p.outbox[p]
	if may {
		out = append(out, o.frames...)
	}
	if o.frames = o.frames[:0]; cap(o.frames) > keepFrames {
		o.frames = nil
	}
	return out
}

// forgetOutbox is for a peer that is gone: nothing that it has posted is to come.
func (p *peer) forgetOutbox() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dropOutbox(p)
}

// Send implements deliver.Sockets.
func (p *peer) Send(_ deliver.Ref, op deliver.Op, payload []byte) error {
	if checks := p.route.outgoing.checks.Load(); checks != nil && len(payload) <= p.n.cfg.Sockets.OutboundBytes {
		if err := p.allowSending(checks, op, payload); err != nil {
			return err
		}
	}
	return p.queue(op, payload)
}

// queue is Send for a message that is allowed.
func (p *peer) queue(op deliver.Op, payload []byte) error {
	bound := p.n.cfg.Sockets.OutboundBytes
	p.mu.Lock()
	if p.endingLocked() != nil {
		p.mu.Unlock()
		return deliver.ErrClosed
	}
	inTurn := p.serving == p
	waiting := 0
	switch {
	case inTurn:
		waiting = len(p.replies) - p.before
	case p.boxed:
		waiting = len(p.outbox[p].frames)
	}
	switch {
	case len(payload) > bound:
		p.mu.Unlock()
		return deliver.ErrMessageTooBig
	case len(payload) > bound-waiting:
		p.mu.Unlock()
		p.kill(errSlowReader)
		return deliver.ErrSlowReader
	case inTurn:
		p.replies = wsconn.AppendFrame(p.replies, ws.OpCode(op), payload)
		p.mu.Unlock()
		return nil
	}
	o := p.outboxOf(p)
	o.frames = wsconn.AppendFrame(o.frames, ws.OpCode(op), payload)
	return p.wake(o)
}

// Close implements deliver.Sockets.
func (p *peer) Close(_ deliver.Ref, code uint16, reason string) error {
	p.mu.Lock()
	if p.endingLocked() != nil {
		p.mu.Unlock()
		return deliver.ErrClosed
	}
	o := p.outboxOf(p)
	o.asked = &closing{ws.StatusCode(code), reason}
	if p.serving == p {
		p.mu.Unlock()
		return nil
	}
	return p.wake(o)
}

// wake has a turn take what waits. It is called with the lock held and lets it
// go.
func (p *peer) wake(o *outbox) error {
	ask := !o.posted
	o.posted = true
	flush := o.flush
	p.mu.Unlock()
	if ask && !p.post(flush) {
		return deliver.ErrClosed
	}
	return nil
}

// flush is the turn that wake asks for.
func (p *peer) flush(now time.Time, out []byte) []byte {
	p.now = now
	lapsed, past := p.n.verify.Lapsed(now), p.pastGrace()
	p.mu.Lock()
	o := p.outbox[p]
	o.posted = false
	asked := o.asked != nil
	if p.cause.Load() == 0 && !asked && !lapsed {
		out = append(out, o.frames...)
		p.dropOutbox(p)
	}
	p.mu.Unlock()
	switch {
	case lapsed:
		return p.close(errFence, out)
	case past:
		return p.close(errRevoked, out)
	case asked:
		return p.close(errApplication, out)
	}
	return out
}

// kill ends the session from anywhere: from its return on, no message of the
// peer's is taken to the handler. One that was taken before may be there still.
func (p *peer) kill(cause error) {
	if p.setCause(cause) {
		p.hangUp(nil)
	}
}

// hangUp has a turn close the socket of a session that has ended. queued, if
// not nil, is called once the close frame is queued or the socket is gone.
func (p *peer) hangUp(queued func()) {
	if !p.post(func(now time.Time, out []byte) []byte {
		p.now = now
		if p.admitted { // else its handshake is being refused
			out = p.close(p.ending(), out)
		}
		if queued != nil {
			queued()
		}
		return out
	}) && queued != nil {
		queued()
	}
}
