package authority

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
)

// fleet knows the registered node instances and what they said last. Safe for
// concurrent use.
type fleet struct {
	// changing are held, by instance, from a change on disk until it counts here,
	// so that registering and removing one happen one after the other. They are
	// locked before mu, and before the locks of receipts.
	changing [64]sync.Mutex

	fence time.Duration // the session fence that every attached node is told
	life  time.Duration // the socket life that those are told who know it
	most  int           // instances of one credential

	mu        sync.Mutex // guards what follows
	instances map[storage.InstanceID]*instance
	byNode    map[string]int           // how many of instances each credential has
	attaching map[string]*rate.Limiter // by credential: as many as admins have made
}

// instance is one node process; its fields are guarded by fleet.mu.
type instance struct {
	storage.Instance
	attachment    *attachment // nil while it is not attached
	applied       storage.Revision
	sessions      uint32
	lastHeartbeat time.Time // zero until one comes
	silentSince   time.Time // the last sign of life, or the start
	toldSilent    bool      // that it is silent is in the log
}

// attachment is a live Attach stream. fleet alone closes its channel and sends
// to it, with mu locked.
type attachment struct {
	began    time.Time
	life     time.Duration     // how long the node keeps a socket at most without a word
	keys     chan *pb.EdgeKeys // of one: only the newest set counts
	replaced chan struct{}     // closed when a newer Attach takes over, or the instance is gone
}

const (
	// attachRate is how many streams of one credential may attach in a second, and
	// attachBurst how many at once, as all of a fleet do: each is a write, and lines
	// of the audit trail.
	attachRate, attachBurst = 20, 2000
)

func loadFleet(ctx context.Context, store storage.Store, cfg *Config, now time.Time) (*fleet, error) {
	stored, err := store.Instances(ctx)
	if err != nil {
		return nil, fmt.Errorf("read node instances: %w", err)
	}
	f := &fleet{
		fence: cfg.Fleet.fence(), life: cfg.socketLife(), most: cfg.Fleet.MaxInstances,
		instances: make(map[storage.InstanceID]*instance, len(stored)), byNode: map[string]int{}, attaching: map[string]*rate.Limiter{},
	}
	for _, i := range stored {
		if i.SessionFence == 0 {
			i.SessionFence = f.fence
		}
		if i.SocketLife == 0 {
			i.SocketLife = i.SessionFence
		}
		f.instances[i.ID] = &instance{Instance: i, silentSince: now}
		f.byNode[i.Node]++
	}
	return f, nil
}

// mayRegister reports whether node may register an instance, as new or again,
// and completes its record by what is known of it. It lives by the lengths that it
// was told before until it is told others.
func (f *fleet) mayRegister(i *storage.Instance) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	known := f.instances[i.ID]
	i.SessionFence = f.fence
	switch {
	case known == nil && f.byNode[i.Node] >= f.most:
		return fmt.Errorf("credential %s has %d node instances registered, of at most %d: give nodes credentials of their own, forget those that are lost (gatehouse node forget), or raise fleet.max_instances (%w)",
			i.Node, f.byNode[i.Node], f.most, errQuota)
	case known == nil:
		i.Fresh = true
		return nil
	case known.Node != i.Node:
		return denied("hello.instance_id: it is registered by another node")
	}
	i.RegisteredAt, i.SessionFence, i.SocketLife = known.RegisteredAt, max(known.SessionFence, f.fence), max(known.SocketLife, i.SocketLife)
	i.Fresh = known.Fresh
	return nil
}

// mayAttach counts one more attempt of a node to attach.
func (f *fleet) mayAttach(node string, now time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.attaching[node]
	if l == nil {
		l = rate.NewLimiter(attachRate, attachBurst)
		f.attaching[node] = l
	}
	if !l.AllowN(now, 1) {
		return fmt.Errorf("credential %s attaches more than %d times a second (%w)", node, attachRate, errQuota)
	}
	return nil
}

// attach makes an instance that is on disk count, in place of an older stream. life
// is the socket life that it is told.
func (f *fleet) attach(i storage.Instance, life time.Duration, now time.Time) *attachment {
	f.mu.Lock()
	defer f.mu.Unlock()
	a := &attachment{began: now, life: life, keys: make(chan *pb.EdgeKeys, 1), replaced: make(chan struct{})}
	known := f.instances[i.ID]
	if known == nil {
		known = &instance{}
		f.instances[i.ID] = known
		f.byNode[i.Node]++
	} else if known.attachment != nil {
		close(known.attachment.replaced)
	}
	known.Instance, known.attachment, known.silentSince = i, a, now
	return a
}

// detach says that a stream has ended, and reports whether it was its
// instance's newest. The instance stays registered.
func (f *fleet) detach(id storage.InstanceID, a *attachment) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := f.instances[id]
	if i == nil || i.attachment != a {
		return false
	}
	i.attachment = nil
	return true
}

// lock holds changes of an instance off until unlock is called.
func (f *fleet) lock(id storage.InstanceID) (unlock func()) {
	mu := &f.changing[id[0]%byte(len(f.changing))]
	mu.Lock()
	return mu.Unlock
}

// attached is the stream of an instance, or nil.
func (f *fleet) attached(id storage.InstanceID) *attachment {
	f.mu.Lock()
	defer f.mu.Unlock()
	if i := f.instances[id]; i != nil {
		return i.attachment
	}
	return nil
}

// remove forgets an instance, and ends its stream if it has one. lock is held.
func (f *fleet) remove(id storage.InstanceID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := f.instances[id]
	if i == nil {
		return
	}
	if i.attachment != nil {
		close(i.attachment.replaced)
	}
	if f.byNode[i.Node]--; f.byNode[i.Node] == 0 {
		delete(f.byNode, i.Node)
	}
	delete(f.instances, id)
}

// owner is the node that registered an instance; empty where none did.
func (f *fleet) owner(id storage.InstanceID) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if i := f.instances[id]; i != nil {
		return i.Node
	}
	return ""
}

// record is what is known of a registered instance.
func (f *fleet) record(id storage.InstanceID) (i storage.Instance, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	known := f.instances[id]
	if known == nil {
		return i, false
	}
	return known.Instance, true
}

func (f *fleet) registered(id storage.InstanceID, node string) bool { return f.owner(id) == node }

// heard notes a heartbeat on a stream. Whoever sends one to this process has been
// welcomed by it, and lives by the lengths that it was told then.
func (f *fleet) heard(id storage.InstanceID, a *attachment, sessions uint32, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if i := f.instances[id]; i != nil {
		i.sessions, i.lastHeartbeat, i.silentSince = sessions, now, now
		i.SessionFence, i.SocketLife = f.fence, a.life
	}
}

// welcomed puts on disk that an instance which was registered has begun anew: a
// heartbeat on its stream a has come.
func (s *Service) welcomed(id storage.InstanceID, a *attachment) error {
	defer s.fleet.lock(id)()
	i, ok := s.fleet.record(id)
	if !ok || s.fleet.attached(id) != a { // of a stream from before it was forgotten
		return nil
	}
	i.Fresh = false
	if err := s.store.PutInstance(s.writes.context(), &i); err != nil {
		return fmt.Errorf("keep that an instance was welcomed: %w", err)
	}
	s.fleet.put(i)
	return nil
}

// put replaces the record of an instance. lock is held.
func (f *fleet) put(i storage.Instance) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if known := f.instances[i.ID]; known != nil {
		known.Instance = i
	}
}

// enforced notes that an instance has enforced every entry through r.
func (f *fleet) enforced(id storage.InstanceID, r storage.Revision) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if i := f.instances[id]; i != nil && r.After(i.applied) {
		i.applied = r
	}
}

// snapshot copies the instances, in the order of their cursors.
func (f *fleet) snapshot() []instance {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]instance, 0, len(f.instances))
	for _, i := range f.instances {
		out = append(out, *i)
	}
	slices.SortFunc(out, func(a, b instance) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), bytes.Compare(a.ID[:], b.ID[:]))
	})
	return out
}

// dead lists instances that are silent for longer than they may keep sockets.
func (f *fleet) dead(now time.Time) []storage.Instance {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []storage.Instance
	for _, i := range f.instances {
		if i.fenced(now) {
			out = append(out, i.Instance)
		}
	}
	return out
}

// isDead reports whether an instance is silent for so long.
func (f *fleet) isDead(id storage.InstanceID, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := f.instances[id]
	return i != nil && i.fenced(now)
}

// fenced reports whether an instance has surely closed every socket, since it has
// heard nothing for so long.
func (i *instance) fenced(now time.Time) bool {
	after := releaseAfter(i.SocketLife)
	return after > 0 && i.silentSince.Before(now.Add(-after))
}

// broadcastKeys hands every attached node the new set of edge keys.
func (f *fleet) broadcastKeys(keys *pb.EdgeKeys) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, i := range f.instances {
		if i.attachment == nil {
			continue
		}
		select { // an older set that waits is out of date
		case <-i.attachment.keys:
		default:
		}
		i.attachment.keys <- keys
	}
}

// releaseDead forgets instances that are silent for longer than they may keep
// sockets: they have fenced themselves, and their sessions are over.
func (s *Service) releaseDead(ctx context.Context, now time.Time) error {
	for _, i := range s.fleet.dead(now) {
		still := func() bool { return s.fleet.isDead(i.ID, now) }
		cause := "silent beyond the session fence"
		if i.SessionFence == storage.NoFence {
			cause = "silent beyond the end of its longest session"
		}
		if err := s.removeInstance(i, still, self, cause); err != nil {
			return err
		}
	}
	return nil
}
