package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/gobwas/ws"
	"golang.org/x/sys/unix"
)

const (
	wsPath    = "/ws"
	wsPayload = len(wsMessage)
	wsKey     = "dGhlIHNhbXBsZSBub25jZQ=="
	wsAccept  = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
)

// wsRequest is an opening handshake. Every server gets a token, so that all
// read as many bytes.
func wsRequest(token string) []byte {
	return fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nOrigin: https://%s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\nUser-Agent: %s\r\nAuthorization: Bearer %s\r\n\r\n",
		wsPath, host, host, wsKey, userAgents[0], token)
}

// wsText is a frame of the load and the answer that it wants.
func wsText(mask [4]byte) (frame, answer []byte) {
	payload := []byte(wsMessage)
	answer = append([]byte{0x81, 126, 0, byte(wsPayload)}, payload...)
	frame = append([]byte{0x81, 0x80 | 126, 0, byte(wsPayload)}, mask[:]...)
	ws.Cipher(payload, mask, 0)
	return append(frame, payload...), answer
}

// errBusy says that a node asks its client to come again.
var errBusy = errors.New("opening handshake refused: 503, come again")

// readAnswer reads the answer to an opening handshake.
func readAnswer(r *bufio.Reader) error {
	first := true
	accepted := false
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return fmt.Errorf("answer to the opening handshake: %w", err)
		}
		if first && bytes.HasPrefix(line, []byte("HTTP/1.1 503 ")) {
			return errBusy
		}
		if first && !bytes.HasPrefix(line, []byte("HTTP/1.1 101 ")) {
			return fmt.Errorf("opening handshake refused: %s", bytes.TrimSpace(line))
		}
		first = false
		accepted = accepted || bytes.Contains(line, []byte(wsAccept))
		if len(bytes.TrimSpace(line)) == 0 {
			if !accepted {
				return errors.New("the answer has another Sec-WebSocket-Accept")
			}
			return nil
		}
	}
}

// dialer connects to a server, over TLS or not.
type dialer func() (net.Conn, error)

// noKeepAlive keeps the system from asking every 15 seconds whether the other
// side is there: with a million sockets that is more than anything that is
// measured.
const noKeepAlive = -1

func dialPlain(addr string) dialer {
	d := net.Dialer{KeepAlive: noKeepAlive}
	return func() (net.Conn, error) { return d.Dial("tcp", addr) }
}

// shakeHands opens a connection that has nothing more to be read.
func shakeHands(dial dialer, token string) (_ net.Conn, err error) {
	c, err := dial()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = c.Close() // of no use
		}
	}()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return nil, err
	}
	if _, err := c.Write(wsRequest(token)); err != nil {
		return nil, err
	}
	in := bufio.NewReaderSize(c, 1024)
	if err := readAnswer(in); err != nil {
		return nil, err
	}
	if in.Buffered() > 0 {
		return nil, errors.New("a server speaks first")
	}
	return c, nil
}

// wsOpenClose opens a connection and closes it as RFC 6455 section 7 says.
func wsOpenClose(dial dialer, token string) error {
	c, err := shakeHands(dial, token)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // both sides have ended by then
	mask := [4]byte{1, 2, 3, 4}
	code := []byte{0x03, 0xe8} // 1000
	ws.Cipher(code, mask, 0)
	if _, err := c.Write(append(append([]byte{0x88, 0x82}, mask[:]...), code...)); err != nil {
		return err
	}
	rest, err := io.ReadAll(c)
	if err != nil {
		return fmt.Errorf("after the close frame: %w", err)
	}
	if len(rest) < 2 || rest[0] != 0x88 {
		return fmt.Errorf("the close frame is answered with %x", rest)
	}
	return nil
}

// wsConns are open connections of the load, in one epoll loop over raw
// descriptors: the load must not cost more than what it measures.
type wsConns struct {
	epoll         int
	frame, answer []byte
	buf           []byte

	mu    sync.Mutex // guards conns while some are opened
	conns map[int32]*wsConn
}

type wsConn struct {
	fd   int
	got  []byte // of an answer that came in part
	sent time.Time
}

// newWSConns has no connection yet.
func newWSConns() (_ *wsConns, err error) {
	w := &wsConns{conns: map[int32]*wsConn{}, buf: make([]byte, 64<<10)}
	w.frame, w.answer = wsText([4]byte{0x37, 0xfa, 0x21, 0x3d})
	w.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	return w, err
}

// openWS opens one connection for each token.
func openWS(addr string, tokens []string) (*wsConns, error) {
	w, err := newWSConns()
	if err != nil {
		return nil, err
	}
	for _, token := range tokens {
		if err := w.open(dialPlain(addr), token); err != nil {
			return nil, errors.Join(err, w.close())
		}
	}
	return w, nil
}

// open shakes hands through package net, then keeps a descriptor of its own. It
// may be called from several goroutines.
func (w *wsConns) open(dial dialer, token string) error {
	c, err := shakeHands(dial, token)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // its duplicate stays
	fd, err := duplicate(c)
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.conns[int32(fd)] = &wsConn{fd: fd}
	w.mu.Unlock()
	return unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
}

// duplicate is a connection's descriptor, to be had beside package net.
func duplicate(c net.Conn) (fd int, err error) {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	e := raw.Control(func(f uintptr) { fd, err = unix.FcntlInt(f, unix.F_DUPFD_CLOEXEC, 0) })
	return fd, errors.Join(e, err)
}

func writeAll(fd int, b []byte) error {
	n, err := unix.Write(fd, b)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	return err
}

// close ends all.
func (w *wsConns) close() error { return errors.Join(w.reset(), unix.Close(w.epoll)) }

// reset resets the connections, of which none is left: ports that wait for late
// packets would run out.
func (w *wsConns) reset() error {
	var errs []error
	for _, c := range w.conns {
		errs = append(errs, unix.SetsockoptLinger(c.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}), unix.Close(c.fd))
	}
	clear(w.conns)
	return errors.Join(errs...)
}

// echo keeps one message under way on every connection for d, then waits for
// those under way. Every answer must be the message.
func (w *wsConns) echo(d time.Duration) (tally, error) {
	t := tally{latency: make([]time.Duration, 0, 1<<16)}
	began := time.Now()
	for _, c := range w.conns {
		c.sent = time.Now()
		if err := writeAll(c.fd, w.frame); err != nil {
			return t, err
		}
	}
	end := began.Add(d)
	events := make([]unix.EpollEvent, 256)
	for underWay := len(w.conns); underWay > 0; {
		n, err := unix.EpollWait(w.epoll, events, 10_000)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return t, errors.Join(err, fmt.Errorf("%d messages are not answered", underWay))
		}
		for _, e := range events[:n] {
			c := w.conns[e.Fd]
			whole, err := w.receive(c)
			if err != nil {
				return t, err
			}
			if !whole {
				continue
			}
			now := time.Now()
			t.latency = append(t.latency, now.Sub(c.sent))
			if now.After(end) {
				underWay--
				continue
			}
			c.sent = now
			if err := writeAll(c.fd, w.frame); err != nil {
				return t, err
			}
		}
	}
	t.wall, t.ops = time.Since(began), len(t.latency)
	return t, nil
}

// receive reads once and reports whether the answer is whole.
func (w *wsConns) receive(c *wsConn) (bool, error) {
	have := copy(w.buf, c.got)
	n, err := unix.Read(c.fd, w.buf[have:])
	if err != nil || n == 0 {
		return false, errors.Join(err, errors.New("a server ended a connection"))
	}
	in := w.buf[:have+n]
	switch {
	case len(in) < len(w.answer):
		c.got = bytes.Clone(in)
		return false, nil
	case !bytes.Equal(in, w.answer):
		return false, fmt.Errorf("wrong echo: %.40x", in)
	}
	c.got = nil
	return true, nil
}
