package netloop

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 30 * time.Second

// script is a machine that echoes what it is fed, unless told otherwise, and
// finds out whether its driver keeps the contract.
type script struct {
	t      testing.TB
	link   Link
	began  time.Time
	opened chan struct{} // closed once these are set

	// What to do, set before the connection is used.
	feed     func(in []byte, out []byte) []byte // nil echoes
	expire   func(now time.Time, out []byte) []byte
	overflow []byte

	// Of the turn.
	deadline time.Time
	done     bool
	peerDone bool
	stopped  bool

	turn    atomic.Int32 // turns under way
	expires atomic.Int32
	over    atomic.Int32
	gone    chan error
}

func newScript(t testing.TB) *script {
	return &script{t: t, opened: make(chan struct{}), gone: make(chan error, 2)}
}

func (m *script) enter() {
	if m.turn.Add(1) != 1 {
		m.t.Error("two turns at once")
	}
}

func (m *script) leave() { m.turn.Add(-1) }

func (m *script) Feed(in []byte, _ time.Time, out []byte) []byte {
	m.enter()
	defer m.leave()
	if m.feed != nil {
		return m.feed(in, out)
	}
	return append(out, in...)
}

func (m *script) Deadline() time.Time {
	m.enter()
	defer m.leave()
	return m.deadline
}

func (m *script) Expire(now time.Time, out []byte) []byte {
	m.enter()
	defer m.leave()
	m.expires.Add(1)
	if m.expire != nil {
		return m.expire(now, out)
	}
	return out
}

func (m *script) Overflow(_ time.Time, out []byte) []byte {
	m.enter()
	defer m.leave()
	m.over.Add(1)
	m.done = true
	return append(out, m.overflow...)
}

func (m *script) Stop(_ time.Time, out []byte) []byte {
	m.enter()
	defer m.leave()
	m.stopped, m.done = true, true
	return append(out, "stopped"...)
}

func (m *script) Done() bool {
	m.enter()
	defer m.leave()
	return m.done
}

func (m *script) Gone(err error, _ time.Time) {
	m.enter()
	defer m.leave()
	m.gone <- err
}

func (m *script) PeerDone() bool {
	m.enter()
	defer m.leave()
	return m.peerDone
}

// linked is the link, once there is one.
func (m *script) linked() Link {
	<-m.opened
	return m.link
}

// post is Post of a function that is a turn as any.
func (m *script) post(fn func(out []byte) []byte) bool {
	return m.linked().Post(func(_ time.Time, out []byte) []byte {
		m.enter()
		defer m.leave()
		return fn(out)
	})
}

func (m *script) wantGone() error {
	m.t.Helper()
	select {
	case err := <-m.gone:
		return err
	case <-time.After(patience):
		m.t.Fatal("the machine is not told that its connection is gone")
		return nil
	}
}

// do runs fn in a turn, to see or change what is the turn's.
func (m *script) do(fn func()) {
	m.t.Helper()
	done := make(chan struct{})
	if !m.post(func(out []byte) []byte { defer close(done); fn(); return out }) {
		m.t.Fatal("Post is not taken")
	}
	<-done
}

// door lets connections in, each with the next machine.
type door struct {
	t        testing.TB
	machines chan *script
	refuse   atomic.Bool
	preface  atomic.Pointer[func(in []byte) (rest []byte, done bool, err error)] // nil wants none
	accepted chan netip.AddrPort
	failed   chan error
	shown    chan *x509.Certificate
}

func newDoor(t testing.TB) *door {
	return &door{t: t, machines: make(chan *script, 10_000), accepted: make(chan netip.AddrPort, 10_000), failed: make(chan error, 10_000), shown: make(chan *x509.Certificate, 100)}
}

func (d *door) Share(p Poster) any { return p }

func (d *door) Accepted(peer netip.AddrPort, _ bool, _ time.Time) (Ticket, bool) {
	d.accepted <- peer
	return d, !d.refuse.Load()
}

func (d *door) Preface(in []byte, _ time.Time) ([]byte, bool, error) {
	if preface := d.preface.Load(); preface != nil {
		return (*preface)(in)
	}
	return in, true, nil
}

func (d *door) Open(link Link, now time.Time) Machine {
	if link.Shared != link.Poster {
		d.t.Errorf("%v is shared by those of %v", link.Shared, link.Poster)
	}
	m := <-d.machines
	m.link, m.began = link, now
	close(m.opened)
	return m
}

func (d *door) Shown(cert *x509.Certificate) { d.shown <- cert }

func (d *door) Failed(err error) { d.failed <- err }

// next is the machine of the next connection.
func (d *door) next() *script {
	m := newScript(d.t)
	d.machines <- m
	return m
}

var testConfig = Config{HandshakeTimeout: patience, Handshakes: 100, WriteTimeout: patience, OutboundBytes: 1 << 20, LingerTimeout: time.Second}

// drives is a driver as its owner sees it.
type drives interface {
	Serve(l net.Listener, tlsConfig *tls.Config) error
	LetNobodyIn()
	Stop()
	Close()
	Wait(ctx context.Context) error
}

// served is a driver that serves a listener, until the test ends.
type served struct {
	drives
	*door
	t      testing.TB
	l      net.Listener
	client *tls.Config // nil without TLS
	once   sync.Once
	ended  chan error
}

func serve(t testing.TB, cfg Config, l net.Listener, server, client *tls.Config) *served {
	d := newDoor(t)
	return d.serve(NewPortable(cfg, d, quiet), l, server, client)
}

func (d *door) serve(by drives, l net.Listener, server, client *tls.Config) *served {
	s := &served{drives: by, door: d, t: d.t, l: l, client: client, ended: make(chan error, 1)}
	go func() { s.ended <- s.Serve(l, server) }()
	d.t.Cleanup(s.end)
	return s
}

// underWay are the handshakes of a driver.
func (p *Portable) underWay() *shakes { return p.shakes }

// handshakes counts those under way, and those of them that wait.
func (s *served) handshakes() [2]int32 {
	of := s.drives.(interface{ underWay() *shakes }).underWay()
	return [2]int32{of.count.Load(), of.parked.Load()}
}

var quiet = slog.New(slog.DiscardHandler)

func (s *served) end() {
	s.once.Do(func() {
		_ = s.l.Close()
		s.Close()
		if err := <-s.ended; err != nil {
			s.t.Errorf("Serve: %v", err)
		}
		if c, ok := s.drives.(interface{ leftovers() string }); ok && c.leftovers() != "" {
			s.t.Errorf("after the end there are %s", c.leftovers())
		}
	})
}

func listen(t testing.TB) net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// overTCP serves plain TCP on loopback.
func overTCP(t testing.TB, cfg Config) *served { return serve(t, cfg, listen(t), nil, nil) }

// ways are the drivers and what they are for.
var ways = map[string]func(testing.TB, Config) *served{"tcp": overTCP, "tls": overTLS}

// overEach runs a test with each driver of plain TCP.
func overEach(t *testing.T, test func(t *testing.T, over func(testing.TB, Config) *served)) {
	for name, over := range ways {
		if !strings.HasSuffix(name, "tls") {
			t.Run(name, func(t *testing.T) { test(t, over) })
		}
	}
}

// overEachTLS runs a test with each driver of TLS.
func overEachTLS(t *testing.T, test func(t *testing.T, over func(testing.TB, Config) *served)) {
	for name, over := range ways {
		if strings.HasSuffix(name, "tls") {
			t.Run(name, func(t *testing.T) { test(t, over) })
		}
	}
}

// overTLS serves TLS on loopback.
func overTLS(t testing.TB, cfg Config) *served {
	server, client := wstest.TLS(t)
	return serve(t, cfg, listen(t), server, client)
}

func (s *served) dialTCP() *net.TCPConn {
	s.t.Helper()
	c, err := net.Dial("tcp", s.l.Addr().String())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c.(*net.TCPConn)
}

func (s *served) dial() net.Conn {
	s.t.Helper()
	c := s.dialTCP()
	if s.client == nil {
		return c
	}
	t := tls.Client(c, s.client)
	if err := t.Handshake(); err != nil {
		s.t.Fatal(err)
	}
	return t
}

// exchange sends and wants the same back.
func exchange(t testing.TB, c net.Conn, text string) {
	t.Helper()
	if _, err := c.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	want(t, c, text)
}

func want(t testing.TB, c net.Conn, text string) {
	t.Helper()
	got := make([]byte, len(text))
	for n := 0; n < len(got); {
		k, err := c.Read(got[n:])
		if n += k; err != nil {
			t.Fatalf("%q and %v, want %q", got[:n], err, text)
		}
	}
	if !bytes.Equal(got, []byte(text)) {
		t.Fatalf("%q, want %q", got, text)
	}
}

// descriptors counts the open files of this process.
func descriptors(t testing.TB) int {
	if runtime.GOOS != "linux" {
		t.Skip("/proc is Linux's")
	}
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}
