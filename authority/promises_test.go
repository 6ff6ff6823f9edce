package authority_test

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/token"
)

// TestSecretsStaySecret proves promise 1: whatever is done with tokens, right
// and wrong, their text, secrets and digests are in no log, audit line, metric,
// error or listing. A canary proves that the search would find them.
func TestSecretsStaySecret(t *testing.T) {
	spans, on := traced()
	f := newFixture(t, on)
	n := f.node("node-1")
	var texts []string
	var shown strings.Builder // all that callers are told, but for the answers that hand tokens out
	show := func(m proto.Message, err error) {
		if err != nil {
			shown.WriteString(failed(err) + "\n")
		} else {
			shown.WriteString(prototext.Format(m) + "\n")
		}
	}
	issue := func(edits ...func(*pb.IssueTokenRequest)) string {
		text := f.issue(edits...).GetToken()
		texts = append(texts, text)
		return text
	}
	hostile := func(text string) func(*pb.RedeemItem) {
		return func(it *pb.RedeemItem) {
			it.Observed.UserAgent, it.Observed.Origin = []byte("curl/8 "+text), []byte("https://"+text)
		}
	}
	fold := func(text string) string { return "GH1_" + text[4:] }

	used := issue()
	n.grant(n.item(used, hostile(used)))
	n.refusal(n.item(used, hostile(fold(used))))
	bound := issue(func(r *pb.IssueTokenRequest) {
		r.Origin, r.UserAgent = "https://app.example.com", []byte(chromeOnLinux+" "+used)
	})
	for range 3 {
		n.refusal(n.item(bound, hostile(bound)))
	}
	n.refusal(n.item(issue(), func(it *pb.RedeemItem) { it.Digest[0] ^= 1 }))
	unused := issue()
	issuers, admin := f.tokens("login"), f.revocations("admin")
	for _, text := range []string{unused, fold(unused), "leaked:" + unused, unused[:40]} {
		show(issuers.IssueToken(f.ctx, request(func(r *pb.IssueTokenRequest) { r.Subject = text })))
		show(issuers.IssueToken(f.ctx, request(func(r *pb.IssueTokenRequest) { r.Tenant = text })))
		show(issuers.IssueToken(f.ctx, request(func(r *pb.IssueTokenRequest) { r.Audience = text })))
		show(issuers.IssueToken(f.ctx, request(func(r *pb.IssueTokenRequest) { r.ClientIp = text })))
		show(issuers.IssueToken(f.ctx, request(func(r *pb.IssueTokenRequest) { r.Origin = "https://" + text })))
		show(issuers.IssueToken(f.ctx, request(func(r *pb.IssueTokenRequest) { r.Scopes = []string{text} })))
		show(issuers.IssueToken(f.ctx, request(func(r *pb.IssueTokenRequest) { r.Attributes = map[string]string{"a": text} })))
		show(issuers.IssueToken(f.ctx, request(func(r *pb.IssueTokenRequest) { r.Attributes = map[string]string{text[:min(len(text), 60)]: "x"} })))
		batch, err := issuers.IssueTokens(f.ctx, &pb.IssueTokensRequest{Requests: []*pb.IssueTokenRequest{{Subject: text, Audience: "chat"}}})
		show(batch, err)
		show(issuers.GetToken(f.ctx, &pb.GetTokenRequest{TokenId: text}))
		show(issuers.ListTokens(f.ctx, &pb.ListTokensRequest{PageToken: text}))
		show(issuers.ListTokens(f.ctx, &pb.ListTokensRequest{IpPrefix: text}))
		show(issuers.ListTokens(f.ctx, &pb.ListTokensRequest{Tenant: text}))
		show(admin.Revoke(f.ctx, &pb.RevokeRequest{Selector: byToken(text)}))
		show(admin.Revoke(f.ctx, &pb.RevokeRequest{Selector: bySubject("acme", text)}))
		show(admin.Revoke(f.ctx, &pb.RevokeRequest{Selector: byPrefix(text), Reason: "r"}))
		show(admin.Revoke(f.ctx, &pb.RevokeRequest{Selector: byIssuer(text), Reason: "r"}))
		show(admin.Revoke(f.ctx, &pb.RevokeRequest{Selector: bySubject("acme", "x"), Reason: text}))
		show(admin.Revoke(f.ctx, &pb.RevokeRequest{Selector: bySubject("acme", "x"), RequestId: text}))
		show(admin.Lock(f.ctx, &pb.LockRequest{Selector: lockSubject("acme", text), Reason: "r"}))
		show(admin.Lock(f.ctx, &pb.LockRequest{Selector: lockSubject("acme", "x"), Reason: text}))
		show(admin.Unlock(f.ctx, &pb.UnlockRequest{LockId: text, Reason: text}))
		show(f.credentials("admin").CreateCredential(f.ctx, &pb.CreateCredentialRequest{Credential: &pb.Credential{Name: text}}))
		show(f.credentials("admin").ReissueCredential(f.ctx, &pb.ReissueCredentialRequest{Name: text}))
		show(f.credentials("admin").DisableCredential(f.ctx, &pb.DisableCredentialRequest{Name: text, Reason: "r"}))
		show(f.credentials("admin").DisableCredential(f.ctx, &pb.DisableCredentialRequest{Name: "login", Reason: text}))
		show(issuers.IntrospectToken(f.ctx, &pb.IntrospectTokenRequest{Token: text}))
	}
	show(f.tokens("viewer").ListTokens(f.ctx, &pb.ListTokensRequest{}))
	show(f.sessions("viewer").ListSessions(f.ctx, &pb.ListSessionsRequest{}))
	show(f.sessions("viewer").ListNodes(f.ctx, &pb.ListNodesRequest{}))
	show(f.revocations("viewer").ListRevocations(f.ctx, &pb.ListRevocationsRequest{}))
	show(f.revocations("viewer").ListLocks(f.ctx, &pb.ListLocksRequest{}))
	show(f.credentials("viewer").ListCredentials(f.ctx, &pb.ListCredentialsRequest{}))
	n.end()
	f.clock.advance(2 * time.Hour)
	f.ok(f.service.Tend(f.ctx))
	var metrics strings.Builder
	families, err := f.metrics.Gather()
	f.ok(err)
	for _, m := range families {
		metrics.WriteString(m.String() + "\n")
	}
	ended, err := json.Marshal(spans.GetSpans())
	f.ok(err)
	f.trail.Flush()
	for where, text := range map[string]string{
		"the audit trail": f.audit.String(), "the log": f.log.String(), "the metrics": metrics.String(), "spans": string(ended), "answers and errors": shown.String(),
	} {
		if len(text) < 100 {
			t.Errorf("%s: only %q was looked at", where, text)
		}
		if found := findSecret(text, texts); found != "" {
			t.Errorf("%s: %s", where, found)
		}
		for _, canary := range []string{unused, fold(unused), hex.EncodeToString(secretOf(f, unused))} {
			if findSecret(text+" "+canary+" ", texts) == "" {
				t.Errorf("%s: a canary is not found", where)
			}
		}
	}
}

func secretOf(f *fixture, text string) []byte {
	tok := f.parsed(text)
	return tok.Secret[:]
}

// findSecret looks for tokens, their secrets, digests and hashes, in the forms
// in which they could be written.
func findSecret(in string, texts []string) string {
	lower := strings.ToLower(in)
	for _, text := range texts {
		var tok token.Token
		if err := token.Parse([]byte(text), &tok); err != nil {
			return err.Error()
		}
		digest := tok.Secret.Digest()
		hash := digest.Hash()
		// Of the text a good part is too much: half of it holds half the secret.
		for at := 30; at+16 <= len(text); at += 10 {
			if strings.Contains(lower, strings.ToLower(text[at:at+16])) {
				return fmt.Sprintf("text of token %s", tok.ID)
			}
		}
		for what, b := range map[string][]byte{"secret": tok.Secret[:], "digest": digest[:], "hash": hash[:]} {
			for _, form := range []string{
				hex.EncodeToString(b), base64.StdEncoding.EncodeToString(b), base64.RawURLEncoding.EncodeToString(b),
				strings.Trim(fmt.Sprint(b), "[]"), string(b),
			} {
				if strings.Contains(lower, strings.ToLower(form)) {
					return fmt.Sprintf("%s of token %s", what, tok.ID)
				}
			}
		}
	}
	return ""
}

// TestGuessesNameNobody proves of promise 5 what is the authority's part: who
// knows an id but not the secret learns nothing, uses nothing up and strikes
// nobody.
func TestGuessesNameNobody(t *testing.T) {
	f := newFixture(t)
	n := f.node("node-1")
	issued := f.issue(func(r *pb.IssueTokenRequest) { r.Origin = "https://app.example.com" })
	for range 50 {
		r := n.batch(n.item(issued.GetToken(), func(it *pb.RedeemItem) { it.Digest[31] ^= 1 }))[0].GetRefusal()
		f.equal("refusal", []any{r.GetReason(), r.GetRetryAfter()}, []any{pb.Reason_REASON_TOKEN_SECRET_WRONG, (*durationpb.Duration)(nil)})
	}
	n.grant(n.item(issued.GetToken(), func(it *pb.RedeemItem) { it.Observed.Origin = []byte("https://app.example.com") }))
}
