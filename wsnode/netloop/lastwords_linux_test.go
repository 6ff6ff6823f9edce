package netloop

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// The last words and the end of our side come in one packet.
func TestLoopsEndInOnePacket(t *testing.T) {
	for name, over := range map[string]func(testing.TB, Config) *served{"tcp": overLoops, "tls": overLoopsTLS} {
		t.Run(name, func(t *testing.T) {
			s := over(t, testConfig)
			m := s.next()
			c := s.dial()
			exchange(t, c, "-")
			before := packets(t, c)
			m.post(func(out []byte) []byte { m.done = true; return append(out, "bye"...) })
			want(t, c, "bye")
			if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
				t.Errorf("%d bytes and %v after the end, want EOF", n, err)
			}
			if n := packets(t, c) - before; n != 1 {
				t.Errorf("the end came in %d packets", n)
			}
		})
	}
}

// packets is how many have come on a connection.
func packets(t *testing.T, c net.Conn) (n uint32) {
	t.Helper()
	if secure, is := c.(*tls.Conn); is {
		c = secure.NetConn()
	}
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	e := raw.Control(func(fd uintptr) {
		var info *unix.TCPInfo
		if info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			n = info.Segs_in
		}
	})
	if err := errors.Join(e, err); err != nil {
		t.Fatal(err)
	}
	return n
}

// Last words that wait for the end of our side are sent though the peer, who was
// to send nothing more, has done so, and the socket is closed at once.
func TestLoopsLastWordsBesideUnread(t *testing.T) {
	s := overLoops(t, testConfig)
	m := s.next()
	c := s.dial()
	exchange(t, c, "-")
	sent := make(chan struct{})
	m.post(func(out []byte) []byte {
		<-sent
		m.done, m.peerDone = true, true
		return append(out, "bye"...)
	})
	if _, err := c.Write([]byte("more")); err != nil {
		t.Fatal(err)
	}
	close(sent)
	want(t, c, "bye")
}
