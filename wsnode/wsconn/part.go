package wsconn

import (
	"sync"
	"time"

	"github.com/gobwas/ws"
)

// part is what a connection needs while something is under way: its opening
// handshake, what has arrived of a frame or a message, its closing handshake. One
// is lent for each call that takes frames, and stays only where something is left
// over; so what every message needs is in memory that the one before has used,
// and not in the memory of each socket.
type part struct {
	buf      *buffer   // bytes of the head, pipelined bytes, or a message in part and behind it a control frame in part
	deadline time.Time // of the head, of what has arrived in part, or of the closing handshake
	request  *Request  // how far the head is parsed; only if it came in part

	rest       int64     // payload bytes of the frame under way that have not arrived
	have       int       // bytes of buf that belong to the message under way
	fragments  int32     // frames of the message under way
	discard    int32     // bytes that may yet be discarded while closing
	frameOp    ws.OpCode // of the frame under way
	messageOp  ws.OpCode // of the message under way: text or binary
	fin        bool      // the data frame under way is its message's last
	fragmented bool      // a message has begun whose last frame has not
	heldBytes  uint8     // how much of a frame head is held
	unfinished uint8     // bytes at the end of buf that begin a character
	maskPos    uint8     // where in mask the frame's next byte falls
	mask       [4]byte   // of the frame under way
	held       [16]byte  // the decoded key while verifying, then a frame head in part
}

var parts = sync.Pool{New: func() any { return new(part) }}

// needPart gives c a part if it has none.
func (c *Conn) needPart() *part {
	if c.part == nil {
		c.part = parts.Get().(*part)
	}
	return c.part
}

// settle gives the part of an open connection back if nothing is under way. What
// is left in it means nothing to the next.
func (c *Conn) settle() {
	if c.state == StateOpen && c.buf == nil && c.deadline.IsZero() && !c.underWay() {
		parts.Put(c.part)
		c.part = nil
	}
}

// underWay reports whether a frame or a message has arrived in part.
func (p *part) underWay() bool { return p.rest > 0 || p.heldBytes > 0 || p.fragmented }

// empty gives back the buffers and forgets what they held.
func (p *part) empty() {
	p.request.release()
	p.buf.release()
	p.request, p.buf = nil, nil
	p.have, p.unfinished = 0, 0
}

// giveBack gives p back with all it holds.
func (p *part) giveBack() {
	p.empty()
	*p = part{}
	parts.Put(p)
}
