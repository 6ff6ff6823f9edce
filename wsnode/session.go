package wsnode

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gobwas/ws"

	"github.com/gatehouse-ws/gatehouse/wsnode/deliver"
	"github.com/gatehouse-ws/gatehouse/wsnode/limit"
	"github.com/gatehouse-ws/gatehouse/wsnode/verify"
	"github.com/gatehouse-ws/gatehouse/wsnode/wsconn"
)

// session is an admitted peer, as handlers and enforcers see it. It is the
// deliver.Sockets of its own socket.
type session struct {
	// set at construction, or owned by the peer's turn
	p          *peer
	expires    instant
	rate       limit.Rate
	rateDryRun bool
	scoped     bool   // the grant has scopes
	strikes    uint16 // messages refused and forgiven

	// dead is set once cause is, so that a turn need not take the lock to look.
	dead atomic.Bool

	mu       sync.Mutex
	inTurn   bool                                   // the turn under way takes the replies
	posted   bool                                   // a turn was asked for that will
	before   uint32                                 // bytes of replies that are not replies
	cause    error                                  // why the session has ended
	replies  []byte                                 // frames to be sent; of a turn, behind what it sends before them
	asked    *closing                               // the end that the application asked for, or nil
	flushing func(now time.Time, out []byte) []byte // flush, once somebody needed it

	// not changed after construction
	identity deliver.Identity

	// guarded by sessions.mu, and changed by the peer's turn alone
	grant     *verify.Grant
	ofToken   links
	ofSubject links

	// owned by the peer's turn
	throttle *limit.Rate            // of a tunnel that goes on, or nil
	rates    map[string]*limit.Rate // of types with a rate of their own, once they came
	opened   instant
	renewal  *verify.Attempt // under way, or nil
	mayRenew instant         // when the next one may come
}

// closing is how an application closes a session.
type closing struct {
	code ws.StatusCode
	text string
}

func newSession(p *peer, g *verify.Grant) *session {
	who := &g.Identity
	s := &session{
		p: p, opened: p.n.instant(p.now),
		identity: deliver.Identity{
			Session: who.Session, Token: who.Token, Tenant: who.Tenant, Subject: who.Subject, Route: p.route.Audience,
			Scopes: g.Scopes, Attributes: g.Attributes, ClientAddr: who.ClientIP, OpenedAt: p.now, ExpiresAt: g.ExpiresAt,
		},
	}
	s.bound(g, nil)
	return s
}

// longestLife is far above any session's, and does not overflow.
const longestLife = 100 * 365 * 24 * time.Hour

// bound puts the end and the rate of a grant into force. What is left of the
// rate of the grant before, if any, stays as it is where both allow the same.
func (s *session) bound(g, before *verify.Grant) {
	p := s.p
	left := p.n.verify.Local(g.ExpiresAt).Sub(p.now) // by the wall clock, which both have
	s.expires = p.n.instant(p.now) + instant(min(left, longestLife))
	s.scoped = len(g.Scopes) > 0
	if before == nil || g.Limits.MessagesPerSecond != before.Limits.MessagesPerSecond {
		s.rate, s.rateDryRun = rateOf(p.n.cfg.Limits.Messages, g.Limits.MessagesPerSecond)
	}
}

// rateOf is the tighter of the node's limit and the token's own, which no
// dry_run of the node's switches off.
func rateOf(m limit.Messages, own uint32) (limit.Rate, bool) {
	switch {
	case own == 0 || m.PerSecond != 0 && m.PerSecond <= own && !m.DryRun:
		return limit.NewRate(m.PerSecond, m.Burst), m.DryRun
	case m.PerSecond == 0:
		return limit.NewRate(own, own), false
	}
	return limit.NewRate(own, min(own, m.Burst)), false
}

// allowType takes a message of a type, and reports whether the type's own rate
// has one left.
func (s *session) allowType(kind string) bool {
	rate := s.rates[kind]
	if rate == nil {
		t := s.p.route.rated[kind]
		if t.PerSecond == 0 {
			return true
		}
		if s.rates == nil {
			s.rates = make(map[string]*limit.Rate, 1)
		}
		full := limit.NewRate(t.PerSecond, t.Burst)
		rate = &full
		s.rates[kind] = rate
	}
	return rate.Allow(s.p.now, 1)
}

func (s *session) handle() deliver.Session { return deliver.Session{Identity: &s.identity, Sockets: s} }

// end makes the session dead and reports whether it was alive: the first cause
// counts. After it nothing can be queued to be sent.
func (s *session) end(cause error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cause != nil {
		return false
	}
	s.cause = cause
	s.dead.Store(true)
	return true
}

// ending is why the session has ended, or is to end because the application
// asked for it; nil while it lives on.
func (s *session) ending() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.endingLocked()
}

func (s *session) endingLocked() error {
	if s.cause == nil && s.asked != nil {
		return errApplication
	}
	return s.cause
}

// deliver hands a message to the handler and appends to out what that sends
// meanwhile to this session. An error ends the session.
func (s *session) deliver(op deliver.Op, payload, out []byte) ([]byte, error) {
	s.mu.Lock()
	if err := s.endingLocked(); err != nil {
		s.mu.Unlock()
		return out, err
	}
	// What is sent meanwhile goes to out at once: nothing is copied, and no socket
	// keeps a buffer of its own.
	s.before = uint32(len(out)) // what a turn sends is far below 4 GiB
	s.inTurn, s.replies = true, append(out, s.replies...)
	s.mu.Unlock()
	err := s.p.n.handler.Message(s.handle(), op, payload)
	s.mu.Lock()
	defer s.mu.Unlock()
	out, s.replies = s.replies, nil
	s.inTurn, s.before = false, 0
	if err != nil {
		return out, fmt.Errorf("%w: %v", errHandler, err)
	}
	if s.asked != nil {
		return out, errApplication
	}
	return out, nil
}

// takeReplies moves what waits to be sent to out. It is called with the lock
// held, and not within deliver.
func (s *session) takeReplies(out []byte) []byte {
	out = append(out, s.replies...)
	s.replies = nil
	return out
}

// lastReplies is takeReplies for the last time.
func (s *session) lastReplies(out []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.takeReplies(out)
}

// Send implements deliver.Sockets.
func (s *session) Send(_ deliver.Ref, op deliver.Op, payload []byte) error {
	bound := s.p.n.cfg.Sockets.OutboundBytes
	s.mu.Lock()
	switch {
	case s.cause != nil || s.asked != nil:
		s.mu.Unlock()
		return deliver.ErrClosed
	case len(payload) > bound:
		s.mu.Unlock()
		return deliver.ErrMessageTooBig
	case len(payload) > bound-(len(s.replies)-int(s.before)):
		s.mu.Unlock()
		s.kill(errSlowReader)
		return deliver.ErrSlowReader
	}
	s.replies = wsconn.AppendFrame(s.replies, ws.OpCode(op), payload)
	return s.wake()
}

// Close implements deliver.Sockets.
func (s *session) Close(_ deliver.Ref, code uint16, reason string) error {
	s.mu.Lock()
	if s.cause != nil || s.asked != nil {
		s.mu.Unlock()
		return deliver.ErrClosed
	}
	s.asked = &closing{ws.StatusCode(code), reason}
	return s.wake()
}

// wake has a turn take what waits. It is called with the lock held and lets it
// go.
func (s *session) wake() error {
	ask := !s.inTurn && !s.posted
	if ask {
		s.posted = true
		if s.flushing == nil {
			s.flushing = s.flush
		}
	}
	flush := s.flushing
	s.mu.Unlock()
	if ask && !s.p.link.Post(flush) {
		return deliver.ErrClosed
	}
	return nil
}

// flush is the turn that wake asks for.
func (s *session) flush(now time.Time, out []byte) []byte {
	s.p.now = now
	s.mu.Lock()
	s.posted = false
	asked := s.asked != nil
	if s.cause == nil && !asked {
		out = s.takeReplies(out)
	}
	s.mu.Unlock()
	if asked {
		return s.p.close(errApplication, out)
	}
	return out
}

// kill ends the session from anywhere: from its return on, no message of the
// peer's is taken to the handler. One that was taken before may be there still.
func (s *session) kill(cause error) {
	if s.end(cause) {
		s.hangUp(nil)
	}
}

// hangUp has a turn close the socket of a session that has ended. queued, if
// not nil, is called once the close frame is queued or the socket is gone.
func (s *session) hangUp(queued func()) {
	if !s.p.link.Post(func(now time.Time, out []byte) []byte {
		s.p.now = now
		if s.p.session == s { // else its handshake is being refused
			out = s.p.close(s.ending(), out)
		}
		if queued != nil {
			queued()
		}
		return out
	}) && queued != nil {
		queued()
	}
}
