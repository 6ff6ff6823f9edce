package authority

import (
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
)

// ListNodes implements SessionService.
func (s *Service) ListNodes(ctx context.Context, req *pb.ListNodesRequest) (*pb.ListNodesResponse, error) {
	limit, err := pageSize(req.GetPageSize())
	if err != nil {
		return nil, err
	}
	after, err := parseNameToken(req.GetPageToken(), maxName+1+len(storage.InstanceID{}))
	if err != nil {
		return nil, err
	}
	resp := &pb.ListNodesResponse{}
	all := s.fleet.snapshot()
	for n := range all {
		i := &all[n]
		if i.cursor() <= after {
			continue
		}
		if len(resp.Nodes) == limit {
			resp.NextPageToken = pageToken([]byte(all[n-1].cursor()))
			break
		}
		described, err := s.nodeOf(ctx, i)
		if err != nil {
			return nil, err
		}
		resp.Nodes = append(resp.Nodes, described)
	}
	return resp, nil
}

// cursor orders instances by the names of their nodes, none of which has a zero
// byte, then by their ids.
func (i *instance) cursor() string { return i.Node + "\x00" + string(i.ID[:]) }

func (s *Service) nodeOf(ctx context.Context, i *instance) (*pb.Node, error) {
	head, _ := s.store.Head()
	n := &pb.Node{
		Name: i.Node, InstanceId: hex.EncodeToString(i.ID[:]), Attached: i.attachment != nil,
		RegisteredAt: timestamppb.New(i.RegisteredAt), Sessions: i.sessions, Version: i.Version, Address: hostOf(i.Address),
		Behind: i.behind(head),
	}
	if !i.lastHeartbeat.IsZero() {
		n.LastHeartbeatAt = timestamppb.New(i.lastHeartbeat)
	}
	if i.applied != (storage.Revision{}) {
		n.Applied = revisionOf(i.applied)
	}
	var err error
	n.State, err = s.state(ctx, i, head)
	return n, err
}

// state is how an instance stands, with the log through head.
func (s *Service) state(ctx context.Context, i *instance, head storage.Revision) (pb.NodeState, error) {
	now := s.now()
	late := now.Add(-s.cfg.Fleet.HeartbeatInterval)
	switch {
	case i.silent(s.silence(now)):
		return pb.NodeState_NODE_STATE_SILENT, nil
	case i.attachment == nil:
		return pb.NodeState_NODE_STATE_DETACHED, nil
	case i.behind(head) == 0 || !i.attachment.began.Before(late):
		return pb.NodeState_NODE_STATE_ATTACHED, nil
	}
	lacks, err := s.store.Entries(ctx, storage.Revision{Epoch: head.Epoch, Sequence: head.Sequence - i.behind(head)}, 1)
	if err != nil {
		return 0, fmt.Errorf("read entries: %w", err)
	}
	if len(lacks) > 0 && lacks[0].CommittedAt.Before(late) {
		return pb.NodeState_NODE_STATE_BEHIND, nil
	}
	return pb.NodeState_NODE_STATE_ATTACHED, nil
}

// silence is since when nothing is heard of an instance that is silent at now.
func (s *Service) silence(now time.Time) time.Time { return now.Add(-s.cfg.Fleet.AdmissionFence) }

// silent reports whether nothing was heard of an instance since then.
func (i *instance) silent(since time.Time) bool { return i.silentSince.Before(since) }

// behind is how many entries of the log through head an instance has not enforced.
func (i *instance) behind(head storage.Revision) uint64 {
	if i.applied.Epoch != head.Epoch {
		return head.Sequence
	}
	return head.Sequence - min(i.applied.Sequence, head.Sequence)
}

// tellSilence logs which instances have fallen silent, and which are heard again.
func (s *Service) tellSilence(now time.Time) {
	for _, i := range s.fleet.turned(s.silence(now)) {
		id := hex.EncodeToString(i.ID[:])
		if i.toldSilent {
			s.log.Warn("node is silent for longer than the admission fence", "node", i.Node, "instance", id, "attached", i.attachment != nil, "silence", now.Sub(i.silentSince))
		} else {
			s.log.Info("node is heard again", "node", i.Node, "instance", id)
		}
	}
}

// turned lists the instances that are silent and were not told to be, or the other
// way round, and notes that they are told.
func (f *fleet) turned(since time.Time) (out []instance) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, i := range f.instances {
		if silent := i.silent(since); silent != i.toldSilent {
			i.toldSilent = silent
			out = append(out, *i)
		}
	}
	return out
}
