package netloop

import (
	"bytes"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

// inMemory runs a test in a bubble, over connections without buffers.
func inMemory(t *testing.T, cfg Config, server *tls.Config, test func(t *testing.T, s *served, dial func() net.Conn)) {
	synctest.Test(t, func(t *testing.T) {
		l := wstest.Listen()
		s := serve(t, cfg, l, server, nil)
		defer s.end()
		test(t, s, func() net.Conn {
			c, err := l.Dial(netip.MustParseAddr("192.0.2.1"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Close() })
			return c
		})
	})
}

func TestDeadlines(t *testing.T) {
	inMemory(t, testConfig, nil, func(t *testing.T, s *served, dial func() net.Conn) {
		m := newScript(t)
		begin := time.Now()
		m.deadline = begin.Add(time.Minute)
		var at []time.Duration
		m.expire = func(now time.Time, out []byte) []byte {
			if now.Before(m.deadline) {
				return out
			}
			at = append(at, now.Sub(begin))
			m.deadline = time.Time{}
			return append(out, "expired"...)
		}
		m.feed = func(in, out []byte) []byte {
			m.deadline = time.Now().Add(time.Minute)
			return append(out, in...)
		}
		s.machines <- m
		c := dial()
		for range 100 { // each moves the deadline
			time.Sleep(time.Second)
			exchange(t, c, "x")
		}
		want(t, c, "expired")
		time.Sleep(time.Hour)
		if n := m.expires.Load(); n > 4 {
			t.Errorf("woken %d times for one deadline that moved", n)
		}
		m.do(func() { m.deadline = time.Now().Add(time.Second) })
		want(t, c, "expired")
		m.do(func() {
			if len(at) != 2 || at[0] != 160*time.Second || at[1] != 160*time.Second+time.Hour+time.Second {
				t.Errorf("expired at %v, want 160 s and, as posted, a second after an hour more", at)
			}
		})
	})
}

func TestWriteTimeout(t *testing.T) {
	cfg := testConfig
	cfg.WriteTimeout = 10 * time.Second
	inMemory(t, cfg, nil, func(t *testing.T, s *served, dial func() net.Conn) {
		m := s.next()
		c := dial()
		exchange(t, c, "-")
		begin := time.Now()
		m.post(func(out []byte) []byte { return append(out, "nobody reads this"...) })
		if err := m.wantGone(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("gone with %v, want the write's deadline", err)
		}
		if took := time.Since(begin); took < 5*time.Second || took > 10*time.Second {
			t.Errorf("gone after %v, want 5 to 10 s", took)
		}
	})
}

// Who reads slowly, but reads, keeps the connection: what bounds is the time
// for a piece, not for all that waits.
func TestHonestSlowReader(t *testing.T) {
	cfg := testConfig
	cfg.WriteTimeout, cfg.OutboundBytes = 10*time.Second, 4<<20
	inMemory(t, cfg, nil, func(t *testing.T, s *served, dial func() net.Conn) {
		m := s.next()
		c := dial()
		exchange(t, c, "-")
		const size = 2 << 20
		m.post(func(out []byte) []byte { return append(out, make([]byte, size)...) })
		begin := time.Now()
		for n := 0; n < size; {
			_ = c.SetReadDeadline(time.Now().Add(time.Minute))
			k, err := c.Read(make([]byte, 16<<10))
			if n += k; err != nil {
				t.Fatalf("%d bytes, then %v after %v", n, err, time.Since(begin))
			}
			time.Sleep(time.Second) // 16 KiB/s: four seconds a piece
		}
		if took := time.Since(begin); took < 2*time.Minute {
			t.Fatalf("all was read in %v: the test is too easy", took)
		}
		exchange(t, c, "still here")
	})
}

// More than OutboundBytes waits: the machine says its last word, what waited is
// dropped, and the connection ends; a write under way is finished.
func TestOverflow(t *testing.T) {
	cfg := testConfig
	cfg.OutboundBytes = 1000
	inMemory(t, cfg, nil, func(t *testing.T, s *served, dial func() net.Conn) {
		m := newScript(t)
		m.overflow = []byte("too slow")
		s.machines <- m
		c := dial()
		exchange(t, c, "-")
		send := func(text string) {
			m.post(func(out []byte) []byte { return append(out, text...) })
			synctest.Wait()
		}
		first := strings.Repeat("a", 5000) // alone it may be larger than the bound
		send(first)                        // is being written
		send(strings.Repeat("b", 900))     // waits
		if m.over.Load() != 0 {
			t.Fatal("overflow within the bound")
		}
		send(strings.Repeat("c", 200))
		if n := m.over.Load(); n != 1 {
			t.Fatalf("%d overflows, want 1", n)
		}
		want(t, c, first+"too slow")
		if n, err := c.Read(make([]byte, 1)); err == nil {
			t.Errorf("%d bytes after the last word", n)
		}
		if err := m.wantGone(); err != nil {
			t.Errorf("gone with %v", err)
		}
	})
}

// While a peer does not read what it is sent, nothing more is read from it, and
// turns go on.
func TestBackpressure(t *testing.T) {
	inMemory(t, testConfig, nil, func(t *testing.T, s *served, dial func() net.Conn) {
		m := newScript(t)
		fed := 0
		m.feed = func(in, out []byte) []byte {
			fed += len(in)
			return append(out, in...)
		}
		s.machines <- m
		c := dial()
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			for range 100 {
				if _, err := c.Write(bytes.Repeat([]byte("x"), 1000)); err != nil {
					return
				}
			}
		}()
		synctest.Wait()
		m.do(func() { // a turn, though a write is stuck
			if fed > 2*readBytes {
				t.Errorf("%d bytes were read from a peer that reads nothing", fed)
			}
		})
		want(t, c, strings.Repeat("x", 100_000))
		<-sent
	})
}

func TestTLSHandshakeTimeout(t *testing.T) {
	server, _ := wstest.TLS(t)
	cfg := testConfig
	cfg.HandshakeTimeout = 10 * time.Second
	inMemory(t, cfg, server, func(t *testing.T, s *served, dial func() net.Conn) {
		begin := time.Now()
		c := dial()
		if _, err := c.Write([]byte{22, 3, 1}); err != nil { // the first bytes of a hello
			t.Fatal(err)
		}
		if err := <-s.failed; err == nil {
			t.Error("failed with nil")
		}
		if took := time.Since(begin); took != cfg.HandshakeTimeout {
			t.Errorf("given up after %v, want %v", took, cfg.HandshakeTimeout)
		}
	})
}

// Accept may fail for a while, as without descriptors; the driver goes on.
func TestAcceptFails(t *testing.T) {
	for _, err := range []error{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EINTR, syscall.ECONNABORTED,
		os.ErrDeadlineExceeded, // a timeout
	} {
		t.Run(err.Error(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &failing{Listener: wstest.Listen(), errs: 15, err: err}
				s := serve(t, testConfig, l, nil, nil)
				defer s.end()
				begin := time.Now()
				s.next()
				c, err := l.Listener.(*wstest.Listener).Dial(netip.MustParseAddr("192.0.2.1"))
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				exchange(t, c, "-")
				if took := time.Since(begin); took < 5*time.Second || took > 10*time.Second {
					t.Errorf("accepted after %v: the pauses are too short or too long", took)
				}
			})
		})
	}
}

// What time does not mend ends Serve, which tells.
func TestAcceptFailsForEver(t *testing.T) {
	for _, permanent := range []error{syscall.EBADF, syscall.EINVAL, errors.New("broken")} {
		t.Run(permanent.Error(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &failing{Listener: wstest.Listen(), errs: 1000, err: permanent}
				p := NewPortable(testConfig, newDoor(t), slog.New(slog.DiscardHandler))
				begin := time.Now()
				err := p.Serve(l, nil)
				if !errors.Is(err, permanent) || !strings.Contains(err.Error(), l.Addr().String()) || time.Since(begin) != 0 {
					t.Errorf("%v after %v, want it with its listener, at once", err, time.Since(begin))
				}
			})
		})
	}
}

type failing struct {
	net.Listener
	err  error
	mu   sync.Mutex
	errs int
}

func (l *failing) Accept() (net.Conn, error) {
	l.mu.Lock()
	l.errs--
	fail := l.errs >= 0
	l.mu.Unlock()
	if fail {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", l.err)}
	}
	return l.Listener.Accept()
}

// A timer that fires too early, as one does whose clock is set back meanwhile,
// is set again for the same deadline: the reader sleeps until then.
func TestDeadlineThatFiredEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &hasty{Listener: wstest.Listen()}
		s := serve(t, testConfig, l, nil, nil)
		defer s.end()
		m := newScript(t)
		begin := time.Now()
		m.deadline = begin.Add(time.Hour + time.Minute)
		m.expire = func(now time.Time, out []byte) []byte {
			switch {
			case m.expires.Load() > 10: // it would go on for ever
				m.done = true
			case !now.Before(m.deadline):
				m.deadline = time.Time{}
				return append(out, "expired"...)
			}
			return out
		}
		s.machines <- m
		c, err := l.Listener.(*wstest.Listener).Dial(netip.MustParseAddr("192.0.2.1"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		want(t, c, "expired")
		if took := time.Since(begin); took != time.Hour+time.Minute {
			t.Errorf("expired after %v", took)
		}
		time.Sleep(24 * time.Hour) // it has no deadline now
		if n := m.expires.Load(); n != 2 {
			t.Errorf("woken %d times, want 2", n)
		}
	})
}

// hasty is a listener whose connections take the first deadline for one an hour
// earlier.
type hasty struct{ net.Listener }

func (l *hasty) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &hastyConn{Conn: c}, nil
}

type hastyConn struct {
	net.Conn
	set bool
}

func (c *hastyConn) SetReadDeadline(at time.Time) error {
	if !c.set {
		c.set = true
		at = at.Add(-time.Hour)
	}
	return c.Conn.SetReadDeadline(at)
}
