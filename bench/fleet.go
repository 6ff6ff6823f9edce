package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// fleetNode is a node as an authority sees one: it attaches, sends heartbeats
// and acknowledges every entry at once. It has no sockets.
type fleetNode struct {
	id     [16]byte
	stream pb.NodeService_AttachClient
	cancel context.CancelFunc

	follower, beater sync.WaitGroup
	ended            error // why the stream ended, once follower is done

	mu sync.Mutex // guards sending
}

// attachNode registers a node and keeps it attached until leave or cut.
func attachNode(ctx context.Context, conn *grpc.ClientConn) (*fleetNode, error) {
	ctx, cancel := context.WithCancel(ctx)
	n := &fleetNode{cancel: cancel}
	if _, err := rand.Read(n.id[:]); err != nil {
		cancel()
		return nil, err
	}
	welcome, err := n.greet(ctx, conn)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("attach: %w", err)
	}
	n.follower.Go(n.follow)
	n.beater.Go(func() { n.beat(ctx, welcome) })
	return n, nil
}

func (n *fleetNode) greet(ctx context.Context, conn *grpc.ClientConn) (w *pb.AttachWelcome, err error) {
	if n.stream, err = pb.NewNodeServiceClient(conn).Attach(ctx); err != nil {
		return nil, err
	}
	hello := &pb.AttachHello{Hello: &pb.Hello{Version: pb.Version}, InstanceId: n.id[:]}
	if err := n.send(&pb.AttachRequest{Message: &pb.AttachRequest_Hello{Hello: hello}}); err != nil {
		return nil, err
	}
	first, err := n.stream.Recv()
	if err != nil {
		return nil, err
	}
	if w = first.GetWelcome(); w == nil {
		return nil, errors.New("the first message is no welcome")
	}
	return w, nil
}

func (n *fleetNode) send(m *pb.AttachRequest) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.stream.Send(m)
}

// follow acknowledges until the stream ends.
func (n *fleetNode) follow() {
	for {
		msg, err := n.stream.Recv()
		if err != nil {
			n.ended = err
			return
		}
		e := msg.GetEntries()
		if e == nil {
			continue
		}
		ack := &pb.AttachRequest_Acknowledgement{Acknowledgement: &pb.Acknowledgement{Through: e.GetThrough()}}
		if err := n.send(&pb.AttachRequest{Message: ack}); err != nil {
			continue // Recv tells why
		}
	}
}

func (n *fleetNode) beat(ctx context.Context, w *pb.AttachWelcome) {
	tick := time.NewTicker(w.GetHeartbeatInterval().AsDuration())
	defer tick.Stop()
	for seq := uint64(1); ; seq++ {
		beat := &pb.AttachRequest_Heartbeat{Heartbeat: &pb.Heartbeat{Sequence: seq, Applied: &pb.Revision{}}}
		if err := n.send(&pb.AttachRequest{Message: beat}); err != nil {
			return // follow knows why
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// leave says goodbye, so that no receipt waits for this node any more.
func (n *fleetNode) leave() error {
	err := n.send(&pb.AttachRequest{Message: &pb.AttachRequest_Goodbye{Goodbye: &pb.Goodbye{}}})
	timeout := time.AfterFunc(10*time.Second, n.cancel)
	defer timeout.Stop()
	n.follower.Wait()
	n.cut()
	if errors.Is(n.ended, io.EOF) {
		return err
	}
	return errors.Join(err, n.ended)
}

// cut ends the stream as a crash would.
func (n *fleetNode) cut() {
	n.cancel()
	n.follower.Wait()
	n.beater.Wait()
}
