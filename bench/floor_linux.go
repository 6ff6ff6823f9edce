package main

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"unsafe"

	"github.com/gobwas/ws"
	"golang.org/x/sys/unix"
)

// floor is what the kernel alone costs, as nearly as a Go program can tell: one
// loop over epoll and raw descriptors that upgrades, unmasks and echoes, and
// checks nothing. It knows whole frames of up to 64 KiB; all else ends the
// connection.
type floor struct {
	epoll, listener int
	wait            syscall.RawConn // parks the loop in Go's netpoller
	buf             []byte          // what is read, and echoed from, in place
	partial         map[int][]byte  // what came in part, by descriptor

	mu    sync.Mutex // guards conns
	conns []int
}

func serveFloor(spec) (*server, error) {
	f := &floor{buf: make([]byte, 128<<10), partial: map[int][]byte{}}
	var err error
	if f.listener, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
		return nil, err
	}
	if f.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, err
	}
	if err := errors.Join(
		unix.SetsockoptInt(f.listener, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1), // sockets inherit it
		unix.Bind(f.listener, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}),
		unix.Listen(f.listener, 4096),
		f.watch(f.listener),
		unix.SetNonblock(f.epoll, true), // else os.NewFile leaves it out of the netpoller
	); err != nil {
		return nil, err
	}
	if f.wait, err = os.NewFile(uintptr(f.epoll), "epoll").SyscallConn(); err != nil {
		return nil, err
	}
	bound, err := unix.Getsockname(f.listener)
	if err != nil {
		return nil, err
	}
	go f.run() // ends with the process
	port := bound.(*unix.SockaddrInet4).Port
	return &server{
		addr:  fmt.Sprintf("127.0.0.1:%d", port),
		do:    map[string]func(order) (answer, error){"broadcast": func(order) (answer, error) { return answer{}, f.broadcast() }},
		close: func() error { return nil },
	}, nil
}

// broadcast writes a message to every connection.
func (f *floor) broadcast() error {
	_, message := wsText([4]byte{})
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, fd := range f.conns {
		if n := rawCall(unix.SYS_WRITE, uintptr(fd), unsafe.Pointer(&message[0]), len(message)); n != len(message) {
			return fmt.Errorf("floor: a write says %d", n)
		}
	}
	return nil
}

func (f *floor) watch(fd int) error {
	return unix.EpollCtl(f.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
}

func (f *floor) run() {
	events := make([]unix.EpollEvent, 512)
	for {
		n := 0
		if err := f.wait.Read(func(uintptr) bool {
			n = rawCall(unix.SYS_EPOLL_PWAIT, uintptr(f.epoll), unsafe.Pointer(&events[0]), len(events))
			return n > 0
		}); err != nil {
			panic(fmt.Sprint("floor: ", err)) // the process serves nothing else
		}
		for _, e := range events[:n] {
			if int(e.Fd) == f.listener {
				f.accept()
			} else if !f.readable(int(e.Fd)) {
				f.end(int(e.Fd))
			}
		}
	}
}

func (f *floor) accept() {
	for range 64 {
		fd, _, err := unix.Accept4(f.listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		if f.watch(fd) != nil {
			_ = unix.Close(fd)
			continue
		}
		f.mu.Lock()
		f.conns = append(f.conns, fd)
		f.mu.Unlock()
	}
}

func (f *floor) end(fd int) {
	delete(f.partial, fd)
	f.mu.Lock()
	defer f.mu.Unlock()
	if i := slices.Index(f.conns, fd); i >= 0 {
		last := len(f.conns) - 1
		f.conns[i] = f.conns[last]
		f.conns = f.conns[:last]
	}
	_ = unix.Close(fd)
}

// readable serves what a connection has sent, and reports whether it goes on.
func (f *floor) readable(fd int) bool {
	have := copy(f.buf, f.partial[fd])
	if have == len(f.buf) {
		return false
	}
	n := rawCall(unix.SYS_READ, uintptr(fd), unsafe.Pointer(&f.buf[have]), len(f.buf)-have)
	if n <= 0 {
		return n == -int(unix.EAGAIN)
	}
	in := f.buf[:have+n]
	if bytes.HasPrefix(in, []byte("GET ")) { // no frame begins so: opcode 7 is reserved
		end := bytes.Index(in, []byte("\r\n\r\n"))
		if end < 0 {
			f.partial[fd] = bytes.Clone(in)
			return have+n < len(f.buf)
		}
		if !f.upgrade(fd, in[:end]) {
			return false
		}
		in = in[end+4:]
	}
	return f.echo(fd, in)
}

func (f *floor) upgrade(fd int, head []byte) bool {
	const name = "\r\nSec-WebSocket-Key: "
	at := bytes.Index(head, []byte(name))
	if at < 0 || len(head) < at+len(name)+24 {
		return false
	}
	var keyed [24 + 36]byte
	copy(keyed[copy(keyed[:], head[at+len(name):at+len(name)+24]):], "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")
	sum := sha1.Sum(keyed[:])
	out := append(make([]byte, 0, 160), "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "...)
	out = base64.StdEncoding.AppendEncode(out, sum[:])
	out = append(out, "\r\n\r\n"...)
	n, err := unix.Write(fd, out)
	return err == nil && n == len(out)
}

// echo answers the whole frames of in with one write, from the same buffer: a
// frame without its masking key is shorter by four bytes.
func (f *floor) echo(fd int, in []byte) bool {
	out, closing := in[:0], false
	for !closing && len(in) >= 6 {
		size, at := int(in[1]&0x7f), 2
		if size == 126 && len(in) >= 8 {
			size, at = int(binary.BigEndian.Uint16(in[2:])), 4
		} else if size > 125 {
			if size == 127 {
				return false
			}
			break
		}
		if len(in) < at+4+size {
			break
		}
		head := [4]byte(in[:4])
		mask, payload := [4]byte(in[at:]), in[at+4:at+4+size]
		ws.Cipher(payload, mask, 0)
		in = in[at+4+size:]
		head[1] &= 0x7f
		closing = head[0]&0x0f == byte(ws.OpClose)
		out = append(append(out, head[:at]...), payload...)
	}
	if len(in) > 0 {
		f.partial[fd] = bytes.Clone(in)
	} else if len(f.partial) > 0 {
		delete(f.partial, fd)
	}
	if len(out) == 0 {
		return true
	}
	return rawCall(unix.SYS_WRITE, uintptr(fd), unsafe.Pointer(&out[0]), len(out)) == len(out) && !closing
}

// rawCall makes a system call that does not block, without the scheduler's
// bookkeeping for those that may. What fails is a negative number.
func rawCall(call, fd uintptr, p unsafe.Pointer, n int) int {
	got, _, e := syscall.RawSyscall6(call, fd, uintptr(p), uintptr(n), 0, 0, 0)
	if e != 0 {
		return -int(e)
	}
	return int(got)
}
