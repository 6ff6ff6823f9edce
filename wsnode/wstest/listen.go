package wstest

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// Listener is a net.Listener in memory, whose connections have no buffer: a
// write ends when it is read. They may be used in a bubble of testing/synctest.
type Listener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// Listen opens a Listener.
func Listen() *Listener {
	return &Listener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

var loopback = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *Listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *Listener) Addr() net.Addr { return loopback }

// Dial connects as a client at the address from, or, if that is invalid, as one
// of a unix socket, which has none.
func (l *Listener) Dial(from netip.Addr) (net.Conn, error) {
	var addr net.Addr = &net.UnixAddr{Net: "unix"}
	if from.IsValid() {
		addr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 40000))
	}
	client, server := net.Pipe()
	select {
	case l.conns <- &memoryConn{Conn: server, from: addr}:
		return client, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-time.After(10 * time.Second):
		return nil, net.ErrClosed
	}
}

type memoryConn struct {
	net.Conn
	from net.Addr
}

func (c *memoryConn) RemoteAddr() net.Addr { return c.from }
