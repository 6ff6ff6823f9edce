package authority_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/storagetest"
)

// newFaultyFixture is a fixture whose store fails, or waits, as it is told.
func newFaultyFixture(t *testing.T) (*fixture, *storagetest.Faulty) {
	faulty := &storagetest.Faulty{}
	f := newFixture(t, func(f *fixture) { faulty.Store = f.store; f.store = faulty })
	return f, faulty
}

// TestWritesAreCarriedThrough proves that what is on its way to the disk when
// its caller goes away is done, counted and audited all the same.
func TestWritesAreCarriedThrough(t *testing.T) {
	f, store := newFaultyFixture(t)
	n := f.node("node-1")

	ctx, cancel := context.WithCancel(f.ctx)
	release := store.Hold("Append")
	gone := make(chan error, 1)
	go func() {
		_, err := f.revocations("admin").Revoke(ctx, &pb.RevokeRequest{Selector: byTenant("bolt"), Reason: "moved out"})
		gone <- err
	}()
	f.eventually("the call", func() bool { return store.Holding("Append") })
	cancel()
	f.code(<-gone, codes.Canceled)
	release()
	f.eventually("the audit line of a revocation", func() bool {
		f.trail.Flush()
		return strings.Contains(f.audit.String(), `"action":"Revoke"`)
	})
	if line := f.lastLine("Revoke"); !strings.Contains(line, "outcome=ok") || !strings.Contains(line, "revision=1 ") {
		t.Errorf("audit line %s", line)
	}
	head, _ := store.Head()
	f.equal("its receipt", rows(f.receipt("admin", &pb.Revision{Epoch: head.Epoch, Sequence: 1})), "node-1?1h0m4.6s incomplete")

	it := n.item(f.issue().GetToken())
	release = store.Hold("Redeem")
	n.redeem = n.open(n.attach.Context())
	f.ok(n.redeem.Send(&pb.RedeemRequest{Items: []*pb.RedeemItem{it}}))
	f.eventually("the batch", func() bool { return store.Holding("Redeem") })
	n.end() // its streams
	f.eventually("the end of the stream", func() bool {
		f.trail.Flush()
		return strings.Contains(f.audit.String(), `"action":"RedeemStream"`)
	})
	release()
	f.eventually("the audit line of a redemption", func() bool {
		f.trail.Flush()
		return strings.Contains(f.audit.String(), fmt.Sprintf(`"session_id":"%x"`, it.GetSessionId()))
	})
	if line := f.lastLine("Redeem"); !strings.Contains(line, "outcome=ok") {
		t.Errorf("audit line %s", line)
	}
}

// TestEndOvertakesItsRedemption proves that a session whose end a node reports
// while its redemption is still under way does not stay behind.
func TestEndOvertakesItsRedemption(t *testing.T) {
	f, store := newFaultyFixture(t)
	n := f.node("node-1")
	it := n.item(f.issue().GetToken())
	release := store.Hold("Redeem")
	n.redeem = n.open(n.attach.Context())
	f.ok(n.redeem.Send(&pb.RedeemRequest{Items: []*pb.RedeemItem{it}}))
	f.eventually("the batch", func() bool { return store.Holding("Redeem") })
	n.ended(fmt.Sprintf("%x", it.GetSessionId()))

	// Another node's word about it counts nothing.
	other := f.node("node-2")
	kept := n.item(f.issue().GetToken())
	other.ended(fmt.Sprintf("%x", kept.GetSessionId()))

	release()
	resp, err := n.redeem.Recv()
	f.ok(err)
	f.equal("answer", resp.GetResults()[0].GetRefusal().GetReason(), pb.Reason_REASON_SESSION_ENDED)
	n.grant(kept)
	list, err := f.sessions("admin").ListSessions(f.ctx, &pb.ListSessionsRequest{})
	f.ok(err)
	f.equal("live sessions", len(list.GetSessions()), 1)
	f.equal("which", list.GetSessions()[0].GetSessionId(), fmt.Sprintf("%x", kept.GetSessionId()))
}

// TestReleaseAndReturn proves that an instance which comes back while it is
// being released is registered in the end, on disk and here: no receipt leaves
// it out.
func TestReleaseAndReturn(t *testing.T) {
	f, store := newFaultyFixture(t)
	n := f.node("node-1")
	n.end()
	f.eventually("the stream's end", func() bool {
		list, err := f.sessions("admin").ListNodes(f.ctx, &pb.ListNodesRequest{})
		f.ok(err)
		return !list.GetNodes()[0].GetAttached()
	})
	f.clock.advance(2 * time.Hour)
	release := store.Hold("RemoveInstance")
	tended := make(chan error, 1)
	go func() { tended <- f.service.Tend(f.ctx) }()
	f.eventually("the release", func() bool { return store.Holding("RemoveInstance") })
	back := make(chan struct{})
	go func() {
		defer close(back)
		n.begin()
	}()
	select {
	case <-back:
		t.Error("it is back while it is being released")
	case <-time.After(50 * time.Millisecond):
	}
	release()
	f.ok(<-tended)
	<-back
	n.grant(n.item(f.issue().GetToken()))
	at := f.revoke(byTenant("acme")).GetRevision()
	f.equal("receipt", rows(f.receipt("admin", at)), "node-1?3h0m4.6s incomplete")
	instances, err := store.Instances(f.ctx)
	f.ok(err)
	f.equal("instances on disk", len(instances), 1)
}

// TestListsHavePages proves that credentials and nodes are told in pages that
// any caller can take.
func TestListsHavePages(t *testing.T) {
	f := newFixture(t)
	scopes := make([]string, 256)
	for i := range scopes {
		scopes[i] = fmt.Sprintf("%s-%03d", strings.Repeat("tenant", 20), i)
	}
	for i := range 120 {
		f.ok(f.store.CreateCredential(f.ctx, storage.Credential{
			Name: fmt.Sprintf("many-%03d", i), Role: storage.Issuer, Generation: 1, Tenants: scopes, Audiences: scopes,
		}))
	}
	f.restart()
	var names []string
	from, pages := "", 0
	for {
		resp, err := f.credentials("viewer").ListCredentials(f.ctx, &pb.ListCredentialsRequest{PageSize: 1000, PageToken: from})
		f.ok(err)
		pages++
		for _, c := range resp.GetCredentials() {
			names = append(names, c.GetName())
		}
		if from = resp.GetNextPageToken(); from == "" {
			break
		}
	}
	f.equal("names", names, f.credentialsOnDisk())
	if pages < 2 {
		t.Errorf("%d pages of 8 MB in all", pages)
	}

	for range 3 {
		f.node("node-2")
		f.node("node-1")
	}
	var nodes []string
	from = ""
	for {
		resp, err := f.sessions("viewer").ListNodes(f.ctx, &pb.ListNodesRequest{PageSize: 2, PageToken: from})
		f.ok(err)
		for _, n := range resp.GetNodes() {
			nodes = append(nodes, n.GetName())
		}
		if from = resp.GetNextPageToken(); from == "" {
			break
		}
	}
	f.equal("nodes", nodes, []string{"node-1", "node-1", "node-1", "node-2", "node-2", "node-2"})
	for _, bad := range []string{"?", "AAAA=", strings.Repeat("A", 200)} {
		_, err := f.sessions("viewer").ListNodes(f.ctx, &pb.ListNodesRequest{PageToken: bad})
		f.fails(err, "InvalidArgument invalid_request: page_token: is not a next_page_token of this method (invalid request)")
		_, err = f.credentials("viewer").ListCredentials(f.ctx, &pb.ListCredentialsRequest{PageToken: bad})
		f.fails(err, "InvalidArgument invalid_request: page_token: is not a next_page_token of this method (invalid request)")
	}
}

func (f *fixture) credentialsOnDisk() (names []string) {
	all, err := f.store.Credentials(f.ctx)
	f.ok(err)
	for _, c := range all {
		names = append(names, c.Name)
	}
	return names
}

// TestUnlockCanBeRepeated proves that a retry of an unlock whose answer was
// lost is told what the first did, an issuer's too.
func TestUnlockCanBeRepeated(t *testing.T) {
	f := newFixture(t)
	for _, caller := range []string{"admin", "acme"} {
		api := f.revocations(caller)
		l, err := api.Lock(f.ctx, &pb.LockRequest{Reason: "r", Selector: &pb.LockSelector{By: &pb.LockSelector_Subject{Subject: &pb.Subject{Tenant: "acme", Subject: "ada"}}}})
		f.ok(err)
		req := &pb.UnlockRequest{LockId: l.GetLockId(), Reason: "solved", RequestId: "0123456789abcdef"}
		first, err := api.Unlock(f.ctx, req)
		f.ok(err)
		again, err := api.Unlock(f.ctx, req)
		f.ok(err)
		f.equal("again", again.GetRevision(), first.GetRevision())
		req.RequestId = ""
		_, err = api.Unlock(f.ctx, req)
		f.fails(err, "NotFound not_found: no lock stands with the id "+l.GetLockId()+" (not found)")
	}
}

// TestRoomInTheLog proves promise 6 of locks and of issuers' revocations.
func TestRoomInTheLog(t *testing.T) {
	full := &fullStore{}
	f := newFixture(t, func(f *fixture) { full.Store = f.store; f.store = full })
	full.stats = storage.Stats{Locks: 100_000}
	_, err := f.revocations("admin").Lock(f.ctx, &pb.LockRequest{Reason: "r", Selector: &pb.LockSelector{By: &pb.LockSelector_Tenant{Tenant: "acme"}}})
	f.fails(err, "ResourceExhausted quota_exceeded: 100000 locks stand, which is the most: lift some, or lock tenants and prefixes (quota exceeded)")
	full.stats = storage.Stats{Entries: 1_000_000}
	bySubject := &pb.Selector{By: &pb.Selector_Subject{Subject: &pb.Subject{Tenant: "acme", Subject: "ada"}}}
	_, err = f.revocations("acme").Revoke(f.ctx, &pb.RevokeRequest{Selector: bySubject})
	f.fails(err, "ResourceExhausted quota_exceeded: the log has 1000000 entries, too many for issuers to add more: let an admin revoke (quota exceeded)")
	_, err = f.revocations("admin").Revoke(f.ctx, &pb.RevokeRequest{Selector: bySubject})
	f.ok(err)
}

type fullStore struct {
	storage.Store
	stats storage.Stats
}

func (s *fullStore) Stats() storage.Stats { return s.stats }
