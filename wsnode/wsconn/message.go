package wsconn

import (
	"time"

	"github.com/gobwas/ws"
)

// turn is what one call of Feed works with.
type turn struct {
	limits *Limits
	sink   Sink
	out    []byte
	ping   []byte // payload of the latest ping that is not answered, in the input
	pinged bool   // there is one
}

func (t *turn) answerPing() {
	if t.pinged {
		t.out = AppendFrame(t.out, ws.OpPong, t.ping)
		t.ping, t.pinged = nil, false
	}
}

// feedOpen takes frames of an open connection.
func (c *Conn) feedOpen(in []byte, l *Limits, now time.Time, sink Sink, out []byte) ([]byte, error) {
	t := turn{limits: l, sink: sink, out: out}
	rest, err := c.feedFrames(in, &t)
	t.answerPing()
	if err != nil {
		if c.state == StateOpen {
			c.startClosing(l, now)
			c.feedClosing(rest)
		}
		return t.out, err
	}
	// A message's time runs from its first byte, whatever comes in between.
	if c.underWay() && c.deadline.IsZero() {
		c.deadline = now.Add(l.MessageTimeout)
	}
	return t.out, nil
}

// feedFrames takes frames until in is used up or an error ends them, and
// returns what it did not use.
func (c *Conn) feedFrames(in []byte, t *turn) (rest []byte, err error) {
	for len(in) > 0 {
		if c.rest > 0 {
			n := int(min(c.rest, int64(len(in))))
			chunk := in[:n]
			in = in[n:]
			if err := c.resumeFrame(chunk, t); err != nil {
				return in, err
			}
			continue
		}
		var h ws.Header
		n, ok, err := c.nextHead(in, &h)
		in = in[n:]
		if err != nil {
			return in, c.fail(err)
		}
		if !ok {
			return in, nil
		}
		if err := c.beginFrame(&h, t.limits); err != nil {
			return in, err
		}
		if h.Length > int64(len(in)) { // the slow path: resumeFrame takes it as it comes
			c.rest, c.mask, c.maskPos = h.Length, h.Mask, 0
			continue
		}
		payload := in[:h.Length]
		in = in[h.Length:]
		ws.Cipher(payload, h.Mask, 0)
		if h.OpCode.IsData() {
			err = c.data(payload, t)
		} else {
			err = c.control(payload, t)
		}
		if err != nil {
			return in, err
		}
	}
	return nil, nil
}

// fail marks that the connection must be failed (§7.1.7): what follows is not
// to be understood any more, not even a close frame.
func (c *Conn) fail(err error) error {
	c.ended = true
	return err
}

// beginFrame judges a frame by its head, before a byte of it is stored.
func (c *Conn) beginFrame(h *ws.Header, l *Limits) error {
	if err := c.checkHead(h); err != nil {
		return c.fail(err)
	}
	c.frameOp = h.OpCode
	if h.OpCode.IsControl() {
		return nil
	}
	if h.OpCode != ws.OpContinuation {
		c.messageOp, c.fragments = h.OpCode, 0
	}
	c.fin = h.Fin
	c.fragments++
	var err error
	switch {
	case h.Length > int64(l.MessageBytes-c.have): // a sum could wrap (§10.4)
		err = ErrMessageTooBig
	case int(c.fragments) > l.Fragments:
		err = ErrTooManyFragments
	default:
		return nil
	}
	c.rest = h.Length // to be discarded
	return err
}

// resumeFrame takes the next bytes of a frame that did not come whole.
func (c *Conn) resumeFrame(chunk []byte, t *turn) error {
	ws.Cipher(chunk, c.mask, int(c.maskPos))
	c.maskPos = uint8(int(c.maskPos)+len(chunk)) & 3
	c.rest -= int64(len(chunk))
	if c.frameOp.IsData() {
		return c.data(chunk, t)
	}
	c.buf = c.buf.add(chunk)
	if c.rest > 0 {
		return nil
	}
	if err := c.control(c.buf.b[c.have:], t); err != nil {
		return err
	}
	t.answerPing() // the payload is about to go
	if c.have > 0 {
		c.buf.b = c.buf.b[:c.have]
	} else {
		c.buf.release()
		c.buf = nil
	}
	return nil
}

// data takes unmasked bytes of the message under way; c.rest says how many of
// their frame are still to come.
func (c *Conn) data(chunk []byte, t *turn) error {
	last := c.rest == 0 && c.fin
	if last && c.have == 0 { // the whole message lies in the input: nothing is copied
		if c.messageOp == ws.OpText && !validUTF8(chunk) {
			return c.fail(ErrInvalidUTF8)
		}
		return c.message(chunk, t)
	}
	if len(chunk) > 0 {
		c.buf = c.buf.add(chunk)
		c.have += len(chunk)
	}
	if c.messageOp == ws.OpText && c.have > 0 {
		unfinished, ok := utf8Prefix(c.buf.b[c.have-len(chunk)-int(c.unfinished):])
		if !ok || last && unfinished > 0 {
			return c.fail(ErrInvalidUTF8)
		}
		c.unfinished = uint8(unfinished)
	}
	if !last {
		return nil
	}
	err := c.message(c.buf.b, t)
	c.buf.release()
	c.buf, c.have = nil, 0
	return err
}

// message hands a complete message to the sink.
func (c *Conn) message(payload []byte, t *turn) error {
	c.deadline = time.Time{}
	var err error
	t.out, err = t.sink.Message(c.messageOp, payload, t.out)
	return err
}

// control takes a whole control frame (§5.5).
func (c *Conn) control(payload []byte, t *turn) error {
	if !c.fragmented { // what the deadline was for, if any, is this frame
		c.deadline = time.Time{}
	}
	switch c.frameOp {
	case ws.OpPing:
		t.ping, t.pinged = payload, true
	case ws.OpClose:
		return c.peerClose(payload, t)
	}
	return nil
}
