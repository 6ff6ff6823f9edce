package authority_test

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
)

func TestGrantSaysWhatTheTokenSays(t *testing.T) {
	f := newFixture(t)
	n := f.node("node-1")
	issued := f.issue(func(r *pb.IssueTokenRequest) {
		r.ClientIp, r.Scopes, r.Attributes = "198.51.100.9", []string{"send"}, map[string]string{"plan": "pro"}
		r.Limits, r.SessionTtl = &pb.SessionLimits{MessageBytes: 99, MessagesPerSecond: 5, SessionsPerSubject: 2}, durationpb.New(time.Hour)
	})
	f.revoke(&pb.Selector{By: &pb.Selector_Tenant{Tenant: "elsewhere"}})
	shown := make([]byte, 32)
	it := n.item(issued.GetToken(), func(it *pb.RedeemItem) { it.Observed.ClientCertificateSha256 = shown })
	g := n.grant(it)
	f.equal("grant", []any{
		g.GetTenant(), g.GetSubject(), g.GetScopes(), g.GetAttributes(), g.GetIssuer(), g.GetSessionExpiresAt().AsTime(), g.GetClientIp(),
		g.GetLimits().GetMessageBytes(), g.GetLimits().GetMessagesPerSecond(), g.GetLimits().GetSessionsPerSubject(),
		g.GetIssuedRevision().GetSequence(), g.GetAsOf().GetSequence(),
	}, []any{
		"acme", "ada", []string{"send"}, map[string]string{"plan": "pro"}, "login", start.Add(time.Hour), netip.MustParseAddr("198.51.100.9").AsSlice(),
		99, 5, 2, 0, 1,
	})
	id := fmt.Sprintf("%x", it.GetSessionId())
	f.equal("audit line", f.lastLine("Redeem"), "audience=chat caller=node-1 client_certificate="+strings.Repeat("A", 43)+" client_ip=198.51.100.9 outcome=ok session_id="+id+
		" subject=ada tenant=acme token_id="+issued.GetTokenId())
	list, err := f.sessions("viewer").ListSessions(f.ctx, &pb.ListSessionsRequest{})
	f.ok(err)
	f.equal("sessions", len(list.GetSessions()), 1)
	x := list.GetSessions()[0]
	f.equal("session", []any{x.GetSessionId(), x.GetTokenId(), x.GetTenant(), x.GetSubject(), x.GetAudience(), x.GetNode(), x.GetInstanceId(), x.GetClientIp(), x.GetIssuer(), x.GetClientCertificateSha256()},
		[]any{id, issued.GetTokenId(), "acme", "ada", "chat", "node-1", fmt.Sprintf("%x", n.id), "198.51.100.9", "login", shown})
	got := f.get(issued.GetTokenId())
	f.equal("token", []any{got.GetState(), got.GetUses(), got.GetSessionIds()}, []any{pb.TokenState_TOKEN_STATE_USED, 1, []string{id}})
}

// TestRedeemRefuses pins reason and audit line of every refusal.
func TestRedeemRefuses(t *testing.T) {
	plain := func(*pb.IssueTokenRequest) {}
	same := func(*pb.RedeemItem) {}
	for _, c := range []struct {
		rule   string
		ask    func(*pb.IssueTokenRequest)
		before func(f *fixture, n *node, issued *pb.IssueTokenResponse)
		edit   func(*pb.RedeemItem)
		want   pb.Reason
		about  string // what the audit line tells beside the usual
	}{
		{"no such token", plain, nil, func(it *pb.RedeemItem) { it.TokenId[15] ^= 1 }, pb.Reason_REASON_TOKEN_UNKNOWN, "unknown"},
		{"wrong secret", plain, nil, func(it *pb.RedeemItem) { it.Digest[0] ^= 1 }, pb.Reason_REASON_TOKEN_SECRET_WRONG, ""},
		{"expired", plain, func(f *fixture, _ *node, _ *pb.IssueTokenResponse) { f.clock.advance(time.Minute) }, same, pb.Reason_REASON_TOKEN_EXPIRED, ""},
		{"a millisecond before it begins", func(r *pb.IssueTokenRequest) { r.NotBefore = timestamppb.New(start.Add(time.Millisecond)) }, nil, same, pb.Reason_REASON_TOKEN_NOT_YET_ACTIVE, ""},
		{"for another audience", func(r *pb.IssueTokenRequest) { r.Audience = "feed" }, nil, same, pb.Reason_REASON_AUDIENCE_MISMATCH, ""},
		{"in a URL though it may open more sockets", func(r *pb.IssueTokenRequest) { r.MaxUses = 2 }, nil, func(it *pb.RedeemItem) { it.SingleUseOnly = true }, pb.Reason_REASON_TOKEN_CARRIER, ""},
		{"used", plain, func(f *fixture, n *node, i *pb.IssueTokenResponse) { n.grant(n.item(i.GetToken())) }, same, pb.Reason_REASON_TOKEN_USED, ""},
		{"used as often as allowed", func(r *pb.IssueTokenRequest) { r.MaxUses = 2 }, func(f *fixture, n *node, i *pb.IssueTokenResponse) {
			n.grant(n.item(i.GetToken()))
			n.grant(n.item(i.GetToken()))
		}, same, pb.Reason_REASON_TOKEN_USED, ""},
		{"revoked", plain, func(f *fixture, _ *node, i *pb.IssueTokenResponse) {
			f.revoke(&pb.Selector{By: &pb.Selector_TokenId{TokenId: i.GetTokenId()}})
		}, same, pb.Reason_REASON_TOKEN_REVOKED, ""},
		{"its address is locked, which no issue could tell", plain, func(f *fixture, _ *node, i *pb.IssueTokenResponse) {
			f.lock("203.0.113.0/24")
			*i = *f.issue()
		}, func(it *pb.RedeemItem) { it.Observed.Ip = []byte{203, 0, 113, 4} }, pb.Reason_REASON_LOCKED, "address"},
		{"origin", func(r *pb.IssueTokenRequest) { r.Origin = "https://app.example.com" }, nil, func(it *pb.RedeemItem) { it.Observed.Origin = []byte("https://evil.example.com") }, pb.Reason_REASON_ORIGIN_MISMATCH, "origin"},
		{"certificate", func(r *pb.IssueTokenRequest) { r.ClientCertificateSha256 = bytes.Repeat([]byte{1}, 32) }, nil, func(it *pb.RedeemItem) { it.Observed.ClientCertificateSha256 = bytes.Repeat([]byte{0xfb}, 32) }, pb.Reason_REASON_CLIENT_CERTIFICATE_MISMATCH, "certificate"},
		{"session id of another session", func(r *pb.IssueTokenRequest) { r.MaxUses = 2 }, func(f *fixture, n *node, i *pb.IssueTokenResponse) {
			n.grant(n.item(i.GetToken(), func(it *pb.RedeemItem) { it.SessionId = bytes.Repeat([]byte{7}, 16) }))
		}, func(it *pb.RedeemItem) {
			it.SessionId, it.Observed.UserAgent = bytes.Repeat([]byte{7}, 16), []byte("other")
		}, pb.Reason_REASON_SESSION_ID_TAKEN, "user_agent"},
		{"more sessions of the subject than its token allows", func(r *pb.IssueTokenRequest) { r.MaxUses, r.Limits = 9, &pb.SessionLimits{SessionsPerSubject: 1} }, func(f *fixture, n *node, i *pb.IssueTokenResponse) {
			n.grant(n.item(i.GetToken()))
		}, same, pb.Reason_REASON_SESSION_LIMIT, ""},
	} {
		t.Run(c.rule, func(t *testing.T) {
			f := newFixture(t)
			n := f.node("node-1")
			issued := f.issue(c.ask)
			if c.before != nil {
				c.before(f, n, issued)
			}
			it := n.item(issued.GetToken(), c.edit)
			f.equal("reason", n.refusal(it), c.want)

			id, who := issued.GetTokenId(), "subject=ada tenant=acme "
			ip, agent, origin, audience, certificate := "198.51.100.9", "", "", "chat", ""
			switch c.about {
			case "unknown":
				id, who = id[:25]+string(crockford[crockfordIndex(id[25])^1]), ""
			case "address":
				ip = "203.0.113.4"
			case "origin":
				origin = "https://evil.example.com"
			case "certificate":
				certificate = "client_certificate=-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_s "
			case "user_agent":
				agent = "other"
			}
			f.equal("audit line", f.lastLine("Redeem"), fmt.Sprintf("audience=%s caller=node-1 %sclient_ip=%s origin=%s outcome=%s session_id=%x %stoken_id=%s user_agent=%s",
				audience, certificate, ip, origin, c.want.Label(), it.GetSessionId(), who, id, agent))
		})
	}
}

const crockford = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

func crockfordIndex(c byte) int { return strings.IndexByte(crockford, c) }

func TestSessionLimits(t *testing.T) {
	f := newFixture(t, func(f *fixture) { f.cfg.Sessions.PerSubject, f.cfg.Sessions.PerTenant = 2, 3 })
	n := f.node("node-1")
	redeem := func(tenant, subject string) pb.Reason {
		return n.refusal(n.item(f.issue(func(r *pb.IssueTokenRequest) { r.Tenant, r.Subject = tenant, subject }).GetToken()))
	}
	var got []pb.Reason
	for range 3 {
		got = append(got, redeem("acme", "ada"))
	}
	got = append(got, redeem("acme", "bob"), redeem("acme", "cyd"), redeem("bolt", "ada"))
	const limit = pb.Reason_REASON_SESSION_LIMIT
	f.equal("two of a subject, three of a tenant", got, []pb.Reason{0, 0, limit, 0, limit, 0})

	// A refusal uses nothing up, and an end makes room.
	issued := f.issue(func(r *pb.IssueTokenRequest) { r.Subject = "bob" })
	no := n.batch(n.item(issued.GetToken()))[0].GetRefusal()
	f.equal("full", no.GetReason(), limit)
	f.equal("retry after", no.GetRetryAfter().AsDuration(), f.cfg.Fleet.RetryAfter)
	list, err := f.sessions("admin").ListSessions(f.ctx, &pb.ListSessionsRequest{Subject: "bob"})
	f.ok(err)
	n.ended(list.GetSessions()[0].GetSessionId())
	n.grant(n.item(issued.GetToken()))
}

// TestBindings goes through every binding, with what fits it, what fits it
// nearly, what does not, and nothing.
func TestBindings(t *testing.T) {
	f := newFixture(t)
	n := f.node("node-1")
	const (
		off, log, prefix, strict = pb.IpBinding_IP_BINDING_OFF, pb.IpBinding_IP_BINDING_LOG, pb.IpBinding_IP_BINDING_PREFIX, pb.IpBinding_IP_BINDING_STRICT
		refused                  = "ip_mismatch"
		noted                    = "ok, noted ip"
	)
	for _, c := range []struct {
		binding          pb.IpBinding
		issued, observed string
		want             string
	}{
		{off, "192.0.2.7", "203.0.113.1", "ok"},
		{log, "192.0.2.7", "192.0.2.7", "ok"}, {log, "192.0.2.7", "::ffff:192.0.2.7", "ok"}, {log, "192.0.2.7", "192.0.2.8", noted}, {log, "192.0.2.7", "2001:db8::1", noted},
		{prefix, "192.0.2.7", "192.0.2.7", "ok"}, {prefix, "192.0.2.7", "192.0.2.255", "ok"}, {prefix, "192.0.2.7", "::ffff:192.0.2.99", "ok"},
		{prefix, "::ffff:192.0.2.7", "192.0.2.99", "ok"}, {prefix, "192.0.2.7", "192.0.3.7", refused}, {prefix, "192.0.2.7", "2001:db8::1", refused},
		{prefix, "2001:db8:0:1::7", "2001:db8:0:1:ffff::", "ok"}, {prefix, "2001:db8:0:1::7", "2001:db8:0:2::7", refused}, {prefix, "2001:db8:0:1::7", "192.0.2.7", refused},
		{prefix, "::7", "::ffff:192.0.2.7", refused}, {prefix, "0.0.0.1", "::1", refused},
		{strict, "192.0.2.7", "192.0.2.7", "ok"}, {strict, "192.0.2.7", "::ffff:192.0.2.7", "ok"}, {strict, "192.0.2.7", "192.0.2.8", refused},
		{strict, "2001:db8::7", "2001:db8::7", "ok"}, {strict, "2001:db8::7", "2001:db8::8", refused}, {strict, "2001:db8::7", "192.0.2.7", refused},
	} {
		issued := f.issue(func(r *pb.IssueTokenRequest) { r.ClientIp, r.IpBinding = c.issued, c.binding })
		got := n.outcome(n.item(issued.GetToken(), func(it *pb.RedeemItem) { it.Observed.Ip = netip.MustParseAddr(c.observed).AsSlice() }))
		if got != c.want {
			t.Errorf("%v: bound to %s, seen from %s: %s, want %s", c.binding, c.issued, c.observed, got, c.want)
		}
	}

	const (
		uaOff, uaLog       = pb.UserAgentBinding_USER_AGENT_BINDING_OFF, pb.UserAgentBinding_USER_AGENT_BINDING_LOG
		class, uaStrict    = pb.UserAgentBinding_USER_AGENT_BINDING_CLASS, pb.UserAgentBinding_USER_AGENT_BINDING_STRICT
		uaRefused, uaNoted = "user_agent_mismatch", "ok, noted user_agent"
	)
	chrome, newer, windows := chromeOnLinux, strings.ReplaceAll(chromeOnLinux, "131", "156"), agents["Chrome on Windows"][0]
	for _, c := range []struct {
		binding          pb.UserAgentBinding
		issued, observed string
		want             string
	}{
		{uaOff, chrome, "curl/8", "ok"},
		{uaLog, chrome, chrome, "ok"}, {uaLog, chrome, newer, "ok"}, {uaLog, chrome, windows, uaNoted}, {uaLog, chrome, "", uaNoted},
		{class, chrome, chrome, "ok"}, {class, chrome, newer, "ok"}, {class, newer, chrome, "ok"}, {class, chrome, windows, uaRefused}, {class, chrome, "curl/8", uaRefused},
		{class, chrome, "", uaRefused}, {class, chrome, "\xff\xfe", uaRefused}, {class, "curl/8", "curl/7", "ok"},
		{class, "\xff", "\xff", "ok"}, {class, "\xff", "\xfe", uaRefused}, {class, "\xff", "", uaRefused},
		{uaStrict, chrome, chrome, "ok"}, {uaStrict, chrome, newer, uaRefused}, {uaStrict, chrome, "", uaRefused},
	} {
		issued := f.issue(func(r *pb.IssueTokenRequest) { r.UserAgent, r.UserAgentBinding = []byte(c.issued), c.binding })
		got := n.outcome(n.item(issued.GetToken(), func(it *pb.RedeemItem) { it.Observed.UserAgent = []byte(c.observed) }))
		if got != c.want {
			t.Errorf("%v: bound to %.20q, seen %.20q: %s, want %s", c.binding, c.issued, c.observed, got, c.want)
		}
	}

	for _, c := range []struct{ issued, observed, want string }{
		{"https://app.example.com", "https://app.example.com", "ok"},
		{"", "https://anything", "ok"},
		{"https://app.example.com", "", "origin_mismatch"},
		{"https://app.example.com", "null", "origin_mismatch"},
		{"https://app.example.com", "https://app.example.com:443", "origin_mismatch"},
		{"https://app.example.com", "https://APP.example.com", "origin_mismatch"},
		{"https://app.example.com", "https://app.example.com.", "origin_mismatch"},
		{"https://app.example.com", "https://app.example.com.evil.example", "origin_mismatch"},
		{"https://app.example.com", "https://evilapp.example.com", "origin_mismatch"},
		{"https://app.example.com", "http://app.example.com", "origin_mismatch"},
		{"https://app.example.com", "https://app.example.com\xff", "origin_mismatch"},
	} {
		issued := f.issue(func(r *pb.IssueTokenRequest) { r.Origin = c.issued })
		got := n.outcome(n.item(issued.GetToken(), func(it *pb.RedeemItem) { it.Observed.Origin = []byte(c.observed) }))
		if got != c.want {
			t.Errorf("bound to %q, seen %q: %s, want %s", c.issued, c.observed, got, c.want)
		}
	}
	certificate, other := strings.Repeat("\x00\xff", 16), strings.Repeat("\x00\xff", 15)+"\x00\xfe"
	for _, c := range []struct{ issued, observed, want string }{
		{certificate, certificate, "ok"},
		{"", certificate, "ok"},
		{"", "", "ok"},
		{certificate, "", "client_certificate_mismatch"},
		{certificate, other, "client_certificate_mismatch"},
	} {
		issued := f.issue(func(r *pb.IssueTokenRequest) { r.ClientCertificateSha256 = []byte(c.issued) })
		got := n.outcome(n.item(issued.GetToken(), func(it *pb.RedeemItem) { it.Observed.ClientCertificateSha256 = []byte(c.observed) }))
		if got != c.want {
			t.Errorf("bound to %x, shown %x: %s, want %s", c.issued, c.observed, got, c.want)
		}
	}
	for metric, want := range map[string]int{
		`binding="client_certificate",mode="refused"`: 2,
		`binding="ip",mode="let_pass"`:                2, `binding="ip",mode="refused"`: 9, `binding="user_agent",mode="let_pass"`: 2,
		`binding="user_agent",mode="refused"`: 8, `binding="origin",mode="refused"`: 9,
	} {
		f.equal(metric, f.metric("gatehouse_authority_binding_mismatches_total{"+metric+"}"), want)
	}
}

// outcome redeems an item and reads its audit line: "ok", "ok, noted X" or the
// reason.
func (n *node) outcome(it *pb.RedeemItem) string {
	n.Helper()
	r := n.batch(it)[0]
	lines := n.lines()
	i := len(lines) - 1
	for lines[i]["action"] != "Redeem" { // one of a revocation, by a third strike
		i--
	}
	out := lines[i]["outcome"].(string)
	if (r.GetGrant() != nil) != (out == "ok") {
		n.Fatalf("result %v, audit line %v", r, lines[i])
	}
	if m, ok := lines[i]["mismatches"]; ok {
		out += fmt.Sprintf(", noted %v", m)
	}
	return out
}

// A token that is shown without its certificate three times is revoked, as by any
// other binding.
func TestStrikesOfCertificates(t *testing.T) {
	f := newFixture(t)
	n := f.node("node-1")
	issued := f.issue(func(r *pb.IssueTokenRequest) { r.ClientCertificateSha256 = make([]byte, 32) })
	for range 3 {
		f.equal("stolen", n.refusal(n.item(issued.GetToken())), pb.Reason_REASON_CLIENT_CERTIFICATE_MISMATCH)
	}
	f.equal("state", f.get(issued.GetTokenId()).GetState(), pb.TokenState_TOKEN_STATE_REVOKED)
}

// TestThreeRefusedMismatchesRevoke proves that whoever shows a token from the
// wrong place three times ends it, once, and that who only guesses cannot.
func TestThreeRefusedMismatchesRevoke(t *testing.T) {
	f := newFixture(t)
	n := f.node("node-1")
	issued := f.issue(func(r *pb.IssueTokenRequest) { r.Origin = "https://app.example.com" })
	wrong := func(it *pb.RedeemItem) { it.Observed.Origin = []byte("https://evil.example") }
	right := func(it *pb.RedeemItem) { it.Observed.Origin = []byte("https://app.example.com") }
	guess := func(it *pb.RedeemItem) { wrong(it); it.Digest[3] ^= 1 }
	for range 9 {
		f.equal("a guess", n.refusal(n.item(issued.GetToken(), guess)), pb.Reason_REASON_TOKEN_SECRET_WRONG)
	}
	const mismatch = pb.Reason_REASON_ORIGIN_MISMATCH
	f.equal("first", n.refusal(n.item(issued.GetToken(), wrong)), mismatch)
	f.equal("second", n.refusal(n.item(issued.GetToken(), wrong)), mismatch)
	f.equal("state", f.get(issued.GetTokenId()).GetState(), pb.TokenState_TOKEN_STATE_ACTIVE)
	f.equal("third", n.refusal(n.item(issued.GetToken(), wrong)), mismatch)
	f.equal("audit line", f.lastLine("Revoke"), "caller=authority outcome=ok reason=three refused mismatches revision=1 token_id="+issued.GetTokenId())
	f.equal("state", f.get(issued.GetTokenId()).GetState(), pb.TokenState_TOKEN_STATE_REVOKED)
	f.equal("the right place", n.refusal(n.item(issued.GetToken(), right)), pb.Reason_REASON_TOKEN_REVOKED)

	// However often it comes back: one entry of the log is enough.
	for range 20 {
		n.refusal(n.item(issued.GetToken(), wrong))
	}
	list, err := f.revocations("admin").ListRevocations(f.ctx, &pb.ListRevocationsRequest{})
	f.ok(err)
	f.equal("revocations", len(list.GetRevocations()), 1)
	f.equal("actor", list.GetRevocations()[0].GetActor(), "authority")
	if es, _ := n.entries(1); len(es) != 1 || es[0].GetRevoked().GetTokenId() != issued.GetTokenId() {
		t.Errorf("nodes hear of %v", es)
	}
}

// TestHostileHandshakeFailsAlone proves that what clients send cannot fail the
// items beside theirs, and that what only a node can get wrong fails its
// stream.
func TestHostileHandshakeFailsAlone(t *testing.T) {
	f := newFixture(t)
	n := f.node("node-1")
	bound := func(r *pb.IssueTokenRequest) {
		r.UserAgent, r.Origin = []byte(chromeOnLinux), "https://app.example.com"
	}
	var items []*pb.RedeemItem
	for i := range 256 {
		issued := f.issue(bound)
		items = append(items, n.item(issued.GetToken(), func(it *pb.RedeemItem) {
			it.Observed.UserAgent, it.Observed.Origin = []byte(chromeOnLinux), []byte("https://app.example.com")
			switch {
			case i == 100:
				it.Observed.UserAgent = bytes.Repeat([]byte{0xff, 0, '\n'}, 170)
			case i == 101:
				it.Observed.Origin = bytes.Repeat([]byte{0xfe}, 512)
			case i == 102:
				it.TokenId = bytes.Repeat([]byte{1}, 16)
			case i == 103:
				it.Observed.UserAgent = []byte("x " + someToken)
			}
		}))
	}
	got := n.batch(items...)
	want := map[int]pb.Reason{
		100: pb.Reason_REASON_USER_AGENT_MISMATCH, 101: pb.Reason_REASON_ORIGIN_MISMATCH,
		102: pb.Reason_REASON_TOKEN_UNKNOWN, 103: pb.Reason_REASON_USER_AGENT_MISMATCH,
	}
	for i, r := range got {
		f.equal(fmt.Sprint("item ", i), r.GetRefusal().GetReason(), want[i])
	}
	f.trail.Flush()
	if strings.Contains(f.audit.String(), someToken) {
		t.Error("the audit trail holds a token's text")
	}

	for _, c := range []struct {
		rule string
		req  *pb.RedeemRequest
		want string
	}{
		{"no items", &pb.RedeemRequest{}, "items: 0 are outside 1 to 256, or came with a second hello"},
		{"257 items", &pb.RedeemRequest{Items: slices.Repeat(items[:1], 257)}, "items: 257 are outside 1 to 256, or came with a second hello"},
		{"a second hello", &pb.RedeemRequest{Hello: &pb.RedeemHello{}, Items: items[:1]}, "items: 1 are outside 1 to 256, or came with a second hello"},
		{"token id", broken(n, func(it *pb.RedeemItem) { it.TokenId = it.TokenId[:15] }), "items[0].token_id: 15 bytes, want 16"},
		{"zero token id", broken(n, func(it *pb.RedeemItem) { it.TokenId = make([]byte, 16) }), "items[0].token_id: is all zeros"},
		{"digest", broken(n, func(it *pb.RedeemItem) { it.Digest = nil }), "items[0].digest: 0 bytes, want 32"},
		{"session id", broken(n, func(it *pb.RedeemItem) { it.SessionId = make([]byte, 17) }), "items[0].session_id: 17 bytes, want 16"},
		{"address", broken(n, func(it *pb.RedeemItem) { it.Observed.Ip = make([]byte, 5) }), "items[0].observed.ip: 5 bytes, want 4 or 16"},
		{"no observation", broken(n, func(it *pb.RedeemItem) { it.Observed = nil }), "items[0].observed.ip: 0 bytes, want 4 or 16"},
		{"User-Agent not cut", broken(n, func(it *pb.RedeemItem) { it.Observed.UserAgent = make([]byte, 513) }), "items[0].observed.user_agent: 513 bytes are above 512"},
		{"a certificate's hash of another length", broken(n, func(it *pb.RedeemItem) { it.Observed.ClientCertificateSha256 = make([]byte, 20) }), "items[0].observed.client_certificate_sha256: 20 bytes, want 32, or none"},
		{"a span of another length", broken(n, func(it *pb.RedeemItem) { it.Span = make([]byte, 16) }), "items[0].span: 16 bytes, want 24, or none"},
		{"Origin not cut", broken(n, func(it *pb.RedeemItem) { it.Observed.Origin = make([]byte, 513) }), "items[0].observed.origin: 513 bytes are above 512"},
		{"no audience", broken(n, func(it *pb.RedeemItem) { it.Audience = "" }), "items[0].audience: required, 1 to 128 bytes"},
	} {
		stream := n.open(f.ctx)
		f.ok(stream.Send(c.req))
		_, err := stream.Recv()
		if got, want := failed(err), "InvalidArgument invalid_request: "+c.want+" (invalid request)"; got != want {
			t.Errorf("%s:\n got %s\nwant %s", c.rule, got, want)
		}
	}
}

// broken is a request with an item that breaks the contract.
func broken(n *node, edit func(*pb.RedeemItem)) *pb.RedeemRequest {
	return &pb.RedeemRequest{Items: []*pb.RedeemItem{n.item(n.issue().GetToken(), edit)}}
}

// TestSingleUseInTheWholeFleet proves promise 2: of 64 streams of two nodes that
// redeem a token at once, one gets it.
func TestSingleUseInTheWholeFleet(t *testing.T) {
	f := newFixture(t)
	for _, uses := range []uint32{1, 3} {
		issued := f.issue(func(r *pb.IssueTokenRequest) { r.MaxUses = uses })
		nodes := []*node{f.node("node-1"), f.node("node-2")}
		var granted, used sync.Map
		var wg sync.WaitGroup
		for i := range 64 {
			n := nodes[i%2]
			stream, it := n.open(f.ctx), n.item(issued.GetToken())
			wg.Go(func() {
				if err := stream.Send(&pb.RedeemRequest{Items: []*pb.RedeemItem{it}}); err != nil {
					t.Error(err)
					return
				}
				resp, err := stream.Recv()
				switch r := resp.GetResults(); {
				case err != nil:
					t.Error(err)
				case r[0].GetGrant() != nil:
					granted.Store(i, true)
				case r[0].GetRefusal().GetReason() == pb.Reason_REASON_TOKEN_USED:
					used.Store(i, true)
				}
				_ = stream.CloseSend()
			})
		}
		wg.Wait()
		f.equal("grants and refusals", []int{size(&granted), size(&used)}, []int{int(uses), 64 - int(uses)})
	}
}

func size(m *sync.Map) (n int) {
	m.Range(func(any, any) bool { n++; return true })
	return n
}

// What no handshake waits for any more is not decided: its token must stay good for
// the next one. What follows from a decision has the time of any call.
func TestRedeemIsDecidedInTimeOrNot(t *testing.T) {
	asked := &askedStore{}
	f := newFixture(t, func(f *fixture) { asked.Store, f.store = f.store, asked })
	n := f.node("node-1")
	n.grant(n.item(f.issue().GetToken()))
	if asked.redeem <= 0 || asked.redeem > 5*time.Second {
		t.Errorf("the store may take %v to begin, want 5 s at most", asked.redeem)
	}
	bound := f.issue(func(r *pb.IssueTokenRequest) { r.Origin = "https://app.example.com" }).GetToken()
	for range 3 {
		n.refusal(n.item(bound, func(it *pb.RedeemItem) { it.Observed.Origin = []byte("https://evil.example.com") }))
	}
	if asked.appends != 1 || asked.append <= 5*time.Second {
		t.Errorf("three mismatches revoke in %d entries, within %v: want one, as any revocation has", asked.appends, asked.append)
	}
}

// askedStore notes how long callers wait for it; 0 is without a bound.
type askedStore struct {
	storage.Store
	redeem, append time.Duration
	appends        int
}

func left(ctx context.Context) time.Duration {
	if end, ok := ctx.Deadline(); ok {
		return time.Until(end)
	}
	return 0
}

func (s *askedStore) Redeem(ctx context.Context, batch []storage.Redemption) ([]storage.Redeemed, error) {
	s.redeem = left(ctx)
	return s.Store.Redeem(ctx, batch)
}

func (s *askedStore) Append(ctx context.Context, e storage.Entry) (storage.Entry, error) {
	s.append = left(ctx)
	s.appends++
	return s.Store.Append(ctx, e)
}
