package verify

import (
	"log/slog"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

// mouth is an Attach stream that only keeps what it is told.
type mouth struct {
	pb.NodeService_AttachClient
	acks []*pb.Acknowledgement
}

func (m *mouth) Send(r *pb.AttachRequest) error {
	if a := r.GetAcknowledgement(); a != nil {
		m.acks = append(m.acks, a)
	}
	return nil
}

// FuzzAuthority feeds a node whatever an authority may send after its welcome,
// which named revision 3: messages, each behind a byte with its length. Whatever
// it is, nothing is acknowledged that was not understood and enforced, and no
// lease comes from it that was not earned.
func FuzzAuthority(f *testing.F) {
	add := func(messages ...*pb.AttachResponse) {
		var b []byte
		for _, m := range messages {
			wire, err := proto.Marshal(m)
			if err != nil || len(wire) > 255 {
				f.Fatal(err, len(wire))
			}
			b = append(append(b, byte(len(wire))), wire...)
		}
		f.Add(b)
	}
	entries := func(through uint64, es ...*pb.Entry) *pb.AttachResponse {
		return &pb.AttachResponse{Message: &pb.AttachResponse_Entries{Entries: &pb.Entries{Through: &pb.Revision{Epoch: 1, Sequence: through}, Entries: es}}}
	}
	answer := func(sequence, head uint64) *pb.AttachResponse {
		return &pb.AttachResponse{Message: &pb.AttachResponse_Heartbeat{Heartbeat: &pb.HeartbeatAnswer{Sequence: sequence, Head: &pb.Revision{Epoch: 1, Sequence: head}}}}
	}
	add(entries(3), answer(1, 3))
	add(answer(1, 3), entries(2), entries(3))
	add(entries(10, revoked(wstest.BySubject("acme", "a"))), answer(1, 10))
	add(entries(10, locked(lockSubject("acme", "a")), revoked(byPrefix("0.0.0.0/0"))))
	add(entries(1<<64-1), answer(1, 1<<64-1), answer(64, 0), answer(0, 0))
	add(&pb.AttachResponse{}, &pb.AttachResponse{Message: &pb.AttachResponse_EdgeKeys{EdgeKeys: &pb.EdgeKeys{Keys: []*pb.EdgeKey{{KeyId: 1, Key: make([]byte, 32)}}}}})
	f.Fuzz(func(t *testing.T, in []byte) {
		now := time.Hour
		s := &sockets{live: []*Identity{{Tenant: "acme", Subject: "a", Issued: Revision{1, 1}}}}
		c, err := Over(nil, func() time.Duration { return now }, DefaultConfig(), nil, s, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		said := &mouth{}
		a := &attachment{Client: c, stream: said, head: Revision{1, 3}, received: Revision{Epoch: 1}}
		c.recent.reset(a.head)
		c.lease.set(10*time.Second, time.Minute)
		a.next = 1
		a.sent[1].sequence, a.sent[1].at = 1, now
		understood := 0
		for len(in) > 0 {
			n := min(int(in[0]), len(in)-1)
			m := &pb.AttachResponse{}
			if proto.Unmarshal(in[1:1+n], m) != nil {
				return
			}
			in = in[1+n:]
			applied, acks := c.recent.appliedRevision(), len(said.acks)
			if err := a.take(m); err != nil {
				if c.recent.appliedRevision() != applied || len(said.acks) != acks {
					t.Fatal("a message that is refused has been applied or acknowledged")
				}
				return
			}
			for _, e := range m.GetEntries().GetEntries() {
				if _, err := entryFrom(e); err != nil {
					t.Fatalf("entry %v was taken: %v", e, err)
				}
			}
			understood += len(m.GetEntries().GetEntries()) + len(m.GetEntries().GetLocks())
			if len(s.enforced) != understood {
				t.Fatalf("%d entries enforced of %d", len(s.enforced), understood)
			}
			now := c.recent.appliedRevision()
			if now.Epoch != 1 || now != applied && !now.After(applied) {
				t.Fatalf("applied went from %v to %v", applied, now)
			}
			for _, ack := range said.acks[acks:] {
				if revisionFrom(ack.GetThrough()).After(now) {
					t.Fatalf("acknowledged through %v with %v applied", ack.GetThrough(), now)
				}
			}
			if c.Ready() == nil && now.Sequence < 3 {
				t.Fatal("admits before the node has caught up")
			}
			for i := 1; i < len(c.recent.entries); i++ {
				if !c.recent.entries[i].Revision.After(c.recent.entries[i-1].Revision) {
					t.Fatal("entries that are kept do not rise")
				}
			}
		}
	})
}
