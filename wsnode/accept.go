package wsnode

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"net/netip"
	"sync/atomic"
	"time"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/wsnode/clientaddr"
	"github.com/gatehouse-ws/gatehouse/wsnode/limit"
	"github.com/gatehouse-ws/gatehouse/wsnode/netloop"
	"github.com/gatehouse-ws/gatehouse/wsnode/verify"
)

// maxRejecting is how many sockets above a limit are given an answer at once;
// more are reset.
const maxRejecting = 256

// opener is the node as its driver sees it.
type opener struct{ n *Node }

// Share implements netloop.Opener.
func (o opener) Share(p netloop.Poster) any { return newLoop(o.n, p) }

// Accepted implements netloop.Opener. A full node refuses before TLS: there is
// nothing to answer with but a costly handshake. Who comes from a trusted proxy
// counts for its own address once the proxy has told it.
func (o opener) Accepted(from netip.AddrPort, overTLS bool, now time.Time) (netloop.Ticket, bool) {
	n, addr := o.n, from.Addr()
	if !addr.IsValid() {
		n.refuseNoAddress(now)
		return nil, false
	}
	var d limit.Decision
	mode, is := n.live.Load().proxies.Mode(addr), "client_ip"
	if mode == clientaddr.Untrusted {
		d = n.addresses.Accept(addr, now)
	} else {
		d, is = n.addresses.AcceptUnknown(), "proxy"
	}
	place, early := n.placeOf(d, overTLS)
	if place == placeNone {
		n.log.Debug("connection reset", "reason", early.Label(), is, addr.String())
		return nil, false
	}
	p := &peer{seat: &n.lobby.entrance, opening: newOpening()}
	p.of, p.place, p.mode, p.early, p.retry = p, place, mode, early, d.RetryAfter
	if mode == clientaddr.Untrusted {
		p.addr, p.named = addr.As16(), true
	} else {
		p.via = addr
	}
	_, _ = rand.Read(p.session[:]) // it never fails
	return p, true
}

// placeOf is the place of a connection by the limits' decision. One that is
// refused, by the limit that is returned, has a place all the same, only to be
// told so, if that limit rejects and there is room for it.
func (n *Node) placeOf(d limit.Decision, overTLS bool) (place, pb.Reason) {
	n.countDry(d)
	if d.Allow {
		return placeCounted, 0
	}
	n.metrics.dropped[d.Rule].Inc()
	reason, full := limitReason(d.Rule)
	if d.Action == limit.Drop || full && overTLS || !n.mayReject() {
		return placeNone, reason
	}
	return placeRejecting, reason
}

// seldom tells when something may be logged that would else have the same line
// many times.
type seldom struct{ last atomic.Int64 } // in Unix nanoseconds

const seldomEvery = time.Minute

func (s *seldom) now(now time.Time) bool {
	last := s.last.Load()
	return (last == 0 || now.Sub(time.Unix(0, last)).Abs() >= seldomEvery) && s.last.CompareAndSwap(last, now.UnixNano())
}

// refuseNoAddress tells of a connection that is not TCP's. No limit could count
// it, and no authority takes a redemption without a client's address.
func (n *Node) refuseNoAddress(now time.Time) {
	n.metrics.noAddress.Inc()
	if n.noAddressLogged.now(now) {
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

// Shown implements netloop.Ticket.
func (p *peer) Shown(cert *x509.Certificate) {
	p.certificate, p.shown = sha256.Sum256(cert.Raw), true
}

// Open implements netloop.Ticket.
func (p *peer) Open(link netloop.Link, now time.Time) netloop.Machine {
	p.seat, p.ref = &link.Shared.(*loop).entrance, link.Ref
	p.now, p.began, p.since = now, now, stampOf(p.n.instant(now))
	p.conn.Reset(&p.n.limits, now)
	p.beginSpan(link)
	return p
}

// Failed implements netloop.Ticket.
func (p *peer) Failed(err error) {
	switch {
	case errors.Is(err, netloop.ErrStopped), errors.Is(err, errRefused):
	case errors.Is(err, netloop.ErrBusy):
		p.n.log.Debug("connection reset", p.who("reason", "tls_handshakes")...)
		p.n.metrics.tlsBusy.Inc()
	case p.mode == clientaddr.Proxy:
		p.headerBroken(err)
	default:
		p.n.log.Debug("TLS handshake failed", p.who("reason", pb.Reason_REASON_TLS_FAILED.Label(), "error", err)...)
		p.n.metrics.tlsFailed.Inc()
	}
	p.leave()
}

// place is what a connection counts as.
type place uint8

const (
	placeNone      place = iota
	placeCounted         // by the limits, for its address if that is known
	placeRejecting       // by mayReject alone
)

// leave takes a connection out of the counts.
func (p *peer) leave() {
	if p.admitted {
		p.n.addresses.Gone(p.addr.ip(), true)
		return
	}
	switch {
	case p.place == placeRejecting:
		p.n.rejecting.Add(-1)
	case p.place == placeCounted && p.named:
		p.n.addresses.Gone(p.addr.ip(), false)
	case p.place == placeCounted:
		p.n.addresses.GoneUnknown()
	}
	p.place = placeNone
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
