package authority_test

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/token"
)

const chromeOnLinux = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36"

// someToken is the text of a token, for what must not be kept.
var someToken = "gh1_" + strings.Repeat("A", 80)

// request is a plain request of ada in tenant acme, for the audience chat.
func request(edits ...func(*pb.IssueTokenRequest)) *pb.IssueTokenRequest {
	r := &pb.IssueTokenRequest{Tenant: "acme", Subject: "ada", Audience: "chat"}
	for _, edit := range edits {
		edit(r)
	}
	return r
}

// issue issues a token as login.
func (f *fixture) issue(edits ...func(*pb.IssueTokenRequest)) *pb.IssueTokenResponse {
	f.Helper()
	resp, err := f.tokens("login").IssueToken(f.ctx, request(edits...))
	f.ok(err)
	return resp
}

// parsed is a token as its text says.
func (f *fixture) parsed(text string) *token.Token {
	f.Helper()
	var t token.Token
	f.ok(token.Parse([]byte(text), &t))
	return &t
}

func (f *fixture) get(id string) *pb.Token {
	f.Helper()
	resp, err := f.tokens("admin").GetToken(f.ctx, &pb.GetTokenRequest{TokenId: id})
	f.ok(err)
	return resp.GetToken()
}

func TestIssuedTokenSaysWhatWasAsked(t *testing.T) {
	f := newFixture(t)
	asked := &pb.IssueTokenRequest{
		Subject: "ada", Tenant: "acme", Audience: "chat", ClientIp: "::ffff:192.0.2.7", UserAgent: []byte(chromeOnLinux),
		Origin: "https://app.example.com", Attributes: map[string]string{"plan": "pro", "empty": ""}, Scopes: []string{"send", "read"},
		Limits:  &pb.SessionLimits{MessageBytes: 4096, MessagesPerSecond: 10, SessionsPerSubject: 3},
		MaxUses: 2, NotBefore: timestamppb.New(start.Add(time.Minute)), Ttl: durationpb.New(2 * time.Minute), SessionTtl: durationpb.New(time.Hour),
		IpBinding: pb.IpBinding_IP_BINDING_STRICT, UserAgentBinding: pb.UserAgentBinding_USER_AGENT_BINDING_STRICT,
		ClientCertificateSha256: []byte("\xff, the SHA-256 of a certificate\x00"[:32]),
	}
	resp, err := f.tokens("login").IssueToken(f.ctx, asked)
	f.ok(err)
	tok := f.parsed(resp.GetToken())
	f.equal("id", resp.GetTokenId(), tok.ID)
	f.equal("expiry", resp.GetExpiresAt().AsTime(), start.Add(3*time.Minute))
	f.equal("expiry in the id", tok.ID.Expiry().UTC(), start.Add(3*time.Minute))

	got := f.get(resp.GetTokenId())
	f.equal("token", []any{
		got.GetState(), got.GetTenant(), got.GetSubject(), got.GetAudience(), got.GetClientIp(), string(got.GetUserAgent()), got.GetBrowser(), got.GetOs(),
		got.GetOrigin(), got.GetAttributes(), got.GetScopes(), got.GetMaxUses(), got.GetUses(), got.GetIssuedAt().AsTime(), got.GetNotBefore().AsTime(),
		got.GetExpiresAt().AsTime(), got.GetSessionTtl().AsDuration(), got.GetIssuer(), got.GetIpBinding(), got.GetUserAgentBinding(),
		got.GetLimits().GetMessageBytes(), got.GetLimits().GetMessagesPerSecond(), got.GetLimits().GetSessionsPerSubject(), got.GetClientCertificateSha256(),
	}, []any{
		pb.TokenState_TOKEN_STATE_NOT_YET_ACTIVE, "acme", "ada", "chat", "192.0.2.7", chromeOnLinux, "Chrome", "Linux",
		"https://app.example.com", asked.GetAttributes(), asked.GetScopes(), 2, 0, start, start.Add(time.Minute),
		start.Add(3 * time.Minute), time.Hour, "login", asked.GetIpBinding(), asked.GetUserAgentBinding(), 4096, 10, 3, asked.GetClientCertificateSha256(),
	})
	f.equal("audit line", f.lastLine("IssueToken"), "audience=chat caller=login client_certificate="+base64.RawURLEncoding.EncodeToString(asked.GetClientCertificateSha256())+" client_ip=192.0.2.7 outcome=ok subject=ada tenant=acme token_id="+resp.GetTokenId())
}

func TestIssueDefaults(t *testing.T) {
	f := newFixture(t)
	for _, c := range []struct {
		name, caller, tenant, want string
	}{
		{"an issuer of every tenant who names none", "login", "", "default"},
		{"an issuer of one tenant who names none", "acme", "", "acme"},
		{"an admin who names none", "admin", "", "default"},
		{"a tenant that is named", "login", "bolt", "bolt"},
	} {
		resp, err := f.tokens(c.caller).IssueToken(f.ctx, &pb.IssueTokenRequest{Tenant: c.tenant, Subject: "ada", Audience: "chat"})
		f.ok(err)
		got := f.get(resp.GetTokenId())
		f.equal(c.name, []any{got.GetTenant(), got.GetMaxUses(), got.GetExpiresAt().AsTime(), got.GetSessionTtl().AsDuration(), got.GetIpBinding(), got.GetUserAgentBinding()},
			[]any{c.want, 1, start.Add(time.Minute), 12 * time.Hour, pb.IpBinding_IP_BINDING_OFF, pb.UserAgentBinding_USER_AGENT_BINDING_OFF})
	}
	got := f.get(f.issue(func(r *pb.IssueTokenRequest) { r.ClientIp, r.UserAgent = "192.0.2.7", []byte("x") }).GetTokenId())
	f.equal("bindings to what is given", []any{got.GetIpBinding(), got.GetUserAgentBinding()},
		[]any{pb.IpBinding_IP_BINDING_LOG, pb.UserAgentBinding_USER_AGENT_BINDING_CLASS})
}

type issueCase struct {
	rule   string
	caller string
	edit   func(*pb.IssueTokenRequest)
	want   string // all but the end, which is the class of the error
}

var issueCases = []issueCase{
	{"subject is required", "login", func(r *pb.IssueTokenRequest) { r.Subject = "" }, "subject: required, 1 to 256 bytes"},
	{"subject has at most 256 bytes", "login", func(r *pb.IssueTokenRequest) { r.Subject = strings.Repeat("x", 257) }, "subject: 257 bytes are above 256"},
	{"subject has no control characters", "login", func(r *pb.IssueTokenRequest) { r.Subject = "a\nb" }, "subject: has control characters"},
	{"subject has no control characters of ISO 6429", "login", func(r *pb.IssueTokenRequest) { r.Subject = "a\u009b31m" }, "subject: has control characters"},
	{"subject holds no token", "login", func(r *pb.IssueTokenRequest) { r.Subject = someToken }, "subject: holds a token's text, which must be kept nowhere"},
	{"subject holds no token in upper case", "login", func(r *pb.IssueTokenRequest) { r.Subject = "x GH1_AAAA" }, "subject: holds a token's text, which must be kept nowhere"},
	{"tenant has at most 128 bytes", "login", func(r *pb.IssueTokenRequest) { r.Tenant = strings.Repeat("x", 129) }, "tenant: 129 bytes are above 128"},
	{"audience is required", "login", func(r *pb.IssueTokenRequest) { r.Audience = "" }, "audience: required, 1 to 128 bytes"},
	{"audience has at most 128 bytes", "login", func(r *pb.IssueTokenRequest) { r.Audience = strings.Repeat("x", 129) }, "audience: 129 bytes are above 128"},
	{"client_ip is an address", "login", func(r *pb.IssueTokenRequest) { r.ClientIp = "192.0.2.300" }, "client_ip: want an IPv4 or IPv6 address such as 203.0.113.7"},
	{"client_ip has no zone", "login", func(r *pb.IssueTokenRequest) { r.ClientIp = "fe80::1%eth0" }, "client_ip: want an IPv4 or IPv6 address such as 203.0.113.7"},
	{"client_ip has no port", "login", func(r *pb.IssueTokenRequest) { r.ClientIp = "192.0.2.7:80" }, "client_ip: want an IPv4 or IPv6 address such as 203.0.113.7"},
	{"user_agent has at most 512 bytes", "login", func(r *pb.IssueTokenRequest) { r.UserAgent = make([]byte, 513) }, "user_agent: 513 bytes are above 512: cut it as the node will"},
	{"a binding needs an address", "login", func(r *pb.IssueTokenRequest) { r.IpBinding = pb.IpBinding_IP_BINDING_STRICT }, "client_ip: required with ip_binding IP_BINDING_STRICT"},
	{"a certificate is named by its SHA-256", "login", func(r *pb.IssueTokenRequest) { r.ClientCertificateSha256 = make([]byte, 31) }, "client_certificate_sha256: 31 bytes, want 32: the SHA-256 of the certificate in DER"},
	{"a binding needs a User-Agent", "login", func(r *pb.IssueTokenRequest) { r.UserAgentBinding = pb.UserAgentBinding_USER_AGENT_BINDING_CLASS }, "user_agent: required with user_agent_binding USER_AGENT_BINDING_CLASS"},
	{"ip_binding is of the enum", "login", func(r *pb.IssueTokenRequest) { r.IpBinding = 9 }, "ip_binding: 9 is not a value of the enum"},
	{"user_agent_binding is of the enum", "login", func(r *pb.IssueTokenRequest) { r.UserAgentBinding = -1 }, "user_agent_binding: -1 is not a value of the enum"},
	{"attributes are at most 32", "login", func(r *pb.IssueTokenRequest) { r.Attributes = manyAttributes(33, 1) }, "attributes: 33 are above 32"},
	{"an attribute's name has 1 byte at least", "login", func(r *pb.IssueTokenRequest) { r.Attributes = map[string]string{"": "x"} }, `attributes[""]: required, 1 to 64 bytes`},
	{"an attribute's name has at most 64 bytes", "login", func(r *pb.IssueTokenRequest) { r.Attributes = map[string]string{strings.Repeat("n", 65): ""} }, `attributes["` + strings.Repeat("n", 64) + `"]: 65 bytes are above 64`},
	{"an attribute holds no token", "login", func(r *pb.IssueTokenRequest) { r.Attributes = map[string]string{"a": "x" + someToken} }, "attributes[a]: holds a token's text, which must be kept nowhere"},
	{"an attribute's name holds no token", "login", func(r *pb.IssueTokenRequest) { r.Attributes = map[string]string{someToken[:60]: "x"} }, `attributes["gh1_[scrubbed]"]: holds a token's text, which must be kept nowhere`},
	{"attributes have at most 4096 bytes in all", "login", func(r *pb.IssueTokenRequest) { r.Attributes = manyAttributes(2, 2048) }, "attributes: over 4096 bytes in all"},
	{"scopes are at most 64", "login", func(r *pb.IssueTokenRequest) { r.Scopes = make([]string, 65) }, "scopes: 65 are above 64"},
	{"a scope has 1 byte at least", "login", func(r *pb.IssueTokenRequest) { r.Scopes = []string{"a", ""} }, "scopes[1]: required, 1 to 128 bytes"},
	{"a scope has at most 128 bytes", "login", func(r *pb.IssueTokenRequest) { r.Scopes = []string{strings.Repeat("x", 129)} }, "scopes[0]: 129 bytes are above 128"},
	{"max_uses is at most the authority's", "login", func(r *pb.IssueTokenRequest) { r.MaxUses = 101 }, "max_uses: 101 is above 100, the authority's tokens.max_uses"},
	{"ttl is at most the authority's", "login", func(r *pb.IssueTokenRequest) { r.Ttl = durationpb.New(time.Hour + 1) }, "ttl: 1h0m0.000000001s is above 1h0m0s, the authority's tokens.max_ttl"},
	{"ttl is at most the credential's", "brief", func(r *pb.IssueTokenRequest) { r.Ttl = durationpb.New(time.Minute) }, "ttl: 1m0s is above 30s, max_ttl of credential brief"},
	{"ttl is above zero", "login", func(r *pb.IssueTokenRequest) { r.Ttl = durationpb.New(0) }, "ttl: must be a duration above zero"},
	{"ttl is a valid duration", "login", func(r *pb.IssueTokenRequest) { r.Ttl = &durationpb.Duration{Seconds: 1, Nanos: -1} }, "ttl: must be a duration above zero"},
	{"ttl does not wrap around", "login", func(r *pb.IssueTokenRequest) { r.Ttl = &durationpb.Duration{Seconds: 315_576_000_000} }, "ttl: 2562047h47m16.854775807s is above 1h0m0s, the authority's tokens.max_ttl"},
	{"session_ttl is at most the authority's", "login", func(r *pb.IssueTokenRequest) { r.SessionTtl = durationpb.New(8 * 24 * time.Hour) }, "session_ttl: 192h0m0s is above 168h0m0s, the authority's sessions.max_ttl"},
	{"session_ttl is above zero", "login", func(r *pb.IssueTokenRequest) { r.SessionTtl = durationpb.New(-time.Second) }, "session_ttl: must be a duration above zero"},
	{"not_before is a valid time", "login", func(r *pb.IssueTokenRequest) { r.NotBefore = &timestamppb.Timestamp{Seconds: 1 << 60} }, "not_before: must be a time of the years 1 to 9999"},
	{"not_before lies at most the authority's max_ttl ahead", "login", func(r *pb.IssueTokenRequest) { r.NotBefore = timestamppb.New(start.Add(2 * time.Hour)) }, "not_before: lies 2h0m0s ahead, above 1h0m0s, the authority's tokens.max_ttl"},
	{"not_before does not wrap around", "login", func(r *pb.IssueTokenRequest) { r.NotBefore = timestamppb.New(start.AddDate(7000, 0, 0)) }, "not_before: lies 2562047h47m16.854775807s ahead, above 1h0m0s, the authority's tokens.max_ttl"},
}

func manyAttributes(n, valueBytes int) map[string]string {
	m := map[string]string{}
	for i := range n {
		m[fmt.Sprintf("a%d", i)] = strings.Repeat("v", valueBytes)
	}
	return m
}

// TestIssueRefuses pins, for each rule of a request, code, reason, message and
// audit line, alone and as an item of a batch, beside which others go on.
func TestIssueRefuses(t *testing.T) {
	f := newFixture(t)
	f.create(&pb.Credential{Name: "brief", Role: pb.Role_ROLE_ISSUER, MaxTtl: durationpb.New(30 * time.Second)})
	for _, c := range issueCases {
		t.Run(c.rule, func(t *testing.T) {
			f := f.in(t)
			bad := request(c.edit)
			_, err := f.tokens(c.caller).IssueToken(f.ctx, bad)
			f.fails(err, "InvalidArgument invalid_request: "+c.want+" (invalid request)")
			f.equal("audit line", f.lastLine("IssueToken"), "caller="+c.caller+" outcome=invalid_request")

			resp, err := f.tokens(c.caller).IssueTokens(f.ctx, &pb.IssueTokensRequest{Requests: []*pb.IssueTokenRequest{bad, request()}})
			f.ok(err)
			e := resp.GetResults()[0].GetError()
			f.equal("item", fmt.Sprint(codes.Code(e.GetCode()), " ", e.GetReason(), ": ", e.GetMessage()),
				"InvalidArgument REASON_INVALID_REQUEST: "+c.want+" (invalid request)")
			if resp.GetResults()[1].GetToken().GetToken() == "" {
				f.Error("the other item got no token")
			}
		})
	}
}

// TestIssuersKeepToTheirScope pins what an issuer with tenants and audiences
// may issue.
func TestIssuersKeepToTheirScope(t *testing.T) {
	f := newFixture(t)
	for _, c := range []struct {
		rule, caller, tenant, audience, want string
	}{
		{"its tenant and audience", "acme", "acme", "chat", "OK"},
		{"another tenant", "acme", "bolt", "chat", `PermissionDenied permission_denied: tenant: credential acme may not act in tenant "bolt", only in ["acme"] (permission denied)`},
		{"another audience", "acme", "acme", "feed", `PermissionDenied permission_denied: audience: credential acme may not issue for "feed", only for ["chat"] (permission denied)`},
		{"the default tenant is not every issuer's", "two", "", "chat", `PermissionDenied permission_denied: tenant: credential two may not act in tenant "default", only in ["acme" "bolt"] (permission denied)`},
		{"each of its tenants", "two", "bolt", "feed", "OK"},
		{"an issuer without tenants has all", "login", "any", "feed", "OK"},
		{"an admin has all", "admin", "any", "feed", "OK"},
	} {
		_, err := f.tokens(c.caller).IssueToken(f.ctx, &pb.IssueTokenRequest{Tenant: c.tenant, Subject: "ada", Audience: c.audience})
		if got := failed(err); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.rule, got, c.want)
		}
	}
}

// TestIssueOrigin pins which origins a token can be bound to: those that a
// browser can send.
func TestIssueOrigin(t *testing.T) {
	f := newFixture(t)
	const (
		form  = "origin: want scheme://host[:port] in lower case, without path or trailing dot, such as https://app.example.com"
		ascii = "origin: write the host as browsers send it, as in https://xn--bcher-kva.example"
		port  = "origin: want a port of 1 to 65535"
	)
	for origin, want := range map[string]string{
		"https://app.example.com":              "",
		"http://localhost:8080":                "",
		"https://192.0.2.1":                    "",
		"https://[2001:db8::1]":                "",
		"https://[2001:db8::1]:8443":           "",
		"https://xn--bcher-kva.example":        "",
		"chrome-extension://abcdefghijklmnop":  "",
		"null":                                 form,
		"app.example.com":                      form,
		"//app.example.com":                    form,
		"https://":                             form,
		"https://App.example.com":              form,
		"HTTPS://app.example.com":              form,
		"https://app.example.com/":             form,
		"https://app.example.com/path":         form,
		"https://app.example.com?q":            form,
		"https://app.example.com#f":            form,
		"https://app.example.com.":             form,
		"https://app.example.com.:8443":        form,
		"https://user@app.example.com":         form,
		"https://user:pw@app.example.com":      form,
		"https://app.example.com@evil.example": form,
		"https://*.example.com":                form,
		"*":                                    form,
		"https://app%2eexample.com":            form,
		"https://app.example.com:x":            form,
		"https://app.example.com\\evil":        form,
		"https://app.example.com evil":         form,
		"https://bücher.example":               ascii,
		"https://app.example.com:":             port,
		"https://app.example.com:0":            port,
		"https://app.example.com:08443":        port,
		"https://app.example.com:65536":        port,
		"https://app.example.com:443":          "origin: leave out the port 443, which browsers do not send",
		"http://app.example.com:80":            "origin: leave out the port 80, which browsers do not send",
		"http://app.example.com:443":           "",
		"https://[::1]:443":                    "origin: leave out the port 443, which browsers do not send",
		"https://" + someToken + ".example":    "origin: holds a token's text, which must be kept nowhere",
		"https://" + strings.Repeat("a", 512):  "origin: 520 bytes are above 512",
	} {
		_, err := f.tokens("login").IssueToken(f.ctx, request(func(r *pb.IssueTokenRequest) { r.Origin = origin }))
		if want = "InvalidArgument invalid_request: " + want + " (invalid request)"; want == "InvalidArgument invalid_request:  (invalid request)" {
			want = "OK"
		}
		if got := failed(err); got != want {
			t.Errorf("%q:\n got %s\nwant %s", origin, got, want)
		}
	}
}

func TestIssueTokensBounds(t *testing.T) {
	f := newFixture(t)
	batch := func(n int) *pb.IssueTokensRequest {
		r := &pb.IssueTokensRequest{}
		for range n {
			r.Requests = append(r.Requests, request())
		}
		return r
	}
	for n, want := range map[int]string{
		0:   "InvalidArgument invalid_request: requests: 0 items are outside 1 to 256 (invalid request)",
		257: "InvalidArgument invalid_request: requests: 257 items are outside 1 to 256 (invalid request)",
	} {
		_, err := f.tokens("login").IssueTokens(f.ctx, batch(n))
		f.fails(err, want)
	}
	resp, err := f.tokens("login").IssueTokens(f.ctx, batch(256))
	f.ok(err)
	seen := map[string]bool{}
	for _, r := range resp.GetResults() {
		f.parsed(r.GetToken().GetToken())
		seen[r.GetToken().GetTokenId()] = true
	}
	f.equal("distinct tokens", len(seen), 256)
	f.equal("audit line of the call", f.lastLine("IssueTokens"), "caller=login outcome=ok refused=0 tokens=256")
	f.equal("audit lines of items", strings.Count(f.audit.String(), `"action":"IssueToken",`), 256)
	f.equal("audit line of an item", f.lastLine("IssueToken"),
		"audience=chat caller=login outcome=ok subject=ada tenant=acme token_id="+resp.GetResults()[255].GetToken().GetTokenId())

	// All at their bounds, a batch still fits into a message.
	full := batch(256)
	for _, r := range full.GetRequests() {
		r.Subject, r.Tenant, r.Audience = strings.Repeat("s", 256), strings.Repeat("t", 128), strings.Repeat("a", 128)
		r.UserAgent, r.Origin, r.Attributes = make([]byte, 512), "https://"+strings.Repeat("o", 504), manyAttributes(31, 128)
		for range 64 {
			r.Scopes = append(r.Scopes, strings.Repeat("c", 128))
		}
	}
	resp, err = f.tokens("login").IssueTokens(f.ctx, full)
	f.ok(err)
	f.equal("item", resp.GetResults()[255].GetError(), (*pb.ItemError)(nil))
}

// TestQuota pins that an issuer may issue its quota a second, and a full batch
// at once after a pause.
func TestQuota(t *testing.T) {
	f := newFixture(t)
	for _, c := range []struct {
		name         string
		perSecond    uint32
		burst, later int // at once; a second later
	}{
		{"slow", 10, 256, 10},
		{"fast", 400, 400, 400},
	} {
		f.create(&pb.Credential{Name: c.name, Role: pb.Role_ROLE_ISSUER, TokensPerSecond: c.perSecond})
		take := func() (n int, err error) {
			for ; n < 1000; n++ {
				if _, err = f.tokens(c.name).IssueToken(f.ctx, request()); err != nil {
					return n, err
				}
			}
			return n, nil
		}
		n, err := take()
		f.equal(c.name+" at once", n, c.burst)
		f.fails(err, fmt.Sprintf("ResourceExhausted quota_exceeded: credential %s may issue %d tokens a second (quota exceeded)", c.name, c.perSecond))
		f.equal("retry after", retryAfter(err), time.Second)
		f.equal("audit line", f.lastLine("IssueToken"), "audience=chat caller="+c.name+" outcome=quota_exceeded subject=ada tenant=acme")
		f.clock.advance(time.Second)
		n, _ = take()
		f.equal(c.name+" a second later", n, c.later)

		// Disabling and enabling it is no way around.
		_, err = f.credentials("admin").DisableCredential(f.ctx, &pb.DisableCredentialRequest{Name: c.name, Reason: "test"})
		f.ok(err)
		_, err = f.credentials("admin").EnableCredential(f.ctx, &pb.EnableCredentialRequest{Name: c.name, Reason: "test"})
		f.ok(err)
		n, _ = take()
		f.equal(c.name+" after a change of its credential", n, 0)
	}
	// In a batch each item stands or falls alone.
	f.create(&pb.Credential{Name: "batch", Role: pb.Role_ROLE_ISSUER, TokensPerSecond: 1})
	var granted, refused int
	for range 2 {
		r := &pb.IssueTokensRequest{}
		for range 200 {
			r.Requests = append(r.Requests, request())
		}
		resp, err := f.tokens("batch").IssueTokens(f.ctx, r)
		f.ok(err)
		for _, item := range resp.GetResults() {
			if item.GetToken() != nil {
				granted++
			} else if item.GetError().GetReason() == pb.Reason_REASON_QUOTA_EXCEEDED {
				refused++
			}
		}
	}
	f.equal("granted and refused", []int{granted, refused}, []int{256, 144})
}

// TestLoweredCeilingsCutTokens proves that what the configuration forbids now
// goes for tokens that were issued before.
func TestLoweredCeilingsCutTokens(t *testing.T) {
	f := newFixture(t)
	issued := f.issue(func(r *pb.IssueTokenRequest) {
		r.Ttl, r.SessionTtl, r.MaxUses = durationpb.New(time.Hour), durationpb.New(48*time.Hour), 2
	})
	f.cfg.Tokens.MaxTTL, f.cfg.Sessions.MaxTTL, f.cfg.Sessions.DefaultTTL = 10*time.Minute, 24*time.Hour, time.Hour
	f.restart()
	f.equal("expiry", f.get(issued.GetTokenId()).GetExpiresAt().AsTime(), start.Add(10*time.Minute))
	n := f.node("node-1")
	g := n.grant(n.item(issued.GetToken()))
	f.equal("end of the session", g.GetSessionExpiresAt().AsTime(), start.Add(24*time.Hour))
	f.clock.advance(10 * time.Minute)
	f.equal("refusal", n.refusal(n.item(issued.GetToken())), pb.Reason_REASON_TOKEN_EXPIRED)
	f.equal("state", f.get(issued.GetTokenId()).GetState(), pb.TokenState_TOKEN_STATE_EXPIRED)
}
