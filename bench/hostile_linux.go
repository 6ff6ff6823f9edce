package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gobwas/ws"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// manner is how a hostile client behaves.
type manner struct {
	name  string
	about string
	// shakes tells whether it finishes its opening handshake, with a token.
	shakes bool
	// next is what it sends in its n-th second.
	next func(n int) []byte
	// deaf tells whether it is slow to read in the kernel too, as one behind a
	// narrow line: else loopback has room for megabytes.
	deaf bool
}

const (
	// slowMessage is what a message says it has, of which a byte a second comes.
	slowMessage = 32 << 10
	// deafMessage is what is sent each second by who reads no answer.
	deafMessage = 8 << 10
)

var slowHead = wsRequest("gh1_")

var manners = map[string]manner{
	"head": {name: "head", about: "a byte of its request head a second", next: func(n int) []byte {
		return slowHead[n%len(slowHead):][:1]
	}},
	"frame": {name: "frame", about: "a byte of a frame a second", shakes: true, next: func(n int) []byte {
		if n == 0 {
			return maskedHeader(ws.OpText, true, slowMessage)
		}
		return []byte{'a'}
	}},
	"fragments": {name: "fragments", about: "a fragment of a byte a second", shakes: true, next: func(n int) []byte {
		op := ws.OpContinuation
		if n == 0 {
			op = ws.OpText
		}
		return append(maskedHeader(op, false, 1), 'a')
	}},
	"deaf": {name: "deaf", about: fmt.Sprintf("%d bytes to be echoed a second, and reads nothing", deafMessage), shakes: true, deaf: true, next: func(int) []byte {
		return deafFrame
	}},
}

var deafFrame = append(maskedHeader(ws.OpText, true, deafMessage), make([]byte, deafMessage)...) // of NULs, as the mask has it

// maskedHeader is the head of a frame that is masked with 0, so that its payload
// stands as it is.
func maskedHeader(op ws.OpCode, fin bool, size int) []byte {
	b := []byte{byte(op), 0x80}
	if fin {
		b[0] |= 0x80
	}
	if size < 126 {
		b[1] |= byte(size)
	} else {
		b[1] |= 126
		b = binary.BigEndian.AppendUint16(b, uint16(size))
	}
	return append(b, 0, 0, 0, 0)
}

// hostiles are a process of clients that behave in one manner, each once a
// second at a moment of its own. Who is thrown out comes again.
type hostiles struct {
	manner
	addr  string
	login *grpc.ClientConn
	dial  dialer

	tokens chan string
	gone   chan int // members without a connection
	stop   context.CancelFunc
	work   sync.WaitGroup
	open   atomic.Int64
	ended  atomic.Int64 // connections that the node has ended

	turnedAway atomic.Int64 // that it has not let in

	mu      sync.Mutex // guards failed
	failed  error
	members []member
}

// member is one client; its fields are its owner's, who is whoever took it from
// gone, or the loop while it is open.
type member struct {
	fd   atomic.Int32 // or 0
	sent int
	rest []byte // of what was sent last, that the kernel did not take
}

func serveHostile(sp spec) (*server, error) {
	config, err := clientTLS(sp.Keys, "login")
	if err != nil {
		return nil, err
	}
	h := &hostiles{}
	if h.login, err = grpc.NewClient(sp.Authority, grpc.WithTransportCredentials(credentials.NewTLS(config))); err != nil {
		return nil, err
	}
	return &server{
		do: map[string]func(order) (answer, error){
			"begin": func(o order) (answer, error) { return answer{}, h.begin(o) },
			"state": func(order) (answer, error) { return h.state() },
			"cease": func(order) (answer, error) { h.cease(); return h.state() },
		},
		close: func() error { h.cease(); return h.login.Close() },
	}, nil
}

// hostileShakes is how many connections are made at once.
const hostileShakes = 8

// begin lets o.Count clients come to o.Visitors.Addr and behave as o.Manner.
func (h *hostiles) begin(o order) error {
	m, ok := manners[o.Manner]
	if !ok {
		return fmt.Errorf("no manner is called %q", o.Manner)
	}
	ctx, stop := context.WithCancel(context.Background())
	h.manner, h.addr, h.stop = m, o.Visitors.Addr, stop
	h.members, h.gone, h.tokens = make([]member, o.Count), make(chan int, o.Count), make(chan string, 256)
	h.open.Store(0)
	h.ended.Store(0)
	h.turnedAway.Store(0)
	h.dial = dialPlain(h.addr)
	if m.deaf {
		d := net.Dialer{KeepAlive: noKeepAlive, Control: narrow}
		h.dial = func() (net.Conn, error) { return d.Dial("tcp", h.addr) }
	}
	for i := range h.members {
		h.gone <- i
	}
	for range hostileShakes {
		h.work.Go(func() { h.connect(ctx) })
	}
	if m.shakes {
		h.work.Go(func() { h.issue(ctx) })
	}
	h.work.Go(func() { h.behave(ctx) })
	return nil
}

// narrow makes a connection's packets as small as on ethernet, and its window.
func narrow(_, _ string, c syscall.RawConn) error {
	var err error
	e := c.Control(func(fd uintptr) {
		err = errors.Join(unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, 1448), unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096))
	})
	return errors.Join(e, err)
}

func (h *hostiles) fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failed == nil {
		h.failed = err
	}
}

func (h *hostiles) state() (answer, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return answer{Count: h.open.Load(), Ended: h.ended.Load(), TurnedAway: h.turnedAway.Load()}, h.failed
}

// cease ends all connections.
func (h *hostiles) cease() {
	if h.stop == nil {
		return
	}
	h.stop()
	h.work.Wait()
	for i := range h.members {
		if fd := int(h.members[i].fd.Load()); fd != 0 {
			_ = unix.Close(fd) // who never reads leaves the kernel something to reset for
		}
	}
	h.members, h.stop = nil, nil
	h.open.Store(0)
}

// issue keeps tokens ready.
func (h *hostiles) issue(ctx context.Context) {
	api := pb.NewTokenServiceClient(h.login)
	for ctx.Err() == nil {
		req := &pb.IssueTokensRequest{}
		for range 64 {
			r := issueRequest(rand.N(1 << 24))
			r.ClientIp, r.UserAgent, r.Ttl = "127.0.0.1", []byte(userAgents[0]), ttl
			req.Requests = append(req.Requests, r)
		}
		resp, err := api.IssueTokens(ctx, req)
		if err != nil {
			if ctx.Err() == nil {
				h.fail(err)
			}
			return
		}
		for _, r := range resp.GetResults() {
			select {
			case h.tokens <- r.GetToken().GetToken():
			case <-ctx.Done():
				return
			}
		}
	}
}

// connect gives connections to members that have none.
func (h *hostiles) connect(ctx context.Context) {
	for {
		select {
		case i := <-h.gone:
			fd, err := h.connectOne(ctx)
			if ctx.Err() != nil {
				if fd > 0 {
					_ = unix.Close(fd)
				}
				return
			}
			if err != nil { // the node is busy, or has no room
				h.turnedAway.Add(1)
				h.gone <- i
				select {
				case <-time.After(100 * time.Millisecond):
				case <-ctx.Done():
				}
				continue
			}
			h.members[i].sent, h.members[i].rest = 0, nil
			h.open.Add(1)
			h.members[i].fd.Store(int32(fd))
		case <-ctx.Done():
			return
		}
	}
}

func (h *hostiles) connectOne(ctx context.Context) (int, error) {
	var c net.Conn
	var err error
	if !h.shakes {
		c, err = h.dial()
	} else {
		select {
		case token := <-h.tokens:
			c, err = shakeHands(h.dial, token)
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close() }() // its duplicate stays
	return duplicate(c)
}

// behave has each member send what it does, once a second, and notices who was
// thrown out.
func (h *hostiles) behave(ctx context.Context) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	began := time.Now()
	next := 0 // member whose turn it is, counted on over the seconds
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		due := int(time.Since(began).Seconds() * float64(len(h.members)))
		for ; next < due; next++ {
			i := next % len(h.members)
			m := &h.members[i]
			fd := int(m.fd.Load())
			if fd == 0 {
				continue
			}
			if len(m.rest) == 0 {
				m.rest = h.next(m.sent)
				m.sent++
			}
			n, err := unix.Write(fd, m.rest)
			if err == nil || err == unix.EAGAIN || err == unix.EINTR {
				m.rest = m.rest[max(n, 0):]
				continue
			}
			_ = unix.Close(fd)
			m.fd.Store(0)
			h.open.Add(-1)
			h.ended.Add(1)
			h.gone <- i
		}
	}
}
