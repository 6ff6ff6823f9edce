package wsnode

import (
	"slices"

	"github.com/gobwas/ws"

	"github.com/gatehouse-ws/gatehouse/wsnode/deliver"
	"github.com/gatehouse-ws/gatehouse/wsnode/netloop"
	"github.com/gatehouse-ws/gatehouse/wsnode/wsconn"
)

// Broadcast sends one message to the live sessions of this node that to selects.
// It is encoded once, and sockets whose peers read slowly share it. It does not
// wait: nil means that every loop of the node is to send it. A session that opens
// meanwhile may get it or not.
//
// payload is the caller's again when Broadcast returns; that of a Text message must
// be valid UTF-8. A session gets it after what was sent to it before, by Session.Send
// or by an earlier Broadcast. What is sent after by Session.Send may come first.
// Whoever has more waiting than may be is closed with 1013, as by Session.Send.
//
// The error is deliver.ErrNobody, deliver.ErrNoTenant, deliver.ErrMessageTooBig,
// deliver.ErrBusy while more than sockets.loop_bytes of broadcasts wait for the event
// loops, or deliver.ErrNotAllowed where the schemas of a route for messages of the application
// do not allow this one: each route's are asked once, and its sessions go on
// without it, whatever on_refusal says; those of other routes get it.
//
// While an event loop broadcasts it does nothing else, for some microseconds a
// socket. Safe for concurrent use, also from within a Handler's call.
func (n *Node) Broadcast(to deliver.To, op deliver.Op, payload []byte) error {
	if err := to.Validate(); err != nil {
		return err
	}
	if len(payload) > n.cfg.Sockets.OutboundBytes {
		return deliver.ErrMessageTooBig
	}
	routes, err := n.routesFor(&to, op, payload)
	switch {
	case len(routes) == 0:
	case to.Subject != "": // who has few sessions, which the others need not be asked for
		for _, p := range n.sessions.of(&to) {
			if slices.Contains(routes, p.route) {
				_ = p.queue(op, payload) // who cannot be sent it is ending
			}
		}
	default:
		frame := netloop.NewFrame(wsconn.AppendFrame(nil, ws.OpCode(op), payload))
		if !n.driver.Broadcast(frame, func(m netloop.Machine) bool {
			p, ok := m.(*peer)
			return ok && p.gets(&to, routes)
		}) {
			return deliver.ErrBusy
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
func (p *peer) gets(to *deliver.To, routes []*route) bool {
	return p.admitted && p.cause.Load() == 0 && p.conn.State() == wsconn.StateOpen &&
		slices.Contains(routes, p.route) && (to.Tenant == "" || p.party.tenant == to.Tenant)
}

// of are the sessions of a subject.
func (t *sessions) of(to *deliver.To) (out []*peer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for p := t.bySubject.first(to.Subject); p != nil; p = t.bySubject.next(p) {
		if p.party.tenant == to.Tenant {
			out = append(out, p)
		}
	}
	return out
}
