package authority_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// siege is a fleet of an honest node, with a session, and a hostile one, and a
// revocation that both are told of and none has enforced.
type siege struct {
	*fixture
	honest, hostile *node
	session         *pb.RedeemItem // the honest node's
	entry           *pb.Revision
}

func newSiege(t *testing.T) *siege {
	t.Helper()
	f := newFixture(t)
	s := &siege{fixture: f, honest: f.node("node-1"), hostile: f.node("node-2")}
	s.session = s.honest.item(f.issue().GetToken())
	s.honest.grant(s.session)
	s.entry = f.revoke(byTenant("elsewhere")).GetRevision()
	return s
}

// stands proves that nothing has happened to the honest node, and that the
// receipt still waits for it.
func (s *siege) stands() {
	s.Helper()
	s.honest.beat(nil)
	s.equal("sessions", s.store.Stats().Sessions, 1)
	r, err := s.revocations("admin").GetReceipt(s.ctx, &pb.GetReceiptRequest{Revision: s.entry})
	s.ok(err)
	s.equal("the receipt is complete", r.GetReceipt().GetComplete(), false)
	for _, row := range r.GetReceipt().GetRows() {
		if row.GetNode() == "node-1" {
			s.equal("the honest node's row", []any{row.GetEnforced(), row.GetClosed(), row.GetDeparted()}, []any{false, 0, ""})
		}
	}
}

func (s *siege) acknowledges(through *pb.Revision, counts ...*pb.Enforced) error {
	s.hostile.acknowledge(through, counts...)
	return drained(s.hostile.attach)
}

func (s *siege) reports(instance [16]byte, ids ...[]byte) error {
	ended := make([]*pb.SessionEnd, len(ids))
	for i, id := range ids {
		ended[i] = &pb.SessionEnd{SessionId: id, Reason: pb.Reason_REASON_PEER_CLOSED, EndedAt: timestamp(start)}
	}
	_, err := s.nodes("node-2").ReportSessions(s.ctx, &pb.ReportSessionsRequest{InstanceId: instance[:], Ended: ended})
	return err
}

// attaches opens an Attach stream of the hostile node, and says why it ended.
func (s *siege) attaches(edit func(*pb.AttachHello)) error {
	id := draw()
	hello := &pb.AttachHello{Hello: &pb.Hello{Version: pb.Version}, InstanceId: id[:]}
	edit(hello)
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	stream, err := s.nodes("node-2").Attach(ctx)
	s.ok(err)
	s.ok(stream.Send(&pb.AttachRequest{Message: &pb.AttachRequest_Hello{Hello: hello}}))
	_, err = stream.Recv()
	return err
}

// TestHostileNodes proves of each lie that a node with a good credential can tell
// that it has an error of its own, and changes nothing for another.
func TestHostileNodes(t *testing.T) {
	for _, c := range []struct {
		rule string
		lie  func(s *siege) error
		want string
	}{
		{"attaches as another's instance", func(s *siege) error {
			return s.attaches(func(h *pb.AttachHello) { h.InstanceId = s.honest.id[:] })
		}, "PermissionDenied permission_denied: hello.instance_id: it is registered by another node (permission denied)"},
		{"declares another's instance dead", func(s *siege) error {
			return s.attaches(func(h *pb.AttachHello) { h.DeadInstanceIds = [][]byte{s.honest.id[:]} })
		}, "OK"}, // a node that was renamed says so of its own; it is not believed
		{"redeems as another's instance", func(s *siege) error {
			stream, err := s.nodes("node-2").Redeem(s.ctx)
			s.ok(err)
			s.ok(stream.Send(&pb.RedeemRequest{Hello: &pb.RedeemHello{Hello: &pb.Hello{Version: pb.Version}, InstanceId: s.honest.id[:]}}))
			return drained(stream)
		}, "FailedPrecondition not_attached: node instance is not attached: call Attach first"},
		{"reports as another's instance", func(s *siege) error {
			return s.reports(s.honest.id, s.session.GetSessionId())
		}, "PermissionDenied permission_denied: instance_id: it is registered by another node (permission denied)"},
		{"acknowledges the future", func(s *siege) error {
			return s.acknowledges(&pb.Revision{Epoch: s.entry.GetEpoch(), Sequence: 2})
		}, "InvalidArgument invalid_request: applied: revision 2 lies ahead of the log's head 1 (invalid request)"},
		{"counts more entries than a message may", func(s *siege) error {
			return s.acknowledges(s.entry, make([]*pb.Enforced, 4097)...)
		}, "InvalidArgument invalid_request: acknowledgement.enforced: 4097 are above 4096 (invalid request)"},
		{"reports 1,025 sessions", func(s *siege) error {
			return s.reports(s.hostile.id, make([][]byte, 1025)...)
		}, "InvalidArgument invalid_request: ended: 1025 are outside 1 to 1024 (invalid request)"},
		{"replays another's session id", func(s *siege) error {
			own := draw()
			return s.reports(s.hostile.id, own[:], s.session.GetSessionId())
		}, "PermissionDenied permission_denied: ended[1].session_id: the session is another node's, one of 1 such; the others of the 2 are taken (permission denied)"},
		{"redeems into another's session", func(s *siege) error {
			it := s.hostile.item(s.issue().GetToken(), func(it *pb.RedeemItem) { it.SessionId = s.session.GetSessionId() })
			s.equal("refusal", s.hostile.refusal(it), pb.Reason_REASON_SESSION_ID_TAKEN)
			return nil
		}, "OK"},
		{"renews another's session", func(s *siege) error {
			it := s.hostile.item(s.issue().GetToken(), func(it *pb.RedeemItem) { it.RenewsSessionId = s.session.GetSessionId() })
			s.equal("refusal", s.hostile.refusal(it), pb.Reason_REASON_RENEWAL_MISMATCH)
			return nil
		}, "OK"},
		{"repeats another's redemption", func(s *siege) error {
			s.equal("refusal", s.hostile.refusal(s.session), pb.Reason_REASON_TOKEN_USED)
			return nil
		}, "OK"},
		{"renews its certificate for garbage", func(s *siege) error {
			_, err := s.credentials("node-2").RenewCertificate(s.ctx, &pb.RenewCertificateRequest{CertificateRequest: []byte("no request")})
			return err
		}, "InvalidArgument invalid_request: certificate_request: ..."},
	} {
		t.Run(c.rule, func(t *testing.T) {
			s := newSiege(t)
			s.fails(c.lie(s), c.want)
			s.stands()
		})
	}
}

// TestMillionSessions proves that what a node claims in bulk costs neither memory
// nor the audit trail more than a bound.
func TestMillionSessions(t *testing.T) {
	s := newSiege(t)
	one := draw()
	many := make([][]byte, 1_000_000)
	for i := range many {
		many[i] = one[:]
	}
	s.code(s.reports(s.hostile.id, many...), codes.ResourceExhausted) // grpc's own: it is not read
	for n := range 1100 {
		ids := make([][]byte, 1024)
		for i := range ids {
			ids[i] = fmt.Appendf(nil, "%8d%8d", n, i)
		}
		s.ok(s.reports(s.hostile.id, ids...))
	}
	s.equal("lines of reports", len(s.linesOf("ReportSessions", "ok")), 1000)
	s.ok(s.service.Tend(s.ctx))
	s.equal("line", s.lastLine("Skipped"), "caller=authority lines=100 node=node-2 of=ReportSessions outcome=ok")
	for range 1100 {
		s.code(s.reports(s.hostile.id, s.session.GetSessionId()), codes.PermissionDenied)
	}
	s.equal("lines of another's sessions", len(s.linesOf("SessionEnd", "permission_denied")), 1000)
	s.equal("ends of another's sessions", s.metric("gatehouse_authority_foreign_session_ends_total{}"), 1100)
	s.stands()
}

// linesOf are the lines of an action with an outcome.
func (f *fixture) linesOf(action, outcome string) (out []map[string]any) {
	f.Helper()
	for _, l := range f.lines() {
		if l["action"] == action && l["outcome"] == outcome {
			out = append(out, l)
		}
	}
	return out
}

// TestAlternatingCounts proves that a node which says ever something else of what
// it has closed does not fill the audit trail, and that each of what others say has
// its line.
func TestAlternatingCounts(t *testing.T) {
	s := newSiege(t)
	const lies = 3 * 10_000
	for n := range uint32(lies) {
		s.hostile.acknowledge(s.entry, &pb.Enforced{Sequence: s.entry.GetSequence(), Closed: 1 + n%2})
	}
	s.hostile.beat(s.entry)
	s.equal("lines", len(s.linesOf("Enforced", "ok")), 10_000)
	s.ok(s.service.Tend(s.ctx))
	s.equal("line", s.lastLine("Skipped"), fmt.Sprintf("caller=authority lines=%d node=node-2 of=Enforced outcome=ok", lies-10_000))
	s.stands()
	s.honest.acknowledge(s.entry, &pb.Enforced{Sequence: s.entry.GetSequence(), Closed: 7})
	s.honest.beat(s.entry)
	s.equal("line", s.lastLine("Enforced"), fmt.Sprintf("caller=node-1 closed=7 instance_id=%x lingering=0 node=node-1 outcome=ok revision=1", s.honest.id))
	s.clock.advance(time.Second)
	s.hostile.acknowledge(s.entry, &pb.Enforced{Sequence: s.entry.GetSequence(), Closed: 9})
	s.hostile.beat(s.entry)
	s.equal("line", s.lastLine("Enforced"), fmt.Sprintf("caller=node-2 closed=9 instance_id=%x lingering=0 node=node-2 outcome=ok revision=1", s.hostile.id))
}

// TestCountsOfBefore proves that a node has closed nothing by an entry that is
// older than itself.
func TestCountsOfBefore(t *testing.T) {
	s := newSiege(t)
	late := s.node("node-2")
	late.acknowledge(s.entry, &pb.Enforced{Sequence: s.entry.GetSequence(), Closed: 1 << 31})
	late.beat(s.entry)
	s.equal("lines", len(s.linesOf("Enforced", "ok")), 0)
	s.restart()
	r, err := s.revocations("admin").GetReceipt(s.ctx, &pb.GetReceiptRequest{Revision: s.entry})
	s.ok(err)
	for _, row := range r.GetReceipt().GetRows() {
		s.equal("closed", row.GetClosed(), 0)
	}
	counts, err := s.store.Counts(s.ctx, s.entry.GetSequence())
	s.ok(err)
	s.equal("counts on disk", len(counts), 0)
}

// TestDeafRedeemer proves that a node which sends batches and reads no answer is
// not read for long, and holds up nobody.
func TestDeafRedeemer(t *testing.T) {
	s := newSiege(t)
	ctx, cancel := context.WithCancel(s.ctx)
	stream := s.hostile.open(ctx)
	id := draw()
	items := make([]*pb.RedeemItem, 256)
	for i := range items {
		items[i] = &pb.RedeemItem{TokenId: id[:], Digest: make([]byte, 32), SessionId: id[:], Audience: "chat", Observed: &pb.Observation{Ip: addr("198.51.100.9")}}
	}
	sent := make(chan int)
	go func() {
		n := 0
		for ; stream.Send(&pb.RedeemRequest{Items: items}) == nil; n++ {
		}
		sent <- n
	}()
	s.waitsToSend("sendInOrder")
	s.honest.grant(s.honest.item(s.issue().GetToken()))
	cancel()
	if n := <-sent; n > 10_000 {
		t.Errorf("%d batches went into a stream that nobody reads", n)
	}
	s.equal("sessions", s.store.Stats().Sessions, 2)
}
