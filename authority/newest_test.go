package authority_test

import (
	"strings"
	"testing"
	"time"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// TestClockGoesBack proves that a revocation that is committed while the clock is
// behind holds once it is right again: the entry is not dropped before the token
// that it hits.
func TestClockGoesBack(t *testing.T) {
	const far = 400 * 24 * time.Hour // beyond what an entry is kept for
	f := newFixture(t)
	n := f.node("node-1")
	tok := f.issue(func(r *pb.IssueTokenRequest) { r.Ttl = duration(time.Hour) })
	_, err := f.sessions("admin").ListNodes(f.ctx, &pb.ListNodesRequest{}) // connected while certificates are valid
	f.ok(err)
	f.ok(f.service.Tend(f.ctx))
	f.clock.advance(-far)
	f.ok(f.service.Tend(f.ctx))
	f.revoke(&pb.Selector{By: &pb.Selector_TokenId{TokenId: tok.GetTokenId()}})
	f.equal("while it is behind", n.refusal(n.item(tok.GetToken())), pb.Reason_REASON_TOKEN_NOT_YET_ACTIVE)
	f.clock.advance(far + time.Second)
	f.ok(f.service.Tend(f.ctx))
	f.equal("entries", f.metric("gatehouse_authority_log_entries{}"), 1)
	f.equal("once it is right", n.refusal(n.item(tok.GetToken())), pb.Reason_REASON_TOKEN_REVOKED)
	for _, want := range []string{"the clock has gone back", "the clock shows again"} {
		if strings.Count(f.log.String(), want) != 1 {
			t.Errorf("%q is not logged once: %s", want, f.log.String())
		}
	}
	f.clock.advance(far)
	f.ok(f.service.Tend(f.ctx))
	f.equal("entries in the end", f.metric("gatehouse_authority_log_entries{}"), 0)
}

// TestClockRunsAhead proves that what a clock that ran ahead has ended stays over
// when it goes back: expired tokens, and revoked ones whose entry it has dropped.
// Sessions of before are over too.
func TestClockRunsAhead(t *testing.T) {
	f := newFixture(t, func(f *fixture) {
		f.cfg.Sessions.MaxTTL, f.cfg.Sessions.DefaultTTL = time.Second, time.Second // nothing but the sweep's own keeping
		f.cfg.Tokens.MaxTTL, f.cfg.Tokens.DefaultTTL = time.Minute, time.Minute
		f.cfg.Fleet.SessionFence = 0
	})
	n := f.node("node-1")
	expired, revoked := f.issue(), f.issue()
	f.revoke(&pb.Selector{By: &pb.Selector_TokenId{TokenId: revoked.GetTokenId()}})
	for _, ahead := range []time.Duration{61 * time.Second, 122 * time.Second, 3 * time.Minute, 5 * time.Minute, 24 * time.Hour} {
		f.clock.advance(ahead)
		f.ok(f.service.Tend(f.ctx))
		f.clock.advance(-ahead)
		f.ok(f.service.Tend(f.ctx))
		if r := n.refusal(n.item(revoked.GetToken())); r == 0 {
			t.Errorf("after %v ahead the revoked token opens a session", ahead)
		}
	}
	if r := n.refusal(n.item(expired.GetToken())); r == 0 {
		t.Error("the swept token opens a session")
	}
}
