package authority

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/token"
)

const maxReport = 1024 // sessions in one report

// ReportSessions implements NodeService. Items stand or fall alone: one that is
// another node's leaves the others reported, and the call denied.
func (s *Service) ReportSessions(ctx context.Context, req *pb.ReportSessionsRequest) (*pb.ReportSessionsResponse, error) {
	c := callerFrom(ctx)
	instance, ids, err := parseReport(req)
	if err != nil {
		return nil, err
	}
	note(ctx, slog.String("instance_id", hex.EncodeToString(instance[:])))
	now := s.now()
	switch s.fleet.owner(instance) {
	case "": // gone, and nothing of it can be under way
	case c.Name:
		for _, id := range ids { // before the look-up: a redemption may be under way
			s.unwanted.add(reported{instance, id}, c.Name, now)
		}
	default:
		return nil, denied("instance_id: it is registered by another node")
	}
	found, err := s.store.Sessions(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("look up %d sessions: %w", len(ids), err)
	}
	var live []storage.SessionID
	var foreign []int
	for i, x := range found {
		switch {
		case x == nil: // reported before, over by its time, or not committed yet
		case x.Instance != instance || x.Node != c.Name:
			foreign = append(foreign, i)
		default:
			live = append(live, x.ID)
		}
	}
	if len(live) > 0 {
		if _, err := s.store.EndSessions(s.carried(ctx), live); err != nil {
			return nil, fmt.Errorf("end %d sessions: %w", len(live), err)
		}
	}
	note(ctx, slog.Int("ended", len(live)))
	told := make(map[storage.SessionID]bool, len(found))
	for _, i := range foreign {
		told[found[i].ID] = true
		s.auditForeign(found[i], c, now)
	}
	for i, x := range found {
		if x != nil && !told[x.ID] {
			told[x.ID] = true
			s.auditEnd(x, req.GetEnded()[i], c)
		}
	}
	if len(foreign) > 0 {
		note(ctx, slog.Int("foreign", len(foreign)))
		s.metrics.foreign.Add(float64(len(foreign)))
		return nil, denied("ended[%d].session_id: the session is another node's, one of %d such; the others of the %d are taken", foreign[0], len(foreign), len(ids))
	}
	return &pb.ReportSessionsResponse{}, nil
}

// auditForeign writes the line of an end that a node reported of another's
// session, which goes on.
func (s *Service) auditForeign(x *storage.Session, c *caller, now time.Time) {
	const outcome = "permission_denied"
	skipped, ok := s.sampler.allow(kind{"SessionEnd", outcome, c.Name}, now)
	if !ok {
		return
	}
	attrs := append(make([]slog.Attr, 0, 6), slog.String("session_id", hex.EncodeToString(x.ID[:])), slog.String("node", x.Node),
		slog.String("instance_id", hex.EncodeToString(x.Instance[:])), slog.String("caller", c.Name), slog.String("peer", c.address))
	if skipped > 0 {
		attrs = append(attrs, slog.Uint64("skipped_before", skipped))
	}
	s.audit.record(now, "SessionEnd", outcome, attrs...)
}

// parseReport checks a report. A reason that a newer node has and this
// authority does not know is no error.
func parseReport(req *pb.ReportSessionsRequest) (instance storage.InstanceID, ids []storage.SessionID, err error) {
	if instance, err = bytes16("instance_id", req.GetInstanceId()); err != nil {
		return instance, nil, err
	}
	n := len(req.GetEnded())
	if n == 0 || n > maxReport {
		return instance, nil, invalid("ended", "%d are outside 1 to %d", n, maxReport)
	}
	ids = make([]storage.SessionID, n)
	for i, e := range req.GetEnded() {
		if ids[i], err = bytes16(fmt.Sprintf("ended[%d].session_id", i), e.GetSessionId()); err != nil {
			return instance, nil, err
		}
		if e.GetReason() == pb.Reason_REASON_UNSPECIFIED {
			return instance, nil, invalid(fmt.Sprintf("ended[%d].reason", i), "required, why the session ended")
		}
		if e.GetEndedAt().CheckValid() != nil {
			return instance, nil, invalid(fmt.Sprintf("ended[%d].ended_at", i), "required, a time of the years 1 to 9999")
		}
	}
	return instance, ids, nil
}

// auditEnd writes the line of a session's end, whose outcome is why it ended.
func (s *Service) auditEnd(x *storage.Session, e *pb.SessionEnd, c *caller) {
	s.audit.record(s.now(), "SessionEnd", e.GetReason().Label(),
		slog.String("session_id", hex.EncodeToString(x.ID[:])), slog.String("token_id", token.ID(x.Token).String()),
		slog.String("tenant", x.Tenant), slog.String("subject", x.Subject),
		slog.Time("ended_at", e.GetEndedAt().AsTime()), slog.String("caller", c.Name))
}

// ListSessions implements SessionService.
func (s *Service) ListSessions(ctx context.Context, req *pb.ListSessionsRequest) (*pb.ListSessionsResponse, error) {
	q, err := parseListSessions(req)
	if err != nil {
		return nil, err
	}
	page, err := s.store.ListSessions(ctx, q)
	if err != nil {
		return nil, fmt.Errorf("list sessions: %w", err)
	}
	resp := &pb.ListSessionsResponse{}
	for _, x := range page.Sessions {
		resp.Sessions = append(resp.Sessions, &pb.Session{
			SessionId: hex.EncodeToString(x.ID[:]), TokenId: token.ID(x.Token).String(),
			Tenant: x.Tenant, Subject: x.Subject, Audience: x.Audience, Node: x.Node,
			InstanceId: hex.EncodeToString(x.Instance[:]), ClientIp: x.ClientIP.String(),
			UserAgent: x.UserAgent, Origin: x.Origin, ClientCertificateSha256: x.Certificate,
			StartedAt: timestamppb.New(x.StartedAt), ExpiresAt: timestamppb.New(x.ExpiresAt), Issuer: x.Issuer,
		})
	}
	if page.More {
		cursor := binary.BigEndian.AppendUint64(nil, uint64(page.Next.ExpiresAt.UnixMilli()))
		resp.NextPageToken = pageToken(append(cursor, page.Next.ID[:]...))
	}
	note(ctx, slog.Int("sessions", len(resp.Sessions)))
	return resp, nil
}

func parseListSessions(req *pb.ListSessionsRequest) (q storage.SessionQuery, err error) {
	q = storage.SessionQuery{Tenant: req.GetTenant(), Subject: req.GetSubject(), Node: req.GetNode(), Issuer: req.GetIssuer()}
	if v := req.GetIpPrefix(); v != "" {
		if q.Prefix, err = prefix("ip_prefix", v); err != nil {
			return q, err
		}
	}
	if v := req.GetTokenId(); v != "" {
		if q.Token, err = tokenID("token_id", v); err != nil {
			return q, err
		}
	}
	if q.Limit, err = pageSize(req.GetPageSize()); err != nil {
		return q, err
	}
	cursor, err := parsePageToken(req.GetPageToken(), 8+16)
	if err != nil {
		return q, err
	}
	if ms := binary.BigEndian.Uint64(cursor); ms > 0 {
		q.After.ExpiresAt = time.UnixMilli(int64(ms))
	}
	q.After.ID = storage.SessionID(cursor[8:])
	return q, nil
}
