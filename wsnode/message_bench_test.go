package wsnode

import (
	"testing"
	"time"

	"github.com/gobwas/ws"

	"github.com/gatehouse-ws/gatehouse/wsnode/deliver"
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
