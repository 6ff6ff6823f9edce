package authority

import (
	"context"
	"errors"
	"io"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
)

// redeemWindow is how many batches of one stream are under way at once.
const redeemWindow = 16

// Redeem implements NodeService. Batches are decided side by side, so that one
// commit takes many, and answered in their order.
func (s *Service) Redeem(stream pb.NodeService_RedeemServer) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	instance, err := s.openRedeem(stream, callerFrom(ctx))
	if err != nil {
		return err
	}
	pending := make(chan chan *pb.RedeemResponse, redeemWindow)
	read := make(chan error, 1)
	s.streams.Go(func() { // ends when the stream does: Recv fails then
		defer close(pending)
		err := s.takeBatches(ctx, cancel, stream, instance, pending)
		read <- err
		if err != nil {
			cancel(err)
		}
	})
	if err = sendInOrder(ctx, stream, pending); err == nil {
		err = context.Cause(ctx) // nil too where the node closed its side
	}
	return firstCause(err, read)
}

// sendInOrder sends answers as they come, until there are no more.
func sendInOrder(ctx context.Context, stream pb.NodeService_RedeemServer, pending <-chan chan *pb.RedeemResponse) error {
	for {
		var answer chan *pb.RedeemResponse
		select {
		case next, more := <-pending:
			if !more {
				return nil
			}
			answer = next
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		select {
		case resp := <-answer:
			if err := stream.Send(resp); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// firstCause is why a stream has ended: if grpc has ended it, then what the
// goroutine that reads it was told, and that goroutine ends too.
func firstCause(err error, read <-chan error) error {
	if errors.Is(err, context.Canceled) {
		if told := <-read; told != nil {
			return told
		}
	}
	return err
}

// takeBatches starts to decide each batch that comes, and hands on where its
// answer will be, until the node closes its side.
func (s *Service) takeBatches(ctx context.Context, cancel context.CancelCauseFunc, stream pb.NodeService_RedeemServer, instance storage.InstanceID, pending chan<- chan *pb.RedeemResponse) error {
	c := callerFrom(ctx)
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if n := len(req.GetItems()); n == 0 || n > maxBatch || req.GetHello() != nil {
			return invalid("items", "%d are outside 1 to %d, or came with a second hello", n, maxBatch)
		}
		answer := make(chan *pb.RedeemResponse, 1)
		select {
		case pending <- answer:
		case <-ctx.Done():
			return nil
		}
		s.streams.Go(func() { // ends when the batch is decided, whatever ctx does
			var err error
			defer func() {
				if err != nil {
					cancel(err)
				}
			}()
			defer s.recoverPanic(ctx, pb.NodeService_Redeem_FullMethodName, &err)
			var resp *pb.RedeemResponse
			if resp, err = s.redeemBatch(s.carried(ctx), c, instance, req.GetItems()); err == nil {
				answer <- resp
			}
		})
	}
}

func (s *Service) openRedeem(stream pb.NodeService_RedeemServer, c *caller) (storage.InstanceID, error) {
	req, err := stream.Recv()
	if err != nil {
		return storage.InstanceID{}, noHello(err)
	}
	if req.GetHello() == nil || len(req.GetItems()) != 0 {
		return storage.InstanceID{}, invalid("hello", "required in the first message, which has no items")
	}
	if err := checkHello(req.GetHello().GetHello()); err != nil {
		return storage.InstanceID{}, err
	}
	id, err := bytes16("hello.instance_id", req.GetHello().GetInstanceId())
	if err != nil {
		return id, err
	}
	if !s.fleet.registered(id, c.Name) {
		return id, errNotAttached
	}
	return id, stream.Send(&pb.RedeemResponse{Hello: hello()})
}
