package authority_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// renewal is an item that renews a session with a new token.
func (n *node) renewal(of *pb.RedeemItem, edits ...func(*pb.IssueTokenRequest)) *pb.RedeemItem {
	n.Helper()
	return n.item(n.issue(edits...).GetToken(), func(it *pb.RedeemItem) { it.RenewsSessionId = of.GetSessionId() })
}

// TestRenewal proves that a renewal is a session of its own, with its own
// token's rights and end, which the audit trail ties to the one before.
func TestRenewal(t *testing.T) {
	f := newFixture(t)
	n := f.node("node-1")
	old := n.item(f.issue().GetToken())
	n.grant(old)
	f.clock.advance(time.Minute)
	it := n.renewal(old, func(r *pb.IssueTokenRequest) { r.Scopes, r.SessionTtl = []string{"send"}, durationpb.New(time.Hour) })
	g := n.grant(it)
	f.equal("grant", []any{g.GetTenant(), g.GetSubject(), g.GetScopes(), g.GetSessionExpiresAt().AsTime()},
		[]any{"acme", "ada", []string{"send"}, start.Add(time.Minute + time.Hour)})
	if line := f.lastLine("Redeem"); !strings.Contains(line, fmt.Sprintf("renews_session_id=%x session_id=%x ", old.GetSessionId(), it.GetSessionId())) {
		t.Errorf("audit line %s", line)
	}
	if again := n.grant(it); !proto.Equal(g, again) {
		t.Errorf("first %v\nagain %v", g, again)
	}
	list := func() (ids []string) {
		resp, err := f.sessions("viewer").ListSessions(f.ctx, &pb.ListSessionsRequest{})
		f.ok(err)
		for _, x := range resp.GetSessions() {
			ids = append(ids, x.GetSessionId())
		}
		return ids
	}
	f.equal("sessions until the node reports the old one's end", len(list()), 2)
	n.ended(fmt.Sprintf("%x", old.GetSessionId()))
	f.equal("sessions", list(), []string{fmt.Sprintf("%x", it.GetSessionId())})
	next := n.renewal(it)
	n.grant(next)
	f.equal("the token is spent", n.refusal(n.item(f.issue().GetToken(), func(x *pb.RedeemItem) {
		x.TokenId, x.Digest, x.RenewsSessionId = next.GetTokenId(), next.GetDigest(), next.GetSessionId()
	})), pb.Reason_REASON_TOKEN_USED)
}

// TestRenewalIsRefused pins why. Nothing is used up but by a grant.
func TestRenewalIsRefused(t *testing.T) {
	plain := func(*pb.IssueTokenRequest) {}
	for _, c := range []struct {
		rule   string
		ask    func(*pb.IssueTokenRequest)
		before func(f *fixture, n *node, old *pb.RedeemItem) *node // asks the renewal; n where nil
		edit   func(*pb.RedeemItem)
		want   pb.Reason
	}{
		{"a session that nobody has", plain, nil, func(it *pb.RedeemItem) { it.RenewsSessionId[0] ^= 1 }, pb.Reason_REASON_SESSION_ENDED},
		{"a session that has ended", plain, func(_ *fixture, n *node, old *pb.RedeemItem) *node {
			n.ended(fmt.Sprintf("%x", old.GetSessionId()))
			return n
		}, nil, pb.Reason_REASON_SESSION_ENDED},
		{"a session whose time is over", plain, func(f *fixture, n *node, _ *pb.RedeemItem) *node {
			f.clock.advance(13 * time.Hour)
			f.ok(f.service.Tend(f.ctx))
			n.begin() // it was silent for so long
			return n
		}, nil, pb.Reason_REASON_SESSION_ENDED},
		{"another subject", func(r *pb.IssueTokenRequest) { r.Subject = "bob" }, nil, nil, pb.Reason_REASON_RENEWAL_MISMATCH},
		{"another tenant", func(r *pb.IssueTokenRequest) { r.Tenant = "bolt" }, nil, nil, pb.Reason_REASON_RENEWAL_MISMATCH},
		{"another audience", func(r *pb.IssueTokenRequest) { r.Audience = "feed" }, nil, func(it *pb.RedeemItem) { it.Audience = "feed" }, pb.Reason_REASON_RENEWAL_MISMATCH},
		{"an audience that is not the route's", func(r *pb.IssueTokenRequest) { r.Audience = "feed" }, nil, nil, pb.Reason_REASON_AUDIENCE_MISMATCH},
		{"another instance of the node", plain, func(f *fixture, _ *node, _ *pb.RedeemItem) *node { return f.node("node-1") }, nil, pb.Reason_REASON_RENEWAL_MISMATCH},
		{"another node", plain, func(f *fixture, _ *node, _ *pb.RedeemItem) *node { return f.node("node-2") }, nil, pb.Reason_REASON_RENEWAL_MISMATCH},
		{"a binding that does not fit", func(r *pb.IssueTokenRequest) { r.Origin = "https://app.example.com" }, nil, nil, pb.Reason_REASON_ORIGIN_MISMATCH},
		{"another certificate", func(r *pb.IssueTokenRequest) { r.ClientCertificateSha256 = make([]byte, 32) }, nil, nil, pb.Reason_REASON_CLIENT_CERTIFICATE_MISMATCH},
		{"a wrong secret, whatever it would renew", func(r *pb.IssueTokenRequest) { r.Subject = "bob" }, nil, func(it *pb.RedeemItem) { it.Digest[0] ^= 1 }, pb.Reason_REASON_TOKEN_SECRET_WRONG},
	} {
		t.Run(c.rule, func(t *testing.T) {
			f := newFixture(t)
			n := f.node("node-1")
			old := n.item(f.issue().GetToken())
			n.grant(old)
			if c.before != nil {
				n = c.before(f, n, old)
			}
			it := n.renewal(old, c.ask)
			if c.edit != nil {
				it = proto.CloneOf(it) // old keeps its id
				c.edit(it)
			}
			f.equal("reason", n.refusal(it), c.want)
			f.equal("outcome in the audit trail", f.lines()[len(f.lines())-1]["outcome"], c.want.Label())
			it.RenewsSessionId = nil
			if c.want == pb.Reason_REASON_SESSION_ENDED || c.want == pb.Reason_REASON_RENEWAL_MISMATCH {
				n.grant(it) // the token is as good as before
			}
		})
	}
}

// TestRenewalDoesNotCountTwice proves that a renewal is granted where the limits
// are reached, and that it opens no way around them.
func TestRenewalDoesNotCountTwice(t *testing.T) {
	for _, c := range []struct {
		limit               string
		perSubject, perUser uint32
		perTenant           uint32
	}{
		{"of the subject", 1, 0, 0}, {"of the token", 0, 1, 0}, {"of the tenant", 0, 0, 1}, {"none that could be raised", 1<<32 - 1, 0, 0},
	} {
		t.Run(c.limit, func(t *testing.T) {
			f := newFixture(t, func(f *fixture) { f.cfg.Sessions.PerSubject, f.cfg.Sessions.PerTenant = c.perSubject, c.perTenant })
			n := f.node("node-1")
			ask := func(r *pb.IssueTokenRequest) {
				if c.perUser > 0 {
					r.Limits = &pb.SessionLimits{SessionsPerSubject: c.perUser}
				}
			}
			old := n.item(f.issue(ask).GetToken())
			n.grant(old)
			if c.perSubject == 1<<32-1 {
				n.grant(n.renewal(old, ask))
				return
			}
			full := pb.Reason_REASON_SESSION_LIMIT
			f.equal("another session", n.refusal(n.item(f.issue(ask).GetToken())), full)
			it := n.renewal(old, ask)
			n.grant(it)
			f.equal("a second renewal of the same session", n.refusal(n.renewal(old, ask)), full)
			f.equal("a renewal of the new one before the old one's end", n.refusal(n.renewal(it, ask)), full)
			n.ended(fmt.Sprintf("%x", old.GetSessionId()))
			f.equal("another session", n.refusal(n.item(f.issue(ask).GetToken())), full)
			n.grant(n.renewal(it, ask))
		})
	}
}

// TestRenewalIsParsed proves that what no node may ask fails its stream.
func TestRenewalIsParsed(t *testing.T) {
	for _, c := range []struct {
		rule string
		edit func(*pb.RedeemItem)
		want string
	}{
		{"too short", func(it *pb.RedeemItem) { it.RenewsSessionId = []byte{1} }, "items[0].renews_session_id: 1 bytes, want 16 (invalid request)"},
		{"all zeros", func(it *pb.RedeemItem) { it.RenewsSessionId = make([]byte, 16) }, "items[0].renews_session_id: is all zeros (invalid request)"},
		{"itself", func(it *pb.RedeemItem) { it.RenewsSessionId = it.SessionId }, "items[0].renews_session_id: is session_id..."},
	} {
		t.Run(c.rule, func(t *testing.T) {
			f := newFixture(t)
			n := f.node("node-1")
			stream := n.open(n.ctx)
			f.ok(stream.Send(&pb.RedeemRequest{Items: []*pb.RedeemItem{n.item(f.issue().GetToken(), c.edit)}}))
			_, err := stream.Recv()
			f.code(err, codes.InvalidArgument)
			f.fails(err, "InvalidArgument invalid_request: "+c.want)
		})
	}
}
