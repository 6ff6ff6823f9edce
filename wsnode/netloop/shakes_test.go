package netloop

import (
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
)

// As many handshakes are under way as may be: who comes then is reset before its
// own, until one of them has ended. Who has said nothing whole yet takes no place.
func TestHandshakesBusy(t *testing.T) { overEachTLS(t, testHandshakesBusy) }

func testHandshakesBusy(t *testing.T, over func(testing.TB, Config) *served) {
	cfg := testConfig
	cfg.Handshakes = 2
	s := over(t, cfg)
	hello := helloOf(t, classical)
	silent := s.dialTCP()
	if _, err := silent.Write(hello[:len(hello)-1]); err != nil {
		t.Fatal(err)
	}
	var parked []*net.TCPConn
	for range cfg.Handshakes {
		c := s.dialTCP()
		if _, err := c.Write(hello); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 10)); err != nil { // of the answer
			t.Fatal(err)
		}
		parked = append(parked, c)
	}
	c := s.dialTCP()
	if _, err := c.Write(hello); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%d bytes and %v, want a reset", n, err)
	}
	if err := <-s.failed; err != ErrBusy {
		t.Errorf("failed with %v, want ErrBusy", err)
	}
	_ = parked[0].Close()
	if err := <-s.failed; !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("failed with %v", err)
	}
	eventually(t, "the handshake has ended", func() bool { return s.handshakes() == [2]int32{1, 1} })
	s.next()
	exchange(t, s.dial(), "there is room again")
}

// Handshakes that wait for their peers are no hindrance: others go on, and Stop gives
// those up.
func TestHandshakesParked(t *testing.T) { overEachTLS(t, testHandshakesParked) }

func testHandshakesParked(t *testing.T, over func(testing.TB, Config) *served) {
	s := over(t, testConfig)
	hello := helloOf(t, classical)
	for range 50 {
		c := s.dialTCP()
		if _, err := c.Write(hello); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "they all wait", func() bool { return s.handshakes() == [2]int32{50, 50} })
	s.next()
	exchange(t, s.dial(), "past them")
	s.Stop()
	for range 50 {
		if err := <-s.failed; err != ErrStopped {
			t.Errorf("failed with %v, want ErrStopped", err)
		}
	}
	s.end()
	if got := s.handshakes(); got != [2]int32{} {
		t.Errorf("in the end %d are under way, %d parked", got[0], got[1])
	}
}
