package wsnode

import (
	"time"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/wsnode/netloop"
)

// Tracer makes spans of opening handshakes, for who exports them. Its method and
// those of what it returns are called in the turns of event loops, and must not
// wait. Several loops may call Handshake at once.
type Tracer interface {
	// Handshake begins the span of an opening handshake, which comes by this driver
	// of sockets, loops or portable. It returns nil for one that is not traced.
	Handshake(driver string, at time.Time) HandshakeSpan
}

// HandshakeSpan is an opening handshake that is traced. One call at a time.
type HandshakeSpan interface {
	// Redeem begins the span of the token's redemption, and names it for the
	// authority: the id of its trace, and its own (W3C Trace Context).
	Redeem(at time.Time) [24]byte
	// Redeemed ends that span, with what the authority said: ok, or a reason of the
	// closed list. It may be called again where the authority was asked again.
	Redeemed(outcome string, at time.Time)
	// End ends the handshake's span, and a redemption's that has no answer with it.
	// It is the last call.
	End(h EndedHandshake, at time.Time)
}

// EndedHandshake is what is told of an opening handshake that has ended. Nothing of
// it is what a peer has said.
type EndedHandshake struct {
	ID      string // in hex, as logs, audit and the peer know it
	Outcome string // ok, or the reason of the closed list
	Route   string // the path of the route; empty where none has it
}

// answered is how an opening handshake ended that was answered with 101.
const answered = "ok"

// beginSpan has the opening handshake traced, if there is somebody to.
func (p *peer) beginSpan(link netloop.Link) {
	if t := p.n.cfg.Tracer; t != nil {
		p.span = t.Handshake(link.Driver(), p.now)
	}
}

// redeemSpan has the redemption that is to begin traced, with its handshake.
func (p *peer) redeemSpan() {
	if p.span != nil {
		p.attempt.Span = p.span.Redeem(p.now)
	}
}

// redeemedSpan tells of the authority's answer.
func (p *peer) redeemedSpan(reason pb.Reason) {
	if p.span == nil {
		return
	}
	outcome := answered
	if reason != 0 {
		outcome = reason.Label()
	}
	p.span.Redeemed(outcome, p.now)
}

// endSpan tells how the opening handshake has ended.
func (p *peer) endSpan(outcome string) {
	if p.opening == nil || p.span == nil {
		return
	}
	h := EndedHandshake{ID: p.handshakeID(), Outcome: outcome}
	if p.route != nil {
		h.Route = p.route.Path
	}
	p.span.End(h, p.now)
	p.span = nil
}
