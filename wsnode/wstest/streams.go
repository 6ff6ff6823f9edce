package wstest

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// wait waits for the next change, unless ctx ends before.
func wait(ctx context.Context, changed <-chan struct{}) error {
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}

// pass waits until a gate is open. breaks is how often streams had been ended
// when this one began.
func (a *Authority) pass(ctx context.Context, g Gate, breaks int) error {
	for {
		a.mu.Lock()
		held, broken, changed := a.held[g], a.broken, a.changed
		ended := a.breaks != breaks
		a.mu.Unlock()
		switch {
		case ended:
			return broken
		case !held:
			return nil
		}
		if err := wait(ctx, changed); err != nil {
			return err
		}
	}
}

// begin starts a call, or fails it.
func (a *Authority) begin() (breaks int, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.breaks, a.down
}

// inOrder is the result of a method that ended with err.
func inOrder(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// Attach implements pb.NodeServiceServer.
func (a *Authority) Attach(stream pb.NodeService_AttachServer) error {
	return inOrder(a.attach(stream))
}

func (a *Authority) attach(stream pb.NodeService_AttachServer) error {
	breaks, err := a.begin()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	hello := first.GetHello()
	a.locked(func() { a.seen.Hellos = append(a.seen.Hellos, hello) })
	if err := a.pass(ctx, Welcomes, breaks); err != nil {
		return err
	}
	f := &feed{a: a, stream: stream, breaks: breaks, beats: make(chan uint64, 1024)}
	a.mu.Lock()
	welcome := f.welcome(hello)
	a.mu.Unlock()
	if err := stream.Send(welcome); err != nil {
		return err
	}
	go func() { cancel(f.listen()) }() // ends when the stream does
	for {
		messages, changed, err := f.next()
		if err != nil {
			return err
		}
		for _, m := range messages {
			if err := stream.Send(m); err != nil {
				return err
			}
		}
		if len(messages) > 0 {
			continue
		}
		if err := wait(ctx, changed); err != nil {
			if errors.Is(context.Cause(ctx), io.EOF) { // a goodbye
				err = io.EOF
			}
			return err
		}
	}
}

// feed is what one attached node is sent. Its fields but beats are Attach's.
type feed struct {
	a      *Authority
	stream pb.NodeService_AttachServer
	breaks int
	after  uint64      // entries above it are to be sent
	pushed int         // of the pushed messages, how many are sent
	locks  bool        // the snapshot's locks are to be sent
	beats  chan uint64 // heartbeats without an answer
}

func (f *feed) welcome(hello *pb.AttachHello) *pb.AttachResponse {
	a := f.a
	applied := hello.GetApplied()
	snapshot := applied.GetEpoch() != a.epoch || applied.GetSequence() > uint64(len(a.log)) || applied.GetSequence() < a.dropped
	f.pushed = len(a.pushed)
	f.after = applied.GetSequence()
	if f.locks = snapshot; snapshot {
		f.after = a.dropped
	}
	return &pb.AttachResponse{Message: &pb.AttachResponse_Welcome{Welcome: &pb.AttachWelcome{
		Hello: &pb.Hello{Version: pb.Version, Features: a.Features}, Head: a.head(), Snapshot: snapshot, Time: timestamppb.Now(),
		HeartbeatInterval: durationpb.New(a.HeartbeatInterval), AdmissionFence: durationpb.New(a.AdmissionFence),
		SessionFence: durationpb.New(a.SessionFence), SocketLife: durationpb.New(a.SocketLife), RetryAfter: durationpb.New(a.RetryAfter),
		EdgeKeys: &pb.EdgeKeys{Keys: []*pb.EdgeKey{{KeyId: uint32(a.key.ID), Key: a.key.Key[:]}}},
	}}}
}

// next is what is to be sent now, or a channel to wait on.
func (f *feed) next() (out []*pb.AttachResponse, changed <-chan struct{}, err error) {
	a := f.a
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.breaks != f.breaks {
		return nil, nil, a.broken
	}
	if f.locks && !a.held[Entries] {
		f.locks = false
		m := &pb.Entries{Through: &pb.Revision{Epoch: a.epoch, Sequence: f.after}}
		for _, l := range a.locks {
			m.Locks = append(m.Locks, l)
		}
		out = append(out, &pb.AttachResponse{Message: &pb.AttachResponse_Entries{Entries: m}})
	}
	if head := uint64(len(a.log)); head > f.after && !a.held[Entries] {
		out = append(out, &pb.AttachResponse{Message: &pb.AttachResponse_Entries{Entries: &pb.Entries{
			Entries: a.log[f.after:head:head], Through: a.head(),
		}}})
		f.after = head
	}
	for ; f.pushed < len(a.pushed); f.pushed++ {
		out = append(out, a.pushed[f.pushed])
	}
	for len(f.beats) > 0 && !a.held[Heartbeats] {
		out = append(out, &pb.AttachResponse{Message: &pb.AttachResponse_Heartbeat{Heartbeat: &pb.HeartbeatAnswer{
			Sequence: <-f.beats, Head: a.head(), Time: timestamppb.Now(), Acknowledged: a.acknowledged(), Pending: a.pending,
		}}})
	}
	return out, a.changed, nil
}

// listen writes down what the node says until the stream ends, and returns
// io.EOF for a goodbye.
func (f *feed) listen() error {
	for {
		m, err := f.stream.Recv()
		if err != nil {
			return err
		}
		f.a.locked(func() {
			seen := &f.a.seen
			switch m := m.GetMessage().(type) {
			case *pb.AttachRequest_Heartbeat:
				seen.Heartbeats = append(seen.Heartbeats, m.Heartbeat)
				f.beats <- m.Heartbeat.GetSequence()
			case *pb.AttachRequest_Acknowledgement:
				seen.Acknowledgements = append(seen.Acknowledgements, m.Acknowledgement)
			case *pb.AttachRequest_Goodbye:
				seen.Goodbyes++
				err = io.EOF
			}
		})
		if err != nil {
			return err
		}
	}
}

// Redeem implements pb.NodeServiceServer.
func (a *Authority) Redeem(stream pb.NodeService_RedeemServer) error {
	return inOrder(a.serveRedeem(stream))
}

func (a *Authority) serveRedeem(stream pb.NodeService_RedeemServer) error {
	breaks, err := a.begin()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	if _, err := stream.Recv(); err != nil {
		return err
	}
	if err := a.pass(ctx, RedeemHellos, breaks); err != nil {
		return err
	}
	if err := stream.Send(&pb.RedeemResponse{Hello: &pb.Hello{Version: pb.Version}}); err != nil {
		return err
	}
	requests := make(chan *pb.RedeemRequest, 1024)
	go func() { // ends when the stream does
		defer close(requests)
		for {
			req, err := stream.Recv()
			if err != nil {
				return
			}
			a.locked(func() {
				a.seen.Redeems = append(a.seen.Redeems, req.GetItems()...)
				a.seen.Requests++
			})
			requests <- req
		}
	}()
	for {
		a.mu.Lock()
		ended, changed := a.breaks != breaks, a.changed
		a.mu.Unlock()
		var req *pb.RedeemRequest
		if !ended {
			var ok bool
			select {
			case req, ok = <-requests:
				if !ok {
					return nil
				}
			case <-changed:
				continue
			}
		}
		if err := a.pass(ctx, Redemptions, breaks); err != nil {
			return err
		}
		for i, item := range req.GetItems() {
			if err := check(item); err != nil {
				return status.Errorf(codes.InvalidArgument, "items[%d].%v", i, err)
			}
		}
		resp := &pb.RedeemResponse{}
		a.locked(func() {
			for _, item := range req.GetItems() {
				resp.Results = append(resp.Results, a.redeem(item))
			}
		})
		if err := stream.Send(resp); err != nil {
			return err
		}
	}
}

// ReportSessions implements pb.NodeServiceServer.
func (a *Authority) ReportSessions(ctx context.Context, req *pb.ReportSessionsRequest) (*pb.ReportSessionsResponse, error) {
	breaks, err := a.begin()
	if err != nil {
		return nil, err
	}
	if err := a.pass(ctx, Reports, breaks); err != nil {
		return nil, err
	}
	a.locked(func() {
		a.seen.Ended = append(a.seen.Ended, req.GetEnded()...)
		for _, e := range req.GetEnded() {
			if s := a.sessions[[16]byte(e.GetSessionId())]; s != nil {
				s.Reports = append(s.Reports, e.GetReason())
			}
		}
	})
	return &pb.ReportSessionsResponse{}, nil
}

var _ pb.NodeServiceServer = (*Authority)(nil)

// Client calls the authority within the process, so that both may run in a
// bubble of testing/synctest.
func (a *Authority) Client() pb.NodeServiceClient { return memoryClient{a} }

type memoryClient struct{ a *Authority }

func (c memoryClient) Attach(ctx context.Context, _ ...grpc.CallOption) (pb.NodeService_AttachClient, error) {
	return call(ctx, c.a.Attach), nil
}

func (c memoryClient) Redeem(ctx context.Context, _ ...grpc.CallOption) (pb.NodeService_RedeemClient, error) {
	return call(ctx, c.a.Redeem), nil
}

func (c memoryClient) ReportSessions(ctx context.Context, in *pb.ReportSessionsRequest, _ ...grpc.CallOption) (*pb.ReportSessionsResponse, error) {
	return c.a.ReportSessions(ctx, in)
}

// stream is both sides of a bidirectional stream.
type stream[Req, Res any] struct {
	client context.Context
	server context.Context // ends with client's, or when the server has returned
	up     chan *Req
	down   chan *Res
	done   chan struct{} // closed when the server has returned
	err    error         // that it returned, or io.EOF
}

// call runs a server's method for a client.
func call[Req, Res any](ctx context.Context, serve func(grpc.BidiStreamingServer[Req, Res]) error) grpc.BidiStreamingClient[Req, Res] {
	server, cancel := context.WithCancel(ctx)
	s := &stream[Req, Res]{client: ctx, server: server, up: make(chan *Req, 64), down: make(chan *Res, 64), done: make(chan struct{})}
	go func() {
		defer cancel()
		defer close(s.done)
		if s.err = serve(&serverSide[Req, Res]{stream: s}); s.err == nil {
			s.err = io.EOF
		}
	}()
	return &clientSide[Req, Res]{stream: s}
}

// overTheWire is m as the other side gets it: of what either keeps the other knows
// nothing.
func overTheWire[T any](m *T) *T {
	b, err := proto.Marshal(any(m).(proto.Message))
	got := new(T)
	if err == nil {
		err = proto.Unmarshal(b, any(got).(proto.Message))
	}
	if err != nil { // text that is not UTF-8
		panic(fmt.Sprintf("wstest: %T does not pass the wire: %v", m, err))
	}
	return got
}

type clientSide[Req, Res any] struct {
	grpc.ClientStream // nil: what a node does not use
	*stream[Req, Res]
}

func (c *clientSide[Req, Res]) Send(m *Req) error {
	select {
	case <-c.done:
		return io.EOF // Recv has the cause
	default:
	}
	select {
	case c.up <- overTheWire(m):
		return nil
	case <-c.done:
	case <-c.client.Done():
	}
	return io.EOF
}

func (c *clientSide[Req, Res]) Recv() (*Res, error) {
	select {
	case m := <-c.down:
		return m, nil
	case <-c.client.Done():
		return nil, status.FromContextError(c.client.Err()).Err()
	case <-c.done:
	}
	select { // what was sent before the end comes first
	case m := <-c.down:
		return m, nil
	default:
		return nil, c.err
	}
}

type serverSide[Req, Res any] struct {
	grpc.ServerStream // nil: what Authority does not use
	*stream[Req, Res]
}

func (s *serverSide[Req, Res]) Context() context.Context { return s.server }

func (s *serverSide[Req, Res]) Send(m *Res) error {
	select {
	case s.down <- overTheWire(m):
		return nil
	case <-s.server.Done():
		return status.FromContextError(s.server.Err()).Err()
	}
}

func (s *serverSide[Req, Res]) Recv() (*Req, error) {
	select {
	case m := <-s.up:
		return m, nil
	case <-s.server.Done():
		return nil, status.FromContextError(s.server.Err()).Err()
	}
}
