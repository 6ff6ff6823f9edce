package authority_test

import (
	"fmt"
	"math"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage/boltstore"
)

// TestRevocationThatHitsEverything proves that one which hits all sessions of a
// large tenant is one small entry for store and nodes, costs no more than one that
// hits nothing, counts exactly in dry run and receipt, and leaves others alone.
func TestRevocationThatHitsEverything(t *testing.T) {
	f := newFixture(t, func(f *fixture) {
		var err error
		f.store, err = boltstore.Open(filepath.Join(t.TempDir(), "gatehouse.db"), boltstore.Options{})
		f.ok(err)
	})
	const batch, unused, others = 250, 500, 250
	nodes := []*node{f.node("node-1"), f.node("node-2")}
	hit := []int{9000, 11_000}
	issue := func(tenant string) (texts []string) {
		req := &pb.IssueTokensRequest{}
		for i := range batch {
			req.Requests = append(req.Requests, request(func(r *pb.IssueTokenRequest) { r.Tenant, r.Subject = tenant, fmt.Sprint("u", i) }))
		}
		resp, err := f.tokens("two").IssueTokens(f.ctx, req)
		f.ok(err)
		for _, r := range resp.GetResults() {
			texts = append(texts, r.GetToken().GetToken())
		}
		return texts
	}
	open := func(n *node, tenant string) (items []*pb.RedeemItem) {
		for _, text := range issue(tenant) {
			items = append(items, n.item(text))
		}
		for _, r := range n.batch(items...) {
			if r.GetGrant() == nil {
				t.Fatalf("refused: %v", r.GetRefusal())
			}
		}
		return items
	}
	live := make([][]*pb.RedeemItem, len(nodes))
	for n := range nodes {
		for len(live[n]) < hit[n] {
			live[n] = append(live[n], open(nodes[n], "acme")...)
		}
	}
	open(nodes[0], "bolt")
	left := append(issue("acme"), issue("acme")...)
	everything := len(live[0]) + len(live[1])

	dry, err := f.revocations("admin").Revoke(f.ctx, &pb.RevokeRequest{Selector: byTenant("acme"), Reason: "r", DryRun: true})
	f.ok(err)
	f.equal("dry run", []any{dry.GetTokens(), dry.GetSessions()}, []any{everything + unused, everything})
	f.equal("entries after it", f.store.Stats().Entries, 0)

	// What allocates nothing for each session takes no time for it either. Others
	// allocate too, now and then: the least of three is its own.
	const times = 3
	revoke := func(tenant string) (r *pb.Revision, least uint64) {
		least = math.MaxUint64
		for range times {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			r = f.revoke(byTenant(tenant)).GetRevision()
			runtime.ReadMemStats(&after)
			least = min(least, after.TotalAlloc-before.TotalAlloc)
		}
		return r, least
	}
	_, nothing := revoke("nobody")
	r, bytes := revoke("acme")
	if bytes > nothing+128<<10 {
		t.Errorf("a revocation of %d sessions allocated %d bytes, one of nothing %d", everything, bytes, nothing)
	}
	f.equal("entries", f.store.Stats().Entries, 2*times)

	want := make([]string, len(nodes))
	for n, node := range nodes {
		entries, _ := node.entries(r.GetSequence())
		f.equal("entries for a node", len(entries), 2*times)
		if size := proto.Size(entries[2*times-1]); size > 100 {
			t.Errorf("a node is sent %d bytes", size)
		}
		node.acknowledge(r, &pb.Enforced{Sequence: r.GetSequence(), Closed: uint32(len(live[n]))})
		want[n] = fmt.Sprintf("%s:%d/0@0s", node.name, len(live[n]))
	}
	complete := strings.Join(want, " ") + " complete"
	f.heard(r, complete)
	f.ok(f.service.Tend(f.ctx))
	f.trail.Flush()
	f.equal("line", f.lastLine("ReceiptComplete"), fmt.Sprintf("after_ms=0 caller=authority closed=%d instances=2 outcome=ok revision=%d", everything, r.GetSequence()))

	for _, r := range nodes[1].batch(live[1][:batch]...) { // a retry revives nothing
		f.equal("retry", r.GetRefusal().GetReason(), pb.Reason_REASON_TOKEN_REVOKED)
	}
	for _, text := range left[:10] {
		f.equal("unused", nodes[0].refusal(nodes[0].item(text)), pb.Reason_REASON_TOKEN_REVOKED)
	}
	for n, node := range nodes {
		for part := range (len(live[n]) + 999) / 1000 {
			req := &pb.ReportSessionsRequest{InstanceId: node.id[:]}
			for _, it := range live[n][part*1000 : min((part+1)*1000, len(live[n]))] {
				req.Ended = append(req.Ended, &pb.SessionEnd{SessionId: it.GetSessionId(), Reason: pb.Reason_REASON_TOKEN_REVOKED, EndedAt: timestamp(start)})
			}
			_, err := f.nodes(node.name).ReportSessions(f.ctx, req)
			f.ok(err)
		}
	}
	f.equal("sessions left", f.store.Stats().Sessions, others)
	f.equal("others live", nodes[0].refusal(nodes[0].item(issue("bolt")[0])), pb.Reason(0))
	f.equal("issued after it", nodes[0].refusal(nodes[0].item(issue("acme")[0])), pb.Reason(0))
	dry, err = f.revocations("admin").Revoke(f.ctx, &pb.RevokeRequest{Selector: byTenant("acme"), Reason: "r", DryRun: true})
	f.ok(err)
	f.equal("dry run afterwards", []any{dry.GetTokens(), dry.GetSessions()}, []any{batch, 1}) // what was issued since
	f.restart()
	f.equal("after a restart", rows(f.receipt("admin", r)), strings.ReplaceAll(complete, "@0s", "@1µs"))
}
