package wsnode

import (
	"testing"
	"time"

	"github.com/gobwas/ws"

	"github.com/gatehouse-ws/gatehouse/wsnode/deliver"
	"github.com/gatehouse-ws/gatehouse/wsnode/netloop"
)

// BenchmarkMessage is what the node does with a text and its echo between the
// loop's read and its write: all but the kernel's share.
func BenchmarkMessage(b *testing.B) {
	lab := newBench(b)
	lab.handler = deliver.Echo{}
	for _, path := range []string{echoPath, chatPath} {
		b.Run(path[1:], func(b *testing.B) {
			h := lab.accept(b)
			h.open(path)
			defer h.gone(nil)
			frame := ws.MustCompileFrame(ws.MaskFrame(ws.NewTextFrame([]byte(`{"type":"chat","text":"It seems faster"}`))))
			in := make([]byte, len(frame))
			now := time.Now()
			b.ReportAllocs()
			for b.Loop() {
				copy(in, frame)
				h.out = h.m.Feed(in, now, h.out[:0])
				if len(h.out) == 0 || h.m.Done() || h.m.Deadline().IsZero() {
					b.Fatalf("%q", h.out)
				}
			}
		})
	}
}

// BenchmarkMessageOfMany is the same where each message comes from another of very
// many sockets: what the node knows of them is in no cache.
func BenchmarkMessageOfMany(b *testing.B) {
	const many = 10_000
	lab := newBench(b)
	lab.handler = deliver.Echo{}
	c := lab.crowd(b)
	machines := make([]netloop.Machine, many)
	for i := range machines {
		machines[i] = c.open(lab.token(), func(_ int, do func()) { do() })
		defer machines[i].Gone(nil, time.Now())
	}
	frame := ws.MustCompileFrame(ws.MaskFrame(ws.NewTextFrame([]byte(`{"type":"chat","text":"It seems faster"}`))))
	in, next := make([]byte, len(frame)), 0
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		copy(in, frame)
		next = (next + 4099) % many // which nothing foresees
		m := machines[next]
		if c.out = m.Feed(in, now, c.out[:0]); len(c.out) == 0 || m.Deadline().IsZero() {
			b.Fatalf("%q", c.out)
		}
	}
}
