package authority_test

import (
	"testing"
	"time"

	"github.com/gatehouse-ws/gatehouse/authority"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// TestIssuingGivesWay proves that tokens, singly and in batches, wait for what
// nodes have not enforced, and are issued though one never does.
func TestIssuingGivesWay(t *testing.T) {
	f := newFixture(t)
	f.node("node-1") // which stays silent
	login := f.tokens("login")
	for name, issue := range map[string]func() error{
		"IssueToken": func() error {
			_, err := login.IssueToken(f.ctx, request())
			return err
		},
		"IssueTokens": func() error {
			_, err := login.IssueTokens(f.ctx, &pb.IssueTokensRequest{Requests: []*pb.IssueTokenRequest{request()}})
			return err
		},
	} {
		began := time.Now()
		f.revoke(&pb.Selector{By: &pb.Selector_Tenant{Tenant: "acme"}})
		f.ok(issue())
		if took := time.Since(began); took < authority.MaxHold {
			t.Errorf("%s: answered %v after the revocation began, which was to have %v", name, took, authority.MaxHold)
		}
	}
}
