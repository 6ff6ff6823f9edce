package authority_test

import (
	"fmt"
	"strings"
	"testing"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

func lockSubject(tenant, subject string) *pb.LockSelector {
	return &pb.LockSelector{By: &pb.LockSelector_Subject{Subject: &pb.Subject{Tenant: tenant, Subject: subject}}}
}

func lockTenant(tenant string) *pb.LockSelector {
	return &pb.LockSelector{By: &pb.LockSelector_Tenant{Tenant: tenant}}
}

func lockPrefix(prefix string) *pb.LockSelector {
	return &pb.LockSelector{By: &pb.LockSelector_IpPrefix{IpPrefix: prefix}}
}

func lockIssuer(issuer string) *pb.LockSelector {
	return &pb.LockSelector{By: &pb.LockSelector_Issuer{Issuer: issuer}}
}

// TestLockDeniesUntilLifted proves, for every selector, that a lock ends what
// was issued before it and denies what would be issued after it, until it is
// lifted; and that what it ended stays so.
func TestLockDeniesUntilLifted(t *testing.T) {
	const denied = "FailedPrecondition locked: a lock denies this subject, tenant, address or issuer"
	for _, c := range []struct {
		kind     string
		selector *pb.LockSelector
		line     string
	}{
		{"subject", lockSubject("acme", "ada"), "subject=ada tenant=acme"},
		{"tenant", lockTenant("acme"), "tenant=acme"},
		{"prefix", lockPrefix("192.0.2.0/24"), "ip_prefix=192.0.2.0/24"},
		{"issuer", lockIssuer("acme"), "selected_issuer=acme"},
	} {
		t.Run(c.kind, func(t *testing.T) {
			f := newFixture(t)
			n := f.node("node-1")
			issue := func(caller, tenant, subject, ip string) (*pb.IssueTokenResponse, error) {
				return f.tokens(caller).IssueToken(f.ctx, &pb.IssueTokenRequest{Tenant: tenant, Subject: subject, Audience: "chat", ClientIp: ip})
			}
			ada := func() (*pb.IssueTokenResponse, error) { return issue("acme", "acme", "ada", "192.0.2.7") }
			bob := func() (*pb.IssueTokenResponse, error) { return issue("login", "bolt", "bob", "203.0.113.7") }
			before, err := ada()
			f.ok(err)
			lock, err := f.revocations("admin").Lock(f.ctx, &pb.LockRequest{Selector: c.selector, Reason: "abuse"})
			f.ok(err)
			parts := strings.Fields("caller=admin dry_run=false lock_id=" + lock.GetLockId() + " outcome=ok reason=abuse revision=1 " + c.line)
			f.equal("audit line", strings.Fields(f.lastLine("Lock")), sorted(parts))
			entries, _ := n.entries(1)
			f.equal("nodes hear of", entries[0].GetLocked(), &pb.LockEntry{LockId: lock.GetLockId(), Selector: c.selector, Revision: lock.GetRevision()})

			_, err = ada()
			f.fails(err, denied)
			f.equal("audit line of the refused issue", strings.Contains(f.lastLine("IssueToken"), "outcome=locked"), true)
			_, err = bob()
			f.ok(err)
			f.equal("a token issued before", n.refusal(n.item(before.GetToken())), pb.Reason_REASON_TOKEN_REVOKED)

			list, err := f.revocations("viewer").ListLocks(f.ctx, &pb.ListLocksRequest{})
			f.ok(err)
			f.equal("locks", list.GetLocks(), []*pb.Lock{{
				LockId: lock.GetLockId(), Selector: c.selector, Reason: "abuse", Actor: "admin", CommittedAt: timestamp(start), Revision: lock.GetRevision(),
			}})

			unlock, err := f.revocations("admin").Unlock(f.ctx, &pb.UnlockRequest{LockId: lock.GetLockId(), Reason: "solved"})
			f.ok(err)
			f.equal("audit line", f.lastLine("Unlock"), "caller=admin lock_id="+lock.GetLockId()+" outcome=ok reason=solved revision=2")
			entries, _ = n.entries(2)
			f.equal("nodes hear of", []any{entries[0].GetUnlocked(), entries[0].GetRevision()}, []any{lock.GetLockId(), unlock.GetRevision()})
			after, err := ada()
			f.ok(err)
			n.grant(n.item(after.GetToken()))
			f.equal("what it ended", n.refusal(n.item(before.GetToken())), pb.Reason_REASON_TOKEN_REVOKED)
			_, err = f.revocations("admin").Unlock(f.ctx, &pb.UnlockRequest{LockId: lock.GetLockId(), Reason: "solved"})
			f.fails(err, "NotFound not_found: no lock stands with the id "+lock.GetLockId()+" (not found)")
		})
	}
}

func TestLockRefuses(t *testing.T) {
	f := newFixture(t)
	bolt, err := f.revocations("admin").Lock(f.ctx, &pb.LockRequest{Selector: lockSubject("bolt", "ada"), Reason: "r"})
	f.ok(err)
	tenant, err := f.revocations("admin").Lock(f.ctx, &pb.LockRequest{Selector: lockTenant("acme"), Reason: "r"})
	f.ok(err)
	const (
		subjects = "PermissionDenied permission_denied: an issuer may lock subjects only (permission denied)"
		reason   = "InvalidArgument invalid_request: reason: required, 1 to 512 bytes (invalid request)"
	)
	outOfReach := func(id string) string {
		return "NotFound not_found: no lock stands with the id " + id + " (not found)"
	}
	for _, c := range []struct {
		rule, caller string
		req          *pb.LockRequest
		want         string
	}{
		{"selector is required", "admin", &pb.LockRequest{Reason: "r"}, "InvalidArgument invalid_request: selector: required: one of subject, tenant, ip_prefix, issuer (invalid request)"},
		{"a reason is required", "admin", &pb.LockRequest{Selector: lockSubject("acme", "ada")}, reason},
		{"a dry run's too", "admin", &pb.LockRequest{Selector: lockSubject("acme", "ada"), DryRun: true}, reason},
		{"a reason holds no token", "admin", &pb.LockRequest{Selector: lockSubject("acme", "ada"), Reason: someToken}, "InvalidArgument invalid_request: reason: holds a token's text, which must be kept nowhere (invalid request)"},
		{"request id", "admin", &pb.LockRequest{Selector: lockSubject("acme", "ada"), Reason: "r", RequestId: "short"}, "InvalidArgument invalid_request: request_id: 5 bytes are below 16: draw 16 random ones, so that no two requests share it (invalid request)"},
		{"an empty tenant is not everyone", "admin", &pb.LockRequest{Selector: lockTenant(""), Reason: "r"}, "InvalidArgument invalid_request: selector.tenant: required, 1 to 128 bytes (invalid request)"},
		{"every address must not be a prefix", "admin", &pb.LockRequest{Selector: lockPrefix("::/0"), Reason: "r"}, "InvalidArgument invalid_request: selector.ip_prefix: ::/0 is every address: name smaller prefixes, a tenant or an issuer (invalid request)"},
		{"an issuer's reach: its tenant", "acme", &pb.LockRequest{Selector: lockTenant("acme"), Reason: "r"}, subjects},
		{"an issuer's reach: addresses", "acme", &pb.LockRequest{Selector: lockPrefix("192.0.2.0/24"), Reason: "r"}, subjects},
		{"an issuer's reach: itself", "acme", &pb.LockRequest{Selector: lockIssuer("acme"), Reason: "r"}, subjects},
		{"an issuer's reach: another tenant's subject", "acme", &pb.LockRequest{Selector: lockSubject("bolt", "ada"), Reason: "r"}, `PermissionDenied permission_denied: selector.subject.tenant: credential acme may not act in tenant "bolt", only in ["acme"] (permission denied)`},
		{"an issuer's reach: its tenant's subject", "acme", &pb.LockRequest{Selector: lockSubject("", "ada"), Reason: "r"}, "OK"},
	} {
		_, err := f.revocations(c.caller).Lock(f.ctx, c.req)
		if got := failed(err); got != c.want {
			t.Errorf("Lock: %s:\n got %s\nwant %s", c.rule, got, c.want)
		}
	}
	for _, c := range []struct{ rule, caller, id, reason, want string }{
		{"lock id", "admin", "x", "r", "InvalidArgument invalid_request: lock_id: want 32 hexadecimal digits (invalid request)"},
		{"lock id, a digit more", "admin", bolt.GetLockId() + "0", "r", "InvalidArgument invalid_request: lock_id: want 32 hexadecimal digits (invalid request)"},
		{"a token's text for a lock id", "admin", someToken, "r", "InvalidArgument invalid_request: lock_id: want 32 hexadecimal digits (invalid request)"},
		{"a reason is required", "admin", bolt.GetLockId(), "", reason},
		{"none", "admin", strings.Repeat("ab", 16), "r", "NotFound not_found: no lock stands with the id " + strings.Repeat("ab", 16) + " (not found)"},
		{"an issuer's reach: another tenant's subject", "acme", bolt.GetLockId(), "r", outOfReach(bolt.GetLockId())},
		{"an issuer's reach: a whole tenant", "acme", tenant.GetLockId(), "r", outOfReach(tenant.GetLockId())},
	} {
		_, err := f.revocations(c.caller).Unlock(f.ctx, &pb.UnlockRequest{LockId: c.id, Reason: c.reason})
		if got := failed(err); got != c.want {
			t.Errorf("Unlock: %s:\n got %s\nwant %s", c.rule, got, c.want)
		}
	}
	f.trail.Flush()
	if strings.Contains(f.audit.String(), someToken) {
		t.Error("the audit trail holds a token's text")
	}
}

func TestListLocks(t *testing.T) {
	f := newFixture(t)
	for i, s := range []*pb.LockSelector{
		lockSubject("acme", "a"), lockTenant("acme"), lockSubject("bolt", "b"), lockPrefix("192.0.2.0/24"), lockSubject("acme", "c"), lockIssuer("x"), lockSubject("acme", "d"),
	} {
		_, err := f.revocations("admin").Lock(f.ctx, &pb.LockRequest{Selector: s, Reason: fmt.Sprint(i)})
		f.ok(err)
	}
	for caller, want := range map[string]string{"admin": "0123456", "viewer": "0123456", "login": "0246", "acme": "046", "two": "0246"} {
		for _, size := range []int32{0, 1, 2, 7, 1000} {
			req := &pb.ListLocksRequest{PageSize: size}
			got := ""
			for {
				resp, err := f.revocations(caller).ListLocks(f.ctx, req)
				f.ok(err)
				for _, l := range resp.GetLocks() {
					got += l.GetReason()
				}
				if req.PageToken = resp.GetNextPageToken(); req.GetPageToken() == "" {
					break
				}
			}
			f.equal(fmt.Sprintf("locks that %s sees, pages of %d", caller, size), got, want)
		}
	}
	_, err := f.revocations("admin").ListLocks(f.ctx, &pb.ListLocksRequest{PageToken: "x"})
	f.fails(err, "InvalidArgument invalid_request: page_token: is not a next_page_token of this method (invalid request)")
	_, err = f.revocations("admin").ListLocks(f.ctx, &pb.ListLocksRequest{PageSize: -3})
	f.fails(err, "InvalidArgument invalid_request: page_size: -3 is outside 1 to 1000 (invalid request)")
}
