package sim

import (
	"context"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
)

// revokeWithin is revokeUser with a grace.
func (w *world) revokeWithin(subject string, grace time.Duration) *pb.Revision {
	return w.revoke(w.ctx, w.chances.fork(), "revoke "+subject+" within "+grace.String(), func(ctx context.Context, api pb.RevocationServiceClient) (*pb.Revision, error) {
		resp, err := api.Revoke(ctx, &pb.RevokeRequest{
			Selector: &pb.Selector{By: &pb.Selector_Subject{Subject: &pb.Subject{Tenant: "acme", Subject: subject}}},
			Reason:   "sim", Grace: durationpb.New(grace),
		})
		return resp.GetRevision(), err
	})
}

// graces are races of revocations with a grace.
var graces = []race{
	{
		// The user's client does not renew, and sends on until its socket closes.
		name: "who waits for sockets to renew has not enforced",
		off: rules{hears: func(m proto.Message) {
			if r, ok := m.(*pb.AttachRequest); ok && r.GetAcknowledgement() != nil {
				r.GetAcknowledgement().Pending = nil
			}
		}},
		schedule: func(w *world, _ bool) {
			m := w.begin("node-0")
			w.user(m, "ada")
			time.Sleep(time.Second)
			w.revokeWithin("ada", 5*time.Second)
			time.Sleep(8 * time.Second)
		},
		broken: "complete at",
	},
	{
		// The authority is killed within the grace, and comes back while the node
		// is out of reach.
		name: "who waits is known to an authority that starts anew",
		off:  rules{wrap: func(s storage.Store) storage.Store { return impatient{s} }},
		schedule: func(w *world, _ bool) {
			m := w.begin("node-0")
			w.user(m, "ada")
			time.Sleep(time.Second)
			w.revokeWithin("ada", 6*time.Second)
			time.Sleep(time.Second)
			m.link.hold(true, true)
			w.stopAuthority(true)
			w.startAuthority()
			time.Sleep(3 * time.Second)
			m.link.hold(false, false)
			time.Sleep(5 * time.Second)
		},
		broken: "complete at",
	},
	{
		// What a node has closed at the end of a grace is heard by an authority that
		// is killed before it could write that, and had the entry's place on disk.
		name: "a count that comes late is told until it is on disk",
		off: rules{tap: func(_ *link, m proto.Message) {
			if h := asAttach(m).GetHeartbeat(); h != nil {
				h.Pending = nil
			}
		}},
		schedule: func(w *world, _ bool) {
			m, silent := w.begin("node-0"), w.begin("node-1")
			w.user(m, "ada")
			time.Sleep(time.Second)
			silent.link.hold(true, true) // so that the receipt is read after the kill
			w.revokeWithin("ada", 3*time.Second)
			time.Sleep(time.Second)
			w.process.store.Fail("Acknowledge", slices.Repeat([]error{storage.ErrFull}, 100)...)
			time.Sleep(3500 * time.Millisecond)
			w.stopAuthority(true)
			w.startAuthority()
			time.Sleep(time.Second)
			silent.link.hold(false, false)
			time.Sleep(3 * time.Second)
		},
		broken: "receipts count 0",
	},
}

// impatient is a store that takes all that is acknowledged for enforced.
type impatient struct{ storage.Store }

func (s impatient) Acknowledge(ctx context.Context, acks []storage.Acknowledgement) error {
	for i := range acks {
		acks[i].Pending = nil
	}
	return s.Store.Acknowledge(ctx, acks)
}
