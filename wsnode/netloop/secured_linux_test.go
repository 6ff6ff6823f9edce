package netloop

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

// However what is read is cut, framing finds the ends of the same records.
func TestFraming(t *testing.T) {
	var b []byte
	var ends []int
	for _, n := range []int{0, 1, 255, 256, 0, 16384 + 256, 65535} {
		b = append(append(b, 23, 3, 3, byte(n>>8), byte(n)), make([]byte, n)...)
		ends = append(ends, len(b))
	}
	for _, size := range []int{1, 2, 4, 5, 6, 512, 70_000, len(b)} {
		var f framing
		var got []int
		for at := 0; at < len(b); {
			n := f.take(b[at:min(at+size, len(b))])
			if n == 0 {
				t.Fatalf("nothing of %d bytes is taken", size)
			}
			if at += n; f == (framing{}) {
				got = append(got, at)
			}
		}
		if !reflect.DeepEqual(got, ends) {
			t.Errorf("in pieces of %d records end at %v, want %v", size, got, ends)
		}
	}
}

// Who sends and sends without waiting for an answer is cut off.
func TestLoopsTooMuchBeforeTheHandshake(t *testing.T) {
	s := overLoopsTLS(t, testConfig)
	block := make(chan struct{})
	server, _ := wstest.TLS(t)
	l := listen(t)
	ended := make(chan error, 1)
	go func() {
		ended <- s.Serve(l, &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			<-block
			return server, nil
		}})
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write(helloOf(t, classical)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(make([]byte, 4<<20)); err == nil {
		_, err = c.Read(make([]byte, 1))
		if err == nil {
			t.Error("the connection lives on")
		}
	}
	if err := <-s.failed; err != errAhead {
		t.Errorf("failed with %v", err)
	}
	close(block)
	_ = l.Close()
	s.end()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// The time of a handshake is over though its answer still waits for the peer to read.
func TestLoopsHandshakeOfTheDeaf(t *testing.T) {
	cfg := testConfig
	cfg.Loops, cfg.LoopBytes, cfg.Handshakes, cfg.HandshakeTimeout = 1, 1<<20, 100, 100*time.Millisecond
	server, client := wstest.TLS(t)
	for range 1000 { // a large answer
		server.Certificates[0].Certificate = append(server.Certificates[0].Certificate, server.Certificates[0].Certificate[0])
	}
	d := newDoor(t)
	s := d.serve(newLoops(cfg, d, quiet, newShakes(cfg)).(*loops), narrow(t), server, client)
	c := s.deaf()
	if _, err := c.Write(helloOf(t, classical)); err != nil {
		t.Fatal(err)
	}
	if err := <-s.failed; err != context.DeadlineExceeded {
		t.Errorf("failed with %v, want the deadline", err)
	}
	eventually(t, "the handshake has ended", func() bool { return s.drives.(*loops).shakes.count.Load() == 0 })
}

// overNarrowTLS is overNarrow over TLS.
func overNarrowTLS(t testing.TB, cfg Config) (*served, *loop) {
	d := newDoor(t)
	cfg.Loops, cfg.Handshakes = 1, 100
	cfg.LoopBytes = max(cfg.LoopBytes, 1<<20)
	server, client := wstest.TLS(t)
	s := d.serve(newLoops(cfg, d, quiet, newShakes(cfg)).(*loops), narrow(t), server, client)
	s.next()
	exchange(t, s.dial(), "-")
	return s, s.loop(0)
}

// More waits than may: the machine says its last word behind what waits, which is
// numbered, so that none of it may be missing.
func TestLoopOverflowTLS(t *testing.T) {
	cfg := testConfig
	cfg.OutboundBytes = 100_000
	s, _ := overNarrowTLS(t, cfg)
	m := newScript(t)
	m.overflow = []byte("too slow")
	s.machines <- m
	c := s.secureWith(s.deaf(), func(*tls.Config) {})
	exchange(t, c, "-")
	first, second := strings.Repeat("a", 300_000), strings.Repeat("b", 90_000)
	m.say(first)
	m.say(second)
	m.do(func() {
		if m.over.Load() != 0 {
			t.Error("overflow within the bound")
		}
	})
	m.say(strings.Repeat("c", 20_000))
	eventually(t, "the machine has its say", func() bool { return m.over.Load() == 1 })
	want(t, c, first+second+"too slow")
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("%d bytes and %v after the last word, want EOF", n, err)
	}
	_ = c.Close()
	if err := m.wantGone(); err != nil {
		t.Errorf("gone with %v", err)
	}
}

// Peers that do not read share what there is, over TLS too.
func TestLoopsRoomIsSharedTLS(t *testing.T) {
	const deaf = 20
	cfg := testConfig
	cfg.LoopBytes = 1 << 20
	s, l := overNarrowTLS(t, cfg)
	honest := s.next()
	c := s.dial()
	exchange(t, c, "-")
	var machines []*script
	for range deaf {
		m := s.next()
		m.overflow = make([]byte, 100)
		machines = append(machines, m)
		exchange(t, s.secureWith(s.deaf(), classical), "-")
	}
	for round := 0; ; round++ {
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
		if round == 200 {
			t.Fatalf("%d of %d peers that do not read go on", deaf-ended, deaf)
		}
	}
	s.end()
}

// What a tls.Conn keeps of its input depends on the largest record, and neither on
// how many came together nor on the hello.
func TestLoopsKeepLittleOfInput(t *testing.T) {
	s := overLoopsTLS(t, testConfig)
	m := s.next()
	nc := s.secureWith(s.dialTCP(), func(*tls.Config) {}) // whose hello is post-quantum
	const size, count = 100, 300
	for range 10 {
		for range count {
			if _, err := nc.Write(make([]byte, size)); err != nil {
				t.Fatal(err)
			}
		}
		want(t, nc, string(make([]byte, size*count)))
	}
	m.do(func() {
		l := m.linked().Poster.(*loop)
		conn := (*l.machines.at(uint32(m.linked().Ref >> 32))).(*secured).conn
		kept := reflect.ValueOf(conn).Elem().FieldByName("rawInput")
		if kept.Kind() != reflect.Struct {
			t.Skip("this crypto/tls has another inside")
		}
		if n := kept.FieldByName("buf").Cap(); n > 1024 {
			t.Errorf("room for %d bytes is kept after records of %d", n, size)
		}
	})
}

// A message of TLS's own that does not end is not gathered.
func TestLoopsBarrenRecords(t *testing.T) {
	s := overLoopsTLS(t, testConfig)
	m := s.next()
	c := s.dialTCP()
	nc, hand := s.byHand(c)
	if _, err := c.Write(hand.seal(kindData, "before")); err != nil {
		t.Fatal(err)
	}
	want(t, nc, "before")
	message := string([]byte{keyUpdate, 0, 0xf0, 0}) + strings.Repeat("x", 0xf000)
	for len(message) > 0 {
		n := min(len(message), 1000)
		if _, err := c.Write(hand.seal(kindHandshake, message[:n])); err != nil {
			break // it has ended
		}
		message = message[n:]
	}
	if err := m.wantGone(); err != errBarren {
		t.Errorf("gone with %v, want %v", err, errBarren)
	}
}
