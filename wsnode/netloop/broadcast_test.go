package netloop

import (
	"net"
	"strings"
	"testing"
	"testing/synctest"
)

// A broadcast is sent to whom it is for, once, between what was sent to them
// before and what is sent after.
func TestBroadcast(t *testing.T) { overEach(t, testBroadcast) }

func TestBroadcastTLS(t *testing.T) { overEachTLS(t, testBroadcast) }

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
	to := func(but Machine) func(Machine) bool {
		return func(m Machine) bool {
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
	overEach(t, func(t *testing.T, over func(testing.TB, Config) *served) {
		s := over(t, testConfig)
		s.next()
		exchange(t, s.dial(), "-")
		s.end()
		s.broadcast(newBroadcast(NewFrame([]byte("late")), func(Machine) bool { t.Error("it is asked for somebody"); return true }))
	})
}

// Broadcasts that gather while a turn is under way may not be more for a connection
// than may wait to be sent.
func TestBroadcastOverflow(t *testing.T) {
	cfg := testConfig
	cfg.OutboundBytes = 1000
	inMemory(t, cfg, nil, func(t *testing.T, s *served, dial func() net.Conn) {
		m, turn := newScript(t), make(chan struct{})
		m.overflow = []byte("too slow")
		s.machines <- m
		c := dial()
		exchange(t, c, "-")
		m.post(func(out []byte) []byte { <-turn; return out })
		synctest.Wait()
		for range 4 {
			s.broadcast(newBroadcast(NewFrame([]byte(strings.Repeat("f", 400))), func(Machine) bool { return !m.Done() }))
		}
		close(turn)
		want(t, c, "too slow")
		if n, err := c.Read(make([]byte, 1)); err == nil {
			t.Errorf("%d bytes after the last word", n)
		}
		if err := m.wantGone(); err != nil {
			t.Errorf("gone with %v", err)
		}
		if n := m.over.Load(); n != 1 {
			t.Errorf("%d overflows, want 1", n)
		}
	})
}
