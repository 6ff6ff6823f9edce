package authority_test

import (
	"encoding/hex"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/gatehouse-ws/gatehouse/authority"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
)

// closeOldest lets each subject have so many sessions, the newest.
func closeOldest(n uint32) func(*fixture) {
	return func(f *fixture) { f.cfg.Sessions.PerSubject, f.cfg.Sessions.AtLimit = n, authority.CloseOldest }
}

// TestCloseOldest proves that at its limit a subject's oldest session ends for a new
// one, whatever node it is on: its node is told, and nobody else loses anything.
func TestCloseOldest(t *testing.T) {
	f := newFixture(t, closeOldest(2))
	a, b := f.node("node-1"), f.node("node-2")
	first := f.issue()
	old := a.item(first.GetToken())
	a.grant(old)
	f.clock.advance(time.Second)
	a.grant(a.item(f.issue().GetToken()))
	bob := func(r *pb.IssueTokenRequest) { r.Subject = "bob" }
	b.grant(b.item(f.issue(bob).GetToken()))
	f.clock.advance(time.Second)
	it := b.item(f.issue().GetToken())
	g := b.grant(it)
	f.equal("as of", g.GetAsOf().GetSequence(), 0)
	entries, _ := a.entries(1)
	e := entries[0]
	f.equal("entry", []any{e.GetRevoked().GetSessionId(), e.GetReplaced(), e.GetGraceUntil() == nil}, []any{hex.EncodeToString(old.GetSessionId()), true, true})
	f.equal("audit line", f.lastLine("SessionEnd"), fmt.Sprintf("caller=authority outcome=session_replaced replaced_by=%x revision=1 session_id=%x subject=ada tenant=acme token_id=%s",
		it.GetSessionId(), old.GetSessionId(), first.GetTokenId()))
	list, err := f.sessions("viewer").ListSessions(f.ctx, &pb.ListSessionsRequest{Subject: "ada"})
	f.ok(err)
	f.equal("sessions of ada", len(list.GetSessions()), 2)
	f.equal("sessions", f.store.Stats().Sessions, 3)
	f.equal("metric", f.metric("gatehouse_authority_sessions_replaced_total{}"), 1)
	f.equal("retry of the one that ended", a.refusal(old), pb.Reason_REASON_SESSION_ENDED)
	f.equal("retry of the new one", b.grant(it).GetSessionExpiresAt().AsTime(), g.GetSessionExpiresAt().AsTime())
	revoked, err := f.revocations("viewer").ListRevocations(f.ctx, &pb.ListRevocationsRequest{})
	f.ok(err)
	f.equal("revocations", len(revoked.GetRevocations()), 0)
	a.ended(hex.EncodeToString(old.GetSessionId())) // once its socket is closed
	f.equal("counts", f.store.Stats().Sessions, 3)

	// Its entry is forgotten once nobody can lack it and have the socket.
	f.clock.advance(time.Hour + 4*time.Second)
	f.ok(f.service.Tend(f.ctx))
	f.equal("entries", f.store.Stats().Entries, 1)
	f.clock.advance(time.Second)
	f.ok(f.service.Tend(f.ctx))
	f.equal("entries", f.store.Stats().Entries, 0)
}

// TestCloseOldestByToken proves that a token's own bound counts as the authority's
// does, and that one without a bound ends nobody.
func TestCloseOldestByToken(t *testing.T) {
	f := newFixture(t, closeOldest(0))
	n := f.node("node-1")
	for range 3 {
		n.grant(n.item(f.issue().GetToken()))
	}
	n.grant(n.item(f.issue(func(r *pb.IssueTokenRequest) { r.Limits = &pb.SessionLimits{SessionsPerSubject: 1} }).GetToken()))
	f.equal("sessions", f.store.Stats().Sessions, 1)
}

// TestCloseOldestLeavesTenants proves that no user loses a socket to another: the
// bound of a tenant refuses.
func TestCloseOldestLeavesTenants(t *testing.T) {
	f := newFixture(t, closeOldest(2), func(f *fixture) { f.cfg.Sessions.PerTenant = 2 })
	n := f.node("node-1")
	n.grant(n.item(f.issue().GetToken()))
	bob := func(r *pb.IssueTokenRequest) { r.Subject = "bob" }
	n.grant(n.item(f.issue(bob).GetToken()))
	f.equal("a third", n.refusal(n.item(f.issue(bob).GetToken())), pb.Reason_REASON_SESSION_LIMIT)
	f.equal("sessions", f.store.Stats().Sessions, 2)
}

// TestCloseOldestAndRenewals proves that a renewal ends nobody, and that the session
// it makes counts as new.
func TestCloseOldestAndRenewals(t *testing.T) {
	f := newFixture(t, closeOldest(2))
	n := f.node("node-1")
	var items []*pb.RedeemItem
	for range 2 {
		items = append(items, n.item(f.issue().GetToken()))
		n.grant(items[len(items)-1])
		f.clock.advance(time.Second)
	}
	renewed := n.renewal(items[0])
	n.grant(renewed)
	f.equal("metric", f.metric("gatehouse_authority_sessions_replaced_total{}"), 0)
	n.ended(hex.EncodeToString(items[0].GetSessionId()))
	f.clock.advance(time.Second)
	n.grant(n.item(f.issue().GetToken()))
	live, err := f.store.Sessions(f.ctx, []storage.SessionID{storage.SessionID(items[1].GetSessionId()), storage.SessionID(renewed.GetSessionId())})
	f.ok(err)
	f.equal("live", []bool{live[0] != nil, live[1] != nil}, []bool{false, true})
}

// TestCloseOldestAfterRestart proves that who is the oldest is as durable as the
// sessions.
func TestCloseOldestAfterRestart(t *testing.T) {
	f := newFixture(t, closeOldest(2))
	n := f.node("node-1")
	var ids []storage.SessionID
	for i := range 2 {
		it := n.item(f.issue(func(r *pb.IssueTokenRequest) { r.SessionTtl = durationpb.New(time.Duration(9-i) * time.Hour) }).GetToken())
		n.grant(it)
		ids = append(ids, storage.SessionID(it.GetSessionId()))
		f.clock.advance(time.Second)
	}
	f.restart()
	n.begin()
	n.grant(n.item(f.issue().GetToken()))
	live, err := f.store.Sessions(f.ctx, ids)
	f.ok(err)
	f.equal("live", []bool{live[0] != nil, live[1] != nil}, []bool{false, true})
}
