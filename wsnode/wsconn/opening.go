package wsconn

import (
	"crypto/sha1"
	"encoding/base64"
	"net/http"
	"strconv"
	"time"

	"github.com/gobwas/ws"
)

// feedOpening gathers and judges the request head.
func (c *Conn) feedOpening(in []byte, l *Limits, sink Sink) error {
	if c.ended || len(in) == 0 {
		return nil
	}
	if c.request == nil {
		c.request = requests.Get().(*Request)
	}
	head, had := in, 0
	if c.buf != nil {
		had = len(c.buf.b)
		c.buf = c.buf.add(in[:min(len(in), l.HeadBytes-had)])
		head = c.buf.b
	}
	n, err := c.request.parse(head, l)
	if err != nil {
		c.ended, c.bodiless = true, err == ErrHead
		c.drop()
		return err
	}
	if n == 0 {
		if c.buf == nil {
			c.buf = c.buf.add(in)
		}
		return nil
	}
	c.state = StateVerifying
	c.deadline = time.Time{}
	copy(c.held[:], c.request.key[:])
	sink.Opening(c.request)
	c.drop()
	return c.keepPipelined(in[n-had:], l)
}

// keepPipelined keeps what came before the answer.
func (c *Conn) keepPipelined(in []byte, l *Limits) error {
	if c.ended || len(in) == 0 {
		return nil
	}
	had := 0
	if c.buf != nil {
		had = len(c.buf.b)
	}
	if len(in) > l.PipelinedBytes-had {
		c.ended = true
		c.drop()
		return ErrPipelined
	}
	c.buf = c.buf.add(in)
	return nil
}

// takePipelined gives what came before the answer, or nil. The caller releases
// it.
func (c *Conn) takePipelined() *buffer {
	if !c.pipelined {
		return nil
	}
	early := c.buf
	c.buf, c.pipelined = nil, false
	return early
}

// Accept appends the 101 that opens the connection (§4.2.2). subprotocol is
// one that was offered, or empty; fields are as Refuse has them. Call Feed next,
// with nil if need be: the peer may have sent frames already.
//
// It returns ErrNotVerifying if no request waits, as after ErrPipelined, or
// ErrSubprotocol; out is then unchanged.
func (c *Conn) Accept(subprotocol string, out []byte, fields ...Field) ([]byte, error) {
	if c.state != StateVerifying || c.ended {
		return out, ErrNotVerifying
	}
	if subprotocol != "" && !isToken(subprotocol) {
		return out, ErrSubprotocol
	}
	out = append(out, "HTTP/1.1 101 Switching Protocols\r\n"+
		"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "...)
	out = c.appendAccept(out)
	if subprotocol != "" {
		out = append(out, "\r\nSec-WebSocket-Protocol: "...)
		out = append(out, subprotocol...)
	}
	out = append(appendFields(out, fields), "\r\n\r\n"...)
	c.state = StateOpen
	c.pipelined = c.buf != nil
	return out, nil
}

// appendAccept appends the proof that the request was read as a WebSocket's
// (§4.2.2, step 5.4).
func (c *Conn) appendAccept(out []byte) []byte {
	const guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
	var text [24 + len(guid)]byte
	base64.StdEncoding.Encode(text[:24], c.held[:])
	copy(text[24:], guid)
	sum := sha1.Sum(text[:])
	return base64.StdEncoding.AppendEncode(out, sum[:])
}

// Refusal is the HTTP answer to an opening handshake that is not accepted.
type Refusal struct {
	Status int     // 400 to 599
	Fields []Field // beyond those that Refuse writes itself
	Body   string  // short plain text
}

// Field is a header field of an answer.
type Field struct{ Name, Value string }

// Refuse appends the refusal of a request, whole, malformed or late, and
// closes the connection. In any other state it does nothing. Fields that are
// no header fields are left out; another status becomes 500.
func (c *Conn) Refuse(r *Refusal, now time.Time, out []byte) []byte {
	if c.state != StateOpening && c.state != StateVerifying {
		return out
	}
	c.finish()
	status := r.Status
	if status < 400 || status > 599 {
		status = http.StatusInternalServerError
	}
	out = append(out, "HTTP/1.1 "...)
	out = strconv.AppendInt(out, int64(status), 10)
	out = append(out, ' ')
	out = append(out, http.StatusText(status)...)
	out = append(out, "\r\nDate: "...)
	out = now.UTC().AppendFormat(out, http.TimeFormat)
	out = append(out, "\r\nConnection: close"...)
	if status == http.StatusUpgradeRequired { // which has an Upgrade field, and so an option of its name (RFC 9110 §7.8)
		out = append(out, ", Upgrade"...)
	}
	out = append(out, "\r\nCache-Control: no-store\r\n"+
		"Content-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\nContent-Length: "...)
	out = strconv.AppendInt(out, int64(len(r.Body)), 10)
	out = append(appendFields(out, r.Fields), "\r\n\r\n"...)
	if c.bodiless {
		return out
	}
	return append(out, r.Body...)
}

// appendFields leaves out what are no header fields.
func appendFields(out []byte, fields []Field) []byte {
	for _, f := range fields {
		if !isToken(f.Name) || !cleanBytes(f.Value) {
			continue
		}
		out = append(out, "\r\n"...)
		out = append(out, f.Name...)
		out = append(out, ": "...)
		out = append(out, f.Value...)
	}
	return out
}

// RefuseByClose refuses with a 101 and a close frame at once, since browsers
// hide an HTTP refusal from their pages; fields are of the 101. Nothing that the peer sends reaches
// Sink. Errors are Accept's.
func (c *Conn) RefuseByClose(subprotocol string, code ws.StatusCode, reason string, l *Limits, now time.Time, out []byte, fields ...Field) ([]byte, error) {
	out, err := c.Accept(subprotocol, out, fields...)
	if err != nil {
		return out, err
	}
	return c.Close(code, reason, l, now, out), nil
}
