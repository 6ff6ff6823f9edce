package wsnode

import (
	"errors"
	"net/netip"
	"os"
	"time"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/wsnode/clientaddr"
	"github.com/gatehouse-ws/gatehouse/wsnode/wsconn"
)

// errRefused says that a connection was refused, and counted, before its TLS
// handshake.
var errRefused = errors.New("refused before the TLS handshake")

// Preface implements netloop.Ticket: a PROXY header comes before TLS.
func (p *peer) Preface(in []byte, now time.Time) (rest []byte, done bool, err error) {
	if p.mode != clientaddr.Proxy {
		return in, true, nil
	}
	if p.loop == &p.n.lobby { // which others are in
		p.seat = &newLoop(p.n, nil).entrance
	}
	p.now = now
	rest, err = p.takeHeader(in, true)
	return rest, p.mode != clientaddr.Proxy, err
}

// afterHeader is what follows the PROXY header that a connection without TLS
// begins with. If it is refused there, the connection is done.
func (p *peer) afterHeader(in []byte) []byte {
	rest, err := p.takeHeader(in, false)
	if err != nil {
		p.conn.Release()
	}
	return rest
}

// takeHeader reads on in the PROXY header, and finds a place for the client that
// it names. It returns what stands behind it, or errRefused.
func (p *peer) takeHeader(in []byte, overTLS bool) (rest []byte, err error) {
	had := len(p.header)
	p.header = append(p.header, in[:min(len(in), clientaddr.MaxHeader-had)]...)
	h, n, err := clientaddr.ParseHeader(p.header)
	switch {
	case err != nil:
		p.refuseHeader(openingReason(err), err)
		return nil, errRefused
	case n == 0:
		return nil, nil
	}
	p.header = nil
	client := h.Client
	if h.Local {
		client = p.via
	}
	if !p.know(client, overTLS) {
		p.dropped()
		return nil, errRefused
	}
	return in[n-had:], nil
}

// learn is know of the client that a request's header fields name, whose certificate
// is not the one that was shown here: that is its proxy's. It returns why the request
// is refused, or 0; if nobody is to be told, p has no place any more.
func (p *peer) learn(r *wsconn.Request) pb.Reason {
	p.shown = false
	client, err := p.n.live.Load().proxies.Client(p.mode, r.Fields())
	switch {
	case err != nil:
		p.warnOfProxy(err)
		return openingReason(err)
	case !p.know(client, false):
		return p.early
	}
	return 0
}

// know takes the client's address from its proxy, and reports whether the limits
// let it in, if only to be told that they do not.
func (p *peer) know(client netip.Addr, overTLS bool) bool {
	p.mode = clientaddr.Untrusted
	if p.place == placeRejecting { // the node is full, whoever it is
		p.addr, p.named = client.As16(), true
		return true
	}
	d := p.n.addresses.Know(client, p.now)
	if !d.Allow {
		p.leave()
	}
	p.addr, p.named, p.retry = client.As16(), true, d.RetryAfter
	p.place, p.early = p.n.placeOf(d, overTLS)
	return p.place != placeNone
}

// dropped ends a connection that its limit drops, without a word.
func (p *peer) dropped() {
	p.endSpan(p.early.Label())
	p.n.log.Debug("connection reset", p.who("reason", p.early.Label())...)
	p.conn.Release()
}

// refuseHeader ends a connection whose PROXY header is at fault. It is told
// nothing: who it is can't be known, nor what it speaks.
func (p *peer) refuseHeader(reason pb.Reason, err error) {
	p.mode, p.header = clientaddr.Untrusted, nil
	p.n.metrics.refuse(reason)
	p.endSpan(reason.Label())
	p.n.log.Info("handshake refused", p.who("handshake_id", p.handshakeID(), "reason", reason.Label(), "error", err)...)
	p.warnOfProxy(err)
	p.conn.Release()
}

// headerBroken refuses a connection that ended, or was too slow, before its PROXY
// header was whole. One that ended without a byte asked only whether somebody
// listens.
func (p *peer) headerBroken(err error) {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		p.refuseHeader(pb.Reason_REASON_HANDSHAKE_TIMEOUT, wsconn.ErrHandshakeTimeout)
	case len(p.header) > 0:
		p.refuseHeader(pb.Reason_REASON_CLIENT_ADDRESS_MALFORMED, clientaddr.ErrHeaderHalf)
	}
}

// warnOfProxy tells, now and then, that a trusted proxy does not do what it is
// trusted for: its clients are all refused.
func (p *peer) warnOfProxy(err error) {
	if errors.Is(err, clientaddr.ErrMissing) && p.n.noClientLogged.now(p.now) {
		p.n.log.Warn("a trusted proxy does not say who its clients are, so they are refused: set it up as trusted_proxies has it, or mend that",
			"proxy", p.via.String(), "error", err)
	}
}

// who adds to attrs, which are for the log, the client and its proxy.
func (p *peer) who(attrs ...any) []any {
	if p.named {
		attrs = append(attrs, "client_ip", p.addr.String())
	}
	if p.via.IsValid() {
		attrs = append(attrs, "proxy", p.via.String())
	}
	return attrs
}
