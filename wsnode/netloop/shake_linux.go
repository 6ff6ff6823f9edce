package netloop

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"sync"
	"time"
)

// shake is a TLS handshake, with what comes before it. The loop gathers that, and
// the ClientHello. Then a goroutine has the tls.Conn, which cannot leave a
// handshake and take it up again: it waits for what the loop reads, and what it
// writes is sent by the loop.
type shake struct {
	pool          *shakes
	ticket        Ticket
	link          Link
	cfg           *tls.Config
	by            time.Time
	local, remote net.Addr
	phase         phase     // owned by the loop
	scan          helloScan // the same

	out  []byte        // owned by whoever runs the handshake: not posted yet
	wake chan struct{} // of one: there is something to read, or nothing will be

	mu   sync.Mutex
	in   []byte // gathered; what was read and not taken
	gone bool   // the connection is
}

type phase uint8

const (
	phasePreface phase = iota
	phaseHello
	phaseRunning
)

// aheadBytes is how much may be read that the handshake has not taken. A peer
// that has no answer yet has little to say.
const aheadBytes = 256 << 10

var errAhead = errors.New("peer sends too much before its TLS handshake is done")

// secure begins a TLS handshake.
func (l *loop) secure(link Link, ticket Ticket, cfg *tls.Config, local, remote net.Addr) *secured {
	s := &secured{lane: &l.lane, shake: &shake{
		pool: l.d.shakes, ticket: ticket, link: link, cfg: cfg, by: l.now.Add(l.cfg.HandshakeTimeout), local: local, remote: remote,
		wake: make(chan struct{}, 1),
	}}
	s.shake.feed(s, nil, l.now)
	return s
}

// feed takes what was read.
func (h *shake) feed(s *secured, in []byte, now time.Time) {
	if h.phase == phasePreface {
		rest, done, err := h.ticket.Preface(in, now)
		if err != nil {
			s.err = abrupt{err, true}
			return
		}
		if !done {
			return
		}
		h.phase, in = phaseHello, rest
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(in) > aheadBytes-len(h.in) {
		s.err = errAhead
		return
	}
	h.in = append(h.in, in...)
	switch {
	case h.phase == phaseRunning:
		h.rouse()
	case h.scan.whole(h.in) || len(h.in) >= helloBytes:
		if !h.pool.enter() {
			s.err = abrupt{ErrBusy, true}
			return
		}
		h.phase, h.in = phaseRunning, fragmentHello(h.in)
		s.conn = tls.Server((*wire)(s), h.cfg)
		go h.run(s) // ends with the connection
	}
}

// run is the handshake.
func (h *shake) run(s *secured) {
	defer h.pool.leave()
	h.pool.compute()
	err := s.conn.Handshake()
	var shown *x509.Certificate
	if err == nil {
		shown = shownBy(s.conn)
	}
	h.pool.rest()
	out := h.out
	h.link.Post(func(now time.Time, dst []byte) []byte {
		s.lane.write(s, out)
		return s.shaken(err, shown, now, dst)
	})
}

// read waits for what the loop reads.
func (h *shake) read(s *secured, p []byte) (int, error) {
	for {
		n, err := h.next(s, p)
		if n > 0 || err != nil {
			return n, err
		}
		if out := h.out; len(out) > 0 {
			h.out = nil
			h.link.Post(func(_ time.Time, dst []byte) []byte {
				s.lane.write(s, out)
				return dst
			})
		}
		h.pool.rest()
		h.pool.parked.Add(1)
		<-h.wake
		h.pool.parked.Add(-1)
		h.pool.compute()
	}
}

// next takes what has been read, if anything.
func (h *shake) next(s *secured, p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gone {
		return 0, net.ErrClosed
	}
	if len(h.in) == 0 {
		return 0, nil
	}
	n := s.framing.take(h.in[:min(len(h.in), len(p))])
	copy(p, h.in[:n])
	h.in = h.in[n:]
	return n, nil
}

// rouse has the handshake look at what there is.
func (h *shake) rouse() {
	select {
	case h.wake <- struct{}{}:
	default: // it will, anyway
	}
}

// giveUp ends the handshake, if there is one under way: its connection is gone. It
// reports whether that was within a record.
func (h *shake) giveUp(s *secured) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.gone = true
	h.rouse()
	return len(h.in) > 0 || s.framing != framing{}
}
