package sim

import (
	"context"
	"encoding/hex"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
)

// startWithoutFence starts the authority anew, with no session fence and sessions
// of this life.
func (w *world) startWithoutFence(life time.Duration) {
	if w.server() != nil {
		w.stopAuthority(false)
	}
	w.fence, w.life = 0, life
	w.startAuthority()
}

// fenceless are races of nodes that no session fence holds.
var fenceless = []race{
	{
		// The authority starts anew with shorter sessions while a node is out of
		// reach, whose sockets go on until their own are over.
		name: "without a session fence a silent node is waited for until its longest session is over",
		off:  rules{wrap: func(s storage.Store) storage.Store { return oneLife{s} }},
		schedule: func(w *world, off bool) {
			w.startWithoutFence(20 * time.Second)
			m := w.begin("node-0")
			w.user(m, "ada")
			time.Sleep(time.Second)
			m.link.hold(true, true)
			w.stopAuthority(true)
			w.startWithoutFence(time.Second)
			w.revokeUser("ada")
			time.Sleep(admissionFence + 20*time.Second + time.Minute + 2*time.Second)
			if page, err := w.store.Instances(context.Background()); !off && (err != nil || len(page) > 0) {
				w.fault("after all of its sessions %d instances are still waited for: %v", len(page), err)
			}
			m.link.hold(false, false)
			time.Sleep(3 * time.Second)
		},
		broken: "complete at",
	},
	{
		// An admin takes a node for lost that is only out of reach.
		name: "an instance that was forgotten ends what it had when it comes back",
		off: rules{tap: func(l *link, m proto.Message) {
			if w := asAttach(m).GetWelcome(); w != nil {
				l.mu.Lock()
				w.Snapshot = l.beat == 0 // as of one that was registered all the time
				l.mu.Unlock()
			}
		}},
		schedule: func(w *world, _ bool) {
			m := w.beginForgotten()
			m.link.hold(false, false)
			time.Sleep(5 * time.Second)
			w.agreed(m)
		},
		broken: "of which the authority knows 0",
	},
	{
		// The stream on which it comes back breaks before it is welcomed, and the
		// authority restarts.
		name: "a forgotten instance begins anew though the authority restarts before it has heard so",
		off:  rules{wrap: func(s storage.Store) storage.Store { return noneFresh{s} }},
		schedule: func(w *world, _ bool) {
			m := w.beginForgotten()
			m.link.hold(false, true) // it is heard, and hears nothing
			time.Sleep(5 * time.Second)
			if all, err := w.store.Instances(w.ctx); err != nil || len(all) != 1 {
				w.t.Errorf("%d instances are registered, want that which came back: %v", len(all), err)
			}
			m.link.cut()
			w.stopAuthority(true)
			w.startAuthority()
			time.Sleep(keepalive + time.Second) // the welcome is lost
			m.link.hold(false, false)
			time.Sleep(10 * time.Second)
			w.agreed(m)
		},
		broken: "of which the authority knows 0",
	},
}

// beginForgotten begins a node that has a session and then, out of reach, is
// forgotten.
func (w *world) beginForgotten() *machine {
	w.startWithoutFence(time.Minute)
	m := w.begin("node-0")
	w.user(m, "ada")
	time.Sleep(time.Second)
	m.link.hold(true, true)
	m.link.cut()
	time.Sleep(admissionFence + 2*time.Second)
	w.forget(m)
	return m
}

// forget has an admin forget a node's process.
func (w *world) forget(m *machine) {
	id := m.node.Instance()
	if _, err := pb.NewSessionServiceClient(w.console).ForgetNode(w.ctx, &pb.ForgetNodeRequest{InstanceId: hex.EncodeToString(id[:]), Reason: "sim"}); err != nil {
		w.t.Error(err)
	}
}

// agreed finds out whether node and authority know of the same number of sessions.
func (w *world) agreed(m *machine) {
	page, err := w.store.ListSessions(context.Background(), storage.SessionQuery{Limit: 10})
	if n := m.node.Sessions(); err != nil || n != len(page.Sessions) {
		w.fault("%s has %d sessions, of which the authority knows %d: %v", m, n, len(page.Sessions), err)
	}
}

// noneFresh is a store that forgets which instances were not heard yet.
type noneFresh struct{ storage.Store }

func (s noneFresh) Instances(ctx context.Context) ([]storage.Instance, error) {
	all, err := s.Store.Instances(ctx)
	for i := range all {
		all[i].Fresh = false
	}
	return all, err
}

// oneLife is a store that forgets how long nodes may keep sockets.
type oneLife struct{ storage.Store }

func (s oneLife) Instances(ctx context.Context) ([]storage.Instance, error) {
	all, err := s.Store.Instances(ctx)
	for i := range all {
		all[i].SocketLife = time.Second
	}
	return all, err
}
