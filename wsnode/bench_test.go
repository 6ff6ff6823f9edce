package wsnode

import (
	"bytes"
	"context"
	"net/http"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/gatehouse-ws/gatehouse/wsnode/netloop"
	"github.com/gatehouse-ws/gatehouse/wsnode/verify"
	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

var loopbackAddr = netip.MustParseAddr("192.0.2.1")

func contextFor(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}

// bench is a node without listener, whose peers are fed by hand.
type bench struct {
	*lab
	skew atomic.Int64 // by how much the lease's clock is ahead
}

// newBench makes a node that admits. It is shut down when the test ends.
func newBench(t testing.TB) *bench {
	b := &bench{lab: &lab{a: wstest.NewAuthority(), logs: &logbook{}, metrics: prometheus.NewRegistry()}}
	b.calls = newRecorder(t)
	begin := time.Now()
	clock := func() time.Duration { return time.Since(begin) + time.Duration(b.skew.Load()) }
	cfg := testConfig()
	cfg.Log, cfg.Limits.Messages.PerSecond = quiet, 0
	cfg.Limits.NewPerAddress.Max = 1_000_000
	cfg.Limits.UnauthenticatedPerAddress.Max = 1000
	cfg.Limits.AuthenticatedPerAddress.Max = 10_000
	cfg.Limits.Sockets.Max, cfg.Limits.Addresses = 10_000, 16_384
	var err error
	b.Node, err = newNode(cfg, b.calls, func(e verify.Enforcer) (*verify.Client, error) {
		return verify.Over(b.a.Client(), clock, cfg.Authority, nil, e, cfg.Log)
	})
	if err != nil {
		t.Fatal(err)
	}
	b.Start()
	for deadline := time.Now().Add(10 * time.Second); b.Ready() != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(b.Ready())
		}
	}
	t.Cleanup(func() {
		ctx, cancel := contextFor(shutdownTimeout)
		defer cancel()
		if err := b.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	})
	return b
}

// hand is a peer that is fed by hand: the driver of one machine.
type hand struct {
	t     testing.TB
	b     *bench
	m     netloop.Machine
	now   time.Time
	out   []byte
	posts chan func(time.Time, []byte) []byte
	ended atomic.Bool
}

func (h *hand) Post(_ netloop.Ref, fn func(time.Time, []byte) []byte) bool {
	if h.ended.Load() {
		return false
	}
	h.posts <- fn
	return true
}

// accept is a new connection.
func (b *bench) accept(t testing.TB) *hand {
	h := &hand{t: t, b: b, now: time.Now(), posts: make(chan func(time.Time, []byte) []byte, 64)}
	ticket, ok := opener{b.Node}.Accepted(netip.AddrPortFrom(loopbackAddr, 1), false, h.now)
	if !ok {
		t.Fatal("not let in")
	}
	h.m = ticket.Open(netloop.Link{Poster: h, Shared: opener{b.Node}.Share(h)}, h.now)
	return h
}

// turns runs what was posted.
func (h *hand) turns() {
	for {
		select {
		case fn := <-h.posts:
			h.out = fn(h.now, h.out)
		default:
			return
		}
	}
}

func (h *hand) feed(in []byte) {
	h.out = h.m.Feed(bytes.Clone(in), h.now, h.out)
	h.turns()
}

// await runs the next turn that is posted.
func (h *hand) await() {
	h.t.Helper()
	select {
	case fn := <-h.posts:
		h.out = fn(h.now, h.out)
	case <-time.After(10 * time.Second):
		h.t.Fatal("nothing is posted")
	}
}

// response cuts an HTTP response off the output.
func (h *hand) response() string {
	h.t.Helper()
	i := bytes.Index(h.out, []byte("\r\n\r\n"))
	if i < 0 {
		h.t.Fatalf("no response in %q", h.out)
	}
	head := string(h.out[:i])
	h.out = h.out[i+4:]
	return head
}

// frame cuts a frame off the output.
func (h *hand) frame() (ws.OpCode, []byte) {
	h.t.Helper()
	r := bytes.NewReader(h.out)
	head, err := ws.ReadHeader(r)
	if err != nil || int64(r.Len()) < head.Length {
		h.t.Fatalf("no frame in %q: %v", h.out, err)
	}
	at := len(h.out) - r.Len()
	payload := h.out[at : at+int(head.Length)]
	h.out = h.out[at+int(head.Length):]
	return head.OpCode, payload
}

func (h *hand) gone(err error) {
	h.ended.Store(true)
	h.turns()
	h.m.Gone(err, h.now)
}

// open is a peer whose session is open.
func (b *bench) open(path string) *hand {
	h := b.accept(b.calls.t)
	h.open(path)
	return h
}

func (h *hand) open(path string) {
	h.t.Helper()
	o := wstest.Opening{Target: path, Bearer: h.b.a.Issue(wstest.Token{}).Text}
	if path == chatPath {
		o.Origin = appOrigin
	}
	h.out = h.m.Feed(o.Bytes(), h.now, h.out)
	h.await() // the authority's answer, which may be there by now
	if head := h.response(); !bytes.HasPrefix([]byte(head), []byte("HTTP/1.1 101")) {
		h.t.Fatalf("%s, want %d", head, http.StatusSwitchingProtocols)
	}
}
