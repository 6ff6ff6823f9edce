package authority_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/gatehouse-ws/gatehouse/authority/pki"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// issueOn issues a token on a connection, if its caller may.
func (f *fixture) issueOn(c *grpc.ClientConn) error {
	_, err := pb.NewTokenServiceClient(c).IssueToken(f.ctx, &pb.IssueTokenRequest{Subject: "ada", Audience: "chat"})
	return err
}

func TestCredentialWithCertificate(t *testing.T) {
	f := newFixture(t)
	key, csr := f.request()
	asked := &pb.Credential{
		Name: "shop.1", Role: pb.Role_ROLE_ISSUER, Tenants: []string{"acme"}, Audiences: []string{"chat"},
		MaxTtl: duration(time.Minute), TokensPerSecond: 7,
	}
	resp, err := f.credentials("admin").CreateCredential(f.ctx, &pb.CreateCredentialRequest{Credential: asked, CertificateRequest: csr})
	f.ok(err)
	f.equal("audit line", f.lastLine("CreateCredential"), "api_key=false caller=admin name=shop.1 outcome=ok role=issuer")
	block, _ := pem.Decode([]byte(resp.GetIssued().GetCertificatePem()))
	cert, err := x509.ParseCertificate(block.Bytes)
	f.ok(err)
	name, generation, err := pki.CredentialOf(cert)
	f.equal("certificate", []any{name, generation, err, resp.GetIssued().GetExpiresAt().AsTime()}, []any{"shop.1", 1, nil, cert.NotAfter.UTC()})
	f.equal("CA", resp.GetIssued().GetCaPem(), string(f.ca.Bundle()))
	f.equal("API key", resp.GetIssued().GetApiKey(), "")

	list, err := f.credentials("viewer").ListCredentials(f.ctx, &pb.ListCredentialsRequest{})
	f.ok(err)
	i := slices.IndexFunc(list.GetCredentials(), func(c *pb.Credential) bool { return c.GetName() == "shop.1" })
	asked.CreatedAt, asked.Generation = timestamp(start), 1
	f.equal("listed", list.GetCredentials()[i], asked)

	conn := func(certPEM string, key []byte) *grpc.ClientConn {
		pair, err := tls.X509KeyPair([]byte(certPEM), key)
		f.ok(err)
		cfg := f.clientTLS("", 0)
		cfg.Certificates = []tls.Certificate{pair}
		c := f.dial(cfg)
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	issue := f.issueOn
	old := conn(resp.GetIssued().GetCertificatePem(), key)
	f.ok(issue(old))

	// Issued anew, what it called with stops working, on open connections too.
	key, csr = f.request()
	again, err := f.credentials("admin").ReissueCredential(f.ctx, &pb.ReissueCredentialRequest{Name: "shop.1", CertificateRequest: csr})
	f.ok(err)
	f.equal("generation", again.GetCredential().GetGeneration(), 2)
	f.equal("audit line", f.lastLine("ReissueCredential"), "caller=admin name=shop.1 outcome=ok")
	f.code(issue(old), codes.Unauthenticated)
	f.ok(issue(conn(again.GetIssued().GetCertificatePem(), key)))

	// From a certificate to an API key.
	third, err := f.credentials("admin").ReissueCredential(f.ctx, &pb.ReissueCredentialRequest{Name: "shop.1"})
	f.ok(err)
	f.equal("credential", []any{third.GetCredential().GetGeneration(), third.GetCredential().GetApiKey()}, []any{3, true})
	f.code(issue(conn(again.GetIssued().GetCertificatePem(), key)), codes.Unauthenticated)
	byKey := f.dial(f.clientTLS("", 0), grpc.WithPerRPCCredentials(apiKey(third.GetIssued().GetApiKey())))
	defer byKey.Close()
	f.ok(issue(byKey))

	// And a new API key for the old one; all of it outlives a restart.
	fourth, err := f.credentials("admin").ReissueCredential(f.ctx, &pb.ReissueCredentialRequest{Name: "shop.1"})
	f.ok(err)
	f.code(issue(byKey), codes.Unauthenticated)
	f.restart()
	byKey = f.dial(f.clientTLS("", 0), grpc.WithPerRPCCredentials(apiKey(fourth.GetIssued().GetApiKey())))
	defer byKey.Close()
	f.ok(issue(byKey))
	for _, secret := range []string{third.GetIssued().GetApiKey(), fourth.GetIssued().GetApiKey()} {
		if strings.Contains(f.audit.String()+f.log.String(), secret) {
			t.Error("an API key is in the log or the audit trail")
		}
	}
}

func TestCredentialRefuses(t *testing.T) {
	f := newFixture(t)
	_, csr := f.request()
	const name = `credential.name: credential name %s is not 1 to 64 of a-z, 0-9, dot, underscore and dash, starting with a letter or digit`
	const theirs = "credential: disabled, created_at, api_key and generation are the authority's to set"
	for _, c := range []struct {
		rule string
		cred *pb.Credential
		csr  []byte
		want string
	}{
		{"no credential", nil, csr, fmt.Sprintf(name, `""`)},
		{"name", &pb.Credential{Name: "Ada", Role: pb.Role_ROLE_ADMIN}, csr, fmt.Sprintf(name, `"Ada"`)},
		{"a token's text for a name", &pb.Credential{Name: someToken, Role: pb.Role_ROLE_ADMIN}, csr, fmt.Sprintf(name, `"gh1_[scrubbed]"`)},
		{"the authority's own name", &pb.Credential{Name: "authority", Role: pb.Role_ROLE_ADMIN}, csr, `credential.name: "authority" is what the audit trail calls the authority itself`},
		{"no role", &pb.Credential{Name: "x"}, csr, "credential.role: required: issuer, node, admin or viewer"},
		{"unknown role", &pb.Credential{Name: "x", Role: 9}, csr, "credential.role: required: issuer, node, admin or viewer"},
		{"disabled", &pb.Credential{Name: "x", Role: pb.Role_ROLE_ADMIN, Disabled: true}, csr, theirs},
		{"created_at", &pb.Credential{Name: "x", Role: pb.Role_ROLE_ADMIN, CreatedAt: timestamp(start)}, csr, theirs},
		{"api_key", &pb.Credential{Name: "x", Role: pb.Role_ROLE_ADMIN, ApiKey: true}, nil, theirs},
		{"generation", &pb.Credential{Name: "x", Role: pb.Role_ROLE_ADMIN, Generation: 1}, csr, theirs},
		{"tenants of a viewer", &pb.Credential{Name: "x", Role: pb.Role_ROLE_VIEWER, Tenants: []string{"acme"}}, csr, "credential: tenants, max_ttl and tokens_per_second are for issuers; the role is viewer"},
		{"max_ttl of a node", &pb.Credential{Name: "x", Role: pb.Role_ROLE_NODE, MaxTtl: duration(time.Hour)}, csr, "credential: tenants, max_ttl and tokens_per_second are for issuers; the role is node"},
		{"quota of an admin", &pb.Credential{Name: "x", Role: pb.Role_ROLE_ADMIN, TokensPerSecond: 1}, csr, "credential: tenants, max_ttl and tokens_per_second are for issuers; the role is admin"},
		{"audiences of a viewer", &pb.Credential{Name: "x", Role: pb.Role_ROLE_VIEWER, Audiences: []string{"chat"}}, csr, "credential.audiences: are for issuers and nodes; the role is viewer"},
		{"an empty tenant", &pb.Credential{Name: "x", Role: pb.Role_ROLE_ISSUER, Tenants: []string{"a", ""}}, csr, "credential.tenants[1]: required, 1 to 128 bytes"},
		{"a long audience", &pb.Credential{Name: "x", Role: pb.Role_ROLE_NODE, Audiences: []string{strings.Repeat("a", 129)}}, csr, "credential.audiences[0]: 129 bytes are above 128"},
		{"many tenants", &pb.Credential{Name: "x", Role: pb.Role_ROLE_ISSUER, Tenants: slices.Repeat([]string{"a"}, 257)}, csr, "credential.tenants: 257 are above 256"},
		{"max_ttl", &pb.Credential{Name: "x", Role: pb.Role_ROLE_ISSUER, MaxTtl: duration(time.Millisecond)}, csr, "credential.max_ttl: 1ms is below 1s"},
		{"a node with an API key", &pb.Credential{Name: "x", Role: pb.Role_ROLE_NODE}, nil, "certificate_request: required: nodes call with certificates only"},
		{"a damaged request", &pb.Credential{Name: "x", Role: pb.Role_ROLE_NODE}, csr[:100], "certificate_request: certificate request does not parse: asn1: syntax error: data truncated"},
	} {
		_, err := f.credentials("admin").CreateCredential(f.ctx, &pb.CreateCredentialRequest{Credential: c.cred, CertificateRequest: c.csr})
		if got, want := failed(err), "InvalidArgument invalid_request: "+c.want+" (invalid request)"; got != want {
			t.Errorf("%s:\n got %s\nwant %s", c.rule, got, want)
		}
	}
	_, err := f.credentials("admin").CreateCredential(f.ctx, &pb.CreateCredentialRequest{Credential: &pb.Credential{Name: "login", Role: pb.Role_ROLE_ADMIN}})
	f.fails(err, `AlreadyExists already_exists: credential.name: "login" is taken, and names are not used again; reissue it, or choose another (exists already)`)

	const reason = "InvalidArgument invalid_request: reason: required, 1 to 512 bytes (invalid request)"
	disable := func(name, why string) error {
		_, err := f.credentials("admin").DisableCredential(f.ctx, &pb.DisableCredentialRequest{Name: name, Reason: why})
		return err
	}
	enable := func(name, why string) error {
		_, err := f.credentials("admin").EnableCredential(f.ctx, &pb.EnableCredentialRequest{Name: name, Reason: why})
		return err
	}
	reissue := func(name string, csr []byte) error {
		_, err := f.credentials("admin").ReissueCredential(f.ctx, &pb.ReissueCredentialRequest{Name: name, CertificateRequest: csr})
		return err
	}
	for _, c := range []struct {
		rule string
		err  error
		want string
	}{
		{"disable without a reason", disable("login", ""), reason},
		{"disable for a token", disable("login", "leaked "+someToken), "InvalidArgument invalid_request: reason: holds a token's text, which must be kept nowhere (invalid request)"},
		{"disable oneself", disable("admin", "r"), `InvalidArgument invalid_request: name: "admin" is the caller itself: let another admin disable it (invalid request)`},
		{"disable nobody", disable("nobody", "r"), `NotFound not_found: no credential has the name "nobody" (not found)`},
		{"disable without a name", disable("", "r"), "InvalidArgument invalid_request: name: required, 1 to 64 bytes (invalid request)"},
		{"disable a token", disable(someToken[:60], "r"), "InvalidArgument invalid_request: name: holds a token's text, which must be kept nowhere (invalid request)"},
		{"enable without a reason", enable("login", ""), reason},
		{"enable nobody", enable("nobody", "r"), `NotFound not_found: no credential has the name "nobody" (not found)`},
		{"reissue nobody", reissue("nobody", csr), `NotFound not_found: no credential has the name "nobody" (not found)`},
		{"reissue a node's with an API key", reissue("node-1", nil), "InvalidArgument invalid_request: certificate_request: required: nodes call with certificates only (invalid request)"},
	} {
		if got := failed(c.err); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.rule, got, c.want)
		}
	}
	f.trail.Flush()
	if strings.Contains(f.audit.String()+f.log.String(), someToken[:60]) {
		t.Error("the log or the audit trail holds a token's text")
	}
	f.issue() // login is what it was
	f.node("node-1")
}

// TestAdminReissuesItself proves that who issues its own credential anew gets
// the answer, although the call ends what it was made with.
func TestAdminReissuesItself(t *testing.T) {
	f := newFixture(t)
	_, csr := f.request()
	resp, err := f.credentials("admin").ReissueCredential(f.ctx, &pb.ReissueCredentialRequest{Name: "admin", CertificateRequest: csr})
	f.ok(err)
	f.equal("generation", resp.GetCredential().GetGeneration(), 2)
	_, err = f.credentials("admin").ListCredentials(f.ctx, &pb.ListCredentialsRequest{})
	f.fails(err, "Unauthenticated unauthenticated: unknown credential")
}

func TestDisableAndEnable(t *testing.T) {
	f := newFixture(t)
	for range 2 { // again succeeds
		resp, err := f.credentials("admin").DisableCredential(f.ctx, &pb.DisableCredentialRequest{Name: "login", Reason: "stolen"})
		f.ok(err)
		f.equal("disabled", resp.GetCredential().GetDisabled(), true)
	}
	f.equal("audit line", f.lastLine("DisableCredential"), "caller=admin name=login outcome=ok reason=stolen")
	_, err := f.tokens("login").IssueToken(f.ctx, request())
	f.fails(err, "PermissionDenied credential_disabled: credential login is disabled (credential disabled)")
	f.restart()
	_, err = f.tokens("login").IssueToken(f.ctx, request())
	f.fails(err, "PermissionDenied credential_disabled: credential login is disabled (credential disabled)")
	for range 2 {
		resp, err := f.credentials("admin").EnableCredential(f.ctx, &pb.EnableCredentialRequest{Name: "login", Reason: "found"})
		f.ok(err)
		f.equal("disabled", resp.GetCredential().GetDisabled(), false)
	}
	f.equal("audit line", f.lastLine("EnableCredential"), "caller=admin name=login outcome=ok reason=found")
	f.issue()
}

// TestDisableByRole proves that who disables a node, say, disables nobody else by
// a slip of the name.
func TestDisableByRole(t *testing.T) {
	f := newFixture(t)
	disable := func(name string, role pb.Role) error {
		_, err := f.credentials("admin").DisableCredential(f.ctx, &pb.DisableCredentialRequest{Name: name, Reason: "stolen", Role: role})
		return err
	}
	const refused = "InvalidArgument invalid_request: role: "
	f.fails(disable("login", pb.Role_ROLE_NODE), refused+"login is of role issuer, not node: use gatehouse credential disable login (invalid request)")
	f.fails(disable("login", 99), refused+"99 is none of issuer, node, admin and viewer (invalid request)")
	f.equal("audit line", f.lastLine("DisableCredential"), "caller=admin outcome=invalid_request")
	f.issue()
	f.ok(disable("login", pb.Role_ROLE_ISSUER))
	f.ok(disable("node-1", pb.Role_ROLE_NODE))
	f.equal("audit line", f.lastLine("DisableCredential"), "caller=admin name=node-1 outcome=ok reason=stolen")
	_, err := f.tokens("login").IssueToken(f.ctx, request())
	f.fails(err, "PermissionDenied credential_disabled: credential login is disabled (credential disabled)")
}

// TestCredentialChangesCountInTheirOrder proves that of changes which run side
// by side the last on disk is the one that counts.
func TestCredentialChangesCountInTheirOrder(t *testing.T) {
	f := newFixture(t)
	conn := f.conn("admin")
	api := pb.NewCredentialServiceClient(conn)
	for range 30 {
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				var err error
				if i%2 == 0 {
					_, err = api.DisableCredential(f.ctx, &pb.DisableCredentialRequest{Name: "login", Reason: "test"})
				} else {
					_, err = api.EnableCredential(f.ctx, &pb.EnableCredentialRequest{Name: "login", Reason: "test"})
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		stored, err := f.store.Credentials(f.ctx)
		f.ok(err)
		want := false
		for _, c := range stored {
			if c.Name == "login" {
				want = c.Disabled
			}
		}
		_, err = f.tokens("login").IssueToken(f.ctx, request())
		f.equal("refused", err != nil, want)
	}
}

// TestNodesKeepToTheirAudiences proves that a node redeems for its audiences
// only.
func TestNodesKeepToTheirAudiences(t *testing.T) {
	f := newFixture(t)
	f.create(&pb.Credential{Name: "feed-node", Role: pb.Role_ROLE_NODE, Audiences: []string{"feed"}})
	n := f.node("feed-node")
	f.equal("chat", n.refusal(n.item(f.issue().GetToken())), pb.Reason_REASON_AUDIENCE_MISMATCH)
	n.grant(n.item(f.issue(func(r *pb.IssueTokenRequest) { r.Audience = "feed" }).GetToken(), func(it *pb.RedeemItem) { it.Audience = "feed" }))
}
