package wsconn

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
)

// 4.2.2: the 101 of the RFC's own example.
func TestAccept(t *testing.T) {
	for _, c := range []struct{ subprotocol, field string }{
		{"", ""},
		{"chat", "Sec-WebSocket-Protocol: chat\r\n"},
	} {
		p := newPeer(&testLimits)
		p.dontAsk = true
		p.feed([]byte(goodHead))
		if p.c.State() != StateVerifying || len(p.out) != 0 {
			t.Fatalf("%v, sent %q before it was decided", p.c.State(), p.out)
		}
		p.want(t, "opening /chat ? server.example.com")
		out, err := p.c.Accept(c.subprotocol, []byte("before "))
		want := "before HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
			"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" + c.field + "\r\n"
		if err != nil || string(out) != want || p.c.State() != StateOpen {
			t.Errorf("%q, %v, %v; want %q", out, err, p.c.State(), want)
		}
		if out, err := p.c.Accept("", out); err != ErrNotVerifying || string(out) != want {
			t.Errorf("twice: %v", err)
		}
	}
}

// wire carries what a client writes to p, and back what p sends.
type wire struct {
	p    *peer
	read int
}

func (w *wire) Write(b []byte) (int, error) {
	w.p.feed(b)
	return len(b), nil
}

func (w *wire) Read(b []byte) (int, error) {
	n := copy(b, w.p.out[w.read:])
	w.read += n
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// A client that is not ours opens, talks, pings and closes.
func TestForeignClient(t *testing.T) {
	w := &wire{p: newPeer(&testLimits)}
	u := &url.URL{Scheme: "ws", Host: "chat.example.com:8080", Path: "/chat", RawQuery: "room=1"}
	if _, _, err := (ws.Dialer{}).Upgrade(w, u); err != nil {
		t.Fatal(err)
	}
	if err := wsutil.WriteClientText(w, []byte(multibyte)); err != nil {
		t.Fatal(err)
	}
	if got, err := wsutil.ReadServerText(w); err != nil || string(got) != multibyte {
		t.Fatalf("%q, %v", got, err)
	}
	if err := wsutil.WriteClientMessage(w, ws.OpPing, []byte("p")); err != nil {
		t.Fatal(err)
	}
	if f, err := ws.ReadHeader(w); err != nil || f.OpCode != ws.OpPong {
		t.Fatalf("%+v, %v", f, err)
	}
	w.read++ // the pong's payload
	if err := wsutil.WriteClientMessage(w, ws.OpClose, ws.NewCloseFrameBody(1000, "bye")); err != nil {
		t.Fatal(err)
	}
	var closed wsutil.ClosedError
	if _, err := wsutil.ReadServerText(w); !errors.As(err, &closed) || closed.Code != 1000 {
		t.Fatal(err)
	}
	w.p.want(t, "opening /chat ?room=1 chat.example.com:8080", message(text, multibyte), `peer close 1000 "bye"`, failure(ErrPeerClosed))
}

func TestAcceptRefuses(t *testing.T) {
	for subprotocol, want := range map[string]error{
		"a\r\nSet-Cookie: x": ErrSubprotocol, "a b": ErrSubprotocol, "a,b": ErrSubprotocol, "\xff": ErrSubprotocol, "ok": nil,
	} {
		p := newPeer(&testLimits)
		p.dontAsk = true
		if out, err := p.c.Accept("", nil); err != ErrNotVerifying || out != nil {
			t.Errorf("without a request: %v", err)
		}
		p.feed([]byte(goodHead))
		if out, err := p.c.Accept(subprotocol, nil); err != want || (len(out) == 0) != (want != nil) {
			t.Errorf("%q: %q, %v, want %v", subprotocol, out, err, want)
		}
	}
}

// What came before the answer is kept, bounded, and taken once accepted.
func TestPipelined(t *testing.T) {
	limits := testLimits
	limits.PipelinedBytes = 100
	early := cat(textFrame("early"), textFrame("cut off"))
	cut := len(early) - 3
	for how, feed := range cuts {
		p := newPeer(&limits)
		p.dontAsk = true
		feed(p, append([]byte(goodHead), early[:cut]...))
		p.want(t, "opening /chat ? server.example.com")
		p.accept()
		p.want(t, "opening /chat ? server.example.com", message(text, "early"))
		if !p.c.Deadline().Equal(testNow.Add(limits.MessageTimeout)) {
			t.Errorf("%s: deadline %v of what has arrived in part", how, p.c.Deadline())
		}
		feed(p, early[cut:])
		p.want(t, "opening /chat ? server.example.com", message(text, "early"), message(text, "cut off"))
		if held(&p.c) > 0 {
			t.Errorf("%s: a buffer is kept", how)
		}
	}
	t.Run("taken before what comes next", func(t *testing.T) {
		p := newPeer(&limits)
		p.dontAsk = true
		p.feed(append([]byte(goodHead), early[:cut]...))
		if _, err := p.c.Accept("", nil); err != nil {
			t.Fatal(err)
		}
		p.feed(cat(early[cut:], textFrame("late"))) // no Feed(nil) in between
		p.want(t, "opening /chat ? server.example.com", message(text, "early"), message(text, "cut off"), message(text, "late"))
	})
	t.Run("an error in it ends what comes next", func(t *testing.T) {
		p := newPeer(&limits)
		p.dontAsk, p.refuse = true, "no"
		p.feed(append([]byte(goodHead), textFrame("no")...))
		if _, err := p.c.Accept("", nil); err != nil {
			t.Fatal(err)
		}
		p.feed(cat(textFrame("late"), closeFrame(1000, "")))
		p.want(t, "opening /chat ? server.example.com", message(text, "no"), failure(errRefused))
		if p.c.State() != StateClosed {
			t.Errorf("%v, though the peer's close frame came", p.c.State())
		}
	})
	for how, feed := range cuts {
		for n, want := range map[int][]string{100: {"opening /chat ? server.example.com"}, 101: {"opening /chat ? server.example.com", failure(ErrPipelined)}} {
			p := newPeer(&limits)
			p.dontAsk = true
			feed(p, append([]byte(goodHead), make([]byte, n)...))
			p.want(t, want...)
			if n == 101 && (p.c.State() != StateClosed || held(&p.c) > 0 || !bytes.HasPrefix(p.out, []byte("HTTP/1.1 400 "))) {
				t.Errorf("%s: %v, sent %q, want it refused", how, p.c.State(), p.out)
			}
		}
	}
	t.Run("ErrPipelined forbids Accept", func(t *testing.T) {
		var c Conn
		c.Reset(&limits, testNow)
		if _, err := c.Feed(append([]byte(goodHead), make([]byte, 101)...), &limits, testNow, discard{}, nil); err != ErrPipelined {
			t.Fatal(err)
		}
		if out, err := c.Accept("", nil); err != ErrNotVerifying || out != nil {
			t.Errorf("%q, %v", out, err)
		}
	})
}

func TestRefuse(t *testing.T) {
	read := func(t *testing.T, out []byte) (*http.Response, string) {
		t.Helper()
		r := bufio.NewReader(bytes.NewReader(out))
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatalf("%q: %v", out, err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil || r.Buffered() != 0 {
			t.Fatalf("%q: %v, %d bytes behind the body", out, err, r.Buffered())
		}
		return resp, string(body)
	}
	t.Run("the whole answer", func(t *testing.T) {
		p := newPeer(&testLimits)
		p.dontAsk = true
		p.feed(cat([]byte(goodHead), textFrame("x")))
		now := time.Date(2026, 11, 23, 13, 0, 0, 0, time.FixedZone("", 3600))
		out := p.c.Refuse(&Refusal{
			Status: 401,
			Fields: []Field{{"WWW-Authenticate", `Bearer error="invalid_token"`}, {"X-Request", "1"}},
			Body:   "token inactive\n",
		}, now, nil)
		const want = "HTTP/1.1 401 Unauthorized\r\nDate: Mon, 23 Nov 2026 12:00:00 GMT\r\nConnection: close\r\nCache-Control: no-store\r\n" +
			"Content-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\nContent-Length: 15\r\n" +
			"WWW-Authenticate: Bearer error=\"invalid_token\"\r\nX-Request: 1\r\n\r\ntoken inactive\n"
		if string(out) != want {
			t.Errorf("%q\nwant\n%q", out, want)
		}
		if resp, body := read(t, out); resp.StatusCode != 401 || body != "token inactive\n" || !resp.Close {
			t.Errorf("net/http reads %+v %q", resp, body)
		}
		if p.c.State() != StateClosed || held(&p.c) > 0 {
			t.Error(p.c.State())
		}
		p.feed(textFrame("y"))
		p.want(t, "opening /chat ? server.example.com")
		if out := p.c.Refuse(&Refusal{Status: 400}, testNow, nil); out != nil {
			t.Errorf("twice: %q", out)
		}
		if out, err := p.c.Accept("", nil); err != ErrNotVerifying || out != nil {
			t.Errorf("accepted after all: %v", err)
		}
	})
	t.Run("9110/9.3.2 the answer to HEAD has no body", func(t *testing.T) {
		request := []byte(start("HEAD /chat HTTP/1.1"))
		for _, n := range []int{1, len(request)} {
			var c Conn
			c.Reset(&testLimits, testNow)
			var err error
			for chunk := range slices.Chunk(slices.Clone(request), n) {
				_, again := c.Feed(chunk, &testLimits, testNow, discard{}, nil)
				err = errors.Join(err, again)
			}
			if !errors.Is(err, ErrHead) {
				t.Errorf("%v, want %v", err, ErrHead)
			}
			out := string(c.Refuse(&Refusal{Status: 405, Body: "method not allowed\n"}, testNow, nil))
			if !strings.Contains(out, "\r\nContent-Length: 19\r\n") || !strings.HasSuffix(out, "\r\n\r\n") {
				t.Errorf("%q", out)
			}
		}
	})
	t.Run("9110/7.8 an Upgrade field has its Connection option", func(t *testing.T) {
		p := newPeer(&testLimits)
		out := string(p.c.Refuse(&Refusal{Status: 426, Fields: []Field{{"Upgrade", "websocket"}}}, testNow, nil))
		if !strings.Contains(out, "\r\nConnection: close, Upgrade\r\n") || !strings.Contains(out, "\r\nUpgrade: websocket\r\n") {
			t.Errorf("%q", out)
		}
	})
	t.Run("no field of the answer can be injected", func(t *testing.T) {
		p := newPeer(&testLimits)
		out := p.c.Refuse(&Refusal{Status: 403, Fields: []Field{{"A", "b\r\nC: d"}, {"E\r\nF", "g"}, {"", "h"}, {"I", "j"}}}, testNow, nil)
		resp, _ := read(t, out)
		for name := range resp.Header {
			if len(name) == 1 && name != "I" {
				t.Errorf("field %s in %q", name, out)
			}
		}
		if resp.Header.Get("I") != "j" {
			t.Error("a good field was left out")
		}
	})
	for given, want := range map[int]string{101: "500 Internal Server Error", 200: "500 Internal Server Error", 0: "500 Internal Server Error",
		426: "426 Upgrade Required", 431: "431 Request Header Fields Too Large", 599: "599 "} {
		p := newPeer(&testLimits)
		if resp, _ := read(t, p.c.Refuse(&Refusal{Status: given}, testNow, nil)); resp.Status != want {
			t.Errorf("status %d: %q, want %q", given, resp.Status, want)
		}
	}
	p := openPeer(t, &testLimits)
	if out := p.c.Refuse(&Refusal{Status: 400}, testNow, nil); out != nil || p.c.State() != StateOpen {
		t.Errorf("an open connection was refused: %q", out)
	}
}

// A connection refused by a close frame never is a session.
func TestRefuseByClose(t *testing.T) {
	p := newPeer(&testLimits)
	p.dontAsk = true
	p.feed(cat([]byte(goodHead), textFrame("early")))
	var err error
	if p.out, err = p.c.RefuseByClose("chat", 4501, "token revoked", p.l, testNow, nil, Field{"Id", "7"}, Field{"No", "a\r\nb"}); err != nil {
		t.Fatal(err)
	}
	answer, frames, _ := bytes.Cut(p.out, []byte("\r\n\r\n"))
	if !bytes.HasPrefix(answer, []byte("HTTP/1.1 101 ")) || !bytes.HasSuffix(answer, []byte("\r\nSec-WebSocket-Protocol: chat\r\nId: 7")) || !bytes.Equal(frames, serverClose(4501, "token revoked")) {
		t.Errorf("sent %q", p.out)
	}
	if p.c.State() != StateClosing || held(&p.c) > 0 || !p.c.Deadline().Equal(testNow.Add(testLimits.CloseTimeout)) {
		t.Errorf("%v until %v", p.c.State(), p.c.Deadline())
	}
	if out, err := p.c.AppendMessage(ws.OpText, nil, nil); err != ErrNotOpen || out != nil {
		t.Errorf("a message to what is no session: %v", err)
	}
	p.feed(cat(textFrame("late"), closeFrame(4501, "")))
	p.want(t, "opening /chat ? server.example.com")
	if p.c.State() != StateClosed {
		t.Error(p.c.State())
	}
	if out, err := p.c.RefuseByClose("", 4501, "", p.l, testNow, nil); err != ErrNotVerifying || out != nil {
		t.Errorf("twice: %q, %v", out, err)
	}
	t.Run("the peer's close frame came early", func(t *testing.T) {
		p := newPeer(&testLimits)
		p.dontAsk = true
		p.feed(cat([]byte(goodHead), closeFrame(1000, "")))
		if _, err := p.c.RefuseByClose("", 4501, "", p.l, testNow, nil); err != nil || p.c.State() != StateClosed {
			t.Errorf("%v, %v", p.c.State(), err)
		}
	})
}

func TestCloseBeforeOpen(t *testing.T) {
	for state, in := range map[State]string{StateOpening: goodHead[:9], StateVerifying: goodHead + "\x81"} {
		p := newPeer(&testLimits)
		p.dontAsk = true
		p.feed([]byte(in))
		if p.c.State() != state {
			t.Fatalf("%v, want %v", p.c.State(), state)
		}
		if out := p.c.Close(1000, "", p.l, testNow, nil); out != nil || p.c.State() != StateClosed || held(&p.c) > 0 || p.c.part != nil && p.c.request != nil {
			t.Errorf("%v: %q, %v: a frame before the 101, or something kept", state, out, p.c.State())
		}
	}
}

func TestRelease(t *testing.T) {
	for what, in := range map[string]string{
		"a head in part":    goodHead[:9],
		"a message in part": goodHead + string(textFrame("abcdef")[:9]),
		"nothing in part":   goodHead,
	} {
		p := newPeer(&testLimits)
		p.feed([]byte(in))
		p.c.Release()
		if p.c.State() != StateClosed || held(&p.c) > 0 || p.c.part != nil && p.c.request != nil || !p.c.Deadline().IsZero() {
			t.Errorf("%s: %v", what, p.c.State())
		}
		if out, err := p.c.Feed([]byte("x"), p.l, testNow, p, nil); out != nil || err != nil {
			t.Errorf("%s: fed once closed: %q, %v", what, out, err)
		}
		p.c.Reset(&testLimits, testNow)
		p.events = nil
		p.feed([]byte(goodHead))
		p.want(t, "opening /chat ? server.example.com")
	}
}

func TestOtherLimits(t *testing.T) {
	tight := testLimits
	tight.MessageBytes = 125
	p := newPeer(&testLimits)
	p.feed([]byte(goodHead))
	p.feed(frame(text, strings.Repeat("x", 200)))
	p.want(t, "opening /chat ? server.example.com")
	p.l = &tight // less than has come: nothing more of this message may
	p.feed(frame(fin|cont, "y"))
	p.want(t, "opening /chat ? server.example.com", failure(ErrMessageTooBig))
}

// Limits that nobody filled in let nothing through.
func TestZeroLimitsFailClosed(t *testing.T) {
	var c Conn
	c.Reset(&Limits{}, testNow)
	if err := c.Expire(&Limits{}, testNow); err != ErrHandshakeTimeout {
		t.Errorf("expire: %v", err)
	}
	c.Reset(&Limits{}, testNow)
	if _, err := c.Feed([]byte("G"), &Limits{}, testNow, discard{}, nil); err != ErrHeadTooLarge {
		t.Errorf("feed: %v", err)
	}
	p := openPeer(t, &testLimits)
	p.l = &Limits{}
	p.feed(textFrame("x"))
	p.want(t, failure(ErrMessageTooBig))
}

func TestLimitsValidate(t *testing.T) {
	if err := testLimits.Validate(); err != nil {
		t.Fatalf("the defaults: %v", err)
	}
	if got := testLimits.WithDefaults(); got != testLimits {
		t.Error("WithDefaults changes what is set")
	}
	fields := reflect.TypeFor[Limits]()
	if err := (Limits{}).Validate(); err == nil || strings.Count(err.Error(), "\n")+1 != fields.NumField() {
		t.Errorf("zero limits: %v, want every field named", err)
	}
	for i := range fields.NumField() {
		for _, value := range []int64{-1, 0, 1 << 62} {
			l := testLimits
			reflect.ValueOf(&l).Elem().Field(i).SetInt(value)
			if err := l.Validate(); err == nil || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s = %d: %v, want one error", fields.Field(i).Name, value, err)
			}
		}
	}
	l := testLimits
	l.MessageBytes = 64
	if err := l.Validate(); err == nil || err.Error() != "message_bytes: 64 is below 125, the largest control frame (RFC 6455 §5.5)" {
		t.Error(err)
	}
}

func TestStateString(t *testing.T) {
	if got := fmt.Sprint(StateOpening, StateVerifying, StateOpen, StateClosing, StateClosed, State(9)); got != "opening verifying open closing closed unknown" {
		t.Error(got)
	}
}

// A buffer grows by what has arrived, not by what was declared, and big ones
// are not kept.
func TestBufferFollowsArrival(t *testing.T) {
	limits := testLimits
	limits.MessageBytes = 1 << 30
	p := openPeer(t, &limits)
	p.feed(declared(fin|bin, 1<<30))
	if held(&p.c) > 0 {
		t.Fatalf("%d bytes held for none that came", held(&p.c))
	}
	chunk := make([]byte, 1000)
	grown, last := 0, 0
	for total := 1000; total <= 300_000; total += len(chunk) {
		p.feed(chunk)
		got := held(&p.c)
		if got > 3*total+4096 {
			t.Fatalf("%d bytes held for %d that came", got, total)
		}
		if got != last {
			grown, last = grown+1, got
		}
	}
	if grown > 9 { // 4 KiB doubled seven times, and the first
		t.Fatalf("copied %d times on the way to 300,000 bytes", grown)
	}
	p.c.Release()
	for range 100 {
		for i, size := range bufferSizes {
			if b, ok := bufferPools[i].Get().(*buffer); ok && (cap(b.b) != size || len(b.b) != 0) {
				t.Fatalf("the pool of %d bytes holds one of %d", size, cap(b.b))
			}
		}
	}
}

// What a buffer held is gone when it is given back: heads carry tokens.
func TestReleasedBufferIsCleared(t *testing.T) {
	b := (*buffer)(nil).add([]byte("gh1_secret"))
	for range 3 {
		b = b.add(make([]byte, 3000)) // grows, and releases the first
	}
	kept := b.b
	copy(kept, "gh1_secret")
	b.release()
	if bytes.Contains(kept, []byte("gh1_secret")) {
		t.Error("a released buffer still holds what came")
	}
}
