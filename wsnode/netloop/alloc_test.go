package netloop

import (
	"io"
	"net"
	"testing"
)

// A message in, an answer out: the driver allocates nothing for it.
func TestTurnAllocs(t *testing.T) { overEach(t, testTurnAllocs) }

func testTurnAllocs(t *testing.T, over func(testing.TB, Config) *served) {
	s := over(t, testConfig)
	s.next()
	c := s.dial()
	if got := roundTripAllocs(t, c); got != 0 {
		t.Errorf("%v allocations per message, want 0", got)
	}
}

// Over TLS it is crypto/tls that allocates, once for each record that it reads: that
// of the message, and of the answer at the client.
func TestTurnAllocsTLS(t *testing.T) {
	if raceEnabled { // a sync.Pool then drops items
		t.Skip("race detector")
	}
	overEachTLS(t, func(t *testing.T, over func(testing.TB, Config) *served) {
		s := over(t, testConfig)
		s.next()
		c := s.dial()
		if got := roundTripAllocs(t, c); got > 2 {
			t.Errorf("%v allocations per message, want 1 and the client's", got)
		}
	})
}

func BenchmarkTurn(b *testing.B) {
	for name, over := range ways {
		b.Run(name, func(b *testing.B) {
			s := over(b, testConfig)
			s.next()
			c := s.dial()
			wire, buf := make([]byte, 128), make([]byte, 128)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Write(wire); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(c, buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkPost is what a push to another connection costs before it is written.
func BenchmarkPost(b *testing.B) {
	s := overTCP(b, testConfig)
	m := s.next()
	exchange(b, s.dial(), "-")
	ran := make(chan struct{})
	fn := func(out []byte) []byte { ran <- struct{}{}; return out }
	b.ReportAllocs()
	for b.Loop() {
		m.post(fn)
		<-ran
	}
}

// roundTripAllocs is what a message of 128 bytes and its answer allocate, at both
// ends.
func roundTripAllocs(t *testing.T, c net.Conn) float64 {
	wire, buf := make([]byte, 128), make([]byte, 128)
	return testing.AllocsPerRun(2000, func() {
		if _, err := c.Write(wire); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			t.Fatal(err)
		}
	})
}
