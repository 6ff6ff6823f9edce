package wsconn

import (
	"bytes"
	"strings"
	"testing"
	"unsafe"
)

// browserHead is the size of what a browser sends behind a proxy.
const browserHead = "GET /chat?room=1 HTTP/1.1\r\n" +
	"Host: chat.example.com\r\n" +
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0\r\n" +
	"Accept: */*\r\nAccept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n" +
	"Sec-WebSocket-Version: 13\r\nOrigin: https://chat.example.com\r\n" +
	"Sec-WebSocket-Protocol: gatehouse.v1, gatehouse.token.gh1_0123456789012345678901234567890123456789012345678901234567890123456789abcdefghij\r\n" +
	"Sec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" +
	"Connection: keep-alive, Upgrade\r\nCookie: a=b; c=d\r\nSec-Fetch-Dest: empty\r\nSec-Fetch-Mode: websocket\r\n" +
	"Sec-Fetch-Site: same-origin\r\nPragma: no-cache\r\nCache-Control: no-cache\r\nUpgrade: websocket\r\n\r\n"

// reader is a sink that looks at a request as a node does.
type reader struct {
	echo
	found int
}

func (s *reader) Opening(r *Request) {
	for p := range r.Subprotocols() {
		s.found += len(p)
	}
	for name := range r.Fields() {
		s.found += len(name)
	}
	if _, ok := r.Header("x-forwarded-for"); ok {
		s.found++
	}
	s.found += len(r.Path) + len(r.Host) + len(r.Origin) + len(r.UserAgent)
}

func TestFeedAllocs(t *testing.T) {
	kilo := strings.Repeat("x", 1000)
	for _, c := range []struct {
		name string
		wire []byte
		step int // bytes a call; zero for all at once
	}{
		{"a whole message", textFrame("hello"), 0},
		{"many at once", bytes.Repeat(textFrame(multibyte), 50), 0},
		{"a ping and a pong", cat(pingFrame("abc"), pongFrame("abc")), 0},
		{"a message in part", textFrame(kilo), 300},
		{"a message byte by byte", textFrame(multibyte), 1},
		{"a message of 64 KiB in part", textFrame(strings.Repeat("x", 64<<10)), 9000},
		{"a fragmented message", cat(frame(text, kilo), pingFrame("p"), frame(cont, kilo), frame(fin|cont, kilo)), 0},
		{"a fragmented message in part, with a ping", cat(frame(text, kilo), pingFrame("p"), frame(fin|cont, kilo)), 7},
	} {
		p := openPeer(t, &testLimits)
		in, out := make([]byte, len(c.wire)), make([]byte, 0, 128<<10)
		sink := &reader{}
		step := c.step
		if step == 0 {
			step = len(in)
		}
		got := testing.AllocsPerRun(500, func() {
			copy(in, c.wire) // Feed unmasks in place
			for rest := in; len(rest) > 0; {
				n := min(step, len(rest))
				sent, err := p.c.Feed(rest[:n], p.l, testNow, sink, out[:0])
				if err != nil || cap(sent) != cap(out) {
					t.Fatal(err, cap(sent))
				}
				rest = rest[n:]
			}
		})
		if got != 0 && !raceEnabled { // under -race a sync.Pool drops items
			t.Errorf("%s: %v allocs, want 0", c.name, got)
		}
	}
}

// A socket at rest keeps no more than this, and its part is given back.
func TestConnBytes(t *testing.T) {
	if got := unsafe.Sizeof(Conn{}); got > 16 {
		t.Errorf("a connection is %d bytes, want at most 16", got)
	}
	p := openPeer(t, &testLimits)
	for _, wire := range [][]byte{textFrame("hello"), pingFrame("p"), cat(frame(text, "a"), frame(fin|cont, "b")), frame(fin|text, multibyte)} {
		for _, cut := range []int{0, 1, len(wire) / 2} {
			p.feed(wire[:cut])
			if between := p.c.part != nil; between != (cut > 0) {
				t.Errorf("% x is fed, and something is kept: %t", wire[:cut], between)
			}
			if p.feed(wire[cut:]); p.c.part != nil {
				t.Errorf("% x, cut at %d: something is kept after it", wire, cut)
			}
		}
	}
}

func TestOpeningAllocs(t *testing.T) {
	in, out := []byte(browserHead), make([]byte, 0, 4096)
	sink := &reader{}
	refusal := &Refusal{Status: 401, Fields: []Field{{"WWW-Authenticate", "Bearer"}}, Body: "no token\n"}
	for _, c := range []struct {
		name   string
		step   int
		accept bool
	}{{"accepted", len(in), true}, {"accepted in part", 100, true}, {"refused", len(in), false}} {
		var conn Conn
		got := testing.AllocsPerRun(500, func() {
			conn.Reset(&testLimits, testNow)
			for rest := in; len(rest) > 0; rest = rest[min(c.step, len(rest)):] {
				if _, err := conn.Feed(rest[:min(c.step, len(rest))], &testLimits, testNow, sink, nil); err != nil {
					t.Fatal(err)
				}
			}
			var err error
			sent := out[:0]
			if c.accept {
				sent, err = conn.Accept("gatehouse.v1", sent)
				sent = conn.Close(1000, "bye", &testLimits, testNow, sent)
			} else {
				sent = conn.Refuse(refusal, testNow, sent)
			}
			if err != nil || len(sent) == 0 {
				t.Fatal(err)
			}
			conn.Release()
		})
		if got != 0 && !raceEnabled { // under -race a sync.Pool drops items
			t.Errorf("%s: %v allocs, want 0", c.name, got)
		}
	}
}

// Errors cost nothing either: a hostile peer must not make garbage.
func TestErrorAllocs(t *testing.T) {
	for name, wire := range map[string][]byte{
		"protocol": frame(fin|3, "x"), "utf8": textFrame(broken), "too big": declared(fin|text, 1<<20), "closed": closeFrame(1000, "bye"),
	} {
		var conn Conn
		head, in, out := []byte(goodHead), make([]byte, len(wire)), make([]byte, 0, 4096)
		got := testing.AllocsPerRun(500, func() {
			conn.Reset(&testLimits, testNow)
			if _, err := conn.Feed(head, &testLimits, testNow, discard{}, nil); err != nil {
				t.Fatal(err)
			}
			sent, err := conn.Accept("", out[:0])
			if err != nil {
				t.Fatal(err)
			}
			copy(in, wire)
			if sent, err = conn.Feed(in, &testLimits, testNow, discard{}, sent); err == nil {
				t.Fatal("no error")
			}
			conn.Close(1002, "protocol error", &testLimits, testNow, sent)
		})
		if got > 1 && !raceEnabled { // gobwas/ws boxes its protocol errors
			t.Errorf("%s: %v allocs, want at most 1", name, got)
		}
	}
}
