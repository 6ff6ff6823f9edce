package authority

import (
	"context"
	"fmt"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
)

// parseRenewal checks the part of an item that makes it a renewal.
func (a *attempt) parseRenewal() error {
	v := a.item.GetRenewsSessionId()
	if len(v) == 0 {
		return nil
	}
	var err error
	if a.renews, err = bytes16("renews_session_id", v); err != nil {
		return err
	}
	if string(v) == string(a.item.GetSessionId()) {
		return invalid("renews_session_id", "is session_id: draw a new id for the session to be")
	}
	return nil
}

func (a *attempt) renewal() bool { return a.renews != storage.SessionID{} }

// judgeRenewals refuses renewals of sessions that are over, or that are not of
// the same node, tenant, subject and audience. A session that ends after this
// look leaves one in its place that its token would have opened anyway, and that
// finds no room which another has not.
func (s *Service) judgeRenewals(ctx context.Context, attempts []attempt, instance storage.InstanceID) error {
	var renewing []*attempt
	var ids []storage.SessionID
	for i := range attempts {
		if a := &attempts[i]; a.reason == 0 && a.renewal() {
			renewing, ids = append(renewing, a), append(ids, a.renews)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	live, err := s.store.Sessions(ctx, ids)
	if err != nil {
		return fmt.Errorf("look up %d sessions: %w", len(ids), err)
	}
	for i, x := range live {
		switch t := renewing[i].token; {
		case x == nil:
			renewing[i].reason = pb.Reason_REASON_SESSION_ENDED
		case x.Instance != instance || x.Tenant != t.Tenant || x.Subject != t.Subject || x.Audience != t.Audience:
			renewing[i].reason = pb.Reason_REASON_RENEWAL_MISMATCH
		}
	}
	return nil
}
