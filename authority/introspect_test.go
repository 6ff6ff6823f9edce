package authority_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// TestIntrospect pins what is said of tokens: of inactive ones nothing but
// that, whatever makes them so (RFC 7662 section 2.2); the audit trail knows.
func TestIntrospect(t *testing.T) {
	for _, c := range []struct {
		rule   string
		caller string
		do     func(f *fixture, issued *pb.IssueTokenResponse)
		active bool
		line   string // of the audit, beside caller, outcome and token_id
	}{
		{"an active token", "login", nil, true, "state=active"},
		{"of its tenant", "acme", nil, true, "state=active"},
		{"as admin", "admin", nil, true, "state=active"},
		{"as viewer", "viewer", nil, true, "state=active"},
		{"of another tenant", "acme", func(f *fixture, i *pb.IssueTokenResponse) {
			*i = *f.issue(func(r *pb.IssueTokenRequest) { r.Tenant = "bolt" })
		}, false, "state=out_of_reach"},
		{"used", "login", func(f *fixture, i *pb.IssueTokenResponse) {
			n := f.node("node-1")
			n.grant(n.item(i.GetToken()))
		}, false, "state=used"},
		{"revoked", "login", func(f *fixture, i *pb.IssueTokenResponse) {
			f.revoke(&pb.Selector{By: &pb.Selector_TokenId{TokenId: i.GetTokenId()}})
		}, false, "state=revoked"},
		{"locked", "login", func(f *fixture, i *pb.IssueTokenResponse) {
			f.lock("203.0.113.0/24")
			*i = *f.issue(func(r *pb.IssueTokenRequest) { r.ClientIp = "198.51.100.1" })
			f.lock("198.51.100.0/24")
		}, false, "state=revoked"}, // a lock also revokes what was issued before it
		{"not yet active", "login", func(f *fixture, i *pb.IssueTokenResponse) {
			*i = *f.issue(func(r *pb.IssueTokenRequest) { r.NotBefore = timestamppb.New(start.Add(time.Second)) })
		}, false, "state=not_yet_active"},
		{"expired", "login", func(f *fixture, _ *pb.IssueTokenResponse) { f.clock.advance(time.Minute) }, false, "state=expired"},
		{"expired and forgotten", "login", func(f *fixture, _ *pb.IssueTokenResponse) {
			f.clock.advance(4 * time.Minute)
			f.ok(f.service.Tend(f.ctx))
		}, false, "state=unknown"},
		{"with another secret", "login", func(f *fixture, i *pb.IssueTokenResponse) {
			tok := f.parsed(i.GetToken())
			tok.Secret[0] ^= 1
			i.Token = string(tok.AppendText(nil))
		}, false, "state=secret_wrong"},
		{"with another tag, which is for nodes", "login", func(f *fixture, i *pb.IssueTokenResponse) {
			tok := f.parsed(i.GetToken())
			tok.Tag[0] ^= 1
			i.Token = string(tok.AppendText(nil))
		}, true, "state=active"},
		{"not a token", "login", func(_ *fixture, i *pb.IssueTokenResponse) { i.Token = i.GetToken()[:83] }, false, "state=malformed"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			f := newFixture(t)
			issued := f.issue()
			if c.do != nil {
				c.do(f, issued)
			}
			resp, err := f.tokens(c.caller).IntrospectToken(f.ctx, &pb.IntrospectTokenRequest{Token: issued.GetToken()})
			f.ok(err)
			f.equal("active", resp.GetActive(), c.active)
			if c.active {
				f.equal("token", resp.GetToken().GetSubject(), "ada")
			} else if !proto.Equal(resp, &pb.IntrospectTokenResponse{}) {
				t.Errorf("of an inactive token it says %v", resp)
			}
			want := "caller=" + c.caller + " outcome=ok " + c.line
			if c.line != "state=malformed" {
				want += " token_id=" + issued.GetTokenId()
			}
			f.equal("audit line", f.lastLine("IntrospectToken"), want)
		})
	}
	f := newFixture(t)
	_, err := f.tokens("login").IntrospectToken(f.ctx, &pb.IntrospectTokenRequest{})
	f.fails(err, "InvalidArgument invalid_request: token: required, a token's text (invalid request)")
}

func TestGetToken(t *testing.T) {
	f := newFixture(t)
	acme, bolt := f.issue().GetTokenId(), f.issue(func(r *pb.IssueTokenRequest) { r.Tenant = "bolt" }).GetTokenId()
	const form = "InvalidArgument invalid_request: token_id: not a token id: want 26 characters of Crockford base32, as in 01JD8Z0Q4M3T5V7X9ZABCDEFGH (invalid request)"
	for _, c := range []struct{ rule, caller, id, want string }{
		{"of its tenant", "acme", acme, "OK"},
		{"in lower case", "acme", strings.ToLower(acme), "OK"},
		{"of another tenant, as if there were none", "acme", bolt, "NotFound not_found: no token has the id " + bolt + ", or it expired and was forgotten (not found)"},
		{"of one of its tenants", "two", bolt, "OK"},
		{"as viewer", "viewer", bolt, "OK"},
		{"none", "viewer", "01JD8Z0Q4M3T5V7X9ZABCDEFGH", "NotFound not_found: no token has the id 01JD8Z0Q4M3T5V7X9ZABCDEFGH, or it expired and was forgotten (not found)"},
		{"not an id", "viewer", "x", form},
		{"a token's text for its id", "viewer", someToken, form},
	} {
		_, err := f.tokens(c.caller).GetToken(f.ctx, &pb.GetTokenRequest{TokenId: c.id})
		if got := failed(err); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.rule, got, c.want)
		}
	}
}

// list pages through tokens and gives their subjects.
func (f *fixture) list(caller string, req *pb.ListTokensRequest) (subjects []string, pages int) {
	f.Helper()
	for {
		resp, err := f.tokens(caller).ListTokens(f.ctx, req)
		f.ok(err)
		pages++
		for _, tok := range resp.GetTokens() {
			subjects = append(subjects, tok.GetSubject())
		}
		if req.PageToken = resp.GetNextPageToken(); req.GetPageToken() == "" {
			return subjects, pages
		}
	}
}

func TestListTokens(t *testing.T) {
	f := newFixture(t)
	issue := func(subject, tenant, audience, ip, caller string, ttl time.Duration) string {
		resp, err := f.tokens(caller).IssueToken(f.ctx, &pb.IssueTokenRequest{
			Subject: subject, Tenant: tenant, Audience: audience, ClientIp: ip, Ttl: durationpb.New(ttl),
		})
		f.ok(err)
		return resp.GetToken()
	}
	n := f.node("node-1")
	used := issue("a", "acme", "chat", "192.0.2.7", "login", 1*time.Minute)
	issue("b", "acme", "feed", "192.0.2.8", "login", 2*time.Minute)
	issue("c", "bolt", "chat", "203.0.113.1", "login", 3*time.Minute)
	issue("d", "bolt", "chat", "", "admin", 4*time.Minute)
	issue("e", "cube", "chat", "2001:db8::1", "login", 5*time.Minute)
	n.grant(n.item(used))

	for _, c := range []struct {
		rule, caller string
		req          *pb.ListTokensRequest
		want         string
	}{
		{"all, the first to expire first", "viewer", &pb.ListTokensRequest{}, "a b c d e"},
		{"by tenant", "admin", &pb.ListTokensRequest{Tenant: "bolt"}, "c d"},
		{"by subject", "admin", &pb.ListTokensRequest{Subject: "b"}, "b"},
		{"by audience", "admin", &pb.ListTokensRequest{Audience: "feed"}, "b"},
		{"by issuer", "admin", &pb.ListTokensRequest{Issuer: "admin"}, "d"},
		{"by prefix", "admin", &pb.ListTokensRequest{IpPrefix: "192.0.2.0/24"}, "a b"},
		{"by address", "admin", &pb.ListTokensRequest{IpPrefix: "::ffff:192.0.2.7"}, "a"},
		{"by IPv6 prefix", "admin", &pb.ListTokensRequest{IpPrefix: "2001:db8::/32"}, "e"},
		{"by state", "admin", &pb.ListTokensRequest{State: pb.TokenState_TOKEN_STATE_USED}, "a"},
		{"by all", "admin", &pb.ListTokensRequest{Tenant: "acme", Audience: "chat", State: pb.TokenState_TOKEN_STATE_ACTIVE}, ""},
		{"an issuer's own tenant", "acme", &pb.ListTokensRequest{}, "a b"},
		{"an issuer's own tenants", "two", &pb.ListTokensRequest{}, "a b c d"},
		{"one of them", "two", &pb.ListTokensRequest{Tenant: "bolt"}, "c d"},
	} {
		for _, size := range []int32{0, 1, 2, 3, 1000} {
			req := proto.CloneOf(c.req)
			req.PageSize = size
			got, pages := f.list(c.caller, req)
			if strings.Join(got, " ") != c.want {
				t.Errorf("%s, pages of %d: %v, want %s", c.rule, size, got, c.want)
			}
			if size == 1 && c.want != "" && pages < len(got) {
				t.Errorf("%s: %d tokens on %d pages of 1", c.rule, len(got), pages)
			}
		}
	}
	for _, c := range []struct {
		rule, caller string
		req          *pb.ListTokensRequest
		want         string
	}{
		{"another tenant", "acme", &pb.ListTokensRequest{Tenant: "bolt"}, `PermissionDenied permission_denied: tenant: credential acme may not act in tenant "bolt", only in ["acme"] (permission denied)`},
		{"page size", "admin", &pb.ListTokensRequest{PageSize: 1001}, "InvalidArgument invalid_request: page_size: 1001 is outside 1 to 1000 (invalid request)"},
		{"negative page size", "admin", &pb.ListTokensRequest{PageSize: -1}, "InvalidArgument invalid_request: page_size: -1 is outside 1 to 1000 (invalid request)"},
		{"state", "admin", &pb.ListTokensRequest{State: 77}, "InvalidArgument invalid_request: state: 77 is not a value of the enum (invalid request)"},
		{"prefix", "admin", &pb.ListTokensRequest{IpPrefix: "192.0.2.0/33"}, "InvalidArgument invalid_request: ip_prefix: want a CIDR prefix such as 203.0.113.0/24 or 2001:db8::/32 (invalid request)"},
		{"every address", "admin", &pb.ListTokensRequest{IpPrefix: "::/0"}, "InvalidArgument invalid_request: ip_prefix: ::/0 is every address: name smaller prefixes, a tenant or an issuer (invalid request)"},
		{"IPv4 as IPv6, beyond", "admin", &pb.ListTokensRequest{IpPrefix: "::ffff:0:0/95"}, "InvalidArgument invalid_request: ip_prefix: write IPv4 prefixes as IPv4, such as 203.0.113.0/24 (invalid request)"},
		{"every IPv4 address as IPv6", "admin", &pb.ListTokensRequest{IpPrefix: "::ffff:0:0/96"}, "InvalidArgument invalid_request: ip_prefix: ::ffff:0:0/96 is every address: name smaller prefixes, a tenant or an issuer (invalid request)"},
	} {
		_, err := f.tokens(c.caller).ListTokens(f.ctx, c.req)
		if got := failed(err); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.rule, got, c.want)
		}
	}
	for _, token := range []string{"x", "AAAA", strings.Repeat("A", 23), strings.Repeat("A", 21) + "B", strings.Repeat("A", 22) + "\n", "AAAAAAAAAAA\nAAAAAAAAAAA", strings.Repeat("A", 22) + "==", strings.Repeat("!", 22)} {
		_, err := f.tokens("admin").ListTokens(f.ctx, &pb.ListTokensRequest{PageToken: token})
		f.fails(err, "InvalidArgument invalid_request: page_token: is not a next_page_token of this method (invalid request)")
	}
}

// TestPagesStandStill proves that what comes and goes between pages neither
// repeats nor hides what stays.
func TestPagesStandStill(t *testing.T) {
	f := newFixture(t)
	want := []string{}
	for i := range 20 {
		s := fmt.Sprintf("s%02d", i)
		want = append(want, s)
		f.issue(func(r *pb.IssueTokenRequest) {
			r.Subject, r.Ttl = s, durationpb.New(time.Minute+time.Duration(i)*time.Second)
		})
	}
	req := &pb.ListTokensRequest{PageSize: 3}
	var got []string
	for {
		resp, err := f.tokens("admin").ListTokens(f.ctx, req)
		f.ok(err)
		for _, tok := range resp.GetTokens() {
			if strings.HasPrefix(tok.GetSubject(), "s") {
				got = append(got, tok.GetSubject())
			}
		}
		f.issue(func(r *pb.IssueTokenRequest) { r.Subject, r.Ttl = "new", durationpb.New(30*time.Second) })
		f.issue(func(r *pb.IssueTokenRequest) { r.Subject, r.Ttl = "new", durationpb.New(30*time.Minute) })
		if req.PageToken = resp.GetNextPageToken(); req.GetPageToken() == "" || len(got) > 100 {
			break
		}
		if len(got) >= 20 {
			break
		}
	}
	f.equal("listed", got, want)
}

// TestPagesFitIntoMessages proves that a page of the greatest tokens is short
// rather than too long for its caller.
func TestPagesFitIntoMessages(t *testing.T) {
	f := newFixture(t)
	big := request(func(r *pb.IssueTokenRequest) {
		r.Attributes, r.UserAgent = manyAttributes(31, 128), slices.Repeat([]byte("gh1_"), 128)
		for range 64 {
			r.Scopes = append(r.Scopes, strings.Repeat("c", 128))
		}
	})
	batch := &pb.IssueTokensRequest{Requests: slices.Repeat([]*pb.IssueTokenRequest{big}, 250)}
	for range 2 {
		_, err := f.tokens("login").IssueTokens(f.ctx, batch)
		f.ok(err)
	}
	got, pages := f.list("admin", &pb.ListTokensRequest{PageSize: 1000})
	f.equal("listed", len(got), 500)
	if pages < 2 {
		t.Errorf("%d tokens on %d page", len(got), pages)
	}
}
