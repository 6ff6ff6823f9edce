package wsconn

import (
	"encoding/binary"

	"github.com/gobwas/ws"
)

// nextHead decodes the frame head at the front of in, or the rest of one held
// since the last call. It returns how many bytes of in it used; ok is false if
// the head is still incomplete, which it then holds.
func (c *Conn) nextHead(in []byte, h *ws.Header) (n int, ok bool, err error) {
	if c.heldBytes == 0 {
		if size := headSize(in); size <= len(in) {
			return size, true, decodeHead(in, h)
		}
	}
	for {
		size := headSize(c.held[:c.heldBytes])
		if int(c.heldBytes) == size {
			c.heldBytes = 0
			return n, true, decodeHead(c.held[:size], h)
		}
		took := copy(c.held[c.heldBytes:size], in[n:])
		c.heldBytes += uint8(took)
		n += took
		if int(c.heldBytes) < size {
			return n, false, nil
		}
	}
}

// headSize is the size of the frame head that b begins, as far as b tells: it
// is final once b has two bytes.
func headSize(b []byte) int {
	if len(b) < ws.MinHeaderSize {
		return ws.MinHeaderSize
	}
	size := ws.MinHeaderSize
	switch b[1] & 0x7f {
	case 126:
		size += 2
	case 127:
		size += 8
	}
	if b[1]&0x80 != 0 {
		size += 4
	}
	return size
}

// decodeHead reads a whole frame head (§5.2). It refuses lengths that are
// negative or not in their shortest form; checkHead knows the rest.
func decodeHead(b []byte, h *ws.Header) error {
	h.Fin = b[0]&0x80 != 0
	h.Rsv = b[0] >> 4 & 7
	h.OpCode = ws.OpCode(b[0] & 0x0f)
	h.Masked = b[1]&0x80 != 0
	at := 2
	switch short := b[1] & 0x7f; short {
	case 126:
		length := binary.BigEndian.Uint16(b[2:])
		if length < 126 {
			return ErrLengthForm
		}
		h.Length = int64(length)
		at = 4
	case 127:
		length := binary.BigEndian.Uint64(b[2:])
		switch {
		case length>>63 != 0:
			return ErrLengthRange
		case length <= 0xffff:
			return ErrLengthForm
		}
		h.Length = int64(length)
		at = 10
	default:
		h.Length = int64(short)
	}
	if h.Masked {
		copy(h.Mask[:], b[at:])
	}
	return nil
}

// checkHead judges a frame head by what came before it, and follows where
// messages begin and end.
func (c *Conn) checkHead(h *ws.Header) error {
	state := ws.StateServerSide
	if c.fragmented {
		state = state.Set(ws.StateFragmented)
	}
	if err := ws.CheckHeader(*h, state); err != nil {
		return headCause(err)
	}
	if h.OpCode.IsData() {
		c.fragmented = !h.Fin
	}
	return nil
}

// headCause is our name for an error of ws.CheckHeader.
func headCause(err error) error {
	switch err {
	case ws.ErrProtocolOpCodeReserved:
		return ErrReservedOpCode
	case ws.ErrProtocolControlPayloadOverflow:
		return ErrControlTooLong
	case ws.ErrProtocolControlNotFinal:
		return ErrControlFragmented
	case ws.ErrProtocolNonZeroRsv:
		return ErrReservedBits
	case ws.ErrProtocolMaskRequired:
		return ErrUnmasked
	case ws.ErrProtocolContinuationExpected:
		return ErrMessageUnfinished
	case ws.ErrProtocolContinuationUnexpected:
		return ErrNoMessageBegun
	}
	return ErrProtocol
}

// AppendFrame appends a whole frame as a server sends it: unmasked, its length
// in the shortest form (§5.2). It is for one message to many connections,
// which must be open; for one, see Conn.AppendMessage.
func AppendFrame(dst []byte, op ws.OpCode, payload []byte) []byte {
	const fin = 0x80
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, fin|byte(op), byte(n))
	case n <= 0xffff:
		dst = append(dst, fin|byte(op), 126, byte(n>>8), byte(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, fin|byte(op), 127), uint64(n))
	}
	return append(dst, payload...)
}

// AppendMessage appends a message in one frame: op is ws.OpText, whose payload
// must be UTF-8, or ws.OpBinary. It returns ErrNotOpen, and out as it was, if
// the connection is not open: after a close frame no message may follow
// (§5.5.1).
func (c *Conn) AppendMessage(op ws.OpCode, payload, out []byte) ([]byte, error) {
	if c.state != StateOpen {
		return out, ErrNotOpen
	}
	return AppendFrame(out, op, payload), nil
}

// Ping appends a ping (§5.5.2); PingPending then reports true until anything
// comes. payload is cut to the 125 bytes that fit. Unless the connection is
// open, Ping does nothing.
func (c *Conn) Ping(payload, out []byte) []byte {
	if c.state != StateOpen {
		return out
	}
	c.pingSent = true
	return AppendFrame(out, ws.OpPing, payload[:min(len(payload), ws.MaxControlFramePayloadSize)])
}
