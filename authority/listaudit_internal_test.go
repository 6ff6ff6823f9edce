package authority

import (
	"bytes"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-ws/gatehouse/auditlog"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// allPages reads every page of a trail in memory.
func allPages(t *testing.T, text []byte, req *pb.ListAuditRequest) (all []*pb.AuditRecord, pages int) {
	t.Helper()
	for {
		q, err := parseListAudit(req)
		if err != nil {
			t.Fatal(err)
		}
		if q.at < 0 {
			if q.end = int64(len(text)); !q.oldest {
				q.at = q.end
			} else {
				q.at = 0
			}
		}
		resp, err := q.read(t.Context(), bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if len(resp.GetRecords()) > q.limit {
			t.Fatalf("%d records, at most %d were asked for", len(resp.GetRecords()), q.limit)
		}
		all = append(all, resp.GetRecords()...)
		if pages++; pages > len(text)+1 {
			t.Fatal("the pages have no end")
		}
		if req.PageToken = resp.GetNextPageToken(); req.GetPageToken() == "" {
			return all, pages
		}
	}
}

// A page looks through so much of a trail and no more, however few records fit.
func TestListAuditBoundsAPage(t *testing.T) {
	line := func(subject string) []byte {
		return auditlog.AppendLine(nil, testStart, "Test", "ok", []slog.Attr{slog.String("subject", subject), slog.String("rest", strings.Repeat("x", 4000))})
	}
	text := slices.Concat(line("rare"), bytes.Repeat(line("common"), 3*maxAuditScan/4000), line("rare"))
	for _, oldest := range []bool{false, true} {
		got, pages := allPages(t, text, &pb.ListAuditRequest{Subject: "rare", OldestFirst: oldest})
		if len(got) != 2 || pages < 3 || pages > 6 {
			t.Errorf("%d records on %d pages", len(got), pages)
		}
	}
	_, pages := allPages(t, bytes.Repeat(line("common"), 2000), &pb.ListAuditRequest{PageSize: 1000})
	if pages < 3 { // a record has 4,000 bytes, a page 3 MiB
		t.Errorf("%d pages", pages)
	}
}

// FuzzListAudit proves that pages of any text end, and hold the same records
// both ways; and that any page token is an error or a place.
func FuzzListAudit(f *testing.F) {
	whole := auditlog.AppendLine(nil, testStart, "Test", "ok", []slog.Attr{slog.String("subject", "ada")})
	for _, text := range [][]byte{nil, whole, bytes.Repeat(whole, 3), append([]byte("torn \n"), whole...), []byte("\n\n{\n")} {
		f.Add(text, "", int32(1))
	}
	for _, at := range []int64{0, 1, -1, 1 << 62} {
		f.Add(whole, (&auditQuery{at: at, end: at, oldest: at&1 == 0}).token(), int32(1000))
	}
	f.Fuzz(func(t *testing.T, text []byte, token string, size int32) {
		for _, oldest := range []bool{false, true} {
			q, err := parseListAudit(&pb.ListAuditRequest{PageToken: token, OldestFirst: oldest})
			if err == nil && token != "" && (q.at < 0 || q.end < 0 || q.token() != token) {
				t.Fatalf("page token %q is %+v", token, q)
			}
		}
		if size < 1 || size > maxPage {
			return
		}
		newest, _ := allPages(t, text, &pb.ListAuditRequest{PageSize: size})
		oldest, _ := allPages(t, text, &pb.ListAuditRequest{PageSize: size, OldestFirst: true})
		slices.Reverse(newest)
		if fmt.Sprint(newest) != fmt.Sprint(oldest) {
			t.Fatalf("newest first %v\noldest first %v", newest, oldest)
		}
		for _, r := range oldest {
			if r.GetAction() == "" || r.GetTime().AsTime().Before(time.Unix(-1<<40, 0)) {
				t.Fatalf("%v", r)
			}
		}
	})
}
