package wsnode

import (
	"crypto/rand"
	"errors"
	"net/netip"
	"time"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/wsnode/limit"
	"github.com/gatehouse-ws/gatehouse/wsnode/netloop"
	"github.com/gatehouse-ws/gatehouse/wsnode/verify"
)

// maxRejecting is how many sockets above a limit are given an answer at once;
// more are reset.
const maxRejecting = 256

// opener is the node as its driver sees it.
type opener struct{ n *Node }

// Accepted implements netloop.Opener. A full node refuses before TLS: there is
// nothing to answer with but a costly handshake.
func (o opener) Accepted(from netip.AddrPort, overTLS bool, now time.Time) (netloop.Ticket, bool) {
	n, addr := o.n, from.Addr()
	if !addr.IsValid() {
		n.refuseNoAddress(now)
		return nil, false
	}
	d := n.addresses.Accept(addr, now)
	n.countDry(d)
	if d.Allow {
		return newPeer(n, addr, 0, 0), true
	}
	n.metrics.dropped[d.Rule].Inc()
	reason, full := limitReason(d.Rule)
	if d.Action == limit.Drop || full && overTLS || !n.mayReject() {
		n.log.Debug("connection reset", "reason", reason.Label(), "client_ip", addr.String())
		return nil, false
	}
	return newPeer(n, addr, reason, d.RetryAfter), true
}

// noAddressEvery is how often the log tells of connections without an address:
// each would have the same line.
const noAddressEvery = time.Minute

// refuseNoAddress tells of a connection that is not TCP's. No limit could count
// it, and no authority takes a redemption without a client's address.
func (n *Node) refuseNoAddress(now time.Time) {
	n.metrics.noAddress.Inc()
	last := n.noAddressLogged.Load()
	if (last == 0 || now.Sub(time.Unix(0, last)).Abs() >= noAddressEvery) && n.noAddressLogged.CompareAndSwap(last, now.UnixNano()) {
		n.log.Error("connection reset: it has no TCP address; serve TCP listeners only, and put a proxy before others")
	}
}

// mayReject counts one more socket that is to be told why it is not let in.
func (n *Node) mayReject() bool {
	if n.rejecting.Add(1) > maxRejecting {
		n.rejecting.Add(-1)
		return false
	}
	return true
}

// limitReason is the reason of a limit's refusal, and whether the node as a
// whole is full.
func limitReason(r limit.Rule) (reason pb.Reason, full bool) {
	switch r {
	case limit.UnauthenticatedPerAddress:
		return pb.Reason_REASON_ADDRESS_UNAUTHENTICATED_LIMIT, false
	case limit.AuthenticatedPerAddress:
		return pb.Reason_REASON_ADDRESS_LIMIT, false
	case limit.NewPerAddress:
		return pb.Reason_REASON_ADDRESS_RATE, false
	}
	return pb.Reason_REASON_CAPACITY, true
}

// newPeer is a connection that was let in, or, with a reason, was let in only to
// be told so, and no limit counts it. It is its own ticket.
func newPeer(n *Node, addr netip.Addr, early pb.Reason, retry time.Duration) *peer {
	return &peer{n: n, addr: addr, counted: early == 0, opening: &opening{early: early, retry: retry}}
}

// Open implements netloop.Ticket.
func (p *peer) Open(link netloop.Link, now time.Time) netloop.Machine {
	p.link, p.now, p.began, p.heard = link, now, now, p.n.instant(now)
	_, _ = rand.Read(p.id[:]) // it never fails
	p.conn.Reset(&p.n.limits, now)
	return p
}

// Failed implements netloop.Ticket.
func (p *peer) Failed(err error) {
	if !errors.Is(err, netloop.ErrStopped) {
		p.n.log.Debug("TLS handshake failed", "reason", pb.Reason_REASON_TLS_FAILED.Label(), "client_ip", p.addr.String(), "error", err)
		p.n.metrics.tlsFailed.Inc()
	}
	p.n.gone(p.addr, p.counted, false)
}

// gone takes a socket out of the counts.
func (n *Node) gone(addr netip.Addr, counted, admitted bool) {
	if counted {
		n.addresses.Gone(addr, admitted)
	} else {
		n.rejecting.Add(-1)
	}
}

// giveBack ends a session whose socket was gone before it was told.
func (n *Node) giveBack(o verify.Outcome, id [16]byte, now time.Time) {
	if o.Grant != nil {
		n.verify.Ended(id, pb.Reason_REASON_CONNECTION_LOST, now)
	}
}

func (n *Node) countDry(d limit.Decision) {
	if d.Dry == 0 {
		return
	}
	for rule := range n.metrics.dropped {
		if d.Dry.Has(rule) {
			n.metrics.dry.WithLabelValues(rule.String()).Inc()
		}
	}
}
