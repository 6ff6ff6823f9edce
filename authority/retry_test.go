package authority_test

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// TestRetryGetsTheSameGrant proves that an item which a node repeats, not
// knowing what became of it, gets the session that it was granted first.
func TestRetryGetsTheSameGrant(t *testing.T) {
	f := newFixture(t)
	n := f.node("node-1")
	it := n.item(f.issue().GetToken())
	first := n.grant(it)
	f.clock.advance(time.Second)
	again := n.grant(it)
	if !proto.Equal(first, again) {
		t.Errorf("first %v\nagain %v", first, again)
	}
	n.redeem = nil // another stream
	if again = n.grant(it); !proto.Equal(first, again) {
		t.Errorf("first %v\non another stream %v", first, again)
	}
	list, err := f.sessions("admin").ListSessions(f.ctx, &pb.ListSessionsRequest{})
	f.ok(err)
	f.equal("sessions", len(list.GetSessions()), 1)
}

// TestRetryIsCheckedUpToNow proves that the grant of a retry names the log's
// head at its own decision: with the first one's a node that no longer keeps
// the entries between would ask for ever.
func TestRetryIsCheckedUpToNow(t *testing.T) {
	f := newFixture(t)
	n := f.node("node-1")
	it := n.item(f.issue().GetToken())
	f.equal("first", n.grant(it).GetAsOf().GetSequence(), 0)
	for i := range uint64(3) {
		head := f.revoke(&pb.Selector{By: &pb.Selector_Tenant{Tenant: "elsewhere"}}).GetRevision()
		f.equal("head", head.GetSequence(), i+1)
		g := n.grant(it)
		f.equal("as_of of the retry", g.GetAsOf(), head)
		f.equal("issued_revision", g.GetIssuedRevision().GetSequence(), 0)
	}
}

// TestRetryIsRefused pins what ends a retry.
func TestRetryIsRefused(t *testing.T) {
	for _, c := range []struct {
		rule string
		do   func(f *fixture, n *node, it *pb.RedeemItem) *node
		want pb.Reason
	}{
		{"its session has ended", func(f *fixture, n *node, it *pb.RedeemItem) *node {
			n.ended(fmt.Sprintf("%x", it.GetSessionId()))
			return n
		}, pb.Reason_REASON_SESSION_ENDED},
		{"its session is revoked", func(f *fixture, n *node, it *pb.RedeemItem) *node {
			f.revoke(&pb.Selector{By: &pb.Selector_SessionId{SessionId: fmt.Sprintf("%x", it.GetSessionId())}})
			return n
		}, pb.Reason_REASON_TOKEN_REVOKED},
		{"its subject is revoked", func(f *fixture, n *node, it *pb.RedeemItem) *node {
			f.revoke(&pb.Selector{By: &pb.Selector_Subject{Subject: &pb.Subject{Tenant: "acme", Subject: "ada"}}})
			return n
		}, pb.Reason_REASON_TOKEN_REVOKED},
		{"its address is locked", func(f *fixture, n *node, it *pb.RedeemItem) *node {
			f.lock("198.51.100.0/24")
			return n
		}, pb.Reason_REASON_TOKEN_REVOKED},
		{"another address", func(f *fixture, n *node, it *pb.RedeemItem) *node {
			it.Observed.Ip = []byte{198, 51, 100, 10}
			return n
		}, pb.Reason_REASON_TOKEN_USED},
		{"another User-Agent", func(f *fixture, n *node, it *pb.RedeemItem) *node {
			it.Observed.UserAgent = []byte("curl/8")
			return n
		}, pb.Reason_REASON_TOKEN_USED},
		{"another Origin", func(f *fixture, n *node, it *pb.RedeemItem) *node {
			it.Observed.Origin = []byte("https://app.example.com")
			return n
		}, pb.Reason_REASON_TOKEN_USED},
		{"another certificate", func(f *fixture, n *node, it *pb.RedeemItem) *node {
			it.Observed.ClientCertificateSha256 = make([]byte, 32)
			return n
		}, pb.Reason_REASON_TOKEN_USED},
		{"another instance", func(f *fixture, _ *node, it *pb.RedeemItem) *node { return f.node("node-1") }, pb.Reason_REASON_TOKEN_USED},
		{"another token's secret", func(f *fixture, n *node, it *pb.RedeemItem) *node {
			it.Digest[0] ^= 1
			return n
		}, pb.Reason_REASON_TOKEN_SECRET_WRONG},
	} {
		t.Run(c.rule, func(t *testing.T) {
			f := newFixture(t)
			n := f.node("node-1")
			it := n.item(f.issue().GetToken())
			n.grant(it)
			n = c.do(f, n, it)
			f.equal("reason", n.refusal(it), c.want)
		})
	}
}

// TestLateRetry proves that a retry which comes after the token's end still
// gets its session, which is live and which only its node can end; and that
// nothing else is granted by then.
func TestLateRetry(t *testing.T) {
	f := newFixture(t)
	n := f.node("node-1")
	issued := f.issue(func(r *pb.IssueTokenRequest) { r.MaxUses, r.Origin = 5, "https://app.example.com" })
	item := func() *pb.RedeemItem {
		return n.item(issued.GetToken(), func(it *pb.RedeemItem) { it.Observed.Origin = []byte("https://app.example.com") })
	}
	it := item()
	first := n.grant(it)
	f.clock.advance(time.Minute + time.Second)
	f.ok(f.service.Tend(f.ctx))
	if late := n.grant(it); !proto.Equal(first, late) {
		t.Errorf("first %v\nlate %v", first, late)
	}
	expired := pb.Reason_REASON_TOKEN_EXPIRED
	f.equal("a new session", n.refusal(item()), expired)

	other := proto.CloneOf(it)
	other.Observed.Ip = []byte{203, 0, 113, 1}
	f.equal("another address", n.refusal(other), pb.Reason_REASON_SESSION_ID_TAKEN)
	other = proto.CloneOf(it)
	other.Digest[0] ^= 1
	f.equal("wrong secret", n.refusal(other), pb.Reason_REASON_TOKEN_SECRET_WRONG)
	f.equal("another instance", f.node("node-1").refusal(it), expired)

	second := f.issue()
	f.clock.advance(time.Minute + time.Second)
	clash := n.item(second.GetToken(), func(x *pb.RedeemItem) { x.SessionId = it.GetSessionId() })
	f.equal("another expired token with the id of a live session", n.refusal(clash), expired)

	n.ended(fmt.Sprintf("%x", it.GetSessionId()))
	f.equal("once the session has ended", n.refusal(it), expired)
	f.clock.advance(3 * time.Minute)
	f.ok(f.service.Tend(f.ctx))
	f.equal("once it is forgotten", n.refusal(it), pb.Reason_REASON_TOKEN_UNKNOWN)
}
