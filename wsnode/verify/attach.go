package verify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/token"
)

const (
	// helloTimeout is how long a stream waits for the authority's hello.
	helloTimeout = 10 * time.Second
	// minSilence is the least that an authority may take to answer a heartbeat
	// before its stream is given up.
	minSilence = 5 * time.Second
	// maxEnforced is how many counts one acknowledgement holds.
	maxEnforced = 1000
)

var (
	errLeft   = errors.New("said goodbye")
	errEnded  = errors.New("authority ended the stream")
	errSilent = errors.New("authority is silent")
)

// attachment is one Attach stream.
type attachment struct {
	*Client
	stream  pb.NodeService_AttachClient
	sendMu  sync.Mutex  // a stream takes one sender at a time
	telling sync.Mutex  // held by who acknowledges; locked before all others
	leaving atomic.Bool // the goodbye is being sent

	// Owned by whoever receives.
	tells    bool     // answers to heartbeats tell what is acknowledged on disk
	head     Revision // that welcome named: caught up once it is applied
	received Revision // of the newest entry
	waiting  []answer // whose head is not applied yet, oldest first

	mu    sync.Mutex
	heard time.Duration // when the last answer came
	next  uint64        // sequence of the last heartbeat
	sent  [maxAnswers]struct {
		sequence uint64
		at       time.Duration
	} // heartbeats whose answers are awaited: sequence modulo their number
}

// maxAnswers is how many heartbeats may be without an answer, or their answers
// ahead of what is applied; of more, the older are forgotten.
const maxAnswers = 64

// answer is one to a heartbeat.
type answer struct {
	from time.Duration // when the heartbeat was sent
	head Revision      // what must be applied for the answer to count
}

// attach registers this instance and follows the log until the stream ends.
func (c *Client) attach(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c.lease.behind()
	stream, err := c.api.Attach(ctx)
	if err != nil {
		return err
	}
	a := &attachment{Client: c, stream: stream}
	interval, silence, err := a.greet(ctx, cancel)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	wg.Go(func() { a.beat(ctx, interval) })
	wg.Go(func() { a.guard(ctx, cancel, silence) })
	wg.Go(func() { a.tellGraces(ctx) })
	for {
		msg, err := stream.Recv()
		if errors.Is(err, io.EOF) && a.leaving.Load() {
			close(c.left)
			return errLeft
		}
		if err != nil {
			return causeOf(ctx, err)
		}
		if err := a.take(msg); err != nil && !errors.Is(err, io.EOF) { // which is of Send: Recv tells why
			return err
		}
	}
}

// causeOf is why a stream under ctx ended with err.
func causeOf(ctx context.Context, err error) error {
	switch {
	case context.Cause(ctx) != nil:
		return context.Cause(ctx)
	case errors.Is(err, io.EOF):
		return errEnded
	}
	return err
}

// greet exchanges hellos and puts the welcome into force. It returns how often
// to send heartbeats, and how long the authority may leave them unanswered.
func (a *attachment) greet(ctx context.Context, cut context.CancelCauseFunc) (interval, silence time.Duration, err error) {
	defer time.AfterFunc(helloTimeout, func() { cut(errSilent) }).Stop()
	applied, began := a.recent.appliedRevision(), a.clock()
	hello := &pb.AttachHello{Hello: &pb.Hello{Version: pb.Version, Features: []string{pb.FeatureTrust, pb.FeatureSocketLife}}, InstanceId: a.instance[:]}
	if applied.Epoch != 0 {
		hello.Applied = applied.wire()
	}
	for i := range a.dead {
		hello.DeadInstanceIds = append(hello.DeadInstanceIds, a.dead[i][:])
	}
	sendErr := a.send(&pb.AttachRequest{Message: &pb.AttachRequest_Hello{Hello: hello}})
	msg, err := a.stream.Recv()
	if err != nil { // the cause of sendErr too
		return 0, 0, causeOf(ctx, err)
	}
	w := msg.GetWelcome()
	if err := errors.Join(sendErr, checkWelcome(w, applied)); err != nil {
		return 0, 0, err
	}
	if err := a.setKeys(w.GetEdgeKeys()); err != nil {
		return 0, 0, err
	}
	a.trust(w.GetTrust())
	a.setClock(w.GetTime(), began)
	a.lease.set(w.GetAdmissionFence().AsDuration(), socketLife(w))
	a.retry.Store(int64(w.GetRetryAfter().AsDuration()))
	a.tells = slices.Contains(w.GetHello().GetFeatures(), pb.FeatureAcknowledged)
	a.head, a.received, a.heard = revisionFrom(w.GetHead()), applied, a.clock()
	if w.GetSnapshot() {
		// Before sessions end: a grant in flight is Unknown from here on, or its
		// session is in the node's table already and ends with the others.
		a.recent.reset(a.head)
		a.graces.reset()
		a.received = Revision{Epoch: a.head.Epoch}
		if why := lost(applied, a.head); why != "" {
			a.log.Warn(why+": all sessions end", "applied", applied.Sequence, "head", a.head.Sequence, "epoch", a.head.Epoch)
			a.enforcer.Fence()
		}
	}
	a.counts.untold(applied.Epoch == a.head.Epoch && !applied.After(a.head))
	a.log.Info("attached to the authority", "address", a.cfg.Address, "version", w.GetHello().GetVersion(), "head", a.head.Sequence, "snapshot", w.GetSnapshot())
	a.settle()
	if applied.Epoch == a.head.Epoch && !w.GetSnapshot() {
		if err := a.acknowledge(); err != nil && !errors.Is(err, io.EOF) { // of which Recv tells why
			return 0, 0, err
		}
	}
	return w.GetHeartbeatInterval().AsDuration(), max(2*w.GetAdmissionFence().AsDuration(), minSilence), nil
}

// lost is why sessions can't outlive a snapshot up to head, or empty at the
// first attach, which finds none: of what was revoked since applied the node may
// never hear.
func lost(applied, head Revision) string {
	switch {
	case applied.Epoch == 0:
		return ""
	case applied.Epoch != head.Epoch:
		return "authority has another history"
	case applied.After(head):
		return "authority has lost entries that this node has applied"
	}
	return "authority has dropped entries that this node lacks, or had forgotten the node"
}

// socketLife is how long sockets may live after a heartbeat that was answered; 0 is
// without end. Where there is no fence, no session lasts for longer by itself: its
// end is held to here too, by a clock that goes on while a machine sleeps.
func socketLife(w *pb.AttachWelcome) time.Duration {
	if d := w.GetSessionFence().AsDuration(); d != 0 {
		return d
	}
	return w.GetSocketLife().AsDuration()
}

// checkWelcome tells what of a welcome can't be followed.
func checkWelcome(w *pb.AttachWelcome, applied Revision) error {
	if w == nil {
		return errors.New("authority's first message is not its welcome")
	}
	if err := pb.CheckVersion(w.GetHello().GetVersion()); err != nil {
		return err
	}
	interval, admission, session := w.GetHeartbeatInterval().AsDuration(), w.GetAdmissionFence().AsDuration(), socketLife(w)
	switch {
	case interval <= 0 || interval > time.Hour:
		return fmt.Errorf("authority asks for heartbeats every %v", interval)
	case admission <= 0 || session < 0 || session > 0 && session < admission || max(admission, session) > maxFence:
		return fmt.Errorf("authority sets an admission fence of %v and a session fence of %v", admission, session)
	case w.GetRetryAfter().AsDuration() < 0 || w.GetRetryAfter().AsDuration() > maxRetry:
		return fmt.Errorf("authority asks clients to come back after %v", w.GetRetryAfter().AsDuration())
	case w.GetTime() == nil:
		return errors.New("authority does not tell the time")
	case w.GetHead().GetEpoch() == 0:
		return errors.New("authority does not name its history")
	case !w.GetSnapshot() && w.GetHead().GetEpoch() != applied.Epoch:
		return errors.New("authority goes on with a history that the node does not have")
	}
	return nil
}

// take puts one message into force.
func (a *attachment) take(msg *pb.AttachResponse) error {
	switch m := msg.GetMessage().(type) {
	case *pb.AttachResponse_Entries:
		return a.enforce(m.Entries)
	case *pb.AttachResponse_Heartbeat:
		return a.answered(m.Heartbeat)
	case *pb.AttachResponse_EdgeKeys:
		return a.setKeys(m.EdgeKeys)
	case *pb.AttachResponse_Trust:
		a.trust(m.Trust)
		return nil
	}
	return errors.New("authority sent a message that this version does not know")
}

// enforce applies entries and acknowledges them.
func (a *attachment) enforce(in *pb.Entries) error {
	locks, entries, err := a.read(in)
	if err != nil {
		return err
	}
	a.enforcer.Enforce(locks)
	a.recent.add(entries)
	entries = slices.DeleteFunc(entries, func(e Entry) bool { return !e.GraceUntil.IsZero() && a.beginGrace(&e) })
	for i, n := range a.enforcer.Enforce(entries) {
		a.count(&entries[i], n)
	}
	a.recent.through(revisionFrom(in.GetThrough()))
	a.settle()
	return a.acknowledge()
}

// read checks what the authority sent: it is of the history that was welcomed,
// and entries rise. Locks, which begin a snapshot, come in no order.
func (a *attachment) read(in *pb.Entries) (locks, entries []Entry, err error) {
	through := revisionFrom(in.GetThrough())
	if through.Epoch != a.head.Epoch {
		return nil, nil, fmt.Errorf("authority sent entries of the history %d after it named %d", through.Epoch, a.head.Epoch)
	}
	for _, l := range in.GetLocks() {
		e := Entry{Revision: revisionFrom(l.GetRevision()), Lock: true}
		if err := e.setLockSelector(l.GetSelector()); err != nil {
			return nil, nil, fmt.Errorf("lock %q: %w", l.GetLockId(), err)
		}
		if e.Revision.Epoch != through.Epoch {
			return nil, nil, fmt.Errorf("lock %q: %w", l.GetLockId(), errMalformedEntry)
		}
		locks = append(locks, e)
	}
	for _, x := range in.GetEntries() {
		e, err := entryFrom(x)
		if err != nil {
			return nil, nil, err
		}
		if e.Revision.Epoch != through.Epoch || !e.Revision.After(a.received) || e.Revision.After(through) {
			return nil, nil, fmt.Errorf("entry %d: %w: it comes after %d, with all through %d", e.Revision.Sequence, errMalformedEntry, a.received.Sequence, through.Sequence)
		}
		a.received = e.Revision
		entries = append(entries, e)
	}
	return locks, entries, nil
}

// tellGraces acknowledges what is enforced since a grace ended, until ctx ends.
func (a *attachment) tellGraces(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.graces.news:
		}
		if a.acknowledge() != nil {
			return // Recv tells why
		}
	}
}

// acknowledge tells that all is enforced that is applied, but for what waits for
// the end of a grace, and what that ended, as far as this stream has not told it
// yet. What is told in parts is each time told through where it is whole.
func (a *attachment) acknowledge() error {
	a.telling.Lock()
	defer a.telling.Unlock()
	// In this order: what begins to wait does so before it is applied, and what
	// waits no longer is counted before.
	applied := a.recent.appliedRevision()
	pending := a.graces.pending()
	for {
		part, more := a.counts.next(maxEnforced, applied.Sequence)
		through := applied
		if more > 0 {
			through.Sequence = more - 1
		}
		upTo, _ := slices.BinarySearch(pending, through.Sequence+1)
		if err := a.send(&pb.AttachRequest{Message: &pb.AttachRequest_Acknowledgement{Acknowledgement: &pb.Acknowledgement{
			Through: through.wire(), Enforced: part, Pending: pending[:upTo],
		}}}); err != nil {
			return err
		}
		a.mu.Lock()
		a.counts.told(a.next + 1) // a heartbeat that follows it on the stream
		a.mu.Unlock()
		if more == 0 {
			return nil
		}
	}
}

// settle extends the lease by the answers whose head is applied now, and lets
// admissions begin once what welcome promised is.
func (a *attachment) settle() {
	applied := a.recent.appliedRevision()
	if !a.head.After(applied) {
		a.lease.caught()
	}
	for len(a.waiting) > 0 && !a.waiting[0].head.After(applied) {
		a.lease.extend(a.waiting[0].from)
		a.waiting = a.waiting[1:]
	}
}

// beat sends heartbeats, and the goodbye.
func (a *attachment) beat(ctx context.Context, interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		at := a.clock() // before it is sent: the lease must not be longer
		a.mu.Lock()
		a.next++
		slot := &a.sent[a.next%maxAnswers]
		slot.sequence, slot.at = a.next, at
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
			_ = a.acknowledge() // as of the goodbye
			a.leaving.Store(true)
			_ = a.send(&pb.AttachRequest{Message: &pb.AttachRequest_Goodbye{Goodbye: &pb.Goodbye{}}}) // Recv tells
			return
		}
	}
}

// guard cuts the stream off when heartbeats have no answer for so long that the
// lease is over anyway: a new stream may find an authority that answers.
func (a *attachment) guard(ctx context.Context, cut context.CancelCauseFunc, silence time.Duration) {
	tick := time.NewTicker(silence / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		a.mu.Lock()
		heard := a.heard
		a.mu.Unlock()
		if a.clock()-heard >= silence {
			cut(errSilent)
			return
		}
	}
}

// answered extends the lease, at once or when the answer's head is applied.
func (a *attachment) answered(h *pb.HeartbeatAnswer) error {
	head := revisionFrom(h.GetHead())
	if head.Epoch != a.head.Epoch {
		return fmt.Errorf("authority answered with the history %d after it named %d", head.Epoch, a.head.Epoch)
	}
	now := a.clock()
	a.mu.Lock()
	slot := &a.sent[h.GetSequence()%maxAnswers]
	known, at := slot.sequence == h.GetSequence() && slot.sequence != 0, slot.at
	if known {
		a.heard, slot.sequence = now, 0 // it is answered once
	}
	a.mu.Unlock()
	if !known {
		return nil
	}
	if len(a.waiting) == maxAnswers {
		a.waiting = a.waiting[1:]
	}
	switch kept := revisionFrom(h.GetAcknowledged()); {
	case !a.tells:
		a.counts.heard(h.GetSequence())
	case kept.Epoch == a.head.Epoch:
		a.counts.acknowledged(kept.Sequence, h.GetPending())
	}
	a.waiting = append(a.waiting, answer{at, head})
	a.setClock(h.GetTime(), at)
	a.settle()
	return nil
}

func (a *attachment) send(m *pb.AttachRequest) error {
	a.sendMu.Lock()
	defer a.sendMu.Unlock()
	return a.stream.Send(m)
}

// setClock takes the authority's time, read after what was sent at sent came to
// it.
func (a *attachment) setClock(authority *timestamppb.Timestamp, sent time.Duration) {
	if authority != nil {
		told := authority.AsTime()
		a.told.Store(&reading{told, time.Now()})
		a.graces.measure(sample{told, sent, a.clock()})
	}
}

func (a *attachment) trust(t *pb.Trust) {
	if a.cfg.Trust != nil && t.GetCaPem() != "" {
		a.cfg.Trust(t.GetCaPem())
	}
}

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
