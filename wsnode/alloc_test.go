package wsnode

import (
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/gatehouse-ws/gatehouse/wsnode/deliver"
	"github.com/gatehouse-ws/gatehouse/wsnode/netloop"
	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

// deaf is an application that does nothing.
type deaf struct{}

func (deaf) Opened(deliver.Session)                            {}
func (deaf) Message(deliver.Session, deliver.Op, []byte) error { return nil }
func (deaf) Closed(deliver.Session, uint16, string)            {}

// An opening handshake allocates the peer and its session, what the authority is
// told, and the strings that may be logged. The lines of the log, which is off
// here, and the redemption are not in it.
func TestHandshakeAllocs(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // nobody else allocates while the node does
	b := newBench(t)
	b.handler = deaf{}
	count := func(least *uint64, fn func()) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		fn()
		runtime.ReadMemStats(&after)
		*least = min(*least, after.Mallocs-before.Mallocs)
	}
	accept, feed, conclude := ^uint64(0), ^uint64(0), ^uint64(0)
	for range 20 {
		h := &hand{t: t, b: b, posts: make(chan func(time.Time, []byte) []byte, 64), out: make([]byte, 0, 4096), now: time.Now()}
		request := wstest.Opening{Target: echoPath, Bearer: b.token(), Fields: []string{"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}}.Bytes()
		count(&accept, func() {
			ticket, ok := opener{b.Node}.Accepted(netip.AddrPortFrom(loopbackAddr, 1), false, h.now)
			if !ok {
				t.Fatal("not let in")
			}
			h.m = ticket.Open(netloop.Link{Poster: h}, h.now)
		})
		count(&feed, func() { h.out = h.m.Feed(request, h.now, h.out) })
		post := <-h.posts
		count(&conclude, func() { h.out = post(h.now, h.out) })
		h.gone(nil)
	}
	for _, c := range []struct {
		part      string
		got, most uint64
	}{
		{"accept: the peer, and what it needs until it is open", accept, 2},
		{"the request: path, user agent for the log and for the authority, which gets copies; and who takes the answer", feed, 6},
		{"the answer: the session", conclude, 1},
	} {
		if c.got > c.most {
			t.Errorf("%s: %d allocations, want at most %d", c.part, c.got, c.most)
		}
	}
}
