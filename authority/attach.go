package authority

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
)

const (
	maxDead     = 16   // dead instances that one hello may name
	maxEnforced = 4096 // entries that one acknowledgement may count
	maxPending  = 8192 // entries that one acknowledgement may call pending
)

func hello() *pb.Hello { return &pb.Hello{Version: pb.Version} }

func attachHello() *pb.Hello {
	return &pb.Hello{Version: pb.Version, Features: []string{pb.FeatureAcknowledged}}
}

func checkHello(h *pb.Hello) error {
	if h == nil {
		return invalid("hello", "required in the first message")
	}
	if err := pb.CheckVersion(h.GetVersion()); err != nil {
		return fmt.Errorf("%w (%w)", err, errVersion)
	}
	return nil
}

// Attach implements NodeService. Two goroutines serve a stream: one reads what
// the node says, this one alone sends.
func (s *Service) Attach(stream pb.NodeService_AttachServer) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	first, err := stream.Recv()
	if err != nil {
		return noHello(err)
	}
	inst, a, err := s.register(ctx, first.GetHello(), callerFrom(ctx))
	if err != nil {
		return err
	}
	applied := revisionFrom(first.GetHello().GetApplied())
	id := hex.EncodeToString(inst.ID[:])
	note(ctx, slog.String("instance_id", id))
	defer s.fleet.detach(inst.ID, a)
	s.log.InfoContext(ctx, "node attached", "node", inst.Node, "instance", id, "address", inst.Address, "version", inst.Version)

	heartbeats := make(chan uint64, 4)
	read := make(chan error, 1)
	go func() { // ends when the stream does: Recv fails then
		var err error
		defer func() { read <- err; cancel(err) }()
		defer s.recoverPanic(ctx, pb.NodeService_Attach_FullMethodName, &err)
		err = s.listen(ctx, stream, inst, a, heartbeats)
	}()
	trust := slices.Contains(first.GetHello().GetHello().GetFeatures(), pb.FeatureTrust)
	if inst.Fresh { // what it had is over, if it had been forgotten: it begins anew, which it may not have heard on an earlier stream
		applied = storage.Revision{}
	}
	err = firstCause(s.feed(ctx, stream, inst.ID, a, applied, heartbeats, trust), read)
	cause := "the node said goodbye, or closed its side"
	switch {
	case errors.Is(err, io.EOF):
		err = nil
	case err != nil:
		cause = err.Error()
	}
	s.log.InfoContext(ctx, "node detached", "node", inst.Node, "instance", id, "cause", cause)
	return err
}

// noHello is the error of a stream whose first message did not come.
func noHello(err error) error {
	if errors.Is(err, io.EOF) {
		return invalid("hello", "required in the first message")
	}
	return err
}

// register parses a hello and puts the instance on disk, before its first
// admission.
func (s *Service) register(ctx context.Context, h *pb.AttachHello, c *caller) (storage.Instance, *attachment, error) {
	var none storage.Instance
	id, dead, err := parseAttachHello(h)
	if err != nil {
		return none, nil, err
	}
	if err := s.fleet.mayAttach(c.Name, s.now()); err != nil {
		return none, nil, err
	}
	for _, d := range dead {
		if d == id {
			continue
		}
		owned := func() bool { return s.fleet.owner(d) == c.Name } // else gone already, or not this node's to declare
		if err := s.removeInstance(storage.Instance{ID: d, Node: c.Name}, owned, c.Name, "declared dead by its successor"); err != nil {
			return none, nil, err
		}
	}
	defer s.fleet.lock(id)()
	life := s.fleet.fence
	if slices.Contains(h.GetHello().GetFeatures(), pb.FeatureSocketLife) {
		life = s.fleet.life
	}
	inst := storage.Instance{ID: id, Node: c.Name, RegisteredAt: s.now(), Version: h.GetHello().GetVersion(), Address: c.address, SocketLife: life}
	if err := s.fleet.mayRegister(&inst); err != nil {
		return none, nil, err
	}
	if err := s.store.PutInstance(s.writes.context(), &inst); err != nil {
		return none, nil, fmt.Errorf("register instance: %w", err)
	}
	s.receipts.begin(id)
	s.audit.record(s.now(), "RegisterInstance", "ok", slog.String("node", inst.Node), slog.String("instance_id", hex.EncodeToString(id[:])),
		slog.String("version", inst.Version), slog.String("caller", inst.Node), slog.String("peer", inst.Address))
	return inst, s.fleet.attach(inst, life, s.now()), nil
}

func parseAttachHello(h *pb.AttachHello) (id storage.InstanceID, dead []storage.InstanceID, err error) {
	if h == nil {
		return id, nil, invalid("hello", "required in the first message")
	}
	if err := checkHello(h.GetHello()); err != nil {
		return id, nil, err
	}
	if id, err = bytes16("hello.instance_id", h.GetInstanceId()); err != nil {
		return id, nil, err
	}
	n := len(h.GetDeadInstanceIds())
	if n > maxDead {
		return id, nil, invalid("hello.dead_instance_ids", "%d are above %d", n, maxDead)
	}
	dead = make([]storage.InstanceID, n)
	for i, b := range h.GetDeadInstanceIds() {
		if dead[i], err = bytes16(fmt.Sprintf("hello.dead_instance_ids[%d]", i), b); err != nil {
			return id, nil, err
		}
	}
	return id, dead, nil
}

// removeInstance forgets an instance and its sessions, if still says so once no
// other change of it is under way; receipts no longer wait for it. by is who
// says so.
func (s *Service) removeInstance(i storage.Instance, still func() bool, by, cause string) error {
	defer s.fleet.lock(i.ID)()
	if !still() {
		return nil
	}
	s.receipts.leave(i.ID)
	if err := s.keepAcknowledged(s.writes.context(), &i.ID); err != nil {
		return err
	}
	now := s.now()
	if err := s.store.RemoveInstance(s.writes.context(), i.ID, now, cause); err != nil {
		return fmt.Errorf("remove instance: %w", err)
	}
	s.fleet.remove(i.ID)
	head, _ := s.store.Head()
	s.receipts.gone(i.ID, head.Sequence, cause, now)
	s.audit.record(s.now(), "RemoveInstance", "ok", slog.String("node", i.Node), slog.String("instance_id", hex.EncodeToString(i.ID[:])), slog.String("cause", cause), slog.String("caller", by))
	return nil
}

// removeStale forgets an instance that the store does not have, unless it has
// come back since its stream was a; receipts no longer wait for it.
func (s *Service) removeStale(id storage.InstanceID, a *attachment) {
	defer s.fleet.lock(id)()
	if s.fleet.attached(id) != a {
		return
	}
	s.fleet.remove(id)
	s.receipts.gone(id, 0, "not in the store", s.now())
}

// listen reads the node's messages until the stream ends, and returns why.
func (s *Service) listen(ctx context.Context, stream pb.NodeService_AttachServer, inst storage.Instance, a *attachment, heartbeats chan<- uint64) error {
	fresh := inst.Fresh
	for {
		msg, err := stream.Recv()
		if err != nil {
			return err
		}
		switch m := msg.GetMessage().(type) {
		case *pb.AttachRequest_Heartbeat:
			if _, err := s.applied(inst.ID, m.Heartbeat.GetApplied()); err != nil {
				return err
			}
			s.fleet.heard(inst.ID, a, m.Heartbeat.GetSessions(), s.now())
			if fresh { // before it may admit
				if err := s.welcomed(inst.ID, a); err != nil {
					return err
				}
				fresh = false
			}
			select {
			case heartbeats <- m.Heartbeat.GetSequence():
			default: // the node does not read its answers; the lease runs out
			}
		case *pb.AttachRequest_Acknowledgement:
			if n := len(m.Acknowledgement.GetEnforced()); n > maxEnforced {
				return invalid("acknowledgement.enforced", "%d are above %d", n, maxEnforced)
			}
			through, err := s.applied(inst.ID, m.Acknowledgement.GetThrough())
			if err != nil {
				return err
			}
			told, err := progressOf(through, m.Acknowledgement.GetPending())
			if err != nil {
				return err
			}
			counts := ownCounts(&inst, through, m.Acknowledgement.GetEnforced())
			err = s.receipts.enforced(inst.ID, told, counts, s.now())
			s.auditEnforced(&inst, counts, s.now())
			if err != nil {
				return err
			}
		case *pb.AttachRequest_Goodbye:
			if !s.fleet.detach(inst.ID, a) {
				return errReplaced // what it says no longer goes for the instance
			}
			gone := func() bool { return s.fleet.attached(inst.ID) == nil }
			if err := s.removeInstance(inst, gone, inst.Node, "goodbye"); err != nil {
				return err
			}
			return io.EOF
		default:
			return invalid("message", "a second hello, or none of heartbeat, acknowledgement and goodbye")
		}
	}
}

// progressOf checks what a node calls pending. Through 0, all of that is of
// another history.
func progressOf(through uint64, pending []uint64) (storage.Progress, error) {
	if n := len(pending); n > maxPending {
		return storage.Progress{}, invalid("acknowledgement.pending", "%d are above %d", n, maxPending)
	}
	if through == 0 {
		return storage.Progress{}, nil
	}
	for i, seq := range pending {
		if seq == 0 || seq > through || i > 0 && seq <= pending[i-1] {
			return storage.Progress{}, invalid("acknowledgement.pending", "entry %d: they must rise from 1 to through, which is %d", seq, through)
		}
	}
	return storage.Progress{Through: through, Pending: pending}, nil
}

// applied notes through where a node says it has enforced the log. Receipts wait
// for its acknowledgement, which tells what that ended.
func (s *Service) applied(id storage.InstanceID, through *pb.Revision) (sequence uint64, err error) {
	r := revisionFrom(through)
	head, _ := s.store.Head()
	if r.Epoch != head.Epoch {
		return 0, nil // nothing, or of the history before this one: a snapshot replaces it
	}
	if r.Sequence > head.Sequence {
		return 0, invalid("applied", "revision %d lies ahead of the log's head %d", r.Sequence, head.Sequence)
	}
	s.fleet.enforced(id, r)
	return r.Sequence, nil
}

// feed sends a node all that it needs to know, in order, until the stream
// ends. A node that reads slowly holds up nobody else: its entries wait in the
// log.
func (s *Service) feed(ctx context.Context, stream pb.NodeService_AttachServer, id storage.InstanceID, a *attachment, after storage.Revision, heartbeats <-chan uint64, trust bool) error {
	head, moved := s.store.Head()
	snapshot, err := s.needsSnapshot(ctx, after, head)
	if err != nil {
		return err
	}
	whole := after // up to where the log may have gaps: the node knows, or the snapshot says it
	if snapshot {
		after, whole = storage.Revision{Epoch: head.Epoch}, head
	}
	rotated := s.ca.Changed()
	if err := stream.Send(&pb.AttachResponse{Message: &pb.AttachResponse_Welcome{Welcome: &pb.AttachWelcome{
		Hello: attachHello(), Head: revisionOf(head), Snapshot: snapshot, Time: timestamppb.New(s.now()),
		HeartbeatInterval: durationpb.New(s.cfg.Fleet.HeartbeatInterval),
		AdmissionFence:    durationpb.New(s.cfg.Fleet.AdmissionFence),
		RetryAfter:        durationpb.New(s.cfg.Fleet.RetryAfter),
		SessionFence:      durationpb.New(s.cfg.Fleet.SessionFence),
		SocketLife:        durationpb.New(s.fleet.life),
		EdgeKeys:          s.keys.Load().wire,
		Trust:             s.trust(),
	}}}); err != nil {
		return err
	}
	if snapshot {
		if err := s.sendLocks(ctx, stream, after); err != nil {
			return err
		}
	}
	for {
		for head.After(after) {
			if err := a.ended(ctx); err != nil {
				return err
			}
			if after, err = s.sendEntries(ctx, stream, after, head, whole); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-a.replaced:
			return errReplaced
		case <-moved:
		case keys := <-a.keys:
			if err := stream.Send(&pb.AttachResponse{Message: &pb.AttachResponse_EdgeKeys{EdgeKeys: keys}}); err != nil {
				return err
			}
		case <-rotated:
			if rotated = s.ca.Changed(); !trust {
				continue
			}
			if err := stream.Send(&pb.AttachResponse{Message: &pb.AttachResponse_Trust{Trust: s.trust()}}); err != nil {
				return err
			}
		case seq := <-heartbeats:
			now, _ := s.store.Head() // read after the heartbeat arrived
			kept := s.receipts.acknowledged(id)
			if err := stream.Send(&pb.AttachResponse{Message: &pb.AttachResponse_Heartbeat{Heartbeat: &pb.HeartbeatAnswer{
				Sequence: seq, Head: revisionOf(now), Time: timestamppb.New(s.now()),
				Acknowledged: &pb.Revision{Epoch: now.Epoch, Sequence: kept.Through}, Pending: kept.Pending,
			}}}); err != nil {
				return err
			}
		}
		head, moved = s.store.Head()
	}
}

// ended is why the stream has ended, or nil.
func (a *attachment) ended(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-a.replaced:
		return errReplaced
	default:
		return nil
	}
}

// needsSnapshot reports whether a node that has applied the log through after
// can't go on from there: it has another history or none, or entries above
// after were dropped from the log. Those can hit only what has ended since, or
// what a node that was silent for so long has closed; but that is for the node
// to be sure of.
func (s *Service) needsSnapshot(ctx context.Context, after, head storage.Revision) (bool, error) {
	if after.Epoch != head.Epoch || after.Sequence > head.Sequence {
		return true, nil
	}
	if after == head {
		return false, nil
	}
	next, err := s.store.Entries(ctx, after, 1)
	if err != nil {
		return false, fmt.Errorf("read entries: %w", err)
	}
	return len(next) == 0 || next[0].Revision.Sequence != after.Sequence+1, nil
}

func (s *Service) sendLocks(ctx context.Context, stream pb.NodeService_AttachServer, through storage.Revision) error {
	locks, err := s.store.Locks(ctx)
	if err != nil {
		return fmt.Errorf("read locks: %w", err)
	}
	for len(locks) > 0 {
		n := min(len(locks), s.cfg.Fleet.MaxEntries)
		out := &pb.Entries{Through: revisionOf(through)}
		for _, l := range locks[:n] {
			out.Locks = append(out.Locks, &pb.LockEntry{
				LockId: hex.EncodeToString(l.ID[:]), Selector: lockSelectorOf(&l.Selector), Revision: revisionOf(l.Revision),
			})
		}
		locks = locks[n:]
		if err := stream.Send(&pb.AttachResponse{Message: &pb.AttachResponse_Entries{Entries: out}}); err != nil {
			return err
		}
	}
	return nil
}

// sendEntries sends one message of entries above after, and returns through
// where the node has them all: head once there is no more. An entry above whole
// that was dropped before the node was told of it ends the stream, once the node
// has all that lies below: it attaches again and gets a snapshot.
func (s *Service) sendEntries(ctx context.Context, stream pb.NodeService_AttachServer, after, head, whole storage.Revision) (storage.Revision, error) {
	next := s.tail.Load()
	if next == nil || next.after != after || next.head != head {
		var err error
		if next, err = s.entriesAbove(ctx, after, head); err != nil {
			return after, err
		}
		s.tail.Store(next)
	}
	if next.missing > whole.Sequence {
		if next = next.below(whole.Sequence); next.through == after {
			return after, fmt.Errorf("entry %d: %w", after.Sequence+1, errDropped)
		}
	}
	return next.through, stream.SendMsg(next.message)
}

// tail is the message that was sent last to a node which had the log through
// after: most nodes stand at the same place, and get the same.
type tail struct {
	after, head, through storage.Revision
	message              *forMany
	missing              uint64 // the last that is not in the log any more; 0 for none
}

// below is the part of t that lies below the first entry above whole which is
// missing.
func (t *tail) below(whole uint64) *tail {
	all := t.message.GetEntries().GetEntries()
	n, last := 0, t.after.Sequence
	for ; n < len(all); n++ {
		seq := all[n].GetRevision().GetSequence()
		if seq-1 > max(last, whole) {
			break
		}
		last = seq
	}
	through := storage.Revision{Epoch: t.through.Epoch, Sequence: max(last, whole)}
	return &tail{t.after, t.head, through, newForMany(&pb.AttachResponse{Message: &pb.AttachResponse_Entries{
		Entries: &pb.Entries{Through: revisionOf(through), Entries: all[:n]},
	}}), 0}
}

func (s *Service) entriesAbove(ctx context.Context, after, head storage.Revision) (*tail, error) {
	entries, err := s.store.Entries(ctx, after, s.cfg.Fleet.MaxEntries)
	if err != nil {
		return nil, fmt.Errorf("read entries: %w", err)
	}
	through := head
	if len(entries) == s.cfg.Fleet.MaxEntries || len(entries) > 0 && entries[len(entries)-1].Revision.After(head) {
		through = entries[len(entries)-1].Revision
	}
	out := &pb.Entries{Through: revisionOf(through), Entries: make([]*pb.Entry, len(entries))}
	last, missing := after.Sequence, uint64(0)
	for i := range entries {
		out.Entries[i] = entryOf(&entries[i])
		seq := entries[i].Revision.Sequence
		if seq != last+1 {
			missing = seq - 1
		}
		last = seq
	}
	if last < through.Sequence {
		missing = through.Sequence
	}
	return &tail{after, head, through, newForMany(&pb.AttachResponse{Message: &pb.AttachResponse_Entries{Entries: out}}), missing}, nil
}

func entryOf(e *storage.Entry) *pb.Entry {
	out := &pb.Entry{Revision: revisionOf(e.Revision), GraceUntil: graceUntil(e)}
	if e.Grace > 0 {
		out.Grace = durationpb.New(e.Grace)
	}
	switch e.Kind {
	case storage.Revoke:
		out.Event = &pb.Entry_Revoked{Revoked: selectorOf(&e.Selector)}
	case storage.Replace:
		out.Event, out.Replaced = &pb.Entry_Revoked{Revoked: selectorOf(&e.Selector)}, true
	case storage.SetLock:
		out.Event = &pb.Entry_Locked{Locked: &pb.LockEntry{
			LockId: hex.EncodeToString(e.Lock[:]), Selector: lockSelectorOf(&e.Selector), Revision: revisionOf(e.Revision),
		}}
	case storage.LiftLock:
		out.Event = &pb.Entry_Unlocked{Unlocked: hex.EncodeToString(e.Lock[:])}
	}
	return out
}
