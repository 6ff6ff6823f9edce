package authority

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
)

// ForgetNode implements SessionService.
func (s *Service) ForgetNode(ctx context.Context, req *pb.ForgetNodeRequest) (*pb.ForgetNodeResponse, error) {
	id, err := id16("instance_id", req.GetInstanceId())
	if err != nil {
		return nil, err
	}
	if err := why(req.GetReason(), true); err != nil {
		return nil, err
	}
	note(ctx, slog.String("instance_id", req.GetInstanceId()), slog.String("reason", req.GetReason()), slog.Bool("dry_run", req.GetDryRun()))
	admissions := releaseAfter(s.cfg.Fleet.AdmissionFence)
	i, err := s.fleet.lost(id, admissions, s.now())
	if err != nil {
		return nil, err
	}
	note(ctx, slog.String("node", i.Node))
	described, err := s.nodeOf(ctx, &i)
	if err != nil {
		return nil, err
	}
	resp := &pb.ForgetNodeResponse{Node: described}
	if req.GetDryRun() {
		return resp, nil
	}
	by := callerFrom(ctx).Name
	still := func() bool { // it may have come back meanwhile, or be released
		_, err = s.fleet.lost(id, admissions, s.now())
		return err == nil
	}
	if failed := s.removeInstance(i.Instance, still, by, "forgotten by "+by); failed != nil {
		return nil, failed
	}
	return resp, err
}

// lost is an instance that may be forgotten: it is silent for longer than
// admissions, and has no fence that ends its sockets.
func (f *fleet) lost(id storage.InstanceID, admissions time.Duration, now time.Time) (instance, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := f.instances[id]
	if i == nil {
		return instance{}, notFound("no node instance is registered under this id; one that was is released already")
	}
	silent := now.Sub(i.silentSince)
	switch {
	case i.attachment != nil:
		return *i, fmt.Errorf("instance of %s is attached: stop its process, or disable its credential (%w)", i.Node, errAlive)
	case silent <= admissions:
		return *i, fmt.Errorf("instance of %s was there %v ago, and may admit sockets for another %v: try again then (%w)",
			i.Node, silent.Round(time.Millisecond), (admissions - silent).Round(time.Millisecond), errAlive)
	case i.SessionFence != storage.NoFence:
		left := max(releaseAfter(i.SocketLife)-silent, 0)
		return *i, fmt.Errorf("instance of %s ends its sockets at its session fence, and is released by itself in %v: no word of an admin is needed (%w)",
			i.Node, left.Round(time.Millisecond), errAlive)
	}
	return *i, nil
}
