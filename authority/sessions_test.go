package authority_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// ended reports a session of this node as closed by its peer.
func (n *node) ended(sessionID string) {
	n.Helper()
	id, err := hex.DecodeString(sessionID)
	n.ok(err)
	_, err = n.nodes(n.name).ReportSessions(n.ctx, &pb.ReportSessionsRequest{InstanceId: n.id[:], Ended: []*pb.SessionEnd{
		{SessionId: id, Reason: pb.Reason_REASON_PEER_CLOSED, EndedAt: timestamppb.New(n.clock.Now())},
	}})
	n.ok(err)
}

// TestReportSessions proves that a node ends its own sessions, once, and that
// the audit trail tells why each ended.
func TestReportSessions(t *testing.T) {
	f := newFixture(t)
	n, other := f.node("node-1"), f.node("node-2")
	var ids [][]byte
	var tokens []string
	for range 3 {
		issued := f.issue()
		it := n.item(issued.GetToken())
		n.grant(it)
		ids, tokens = append(ids, it.GetSessionId()), append(tokens, issued.GetTokenId())
	}
	foreign := other.item(f.issue().GetToken())
	other.grant(foreign)
	end := func(id []byte, reason pb.Reason) *pb.SessionEnd {
		return &pb.SessionEnd{SessionId: id, Reason: reason, EndedAt: timestamp(start.Add(time.Second))}
	}
	report := func(name string, instance [16]byte, ended ...*pb.SessionEnd) error {
		_, err := f.nodes(name).ReportSessions(f.ctx, &pb.ReportSessionsRequest{InstanceId: instance[:], Ended: ended})
		return err
	}
	const closed = pb.Reason_REASON_PEER_CLOSED
	const denied = "PermissionDenied permission_denied: ended[0].session_id: the session is another node's, one of 1 such; the others of the 1 are taken (permission denied)"
	for _, c := range []struct {
		rule  string
		err   error
		want  string
		lives int
	}{
		{"no instance", report("node-1", [16]byte{}, end(ids[0], closed)), "InvalidArgument invalid_request: instance_id: is all zeros (invalid request)", 4},
		{"no sessions", report("node-1", n.id), "InvalidArgument invalid_request: ended: 0 are outside 1 to 1024 (invalid request)", 4},
		{"1025 sessions", report("node-1", n.id, make([]*pb.SessionEnd, 1025)...), "InvalidArgument invalid_request: ended: 1025 are outside 1 to 1024 (invalid request)", 4},
		{"a short id", report("node-1", n.id, end(ids[0], closed), end(ids[1][:3], closed)), "InvalidArgument invalid_request: ended[1].session_id: 3 bytes, want 16 (invalid request)", 4},
		{"no reason", report("node-1", n.id, end(ids[0], 0)), "InvalidArgument invalid_request: ended[0].reason: required, why the session ended (invalid request)", 4},
		{"no time", report("node-1", n.id, &pb.SessionEnd{SessionId: ids[0], Reason: closed}), "InvalidArgument invalid_request: ended[0].ended_at: required, a time of the years 1 to 9999 (invalid request)", 4},
		{"another node's session", report("node-1", n.id, end(foreign.GetSessionId(), closed)), denied, 4},
		{"as another instance", report("node-1", draw(), end(ids[0], closed)), denied, 4},
		{"as another node", report("node-2", n.id, end(ids[0], closed)), "PermissionDenied permission_denied: instance_id: it is registered by another node (permission denied)", 4},
	} {
		if got := failed(c.err); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.rule, got, c.want)
		}
	}
	ends := func(outcome string) (lines int) {
		for _, l := range f.lines() {
			if l["action"] == "SessionEnd" && (outcome == "denied") == (l["outcome"] == "permission_denied") {
				lines++
			}
		}
		return lines
	}
	f.equal("lines of ends that were not, and that were denied", []int{ends("ended"), ends("denied")}, []int{0, 2})
	f.equal("sessions", f.store.Stats().Sessions, 4)
	unknown := draw()
	f.ok(report("node-1", n.id, end(ids[0], closed), end(unknown[:], closed), end(ids[0], closed), end(ids[1], pb.Reason(999))))
	f.equal("sessions", f.store.Stats().Sessions, 2)
	f.equal("audit line", f.lastLine("SessionEnd"), fmt.Sprintf("caller=node-1 ended_at=2026-11-23T12:00:01Z outcome=unspecified session_id=%x subject=ada tenant=acme token_id=%s", ids[1], tokens[1]))
	f.equal("audit line of the call", f.lastLine("ReportSessions"), fmt.Sprintf("caller=node-1 ended=3 instance_id=%x outcome=ok", n.id))
	f.equal("audit lines", ends("ended"), 2)
	f.ok(report("node-1", n.id, end(ids[0], closed))) // again
	f.equal("audit lines", ends("ended"), 2)
}

func TestListSessions(t *testing.T) {
	f := newFixture(t)
	a, b := f.node("node-1"), f.node("node-2")
	open := func(n *node, caller, tenant, subject, tokenIP, clientIP string, ttl time.Duration) string {
		resp, err := f.tokens(caller).IssueToken(f.ctx, &pb.IssueTokenRequest{
			Tenant: tenant, Subject: subject, Audience: "chat", ClientIp: tokenIP, SessionTtl: duration(ttl),
		})
		f.ok(err)
		n.grant(n.item(resp.GetToken(), func(it *pb.RedeemItem) { it.Observed.Ip = addr(clientIP) }))
		return resp.GetTokenId()
	}
	open(a, "login", "acme", "a", "192.0.2.7", "198.51.100.1", 5*time.Hour)
	open(b, "admin", "acme", "b", "", "198.51.100.2", 4*time.Hour)
	token := open(a, "login", "bolt", "c", "", "192.0.2.9", 3*time.Hour)
	open(b, "login", "bolt", "d", "", "2001:db8::7", 2*time.Hour)
	for _, c := range []struct {
		rule string
		req  *pb.ListSessionsRequest
		want string
	}{
		{"all, the first to expire first", &pb.ListSessionsRequest{}, "dcba"},
		{"by tenant", &pb.ListSessionsRequest{Tenant: "bolt"}, "dc"},
		{"by subject", &pb.ListSessionsRequest{Subject: "a"}, "a"},
		{"by node", &pb.ListSessionsRequest{Node: "node-2"}, "db"},
		{"by issuer", &pb.ListSessionsRequest{Issuer: "admin"}, "b"},
		{"by token", &pb.ListSessionsRequest{TokenId: token}, "c"},
		{"by the token's address or its own", &pb.ListSessionsRequest{IpPrefix: "192.0.2.0/24"}, "ca"},
		{"by all", &pb.ListSessionsRequest{Tenant: "acme", Node: "node-2", IpPrefix: "198.51.100.2"}, "b"},
	} {
		for _, size := range []int32{0, 1, 3, 1000} {
			req := proto.CloneOf(c.req)
			req.PageSize = size
			got := ""
			for {
				resp, err := f.sessions("viewer").ListSessions(f.ctx, req)
				f.ok(err)
				for _, x := range resp.GetSessions() {
					got += x.GetSubject()
				}
				if req.PageToken = resp.GetNextPageToken(); req.GetPageToken() == "" {
					break
				}
			}
			f.equal(fmt.Sprintf("%s, pages of %d", c.rule, size), got, c.want)
		}
	}
	for _, c := range []struct {
		req  *pb.ListSessionsRequest
		want string
	}{
		{&pb.ListSessionsRequest{PageSize: 1001}, "page_size: 1001 is outside 1 to 1000"},
		{&pb.ListSessionsRequest{PageToken: "AAAA"}, "page_token: is not a next_page_token of this method"},
		{&pb.ListSessionsRequest{TokenId: "x"}, "token_id: not a token id: want 26 characters of Crockford base32, as in 01JD8Z0Q4M3T5V7X9ZABCDEFGH"},
		{&pb.ListSessionsRequest{TokenId: strings.Repeat("0", 26)}, "token_id: is all zeros"},
		{&pb.ListSessionsRequest{IpPrefix: "x/1"}, "ip_prefix: want a CIDR prefix such as 203.0.113.0/24 or 2001:db8::/32"},
	} {
		_, err := f.sessions("viewer").ListSessions(f.ctx, c.req)
		f.fails(err, "InvalidArgument invalid_request: "+c.want+" (invalid request)")
	}
	// A page token that nobody gave out is taken for a place, and does no harm.
	for _, b := range []byte{0x7f, 0x80, 0xff} {
		_, err := f.sessions("viewer").ListSessions(f.ctx, &pb.ListSessionsRequest{
			PageToken: base64.RawURLEncoding.EncodeToString(bytes.Repeat([]byte{b}, 24)),
		})
		f.ok(err)
	}
}

// TestSessionsEndByTheirTime proves that a session which nobody reports ends
// when its time is over.
func TestSessionsEndByTheirTime(t *testing.T) {
	f := newFixture(t, withoutFence)
	n := f.node("node-1")
	n.grant(n.item(f.issue(func(r *pb.IssueTokenRequest) { r.SessionTtl = duration(time.Hour) }).GetToken()))
	f.clock.advance(time.Hour)
	f.ok(f.service.Tend(f.ctx))
	f.equal("at its end", f.metric("gatehouse_authority_sessions{}"), 1)
	f.clock.advance(time.Millisecond)
	f.ok(f.service.Tend(f.ctx))
	f.equal("after it", f.metric("gatehouse_authority_sessions{}"), 0)
}
