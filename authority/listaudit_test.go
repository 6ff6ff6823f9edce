package authority_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

func (f *fixture) listAudit(req *pb.ListAuditRequest) (all []*pb.AuditRecord, pages int) {
	f.Helper()
	for {
		resp, err := pb.NewAuditServiceClient(f.conn("viewer")).ListAudit(f.ctx, req)
		f.ok(err)
		all = append(all, resp.GetRecords()...)
		pages++
		if req.PageToken = resp.GetNextPageToken(); req.GetPageToken() == "" {
			return all, pages
		}
	}
}

func TestListAudit(t *testing.T) {
	f := newFixture(t)
	for i := range 25 {
		f.issue(func(r *pb.IssueTokenRequest) { r.Subject = fmt.Sprint("u", i%3) })
		f.clock.advance(time.Second)
	}
	f.revoke(&pb.Selector{By: &pb.Selector_Tenant{Tenant: "acme"}})
	f.trail.Flush()
	for _, c := range []struct {
		name string
		req  *pb.ListAuditRequest
		want int
	}{
		{"action", &pb.ListAuditRequest{Action: "IssueToken"}, 25},
		{"pages", &pb.ListAuditRequest{Action: "IssueToken", PageSize: 7}, 25},
		{"subject", &pb.ListAuditRequest{Subject: "u1"}, 8},
		{"all that is asked for", &pb.ListAuditRequest{Subject: "u1", Caller: "login", Tenant: "acme", Outcome: "ok", Action: "IssueToken"}, 8},
		{"none", &pb.ListAuditRequest{Subject: "u9"}, 0},
		{"since", &pb.ListAuditRequest{Action: "IssueToken", Since: timestamppb.New(start.Add(20 * time.Second))}, 5},
		{"until", &pb.ListAuditRequest{Action: "IssueToken", Until: timestamppb.New(start.Add(20 * time.Second))}, 20},
		{"start", &pb.ListAuditRequest{Action: "AuditOpened"}, 1},
		{"revocation", &pb.ListAuditRequest{Action: "Revoke", Caller: "admin"}, 1},
	} {
		var newest []*pb.AuditRecord
		for _, oldest := range []bool{false, true} {
			c.req.OldestFirst, c.req.PageToken = oldest, ""
			got, _ := f.listAudit(c.req)
			if len(got) != c.want {
				t.Errorf("%s, oldest first %v: %d records, want %d", c.name, oldest, len(got), c.want)
			}
			if !oldest {
				newest = got
				continue
			}
			slices.Reverse(newest)
			f.equal(c.name+", both ways", newest, got)
		}
	}
	// A listing ends though every page of it adds a line.
	for _, oldest := range []bool{false, true} {
		f.trail.Flush()
		if got, _ := f.listAudit(&pb.ListAuditRequest{PageSize: 1, OldestFirst: oldest}); len(got) < 26 {
			t.Errorf("%d records", len(got))
		}
	}
	got, _ := f.listAudit(&pb.ListAuditRequest{Action: "Revoke"})
	if r := got[0]; r.GetFields()["reason"] != "test" || r.GetFields()["tenant"] != "acme" || r.GetPeer() == "" || r.GetOutcome() != "ok" {
		t.Errorf("%v", r)
	}
	first, err := pb.NewAuditServiceClient(f.conn("viewer")).ListAudit(f.ctx, &pb.ListAuditRequest{PageSize: 1})
	f.ok(err)
	for _, c := range []struct {
		req  *pb.ListAuditRequest
		want string
	}{
		{&pb.ListAuditRequest{PageToken: first.GetNextPageToken(), OldestFirst: true}, "InvalidArgument invalid_request: page_token: is of a page in another order (invalid request)"},
		{&pb.ListAuditRequest{PageToken: "AAAA"}, "InvalidArgument invalid_request: page_token: is not a next_page_token of this method (invalid request)"},
		{&pb.ListAuditRequest{PageToken: "AH________________________"}, "InvalidArgument invalid_request: page_token: is not..."},
		{&pb.ListAuditRequest{PageToken: "AH____________________8"}, "InvalidArgument invalid_request: page_token: is of a ..."},
		{&pb.ListAuditRequest{PageToken: "AAAAAH________8AAAAAAAAAAAA"}, "InvalidArgument invalid_request: page_token..."},
		{&pb.ListAuditRequest{PageSize: 1001}, "InvalidArgument invalid_request: page_size: 1001 is outside 1 to 1000 (invalid request)"},
		{&pb.ListAuditRequest{Subject: strings.Repeat("x", 257)}, "InvalidArgument invalid_request: subject: 257 bytes are above 256 (invalid request)"},
		{&pb.ListAuditRequest{TokenId: "x"}, "InvalidArgument invalid_request: token_id: ..."},
		{&pb.ListAuditRequest{SessionId: "x"}, "InvalidArgument invalid_request: session_id: want 32 hexadecimal digits (invalid request)"},
		{&pb.ListAuditRequest{Since: &timestamppb.Timestamp{Nanos: -1}}, "InvalidArgument invalid_request: since: must be a time of the years 1 to 9999 (invalid request)"},
	} {
		_, err := pb.NewAuditServiceClient(f.conn("viewer")).ListAudit(f.ctx, c.req)
		f.fails(err, c.want)
	}
}

func TestGetCheckpoint(t *testing.T) {
	f := newFixture(t)
	f.issue()
	f.trail.Flush()
	want := f.trail.Checkpoint()
	got, err := pb.NewAuditServiceClient(f.conn("viewer")).GetCheckpoint(f.ctx, &pb.GetCheckpointRequest{})
	f.ok(err)
	if got.GetSequence() != want.Sequence || got.GetHash() != want.Hash.String() || !got.GetTime().AsTime().Equal(want.Time) || got.GetLines() != want.Lines || want.Lines < 2 {
		t.Errorf("%v, want %+v", got, want)
	}
}

// A trail that goes to no file can't be read back, and says so.
func TestListAuditWithoutAFile(t *testing.T) {
	f := newFixture(t, func(f *fixture) { f.auditTo = &buffer{} })
	_, err := pb.NewAuditServiceClient(f.conn("admin")).ListAudit(f.ctx, &pb.ListAuditRequest{})
	f.fails(err, "NotFound not_found: the audit trail is kept in no file that can be read back...")
}
