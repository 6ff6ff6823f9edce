package wsnode

import (
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
	// set at construction
	p        *peer
	grant    *verify.Grant
	identity *deliver.Identity
	opened   time.Time
	expires  time.Time // by our clock

	// dead is set by whoever ends the session, from anywhere; from then on
	// nothing that the peer sends is delivered.
	dead atomic.Bool

	// owned by the peer's turn
	rate limit.Rate

	mu        sync.Mutex
	replies   []byte // frames to be sent
	inTurn    bool   // the turn under way takes the replies
	posted    bool   // a turn was asked for that will
	wantClose bool   // the application asked for the end
	closeCode ws.StatusCode
	closeText string
}

func newSession(p *peer, g *verify.Grant) *session {
	m := p.n.cfg.Limits.Messages
	per, burst := m.PerSecond, m.Burst
	if own := g.Limits.MessagesPerSecond; own > 0 && (per == 0 || own < per) {
		per, burst = own, max(own, 1)
	}
	who := &g.Identity
	return &session{
		p: p, grant: g, opened: p.now, expires: p.n.verify.Local(g.ExpiresAt), rate: limit.NewRate(per, burst),
		identity: &deliver.Identity{
			Session: who.Session, Token: who.Token, Tenant: who.Tenant, Subject: who.Subject, Route: p.route.Audience,
			Scopes: g.Scopes, Attributes: g.Attributes, ClientAddr: who.ClientIP, OpenedAt: p.now, ExpiresAt: g.ExpiresAt,
		},
	}
}

func (s *session) handle() deliver.Session { return deliver.Session{Identity: s.identity, Sockets: s} }

// deliver hands a message to the handler. What it sends meanwhile to this
// session leaves with the turn.
func (s *session) deliver(op deliver.Op, payload []byte) error {
	s.mu.Lock()
	s.inTurn = true
	s.mu.Unlock()
	err := s.p.n.handler.Message(s.handle(), op, payload)
	s.mu.Lock()
	s.inTurn = false
	s.mu.Unlock()
	return err
}

// keepReplies is how large a session's reply buffer may be to be kept.
const keepReplies = 4096

// takeReplies moves what waits to be sent to out.
func (s *session) takeReplies(out []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	out = append(out, s.replies...)
	if s.replies = s.replies[:0]; cap(s.replies) > keepReplies {
		s.replies = nil
	}
	return out
}

// closing is errApplication once the application has asked for the end.
func (s *session) closing() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wantClose {
		return errApplication
	}
	return nil
}

// Send implements deliver.Sockets.
func (s *session) Send(_ deliver.Ref, op deliver.Op, payload []byte) error {
	if s.dead.Load() {
		return deliver.ErrClosed
	}
	limit := s.p.n.cfg.Sockets.OutboundBytes
	if len(payload) > limit {
		return deliver.ErrMessageTooBig
	}
	s.mu.Lock()
	if s.wantClose {
		s.mu.Unlock()
		return deliver.ErrClosed
	}
	if len(payload) > limit-len(s.replies) {
		s.mu.Unlock()
		s.kill(errSlowReader, nil)
		return deliver.ErrSlowReader
	}
	s.replies = wsconn.AppendFrame(s.replies, ws.OpCode(op), payload)
	return s.wake()
}

// Close implements deliver.Sockets.
func (s *session) Close(_ deliver.Ref, code uint16, reason string) error {
	if s.dead.Load() {
		return deliver.ErrClosed
	}
	s.mu.Lock()
	if s.wantClose {
		s.mu.Unlock()
		return deliver.ErrClosed
	}
	s.wantClose, s.closeCode, s.closeText = true, ws.StatusCode(code), reason
	return s.wake()
}

// wake has a turn take what waits. It is called with the lock held and lets it
// go.
func (s *session) wake() error {
	ask := !s.inTurn && !s.posted
	if ask {
		s.posted = true
	}
	s.mu.Unlock()
	if ask && !s.p.link.Post(s.flush) {
		return deliver.ErrClosed
	}
	return nil
}

// flush is the turn that wake asks for.
func (s *session) flush(now time.Time, out []byte) []byte {
	s.mu.Lock()
	s.posted = false
	s.mu.Unlock()
	if s.dead.Load() {
		return out
	}
	s.p.now = now
	if err := s.closing(); err != nil {
		return s.p.close(err, out)
	}
	return s.takeReplies(out)
}

// kill ends the session from anywhere: from its return on, nothing that the
// peer sends is delivered. queued, if not nil, is called once the close frame
// is queued or the socket is gone.
func (s *session) kill(cause error, queued func()) {
	s.dead.Store(true)
	if !s.p.link.Post(func(now time.Time, out []byte) []byte {
		s.p.now = now
		out = s.p.close(cause, out)
		if queued != nil {
			queued()
		}
		return out
	}) && queued != nil {
		queued()
	}
}
