package netloop

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"time"
)

// layer is a machine that changes what turns give out on its way to the socket.
type layer interface {
	Machine
	// Seal is asked for after each turn: it is what is to be sent for what the turn
	// has appended to out. It is valid until the next turn.
	Seal(out []byte) []byte
	// Err is why nothing more can be read, or nil. The connection ends with it once
	// what waits is sent, or is abrupt.
	Err() error
	// Inner is the machine behind the layer, or nil while there is none.
	Inner() Machine
}

// abrupt is an error of a layer with which the connection ends at once, whatever
// waits.
type abrupt struct {
	error
	reset bool // and the peer gets a RST
}

// lane is what the TLS connections of one loop share: memory for one turn.
type lane struct {
	in    []byte   // what was read and tls.Conn has not taken yet
	plain []byte   // room for what is in one record
	out   []byte   // what is to be sent
	of    *secured // whose out is
}

// write adds to what is to be sent for s. What is left of another one was for a
// connection that has ended meanwhile.
func (t *lane) write(s *secured, b []byte) {
	if t.of != s {
		t.of, t.out = s, t.out[:0]
	}
	t.out = append(t.out, b...)
}

// take is what is to be sent for s.
func (t *lane) take(s *secured) []byte {
	if t.of != s {
		return nil
	}
	out := t.out
	if t.of = nil; cap(out) > keepOutput {
		t.out = nil
	}
	return out
}

// secured is TLS between a socket and its machine. First it is the TLS handshake,
// which shake has; once that is done it has a machine, and drives the tls.Conn in
// that one's turns: what was read lies ready when tls.Conn reads, and its writes
// only append.
type secured struct {
	lane    *lane
	conn    *tls.Conn
	inner   Machine // nil before the handshake is done
	shake   *shake  // nil from then on
	err     error
	framing framing
	ended   bool   // close_notify is sent
	barren  uint32 // bytes that were read since there was something for the machine
}

// barrenBytes is how much may be read in whole records that have nothing for the
// machine. Those change keys, in 30 bytes; but tls.Conn would keep a message of up
// to 64 KB that comes in them.
const barrenBytes = 4096

var errBarren = errors.New("peer sends TLS records with nothing in them")

// Inner implements layer.
func (s *secured) Inner() Machine { return s.inner }

// Feed implements Machine.
func (s *secured) Feed(in []byte, now time.Time, out []byte) []byte {
	if s.inner == nil {
		if s.err == nil {
			s.shake.feed(s, in, now)
		}
		return out
	}
	t := s.lane
	// All that lies ready is read, record by record: so tls.Conn is not asked again
	// only to find that there is no more, which would allocate.
	for t.in = in; len(t.in) > 0 && s.err == nil && !s.inner.Done(); {
		n, err := s.conn.Read(t.plain)
		if n > 0 {
			s.barren = 0
			out = s.inner.Feed(t.plain[:n], now, out)
		}
		if err != nil && err != errWouldBlock {
			s.err = err
		}
	}
	t.in = nil
	return out
}

// shaken ends the handshake, in which the client has shown a certificate, or nil.
func (s *secured) shaken(err error, shown *x509.Certificate, now time.Time, out []byte) []byte {
	switch {
	case s.err != nil: // it was given up meanwhile
	case err != nil:
		s.err = err
	default:
		h := s.shake
		if shown != nil {
			h.ticket.Shown(shown)
		}
		s.inner, s.shake = h.ticket.Open(h.link, now), nil
		return s.Feed(h.in, now, out)
	}
	return out
}

// Seal implements layer.
func (s *secured) Seal(out []byte) []byte {
	if s.inner != nil && !s.ended {
		if len(out) > 0 {
			if _, err := s.conn.Write(out); err != nil && s.err == nil {
				s.err = err
			}
		}
		if s.inner.Done() {
			s.ended = true
			_ = s.conn.CloseWrite() // fails where an alert has ended our side
		}
	}
	return s.lane.take(s)
}

// Err implements layer.
func (s *secured) Err() error { return s.err }

// Deadline implements Machine.
func (s *secured) Deadline() time.Time {
	if s.inner == nil {
		return s.shake.by
	}
	return s.inner.Deadline()
}

// Expire implements Machine.
func (s *secured) Expire(now time.Time, out []byte) []byte {
	switch {
	case s.inner != nil:
		return s.inner.Expire(now, out)
	case s.err != nil || now.Before(s.shake.by):
	case s.shake.phase == phasePreface:
		s.err = abrupt{os.ErrDeadlineExceeded, true}
	default:
		s.err = abrupt{context.DeadlineExceeded, false}
	}
	return out
}

// Overflow implements Machine.
func (s *secured) Overflow(now time.Time, out []byte) []byte {
	if s.inner == nil {
		return out
	}
	return s.inner.Overflow(now, out)
}

// Stop implements Machine.
func (s *secured) Stop(now time.Time, out []byte) []byte {
	if s.inner != nil {
		return s.inner.Stop(now, out)
	}
	if s.err == nil {
		s.err = abrupt{ErrStopped, false}
	}
	return out
}

// Done implements Machine.
func (s *secured) Done() bool { return s.inner != nil && s.inner.Done() }

// PeerDone implements Machine: TLS has an end of its own, which is still to come.
func (s *secured) PeerDone() bool { return false }

// Gone implements Machine.
func (s *secured) Gone(err error, now time.Time) {
	if s.inner != nil {
		s.inner.Gone(err, now)
		return
	}
	within := s.shake.giveUp(s)
	if a, ok := err.(abrupt); ok {
		err = a.error
	}
	switch {
	case errors.Is(err, net.ErrClosed): // only Close does that
		err = ErrStopped
	case err == io.EOF && within:
		err = io.ErrUnexpectedEOF
	}
	s.shake.ticket.Failed(err)
}

// wire is a secured as its tls.Conn sees it: a connection that never blocks once
// the handshake is done.
type wire secured

// wouldBlock is an error after which tls.Conn can be read again.
type wouldBlock struct{}

func (wouldBlock) Error() string   { return "nothing more was read" }
func (wouldBlock) Timeout() bool   { return false }
func (wouldBlock) Temporary() bool { return true }

var errWouldBlock net.Error = wouldBlock{}

// Read gives what belongs to one record at most: else tls.Conn would keep room
// for more than the largest.
func (w *wire) Read(p []byte) (int, error) {
	s := (*secured)(w)
	if s.shake != nil {
		return s.shake.read(s, p)
	}
	t := s.lane
	if len(t.in) == 0 {
		return 0, errWouldBlock
	}
	if s.barren > barrenBytes && (s.framing == framing{}) {
		return 0, errBarren // here, since all that was read in a turn may be records of that kind
	}
	n := s.framing.take(t.in[:min(len(t.in), len(p))])
	copy(p, t.in[:n])
	t.in = t.in[n:]
	s.barren += uint32(n)
	return n, nil
}

// Write takes all: for tls.Conn a write that fails is the last.
func (w *wire) Write(p []byte) (int, error) {
	s := (*secured)(w)
	if s.shake != nil {
		s.shake.out = append(s.shake.out, p...)
	} else {
		s.lane.write(s, p)
	}
	return len(p), nil
}

// Close leaves the socket to its loop.
func (w *wire) Close() error { return nil }

// LocalAddr is for who chooses a configuration by it, within the handshake.
func (w *wire) LocalAddr() net.Addr { return w.address(func(h *shake) net.Addr { return h.local }) }

// RemoteAddr is as LocalAddr.
func (w *wire) RemoteAddr() net.Addr { return w.address(func(h *shake) net.Addr { return h.remote }) }

func (w *wire) address(of func(*shake) net.Addr) net.Addr {
	if w.shake == nil {
		return nil
	}
	return of(w.shake)
}

// The loop keeps all deadlines.

func (w *wire) SetDeadline(time.Time) error      { return nil }
func (w *wire) SetReadDeadline(time.Time) error  { return nil }
func (w *wire) SetWriteDeadline(time.Time) error { return nil }

// framing follows where records begin and end in what is read.
type framing struct {
	head uint8  // bytes of the head that have come
	left uint16 // bytes that follow it
}

// take is how many bytes at the front of b, which is not empty, belong to the
// record that is under way, or begins there. They have come now.
func (f *framing) take(b []byte) int {
	n := 0
	for ; f.head < headBytes && n < len(b); n++ {
		if f.head >= headBytes-2 {
			f.left = f.left<<8 | uint16(b[n])
		}
		f.head++
	}
	if f.head < headBytes {
		return n
	}
	k := min(int(f.left), len(b)-n)
	if f.left -= uint16(k); f.left == 0 {
		*f = framing{}
	}
	return n + k
}
