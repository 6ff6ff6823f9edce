package netloop

import (
	"encoding/binary"
	"net"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The system calls of a loop never block, so they do without the scheduler's
// bookkeeping around calls that may: on a loop that is the dearest part of them
// that is ours. This is the one file of the node with package unsafe in it. What
// is pointed to is on the heap, and kept alive by the calls.

// pollNow is epoll_wait that does not wait.
func pollNow(epoll int, events []unix.EpollEvent) (int, error) {
	n, _, e := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 0, 0, 0)
	return result(n, e)
}

// readNow is read(2) of a socket that does not block; b is not empty.
func readNow(fd int32, b []byte) (int, error) {
	n, _, e := syscall.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	return result(n, e)
}

// sendNow is send(2) to a socket that does not block; b is not empty. It raises
// no SIGPIPE. What is last waits for the end of our side, to go with it in one
// packet.
func sendNow(fd int32, b []byte, last bool) (int, error) {
	flags := uintptr(unix.MSG_NOSIGNAL)
	if last {
		flags |= unix.MSG_MORE
	}
	n, _, e := syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), flags, 0, 0)
	return result(n, e)
}

// message is what sendParts needs, kept by a loop so that it allocates nothing.
type message struct {
	head  unix.Msghdr
	iov   [maxParts]unix.Iovec
	parts [maxParts][]byte
}

// maxParts is how many blocks one write takes: writeBytes.
const maxParts = writeBytes / blockBytes

// sendParts is sendNow of parts, which are not empty, in one call.
func (m *message) sendParts(fd int32, parts [][]byte) (int, error) {
	for i, p := range parts {
		m.iov[i].Base = &p[0]
		m.iov[i].SetLen(len(p))
	}
	m.head.Iov = &m.iov[0]
	m.head.SetIovlen(len(parts))
	n, _, e := syscall.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&m.head)), unix.MSG_NOSIGNAL)
	return result(n, e)
}

// address is room for the socket address of a TCP peer.
type address struct {
	b    [unix.SizeofSockaddrInet6]byte
	size uint32
}

// acceptNow takes one connection from a listener that does not block.
func (a *address) acceptNow(listener int) (int32, error) {
	a.size = uint32(len(a.b))
	fd, _, e := syscall.RawSyscall6(unix.SYS_ACCEPT4, uintptr(listener), uintptr(unsafe.Pointer(&a.b[0])), uintptr(unsafe.Pointer(&a.size)), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	n, err := result(fd, e)
	return int32(n), err
}

// somebodyWaits reports whether a listener has a connection, or an error, for
// accept4. To have that look for one costs ten times as much: it makes the socket
// first.
func somebodyWaits(listener int) bool {
	p, wait := unix.PollFd{Fd: int32(listener), Events: unix.POLLIN}, unix.Timespec{}
	n, _, _ := syscall.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&p)), 1, uintptr(unsafe.Pointer(&wait)), 0, 0, 0)
	return int(n) > 0
}

// peer is the address that acceptNow found, or an invalid one.
func (a *address) peer() netip.AddrPort {
	port := binary.BigEndian.Uint16(a.b[2:])
	switch binary.NativeEndian.Uint16(a.b[:]) {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(a.b[4:])), port)
	case unix.AF_INET6:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(a.b[8:])).Unmap(), port)
	}
	return netip.AddrPort{}
}

// addressesOf are both ends of a socket; an end is nil where the peer has gone.
func addressesOf(fd int32) (local, remote net.Addr) {
	to := func(sa unix.Sockaddr, err error) net.Addr {
		switch sa := sa.(type) {
		case *unix.SockaddrInet4:
			return &net.TCPAddr{IP: sa.Addr[:], Port: sa.Port}
		case *unix.SockaddrInet6:
			return &net.TCPAddr{IP: sa.Addr[:], Port: sa.Port}
		}
		return nil
	}
	return to(unix.Getsockname(int(fd))), to(unix.Getpeername(int(fd)))
}

func result(n uintptr, e syscall.Errno) (int, error) {
	if e == 0 {
		return int(n), nil
	}
	return -1, e // the runtime has these as values: nothing is allocated
}
