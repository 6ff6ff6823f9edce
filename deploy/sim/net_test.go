package sim

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// server is an authority's process as the network sees it: what grpc.Server
// does, without bytes.
type server struct {
	unary   grpc.UnaryServerInterceptor
	stream  grpc.StreamServerInterceptor
	methods map[string]method
	ctx     context.Context // ends when the process does
	calls   sync.WaitGroup
}

type method struct {
	impl   any
	unary  *grpc.MethodDesc
	stream *grpc.StreamDesc
}

// RegisterService implements grpc.ServiceRegistrar.
func (s *server) RegisterService(desc *grpc.ServiceDesc, impl any) {
	for i := range desc.Methods {
		s.methods["/"+desc.ServiceName+"/"+desc.Methods[i].MethodName] = method{impl: impl, unary: &desc.Methods[i]}
	}
	for i := range desc.Streams {
		s.methods["/"+desc.ServiceName+"/"+desc.Streams[i].StreamName] = method{impl: impl, stream: &desc.Streams[i]}
	}
}

var errCut = status.Error(codes.Unavailable, "connection lost")

// link is one machine's connection to the authority: a grpc.ClientConnInterface
// whose messages take their time, wait while the network is partitioned, and
// are lost when the connection is. As with TCP, those of one stream and
// direction stay in order, whatever those of others do.
type link struct {
	w      *world
	name   string // of the caller's credential
	number int
	cert   *x509.Certificate
	tap    func(proto.Message) // sees, and may change, what the node is about to get; may be nil
	hears  func(proto.Message) // sees what the node sends; may be nil

	mu      sync.Mutex
	held    [2]bool                  // by direction: partitioned
	gate    func(proto.Message) bool // holds single messages from the authority, and what comes after them; may be nil
	stuck   func(proto.Message) bool // holds single messages, and what comes after them overtakes; may be nil
	beat    uint64                   // the newest heartbeat that was sent
	streams map[*stream]struct{}
}

// Directions.
const (
	up   = iota // to the authority
	down        // from it
)

func (w *world) newLink(name string) *link {
	return &link{w: w, name: name, number: len(w.nodes), cert: installed().certificates[name], streams: map[*stream]struct{}{}}
}

// close holds messages from the authority that gate tells, until it is opened by
// nil.
func (l *link) close(gate func(proto.Message) bool) {
	l.mu.Lock()
	l.gate = gate
	held := l.held
	l.mu.Unlock()
	l.hold(held[up], held[down])
}

// stick holds messages from the authority that stuck tells, until it is called
// with nil: as if the node had read them and its loops did not get to them.
func (l *link) stick(stuck func(proto.Message) bool) {
	l.mu.Lock()
	l.stuck = stuck
	held := l.held
	l.mu.Unlock()
	l.hold(held[up], held[down])
}

// next is the place of the item of a pipe that is the next to arrive; that of
// the end comes last.
func (l *link) next(items []item) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range items {
		if l.stuck == nil || items[i].end == nil && !l.stuck(items[i].msg) {
			return i
		}
	}
	return len(items)
}

// closed reports whether the gate holds a message.
func (l *link) closed(m proto.Message) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.gate != nil && m != nil && l.gate(m)
}

// hold partitions directions, or heals them.
func (l *link) hold(toAuthority, fromAuthority bool) {
	l.mu.Lock()
	l.held = [2]bool{toAuthority, fromAuthority}
	streams := l.all()
	l.mu.Unlock()
	for _, s := range streams {
		s.pipes[up].wake()
		s.pipes[down].wake()
	}
}

func (l *link) holds(direction int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held[direction]
}

// all lists the streams in the order in which they began; mu is locked.
func (l *link) all() []*stream {
	out := make([]*stream, 0, len(l.streams))
	for s := range l.streams {
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b *stream) int { return a.number - b.number })
	return out
}

// cut loses the connection: both sides find out, each in its time, and what is
// under way is lost.
func (l *link) cut() {
	l.mu.Lock()
	streams := l.all()
	l.mu.Unlock()
	for _, s := range streams {
		s.cut()
	}
}

// stream is one call.
type stream struct {
	l       *link
	number  int // of the link's, in the order of their beginning
	method  string
	ctx     context.Context // the caller's
	pipes   [2]*pipe
	cancel  context.CancelFunc // of the handler's context
	closing sync.Once
}

// pipe is one direction of a stream.
type pipe struct {
	l         *link
	direction int

	mu sync.Mutex // guards what follows
	*chances
	items   []item
	last    time.Time // when the newest arrives
	err     error     // the end, after items; nil while there is none
	changed chan struct{}
}

type item struct {
	at  time.Time
	msg proto.Message
	end error // instead of a message
}

func newPipe(l *link, method string, direction int) *pipe {
	c := l.w.chancesOf(fmt.Sprint(l.name, " ", l.number, " ", method, " ", direction))
	return &pipe{l: l, direction: direction, chances: c, changed: make(chan struct{})}
}

func (p *pipe) wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.changed)
	p.changed = make(chan struct{})
}

// push sends a message, or the end of the stream.
func (p *pipe) push(msg proto.Message, end error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := time.Now().Add(p.delay())
	if !at.After(p.last) {
		at = p.last.Add(1)
	}
	p.last = at
	p.items = append(p.items, item{at, msg, end})
	close(p.changed)
	p.changed = make(chan struct{})
}

// fail ends the pipe at once, and loses what is under way.
func (p *pipe) fail(err error) {
	p.mu.Lock()
	if p.err == nil {
		p.err, p.items = err, nil
	}
	p.mu.Unlock()
	p.wake()
}

// pull waits for the next message.
func (p *pipe) pull(ctx context.Context) (proto.Message, error) {
	for {
		p.mu.Lock()
		err, changed := p.err, p.changed
		var wait time.Duration = -1
		next := 0
		if p.direction == down {
			next = p.l.next(p.items)
		}
		if err == nil && next < len(p.items) && !p.l.holds(p.direction) && !(p.direction == down && p.l.closed(p.items[next].msg)) {
			if wait = time.Until(p.items[next].at); wait <= 0 {
				it := p.items[next]
				p.items = slices.Delete(p.items, next, next+1)
				if it.end != nil {
					p.err = it.end
				}
				p.mu.Unlock()
				return it.msg, it.end
			}
		}
		p.mu.Unlock()
		if err != nil {
			return nil, err
		}
		var timer <-chan time.Time
		if wait > 0 {
			timer = time.After(wait)
		}
		select {
		case <-changed:
		case <-timer:
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
}

// begin starts a call, whose handler runs once the network has told the
// authority of it.
func (l *link) begin(ctx context.Context, name string) (*stream, error) {
	if err := ctx.Err(); err != nil {
		return nil, status.FromContextError(err).Err()
	}
	s := &stream{l: l, number: l.w.nextNumber(), method: name, ctx: ctx}
	s.pipes = [2]*pipe{newPipe(l, name, up), newPipe(l, name, down)}
	srv := l.w.server()
	if srv == nil {
		return nil, status.Error(codes.Unavailable, "connection refused")
	}
	serverCtx, cancel := context.WithCancel(srv.ctx)
	s.cancel = cancel
	l.mu.Lock()
	l.streams[s] = struct{}{}
	l.mu.Unlock()
	stop := context.AfterFunc(srv.ctx, s.cut) // the process is gone
	context.AfterFunc(ctx, func() { s.pipes[up].push(nil, context.Canceled) })
	info := credentials.TLSInfo{State: tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{l.cert, installed().ca}}}}
	serverCtx = peer.NewContext(serverCtx, &peer.Peer{Addr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1}, AuthInfo: info})
	serverCtx = metadata.NewIncomingContext(serverCtx, nil)
	srv.calls.Go(func() {
		defer stop()
		s.serve(srv, serverCtx)
		l.mu.Lock()
		delete(l.streams, s)
		l.mu.Unlock()
	})
	return s, nil
}

// serve runs the handler, once the first message or the end has come.
func (s *stream) serve(srv *server, ctx context.Context) {
	defer s.cancel()
	m, ok := srv.methods[s.method]
	if !ok {
		s.pipes[down].push(nil, status.Error(codes.Unimplemented, s.method))
		return
	}
	first, err := s.pipes[up].pull(ctx)
	if err != nil && !errors.Is(err, io.EOF) {
		s.cut() // the call was given up, or lost, before it came
		return
	}
	side := &serverSide{stream: s, ctx: ctx, first: first, firstErr: err}
	if m.unary != nil {
		resp, err := m.unary.Handler(m.impl, ctx, func(into any) error {
			proto.Merge(into.(proto.Message), first)
			return nil
		}, srv.unary)
		if err == nil {
			s.pipes[down].push(proto.Clone(resp.(proto.Message)), nil)
		}
		s.pipes[down].push(nil, endOf(err))
		return
	}
	err = srv.stream(m.impl, side, &grpc.StreamServerInfo{FullMethod: s.method, IsClientStream: m.stream.ClientStreams, IsServerStream: m.stream.ServerStreams}, m.stream.Handler)
	s.pipes[down].push(nil, endOf(err))
}

func endOf(err error) error {
	if err == nil {
		return io.EOF
	}
	return status.Convert(err).Err()
}

// cut loses the connection. The authority's side finds out at once, the caller's
// when the network tells it, or by its keepalive where that is partitioned.
func (s *stream) cut() {
	s.closing.Do(func() {
		s.pipes[up].fail(errCut)
		s.cancel()
		s.pipes[down].mu.Lock()
		after := s.pipes[down].delay()
		s.pipes[down].mu.Unlock()
		if s.l.holds(down) {
			after = keepalive
		}
		time.AfterFunc(after, func() { s.pipes[down].fail(errCut) })
	})
}

// keepalive is how long a caller takes to notice that nothing comes any more.
const keepalive = 15 * time.Second

type serverSide struct {
	grpc.ServerStream // nil: what handlers do not use
	*stream
	ctx      context.Context
	first    proto.Message
	firstErr error
	taken    bool
}

func (s *serverSide) Context() context.Context { return s.ctx }

func (s *serverSide) SendMsg(m any) error {
	if s.ctx.Err() != nil {
		return status.FromContextError(s.ctx.Err()).Err()
	}
	s.pipes[down].push(proto.Clone(m.(proto.Message)), nil)
	return nil
}

func (s *serverSide) RecvMsg(m any) error {
	msg, err := s.first, s.firstErr
	if s.taken {
		msg, err = s.pipes[up].pull(s.ctx)
	}
	s.taken = true
	if err != nil {
		if errors.Is(err, context.Canceled) || errors.Is(err, errCut) {
			s.cancel()
			err = status.Error(codes.Canceled, "context canceled")
		}
		return err
	}
	proto.Merge(m.(proto.Message), msg)
	return nil
}

type clientSide struct {
	grpc.ClientStream // nil: what callers do not use
	*stream
}

func (c *clientSide) Context() context.Context { return c.ctx }

func (c *clientSide) CloseSend() error {
	c.pipes[up].push(nil, io.EOF)
	return nil
}

func (c *clientSide) SendMsg(m any) error {
	c.pipes[down].mu.Lock()
	ended := c.pipes[down].err != nil
	c.pipes[down].mu.Unlock()
	if ended || c.ctx.Err() != nil {
		return io.EOF // RecvMsg tells why
	}
	if c.l.hears != nil {
		c.l.hears(m.(proto.Message))
	}
	if r, ok := m.(*pb.AttachRequest); ok && r.GetHeartbeat() != nil {
		c.l.mu.Lock()
		c.l.beat = r.GetHeartbeat().GetSequence()
		c.l.mu.Unlock()
	}
	c.pipes[up].push(proto.Clone(m.(proto.Message)), nil)
	return nil
}

func (c *clientSide) RecvMsg(m any) error {
	msg, err := c.pipes[down].pull(c.ctx)
	if err != nil {
		return err
	}
	if c.l.tap != nil {
		c.l.tap(msg)
	}
	proto.Merge(m.(proto.Message), msg)
	return nil
}

// NewStream implements grpc.ClientConnInterface.
func (l *link) NewStream(ctx context.Context, _ *grpc.StreamDesc, method string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := l.begin(ctx, method)
	if err != nil {
		return nil, err
	}
	return &clientSide{stream: s}, nil
}

// Invoke implements grpc.ClientConnInterface.
func (l *link) Invoke(ctx context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	s, err := l.begin(ctx, method)
	if err != nil {
		return err
	}
	c := &clientSide{stream: s}
	_ = c.SendMsg(args) // RecvMsg tells
	return c.RecvMsg(reply)
}
