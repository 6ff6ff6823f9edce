package authority

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/token"
)

// Revoke implements RevocationService.
func (s *Service) Revoke(ctx context.Context, req *pb.RevokeRequest) (*pb.RevokeResponse, error) {
	c := callerFrom(ctx)
	sel, wide, err := selector(req.GetSelector(), c)
	if err != nil {
		return nil, err
	}
	note(ctx, selectorAttrs(&sel)...)
	if err := why(req.GetReason(), wide); err != nil {
		return nil, err
	}
	if err := requestID(req.GetRequestId()); err != nil {
		return nil, err
	}
	grace, err := parseGrace(req.GetGrace(), s.cfg.Sessions.MaxGrace)
	if err != nil {
		return nil, err
	}
	note(ctx, slog.String("reason", req.GetReason()), slog.Bool("dry_run", req.GetDryRun()))
	if grace > 0 {
		note(ctx, slog.Int64("grace_ms", grace.Milliseconds()))
	}
	resp := &pb.RevokeResponse{}
	if err := s.reach(ctx, &sel, c, resp); err != nil {
		return nil, err
	}
	if req.GetDryRun() {
		resp.Tokens, resp.Sessions, err = s.count(ctx, sel)
		return resp, err
	}
	e := storage.Entry{Kind: storage.Revoke, Selector: sel, Reason: req.GetReason(), Actor: c.Name, RequestID: scoped(c, req.GetRequestId()), Grace: grace}
	if err := s.room(c, &e); err != nil {
		return nil, err
	}
	if e, err = s.appendEntry(ctx, e); err != nil {
		return nil, err
	}
	note(ctx, revisionAttrs(e.Revision)...)
	s.metrics.revocations.WithLabelValues(selectorKind(&sel)).Inc()
	resp.Revision, resp.CommittedAt, resp.GraceUntil = revisionOf(e.Revision), timestamppb.New(e.CommittedAt), graceUntil(&e)
	return resp, nil
}

// reach looks at what a token or session selector names: it says whether there
// is such a thing, and keeps an issuer within its tenants. A name out of reach
// and a name of nothing look alike to an issuer.
func (s *Service) reach(ctx context.Context, sel *storage.Selector, c *caller, resp *pb.RevokeResponse) error {
	switch {
	case sel.Token != storage.TokenID{}:
		rec, err := s.lookup(ctx, sel.Token)
		if err != nil {
			return err
		}
		if rec != nil && c.mayTenant(rec.Tenant) {
			resp.Tokens = 1
		} else if c.Role == issuer {
			return notFound("no token has the id %s, or it expired and was forgotten", token.ID(sel.Token))
		}
	case sel.Session != storage.SessionID{}:
		found, err := s.store.Sessions(ctx, []storage.SessionID{sel.Session})
		if err != nil {
			return err
		}
		if found[0] != nil && c.mayTenant(found[0].Tenant) {
			resp.Sessions = 1
		} else if c.Role == issuer {
			return notFound("no live session has the id %x", sel.Session)
		}
	}
	return nil
}

func (s *Service) count(ctx context.Context, sel storage.Selector) (tokens, sessions uint64, err error) {
	t, x, err := s.store.Count(ctx, sel, s.now())
	if err != nil {
		return 0, 0, fmt.Errorf("count what the selector hits: %w", err)
	}
	note(ctx, slog.Int("tokens", t), slog.Int("sessions", x))
	return uint64(t), uint64(x), nil
}

// scoped keeps callers' request ids apart.
func scoped(c *caller, id string) string {
	if id == "" {
		return ""
	}
	return c.Name + "/" + id
}

// appendEntry commits an entry, and opens the receipt of one that ends
// sessions with a row for every instance registered by then.
func (s *Service) appendEntry(ctx context.Context, e storage.Entry) (storage.Entry, error) {
	e.CommittedAt = s.now()
	e.KeepUntil = s.newest.after(e.CommittedAt).Add(s.cfg.keepEntry() + e.Grace)
	var appended *storage.Entry
	if e.Grace > 0 && !s.again(&e) {
		if err := s.graces.begin(e.CommittedAt); err != nil {
			return e, err
		}
		defer func() { s.graces.end(appended) }()
	}
	e, err := s.store.Append(s.carried(ctx), e)
	if err != nil {
		return e, fmt.Errorf("append to the log: %w", err)
	}
	appended = &e
	if e.Kind != storage.LiftLock {
		s.receipts.open(&e, s.spanOf(ctx))
	}
	return e, nil
}

// ListRevocations implements RevocationService.
func (s *Service) ListRevocations(ctx context.Context, req *pb.ListRevocationsRequest) (*pb.ListRevocationsResponse, error) {
	limit, err := pageSize(req.GetPageSize())
	if err != nil {
		return nil, err
	}
	after, err := parsePageToken(req.GetPageToken(), 8)
	if err != nil {
		return nil, err
	}
	head, _ := s.store.Head()
	at := storage.Revision{Epoch: head.Epoch, Sequence: binary.BigEndian.Uint64(after)}
	entries, err := s.store.Entries(ctx, at, limit)
	if err != nil {
		return nil, fmt.Errorf("read entries: %w", err)
	}
	resp := &pb.ListRevocationsResponse{}
	for i := range entries {
		e := &entries[i]
		if e.Kind != storage.Revoke {
			continue
		}
		resp.Revocations = append(resp.Revocations, &pb.Revocation{
			Revision: revisionOf(e.Revision), Selector: selectorOf(&e.Selector),
			Reason: e.Reason, Actor: e.Actor, CommittedAt: timestamppb.New(e.CommittedAt), GraceUntil: graceUntil(e),
		})
	}
	if len(entries) == limit {
		resp.NextPageToken = pageToken(binary.BigEndian.AppendUint64(nil, entries[limit-1].Revision.Sequence))
	}
	return resp, nil
}

// Lock implements RevocationService.
func (s *Service) Lock(ctx context.Context, req *pb.LockRequest) (*pb.LockResponse, error) {
	c := callerFrom(ctx)
	sel, err := lockSelector(req.GetSelector(), c)
	if err != nil {
		return nil, err
	}
	note(ctx, selectorAttrs(&sel)...)
	if err := why(req.GetReason(), true); err != nil {
		return nil, err
	}
	if err := requestID(req.GetRequestId()); err != nil {
		return nil, err
	}
	note(ctx, slog.String("reason", req.GetReason()), slog.Bool("dry_run", req.GetDryRun()))
	if req.GetDryRun() {
		resp := &pb.LockResponse{}
		resp.Tokens, resp.Sessions, err = s.count(ctx, sel)
		return resp, err
	}
	e := storage.Entry{Kind: storage.SetLock, Selector: sel, Reason: req.GetReason(), Actor: c.Name, RequestID: scoped(c, req.GetRequestId())}
	if err := s.room(c, &e); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(s.random, e.Lock[:]); err != nil {
		return nil, fmt.Errorf("draw lock id: %w", err)
	}
	if e, err = s.appendEntry(ctx, e); err != nil {
		return nil, err
	}
	id := hex.EncodeToString(e.Lock[:])
	note(ctx, append(revisionAttrs(e.Revision), slog.String("lock_id", id))...)
	return &pb.LockResponse{LockId: id, Revision: revisionOf(e.Revision)}, nil
}

// Unlock implements RevocationService.
func (s *Service) Unlock(ctx context.Context, req *pb.UnlockRequest) (*pb.UnlockResponse, error) {
	c := callerFrom(ctx)
	id, err := id16("lock_id", req.GetLockId())
	if err != nil {
		return nil, err
	}
	note(ctx, slog.String("lock_id", hex.EncodeToString(id[:])))
	if err := why(req.GetReason(), true); err != nil {
		return nil, err
	}
	if err := requestID(req.GetRequestId()); err != nil {
		return nil, err
	}
	note(ctx, slog.String("reason", req.GetReason()))
	lift := storage.Entry{Kind: storage.LiftLock, Lock: id, Reason: req.GetReason(), Actor: c.Name, RequestID: scoped(c, req.GetRequestId())}
	if c.Role == issuer {
		if err := s.mayUnlock(ctx, id, c); err != nil {
			return nil, err
		}
	}
	e, err := s.appendEntry(ctx, lift)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, notFound("no lock stands with the id %s", req.GetLockId())
	}
	if err != nil {
		return nil, err
	}
	note(ctx, revisionAttrs(e.Revision)...)
	return &pb.UnlockResponse{Revision: revisionOf(e.Revision)}, nil
}

// mayUnlock keeps an issuer to the locks of its tenants' subjects. Of one that
// does not stand the log decides: the request may be a retry.
func (s *Service) mayUnlock(ctx context.Context, id storage.LockID, c *caller) error {
	locks, err := s.store.Locks(ctx)
	if err != nil {
		return fmt.Errorf("read locks: %w", err)
	}
	for i := range locks {
		if locks[i].ID != id {
			continue
		}
		if locks[i].Selector.Subject == "" || !c.mayTenant(locks[i].Selector.Tenant) {
			return notFound("no lock stands with the id %x", id)
		}
		break
	}
	return nil
}

const (
	// maxLocks bounds the locks that stand: every snapshot for a node has them all.
	maxLocks = 100_000
	// maxIssuerEntries is how many entries the log may have for issuers to add
	// more. Admins always may.
	maxIssuerEntries = 1_000_000
)

// again reports whether the log has an entry's request already. Then it only says
// what became of that, and needs no room.
func (s *Service) again(e *storage.Entry) bool {
	_, found := s.store.Requested(e.RequestID)
	return found
}

// room reports whether the log has room for another entry of the caller's.
func (s *Service) room(c *caller, e *storage.Entry) error {
	if s.again(e) {
		return nil
	}
	st := s.store.Stats()
	if e.Kind == storage.SetLock && st.Locks >= maxLocks {
		return fmt.Errorf("%d locks stand, which is the most: lift some, or lock tenants and prefixes (%w)", st.Locks, errQuota)
	}
	if c.Role == issuer && st.Entries >= maxIssuerEntries {
		return fmt.Errorf("the log has %d entries, too many for issuers to add more: let an admin revoke (%w)", st.Entries, errQuota)
	}
	return nil
}

// ListLocks implements RevocationService.
func (s *Service) ListLocks(ctx context.Context, req *pb.ListLocksRequest) (*pb.ListLocksResponse, error) {
	c := callerFrom(ctx)
	limit, err := pageSize(req.GetPageSize())
	if err != nil {
		return nil, err
	}
	cursor, err := parsePageToken(req.GetPageToken(), 8)
	if err != nil {
		return nil, err
	}
	after := binary.BigEndian.Uint64(cursor)
	locks, err := s.store.Locks(ctx)
	if err != nil {
		return nil, fmt.Errorf("read locks: %w", err)
	}
	resp := &pb.ListLocksResponse{}
	for i := range locks {
		l := &locks[i]
		if l.Revision.Sequence <= after || c.Role == issuer && (l.Selector.Subject == "" || !c.mayTenant(l.Selector.Tenant)) {
			continue
		}
		if len(resp.Locks) == limit {
			resp.NextPageToken = pageToken(binary.BigEndian.AppendUint64(nil, resp.Locks[limit-1].GetRevision().GetSequence()))
			break
		}
		resp.Locks = append(resp.Locks, &pb.Lock{
			LockId: hex.EncodeToString(l.ID[:]), Selector: lockSelectorOf(&l.Selector), Reason: l.Reason, Actor: l.Actor,
			CommittedAt: timestamppb.New(l.CommittedAt), Revision: revisionOf(l.Revision),
		})
	}
	return resp, nil
}

func selectorOf(s *storage.Selector) *pb.Selector {
	switch {
	case s.Token != storage.TokenID{}:
		return &pb.Selector{By: &pb.Selector_TokenId{TokenId: token.ID(s.Token).String()}}
	case s.Session != storage.SessionID{}:
		return &pb.Selector{By: &pb.Selector_SessionId{SessionId: hex.EncodeToString(s.Session[:])}}
	case s.Subject != "":
		return &pb.Selector{By: &pb.Selector_Subject{Subject: &pb.Subject{Tenant: s.Tenant, Subject: s.Subject}}}
	case s.Tenant != "":
		return &pb.Selector{By: &pb.Selector_Tenant{Tenant: s.Tenant}}
	case s.Prefix.IsValid():
		return &pb.Selector{By: &pb.Selector_IpPrefix{IpPrefix: s.Prefix.String()}}
	case s.AllSubjects:
		return &pb.Selector{By: &pb.Selector_AllSubjects{AllSubjects: true}}
	}
	return &pb.Selector{By: &pb.Selector_Issuer{Issuer: s.Issuer}}
}

func lockSelectorOf(s *storage.Selector) *pb.LockSelector {
	switch {
	case s.Subject != "":
		return &pb.LockSelector{By: &pb.LockSelector_Subject{Subject: &pb.Subject{Tenant: s.Tenant, Subject: s.Subject}}}
	case s.Tenant != "":
		return &pb.LockSelector{By: &pb.LockSelector_Tenant{Tenant: s.Tenant}}
	case s.Prefix.IsValid():
		return &pb.LockSelector{By: &pb.LockSelector_IpPrefix{IpPrefix: s.Prefix.String()}}
	}
	return &pb.LockSelector{By: &pb.LockSelector_Issuer{Issuer: s.Issuer}}
}

// selectorKind names the field that is set.
func selectorKind(s *storage.Selector) string {
	switch {
	case s.Token != storage.TokenID{}:
		return "token_id"
	case s.Session != storage.SessionID{}:
		return "session_id"
	case s.Subject != "":
		return "subject"
	case s.Tenant != "":
		return "tenant"
	case s.Prefix.IsValid():
		return "ip_prefix"
	case s.AllSubjects:
		return "all_subjects"
	}
	return "issuer"
}

func selectorAttrs(s *storage.Selector) []slog.Attr {
	kind := selectorKind(s)
	switch kind {
	case "token_id":
		return []slog.Attr{slog.String(kind, token.ID(s.Token).String())}
	case "session_id":
		return []slog.Attr{slog.String(kind, hex.EncodeToString(s.Session[:]))}
	case "subject":
		return []slog.Attr{slog.String("tenant", s.Tenant), slog.String(kind, s.Subject)}
	case "tenant":
		return []slog.Attr{slog.String(kind, s.Tenant)}
	case "ip_prefix":
		return []slog.Attr{slog.String(kind, s.Prefix.String())}
	case "all_subjects":
		return []slog.Attr{slog.Bool(kind, true)}
	}
	return []slog.Attr{slog.String("selected_issuer", s.Issuer)}
}
