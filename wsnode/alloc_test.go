package wsnode

import (
	"bytes"
	"net/netip"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"github.com/gatehouse-ws/gatehouse/wsnode/deliver"
	"github.com/gatehouse-ws/gatehouse/wsnode/netloop"
	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

// deaf is an application that does nothing.
type deaf struct{}

func (deaf) Opened(deliver.Session)                            {}
func (deaf) Message(deliver.Session, deliver.Op, []byte) error { return nil }
func (deaf) Closed(deliver.Session, uint16, string)            {}

// crowd are peers of one event loop, which are fed by hand.
type crowd struct {
	t      testing.TB
	b      *bench
	shared any
	posts  chan func(time.Time, []byte) []byte
	out    []byte
}

func (b *bench) crowd(t testing.TB) *crowd {
	c := &crowd{t: t, b: b, posts: make(chan func(time.Time, []byte) []byte, 64), out: make([]byte, 0, 4096)}
	c.shared = opener{b.Node}.Share(c)
	return c
}

func (c *crowd) Post(_ netloop.Ref, fn func(time.Time, []byte) []byte) bool {
	c.posts <- fn
	return true
}

// open is a peer whose opening handshake is done, as step by step as step has it.
func (c *crowd) open(tok string, step func(part int, do func())) netloop.Machine {
	var m netloop.Machine
	now := time.Now()
	request := wstest.Opening{Target: echoPath, Bearer: tok, Fields: []string{"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}}.Bytes()
	step(0, func() {
		ticket, ok := opener{c.b.Node}.Accepted(netip.AddrPortFrom(loopbackAddr, 1), false, now)
		if !ok {
			c.t.Fatal("not let in")
		}
		m = ticket.Open(netloop.Link{Poster: c, Shared: c.shared}, now)
	})
	step(1, func() { c.out = m.Feed(request, now, c.out[:0]) })
	var answer func(time.Time, []byte) []byte
	select {
	case answer = <-c.posts:
	case <-time.After(10 * time.Second):
		c.t.Fatalf("the authority does not answer; sent %q", c.out)
	}
	step(2, func() { c.out = answer(now, c.out) })
	if !bytes.HasPrefix(c.out, []byte("HTTP/1.1 101")) {
		c.t.Fatalf("%q", c.out)
	}
	return m
}

// An opening handshake allocates its peer. The lines of the log, which is off
// here, and the redemption are not in it.
func TestHandshakeAllocs(t *testing.T) {
	for name, tracer := range map[string]Tracer{"no tracer": nil, "not traced": untraced{}} {
		t.Run(name, func(t *testing.T) { testHandshakeAllocs(t, tracer) })
	}
}

// untraced traces no handshake.
type untraced struct{}

func (untraced) Handshake(string, time.Time) HandshakeSpan { return nil }

func testHandshakeAllocs(t *testing.T, tracer Tracer) {
	if raceEnabled { // a sync.Pool then drops items
		t.Skip("race detector")
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // nobody else allocates while the node does
	b := newBench(t)
	b.handler, b.cfg.Tracer = deaf{}, tracer
	c := b.crowd(t)
	like := c.open(b.token(), func(_ int, do func()) { do() }) // most clients are like others that are there
	defer func() { like.Gone(nil, time.Now()) }()
	least := [3]uint64{1 << 60, 1 << 60, 1 << 60}
	for range 20 {
		c.open(b.token(), func(part int, do func()) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			do()
			runtime.ReadMemStats(&after)
			least[part] = min(least[part], after.Mallocs-before.Mallocs)
		}).Gone(nil, time.Now())
	}
	for part, most := range [3]uint64{1, 0, 0} {
		if least[part] > most {
			t.Errorf("%s: %d allocations, want at most %d", [3]string{"accept", "request", "answer"}[part], least[part], most)
		}
	}
}

// A peer takes three lines of the cache, whose size Go's allocator has a class for,
// and so they begin where peers do. Of these a message needs the first.
func TestPeerLines(t *testing.T) {
	if got := unsafe.Sizeof(peer{}); got != 3*64 {
		t.Errorf("a peer has %d bytes, want 192", got)
	}
	if got := unsafe.Offsetof(peer{}.session); got != 64 {
		t.Errorf("the second line begins %d bytes before the session", int(got)-64)
	}
}

// What an idle socket with a session takes of the node, beside what its loop
// knows of it: its peer, the bytes of its subject, and its places in the lists.
func TestSocketBytes(t *testing.T) {
	const warm, many = 200, 3000
	b := newBench(t)
	b.handler = deaf{}
	c := b.crowd(t)
	var machines []netloop.Machine
	open := func(n int) {
		for range n {
			machines = append(machines, c.open(b.token(), func(_ int, do func()) { do() }))
		}
	}
	heap := func() int64 {
		b.a.Forget()
		runtime.GC()
		runtime.GC() // the first leaves what pools have
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	machines = make([]netloop.Machine, 0, warm+many)
	open(warm)
	before := heap()
	open(many)
	each := (heap() - before) / many
	t.Logf("%d bytes", each)
	if each > 228 { // 192, 16, what the lists take, and a little for noise
		t.Errorf("%d bytes a socket, want at most 228", each)
	}
	for _, m := range machines {
		m.Gone(nil, time.Now())
	}
	if l := c.shared.(*loop); b.Sessions() != 0 || len(l.parties) != 0 || len(l.outbox) != 0 {
		t.Errorf("%d sessions, %d parties and %d outboxes are left", b.Sessions(), len(l.parties), len(l.outbox))
	}
}
