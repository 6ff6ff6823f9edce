package authority_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// Selectors of everything that ada's token and session can be hit by.
func byToken(id string) *pb.Selector {
	return &pb.Selector{By: &pb.Selector_TokenId{TokenId: id}}
}

func bySession(id []byte) *pb.Selector {
	return &pb.Selector{By: &pb.Selector_SessionId{SessionId: fmt.Sprintf("%x", id)}}
}

func bySubject(tenant, subject string) *pb.Selector {
	return &pb.Selector{By: &pb.Selector_Subject{Subject: &pb.Subject{Tenant: tenant, Subject: subject}}}
}

func byTenant(tenant string) *pb.Selector {
	return &pb.Selector{By: &pb.Selector_Tenant{Tenant: tenant}}
}

func byPrefix(prefix string) *pb.Selector {
	return &pb.Selector{By: &pb.Selector_IpPrefix{IpPrefix: prefix}}
}

func everyone(yes bool) *pb.Selector {
	return &pb.Selector{By: &pb.Selector_AllSubjects{AllSubjects: yes}}
}

func byIssuer(issuer string) *pb.Selector {
	return &pb.Selector{By: &pb.Selector_Issuer{Issuer: issuer}}
}

// TestRevokeHitsWhatWasIssuedBefore proves, for every selector, that it hits the
// tokens and sessions it names that were issued before its revision, and
// nothing else and nothing later.
func TestRevokeHitsWhatWasIssuedBefore(t *testing.T) {
	type pair struct {
		unused *pb.IssueTokenResponse
		item   *pb.RedeemItem // of a live session
		used   *pb.IssueTokenResponse
	}
	for _, c := range []struct {
		kind     string
		selector func(ada pair) *pb.Selector
		token    bool // hits the unused token too
		session  bool
	}{
		{"token", func(ada pair) *pb.Selector { return byToken(ada.unused.GetTokenId()) }, true, false},
		{"used token", func(ada pair) *pb.Selector { return byToken(ada.used.GetTokenId()) }, false, true},
		{"session", func(ada pair) *pb.Selector { return bySession(ada.item.GetSessionId()) }, false, true},
		{"subject", func(pair) *pb.Selector { return bySubject("acme", "ada") }, true, true},
		{"tenant", func(pair) *pb.Selector { return byTenant("acme") }, true, true},
		{"prefix of the token's address", func(pair) *pb.Selector { return byPrefix("192.0.2.0/24") }, true, true},
		{"address of the token", func(pair) *pb.Selector { return byPrefix("::ffff:192.0.2.7") }, true, true},
		{"prefix of the session's address", func(pair) *pb.Selector { return byPrefix("198.51.100.0/25") }, false, true},
		{"issuer", func(pair) *pb.Selector { return byIssuer("acme") }, true, true},
	} {
		t.Run(c.kind, func(t *testing.T) {
			f := newFixture(t)
			n := f.node("node-1")
			issue := func(caller, tenant, subject, ip string) *pb.IssueTokenResponse {
				resp, err := f.tokens(caller).IssueToken(f.ctx, &pb.IssueTokenRequest{Tenant: tenant, Subject: subject, Audience: "chat", ClientIp: ip})
				f.ok(err)
				return resp
			}
			live := func(caller, tenant, subject, ip, from string) pair {
				p := pair{unused: issue(caller, tenant, subject, ip), used: issue(caller, tenant, subject, ip)}
				p.item = n.item(p.used.GetToken(), func(it *pb.RedeemItem) { it.Observed.Ip = addr(from) })
				n.grant(p.item)
				return p
			}
			ada := live("acme", "acme", "ada", "192.0.2.7", "198.51.100.9")
			other := live("login", "bolt", "ada", "203.0.113.7", "203.0.113.9")
			resp := f.revoke(c.selector(ada))
			f.equal("revision", resp.GetRevision().GetSequence(), 1)
			f.equal("committed", resp.GetCommittedAt().AsTime(), start)
			later := live("acme", "acme", "ada", "192.0.2.7", "198.51.100.9")

			hit := func(p pair) (token, session bool) {
				s := n.refusal(p.item)
				tok := n.refusal(n.item(p.unused.GetToken(), func(it *pb.RedeemItem) { it.Observed.Ip = addr("203.0.113.200") }))
				for _, r := range []pb.Reason{s, tok} {
					if r != 0 && r != pb.Reason_REASON_TOKEN_REVOKED {
						t.Fatalf("refused for %v", r)
					}
				}
				return tok != 0, s != 0
			}
			for who, want := range map[string][2]bool{"ada": {c.token, c.session}, "another": {}, "later": {}} {
				token, session := hit(map[string]pair{"ada": ada, "another": other, "later": later}[who])
				f.equal("hits "+who+"'s token and session", []bool{token, session}, want[:])
			}
			entries, _ := n.entries(1)
			f.equal("nodes hear of", entries[0].GetRevision().GetSequence(), 1)
			if c.kind == "address of the token" {
				f.equal("selector", entries[0].GetRevoked().GetIpPrefix(), "192.0.2.7/32")
			} else {
				f.equal("selector", entries[0].GetRevoked(), c.selector(ada))
			}
			f.equal("revoked_by", f.get(ada.unused.GetTokenId()).GetRevokedBy().GetSequence() == 1, c.token)
		})
	}
}

// TestRevokeEveryone proves that all tenants are hit, and nobody who comes later.
func TestRevokeEveryone(t *testing.T) {
	f := newFixture(t)
	n := f.node("node-1")
	issue := func(tenant string) string {
		resp, err := f.tokens("login").IssueToken(f.ctx, &pb.IssueTokenRequest{Tenant: tenant, Subject: "ada", Audience: "chat"})
		f.ok(err)
		return resp.GetToken()
	}
	acme, bolt := n.item(issue("acme")), n.item(issue("bolt"))
	f.revoke(everyone(true))
	for _, it := range []*pb.RedeemItem{acme, bolt} {
		f.equal("refused", n.refusal(it), pb.Reason_REASON_TOKEN_REVOKED)
	}
	n.grant(n.item(issue("acme")))
	entries, _ := n.entries(1)
	f.equal("nodes hear of", entries[0].GetRevoked(), everyone(true))
	if line := f.lastLine("Revoke"); !strings.Contains(line, "all_subjects=true") {
		t.Errorf("audit line %s", line)
	}
}

func TestRevokeRefuses(t *testing.T) {
	f := newFixture(t)
	acme, bolt := f.issue().GetTokenId(), f.issue(func(r *pb.IssueTokenRequest) { r.Tenant = "bolt" })
	n := f.node("node-1")
	it := n.item(bolt.GetToken())
	n.grant(it)
	const wide = "InvalidArgument invalid_request: reason: required, 1 to 512 bytes (invalid request)"
	for _, c := range []struct {
		rule, caller string
		req          *pb.RevokeRequest
		want         string
	}{
		{"selector is required", "admin", &pb.RevokeRequest{}, "InvalidArgument invalid_request: selector: required: one of token_id, session_id, subject, tenant, ip_prefix, issuer, all_subjects (invalid request)"},
		{"an empty subject is not everyone", "admin", &pb.RevokeRequest{Selector: bySubject("acme", "")}, "InvalidArgument invalid_request: selector.subject.subject: required, 1 to 256 bytes (invalid request)"},
		{"an empty tenant is not everyone", "admin", &pb.RevokeRequest{Selector: byTenant(""), Reason: "r"}, "InvalidArgument invalid_request: selector.tenant: required, 1 to 128 bytes (invalid request)"},
		{"an empty issuer is not everyone", "admin", &pb.RevokeRequest{Selector: byIssuer(""), Reason: "r"}, "InvalidArgument invalid_request: selector.issuer: required, 1 to 64 bytes (invalid request)"},
		{"not all subjects are none", "admin", &pb.RevokeRequest{Selector: everyone(false), Reason: "r"}, "InvalidArgument invalid_request: selector.all_subjects: false says nothing of what to hit (invalid request)"},
		{"every address must not be a prefix", "admin", &pb.RevokeRequest{Selector: byPrefix("0.0.0.0/0"), Reason: "r"}, "InvalidArgument invalid_request: selector.ip_prefix: 0.0.0.0/0 is every address: name smaller prefixes, a tenant or an issuer (invalid request)"},
		{"a prefix has no zone", "admin", &pb.RevokeRequest{Selector: byPrefix("fe80::1%eth0/64"), Reason: "r"}, "InvalidArgument invalid_request: selector.ip_prefix: want a CIDR prefix such as 203.0.113.0/24 or 2001:db8::/32 (invalid request)"},
		{"token id", "admin", &pb.RevokeRequest{Selector: byToken(someToken)}, "InvalidArgument invalid_request: selector.token_id: not a token id: want 26 characters of Crockford base32, as in 01JD8Z0Q4M3T5V7X9ZABCDEFGH (invalid request)"},
		{"zero token id", "admin", &pb.RevokeRequest{Selector: byToken(strings.Repeat("0", 26))}, "InvalidArgument invalid_request: selector.token_id: is all zeros (invalid request)"},
		{"session id", "admin", &pb.RevokeRequest{Selector: bySession([]byte{1})}, "InvalidArgument invalid_request: selector.session_id: want 32 hexadecimal digits (invalid request)"},
		{"zero session id", "admin", &pb.RevokeRequest{Selector: bySession(make([]byte, 16))}, "InvalidArgument invalid_request: selector.session_id: is all zeros (invalid request)"},
		{"a tenant wants a reason", "admin", &pb.RevokeRequest{Selector: byTenant("acme")}, wide},
		{"a prefix wants a reason", "admin", &pb.RevokeRequest{Selector: byPrefix("192.0.2.0/24")}, wide},
		{"an issuer wants a reason", "admin", &pb.RevokeRequest{Selector: byIssuer("acme")}, wide},
		{"all subjects want a reason", "admin", &pb.RevokeRequest{Selector: everyone(true)}, wide},
		{"a wide dry run wants a reason too", "admin", &pb.RevokeRequest{Selector: byTenant("acme"), DryRun: true}, wide},
		{"reason has at most 512 bytes", "admin", &pb.RevokeRequest{Selector: byTenant("acme"), Reason: strings.Repeat("r", 513)}, "InvalidArgument invalid_request: reason: 513 bytes are above 512 (invalid request)"},
		{"reason holds no token", "admin", &pb.RevokeRequest{Selector: byTenant("acme"), Reason: "leaked: " + someToken}, "InvalidArgument invalid_request: reason: holds a token's text, which must be kept nowhere (invalid request)"},
		{"request id is not short", "admin", &pb.RevokeRequest{Selector: byToken(acme), RequestId: "123456789012345"}, "InvalidArgument invalid_request: request_id: 15 bytes are below 16: draw 16 random ones, so that no two requests share it (invalid request)"},
		{"request id is not long", "admin", &pb.RevokeRequest{Selector: byToken(acme), RequestId: strings.Repeat("x", 65)}, "InvalidArgument invalid_request: request_id: 65 bytes are above 64 (invalid request)"},
		{"an issuer's reach: another tenant", "acme", &pb.RevokeRequest{Selector: byTenant("bolt"), Reason: "r"}, `PermissionDenied permission_denied: selector.tenant: credential acme may not act in tenant "bolt", only in ["acme"] (permission denied)`},
		{"an issuer's reach: another tenant's subject", "acme", &pb.RevokeRequest{Selector: bySubject("bolt", "ada")}, `PermissionDenied permission_denied: selector.subject.tenant: credential acme may not act in tenant "bolt", only in ["acme"] (permission denied)`},
		{"an issuer's reach: another tenant's token", "acme", &pb.RevokeRequest{Selector: byToken(bolt.GetTokenId())}, "NotFound not_found: no token has the id " + bolt.GetTokenId() + ", or it expired and was forgotten (not found)"},
		{"an issuer's reach: another tenant's session", "acme", &pb.RevokeRequest{Selector: bySession(it.GetSessionId())}, fmt.Sprintf("NotFound not_found: no live session has the id %x (not found)", it.GetSessionId())},
		{"an issuer's reach: addresses", "acme", &pb.RevokeRequest{Selector: byPrefix("192.0.2.0/24"), Reason: "r"}, "PermissionDenied permission_denied: an issuer may not revoke by address or issuer, nor all subjects, which reach beyond its tenants (permission denied)"},
		{"an issuer's reach: issuers", "login", &pb.RevokeRequest{Selector: byIssuer("login"), Reason: "r"}, "PermissionDenied permission_denied: an issuer may not revoke by address or issuer, nor all subjects, which reach beyond its tenants (permission denied)"},
		{"an issuer's reach: all subjects", "login", &pb.RevokeRequest{Selector: everyone(true), Reason: "r"}, "PermissionDenied permission_denied: an issuer may not revoke by address or issuer, nor all subjects, which reach beyond its tenants (permission denied)"},
		{"an issuer's reach: a dry run", "acme", &pb.RevokeRequest{Selector: byToken(bolt.GetTokenId()), DryRun: true}, "NotFound not_found: no token has the id " + bolt.GetTokenId() + ", or it expired and was forgotten (not found)"},
	} {
		_, err := f.revocations(c.caller).Revoke(f.ctx, c.req)
		if got := failed(err); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.rule, got, c.want)
		}
	}
	f.trail.Flush()
	if strings.Contains(f.audit.String(), someToken) {
		t.Error("the audit trail holds a token's text")
	}
	head, _ := f.store.Head()
	f.equal("entries", head.Sequence, 0)
}

// TestRevokeTellsWhatItNamed proves that one token or session is answered for:
// whether there was one.
func TestRevokeTellsWhatItNamed(t *testing.T) {
	f := newFixture(t)
	n := f.node("node-1")
	issued := f.issue()
	it := n.item(issued.GetToken())
	n.grant(it)
	for _, c := range []struct {
		rule, caller     string
		selector         *pb.Selector
		tokens, sessions uint64
	}{
		{"a stored token", "admin", byToken(issued.GetTokenId()), 1, 0},
		{"a token of its tenant", "acme", byToken(issued.GetTokenId()), 1, 0},
		{"an unknown token", "admin", byToken("01JD8Z0Q4M3T5V7X9ZABCDEFGH"), 0, 0},
		{"a live session", "admin", bySession(it.GetSessionId()), 0, 1},
		{"a session of its tenant", "acme", bySession(it.GetSessionId()), 0, 1},
		{"an unknown session", "admin", bySession([]byte("0123456789abcdef")), 0, 0},
		{"a subject", "admin", bySubject("acme", "ada"), 0, 0},
	} {
		resp, err := f.revocations(c.caller).Revoke(f.ctx, &pb.RevokeRequest{Selector: c.selector})
		f.ok(err)
		f.equal(c.rule, []uint64{resp.GetTokens(), resp.GetSessions()}, []uint64{c.tokens, c.sessions})
	}
	f.equal("revoking again adds an entry", f.revoke(byToken(issued.GetTokenId())).GetRevision().GetSequence(), 8)
	f.equal("audit line", f.lastLine("Revoke"), "caller=admin dry_run=false outcome=ok reason=test revision=8 token_id="+issued.GetTokenId())
	f.equal("metric", f.metric(`gatehouse_authority_revocations_total{selector="token_id"}`), 4)
}

func TestDryRunsChangeNothing(t *testing.T) {
	f := newFixture(t)
	n := f.node("node-1")
	for range 3 {
		n.grant(n.item(f.issue().GetToken()))
	}
	f.issue()
	f.issue(func(r *pb.IssueTokenRequest) { r.Subject = "bob" })
	expired := f.issue(func(r *pb.IssueTokenRequest) { r.ClientIp = "192.0.2.7" })
	f.clock.advance(30 * time.Second)
	f.issue(func(r *pb.IssueTokenRequest) { r.ClientIp = "192.0.2.8" })
	f.clock.advance(31 * time.Second) // all but the last have expired
	for _, c := range []struct {
		selector         *pb.Selector
		tokens, sessions uint64
	}{
		{byTenant("acme"), 1, 3}, {bySubject("acme", "ada"), 1, 3}, {bySubject("acme", "bob"), 0, 0},
		{byIssuer("login"), 1, 3}, {everyone(true), 1, 3}, {byPrefix("192.0.2.0/24"), 1, 0}, {byPrefix("198.51.100.0/24"), 0, 3}, {byToken(expired.GetTokenId()), 0, 0},
	} {
		resp, err := f.revocations("admin").Revoke(f.ctx, &pb.RevokeRequest{Selector: c.selector, Reason: "r", DryRun: true})
		f.ok(err)
		if resp.GetTokens() != c.tokens || resp.GetSessions() != c.sessions || resp.GetRevision() != nil || resp.GetCommittedAt() != nil {
			t.Errorf("%v: %v, want %d tokens and %d sessions", c.selector, resp, c.tokens, c.sessions)
		}
	}
	resp, err := f.revocations("admin").Lock(f.ctx, &pb.LockRequest{
		Selector: &pb.LockSelector{By: &pb.LockSelector_Tenant{Tenant: "acme"}}, Reason: "r", DryRun: true,
	})
	f.ok(err)
	f.equal("dry lock", []any{resp.GetTokens(), resp.GetSessions(), resp.GetLockId(), resp.GetRevision() == nil}, []any{1, 3, "", true})
	f.equal("audit line", f.lastLine("Lock"), "caller=admin dry_run=true outcome=ok reason=r sessions=3 tenant=acme tokens=1")
	head, _ := f.store.Head()
	f.equal("entries", head.Sequence, 0)
	f.issue()
}

// TestRequestIDs proves that repeating a request does nothing twice, that
// callers don't share ids, and that an id stands for one request.
func TestRequestIDs(t *testing.T) {
	f := newFixture(t)
	const id = "0123456789abcdef"
	revoke := func(caller string, by *pb.Selector, reason string) (*pb.RevokeResponse, error) {
		return f.revocations(caller).Revoke(f.ctx, &pb.RevokeRequest{Selector: by, RequestId: id, Reason: reason})
	}
	first, err := revoke("admin", bySubject("acme", "ada"), "r")
	f.ok(err)
	f.clock.advance(time.Second)
	again, err := revoke("admin", bySubject("acme", "ada"), "r")
	f.ok(err)
	f.equal("the first entry", []any{again.GetRevision(), again.GetCommittedAt()}, []any{first.GetRevision(), first.GetCommittedAt()})
	const reused = "InvalidArgument invalid_request: request_id: it was used for another request; draw a new one"
	_, err = revoke("admin", bySubject("acme", "bob"), "r")
	f.fails(err, reused)
	_, err = revoke("admin", bySubject("acme", "ada"), "another")
	f.fails(err, reused)
	other, err := revoke("login", bySubject("acme", "bob"), "r")
	f.ok(err)
	f.equal("another caller's", other.GetRevision().GetSequence(), 2)

	lock := func() *pb.LockResponse {
		resp, err := f.revocations("admin").Lock(f.ctx, &pb.LockRequest{
			Selector: &pb.LockSelector{By: &pb.LockSelector_Tenant{Tenant: "bolt"}}, Reason: "r", RequestId: "fedcba9876543210",
		})
		f.ok(err)
		return resp
	}
	a, b := lock(), lock()
	f.equal("the first lock", b, a)
	_, err = f.revocations("admin").Lock(f.ctx, &pb.LockRequest{
		Selector: &pb.LockSelector{By: &pb.LockSelector_Tenant{Tenant: "bolt"}}, Reason: "r", RequestId: id,
	})
	f.fails(err, reused)
}

// TestRevocationOutlivesWhatItHits proves that an entry is kept as long as a
// token issued before it may open sockets: one whose time begins as late as
// may be.
func TestRevocationOutlivesWhatItHits(t *testing.T) {
	f := newFixture(t, withoutFence, func(f *fixture) { f.cfg.Sessions.MaxTTL, f.cfg.Sessions.DefaultTTL = time.Second, time.Second })
	n := f.node("node-1")
	issued := f.issue(func(r *pb.IssueTokenRequest) {
		r.NotBefore, r.Ttl = timestamp(start.Add(time.Hour)), duration(time.Hour)
	})
	f.revoke(bySubject("acme", "ada"))
	for range 120 {
		f.clock.advance(time.Minute - time.Millisecond)
		f.ok(f.service.Tend(f.ctx))
	}
	f.equal("refusal", n.refusal(n.item(issued.GetToken())), pb.Reason_REASON_TOKEN_REVOKED)
	f.clock.advance(time.Hour)
	f.ok(f.service.Tend(f.ctx))
	if st := f.store.Stats(); st.Entries != 0 || st.Tokens != 0 {
		t.Errorf("%d entries and %d tokens are kept for ever", st.Entries, st.Tokens)
	}
}

func TestListRevocations(t *testing.T) {
	f := newFixture(t)
	want := []string{}
	for i := range 7 {
		want = append(want, fmt.Sprint("s", i))
		f.revoke(bySubject("acme", want[i]))
		f.lock("203.0.113.0/24")
	}
	for _, size := range []int32{0, 1, 2, 3, 1000} {
		req := &pb.ListRevocationsRequest{PageSize: size}
		var got []string
		for {
			resp, err := f.revocations("viewer").ListRevocations(f.ctx, req)
			f.ok(err)
			for _, r := range resp.GetRevocations() {
				got = append(got, r.GetSelector().GetSubject().GetSubject())
				f.equal("revocation", []any{r.GetReason(), r.GetActor(), r.GetCommittedAt().AsTime()}, []any{"test", "admin", start})
			}
			if req.PageToken = resp.GetNextPageToken(); req.GetPageToken() == "" {
				break
			}
		}
		f.equal(fmt.Sprint("pages of ", size), got, want)
	}
	_, err := f.revocations("viewer").ListRevocations(f.ctx, &pb.ListRevocationsRequest{PageToken: "AAAA"})
	f.fails(err, "InvalidArgument invalid_request: page_token: is not a next_page_token of this method (invalid request)")
	_, err = f.revocations("viewer").ListRevocations(f.ctx, &pb.ListRevocationsRequest{PageSize: 2000})
	f.fails(err, "InvalidArgument invalid_request: page_size: 2000 is outside 1 to 1000 (invalid request)")
}
