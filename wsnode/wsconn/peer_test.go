package wsconn

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

var (
	testNow    = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	testLimits = Limits{}.WithDefaults()
	testMask   = [4]byte{0xa5, 0x5a, 0x0f, 0xf1}
	errRefused = errors.New("refused by the sink")
)

// goodHead is the example of RFC 6455 §1.3.
const goodHead = "GET /chat HTTP/1.1\r\n" +
	"Host: server.example.com\r\n" +
	"Upgrade: websocket\r\n" +
	"Connection: Upgrade\r\n" +
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" +
	"Origin: http://example.com\r\n" +
	"Sec-WebSocket-Protocol: chat, superchat\r\n" +
	"Sec-WebSocket-Version: 13\r\n\r\n"

// appendHead writes a frame head from the words of §5.2, with none of the
// package's own code.
func appendHead(dst []byte, first byte, length uint64, masked bool) []byte {
	bit := byte(0)
	if masked {
		bit = 0x80
	}
	switch {
	case length < 126:
		dst = append(dst, first, bit|byte(length))
	case length < 1<<16:
		dst = binary.BigEndian.AppendUint16(append(dst, first, bit|126), uint16(length))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, first, bit|127), length)
	}
	if masked {
		dst = append(dst, testMask[:]...)
	}
	return dst
}

// frame is a frame as a client sends it; first is its first byte: 0x80 for
// FIN, then the opcode.
func frame(first byte, payload string) []byte {
	b := appendHead(nil, first, uint64(len(payload)), true)
	for i := range len(payload) {
		b = append(b, payload[i]^testMask[i%4])
	}
	return b
}

const (
	fin  = 0x80
	text = byte(ws.OpText)
	bin  = byte(ws.OpBinary)
	cont = byte(ws.OpContinuation)
)

func textFrame(s string) []byte { return frame(fin|text, s) }
func pingFrame(s string) []byte { return frame(fin|byte(ws.OpPing), s) }
func pongFrame(s string) []byte { return frame(fin|byte(ws.OpPong), s) }
func closeFrame(code uint16, reason string) []byte {
	return frame(fin|byte(ws.OpClose), string(binary.BigEndian.AppendUint16(nil, code))+reason)
}

// serverFrame is a frame as the server must send it.
func serverFrame(op ws.OpCode, payload string) []byte {
	return append(appendHead(nil, fin|byte(op), uint64(len(payload)), false), payload...)
}

func serverClose(code uint16, reason string) []byte {
	return serverFrame(ws.OpClose, string(binary.BigEndian.AppendUint16(nil, code))+reason)
}

func cat(parts ...[]byte) (all []byte) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// discard is a sink that takes everything and keeps nothing.
type discard struct{}

func (discard) Opening(*Request)                                   {}
func (discard) Message(_ ws.OpCode, _, out []byte) ([]byte, error) { return out, nil }
func (discard) PeerClose(code ws.StatusCode, reason []byte)        {}

// echo is a sink that sends each message back.
type echo struct{ discard }

func (echo) Message(op ws.OpCode, payload, out []byte) ([]byte, error) {
	return AppendFrame(out, op, payload), nil
}

// peer owns a connection as a node would, and writes down what happens to it.
type peer struct {
	c      Conn
	l      *Limits
	now    time.Time
	out    []byte
	events []string
	// What the node answers.
	refuse  string // messages that begin so are refused
	dontAsk bool   // leave a whole request unanswered
}

// held is the size of the buffer that c keeps.
func held(c *Conn) int {
	if c.part == nil || c.buf == nil {
		return 0
	}
	return cap(c.buf.b)
}

func newPeer(l *Limits) *peer {
	p := &peer{l: l, now: testNow}
	p.c.Reset(l, testNow)
	return p
}

// openPeer is past its opening handshake.
func openPeer(tb testing.TB, l *Limits) *peer {
	tb.Helper()
	p := newPeer(l)
	p.feed([]byte(goodHead))
	if p.c.State() != StateOpen {
		tb.Fatalf("not open: %v", p.events)
	}
	p.out, p.events = nil, nil
	return p
}

func (p *peer) log(format string, args ...any) {
	p.events = append(p.events, fmt.Sprintf(format, args...))
}

func (p *peer) Opening(r *Request) {
	p.log("opening %s ?%s %s", r.Path, r.Query, r.Host)
}

func (p *peer) Message(op ws.OpCode, payload, out []byte) ([]byte, error) {
	p.log("message %d %q", op, payload)
	if p.refuse != "" && strings.HasPrefix(string(payload), p.refuse) {
		return out, errRefused
	}
	return AppendFrame(out, op, payload), nil
}

func (p *peer) PeerClose(code ws.StatusCode, reason []byte) {
	p.log("peer close %d %q", code, reason)
}

// feed gives the connection a copy of in and answers as a node does.
func (p *peer) feed(in []byte) {
	own := append([]byte(nil), in...)
	var err error
	p.out, err = p.c.Feed(own, p.l, p.now, p, p.out)
	for i := range own { // the driver's buffer is used again
		own[i] = 0xee
	}
	p.answer(err)
	if p.c.State() == StateVerifying && !p.dontAsk && err == nil {
		p.accept()
	}
}

func (p *peer) accept() {
	var err error
	if p.out, err = p.c.Accept("", p.out); err != nil {
		p.log("accept: %v", err)
		return
	}
	p.feed(nil)
}

func (p *peer) answer(err error) {
	if err == nil {
		return
	}
	p.log("error %v", err)
	switch p.c.State() {
	case StateOpening, StateVerifying:
		p.out = p.c.Refuse(&Refusal{Status: 400}, p.now, p.out)
	default:
		p.out = p.c.Close(codeOf(err), "", p.l, p.now, p.out)
	}
}

// codeOf is how a node would translate, in the first row that matches.
func codeOf(err error) ws.StatusCode {
	for _, row := range []struct {
		err  error
		code ws.StatusCode
	}{
		{ErrProtocol, 1002}, {ErrInvalidUTF8, 1007}, {ErrMessageTooBig, 1009}, {errRefused, 1008}, {ErrMessageTimeout, 1008},
	} {
		if errors.Is(err, row.err) {
			return row.code
		}
	}
	return 1011
}

// want fails unless exactly these events happened.
func (p *peer) want(tb testing.TB, events ...string) {
	tb.Helper()
	if got, want := strings.Join(p.events, "\n"), strings.Join(events, "\n"); got != want {
		tb.Errorf("events:\n%s\nwant:\n%s", got, want)
	}
}

// whole gives all of in at once, bytewise one byte a call.
func (p *peer) whole(in []byte) { p.feed(in) }
func (p *peer) bytewise(in []byte) {
	for i := range in {
		p.feed(in[i : i+1])
	}
}

// cuts are the ways of arriving that every table is run with.
var cuts = map[string]func(*peer, []byte){"whole": (*peer).whole, "bytewise": (*peer).bytewise}
