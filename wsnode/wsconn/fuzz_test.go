package wsconn

import (
	"bufio"
	"bytes"
	"fmt"
	"math"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

// edgeLengths are where the form of a length or a limit changes.
var edgeLengths = []uint64{0, 1, 124, 125, 126, 127, 65535, 65536, math.MaxInt64, 1 << 63}

// fuzzLimits are small, so that fuzzing gets to them.
var fuzzLimits = Limits{HeadBytes: 600, HeadFields: 12, PipelinedBytes: 1 << 20, MessageBytes: 300, Fragments: 4, ClosingBytes: 400}.WithDefaults()

// FuzzFeed proves that the same bytes give the same events, answers and state
// however they are cut, within the limits. Pongs alone may be fewer.
func FuzzFeed(f *testing.F) {
	frames := [][]byte{
		textFrame("hello"), textFrame(multibyte), textFrame(broken), textFrame("no"), textFrame(strings.Repeat("x", 301)),
		frame(text, "a"), frame(cont, "\xf0\x9f"), frame(fin|cont, "b"), pingFrame("p"), pongFrame(""), closeFrame(1000, "bye"),
		closeFrame(1005, ""), frame(fin|8, "x"), frame(fin|3, ""), serverFrame(ws.OpText, "x"), longForm(fin|text, 16, 5),
	}
	for i, one := range frames {
		f.Add(one, []byte{0}, true)
		f.Add(cat(frames[5], frames[8], one, frames[7], frames[i/2], frames[10]), []byte{3, 0, 9}, true)
		f.Add(cat([]byte(goodHead), one, one), []byte{200, 1}, false)
	}
	for _, n := range edgeLengths {
		f.Add(append(declared(fin|bin, n), make([]byte, min(n, 500))...), []byte{7}, true)
		f.Add(append(declared(fin|9, n), make([]byte, min(n, 500))...), []byte{7}, true)
	}
	f.Add([]byte(browserHead), []byte{0}, false)
	f.Add([]byte(strings.Repeat("G", 700)), []byte{99}, false)
	f.Add([]byte("GET / HTTP/1.1\r\r\n\n\r\n"), []byte{0}, false)
	f.Fuzz(func(t *testing.T, in, sizes []byte, open bool) {
		if len(in) > 1<<16 {
			return
		}
		run := func(sizes []byte) *peer {
			p := newPeer(&fuzzLimits)
			p.refuse = "no"
			if open {
				p.feed([]byte(goodHead))
				p.out, p.events = nil, nil
			}
			for rest, i := in, 0; len(rest) > 0; i++ {
				n := len(rest)
				if len(sizes) > 0 {
					n = min(n, int(sizes[i%len(sizes)])+1)
				}
				p.feed(rest[:n])
				checkBounds(t, &p.c, p.l)
				rest = rest[n:]
			}
			return p
		}
		whole, cut := run(nil), run(sizes)
		if a, b := strings.Join(whole.events, "\n"), strings.Join(cut.events, "\n"); a != b {
			t.Fatalf("at once:\n%s\ncut:\n%s", a, b)
		}
		if a, b := progress(&whole.c), progress(&cut.c); a != b {
			t.Fatalf("at once: %s\ncut:     %s", a, b)
		}
		if !bytes.HasPrefix(whole.out, []byte("HTTP/1.1 4")) {
			head, sent := cutAnswer(whole.out)
			cutHead, cutSent := cutAnswer(cut.out)
			sent, pongs := withoutPongs(t, sent)
			cutSent, cutPongs := withoutPongs(t, cutSent)
			if head != cutHead || !bytes.Equal(sent, cutSent) {
				t.Fatalf("at once sent % x, cut % x", sent, cutSent)
			}
			for i := 0; len(pongs) > 0; i++ {
				if i == len(cutPongs) {
					t.Fatalf("pongs %q at once, %q cut", pongs, cutPongs)
				}
				if cutPongs[i] == pongs[0] {
					pongs = pongs[1:]
				}
			}
		} else if !bytes.Equal(whole.out, cut.out) {
			t.Fatalf("at once sent %q, cut %q", whole.out, cut.out)
		}
	})
}

// cutAnswer parts the answer to the opening handshake from the frames.
func cutAnswer(out []byte) (head string, frames []byte) {
	if !bytes.HasPrefix(out, []byte("HTTP/")) {
		return "", out
	}
	h, frames, _ := bytes.Cut(out, []byte("\r\n\r\n"))
	return string(h), frames
}

// checkBounds fails when c holds more than l allows, or a buffer that
// it has no use for.
func checkBounds(t *testing.T, c *Conn, l *Limits) {
	t.Helper()
	if c.part == nil {
		if c.state != StateOpen && c.state != StateClosed {
			t.Fatalf("%v: nothing is kept", c.state)
		}
		return
	}
	held := 0
	if c.buf != nil {
		held = len(c.buf.b)
		if held == 0 || c.state == StateClosed || c.state == StateClosing {
			t.Fatalf("%v: a buffer of %d bytes", c.state, held)
		}
	}
	switch {
	case c.state == StateOpening && held >= l.HeadBytes,
		c.state == StateVerifying && held > l.PipelinedBytes,
		c.state == StateOpen && !c.pipelined && (held > l.MessageBytes+ws.MaxControlFramePayloadSize || c.have > l.MessageBytes),
		c.request != nil && (c.state != StateOpening || len(c.request.fields) > l.HeadFields):
		t.Fatalf("%v: holds %d bytes", c.state, held)
	}
	if c.state == StateClosed || c.state == StateOpen && !c.pipelined && (!c.underWay() || c.deadline.IsZero()) {
		t.Fatalf("%v: something in part: %t, deadline %v", c.state, c.underWay(), c.deadline)
	}
}

// progress is all that decides what c does with the bytes that follow, but for
// how many it would still discard.
func progress(c *Conn) string {
	if c.ended {
		return fmt.Sprint(c.state, c.closeSent)
	}
	if c.part == nil {
		return fmt.Sprint(c.state, "at rest")
	}
	var held []byte
	if c.buf != nil {
		held = c.buf.b
	}
	s := fmt.Sprintf("%v %t rest %d have %d % x head % x message %t", c.state, c.closeSent, c.rest, c.have, held,
		c.held[:c.heldBytes], c.fragmented)
	if c.rest > 0 {
		s += fmt.Sprint(" frame ", c.frameOp)
		if c.state == StateOpen {
			s += fmt.Sprint(c.mask, c.maskPos)
		}
	}
	// Else what is left there is another message's, or another connection's.
	if c.state == StateOpen && (c.fragmented || c.rest > 0 && c.frameOp.IsData()) {
		s += fmt.Sprint(" ", c.messageOp, c.fragments, c.unfinished, c.fin)
	}
	return s
}

// parsed copies what a sink sees of a request.
type parsed struct {
	discard
	path, query, host string
	fields            []Field
}

func (p *parsed) Opening(r *Request) {
	p.path, p.query, p.host = string(r.Path), string(r.Query), string(r.Host)
	for name, value := range r.Fields() {
		p.fields = append(p.fields, Field{string(name), string(value)})
	}
}

// FuzzRequest proves that net/http accepts whatever we do, and reads the same
// in it: a proxy that reads it otherwise could be made to smuggle.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		goodHead, browserHead, head("X: a\tb \xff"), head("Content-Length: 0"), head("-Host", "Host: [::1]:80"),
		start("GET //a/../%41?b=%2f?c HTTP/1.1"), start("GET /[a]^`{|}?[b]^`{|}\xff HTTP/1.1"), start("GET /a;b:c@d!$&'()*+,= HTTP/1.1"),
		head("Transfer-Encoding: chunked"), head("X : y"), head("X: y\r\n z"), head("Host: b"), head("x: y\rz"), "\r\n" + goodHead,
		head("Content-Length: 5"), head("X:y:z"), head("!#$%&'*+-.^_`|~: x"), head("Trailer: X"), head("Pragma: no-cache"),
	} {
		f.Add([]byte(s), "/", "X: y")
	}
	f.Add([]byte(nil), "/%2e/?%00", "Host:a")
	f.Add([]byte(nil), "//a@b:c/[", "A:\t\x80 ")
	f.Fuzz(func(t *testing.T, in []byte, target, field string) {
		compareWithHTTP(t, in)
		// Most mutations of a head are refused: here only a part of it is one.
		compareWithHTTP(t, []byte(start("GET "+target+" HTTP/1.1\r\n"+field)))
	})
}

func compareWithHTTP(t *testing.T, in []byte) {
	t.Helper()
	var c Conn
	c.Reset(&testLimits, testNow)
	var got parsed
	kept := bytes.Clone(in)
	_, err := c.Feed(in, &testLimits, testNow, &got, nil)
	if !bytes.Equal(in, kept) {
		t.Fatal("the head was written to")
	}
	if c.State() != StateVerifying || err != nil {
		return
	}
	want, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(in)))
	if err != nil {
		t.Fatalf("accepted, but net/http says: %v", err)
	}
	path, err := url.PathUnescape(got.path)
	if err != nil || want.Method != "GET" || want.Proto != "HTTP/1.1" || want.ContentLength != 0 || len(want.TransferEncoding) != 0 {
		t.Fatalf("accepted as %+v, which net/http reads as %+v", got, want)
	}
	if path != want.URL.Path || got.query != want.URL.RawQuery || got.host != want.Host || want.URL.Host != "" || want.URL.User != nil {
		t.Fatalf("%q %q %q, but net/http reads %q %q %q", path, got.query, got.host, want.URL.Path, want.URL.RawQuery, want.Host)
	}
	ours := make(http.Header)
	for _, field := range got.fields {
		if name := textproto.CanonicalMIMEHeaderKey(field.Name); name != "Host" {
			ours[name] = append(ours[name], field.Value)
		}
	}
	for name, values := range ours {
		if fmt.Sprint(values) != fmt.Sprint(want.Header[name]) {
			t.Fatalf("%s: %q, but net/http reads %q", name, values, want.Header[name])
		}
	}
	for name := range want.Header {
		// net/http adds the one and we hide the other.
		if ours[name] == nil && name != "Cache-Control" && name != "Cookie" {
			t.Fatalf("field %q is net/http's alone", name)
		}
	}
}

// FuzzFrameRoundTrip proves that what another implementation writes as a
// client arrives as it was, however it is fragmented and masked, and that it
// reads back what we write.
func FuzzFrameRoundTrip(f *testing.F) {
	for _, n := range edgeLengths[:8] {
		f.Add(bytes.Repeat([]byte("x"), int(n)), true, uint32(0xa55a0ff1), uint16(n/2), uint16(60))
		f.Add(bytes.Repeat([]byte{0xff}, int(n)), false, uint32(1), uint16(0), uint16(n))
	}
	f.Add([]byte(multibyte), true, uint32(0), uint16(3), uint16(1))
	f.Add([]byte(broken), true, uint32(math.MaxUint32), uint16(1), uint16(2))
	limits := testLimits
	limits.MessageBytes = 1 << 17
	f.Fuzz(func(t *testing.T, payload []byte, isText bool, key uint32, split, size uint16) {
		if len(payload) > limits.MessageBytes {
			return
		}
		op := ws.OpBinary
		if isText {
			op = ws.OpText
		}
		mask := [4]byte{byte(key >> 24), byte(key >> 16), byte(key >> 8), byte(key)}
		var wire bytes.Buffer
		write := func(op ws.OpCode, fin bool, p []byte) {
			if err := ws.WriteFrame(&wire, ws.MaskFrameWith(ws.NewFrame(op, fin, p), mask)); err != nil {
				t.Fatal(err)
			}
		}
		at := min(int(split), len(payload))
		write(op, at == len(payload), payload[:at])
		if at < len(payload) {
			write(ws.OpPing, true, payload[:min(at, 125)])
			write(ws.OpContinuation, true, payload[at:])
		}
		p := openPeer(t, &limits)
		for rest := wire.Bytes(); len(rest) > 0; {
			n := min(len(rest), int(size)+1)
			p.feed(rest[:n])
			rest = rest[n:]
		}
		if isText && !utf8.Valid(payload) {
			p.want(t, failure(ErrInvalidUTF8))
			return
		}
		p.want(t, message(byte(op), string(payload)))
		if p.c.part != nil {
			t.Fatal("an idle connection keeps a buffer or a deadline")
		}
		sent, _ := withoutPongs(t, p.out) // the peer echoes
		r := bytes.NewReader(sent)
		h, err := ws.ReadHeader(r)
		if err != nil || !h.Fin || h.OpCode != op || h.Masked || h.Length != int64(len(payload)) || !bytes.HasSuffix(sent, payload) {
			t.Fatalf("sent %+v and %d bytes: %v", h, r.Len(), err)
		}
		if len(sent) != ws.HeaderSize(h)+len(payload) {
			t.Fatal("the length is not in its shortest form")
		}
	})
}
