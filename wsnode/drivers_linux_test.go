package wsnode

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gobwas/ws"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/wsnode/clientaddr"
	"github.com/gatehouse-ws/gatehouse/wsnode/deliver"
	"github.com/gatehouse-ws/gatehouse/wsnode/limit"
	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

// talk is what a client says to a node, in steps. The client waits after each
// until it has read so many frames; the answer to the opening handshake is one.
// At the end it ends its side, and reads the node's to its end. How the bytes
// come together on their way may not matter: so a ping is waited for, since of
// several that came together one is answered.
type talk struct {
	name   string
	steps  func(o wstest.Opening) []step // o has a token, for echoPath
	before string                        // what is said before TLS, if there is TLS
	reset  bool                          // the node may have closed before all is said, which resets the connection
	brief  bool                          // over TLS it is said whole alone
}

type step struct {
	say    []byte
	frames int
}

func text(payload string) []byte { return wstest.Frame(ws.OpText, []byte(payload)) }

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// open is a talk that opens a session first.
func openTalk(name string, steps ...step) talk {
	return talk{name: name, steps: func(o wstest.Opening) []step {
		return slices.Concat([]step{{o.Bytes(), 1}}, steps)
	}}
}

// resetTalk is an openTalk that may end with a reset.
func resetTalk(name string, steps ...step) talk {
	t := openTalk(name, steps...)
	t.reset = true
	return t
}

// headTalk is a talk of a request alone.
func headTalk(name string, edit func(o *wstest.Opening)) talk {
	return talk{name: name, steps: func(o wstest.Opening) []step {
		edit(&o)
		return []step{{o.Bytes(), 0}}
	}}
}

// onPath is a talk on another route.
func onPath(path string, t talk) talk {
	return talk{name: t.name + " on " + path, steps: func(o wstest.Opening) []step {
		if o.Target = path; path == chatPath {
			o.Origin = appOrigin
		}
		return t.steps(o)
	}}
}

var bye = step{wstest.CloseFrame(1000, "bye"), 1}

func talks() []talk {
	all := []talk{
		openTalk("texts", step{join(text("a"), text(""), text("grüß dich")), 3}, bye),
		openTalk("sizes at the edges of lengths", step{join(text(strings.Repeat("x", 125)), text(strings.Repeat("x", 126)), text(strings.Repeat("x", 127))), 3},
			step{text(strings.Repeat("x", 65535)), 1}, step{text(strings.Repeat("x", 65536)), 1}, bye),
		openTalk("many texts at once", step{bytes.Repeat(text("0123456789"), 5000), 5000}, bye),
		openTalk("no close frame", step{text("a"), 1}),
		openTalk("no close frame, answers on their way", step{bytes.Repeat(text(strings.Repeat("y", 1000)), 100), 0}),
		openTalk("fragments", step{join(raw(0x01, "a"), raw(0x00, ""), raw(0x00, "b")), 0}, step{raw(0x89, "ping"), 1}, step{raw(0x80, "c"), 1}, bye),
		openTalk("a character over two fragments", step{join(raw(0x01, "\xe2\x82"), raw(0x80, "\xac")), 1}, bye),
		openTalk("a pong that nobody asked for", step{join(raw(0x8a, "x"), text("a")), 1}, bye),
		openTalk("half a frame", step{text("abcdef")[:9], 0}),
		openTalk("half a frame head", step{text(strings.Repeat("x", 300))[:3], 0}),
		openTalk("a message without its end", step{raw(0x01, "a"), 0}),
		openTalk("a text that is not UTF-8", step{join(text("a"), text("b\xff"), text("c")), 1}),
		openTalk("a fragment that can be no UTF-8", step{raw(0x01, "\xc0"), 0}),
		openTalk("a message that ends within a character", step{text("\xe2\x82"), 0}),
		openTalk("a binary message", step{raw(0x82, "x"), 0}),
		openTalk("a message too big", step{text(strings.Repeat("x", 65537)), 1}, bye),
		openTalk("a message too big over its fragments", step{join(raw(0x01, strings.Repeat("x", 40_000)), raw(0x80, strings.Repeat("x", 40_000))), 1}, bye),
		openTalk("too many fragments", step{join(raw(0x01, ""), bytes.Repeat(raw(0x00, ""), 256)), 1}, bye),
		openTalk("the node's own messages", step{text(`{"gatehouse":"x"}`), 0}),
		openTalk("a renewal with no token", step{text(`{"gatehouse":"renew","token":"gh1_x"}`), 0}),
		resetTalk("more after the close frame", step{join(wstest.CloseFrame(1001, ""), text("a"), bytes.Repeat([]byte("z"), 1000)), 1}),
		openTalk("close without code", step{raw(0x88, ""), 1}),
		{name: "texts before the answer", steps: func(o wstest.Opening) []step {
			return []step{{join(o.Bytes(), text("a"), text("b")), 3}, bye}
		}},
		{name: "half a request", steps: func(o wstest.Opening) []step { return []step{{o.Bytes()[:60], 0}} }},
		{name: "nothing", steps: func(wstest.Opening) []step { return nil }},
		{name: "no HTTP", steps: func(wstest.Opening) []step {
			return []step{{[]byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), 0}}
		}},
		{name: "a head without end", steps: func(wstest.Opening) []step {
			return []step{{join([]byte("GET / HTTP/1.1\r\nX: "), bytes.Repeat([]byte("x"), 20_000)), 0}}
		}},
		headTalk("too many fields", func(o *wstest.Opening) { o.Fields = slices.Repeat([]string{"X: y"}, 101) }),
		headTalk("another version of HTTP", func(o *wstest.Opening) { o.Version = "HTTP/1.0" }),
		headTalk("another method, whose answer has no body", func(o *wstest.Opening) { o.Method = "HEAD" }),
		headTalk("another method", func(o *wstest.Opening) { o.Method = "POST" }),
		headTalk("another version", func(o *wstest.Opening) {
			o.Without, o.Fields = []string{"Sec-WebSocket-Version"}, []string{"Sec-WebSocket-Version: 8"}
		}),
		headTalk("a body", func(o *wstest.Opening) { o.Fields = []string{"Content-Length: 1"} }),
		headTalk("two hosts", func(o *wstest.Opening) { o.Fields = []string{"Host: other.example"} }),
		headTalk("no route", func(o *wstest.Opening) { o.Target = "/nowhere" }),
		headTalk("no token", func(o *wstest.Opening) { o.Bearer = "" }),
		headTalk("no token on a route that refuses by close", func(o *wstest.Opening) { o.Target, o.Bearer = closingPath, "" }),
		headTalk("a forged token", func(o *wstest.Opening) { o.Bearer = o.Bearer[:70] + strings.Repeat("A", 14) }),
		headTalk("no Origin", func(o *wstest.Opening) { o.Target = chatPath }),
		onPath(chatPath, openTalk("what the schema takes", step{text(`{"type":"chat","text":"x"}`), 1}, bye)),
		onPath(chatPath, openTalk("what it does not", step{join(text(`{"type":"ping"}`), text(`{"type":"admin"}`)), 1})),
		onPath(binaryPath, openTalk("binary", step{raw(0x82, "\x00\xff"), 1}, bye)),
	}
	for name, frame := range map[string][]byte{
		"no mask": {0x81, 1, 'a'}, "a reserved bit": raw(0xc1, "a"), "reserved opcode 3": raw(0x83, "a"), "reserved opcode 11": raw(0x8b, "a"),
		"a long form of a short length":   {0x81, 0xfe, 0, 125, 1, 2, 3, 4},
		"the longest form of a short one": {0x81, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 1, 2, 3, 4},
		"a length of 2^63":                {0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4},
		"a length of 2^63-1":              {0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4},
		"a ping in fragments":             raw(0x09, "a"), "a ping too long": raw(0x89, strings.Repeat("x", 126)),
		"a continuation of nothing": raw(0x80, "a"), "a message within another": join(raw(0x01, "a"), raw(0x81, "b")),
		"a close frame of one byte": raw(0x88, "a"), "close code 1005": raw(0x88, "\x03\xed"), "close code 999": raw(0x88, "\x03\xe7"),
		"close code 5000": raw(0x88, "\x13\x88"), "a close reason that is not UTF-8": raw(0x88, "\x03\xe8\xff"),
	} {
		all = append(all, openTalk(name, step{join(text("before"), frame, text("after")), 1}))
	}
	return append(all, malformedTalks()...)
}

// cuts are the pieces that a step is sent in.
var cuts = map[string]func(r *rand.Rand, b []byte) [][]byte{
	"whole": func(_ *rand.Rand, b []byte) [][]byte { return [][]byte{b} },
	"byte by byte": func(r *rand.Rand, b []byte) [][]byte {
		if len(b) > 2000 { // it would take long
			return pieces(r, b)
		}
		return slices.Collect(slices.Chunk(b, 1))
	},
	"in pieces": pieces,
}

func pieces(r *rand.Rand, b []byte) (out [][]byte) {
	for len(b) > 0 {
		n := min(1+r.IntN(1+len(b)/4), len(b))
		out = append(out, b[:n])
		b = b[n:]
	}
	return out
}

// Both drivers do the same: whatever a client says and however it is cut, the
// node sends the same bytes, tells its application the same, and counts and logs
// the same.
func TestDriversAgree(t *testing.T) {
	driversAgree(t, newTCP(t, PortableDriver, nil), newTCP(t, AutoDriver, nil))
}

// So they do over TLS.
func TestDriversAgreeTLS(t *testing.T) {
	server, client := wstest.TLS(t)
	portable, loops := newTCP(t, PortableDriver, server), newTCP(t, AutoDriver, server)
	portable.client, loops.client = client, client
	driversAgree(t, portable, loops)
}

func driversAgree(t *testing.T, portable, loops *tcpLab) {
	for from, talks := range map[string][]talk{"127.0.0.1": talks(), proxyAddr: proxyTalks(), xffAddr: xffTalks()} {
		for cut, in := range cuts {
			if portable.client != nil && cut == "byte by byte" {
				continue // of what TLS makes of that netloop's tests know more
			}
			for i, talk := range talks {
				if portable.client != nil && talk.brief && cut != "whole" {
					continue
				}
				t.Run(talk.name+" "+cut, func(t *testing.T) {
					want := portable.hear(t, talk, from, func(b []byte) [][]byte { return in(rand.New(rand.NewPCG(1, uint64(i))), b) })
					got := loops.hear(t, talk, from, func(b []byte) [][]byte { return in(rand.New(rand.NewPCG(1, uint64(i))), b) })
					if got != want {
						t.Errorf("the loops:\n%s\nthe portable driver:\n%s", got, want)
					}
				})
			}
		}
	}
}

// Trusted proxies on loopback.
const proxyAddr, xffAddr = "127.0.0.2", "127.0.0.3"

// proxyTalks begin with a PROXY header, or should.
func proxyTalks() []talk {
	headed := func(name, header string) talk {
		return talk{name: "PROXY: " + name, before: header, steps: func(o wstest.Opening) []step {
			return []step{{join(o.Bytes(), text("a")), 2}, bye}
		}}
	}
	cut := func(name, header string) talk {
		return talk{name: "PROXY: " + name, before: header, steps: func(wstest.Opening) []step { return nil }}
	}
	return []talk{
		headed("version 1", "PROXY TCP4 192.0.2.7 192.0.2.8 40000 443\r\n"),
		headed("version 2", v2Header("\x21\x11\x00\x0c\xc0\x00\x02\x07\xc0\x00\x02\x08\x9c\x40\x01\xbb")),
		headed("version 2 with more than addresses", v2Header("\x21\x11\x03\xe8\xc0\x00\x02\x07\xc0\x00\x02\x08\x9c\x40\x01\xbb"+strings.Repeat("x", 988))),
		headed("LOCAL", v2Header("\x20\x00\x00\x00")),
		headed("UNKNOWN", "PROXY UNKNOWN\r\n"),
		headed("none", ""),
		headed("two", strings.Repeat("PROXY TCP4 192.0.2.7 192.0.2.8 40000 443\r\n", 2)),
		headed("malformed", "PROXY TCP4 192.0.2.7 192.0.2.8 40000\r\n"),
		headed("too long", v2Header("\x21\x11\xff\xff\xc0\x00\x02\x07\xc0\x00\x02\x08\x9c\x40\x01\xbb")),
		cut("half of version 1", "PROXY TCP4 192.0."),
		cut("half of version 2", v2Header("\x21\x11\x00")),
		cut("no byte", ""),
		cut("nothing behind it", "PROXY TCP4 192.0.2.7 192.0.2.8 40000 443\r\n"),
	}
}

// xffTalks have X-Forwarded-For, or should.
func xffTalks() []talk {
	with := func(name string, fields ...string) talk {
		return talk{name: "X-Forwarded-For: " + name, steps: func(o wstest.Opening) []step {
			o.Fields = fields
			return []step{{o.Bytes(), 1}}
		}}
	}
	return []talk{
		with("one", "X-Forwarded-For: 192.0.2.7"), with("two", "X-Forwarded-For: 203.0.113.9, 192.0.2.7"), with("a proxy's", "X-Forwarded-For: 192.0.2.7, "+xffAddr),
		with("none"), with("none but Forwarded", "Forwarded: for=192.0.2.7"), with("malformed", "X-Forwarded-For: 192.0.2.7, x"), with("unknown", "X-Forwarded-For: unknown"),
	}
}

func v2Header(rest string) string { return "\r\n\r\n\x00\r\nQUIT\n" + rest }

// tcpLab is a node on loopback.
type tcpLab struct {
	*lab
	listener net.Listener
	client   *tls.Config // nil without TLS
	told     int         // events of the handler that were compared
	logged   int         // and bytes of the log
}

func newTCP(t *testing.T, d Driver, server *tls.Config) *tcpLab {
	return newTCPWith(t, d, server, func(*Config) {})
}

func newTCPWith(t *testing.T, d Driver, server *tls.Config, edit func(*Config)) *tcpLab {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return newTCPOn(t, listener, d, server, edit)
}

func newTCPOn(t *testing.T, listener net.Listener, d Driver, server *tls.Config, edit func(*Config)) *tcpLab {
	l := &tcpLab{listener: listener, lab: newLab(t, testConfig(), func(c *Config, _ *wstest.Authority) {
		c.Sockets.Driver, c.Sockets.Loops = d, 2
		c.TrustedProxies = []clientaddr.Trusted{{Networks: []string{proxyAddr}, Mode: clientaddr.Proxy}, {Networks: []string{xffAddr}, Mode: clientaddr.XFF}}
		c.Limits.Messages.PerSecond, c.Limits.UnauthenticatedPerAddress.Max = 0, 100
		c.Limits.NewPerAddress = limit.Window{Max: 1_000_000, Length: time.Second, Action: limit.Reject}
		edit(c)
	})}
	l.Start()
	serving := make(chan error, 1)
	go func() { serving <- l.Serve(l.listener, server) }()
	t.Cleanup(func() {
		l.shutdown()
		if err := <-serving; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	for deadline := time.Now().Add(10 * time.Second); l.Ready() != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(l.Ready())
		}
	}
	return l
}

var (
	handshakeID = regexp.MustCompile(`[0-9a-f]{32}`)
	date        = regexp.MustCompile(`Date: [^\r]*`)
)

// hear has the node hear a talk from an address, and tells all that came of it.
func (l *tcpLab) hear(t *testing.T, talk talk, from string, cut func([]byte) [][]byte) string {
	t.Helper()
	dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0))}
	c, err := dialer.Dial("tcp", l.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(wstest.Patience))
	say := func(b []byte) {
		for _, piece := range cut(b) {
			_, _ = c.Write(piece) // the node may have ended
		}
	}
	var heard heard
	ended := false
	steps := talk.steps(wstest.Opening{Target: echoPath, Bearer: l.token()})
	if l.client != nil {
		say([]byte(talk.before))
		if over := tls.Client(c, l.client); len(steps) > 0 {
			c = over
			ended = over.Handshake() != nil // the node may have refused it by now
		}
	} else if len(steps) == 0 {
		say([]byte(talk.before))
	} else {
		steps[0].say = join([]byte(talk.before), steps[0].say)
	}
	for _, step := range steps {
		say(step.say)
		for range step.frames {
			ended = ended || !heard.frame(c)
		}
	}
	if !ended {
		_ = c.(interface{ CloseWrite() error }).CloseWrite()
	}
	for heard.more(c) {
	}
	// Whoever is cut off before TLS may find that in either way.
	if heard.err != io.EOF && (l.client == nil || len(heard.b) > 0) && !(talk.reset && errors.Is(heard.err, syscall.ECONNRESET)) {
		t.Errorf("the connection ends with %v", heard.err)
	}
	_ = c.Close()
	ctx, cancel := contextFor(wstest.Patience)
	defer cancel()
	if err := l.driver.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	events := l.calls.seen()
	logged := l.logs.String()
	out := fmt.Sprintf("sent %q\ntold %q\n", date.ReplaceAll(handshakeID.ReplaceAll(heard.b, []byte("ID")), []byte("Date")), events[l.told:])
	for _, msg := range []string{"handshake refused", "session opened", "session closed"} {
		for _, line := range (&logbook{buf: *bytes.NewBufferString(logged[l.logged:])}).lines(t, msg) {
			out += fmt.Sprintln(msg, line["reason"], line["code"], line["detail"], line["path"], line["origin"], line["client_ip"], line["proxy"], line["error"])
		}
	}
	l.told, l.logged = len(events), len(logged)
	return out
}

// heard is what a client has read.
type heard struct {
	b   []byte
	at  int // of what was not looked at
	err error
}

// more reads once more.
func (h *heard) more(c net.Conn) bool {
	if h.err == nil {
		var n int
		h.b = slices.Grow(h.b, 64<<10)
		n, h.err = c.Read(h.b[len(h.b):cap(h.b)])
		h.b = h.b[:len(h.b)+n]
	}
	return h.err == nil
}

// frame reads one more frame, or the head of an answer, and reports whether
// there is one.
func (h *heard) frame(c net.Conn) bool {
	for {
		rest := h.b[h.at:]
		if bytes.HasPrefix(rest, []byte("HTTP/")) {
			if i := bytes.Index(rest, []byte("\r\n\r\n")); i >= 0 {
				h.at += i + 4
				return true
			}
		} else {
			r := bytes.NewReader(rest)
			head, err := ws.ReadHeader(r)
			if err == nil && int64(r.Len()) >= head.Length {
				h.at += len(rest) - r.Len() + int(head.Length)
				return true
			}
			if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				return false
			}
		}
		if !h.more(c) {
			return false
		}
	}
}

// A revocation is acknowledged once the sessions that it hits are dead on every
// loop, also on one that is held up by its application: that one's sockets linger,
// and what they have sent by then reaches nobody.
func TestEnforceOnLoops(t *testing.T) {
	const sockets = 20
	l := newTCP(t, AutoDriver, nil)
	release, entered := make(chan struct{}), make(chan struct{}, 1)
	l.calls.message = func(s deliver.Session, op deliver.Op, payload []byte) error {
		if string(payload) == "stick" {
			entered <- struct{}{}
			<-release
		}
		return deliver.Echo{}.Message(s, op, payload)
	}
	var hit, others []*wstest.Peer
	for i := range 2 * sockets {
		subject := []string{"u42", "other"}[i/2%2] // of both on each loop
		c, err := net.Dial("tcp", l.listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		p := wstest.NewPeer(t, c)
		p.Open(wstest.Opening{Target: echoPath, Bearer: l.a.Issue(wstest.Token{Subject: subject}).Text})
		if subject == "u42" {
			hit = append(hit, p)
		} else {
			others = append(others, p)
		}
	}
	others[0].Send("stick") // holds up its loop
	<-entered
	for _, p := range hit {
		p.Send("late")
	}
	revision := l.a.Revoke(wstest.BySubject("default", "u42")).GetSequence()
	var told *pb.Enforced
	l.a.Await(t, "the revocation is acknowledged", func(s *wstest.Seen) bool {
		for _, a := range s.Acknowledgements {
			for _, e := range a.GetEnforced() {
				if e.GetSequence() == revision {
					told = e
				}
			}
		}
		return told != nil
	})
	if told.GetClosed() != sockets || told.GetLingering() != sockets/2 {
		t.Errorf("%d closed, %d of them lingering, want %d, and those of the loop that is held up", told.GetClosed(), told.GetLingering(), sockets)
	}
	l.calls.mu.Lock()
	before := len(l.calls.events)
	l.calls.mu.Unlock()
	close(release)
	for _, p := range hit {
		for {
			op, payload := p.Read()
			if op == ws.OpClose {
				if code, _ := ws.ParseCloseFrameData(payload); code != 4501 {
					t.Errorf("closed with %d, want 4501", code)
				}
				break
			}
		}
	}
	for _, event := range l.calls.seen()[before:] {
		if event == "message late" {
			t.Error("a message was delivered after its session's end was acknowledged")
		}
	}
	others[0].Want(ws.OpText, "stick")
	for _, p := range others {
		exchange(p, "still here")
	}
}
