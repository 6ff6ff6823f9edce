package netloop

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func TestEcho(t *testing.T) {
	for name, over := range ways {
		t.Run(name, func(t *testing.T) {
			s := over(t, testConfig)
			m := s.next()
			c := s.dial()
			if got, want := <-s.accepted, c.LocalAddr().(*net.TCPAddr).AddrPort(); got != want {
				t.Errorf("accepted %v, want %v", got, want)
			}
			for _, text := range []string{"a", strings.Repeat("b", 3*readBytes+1), strings.Repeat("c", 200_000), "d"} {
				if len(text) > 100_000 { // an echo that nobody reads meanwhile would not fit
					go func() { _, _ = c.Write([]byte(text)) }()
					want(t, c, text)
					continue
				}
				exchange(t, c, text)
			}
			_ = c.Close()
			if err := m.wantGone(); !errors.Is(err, io.EOF) {
				t.Errorf("gone with %v, want EOF", err)
			}
			if m.linked().Post(nil) {
				t.Error("Post is taken after Gone")
			}
		})
	}
}

func TestRefusedIsReset(t *testing.T) { overEach(t, testRefusedIsReset) }

func testRefusedIsReset(t *testing.T, over func(testing.TB, Config) *served) {
	s := over(t, testConfig)
	s.refuse.Store(true)
	c, err := net.Dial("tcp", s.l.Addr().String())
	if err == nil { // else the reset has come before Dial was done
		defer c.Close()
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v, want a reset", err)
	}
}

// What a turn posts, to its own connection or to another, runs after it and
// never within the call of Post: a handler that holds a lock while it sends
// must not meet itself.
func TestPostNeverRunsInItsCaller(t *testing.T) { overEach(t, testPostNeverRunsInItsCaller) }

func testPostNeverRunsInItsCaller(t *testing.T, over func(testing.TB, Config) *served) {
	s := over(t, testConfig)
	a, b := s.next(), s.next()
	ca := s.dial()
	exchange(t, ca, "-")
	cb := s.dial()
	exchange(t, cb, "-")
	var mu sync.Mutex
	feed := func(_, out []byte) []byte {
		mu.Lock()
		defer mu.Unlock()
		for _, m := range []*script{a, b} {
			if !m.post(func(out []byte) []byte {
				mu.Lock()
				defer mu.Unlock()
				return append(out, "posted"...)
			}) {
				t.Error("Post is not taken")
			}
		}
		return append(out, "fed "...)
	}
	a.do(func() { a.feed = feed })
	if _, err := ca.Write([]byte("go")); err != nil {
		t.Fatal(err)
	}
	want(t, ca, "fed posted")
	want(t, cb, "posted")
}

// Connections that send to each other from within their turns, all at once,
// lose nothing and do not wait for each other.
func TestCrossPosts(t *testing.T) { overEach(t, testCrossPosts) }

func testCrossPosts(t *testing.T, over func(testing.TB, Config) *served) {
	const conns, rounds = 8, 300
	s := over(t, testConfig)
	machines, clients := make([]*script, conns), make([]net.Conn, conns)
	for i := range machines {
		machines[i], clients[i] = s.next(), s.dial()
		exchange(t, clients[i], "-")
	}
	var taken, ran atomic.Int64
	for _, m := range machines {
		feed := func(in, out []byte) []byte {
			for _, other := range machines {
				if other.post(func(out []byte) []byte { ran.Add(1); return append(out, '.') }) {
					taken.Add(1)
				}
			}
			return append(out, in...)
		}
		m.do(func() { m.feed = feed })
	}
	var wg sync.WaitGroup
	for _, c := range clients {
		wg.Go(func() {
			buf := make([]byte, 4096)
			for fed := 0; fed < rounds; {
				if _, err := c.Write([]byte("x")); err != nil {
					t.Error(err)
					return
				}
				for answered := false; !answered; {
					n, err := c.Read(buf)
					if err != nil {
						t.Error(err)
						return
					}
					answered = strings.Contains(string(buf[:n]), "x")
				}
				fed++
			}
		})
	}
	wg.Wait()
	s.end()
	if taken.Load() < conns*conns*rounds || ran.Load() != taken.Load() {
		t.Errorf("%d posts were taken, %d ran, want all of at least %d", taken.Load(), ran.Load(), conns*conns*rounds)
	}
}

// Whatever Post has taken runs, also when the connection ends meanwhile.
func TestTakenPostsRun(t *testing.T) { overEach(t, testTakenPostsRun) }

func testTakenPostsRun(t *testing.T, over func(testing.TB, Config) *served) {
	cfg := testConfig
	cfg.LingerTimeout = time.Millisecond
	s := over(t, cfg)
	for i := range 150 {
		m := s.next()
		c := s.dialTCP()
		exchange(t, c, "-")
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				ran := make(chan struct{}, 1)
				for m.post(func(out []byte) []byte { ran <- struct{}{}; return append(out, '.') }) {
					select {
					case <-ran:
					case <-time.After(patience):
						t.Error("a post was taken and does not run")
						return
					}
				}
			})
		}
		switch i % 3 {
		case 0:
			_ = c.Close()
		case 1: // a reset
			_ = c.SetLinger(0)
			_ = c.Close()
		case 2:
			m.post(func(out []byte) []byte { m.done = true; return out })
		}
		wg.Wait()
		_ = m.wantGone()
		_ = c.Close()
	}
}

// A flood of posts keeps neither the output from being sent nor the reader from
// its turn.
func TestFloodOfPosts(t *testing.T) { overEach(t, testFloodOfPosts) }

func testFloodOfPosts(t *testing.T, over func(testing.TB, Config) *served) {
	s := over(t, testConfig)
	m := s.next()
	c := s.dial()
	exchange(t, c, "-")
	var stop atomic.Bool
	var again func(out []byte) []byte
	again = func(out []byte) []byte {
		if !stop.Load() {
			m.post(again)
		}
		return out
	}
	m.post(func(out []byte) []byte {
		m.post(again)
		return append(out, "sent"...)
	})
	want(t, c, "sent") // though its turn has not ended
	exchange(t, c, "fed")
	stop.Store(true)
	exchange(t, c, "end")
}

// A turn's time is that of the turn, however long nothing has happened before.
func TestTimeOfTurns(t *testing.T) { overEach(t, testTimeOfTurns) }

func testTimeOfTurns(t *testing.T, over func(testing.TB, Config) *served) {
	s := over(t, testConfig)
	s.next()
	exchange(t, s.dial(), "-")
	for range 3 {
		// Of a turn that is under way when its client comes the time may be from
		// before that, but not from before a pause in which nothing has happened.
		before := time.Now()
		time.Sleep(50 * time.Millisecond)
		m := s.next()
		c := s.dial()
		exchange(t, c, "-")
		if m.linked(); m.began.Before(before) {
			t.Errorf("the machine is told that it began %v before a pause before its client", before.Sub(m.began))
		}
		before = time.Now()
		time.Sleep(50 * time.Millisecond)
		told := make(chan time.Time, 1)
		m.link.Post(func(now time.Time, out []byte) []byte { told <- now; return out })
		if now := <-told; now.Before(before) {
			t.Errorf("a post is told a time %v before a pause before it was posted", before.Sub(now))
		}
	}
}

// A machine that is done has its last words sent and read, though the peer was
// still sending: no reset overtakes them.
func TestLastWordsArrive(t *testing.T) {
	for name, over := range ways {
		t.Run(name, func(t *testing.T) {
			s := over(t, testConfig)
			m := newScript(t)
			m.feed = func(_, out []byte) []byte {
				m.done = true
				return append(out, "bye"...)
			}
			s.machines <- m
			c := s.dial()
			for range 20 {
				if _, err := c.Write(make([]byte, 1000)); err != nil {
					break
				}
			}
			want(t, c, "bye")
			if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
				t.Errorf("%d bytes and %v after the end, want EOF", n, err)
			}
			_ = c.Close()
			if err := m.wantGone(); err != nil {
				t.Errorf("gone with %v, want nil", err)
			}
		})
	}
}

// Where the peer has said that it sends nothing more, its end is not waited for.
func TestPeerDone(t *testing.T) {
	overEach(t, func(t *testing.T, over func(testing.TB, Config) *served) {
		cfg := testConfig
		cfg.LingerTimeout = 2 * patience
		s := over(t, cfg)
		m := newScript(t)
		m.feed = func(_, out []byte) []byte {
			m.done, m.peerDone = true, true
			return append(out, "bye"...)
		}
		s.machines <- m
		c := s.dial()
		if _, err := c.Write([]byte("the last")); err != nil {
			t.Fatal(err)
		}
		if err := m.wantGone(); err != nil { // though c is open
			t.Errorf("gone with %v, want nil", err)
		}
		want(t, c, "bye")
		if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("%d bytes and %v after the end, want EOF", n, err)
		}
	})
}

// A turn that somebody posted can be the last one: the reader, which waits for
// bytes, finds out.
func TestDoneByPost(t *testing.T) {
	for name, over := range ways {
		t.Run(name, func(t *testing.T) {
			s := over(t, testConfig)
			m := s.next()
			c := s.dial()
			exchange(t, c, "-")
			m.post(func(out []byte) []byte { m.done = true; return append(out, "bye"...) })
			want(t, c, "bye")
			_ = c.Close()
			if err := m.wantGone(); err != nil {
				t.Errorf("gone with %v", err)
			}
		})
	}
}

// A peer may go at any time; each machine hears of it once, and nothing is left
// open.
func TestPeersThatGo(t *testing.T) {
	for name, over := range ways {
		for _, c := range []struct {
			rule string
			go_  func(s *served, c *net.TCPConn, reset func())
		}{
			{"at once", func(_ *served, _ *net.TCPConn, reset func()) { reset() }},
			{"in the midst of what would be a TLS handshake", func(_ *served, c *net.TCPConn, reset func()) {
				_, _ = c.Write([]byte{22, 3, 1, 2, 0, 1})
				reset()
			}},
			{"with its answer unread", func(s *served, c *net.TCPConn, reset func()) {
				if s.client == nil {
					_, _ = c.Write(make([]byte, 1000))
				} else if t := tls.Client(c, s.client); t.Handshake() == nil {
					_, _ = t.Write(make([]byte, 1000))
				}
				reset()
			}},
			{"half, its side ended", func(s *served, c *net.TCPConn, _ func()) {
				if s.client == nil {
					_, _ = c.Write([]byte("x"))
				} else if t := tls.Client(c, s.client); t.Handshake() == nil {
					_ = t.CloseWrite()
				}
				_ = c.CloseWrite()
				_, _ = io.Copy(io.Discard, c)
				_ = c.Close()
			}},
		} {
			t.Run(name+" "+c.rule, func(t *testing.T) {
				s := over(t, testConfig)
				first, nc := s.next(), s.dial() // after which all is there that stays
				exchange(t, nc, "-")
				_ = nc.Close()
				_ = first.wantGone()
				before := descriptors(t)
				var machines []*script
				for range 20 {
					machines = append(machines, s.next())
					nc := s.dialTCP()
					c.go_(s, nc, func() {
						_ = nc.SetLinger(0)
						_ = nc.Close()
					})
				}
				eventually(t, "every connection has a machine or has failed", func() bool {
					return 20-len(s.machines)+len(s.failed) == 20
				})
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				defer cancel()
				if err := s.Wait(ctx); err != nil {
					t.Fatal(err)
				}
				for _, m := range machines[:20-len(s.machines)] {
					_ = m.wantGone()
				}
				if after := descriptors(t); after != before {
					t.Errorf("%d descriptors before, %d after", before, after)
				}
			})
		}
	}
}

// Clients that come and go in all ways, while others post and the driver is
// closed at last, leave nothing behind. goleak looks after goroutines.
func TestStress(t *testing.T) {
	overEach(t, testStress)
	overEachTLS(t, testStress)
}

func testStress(t *testing.T, over func(testing.TB, Config) *served) {
	before := descriptors(t)
	cfg := testConfig
	cfg.WriteTimeout, cfg.LingerTimeout, cfg.OutboundBytes = 50*time.Millisecond, 20*time.Millisecond, 64<<10
	s := over(t, cfg)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(g)))
			for {
				select {
				case <-stop:
					return
				default:
				}
				m := newScript(t)
				m.overflow = []byte("!")
				s.machines <- m
				nc, err := net.Dial("tcp", s.l.Addr().String())
				if err != nil {
					return
				}
				tc := nc.(*net.TCPConn)
				_ = tc.SetDeadline(time.Now().Add(patience))
				if s.client != nil && r.IntN(4) > 0 { // the others speak no TLS
					nc = tls.Client(tc, s.client)
				}
				for range r.IntN(5) {
					_, _ = nc.Write(make([]byte, r.IntN(20_000)))
					if r.IntN(2) == 0 {
						_, _ = nc.Read(make([]byte, 4096))
					}
				}
				if r.IntN(2) == 0 {
					_ = tc.SetLinger(0)
				}
				_ = tc.Close()
			}
		})
	}
	time.Sleep(300 * time.Millisecond) // let it run: the more the better
	s.Stop()
	close(stop)
	wg.Wait()
	s.end()
	if after := descriptors(t); after >= before+5 {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func TestStop(t *testing.T) { overEach(t, testStop) }

func testStop(t *testing.T, over func(testing.TB, Config) *served) {
	t.Run("machines are asked to end, and their last words sent", func(t *testing.T) {
		s := over(t, testConfig)
		m := s.next()
		c := s.dial()
		exchange(t, c, "-")
		s.Stop()
		want(t, c, "stopped")
		_ = c.Close()
		_ = m.wantGone()
	})
	t.Run("a TLS handshake that has not ended is given up", func(t *testing.T) {
		s := overTLS(t, testConfig)
		c := s.dialTCP()
		eventually(t, "there is a connection", func() bool {
			p := s.drives.(*Portable)
			p.mu.Lock()
			defer p.mu.Unlock()
			return len(p.conns) == 1
		})
		s.Stop()
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("the connection lives on")
		}
		if err := <-s.failed; !errors.Is(err, ErrStopped) {
			t.Errorf("failed with %v, want ErrStopped", err)
		}
	})
	t.Run("nobody is let in after it", func(t *testing.T) {
		s := over(t, testConfig)
		s.Stop()
		if c, err := net.Dial("tcp", s.l.Addr().String()); err == nil {
			if _, err := c.Read(make([]byte, 1)); err == nil {
				t.Error("the connection lives")
			}
			_ = c.Close()
		}
		s.end()
		if len(s.accepted) != len(s.failed) { // none where the listener was closed before
			t.Errorf("%d were let in, %d have failed", len(s.accepted), len(s.failed))
		}
		for range len(s.failed) {
			if err := <-s.failed; !errors.Is(err, ErrStopped) {
				t.Errorf("failed with %v, want ErrStopped", err)
			}
		}
	})
	t.Run("Wait ends with its context", func(t *testing.T) {
		s := over(t, testConfig)
		s.next()
		exchange(t, s.dial(), "-")
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		defer cancel()
		if err := s.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "1 connections") {
			t.Errorf("%v", err)
		}
	})
}

func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it never comes that %s", what)
		}
	}
}

func TestAddressOfAPeer(t *testing.T) {
	for _, c := range []struct {
		addr net.Addr
		want string
	}{
		{&net.TCPAddr{IP: net.ParseIP("192.0.2.1"), Port: 5}, "192.0.2.1:5"},
		{&net.TCPAddr{IP: net.ParseIP("::ffff:192.0.2.1"), Port: 5}, "192.0.2.1:5"},
		{&net.TCPAddr{IP: net.ParseIP("fe80::1"), Port: 5, Zone: "eth0"}, "[fe80::1]:5"},
		{&net.UnixAddr{Name: "/run/x", Net: "unix"}, "invalid AddrPort"},
	} {
		if got := addrPort(c.addr).String(); got != c.want {
			t.Errorf("%v is %s, want %s", c.addr, got, c.want)
		}
	}
	if addrPort(nil) != (netip.AddrPort{}) {
		t.Error("no address is one")
	}
}

func TestCapacity(t *testing.T) {
	all := Capacity(0)
	if all == 0 {
		t.Skip("not known on this system")
	}
	if n := Capacity(100); n != all-100 {
		t.Errorf("%d beside 100 others, want %d", n, all-100)
	}
	if n := Capacity(all + 1); n != 1 {
		t.Errorf("%d beside more than there are, want 1", n)
	}
}
