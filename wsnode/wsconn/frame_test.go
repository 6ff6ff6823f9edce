package wsconn

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/gobwas/ws"
)

// declared is the head of a frame whose payload does not come.
func declared(first byte, length uint64) []byte { return appendHead(nil, first, length, true) }

// longForm writes length with 16 or 64 bits, whatever it is.
func longForm(first byte, bits int, length uint64) []byte {
	b := []byte{first, 0x80 | 127}
	if bits == 16 {
		b = []byte{first, 0x80 | 126, byte(length >> 8), byte(length)}
	} else {
		for shift := 56; shift >= 0; shift -= 8 {
			b = append(b, byte(length>>shift))
		}
	}
	return append(b, testMask[:]...)
}

// message is the event of a message that arrived.
func message(op byte, payload string) string { return fmt.Sprintf("message %d %q", op, payload) }

// failure is the event of an error.
func failure(err error) string { return "error " + err.Error() }

const (
	multibyte = "κόσμε 🜂"    // two, three and four bytes a character
	broken    = "κόσμε \xff" // fails at its last byte
)

func TestFrames(t *testing.T) {
	long := strings.Repeat("x", 1000)
	for _, c := range []struct {
		rule   string
		in     []byte
		events []string
		out    []byte // what is sent, without pongs
	}{
		// §5.1, §5.2: the frame head.
		{"5.1 an unmasked frame fails with 1002", serverFrame(ws.OpText, "hi"), []string{failure(ErrUnmasked)}, serverClose(1002, "")},
		{"5.1 an unmasked control frame too", serverFrame(ws.OpPing, ""), []string{failure(ErrUnmasked)}, serverClose(1002, "")},
		{"5.2 reserved bit 1", frame(fin|0x40|text, "hi"), []string{failure(ErrReservedBits)}, serverClose(1002, "")},
		{"5.2 reserved bit 2", frame(fin|0x20|text, "hi"), []string{failure(ErrReservedBits)}, serverClose(1002, "")},
		{"5.2 reserved bit 3", frame(fin|0x10|text, "hi"), []string{failure(ErrReservedBits)}, serverClose(1002, "")},
		{"5.2 reserved bits on a control frame", frame(fin|0x40|9, ""), []string{failure(ErrReservedBits)}, serverClose(1002, "")},
		{"5.2 opcode 3", frame(fin|3, ""), []string{failure(ErrReservedOpCode)}, serverClose(1002, "")},
		{"5.2 opcode 7", frame(fin|7, ""), []string{failure(ErrReservedOpCode)}, serverClose(1002, "")},
		{"5.2 opcode 11", frame(fin|11, ""), []string{failure(ErrReservedOpCode)}, serverClose(1002, "")},
		{"5.2 opcode 15", frame(fin|15, ""), []string{failure(ErrReservedOpCode)}, serverClose(1002, "")},
		{"5.2 125 bytes in 16 bits", longForm(fin|text, 16, 125), []string{failure(ErrLengthForm)}, serverClose(1002, "")},
		{"5.2 0 bytes in 16 bits", longForm(fin|text, 16, 0), []string{failure(ErrLengthForm)}, serverClose(1002, "")},
		{"5.2 65535 bytes in 64 bits", longForm(fin|text, 64, 65535), []string{failure(ErrLengthForm)}, serverClose(1002, "")},
		{"5.2 the highest bit of a length", longForm(fin|text, 64, 1<<63), []string{failure(ErrLengthRange)}, serverClose(1002, "")},
		{"5.2 all bits of a length", longForm(fin|bin, 64, math.MaxUint64), []string{failure(ErrLengthRange)}, serverClose(1002, "")},
		{"5.2 0 bytes", textFrame(""), []string{message(text, "")}, serverFrame(ws.OpText, "")},
		{"5.2 125 bytes", textFrame(long[:125]), []string{message(text, long[:125])}, serverFrame(ws.OpText, long[:125])},
		{"5.2 126 bytes", textFrame(long[:126]), []string{message(text, long[:126])}, serverFrame(ws.OpText, long[:126])},
		{"5.3 the mask over a payload of 1 to 9 bytes", cat(textFrame("1"), textFrame("123"), textFrame("123456789")),
			[]string{message(text, "1"), message(text, "123"), message(text, "123456789")},
			cat(serverFrame(ws.OpText, "1"), serverFrame(ws.OpText, "123"), serverFrame(ws.OpText, "123456789"))},
		// §5.4: fragments.
		{"5.4 a message of three frames", cat(frame(text, "a"), frame(cont, "bc"), frame(fin|cont, "d")), []string{message(text, "abcd")}, serverFrame(ws.OpText, "abcd")},
		{"5.4 empty frames", cat(frame(bin, ""), frame(cont, ""), frame(cont, "x"), frame(cont, ""), frame(fin|cont, "")), []string{message(bin, "x")}, serverFrame(ws.OpBinary, "x")},
		{"5.4 nothing but empty frames", cat(frame(text, ""), frame(fin|cont, "")), []string{message(text, "")}, serverFrame(ws.OpText, "")},
		{"5.4 a message all in its last frame", cat(frame(text, ""), frame(fin|cont, multibyte)), []string{message(text, multibyte)}, serverFrame(ws.OpText, multibyte)},
		{"5.4 two messages of two frames", cat(frame(text, "a"), frame(fin|cont, "b"), frame(bin, "c"), frame(fin|cont, "d")),
			[]string{message(text, "ab"), message(bin, "cd")}, cat(serverFrame(ws.OpText, "ab"), serverFrame(ws.OpBinary, "cd"))},
		{"5.4 a ping between fragments", cat(frame(text, "ab"), pingFrame("p"), frame(fin|cont, "cd")), []string{message(text, "abcd")}, serverFrame(ws.OpText, "abcd")},
		{"5.4 a long pong between fragments", cat(frame(text, "ab"), pongFrame(long[:125]), frame(fin|cont, "cd")), []string{message(text, "abcd")}, serverFrame(ws.OpText, "abcd")},
		{"5.4 a close frame between fragments", cat(frame(text, "ab"), closeFrame(1001, "bye")),
			[]string{`peer close 1001 "bye"`, failure(ErrPeerClosed)}, serverClose(1001, "")},
		{"5.4 a continuation of nothing", frame(fin|cont, "x"), []string{failure(ErrNoMessageBegun)}, serverClose(1002, "")},
		{"5.4 a continuation after a whole message", cat(textFrame("a"), frame(cont, "x")),
			[]string{message(text, "a"), failure(ErrNoMessageBegun)}, cat(serverFrame(ws.OpText, "a"), serverClose(1002, ""))},
		{"5.4 a message within a message", cat(frame(text, "a"), textFrame("b")), []string{failure(ErrMessageUnfinished)}, serverClose(1002, "")},
		{"5.4 a first fragment within a message", cat(frame(text, "a"), frame(bin, "b")), []string{failure(ErrMessageUnfinished)}, serverClose(1002, "")},
		// §5.5: control frames.
		{"5.5 a fragmented ping", frame(byte(ws.OpPing), ""), []string{failure(ErrControlFragmented)}, serverClose(1002, "")},
		{"5.5 a fragmented close frame", frame(byte(ws.OpClose), ""), []string{failure(ErrControlFragmented)}, serverClose(1002, "")},
		{"5.5 a ping of 126 bytes", pingFrame(long[:126]), []string{failure(ErrControlTooLong)}, serverClose(1002, "")},
		{"5.5 a pong of 65536 bytes", declared(fin|byte(ws.OpPong), 65536), []string{failure(ErrControlTooLong)}, serverClose(1002, "")},
		{"5.5 a close frame of 126 bytes", closeFrame(1000, long[:124]), []string{failure(ErrControlTooLong)}, serverClose(1002, "")},
		{"5.5 a ping of 2^63-1 bytes", declared(fin|byte(ws.OpPing), math.MaxInt64), []string{failure(ErrControlTooLong)}, serverClose(1002, "")},
		{"5.5.3 a pong that nobody asked for", pongFrame("x"), nil, nil},
		// §8.1: UTF-8.
		{"8.1 characters of every length", textFrame(multibyte), []string{message(text, multibyte)}, serverFrame(ws.OpText, multibyte)},
		{"8.1 a wrong byte", textFrame(broken), []string{failure(ErrInvalidUTF8)}, serverClose(1007, "")},
		{"8.1 a cut character at the end", textFrame(multibyte[:len(multibyte)-1]), []string{failure(ErrInvalidUTF8)}, serverClose(1007, "")},
		{"8.1 a surrogate", textFrame("\xed\xa0\x80"), []string{failure(ErrInvalidUTF8)}, serverClose(1007, "")},
		{"8.1 an overlong form", textFrame("\xc0\xaf"), []string{failure(ErrInvalidUTF8)}, serverClose(1007, "")},
		{"8.1 beyond U+10FFFF", textFrame("\xf4\x90\x80\x80"), []string{failure(ErrInvalidUTF8)}, serverClose(1007, "")},
		{"8.1 a wrong byte far into a text", textFrame(long[:500] + "\x80" + long[:499]), []string{failure(ErrInvalidUTF8)}, serverClose(1007, "")},
		{"8.1 a character cut by fragments", cat(frame(text, "\xf0"), frame(cont, "\x9f"), frame(cont, ""), pingFrame(""), frame(cont, "\x9c"), frame(fin|cont, "\x82")),
			[]string{message(text, "🜂")}, serverFrame(ws.OpText, "🜂")},
		{"8.1 a wrong byte fails before its message ends", frame(text, broken), []string{failure(ErrInvalidUTF8)}, serverClose(1007, "")},
		{"8.1 a cut character fails in the next fragment", cat(frame(text, "\xe2\x82"), frame(cont, "x")), []string{failure(ErrInvalidUTF8)}, serverClose(1007, "")},
		{"8.1 a cut character at the end of the last fragment", cat(frame(text, "a"), frame(fin|cont, "\xe2\x82")), []string{failure(ErrInvalidUTF8)}, serverClose(1007, "")},
		{"8.1 a cut character before an empty last fragment", cat(frame(text, "\xe2\x82"), frame(fin|cont, "")), []string{failure(ErrInvalidUTF8)}, serverClose(1007, "")},
		{"5.6 binary messages are not UTF-8", frame(fin|bin, broken), []string{message(bin, broken)}, serverFrame(ws.OpBinary, broken)},
		{"5.6 nor are their fragments", cat(frame(bin, "\xff"), frame(fin|cont, "\xe2")), []string{message(bin, "\xff\xe2")}, serverFrame(ws.OpBinary, "\xff\xe2")},
		// §10.4: limits; the test's are 1000 bytes and 6 fragments.
		{"10.4 as many bytes as allowed", textFrame(long), []string{message(text, long)}, serverFrame(ws.OpText, long)},
		{"10.4 as many in fragments", cat(frame(text, long[:600]), frame(fin|cont, long[:400])), []string{message(text, long)}, serverFrame(ws.OpText, long)},
		{"10.4 one byte more fails with 1009", textFrame(long + "x"), []string{failure(ErrMessageTooBig)}, serverClose(1009, "")},
		{"10.4 before a byte of it has come", declared(fin|text, 1001), []string{failure(ErrMessageTooBig)}, serverClose(1009, "")},
		{"10.4 one byte more in fragments", cat(frame(text, long[:600]), declared(cont, 401)), []string{failure(ErrMessageTooBig)}, serverClose(1009, "")},
		{"10.4 65536 bytes", declared(fin|bin, 65536), []string{failure(ErrMessageTooBig)}, serverClose(1009, "")},
		{"10.4 2^63-1 bytes", declared(fin|bin, math.MaxInt64), []string{failure(ErrMessageTooBig)}, serverClose(1009, "")},
		{"10.4 2^63-1 bytes after some, whose sum wraps", cat(frame(bin, "x"), declared(cont, math.MaxInt64)), []string{failure(ErrMessageTooBig)}, serverClose(1009, "")},
		{"10.4 as many fragments as allowed", cat(frame(text, ""), bytes.Repeat(frame(cont, ""), 4), frame(fin|cont, "")), []string{message(text, "")}, serverFrame(ws.OpText, "")},
		{"10.4 one fragment more, empty", cat(frame(text, ""), bytes.Repeat(frame(cont, ""), 5), frame(fin|cont, "")), []string{failure(ErrTooManyFragments)}, serverClose(1009, "")},
		{"10.4 pings are no fragments", cat(frame(text, "a"), bytes.Repeat(pingFrame(""), 9), frame(fin|cont, "b")), []string{message(text, "ab")}, serverFrame(ws.OpText, "ab")},
		{"10.4 each message counts anew", cat(textFrame(long), textFrame(long)), []string{message(text, long), message(text, long)},
			cat(serverFrame(ws.OpText, long), serverFrame(ws.OpText, long))},
		// §5.4, §7: order.
		{"messages before an error are delivered", cat(textFrame("a"), frame(fin|3, "")), []string{message(text, "a"), failure(ErrReservedOpCode)},
			cat(serverFrame(ws.OpText, "a"), serverClose(1002, ""))},
		{"7.1.7 nothing after an error is", cat(frame(fin|3, ""), textFrame("a"), closeFrame(1000, "")), []string{failure(ErrReservedOpCode)}, serverClose(1002, "")},
		{"a refused message ends its connection", cat(textFrame("no"), textFrame("a")), []string{message(text, "no"), failure(errRefused)},
			cat(serverClose(1008, ""))},
	} {
		for how, feed := range cuts {
			limits := testLimits
			limits.MessageBytes, limits.Fragments = 1000, 6
			p := openPeer(t, &limits)
			p.refuse = "no"
			feed(p, c.in)
			name := fmt.Sprintf("%s (%s)", c.rule, how)
			if fmt.Sprint(p.events) != fmt.Sprint(c.events) {
				t.Errorf("%s: events %q, want %q", name, p.events, c.events)
			}
			if out, _ := withoutPongs(t, p.out); !bytes.Equal(out, c.out) {
				t.Errorf("%s: sent % x, want % x", name, out, c.out)
			}
			if p.c.State() == StateOpen && p.c.part != nil {
				t.Errorf("%s: an idle connection keeps a buffer", name)
			}
			if p.c.State() == StateOpen && !p.c.Deadline().IsZero() {
				t.Errorf("%s: an idle connection has a deadline", name)
			}
		}
	}
}

// withoutPongs reads what the server sent and gives all but the pongs, and the
// pongs' payloads. It fails on what no server may send.
func withoutPongs(tb testing.TB, out []byte) (rest []byte, pongs []string) {
	tb.Helper()
	for r := bytes.NewReader(out); r.Len() > 0; {
		at := len(out) - r.Len()
		h, err := ws.ReadHeader(r)
		if err != nil || h.Length > int64(r.Len()) {
			tb.Fatalf("sent what is no frame: % x: %v", out[at:], err)
		}
		if err := ws.CheckHeader(h, ws.StateClientSide); err != nil || !h.Fin {
			tb.Fatalf("sent a frame that no server may send: %+v: %v", h, err)
		}
		payload := make([]byte, h.Length)
		r.Read(payload) // a bytes.Reader gives all it has
		if h.OpCode == ws.OpPong {
			pongs = append(pongs, string(payload))
		} else {
			rest = append(rest, out[at:len(out)-r.Len()]...)
		}
	}
	return rest, pongs
}

func TestPings(t *testing.T) {
	for _, c := range []struct {
		rule  string
		feeds [][]byte
		pongs []string
	}{
		{"5.5.3 a pong has its ping's payload", [][]byte{pingFrame("abc")}, []string{"abc"}},
		{"5.5.2 an empty ping", [][]byte{pingFrame("")}, []string{""}},
		{"5.5 a ping of 125 bytes", [][]byte{pingFrame(strings.Repeat("p", 125))}, []string{strings.Repeat("p", 125)}},
		{"5.5.3 of several at once the latest is answered", [][]byte{cat(pingFrame("1"), pingFrame("2"), pingFrame("3"))}, []string{"3"}},
		{"5.5.3 each apart is", [][]byte{pingFrame("1"), pingFrame("2")}, []string{"1", "2"}},
		{"5.5.3 one in part and several whole", [][]byte{pingFrame("1")[:6], cat(pingFrame("1")[6:], pingFrame("2"), pingFrame("3"))}, []string{"1", "3"}},
		{"5.5.3 one that ends in the next read", [][]byte{cat(pingFrame("1"), pingFrame("2")[:4]), pingFrame("2")[4:]}, []string{"1", "2"}},
		{"5.5.3 before the close frame is answered", [][]byte{cat(pingFrame("1"), closeFrame(1000, ""))}, []string{"1"}},
		{"5.5.3 before an error is", [][]byte{cat(pingFrame("1"), frame(fin|3, ""))}, []string{"1"}},
		{"5.5.1 none after a close frame", [][]byte{cat(closeFrame(1000, ""), pingFrame("1"))}, nil},
		{"5.4 within a message in part", [][]byte{cat(frame(text, "ab"), pingFrame("1")[:7]), cat(pingFrame("1")[7:], frame(fin|cont, "c"))}, []string{"1"}},
	} {
		p := openPeer(t, &testLimits)
		for _, in := range c.feeds {
			p.feed(in)
		}
		rest, pongs := withoutPongs(t, p.out)
		if fmt.Sprint(pongs) != fmt.Sprint(c.pongs) {
			t.Errorf("%s: pongs %q, want %q", c.rule, pongs, c.pongs)
		}
		// A close frame is the last that is sent.
		if i := bytes.IndexByte(p.out, fin|byte(ws.OpClose)); i >= 0 && !bytes.HasSuffix(p.out, rest) {
			t.Errorf("%s: a pong after the close frame: % x", c.rule, p.out)
		}
	}
}

// A flood of pings must not make the output grow.
func TestPingFloodIsBounded(t *testing.T) {
	p := openPeer(t, &testLimits)
	p.feed(bytes.Repeat(pingFrame(strings.Repeat("p", 125)), 10_000))
	if len(p.out) != 127 {
		t.Fatalf("10,000 pings in one read: %d bytes to send, want one pong", len(p.out))
	}
}

func TestPingPending(t *testing.T) {
	p := openPeer(t, &testLimits)
	if p.feed(pongFrame("")); p.c.PingPending() {
		t.Error("pending before any ping")
	}
	out := p.c.Ping([]byte("now"), nil)
	if !bytes.Equal(out, serverFrame(ws.OpPing, "now")) || !p.c.PingPending() {
		t.Errorf("ping: % x, pending %t", out, p.c.PingPending())
	}
	if p.feed(nil); !p.c.PingPending() {
		t.Error("not pending, and nothing has come")
	}
	if p.feed(pongFrame("now")[:1]); p.c.PingPending() {
		t.Error("still pending after the first byte of the pong")
	}
	if out := p.c.Ping(make([]byte, 200), nil); !bytes.Equal(out, serverFrame(ws.OpPing, string(make([]byte, 125)))) {
		t.Errorf("a ping of 200 bytes: % x, want it cut to 125", out)
	}
}

func TestAppendFrame(t *testing.T) {
	for _, n := range []int{0, 1, 125, 126, 127, 65535, 65536, 65537} {
		payload := strings.Repeat("x", n)
		got := AppendFrame([]byte("before"), ws.OpBinary, []byte(payload))
		if want := append([]byte("before"), serverFrame(ws.OpBinary, payload)...); !bytes.Equal(got, want) {
			t.Errorf("%d bytes: % x..., want % x...", n, got[:min(24, len(got))], want[:min(24, len(want))])
		}
	}
}

// 5.5.1: no message after a close frame, and none before the 101.
func TestAppendMessageOnlyWhileOpen(t *testing.T) {
	p := newPeer(&testLimits)
	refused := func(when string) {
		t.Helper()
		out, err := p.c.AppendMessage(ws.OpText, []byte("x"), []byte("as it was"))
		if err != ErrNotOpen || string(out) != "as it was" {
			t.Errorf("%s: %q, %v, want %v", when, out, err, ErrNotOpen)
		}
		if out := p.c.Ping(nil, nil); out != nil {
			t.Errorf("%s: a ping", when)
		}
	}
	refused("opening")
	p.dontAsk = true
	p.feed([]byte(goodHead))
	refused("verifying")
	p.accept()
	if out, err := p.c.AppendMessage(ws.OpText, []byte("x"), nil); err != nil || !bytes.Equal(out, serverFrame(ws.OpText, "x")) {
		t.Errorf("open: % x, %v", out, err)
	}
	p.out = p.c.Close(1000, "", p.l, testNow, p.out)
	refused("closing")
	p.feed(closeFrame(1000, ""))
	refused("closed")
}

// The mask must not depend on how gobwas/ws vectorises it.
func TestMaskAtEveryOffset(t *testing.T) {
	payload := make([]byte, 300)
	for i := range payload {
		payload[i] = byte(i * 7)
	}
	wire := frame(fin|bin, string(payload))
	for cut := range len(wire) {
		p := openPeer(t, &testLimits)
		p.feed(wire[:cut])
		p.feed(wire[cut:])
		p.want(t, message(bin, string(payload)))
	}
}
