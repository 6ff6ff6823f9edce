package sim

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/token"
)

// race is one that the protocol has a rule against: its schedule breaks a
// promise as soon as the rule is switched off. Rules are switched off from
// outside, by changing what a node or the authority is told.
type race struct {
	name     string
	on, off  rules
	schedule func(w *world, off bool)
	broken   string // what is found without the rule
}

var home = netip.MustParseAddr("192.0.2.1")

// user issues a token and has its client connect to m. It may be used twice, which
// keeps the client from renewing its session.
func (w *world) user(m *machine, subject string) {
	text := w.issue(w.ctx, w.chances, "login", &pb.IssueTokenRequest{Tenant: "acme", Subject: subject, Audience: "chat", ClientIp: home.String(), MaxUses: 2})
	own := w.chances.fork()
	w.wg.Go(func() { w.client(own, m, text, home, time.Hour) })
}

// revokeUser revokes a subject and follows the receipt.
func (w *world) revokeUser(subject string) *pb.Revision {
	return w.revokeBy(bySubject(subject))
}

func (w *world) revokeBy(sel *pb.Selector) *pb.Revision {
	return w.revoke(w.ctx, w.chances.fork(), "revoke "+sel.String(), func(ctx context.Context, api pb.RevocationServiceClient) (*pb.Revision, error) {
		resp, err := api.Revoke(ctx, &pb.RevokeRequest{Selector: sel, Reason: "sim"})
		return resp.GetRevision(), err
	})
}

func bySubject(subject string) *pb.Selector {
	return &pb.Selector{By: &pb.Selector_Subject{Subject: &pb.Subject{Tenant: "acme", Subject: subject}}}
}

func byToken(id token.ID) *pb.Selector {
	return &pb.Selector{By: &pb.Selector_TokenId{TokenId: id.String()}}
}

// begin starts a node and lets it attach.
func (w *world) begin(name string, dead ...*machine) *machine {
	m := w.startNode(name, dead...)
	time.Sleep(time.Second)
	return m
}

var races = slices.Concat(apart, stuckLoops, renewals, graces, oldest, fenceless)

// apart are races in which authority and node are apart, or one of them is gone.
var apart = []race{
	{
		// The grant was decided before the revocation, which is enforced and
		// confirmed while the answer is on its way.
		name: "a grant in flight is checked against what was revoked since",
		off:  rules{tap: grantsAreNew},
		schedule: func(w *world, _ bool) {
			m := w.begin("node-0")
			m.link.close(isAnswer)
			w.user(m, "ada")
			time.Sleep(time.Second)
			w.revokeUser("ada")
			time.Sleep(1500 * time.Millisecond)
			m.link.close(nil)
			time.Sleep(time.Second)
		},
		broken: "complete at",
	},
	{
		// An answer to a heartbeat takes seconds, and what was revoked
		// meanwhile is behind it.
		name: "a lease counts from when its heartbeat was sent",
		off: rules{tap: func(l *link, m proto.Message) {
			if h := asAttach(m).GetHeartbeat(); h != nil {
				l.mu.Lock()
				h.Sequence = l.beat
				l.mu.Unlock()
			}
		}},
		schedule: func(w *world, _ bool) {
			m := w.begin("node-0")
			for range 8 { // of which the last is closed shortly before the fence
				w.user(m, "ada")
			}
			time.Sleep(time.Second)
			m.link.hold(false, true)
			time.Sleep(time.Second) // answers wait on their way
			w.revokeUser("ada")
			time.Sleep(2500 * time.Millisecond)
			m.link.close(func(m proto.Message) bool { return asAttach(m).GetEntries() != nil })
			m.link.hold(false, false) // the answers come, the entry does not
			time.Sleep(releaseAfter)
		},
		broken: "with deadline",
	},
	{
		// A process is stopped for longer than its sockets may live.
		name: "a node without a word from its authority closes its sockets",
		off: rules{tap: func(_ *link, m proto.Message) {
			if w := asAttach(m).GetWelcome(); w != nil {
				w.SessionFence, w.SocketLife = nil, nil
			}
		}},
		schedule: func(w *world, _ bool) {
			m := w.begin("node-0")
			w.user(m, "ada")
			time.Sleep(time.Second)
			m.pause()
			w.revokeUser("ada")
			time.Sleep(releaseAfter + time.Second)
			m.link.close(func(m proto.Message) bool { return asAttach(m).GetEntries() != nil })
			m.resume()
			time.Sleep(3 * time.Second)
		},
		broken: "with deadline",
	},
	{
		// The authority starts anew while a node is out of reach.
		name: "registered instances outlive the authority",
		off:  rules{wrap: func(s storage.Store) storage.Store { return forgetful{s} }},
		schedule: func(w *world, _ bool) {
			m := w.begin("node-0")
			w.user(m, "ada")
			time.Sleep(time.Second)
			m.link.hold(true, true)
			w.stopAuthority(true)
			w.startAuthority()
			w.revokeUser("ada")
			time.Sleep(3 * time.Second)
		},
		broken: "complete at",
	},
	{
		// The authority starts anew with a shorter fence while a node is out of
		// reach, which goes on by the one that it was told.
		name: "a node lives by the session fence that it was told, whatever others are told since",
		off:  rules{wrap: func(s storage.Store) storage.Store { return oneFence{s} }},
		schedule: func(w *world, _ bool) {
			m := w.begin("node-0")
			for range 8 { // of which the last is closed shortly before its fence
				w.user(m, "ada")
			}
			time.Sleep(time.Second)
			m.link.hold(true, true)
			w.stopAuthority(true)
			w.fence = sessionFence / 2
			w.startAuthority()
			w.revokeUser("ada")
			time.Sleep(releaseAfter + time.Second)
			m.link.hold(false, false)
			time.Sleep(3 * time.Second)
		},
		broken: "complete at",
	},
	{
		// A second process under the name of one that lives on, out of reach.
		name: "only who has the lock of the state folder declares its predecessor dead",
		schedule: func(w *world, off bool) {
			m := w.begin("node-0")
			w.user(m, "ada")
			time.Sleep(time.Second)
			m.link.hold(true, true)
			if off {
				w.begin("node-0", m)
			} else {
				w.begin("node-0")
			}
			w.revokeUser("ada")
			time.Sleep(3 * time.Second)
		},
		broken: "complete at",
	},
	{
		// The authority is killed before it could write what a node has closed,
		// though it had heard of it, and answered heartbeats since.
		name: "counts are told again until they are on disk",
		off: rules{tap: func(_ *link, m proto.Message) {
			if w := asAttach(m).GetWelcome(); w != nil {
				w.Hello.Features = nil
			}
		}},
		schedule: func(w *world, _ bool) {
			m, silent := w.begin("node-0"), w.begin("node-1")
			w.user(m, "ada")
			time.Sleep(time.Second)
			silent.link.hold(true, true) // so that the receipt is read after the kill
			w.process.store.Fail("Acknowledge", slices.Repeat([]error{storage.ErrFull}, 100)...)
			w.revokeUser("ada")
			time.Sleep(1500 * time.Millisecond)
			w.stopAuthority(true)
			w.startAuthority()
			time.Sleep(time.Second)
			silent.link.hold(false, false)
			time.Sleep(3 * time.Second)
		},
		broken: "receipts count 0",
	},
}

// grantsAreNew is without the rule that a grant says as of when it was decided.
func grantsAreNew(_ *link, m proto.Message) {
	for _, r := range asRedeem(m).GetResults() {
		if g := r.GetGrant(); g != nil {
			g.AsOf.Sequence = 1 << 62
		}
	}
}

// isAnswer tells answers to redemptions.
func isAnswer(m proto.Message) bool { return len(asRedeem(m).GetResults()) > 0 }

// forgetful is a store that forgets who was registered when it is asked at a
// start.
type forgetful struct{ storage.Store }

func (forgetful) Instances(context.Context) ([]storage.Instance, error) { return nil, nil }

// oneFence is a store that forgets which session fences nodes were told.
type oneFence struct{ storage.Store }

func (s oneFence) Instances(ctx context.Context) ([]storage.Instance, error) {
	all, err := s.Store.Instances(ctx)
	for i := range all {
		all[i].SessionFence, all[i].SocketLife = 0, 0
	}
	return all, err
}

func asRedeem(m proto.Message) *pb.RedeemResponse {
	r, _ := m.(*pb.RedeemResponse)
	return r
}

func asAttach(m proto.Message) *pb.AttachResponse {
	r, _ := m.(*pb.AttachResponse)
	return r
}

// Every rule is needed: with it no promise is broken, without it one is.
func TestRaces(t *testing.T) {
	for _, r := range races {
		t.Run(r.name, func(t *testing.T) {
			for seed := range uint64(20) {
				faults, trace := run(t, seed, r.on, func(w *world) { r.schedule(w, false) })
				if len(faults) > 0 {
					t.Fatalf("seed %d:\n%s", seed, strings.Join(trace, "\n"))
				}
				faults, trace = run(t, seed, r.off, func(w *world) { r.schedule(w, true) })
				if !strings.Contains(strings.Join(faults, "\n"), r.broken) {
					t.Fatalf("seed %d: without its rule nothing is broken: the schedule shows nothing\n%s", seed, strings.Join(trace, "\n"))
				}
			}
		})
	}
}
