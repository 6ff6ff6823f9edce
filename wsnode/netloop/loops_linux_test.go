package netloop

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

func init() { ways["loops"], ways["loops tls"] = overLoops, overLoopsTLS }

// overLoops serves plain TCP on loopback from two event loops.
func overLoops(t testing.TB, cfg Config) *served {
	return onLoops(t, cfg, nil, nil)
}

// overLoopsTLS serves TLS on loopback from two event loops.
func overLoopsTLS(t testing.TB, cfg Config) *served {
	server, client := wstest.TLS(t)
	return onLoops(t, cfg, server, client)
}

func onLoops(t testing.TB, cfg Config, server, client *tls.Config) *served {
	d := newDoor(t)
	cfg.Loops = max(cfg.Loops, 2)
	cfg.LoopBytes = max(cfg.LoopBytes, 64<<20)
	return d.serve(newLoops(cfg, d, quiet, newShakes(cfg)).(*loops), listen(t), server, client)
}

// loop is one of the loops, which are there once a connection is.
func (s *served) loop(i int) *loop {
	d := s.drives.(*loops)
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.all[i]
}

func (d *loops) underWay() *shakes { return d.shakes }

// leftovers is what loops that have ended still hold.
func (d *loops) leftovers() string {
	if n := d.shakes.count.Load(); n != 0 {
		return fmt.Sprintf("%d TLS handshakes", n)
	}
	for i, l := range d.all {
		<-l.ended
		free := 0
		for slot := l.free; slot != 0; slot = l.records.at(slot).next {
			free++
		}
		switch {
		case l.count.Load() != 0 || d.conns != 0:
			return fmt.Sprintf("%d and %d connections in loop %d", l.count.Load(), d.conns, i)
		case free != int(l.slots)-1:
			return fmt.Sprintf("%d slots of loop %d, %d of them free", l.slots-1, i, free)
		case l.blocks.used != 0:
			return fmt.Sprintf("%d blocks of loop %d", l.blocks.used, i)
		case l.wheel.hanging != 0:
			return fmt.Sprintf("%d deadlines of loop %d", l.wheel.hanging, i)
		case l.transfers.used != 0:
			return fmt.Sprintf("%d transfers of loop %d", l.transfers.used, i)
		case len(l.posts) != 0 || len(l.listeners) != 0 || l.paused != 0:
			return fmt.Sprintf("%d posts, %d listeners, %d paused of loop %d", len(l.posts), len(l.listeners), l.paused, i)
		}
	}
	return ""
}

// Two records lie in one line of the cache, and the garbage collector has nothing
// to look for in them. The tables of records and transfers do not shrink.
func TestRecordSize(t *testing.T) {
	if n := reflect.TypeFor[transfer]().Size(); n != 32 {
		t.Errorf("a transfer has %d bytes, want 32", n)
	}
	if n := reflect.TypeFor[record]().Size(); n != 32 {
		t.Errorf("a record has %d bytes, want 32", n)
	}
	var pointers func(reflect.Type) bool
	pointers = func(of reflect.Type) bool {
		switch of.Kind() {
		case reflect.Struct:
			for i := range of.NumField() {
				if pointers(of.Field(i).Type) {
					return true
				}
			}
			return false
		case reflect.Array:
			return pointers(of.Elem())
		}
		return of.Kind() > reflect.Complex128
	}
	if pointers(reflect.TypeFor[record]()) {
		t.Error("a record has a pointer")
	}
}

// narrow is a listener whose sockets hold little of what is not read.
func narrow(t testing.TB) net.Listener {
	cfg := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		e := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, 4096) })
		return errors.Join(e, err)
	}}
	l, err := cfg.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// deaf dials as a client that holds little of what it does not read.
func (s *served) deaf() *net.TCPConn {
	s.t.Helper()
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
		e := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096) })
		return errors.Join(e, err)
	}}
	c, err := d.Dial("tcp", s.l.Addr().String())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c.(*net.TCPConn)
}

// overNarrow serves from one loop, on sockets that hold little.
func overNarrow(t testing.TB, cfg Config) (*served, *loop) {
	d := newDoor(t)
	cfg.Loops = 1
	cfg.LoopBytes = max(cfg.LoopBytes, 1<<20)
	s := d.serve(newLoops(cfg, d, quiet, newShakes(cfg)).(*loops), narrow(t), nil, nil)
	s.next()
	exchange(t, s.dial(), "-") // the loop is there
	return s, s.loop(0)
}

// say sends in a turn, and returns once that has run.
func (m *script) say(text string) {
	m.t.Helper()
	done := make(chan struct{})
	if !m.post(func(out []byte) []byte { defer close(done); return append(out, text...) }) {
		m.t.Fatal("Post is not taken")
	}
	<-done
}

// More waits than may: the machine says its last word, what waited is dropped,
// and the connection ends; what a write has begun with is sent whole.
func TestLoopOverflow(t *testing.T) {
	cfg := testConfig
	cfg.OutboundBytes = 100_000
	s, _ := overNarrow(t, cfg)
	m := newScript(t)
	m.overflow = []byte("too slow")
	s.machines <- m
	c := s.deaf()
	exchange(t, c, "-")
	first := strings.Repeat("a", 300_000) // alone it may be more than the bound
	m.say(first)
	m.say(strings.Repeat("b", 90_000)) // waits behind it
	m.do(func() {
		if m.over.Load() != 0 {
			t.Error("overflow within the bound")
		}
	})
	m.say(strings.Repeat("c", 20_000))
	eventually(t, "the machine has its say", func() bool { return m.over.Load() == 1 })
	if m.post(func(out []byte) []byte { return out }) {
		t.Error("a post is taken for a machine that is done")
	}
	want(t, c, first+"too slow")
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("%d bytes and %v after the last word, want EOF", n, err)
	}
	_ = c.Close()
	if err := m.wantGone(); err != nil {
		t.Errorf("gone with %v", err)
	}
}

// Peers that do not read share what there is: none has more waiting than is left
// for all, and a peer that does read is served.
func TestLoopsRoomIsShared(t *testing.T) {
	const deaf = 40
	cfg := testConfig
	cfg.LoopBytes = 1 << 20
	s, l := overNarrow(t, cfg)
	honest := s.next()
	c := s.dial()
	exchange(t, c, "-")
	var machines []*script
	for range deaf {
		m := s.next()
		machines = append(machines, m)
		exchange(t, s.deaf(), "-")
	}
	rounds := 0
	for ; rounds < 200; rounds++ {
		for _, m := range machines {
			m.post(func(out []byte) []byte { return append(out, make([]byte, 10_000)...) })
		}
		exchange(t, c, "still served")
		honest.do(func() {
			if l.blocks.used > l.blocks.max {
				t.Errorf("%d blocks are used of %d", l.blocks.used, l.blocks.max)
			}
		})
		ended := 0
		for _, m := range machines {
			ended += int(m.over.Load())
		}
		if ended == deaf {
			break
		}
	}
	if rounds < 2 {
		t.Error("the room was never shared: the test is too hard")
	}
	for _, m := range machines {
		if m.over.Load() != 1 {
			t.Error("a peer that does not read goes on")
		}
	}
	s.end()
}

func TestLoopWriteTimeout(t *testing.T) {
	cfg := testConfig
	cfg.WriteTimeout = 200 * time.Millisecond
	s, _ := overNarrow(t, cfg)
	m := s.next()
	c := s.deaf()
	exchange(t, c, "-")
	begin := time.Now()
	m.post(func(out []byte) []byte { return append(out, make([]byte, 500_000)...) })
	if err := m.wantGone(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("gone with %v, want the write's deadline", err)
	}
	if took := time.Since(begin); took < cfg.WriteTimeout {
		t.Errorf("gone after %v", took)
	}
	if _, err := io.Copy(io.Discard, c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v, want a reset: the kernel is to hold nothing for such a peer", err)
	}
}

// Who reads slowly, but reads, keeps the connection.
func TestLoopHonestSlowReader(t *testing.T) {
	cfg := testConfig
	cfg.WriteTimeout = 700 * time.Millisecond
	s, _ := overNarrow(t, cfg)
	m := s.next()
	c := s.deaf()
	exchange(t, c, "-")
	const size = 1_000_000
	m.post(func(out []byte) []byte { return append(out, make([]byte, size)...) })
	begin := time.Now()
	for n := 0; n < size; {
		k, err := c.Read(make([]byte, 4096))
		if n += k; err != nil {
			t.Fatalf("%d bytes, then %v after %v", n, err, time.Since(begin))
		}
		time.Sleep(4 * time.Millisecond) // about 1 MB/s: 64 KiB in a tenth of the timeout
	}
	if time.Since(begin) < cfg.WriteTimeout {
		t.Fatal("all was read at once: the test is too easy")
	}
	exchange(t, c, "still here")
}

// A peer that does not read is not read either, until a deadline comes: then it
// is, so that it is not taken for silent.
func TestLoopBackpressure(t *testing.T) {
	s, _ := overNarrow(t, testConfig)
	m := newScript(t)
	fed := 0
	m.feed = func(in, out []byte) []byte {
		fed += len(in)
		return append(out, in...)
	}
	expired := make(chan int, 1)
	m.expire = func(now time.Time, out []byte) []byte {
		if now.Before(m.deadline) {
			return out
		}
		m.deadline = time.Time{}
		expired <- fed
		return out
	}
	s.machines <- m
	c := s.deaf()
	exchange(t, c, "-")
	m.say(strings.Repeat("a", highWater+200_000))
	if _, err := c.Write([]byte("heard?")); err != nil {
		t.Fatal(err)
	}
	m.do(func() { m.deadline = time.Now().Add(100 * time.Millisecond) })
	m.do(func() {
		if fed != 1 {
			t.Errorf("%d bytes were read from a peer that reads nothing", fed-1)
		}
	})
	if n := <-expired; n != 1+len("heard?") {
		t.Errorf("%d bytes were read before the deadline's turn, want all that was sent", n)
	}
	want(t, c, strings.Repeat("a", highWater+200_000)+"heard?")
	exchange(t, c, "and on")
}

// Deadlines come in time and never early, though they are put off, brought
// forward and taken away.
func TestLoopDeadlines(t *testing.T) {
	s := overLoops(t, testConfig)
	m := newScript(t)
	at := make(chan time.Time, 10)
	m.expire = func(now time.Time, out []byte) []byte {
		if !now.Before(m.deadline) {
			at <- now
			m.deadline = time.Time{}
		}
		return out
	}
	s.machines <- m
	c := s.dial()
	exchange(t, c, "-")
	begin := time.Now()
	set := func(d time.Duration) { m.do(func() { m.deadline = begin.Add(d) }) }
	for _, c := range []struct {
		sets []time.Duration
		want time.Duration
	}{
		{[]time.Duration{20 * time.Millisecond}, 20 * time.Millisecond},
		{[]time.Duration{100 * time.Millisecond, 300 * time.Millisecond}, 300 * time.Millisecond},
		{[]time.Duration{time.Hour, 400 * time.Millisecond}, 400 * time.Millisecond},
		{[]time.Duration{-time.Hour}, -time.Hour}, // has passed
	} {
		for _, d := range c.sets {
			set(d)
		}
		if got := (<-at).Sub(begin); got < c.want {
			t.Errorf("expired after %v, want %v", got, c.want)
		}
	}
	m.do(func() { m.deadline = time.Now().Add(50 * time.Millisecond) })
	m.do(func() { m.deadline = time.Time{} })
	exchange(t, c, "and on")
	if len(at) != 0 {
		t.Error("a deadline came that was taken away")
	}
}

// Without descriptors accept pauses; the loop does not turn for nothing
// meanwhile, and takes who waits once there are some.
func TestLoopWithoutDescriptors(t *testing.T) {
	d := newDoor(t)
	logs := &lines{}
	cfg := testConfig
	cfg.Loops = 1
	s := d.serve(newLoops(cfg, d, slog.New(slog.NewTextHandler(logs, nil)), newShakes(cfg)).(*loops), listen(t), nil, nil)
	m := s.next()
	c := s.dial()
	exchange(t, c, "-")
	l := s.loop(0)
	turns := func() (n int) {
		done := make(chan struct{})
		m.post(func(out []byte) []byte { n = l.turns; close(done); return out })
		<-done
		return n
	}
	late := s.next()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	raise := limitDescriptors(t, 3) // whatever is open stays
	before := turns()
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: s.l.Addr().(*net.TCPAddr).Port}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "accept has failed a few times", func() bool { return logs.count("accept failed") >= 3 })
	exchange(t, c, "the others are served")
	if n := turns() - before; n > 40 {
		t.Errorf("the loop has turned %d times for three failures", n)
	}
	raise()
	if _, err := unix.Write(fd, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if n, err := unix.Read(fd, make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("%d bytes and %v, want the echo", n, err)
	}
	_ = unix.Close(fd)
	_ = late.wantGone()
}

// limitDescriptors has none opened from n on, until the test ends or raise is called.
func limitDescriptors(t *testing.T, n int) (raise func()) {
	t.Helper()
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	low := was
	low.Cur = uint64(n)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	raise = sync.OnceFunc(func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(raise)
	return raise
}

// Nobody is accepted in vain: accept4 takes a descriptor before it looks for
// somebody, and once the last one is taken it fails.
func TestLoopsAcceptNobodyInVain(t *testing.T) {
	d := newDoor(t)
	logs := &lines{}
	s := d.serve(newLoops(testConfig, d, slog.New(slog.NewTextHandler(logs, nil)), newShakes(testConfig)).(*loops), listen(t), nil, nil)
	s.next()
	exchange(t, s.dial(), "-") // the loop is there
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	last, err := unix.Dup(fd) // the lowest that is free
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(last)
	raise := limitDescriptors(t, last+1)
	s.next()
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: s.l.Addr().(*net.TCPAddr).Port}); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(fd, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if n, err := unix.Read(fd, make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("%d bytes and %v, want the echo", n, err)
	}
	raise()
	if n := logs.count("accept failed"); n > 0 {
		t.Errorf("accept has failed %d times", n)
	}
}

// lines is a log.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), text)
}

// Connections go to the loop that has the fewest.
func TestLoopsShareConnections(t *testing.T) {
	cfg := testConfig
	cfg.Loops = 3
	s := overLoops(t, cfg)
	for range 30 {
		s.next()
		exchange(t, s.dial(), "-")
	}
	for i := range 3 {
		if n := s.loop(i).count.Load(); n != 10 {
			t.Errorf("loop %d has %d connections, want 10", i, n)
		}
	}
}

// A link outlives its connection and reaches no other one.
func TestLoopsLinksAreOfOneConnection(t *testing.T) {
	cfg := testConfig
	s := overLoops(t, cfg)
	seen := map[Link]bool{}
	var old []*script
	for range 20 {
		m := s.next()
		c := s.dial()
		exchange(t, c, "-")
		if seen[m.linked()] {
			t.Error("two connections have the same name")
		}
		seen[m.linked()] = true
		for _, o := range old {
			if o.linked().Post(nil) {
				t.Error("a post is taken for a connection that has ended")
			}
		}
		_ = c.Close()
		_ = m.wantGone()
		old = append(old, m)
	}
}

// Who connected before Serve was called has TCP_NODELAY like all others.
func TestLoopsDelayNothing(t *testing.T) {
	l := listen(t)
	early, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer early.Close()
	d := newDoor(t)
	cfg := testConfig
	cfg.Loops = 1
	machines := []*script{d.next(), d.next()}
	s := d.serve(newLoops(cfg, d, quiet, newShakes(cfg)).(*loops), l, nil, nil)
	exchange(t, early, "-")
	exchange(t, s.dial(), "-")
	loop := s.loop(0)
	for i, m := range machines {
		m.do(func() {
			fd := loop.records.at(uint32(m.linked().Ref >> 32)).fd
			if on, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NODELAY); on != 1 || err != nil {
				t.Errorf("connection %d: %d, %v", i, on, err)
			}
		})
	}
}

// A listener that is none ends its Serve, which tells.
func TestLoopsListenerFails(t *testing.T) {
	l := listen(t)
	_ = l.Close()
	d := newDoor(t)
	by := newLoops(testConfig, d, quiet, newShakes(testConfig))
	if err := by.Serve(l, nil); !errors.Is(err, net.ErrClosed) || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Errorf("%v, want that it is closed, with its address", err)
	}
	by.Close()
}

// A loop that is held up in the midst of what was posted tells those that come after
// what time it has become.
func TestLoopTimeOfPosts(t *testing.T) {
	s, _ := overNarrow(t, testConfig)
	a, b := s.next(), s.next()
	exchange(t, s.dial(), "-")
	exchange(t, s.dial(), "-")
	held, holding := make(chan struct{}), make(chan struct{})
	a.post(func(out []byte) []byte { close(holding); <-held; return out })
	<-holding // those below come in one turn
	var slept time.Time
	a.post(func(out []byte) []byte { time.Sleep(20 * time.Millisecond); slept = time.Now(); return out })
	told := make(chan time.Duration, 1)
	b.linked().Post(func(now time.Time, out []byte) []byte { told <- slept.Sub(now); return out })
	close(held)
	if late := <-told; late > 0 {
		t.Errorf("a post is told a time %v before the end of the one before", late)
	}
}

func BenchmarkLoopPost(b *testing.B) {
	s := overLoops(b, testConfig)
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
