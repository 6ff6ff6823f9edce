package wsconn

import (
	"encoding/binary"
	"time"
	stdutf8 "unicode/utf8"

	"github.com/gobwas/ws"
)

// maxReasonBytes is what a close frame has room for beside its code (§5.5).
const maxReasonBytes = ws.MaxControlFramePayloadSize - 2

// Close appends the close frame that begins the closing handshake, or answers
// an error of Feed, Expire or Sink. Until the peer's close frame, input is
// discarded, within CloseTimeout and ClosingBytes. After a breach of the
// protocol the connection is failed instead: closed at once, since no answer
// may be read (§7.1.7).
//
// A zero code or ws.StatusNoStatusRcvd sends no code; a code that may not be
// sent becomes 1011. reason is cut to 123 bytes, between characters, and left
// out if it is not UTF-8. Before the connection was open, Close closes it
// without a word; once its close frame is sent, Close does nothing.
func (c *Conn) Close(code ws.StatusCode, reason string, l *Limits, now time.Time, out []byte) []byte {
	switch {
	case c.state == StateOpening || c.state == StateVerifying:
		c.finish()
		return out
	case c.state == StateClosed || c.closeSent:
		return out
	case c.state == StateOpen:
		c.startClosing(l, now)
	}
	out = appendClose(out, code, reason)
	c.closeSent = true
	c.deadline = now.Add(l.CloseTimeout)
	if c.ended {
		c.finish()
	}
	return out
}

// startClosing is the way into StateClosing: what has arrived in part is given
// up, but for where in its frames the connection is.
func (c *Conn) startClosing(l *Limits, now time.Time) {
	c.state = StateClosing
	c.needPart()
	c.discard = int32(l.ClosingBytes)
	c.deadline = now.Add(l.CloseTimeout)
	early := c.takePipelined()
	c.drop()
	if early != nil {
		c.feedClosing(early.b)
		early.release()
	}
}

// feedClosing discards frames until the peer's close frame.
func (c *Conn) feedClosing(in []byte) {
	if c.ended {
		return
	}
	if len(in) > int(c.discard) {
		c.end()
		return
	}
	c.discard -= int32(len(in))
	for len(in) > 0 {
		if c.rest == 0 {
			var h ws.Header
			n, ok, err := c.nextHead(in, &h)
			in = in[n:]
			if !ok {
				return
			}
			if err != nil || c.checkHead(&h) != nil {
				c.end()
				return
			}
			c.frameOp, c.rest = h.OpCode, h.Length
		}
		n := min(c.rest, int64(len(in)))
		c.rest -= n
		in = in[n:]
		if c.rest == 0 && c.frameOp == ws.OpClose {
			c.closeGot = true
			c.end()
			return
		}
	}
}

// end marks that nothing more is awaited from the peer. Our own close frame
// still is to be sent, if an error has not been answered yet.
func (c *Conn) end() {
	c.ended = true
	if c.closeSent {
		c.finish()
	}
}

// peerClose takes the close frame that begins the closing handshake and
// answers with its code (§5.5.1).
func (c *Conn) peerClose(payload []byte, t *turn) error {
	code, reason := ws.StatusNoStatusRcvd, []byte(nil)
	if len(payload) == 1 {
		return c.fail(ErrCloseLength)
	}
	if len(payload) > 1 {
		code, reason = ws.StatusCode(binary.BigEndian.Uint16(payload)), payload[2:]
		if !sendable(code) {
			return c.fail(ErrCloseCode)
		}
		if !validUTF8(reason) {
			return c.fail(ErrCloseReason)
		}
	}
	t.sink.PeerClose(code, reason)
	t.answerPing()
	t.out = appendClose(t.out, code, "")
	c.closeSent, c.closeGot = true, true
	c.finish()
	return ErrPeerClosed
}

// sendable reports whether a close frame may carry code (§7.4, and 1012 to
// 1014 of IANA's registry).
func sendable(code ws.StatusCode) bool {
	switch {
	case 1000 <= code && code <= 1003, 1007 <= code && code <= 1014, 3000 <= code && code <= 4999:
		return true
	}
	return false
}

func appendClose(out []byte, code ws.StatusCode, reason string) []byte {
	const head = 0x80 | byte(ws.OpClose)
	if code == 0 || code == ws.StatusNoStatusRcvd {
		return append(out, head, 0)
	}
	if !sendable(code) {
		code = ws.StatusInternalServerError
	}
	if !stdutf8.ValidString(reason) {
		reason = ""
	}
	if len(reason) > maxReasonBytes {
		end := maxReasonBytes
		for !stdutf8.RuneStart(reason[end]) {
			end--
		}
		reason = reason[:end]
	}
	out = append(out, head, byte(2+len(reason)))
	out = binary.BigEndian.AppendUint16(out, uint16(code))
	return append(out, reason...)
}
