package authority_test

import (
	"context"
	"crypto/rand"
	"io"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// node is a node process: it attaches at its making, and redeems.
type node struct {
	*fixture
	name   string
	id     [16]byte
	attach pb.NodeService_AttachClient
	redeem pb.NodeService_RedeemClient // opened by the first batch
	end    context.CancelFunc          // of its streams
	beats  uint64
}

func draw() (id [16]byte) {
	_, _ = rand.Read(id[:]) // it does not fail
	return id
}

// node starts a node with a new instance.
func (f *fixture) node(name string, edits ...func(*pb.AttachHello)) *node {
	f.Helper()
	n := &node{fixture: f, name: name, id: draw()}
	n.begin(edits...)
	return n
}

// begin attaches, and reads the welcome.
func (n *node) begin(edits ...func(*pb.AttachHello)) *pb.AttachWelcome {
	n.Helper()
	ctx, cancel := context.WithCancel(n.ctx)
	n.end, n.redeem = cancel, nil
	n.Cleanup(cancel)
	hello := &pb.AttachHello{Hello: &pb.Hello{Version: pb.Version}, InstanceId: n.id[:]}
	for _, edit := range edits {
		edit(hello)
	}
	var err error
	n.attach, err = n.nodes(n.name).Attach(ctx)
	n.ok(err)
	n.ok(n.attach.Send(&pb.AttachRequest{Message: &pb.AttachRequest_Hello{Hello: hello}}))
	msg, err := n.attach.Recv()
	n.ok(err)
	if msg.GetWelcome() == nil {
		n.Fatalf("first message %v is no welcome", msg)
	}
	return msg.GetWelcome()
}

// item redeems the token with this text, from nowhere special.
func (n *node) item(text string, edits ...func(*pb.RedeemItem)) *pb.RedeemItem {
	n.Helper()
	t := n.parsed(text)
	d, session := t.Secret.Digest(), draw()
	it := &pb.RedeemItem{
		TokenId: t.ID[:], Digest: d[:], SessionId: session[:], Audience: "chat",
		Observed: &pb.Observation{Ip: netip.MustParseAddr("198.51.100.9").AsSlice()},
	}
	for _, edit := range edits {
		edit(it)
	}
	return it
}

// open opens a Redeem stream.
func (n *node) open(ctx context.Context) pb.NodeService_RedeemClient {
	n.Helper()
	stream, err := n.nodes(n.name).Redeem(ctx)
	n.ok(err)
	n.ok(stream.Send(&pb.RedeemRequest{Hello: &pb.RedeemHello{Hello: &pb.Hello{Version: pb.Version}, InstanceId: n.id[:]}}))
	resp, err := stream.Recv()
	n.ok(err)
	if resp.GetHello().GetVersion() != pb.Version || len(resp.GetResults()) > 0 {
		n.Fatalf("first response %v is no hello", resp)
	}
	return stream
}

// batch redeems items in one message.
func (n *node) batch(items ...*pb.RedeemItem) []*pb.RedeemResult {
	n.Helper()
	if n.redeem == nil {
		n.redeem = n.open(n.attach.Context())
	}
	n.ok(n.redeem.Send(&pb.RedeemRequest{Items: items}))
	resp, err := n.redeem.Recv()
	n.ok(err)
	if len(resp.GetResults()) != len(items) {
		n.Fatalf("%d results for %d items", len(resp.GetResults()), len(items))
	}
	return resp.GetResults()
}

// grant redeems an item that must be granted.
func (n *node) grant(it *pb.RedeemItem) *pb.Grant {
	n.Helper()
	r := n.batch(it)[0]
	if r.GetGrant() == nil {
		n.Fatalf("refused: %v", r.GetRefusal())
	}
	return r.GetGrant()
}

// refusal redeems an item and gives the reason of its refusal, or none.
func (n *node) refusal(it *pb.RedeemItem) pb.Reason {
	n.Helper()
	return n.batch(it)[0].GetRefusal().GetReason()
}

// next is the next message of the authority.
func (n *node) next() *pb.AttachResponse {
	n.Helper()
	msg, err := n.attach.Recv()
	n.ok(err)
	return msg
}

// entries reads until the node has the log through a sequence.
func (n *node) entries(through uint64) (out []*pb.Entry, locks []*pb.LockEntry) {
	n.Helper()
	for {
		e := n.next().GetEntries()
		out, locks = append(out, e.GetEntries()...), append(locks, e.GetLocks()...)
		if e.GetThrough().GetSequence() >= through {
			return out, locks
		}
	}
}

// acknowledge says that the log through r is enforced.
func (n *node) acknowledge(r *pb.Revision, enforced ...*pb.Enforced) {
	n.Helper()
	n.ok(n.attach.Send(&pb.AttachRequest{Message: &pb.AttachRequest_Acknowledgement{
		Acknowledgement: &pb.Acknowledgement{Through: r, Enforced: enforced},
	}}))
}

// pending says that the log through r is enforced, but for these entries.
func (n *node) pending(r *pb.Revision, entries ...*pb.Revision) {
	n.Helper()
	ack := &pb.Acknowledgement{Through: r}
	for _, e := range entries {
		ack.Pending = append(ack.Pending, e.GetSequence())
	}
	n.ok(n.attach.Send(&pb.AttachRequest{Message: &pb.AttachRequest_Acknowledgement{Acknowledgement: ack}}))
}

// beat sends a heartbeat and reads up to its answer.
func (n *node) beat(applied *pb.Revision) *pb.HeartbeatAnswer {
	n.Helper()
	n.beats++
	n.ok(n.attach.Send(&pb.AttachRequest{Message: &pb.AttachRequest_Heartbeat{
		Heartbeat: &pb.Heartbeat{Sequence: n.beats, Applied: applied, Sessions: 7},
	}}))
	for {
		if h := n.next().GetHeartbeat(); h.GetSequence() == n.beats {
			return h
		}
	}
}

// goodbye leaves, and waits until the authority has taken it.
func (n *node) goodbye() {
	n.Helper()
	n.ok(n.attach.Send(&pb.AttachRequest{Message: &pb.AttachRequest_Goodbye{Goodbye: &pb.Goodbye{}}}))
	if err := drained(n.attach); err != io.EOF {
		n.Fatalf("goodbye: %v", err)
	}
}

// drained reads a stream to its end, and says why it ended.
func drained[M any](stream grpc.ServerStreamingClient[M]) error {
	for {
		if _, err := stream.Recv(); err != nil {
			return err
		}
	}
}

func addr(v string) []byte                          { return netip.MustParseAddr(v).AsSlice() }
func timestamp(t time.Time) *timestamppb.Timestamp  { return timestamppb.New(t) }
func duration(d time.Duration) *durationpb.Duration { return durationpb.New(d) }

func sorted(parts []string) []string {
	slices.Sort(parts)
	return parts
}
