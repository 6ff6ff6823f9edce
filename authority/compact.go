package authority

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
)

// compactTold is how often the caller of Compact is told how far it is.
const compactTold = 250 * time.Millisecond

// Compact implements MaintenanceService.
func (s *Service) Compact(_ *pb.CompactRequest, stream pb.MaintenanceService_CompactServer) error {
	if s.compact == nil {
		return status.Error(codes.Unimplemented, "the store of this authority can't be compacted")
	}
	ctx := stream.Context()
	select {
	case s.maintains <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	var far atomic.Pointer[pb.CompactProgress]
	var out storage.Compacted
	done := make(chan error, 1)
	s.streams.Go(func() { // ends by itself: the store waits for no caller
		defer func() { <-s.maintains }()
		var err error
		defer func() { done <- err }()
		defer s.recoverPanic(ctx, pb.MaintenanceService_Compact_FullMethodName, &err)
		out, err = s.compact(ctx, func(written, atMost int64) {
			far.Store(&pb.CompactProgress{Written: uint64(written), AtMost: uint64(atMost)})
		})
		if err == nil { // its caller may have gone
			s.log.Info("store compacted", "before", out.Before, "after", out.After, "caller", callerFrom(ctx).Name)
		}
	})
	tick := time.NewTicker(compactTold)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			if errors.Is(err, errors.ErrUnsupported) {
				return status.Error(codes.Unimplemented, "this system can't replace a file that is open: stop the authority, and use gatehouse-authority compact")
			}
			if err != nil {
				return err
			}
			note(ctx, slog.Int64("before", out.Before), slog.Int64("after", out.After))
			return stream.Send(&pb.CompactResponse{Part: &pb.CompactResponse_Ended{Ended: &pb.CompactEnded{Before: uint64(out.Before), After: uint64(out.After)}}})
		case <-tick.C:
			p := far.Swap(nil)
			if p == nil {
				continue
			}
			if err := stream.Send(&pb.CompactResponse{Part: &pb.CompactResponse_Progress{Progress: p}}); err != nil {
				return err
			}
		}
	}
}
