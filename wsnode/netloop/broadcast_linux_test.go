package netloop

import (
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// broadcast is that of the loops.
func (s *served) broadcast(b *broadcast) bool { return s.drives.(*loops).broadcast(b) }

// A broadcast is sent to whom it is for, once, between what was sent to them
// before and what is sent after.
func TestBroadcast(t *testing.T) { testBroadcast(t, overLoops) }

func TestBroadcastTLS(t *testing.T) { testBroadcast(t, overLoopsTLS) }

func testBroadcast(t *testing.T, over func(testing.TB, Config) *served) {
	s := over(t, testConfig)
	var machines []*script
	if s.client != nil {
		defer s.dialTCP().Close() // has no machine
	}
	for range 4 {
		m := s.next()
		machines = append(machines, m)
		c := s.dial()
		exchange(t, c, "-")
		defer func() {
			text := "before" + strings.Repeat("f", 10_000) + "g" + "after"
			if m == machines[1] {
				text = "beforegafter"
			}
			want(t, c, text)
		}()
	}
	post := func(text string) {
		for _, m := range machines {
			m.post(func(out []byte) []byte { return append(out, text...) })
		}
	}
	to := func(but Machine) func(Machine, time.Time) bool {
		return func(m Machine, now time.Time) bool {
			if now.IsZero() || time.Since(now) > patience {
				t.Errorf("asked at %v", now)
			}
			m.(*script).enter() // it is the machine's turn
			defer m.(*script).leave()
			return m != but
		}
	}
	post("before")
	s.broadcast(newBroadcast(NewFrame([]byte(strings.Repeat("f", 10_000))), to(machines[1])))
	s.broadcast(newBroadcast(NewFrame([]byte("g")), to(nil)))
	post("after")
}

// A broadcast after the end of the driver is for nobody.
func TestBroadcastAfterTheEnd(t *testing.T) {
	s := overLoops(t, testConfig)
	s.next()
	exchange(t, s.dial(), "-")
	s.end()
	s.broadcast(newBroadcast(NewFrame([]byte("late")), func(Machine, time.Time) bool { t.Error("it is asked for somebody"); return true }))
}

// What the kernels of many slow peers do not take of a broadcast is one frame for
// all of them, and counts for each as far as it may let anything wait.
func TestLoopBroadcastToSlowPeers(t *testing.T) {
	const deaf, long = 5, 300_000
	cfg := testConfig
	cfg.OutboundBytes, cfg.LoopBytes = 700_000, 16<<20
	s, l := overNarrow(t, cfg)
	honest := s.next()
	c := s.dial()
	exchange(t, c, "-")
	var machines []*script
	var conns []*net.TCPConn
	for range deaf {
		m := newScript(t)
		m.overflow = []byte("too slow")
		s.machines <- m
		machines, conns = append(machines, m), append(conns, s.deaf())
		exchange(t, conns[len(conns)-1], "-")
	}
	frame := NewFrame([]byte(strings.Repeat("f", long)))
	slow := func(m Machine, _ time.Time) bool { return slices.Contains(machines, m.(*script)) }
	sendAll := func() {
		s.broadcast(newBroadcast(frame, slow))
		honest.do(func() {}) // it has been sent
	}
	holding := func() (shared, own, used int) {
		honest.do(func() {
			for i := uint32(1); i < l.blocks.end; i++ {
				if b := l.blocks.all.at(i); b.shared == frame {
					shared++
				} else if b.b != nil {
					own++
				}
			}
			used = l.blocks.used
		})
		return shared, own, used
	}
	const each = (long + blockBytes - 1) / blockBytes
	for n := 1; n <= 3; n++ { // that under way, and twice as much as waits
		sendAll()
		if shared, own, used := holding(); shared != n*deaf || own != 0 || used != n*deaf*each {
			t.Fatalf("after %d broadcasts %d blocks are the frame's and %d are copies, %d are counted; want %d, 0 and %d", n, shared, own, used, n*deaf, n*deaf*each)
		}
	}
	sendAll()
	for i, m := range machines {
		eventually(t, "the machine has its say", func() bool { return m.over.Load() == 1 })
		want(t, conns[i], string(frame.b)+"too slow")
		_ = conns[i].Close()
		if err := m.wantGone(); err != nil {
			t.Errorf("gone with %v", err)
		}
	}
	if shared, _, used := holding(); shared != 0 || used != 0 {
		t.Errorf("%d blocks are the frame's when nobody waits, and %d are counted", shared, used)
	}
	exchange(t, c, "still served")
}

// Where all have no room together for what a broadcast leaves, those end whose
// share is too much.
func TestLoopBroadcastWithoutRoom(t *testing.T) {
	cfg := testConfig
	cfg.LoopBytes = 1 << 20
	s, l := overNarrow(t, cfg)
	honest := s.next()
	c := s.dial()
	exchange(t, c, "-")
	var machines []*script
	for range 10 {
		m := s.next()
		machines = append(machines, m)
		exchange(t, s.deaf(), "-")
	}
	frame := NewFrame(make([]byte, 400_000))
	s.broadcast(newBroadcast(frame, func(m Machine, _ time.Time) bool { return slices.Contains(machines, m.(*script)) }))
	honest.do(func() {
		if l.blocks.used > l.blocks.max || l.blocks.used == 0 {
			t.Errorf("%d blocks are used of %d", l.blocks.used, l.blocks.max)
		}
	})
	over := 0
	for _, m := range machines {
		if m.over.Load() == 1 {
			over++
			if err := m.wantGone(); err == nil {
				t.Error("a peer that was cut off is gone without an error")
			}
		}
	}
	if over != 8 { // 400,000 bytes count 98 blocks of 256
		t.Errorf("%d of 10 ended, want 8", over)
	}
	exchange(t, c, "still served")
}

// What a broadcast allocates does not grow with who gets it.
func TestLoopBroadcastAllocs(t *testing.T) {
	const few, many = 4, 200
	s := overLoops(t, testConfig)
	var conns []net.Conn
	text, buf := []byte(strings.Repeat("t", 128)), make([]byte, 128)
	allocs := func(n int) float64 {
		for len(conns) < n {
			s.next()
			c := s.dial()
			exchange(t, c, "-")
			conns = append(conns, c)
		}
		return testing.AllocsPerRun(50, func() {
			s.broadcast(newBroadcast(NewFrame(text), func(Machine, time.Time) bool { return true }))
			for _, c := range conns {
				if _, err := io.ReadFull(c, buf); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
	if a, b := allocs(few), allocs(many); b > a+1 || b > 4 {
		t.Errorf("a broadcast to %d allocates %v, one to %d %v", few, a, many, b)
	}
}

// Broadcasts that a loop has no time for are kept up to a bound, and others
// refused until it has.
func TestLoopBroadcastIsBounded(t *testing.T) {
	s, l := overNarrow(t, testConfig)
	m := s.next()
	exchange(t, s.dial(), "-")
	held, holding := make(chan struct{}), make(chan struct{})
	m.post(func(out []byte) []byte { close(holding); <-held; return out })
	<-holding
	frame := NewFrame(make([]byte, 10_000))
	nobody := func(Machine, time.Time) bool { return false }
	cast := func() bool { return s.broadcast(newBroadcast(frame, nobody)) }
	taken := 0
	for cast() {
		if taken++; taken > 100 {
			t.Fatal("there is no bound")
		}
	}
	if want := l.d.cfg.LoopBytes / (10_000 + blockBytes); taken != want {
		t.Errorf("%d broadcasts wait, want %d", taken, want)
	}
	close(held)
	m.do(func() {}) // all has been sent
	if got := l.d.casting.Load(); got != 0 {
		t.Errorf("%d bytes count as under way", got)
	}
	if !s.broadcast(newBroadcast(NewFrame(make([]byte, 2*l.d.cfg.LoopBytes)), nobody)) {
		t.Error("one that is larger than the bound is refused though nothing waits")
	}
}

// However many broadcasts wait, other sockets are served in between, and what is
// posted later, as the close of a revoked session, comes before most of them. Who is
// stopped after them gets all.
func TestLoopBroadcastsTakeTurns(t *testing.T) {
	const most = 2000
	cfg := testConfig
	cfg.LoopBytes = 64 << 20
	s, l := overNarrow(t, cfg)
	sent := 0
	m, to := newScript(t), newScript(t)
	m.feed = func(in, out []byte) []byte {
		if sent > most/2 {
			t.Errorf("%d broadcasts of %d come before an echo", sent, most)
		}
		return append(out, in...)
	}
	s.machines <- m
	c := s.dial()
	exchange(t, c, "-")
	s.machines <- to
	gets := s.dial()
	exchange(t, gets, "-")
	held, holding := make(chan struct{}), make(chan struct{})
	m.post(func(out []byte) []byte { close(holding); <-held; return out })
	<-holding
	for range most {
		if !s.broadcast(newBroadcast(NewFrame([]byte("f")), func(m Machine, _ time.Time) bool {
			if m == to {
				sent++
			}
			return m == to
		})) {
			t.Fatal("refused")
		}
	}
	m.post(func(out []byte) []byte {
		if sent > most/2 {
			t.Errorf("%d broadcasts of %d come before a post", sent, most)
		}
		return append(out, "posted"...)
	})
	if _, err := c.Write([]byte("echoed")); err != nil {
		t.Fatal(err)
	}
	s.drives.Stop()
	close(held)
	want(t, c, "postedechoedstopped")
	want(t, gets, strings.Repeat("f", most)+"stopped")
	if waiting := l.d.casting.Load(); waiting != 0 {
		t.Errorf("%d bytes count as under way", waiting)
	}
}
