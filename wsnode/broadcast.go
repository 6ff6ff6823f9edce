package wsnode

import (
	"slices"
	"time"

	"github.com/gobwas/ws"

	"github.com/gatehouse-ws/gatehouse/wsnode/deliver"
	"github.com/gatehouse-ws/gatehouse/wsnode/netloop"
	"github.com/gatehouse-ws/gatehouse/wsnode/wsconn"
)

// Broadcast sends one message to the live sessions of this node that to selects.
// For those of event loops it is encoded once, and sockets whose peers read slowly
// share it. It does not wait: nil means that every loop of the node is to send it. A
// session that opens meanwhile may get it or not.
//
// payload is the caller's again when Broadcast returns; that of a Text message must
// be valid UTF-8. A session gets it after what was sent to it before, by Session.Send
// or by an earlier Broadcast. What Session.Send or Session.Close is asked for after it
// may come first. Whoever has more waiting than may be is closed with 1013, as by
// Session.Send.
//
// The error is deliver.ErrNobody, deliver.ErrNoTenant, deliver.ErrMessageTooBig,
// deliver.ErrBusy while more than sockets.loop_bytes of broadcasts wait for the event
// loops, or deliver.ErrNotAllowed where the schemas of a route for messages of the
// application do not allow this one: each route's are asked once, and its sessions go
// on without it, whatever on_refusal says; those of other routes get it.
//
// An event loop broadcasts to 512 of its sockets, for some microseconds each, before it
// looks after others again. Safe for concurrent use, also from within a Handler's call.
func (n *Node) Broadcast(to deliver.To, op deliver.Op, payload []byte) error {
	if err := to.Validate(); err != nil {
		return err
	}
	if len(payload) > n.cfg.Sockets.OutboundBytes {
		return deliver.ErrMessageTooBig
	}
	routes, err := n.routesFor(&to, op, payload)
	if len(routes) == 0 {
		return err
	}
	if to.Subject == "" {
		frame := netloop.NewFrame(wsconn.AppendFrame(nil, ws.OpCode(op), payload))
		if !n.driver.Broadcast(frame, func(m netloop.Machine, now time.Time) bool {
			p, ok := m.(*peer)
			return ok && p.gets(&to, routes, now)
		}) {
			return deliver.ErrBusy
		}
	}
	for _, p := range n.sessions.apart(&to) {
		if slices.Contains(routes, p.route) {
			_ = p.queue(op, payload) // who cannot be sent it is ending
		}
	}
	return err
}

// routesFor are the routes that to selects and whose schemas allow a message, and
// ErrNotAllowed if there are others.
func (n *Node) routesFor(to *deliver.To, op deliver.Op, payload []byte) (routes []*route, err error) {
	for _, r := range n.routes {
		if to.Route != "" && r.Audience != to.Route {
			continue
		}
		if checks := r.outgoing.checks.Load(); checks != nil {
			if kind, why := r.unsendable(checks, op, payload); why != nil {
				err = deliver.ErrNotAllowed
				n.refuseSending(r, nil, kind, why)
				continue
			}
		}
		routes = append(routes, r)
	}
	return routes, err
}

// gets reports whether a broadcast is for the peer, in whose turn it is asked.
func (p *peer) gets(to *deliver.To, routes []*route, now time.Time) bool {
	if !p.admitted || p.n.verify.Lapsed(now) || p.cause.Load() != 0 || p.conn.State() != wsconn.StateOpen ||
		!slices.Contains(routes, p.route) || to.Tenant != "" && p.party.tenant != to.Tenant {
		return false
	}
	if p.pastGrace() {
		p.hangUp(nil) // whoever comes to enforce that finds it ended
		return false
	}
	return true
}

// apart are the sessions that a broadcast is sent to one by one: those of its
// subject, who has few, or those that no event loop has.
func (t *sessions) apart(to *deliver.To) (out []*peer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	take := func(p *peer) {
		if to.Tenant == "" || p.party.tenant == to.Tenant {
			out = append(out, p)
		}
	}
	if to.Subject == "" {
		for p := range t.alone {
			take(p)
		}
		return out
	}
	for p := t.bySubject.first(to.Subject); p != nil; p = t.bySubject.next(p) {
		take(p)
	}
	return out
}
