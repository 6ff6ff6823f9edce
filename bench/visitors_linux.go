package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

const (
	// markedPrefix and markedSubject are of the few sockets that are revoked among
	// the many.
	markedPrefix  = "127.99.0.0/16"
	markedSubject = "marked"
	// shakesAtOnce is how many handshakes of a process are under way at once.
	shakesAtOnce = 16
	// ownersOfAddress is how many sockets come from one address.
	ownersOfAddress = 10
)

// visitors are a process of clients: it issues tokens as a login service does, and
// opens a socket with each. A process may have so many descriptors only.
type visitors struct {
	login *grpc.ClientConn
	conns *wsConns
}

func serveVisitors(sp spec) (*server, error) {
	config, err := clientTLS(sp.Keys, "login")
	if err != nil {
		return nil, err
	}
	c := &visitors{}
	if c.conns, err = newWSConns(); err != nil {
		return nil, err
	}
	if c.login, err = grpc.NewClient(sp.Authority, grpc.WithTransportCredentials(credentials.NewTLS(config))); err != nil {
		return nil, err
	}
	return &server{
		do: map[string]func(order) (answer, error){
			"open":   func(o order) (answer, error) { return answer{}, c.open(o) },
			"echo":   c.echo,
			"closed": c.closed,
			"count":  func(order) (answer, error) { return c.count() },
			"leave":  func(order) (answer, error) { return answer{}, c.conns.leave() },
		},
		close: func() error { return errors.Join(c.conns.leave(), c.login.Close(), c.conns.close()) },
	}, nil
}

// member is who opens the n-th socket of an order, and from where.
func (o *visitorsOrder) member(n int) (subject string, from netip.Addr) {
	number := o.First + n
	subject = fmt.Sprintf("user-%08d", number)
	host := uint32(number / ownersOfAddress)
	switch {
	case n < o.ByAddress:
		return subject, addressIn(127, 99, uint32(number))
	case n < o.ByAddress+o.BySubject:
		subject = markedSubject
	}
	return subject, addressIn(127, 16+byte(host>>16), host)
}

func addressIn(first, second byte, rest uint32) netip.Addr {
	b := binary.BigEndian.AppendUint32(nil, rest)
	return netip.AddrFrom4([4]byte{first, second, b[2], b[3]})
}

// open opens o.Count sockets, each with a token of its own.
func (c *visitors) open(o order) error {
	const batch = 64
	api := pb.NewTokenServiceClient(c.login)
	_, err := drive(shakesAtOnce, forCount((o.Count+batch-1)/batch), numbered(func(i int) error {
		req := &pb.IssueTokensRequest{}
		from := make([]netip.Addr, min((i+1)*batch, o.Count)-i*batch)
		for j := range from {
			var subject string
			subject, from[j] = o.Visitors.member(i*batch + j)
			req.Requests = append(req.Requests, &pb.IssueTokenRequest{
				Subject: subject, Audience: audience, ClientIp: from[j].String(), UserAgent: []byte(userAgents[0]), Origin: origin, Ttl: ttl,
			})
		}
		resp, err := api.IssueTokens(context.Background(), req)
		if err != nil {
			return err
		}
		for j, r := range resp.GetResults() {
			text := r.GetToken().GetToken()
			if text == "" {
				return fmt.Errorf("token refused: %s", r.GetError().GetMessage())
			}
			if err := c.come(dialFrom(from[j], o.Visitors.Addr), text, req.GetRequests()[j]); err != nil {
				return fmt.Errorf("socket %d: %w", o.Visitors.First+i*batch+j, err)
			}
		}
		return nil
	}))
	return err
}

// comings is how often a client comes whose node has no time for it.
const comings = 10

// come opens a socket. Where the node is too busy it comes again as it is told to,
// with a token of its own each time: the one before may have been redeemed.
func (c *visitors) come(dial dialer, text string, again *pb.IssueTokenRequest) error {
	for n := 1; ; n++ {
		err := c.conns.open(dial, text)
		if n == comings || !errors.Is(err, errBusy) {
			return err
		}
		time.Sleep(2 * time.Second) // the node's Retry-After
		t, err := pb.NewTokenServiceClient(c.login).IssueToken(context.Background(), again)
		if err != nil {
			return err
		}
		text = t.GetToken()
	}
}

func dialFrom(from netip.Addr, addr string) dialer {
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), Timeout: 10 * time.Second, KeepAlive: noKeepAlive}
	return func() (net.Conn, error) { return d.Dial("tcp", addr) }
}

// echo sends a message on o.Count of the sockets, one after the other, and wants
// it back.
func (c *visitors) echo(o order) (a answer, err error) {
	if o.Count > len(c.conns.conns) {
		return a, fmt.Errorf("%d sockets of %d are to echo", o.Count, len(c.conns.conns))
	}
	for _, conn := range c.conns.conns { // in no order
		if len(a.Latency) == o.Count {
			break
		}
		began := time.Now()
		if err := writeAll(conn.fd, c.conns.frame); err != nil {
			return a, err
		}
		for whole := false; !whole; {
			if err := awaitInput(conn.fd, 10*time.Second); err != nil {
				return a, fmt.Errorf("echo: %w", err)
			}
			if whole, err = c.conns.receive(conn); err != nil {
				return a, err
			}
		}
		a.Latency = append(a.Latency, time.Since(began))
	}
	return a, nil
}

func awaitInput(fd int, within time.Duration) error {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(within.Milliseconds()))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return err
		case n == 0:
			return fmt.Errorf("no answer within %v", within)
		default:
			return nil
		}
	}
}

// closed waits until o.Count of the sockets are closed with 4501, and tells when
// the last was.
func (c *visitors) closed(o order) (a answer, err error) {
	by := time.Now().Add(10 * time.Second)
	for a.Count < int64(o.Count) {
		left := time.Until(by)
		if left <= 0 {
			return a, fmt.Errorf("%d sockets of %d are closed after 10 s", a.Count, o.Count)
		}
		n, err := c.conns.takeClosed(left)
		if err != nil {
			return a, err
		}
		if a.Count += int64(n); n > 0 {
			a.Time = time.Now()
		}
	}
	return a, nil
}

// count tells how many sockets are open, none of which has anything to read.
func (c *visitors) count() (answer, error) {
	n, err := c.conns.takeClosed(0)
	if err == nil && n > 0 {
		err = fmt.Errorf("%d sockets were closed that nobody has revoked", n)
	}
	return answer{Count: int64(len(c.conns.conns))}, err
}

// revokedFrame is the start of a close frame with code 4501 (RFC 6455 section 5.5.1).
const revokedFrame = "\x11\x95"

// takeClosed waits for something to read, and drops the sockets that are closed
// with 4501: nothing else may come.
func (w *wsConns) takeClosed(wait time.Duration) (n int, err error) {
	events := make([]unix.EpollEvent, 256)
	ready, err := unix.EpollWait(w.epoll, events, int(wait.Milliseconds()))
	if err == unix.EINTR {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	for _, e := range events[:ready] {
		fd := int(e.Fd)
		got, err := unix.Read(fd, w.buf)
		if err != nil {
			return n, fmt.Errorf("an idle socket: %w", err)
		}
		if in := w.buf[:got]; got < 4 || in[0] != 0x88 || string(in[2:4]) != revokedFrame {
			return n, fmt.Errorf("an idle socket is sent %.20x", in)
		}
		delete(w.conns, e.Fd)
		if err := unix.Close(fd); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// leave ends all connections, few at once, and waits until the server has ended
// them too: of very many resets the kernel drops some, and the server would not
// hear of those.
func (w *wsConns) leave() error {
	const atOnce = 256
	leaving := make([]*wsConn, 0, atOnce)
	for len(w.conns) > 0 {
		leaving = leaving[:0]
		for _, c := range w.conns {
			if leaving = append(leaving, c); len(leaving) == atOnce {
				break
			}
		}
		var errs []error
		for _, c := range leaving {
			delete(w.conns, int32(c.fd))
			_ = unix.Shutdown(c.fd, unix.SHUT_WR) // fails if the server has ended it before
		}
		for _, c := range leaving {
			errs = append(errs, w.awaitEnd(c.fd), unix.Close(c.fd))
		}
		if err := errors.Join(errs...); err != nil {
			return err
		}
	}
	return nil
}

// awaitEnd reads to the server's end of a connection.
func (w *wsConns) awaitEnd(fd int) error {
	for {
		if err := awaitInput(fd, 30*time.Second); err != nil {
			return fmt.Errorf("the end of a connection: %w", err)
		}
		if n, err := unix.Read(fd, w.buf); err != nil || n == 0 { // a reset is an end too
			return nil
		}
	}
}
