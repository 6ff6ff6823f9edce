package authority

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gatehouse-ws/gatehouse/auditlog"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/token"
)

// maxAuditScan is how much of the trail one page looks through.
const maxAuditScan = 32 << 20

// auditQuery is where a page lies, and what it takes.
type auditQuery struct {
	filter *auditlog.Filter
	limit  int
	oldest bool
	at     int64 // where to go on, in the direction of the page; -1 for the first
	end    int64 // of the trail when its first page was read, for oldest first
}

// GetCheckpoint implements AuditService.
func (s *Service) GetCheckpoint(context.Context, *pb.GetCheckpointRequest) (*pb.GetCheckpointResponse, error) {
	c := s.audit.checkpoint()
	if c.Sequence == 0 {
		return &pb.GetCheckpointResponse{}, nil
	}
	return &pb.GetCheckpointResponse{Sequence: c.Sequence, Hash: c.Hash.String(), Time: timestamppb.New(c.Time), Lines: c.Lines}, nil
}

// ListAudit implements AuditService.
func (s *Service) ListAudit(ctx context.Context, req *pb.ListAuditRequest) (*pb.ListAuditResponse, error) {
	q, err := parseListAudit(req)
	if err != nil {
		return nil, err
	}
	if s.audit.file == nil {
		return nil, notFound("the audit trail is kept in no file that can be read back")
	}
	info, err := s.audit.file.Stat()
	if err != nil {
		return nil, fmt.Errorf("audit trail: %w", err)
	}
	size := info.Size()
	if q.at > size || q.end > size {
		return nil, invalid("page_token", "is of a trail that was longer: begin again")
	}
	if q.at < 0 {
		q.end = size
		if q.at = 0; !q.oldest {
			q.at = size
		}
	}
	resp, err := q.read(ctx, s.audit.file)
	if err != nil {
		return nil, fmt.Errorf("read the audit trail: %w", err)
	}
	note(ctx, slog.Int("records", len(resp.Records)))
	return resp, nil
}

// read fills a page, until it is full or has looked through enough.
func (q *auditQuery) read(ctx context.Context, f io.ReaderAt) (*pb.ListAuditResponse, error) {
	resp := &pb.ListAuditResponse{}
	from, bytes, more := q.at, 0, false
	take := func(line []byte, next int64) bool {
		if len(line) > 0 && q.filter.Takes(line) { // else it is within one too long
			if r, err := auditlog.ParseRecord(line); err == nil { // else a kill has torn it
				m := auditRecord(&r)
				if bytes += proto.Size(m); bytes > maxPageBytes && len(resp.Records) > 0 {
					more = true
					return false
				}
				resp.Records = append(resp.Records, m)
			}
		}
		q.at = next
		more = len(resp.Records) == q.limit || max(next-from, from-next) >= maxAuditScan
		return !more && ctx.Err() == nil
	}
	var err error
	if q.oldest {
		err = auditlog.Scan(io.NewSectionReader(f, from, q.end-from), func(line []byte, end int64) bool { return take(line, from+end) })
		more = more && q.at < q.end
	} else {
		err = auditlog.ScanBack(f, from, take)
		more = more && q.at > 0
	}
	if more {
		resp.NextPageToken = q.token()
	}
	return resp, errors.Join(err, ctx.Err())
}

func (q *auditQuery) token() string {
	cursor := []byte{0}
	if q.oldest {
		cursor[0] = 1
	}
	cursor = binary.BigEndian.AppendUint64(cursor, uint64(q.at))
	return pageToken(binary.BigEndian.AppendUint64(cursor, uint64(q.end)))
}

func auditRecord(r *auditlog.Record) *pb.AuditRecord {
	m := &pb.AuditRecord{Time: timestamppb.New(r.Time), Action: r.Action, Outcome: r.Outcome, Caller: r.Caller, Peer: r.Peer}
	for _, f := range r.Fields {
		if m.Fields == nil {
			m.Fields = make(map[string]string, len(r.Fields))
		}
		m.Fields[f.Key] = f.Value
	}
	return m
}

func parseListAudit(req *pb.ListAuditRequest) (q auditQuery, err error) {
	var equal []auditlog.Field
	for _, f := range []struct {
		key, value string
		most       int
	}{
		{"action", req.GetAction(), maxName}, {"outcome", req.GetOutcome(), maxName}, {"caller", req.GetCaller(), maxName},
		{"tenant", req.GetTenant(), maxTenant}, {"subject", req.GetSubject(), maxSubject},
	} {
		if err := text(f.key, f.value, 0, f.most); err != nil {
			return q, err
		}
		equal = append(equal, auditlog.Field{Key: f.key, Value: f.value})
	}
	if v := req.GetTokenId(); v != "" {
		id, err := tokenID("token_id", v)
		if err != nil {
			return q, err
		}
		equal = append(equal, auditlog.Field{Key: "token_id", Value: token.ID(id).String()})
	}
	if v := req.GetSessionId(); v != "" {
		id, err := id16("session_id", v)
		if err != nil {
			return q, err
		}
		equal = append(equal, auditlog.Field{Key: "session_id", Value: hex.EncodeToString(id[:])})
	}
	since, err := optionalTime("since", req.GetSince(), time.Time{})
	if err != nil {
		return q, err
	}
	until, err := optionalTime("until", req.GetUntil(), time.Time{})
	if err != nil {
		return q, err
	}
	q.filter, q.oldest, q.at = auditlog.NewFilter(since, until, equal...), req.GetOldestFirst(), -1
	if q.limit, err = pageSize(req.GetPageSize()); err != nil || req.GetPageToken() == "" {
		return q, err
	}
	cursor, err := parsePageToken(req.GetPageToken(), 1+8+8)
	if err != nil {
		return q, err
	}
	q.at, q.end = int64(binary.BigEndian.Uint64(cursor[1:])), int64(binary.BigEndian.Uint64(cursor[9:]))
	if (cursor[0] == 1) != q.oldest || cursor[0] > 1 || q.at < 0 || q.end < 0 || q.oldest && q.at > q.end {
		return q, invalid("page_token", "is of a page in another order")
	}
	return q, nil
}
