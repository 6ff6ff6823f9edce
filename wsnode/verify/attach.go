package verify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/token"
)

var errLeft = errors.New("said goodbye")

// attachment is one Attach stream.
type attachment struct {
	*Client
	stream pb.NodeService_AttachClient
	sendMu sync.Mutex // a stream takes one sender at a time

	head Revision // that welcome named: caught up once it is applied
	// Heartbeats whose answers are awaited: sequence modulo their number.
	mu   sync.Mutex
	next uint64
	sent [64]struct {
		sequence uint64
		at       time.Duration
	}
	// The newest answer whose head is not applied yet.
	waiting     bool
	waitingFrom time.Duration
	waitingHead Revision
}

// attach registers this instance and follows the log until the stream ends.
func (c *Client) attach(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.lease.behind()
	stream, err := c.api.Attach(ctx)
	if err != nil {
		return err
	}
	a := &attachment{Client: c, stream: stream}
	welcome, err := a.greet()
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { a.beat(ctx, welcome.GetHeartbeatInterval().AsDuration()) })
	for {
		msg, err := stream.Recv()
		if err != nil {
			select {
			case <-c.goodbye:
				if errors.Is(err, io.EOF) {
					close(c.left)
					return errLeft
				}
			default:
			}
			return err
		}
		if err := a.take(msg); err != nil {
			return err
		}
	}
}

// greet exchanges hellos and puts the welcome into force.
func (a *attachment) greet() (*pb.AttachWelcome, error) {
	applied := a.recent.appliedRevision()
	hello := &pb.AttachHello{Hello: &pb.Hello{Version: pb.Version}, InstanceId: a.instance[:]}
	if applied.Epoch != 0 {
		hello.Applied = applied.wire()
	}
	for i := range a.dead {
		hello.DeadInstanceIds = append(hello.DeadInstanceIds, a.dead[i][:])
	}
	if err := a.send(&pb.AttachRequest{Message: &pb.AttachRequest_Hello{Hello: hello}}); err != nil {
		return nil, err
	}
	msg, err := a.stream.Recv()
	if err != nil {
		return nil, err
	}
	w := msg.GetWelcome()
	if w == nil {
		return nil, errors.New("authority's first message is not its welcome")
	}
	if err := pb.CheckVersion(w.GetHello().GetVersion()); err != nil {
		return nil, err
	}
	if i := w.GetHeartbeatInterval().AsDuration(); i <= 0 || i > time.Hour {
		return nil, fmt.Errorf("authority asks for heartbeats every %v", i)
	}
	if err := a.setKeys(w.GetEdgeKeys()); err != nil {
		return nil, err
	}
	a.setClock(w.GetTime().AsTime())
	a.lease.set(w.GetAdmissionFence().AsDuration(), w.GetSessionFence().AsDuration())
	a.head = revisionFrom(w.GetHead())
	if w.GetSnapshot() {
		if applied.Epoch != 0 {
			a.log.Warn("authority has another history: sessions of the old one end", "epoch", a.head.Epoch)
			a.enforcer.Fence()
		}
		a.recent.reset(a.head.Epoch)
	}
	a.log.Info("attached to the authority", "address", a.cfg.Address, "version", w.GetHello().GetVersion(), "head", a.head.Sequence, "snapshot", w.GetSnapshot())
	a.settle()
	return w, nil
}

// take puts one message into force.
func (a *attachment) take(msg *pb.AttachResponse) error {
	switch m := msg.GetMessage().(type) {
	case *pb.AttachResponse_Entries:
		return a.enforce(m.Entries)
	case *pb.AttachResponse_Heartbeat:
		a.answered(m.Heartbeat)
		return nil
	case *pb.AttachResponse_EdgeKeys:
		return a.setKeys(m.EdgeKeys)
	}
	return errors.New("authority sent a message that this version does not know")
}

// enforce applies entries and acknowledges them.
func (a *attachment) enforce(in *pb.Entries) error {
	entries := make([]Entry, 0, len(in.GetEntries())+len(in.GetLocks()))
	for _, l := range in.GetLocks() {
		e := Entry{Revision: revisionFrom(l.GetRevision()), Lock: true}
		if err := e.setLockSelector(l.GetSelector()); err != nil {
			return fmt.Errorf("lock %s: %w", l.GetLockId(), err)
		}
		entries = append(entries, e)
	}
	for _, x := range in.GetEntries() {
		e, err := entryFrom(x)
		if err != nil {
			return err
		}
		entries = append(entries, e)
	}
	a.recent.add(entries)
	counts := a.enforcer.Enforce(entries)
	through := revisionFrom(in.GetThrough())
	a.recent.through(through)

	ack := &pb.Acknowledgement{Through: a.recent.appliedRevision().wire()}
	for i, n := range counts {
		if n.Closed > 0 {
			ack.Enforced = append(ack.Enforced, &pb.Enforced{
				Sequence: entries[i].Revision.Sequence, Closed: uint32(n.Closed), Lingering: uint32(n.Lingering),
			})
		}
	}
	if err := a.send(&pb.AttachRequest{Message: &pb.AttachRequest_Acknowledgement{Acknowledgement: ack}}); err != nil {
		return err
	}
	a.settle()
	return nil
}

// settle extends the lease by an answer that waited for its head, and lets
// admissions begin once what welcome promised is applied.
func (a *attachment) settle() {
	applied := a.recent.appliedRevision()
	if !a.head.After(applied) {
		a.lease.caught()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.waiting && !a.waitingHead.After(applied) {
		a.waiting = false
		a.lease.extend(a.waitingFrom)
	}
}

// beat sends heartbeats, and the goodbye.
func (a *attachment) beat(ctx context.Context, interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		a.mu.Lock()
		a.next++
		slot := &a.sent[a.next%uint64(len(a.sent))]
		slot.sequence, slot.at = a.next, boottime() // before it is sent: the lease must not be longer
		seq := a.next
		a.mu.Unlock()
		err := a.send(&pb.AttachRequest{Message: &pb.AttachRequest_Heartbeat{Heartbeat: &pb.Heartbeat{
			Sequence: seq, Applied: a.recent.appliedRevision().wire(), Sessions: uint32(a.enforcer.Sessions()),
		}}})
		if err != nil {
			return // Recv tells why
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		case <-a.goodbye:
			_ = a.send(&pb.AttachRequest{Message: &pb.AttachRequest_Goodbye{Goodbye: &pb.Goodbye{}}}) // Recv tells
			return
		}
	}
}

// answered extends the lease, at once or when the answer's head is applied.
func (a *attachment) answered(h *pb.HeartbeatAnswer) {
	a.mu.Lock()
	slot := a.sent[h.GetSequence()%uint64(len(a.sent))]
	known := slot.sequence == h.GetSequence() && slot.sequence != 0
	if known {
		a.waiting, a.waitingFrom, a.waitingHead = true, slot.at, revisionFrom(h.GetHead())
	}
	a.mu.Unlock()
	if known {
		a.setClock(h.GetTime().AsTime())
		a.settle()
	}
}

func (a *attachment) send(m *pb.AttachRequest) error {
	a.sendMu.Lock()
	defer a.sendMu.Unlock()
	return a.stream.Send(m)
}

func (a *attachment) setClock(authority time.Time) { a.offset.Store(int64(time.Until(authority))) }

func (a *attachment) setKeys(in *pb.EdgeKeys) error {
	keys := make([]token.EdgeKey, 0, len(in.GetKeys()))
	for _, k := range in.GetKeys() {
		if k.GetKeyId() > 1<<16-1 || len(k.GetKey()) != token.EdgeKeySize {
			return errors.New("authority sent a malformed edge key")
		}
		keys = append(keys, token.EdgeKey{ID: uint16(k.GetKeyId()), Key: [token.EdgeKeySize]byte(k.GetKey())})
	}
	a.ring.Store(token.NewRing(keys))
	return nil
}

// Goodbye ends the registration, once the node has no sockets and admits none,
// and returns when the authority has taken it, or when ctx ends.
func (c *Client) Goodbye(ctx context.Context) error {
	if err := c.ends.flushed(ctx); err != nil {
		return fmt.Errorf("report ended sessions: %w", err)
	}
	c.bye.Do(func() { close(c.goodbye) })
	select {
	case <-c.left:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// watch ends what has waited too long.
func (c *Client) watch(ctx context.Context) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		c.queue.expire(boottime())
		if c.lease.overdue() {
			c.log.Error("session fence: the authority was silent for too long, all sockets are closed")
			c.enforcer.Fence()
		}
	}
}
