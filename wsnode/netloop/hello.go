package netloop

// What a ClientHello begins with (RFC 8446 sections 4 and 5.1).
const (
	recordHandshake = 22
	majorVersion    = 3
	clientHello     = 1
	messageHead     = 4 // the type, and three bytes of how much follows
)

const (
	// plaintextBytes is what a record holds at most (RFC 8446 section 5.1).
	plaintextBytes = 1 << 14
	// headBytes is the length of a record's head, which ends with two bytes of how
	// much follows.
	headBytes = 5
	// helloBytes is how much of a ClientHello is gathered at most. tls.Conn takes
	// larger ones too; such a one counts as a handshake under way while it comes.
	helloBytes = 16 << 10
)

// helloScan looks for the end of a ClientHello as it comes.
type helloScan struct {
	at   int // where the record begins that is under way
	have int // bytes of the message before it
	head [messageHead]byte
}

// whole reports whether b, from a peer that begins to speak TLS, has a whole
// ClientHello, or can't become one of helloBytes: what it is then is for tls.Conn to
// find out, and to tell the peer. b is what it was in the call before, and more.
func (h *helloScan) whole(b []byte) bool {
	for {
		b := b[h.at:]
		if len(b) > 0 && b[0] != recordHandshake || len(b) > 1 && b[1] != majorVersion {
			return true
		}
		if len(b) < headBytes {
			return false
		}
		n := int(b[3])<<8 | int(b[4])
		if n == 0 || n > plaintextBytes {
			return true
		}
		payload := b[headBytes:min(headBytes+n, len(b))]
		if h.have < messageHead {
			copy(h.head[h.have:], payload)
		}
		have := h.have + len(payload)
		if have > 0 && h.head[0] != clientHello {
			return true
		}
		if have >= messageHead && (have >= helloLength(h.head) || helloLength(h.head) > helloBytes) {
			return true
		}
		if len(payload) < n {
			return false
		}
		h.at += headBytes + n
		h.have = have
	}
}

func helloLength(head [messageHead]byte) int {
	return messageHead + int(head[1])<<16 + int(head[2])<<8 + int(head[3])
}

// fragmentBytes is what a record of a fragmented ClientHello holds.
const fragmentBytes = 512

// fragmentHello has the ClientHello that b begins with, if it does, in records of
// fragmentBytes: where records end has no meaning (RFC 8446 section 5.1), but a
// tls.Conn keeps room for the largest that it has read for as long as it lives, and
// a ClientHello with a post-quantum key share is larger than most of what follows.
func fragmentHello(b []byte) []byte {
	var message []byte
	rest := b
	for len(message) < messageHead || len(message) < helloLength([messageHead]byte(message)) {
		if len(rest) < headBytes || rest[0] != recordHandshake || rest[1] != majorVersion {
			return b
		}
		n := int(rest[3])<<8 | int(rest[4])
		if n == 0 || n > plaintextBytes || len(rest) < headBytes+n {
			return b
		}
		message = append(message, rest[headBytes:headBytes+n]...)
		rest = rest[headBytes+n:]
	}
	if len(message) <= fragmentBytes || message[0] != clientHello || len(message) > helloLength([messageHead]byte(message)) {
		return b
	}
	out := make([]byte, 0, len(b)+headBytes*(1+len(message)/fragmentBytes))
	for len(message) > 0 {
		n := min(len(message), fragmentBytes)
		out = append(out, recordHandshake, b[1], b[2], byte(n>>8), byte(n))
		out = append(out, message[:n]...)
		message = message[n:]
	}
	return append(out, rest...)
}
