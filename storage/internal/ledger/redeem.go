package ledger

import (
	"bytes"
	"strings"
	"time"

	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/internal/record"
)

// Insert decides whether tokens may be stored; results answers them in order.
// The error is of Records; then the caller rolls back to where it was.
func (l *Ledger) Insert(tokens []*storage.Token, results []storage.Inserted, rec Records) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	head := storage.Revision{Epoch: l.epoch, Sequence: l.head}
	for i, t := range tokens {
		switch {
		case t.ID.Expiry().UnixMilli() <= l.swept:
			results[i].Err = storage.ErrExpired
			continue
		case l.lockOn(t, nil, l.head) != nil:
			results[i].Err = storage.ErrLocked
			continue
		}
		_, taken := l.inserted[t.ID]
		if !taken {
			var err error
			if taken, err = rec.HasToken(t.ID); err != nil {
				for j, t := range tokens[:i] {
					if results[j].Err == nil {
						delete(l.inserted, t.ID)
					}
				}
				return err
			}
		}
		if taken {
			results[i].Err = storage.ErrExists
			continue
		}
		l.inserted[t.ID] = struct{}{}
		l.count.Tokens++
		results[i].IssuedRevision = head
	}
	return nil
}

// Prepare copies the sessions to be of a batch, completed with what is taken
// from their tokens, and sums up what was observed of each. It needs no ledger,
// so that callers can do it side by side.
func Prepare(batch []storage.Redemption) ([]storage.Session, []uint64) {
	sessions := make([]storage.Session, len(batch))
	observations := make([]uint64, len(batch))
	for i := range batch {
		s, t := &sessions[i], batch[i].Token
		*s = *batch[i].Session
		s.Token, s.IssuedRevision, s.TokenIP = t.ID, t.IssuedRevision, t.ClientIP
		s.Tenant, s.Subject, s.Audience, s.Issuer = t.Tenant, t.Subject, t.Audience, t.Issuer
		s.ClientIP = s.ClientIP.WithZone("")
		s.StartedAt, s.ExpiresAt = record.Time(s.StartedAt), record.Time(s.ExpiresAt)
		s.AsOf = storage.Revision{}
		observations[i] = record.Observation(s)
	}
	return sessions, observations
}

// Redeem decides redemptions; results answers them in order. sessions and
// observations are what Prepare made of the batch; a granted session gets its
// AsOf. The error is of Records; then the caller rolls back to where it was.
func (l *Ledger) Redeem(batch []storage.Redemption, sessions []storage.Session, observations []uint64, results []storage.Redeemed, rec Records) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range batch {
		var err error
		results[i], err = l.redeem(&batch[i], &sessions[i], observations[i], rec)
		if err != nil {
			return err
		}
	}
	return nil
}

func (l *Ledger) redeem(r *storage.Redemption, s *storage.Session, observation uint64, rec Records) (storage.Redeemed, error) {
	refused := func(err error) (storage.Redeemed, error) { return storage.Redeemed{Err: err}, nil }
	t := r.Token
	if t.ID.Expiry().UnixMilli() <= l.swept {
		return refused(storage.ErrExpired)
	}
	instance, ok := l.instances.at[s.Instance]
	if !ok || !l.instances.all[instance].pin {
		return refused(storage.ErrInstanceUnknown)
	}
	prior, taken := l.sessions[s.ID]
	if taken && prior.token == t.ID && prior.observation == observation {
		if prior.ended {
			return refused(storage.ErrSessionEnded)
		}
		first, err := l.liveSession(s.ID, &prior, rec)
		if err != nil {
			return storage.Redeemed{}, err
		}
		if sameObservation(first, s) {
			switch {
			case l.revoked(t, first, l.head):
				return refused(storage.ErrRevoked)
			case l.lockOn(t, first, l.head) != nil:
				return refused(storage.ErrLocked)
			}
			return storage.Redeemed{Session: first, Retried: true}, nil
		}
	}
	used := l.uses[t.ID]
	switch {
	case l.revoked(t, s, l.head):
		return refused(storage.ErrRevoked)
	case l.lockOn(t, s, l.head) != nil:
		return refused(storage.ErrLocked)
	case used.n >= t.MaxUses:
		return refused(storage.ErrUsed)
	case taken:
		return refused(storage.ErrSessionTaken)
	}
	whose := l.subjects.place(subject{t.Tenant, t.Subject}, cloneSubject)
	tenant := l.tenants.place(t.Tenant, strings.Clone)
	if r.SubjectSessions > 0 && l.subjects.all[whose].n >= r.SubjectSessions ||
		r.TenantSessions > 0 && l.tenants.all[tenant].n >= r.TenantSessions {
		return refused(storage.ErrSessionLimit)
	}

	s.AsOf = storage.Revision{Epoch: l.epoch, Sequence: l.head}
	if used.group != l.group {
		used.group, used.now = l.group, 0
	}
	if used.n == 0 {
		used.first = s.ID
	} else {
		l.laterUses[t.ID] = append(l.laterUses[t.ID], s.ID)
	}
	used.n++
	used.now++
	l.uses[t.ID] = used
	l.sessions[s.ID] = session{
		token:       t.ID,
		expires:     s.ExpiresAt.UnixMilli(),
		observation: observation,
		subject:     whose,
		tenant:      tenant,
		instance:    instance,
		group:       l.group,
		grantedNow:  true,
	}
	l.subjects.add1(whose)
	l.tenants.add1(tenant)
	l.instances.add1(instance)
	l.count.Sessions++
	l.undo = append(l.undo, change{kind: granted, token: t.ID, session: s.ID, granted: s})
	return storage.Redeemed{Session: s}, nil
}

func (l *Ledger) undoGrant(c *change) {
	s := l.sessions[c.session]
	l.subjects.drop1(s.subject)
	l.tenants.drop1(s.tenant)
	l.instances.drop1(s.instance)
	delete(l.sessions, c.session)
	u := l.uses[c.token]
	u.n--
	u.now--
	if u.n == 0 {
		delete(l.uses, c.token)
		return
	}
	l.uses[c.token] = u
	if later := l.laterUses[c.token]; len(later) > 1 {
		l.laterUses[c.token] = later[:len(later)-1]
	} else {
		delete(l.laterUses, c.token)
	}
}

// liveSession finds the whole of a live session.
func (l *Ledger) liveSession(id storage.SessionID, s *session, rec Records) (*storage.Session, error) {
	if s.group == l.group && s.grantedNow {
		for i := len(l.undo) - 1; i >= 0; i-- {
			if c := &l.undo[i]; c.kind == granted && c.session == id {
				return c.granted, nil
			}
		}
	}
	return rec.Session(storage.SessionKey{ExpiresAt: time.UnixMilli(s.expires), ID: id})
}

// sameObservation reports whether b is asked for as a was.
func sameObservation(a, b *storage.Session) bool {
	return a.Instance == b.Instance &&
		a.ClientIP == b.ClientIP &&
		bytes.Equal(a.UserAgent, b.UserAgent) &&
		bytes.Equal(a.Origin, b.Origin)
}

// revoked reports whether an entry up to the sequence upTo hits t or, where s
// is not nil, the session s that t opens.
func (l *Ledger) revoked(t *storage.Token, s *storage.Session, upTo uint64) bool {
	if t.IssuedRevision.Epoch != l.epoch {
		return true // issued in a history that this store has left
	}
	return l.revokedBy(t, s, upTo) != 0
}

func (l *Ledger) revokedBy(t *storage.Token, s *storage.Session, upTo uint64) (by uint64) {
	after := t.IssuedRevision.Sequence
	l.entries.hits(t, s, func(h hit) bool {
		if h.newest > upTo {
			h.newest = h.committed
		}
		if h.newest > after {
			by = h.newest
		}
		return by != 0
	})
	return by
}

// lockOn finds a lock that stands at the sequence at and denies t or the
// session s that t opens.
func (l *Ledger) lockOn(t *storage.Token, s *storage.Session, at uint64) (found *denial) {
	l.standing.hits(t, s, func(ds []denial) bool {
		for i := range ds {
			if d := &ds[i]; d.set <= at && (d.lift == 0 || d.lift > at) {
				found = d
				return true
			}
		}
		return false
	})
	return found
}

// EndSessions ends sessions and appends to keys those that were live, whose
// records the store removes.
func (l *Ledger) EndSessions(ids []storage.SessionID, keys []storage.SessionKey) []storage.SessionKey {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range ids {
		s, ok := l.sessions[id]
		if !ok || s.ended {
			continue
		}
		l.undo = append(l.undo, change{kind: ended, session: id, prior: s})
		if s.group != l.group {
			s.group, s.grantedNow = l.group, false
		}
		s.ended = true
		l.sessions[id] = s
		l.subjects.drop1(s.subject)
		l.tenants.drop1(s.tenant)
		l.instances.drop1(s.instance)
		l.count.Sessions--
		if s.token.Expiry().UnixMilli() <= l.swept {
			l.ended = append(l.ended, id)
		}
		keys = append(keys, storage.SessionKey{ExpiresAt: time.UnixMilli(s.expires), ID: id})
	}
	return keys
}

func cloneSubject(s subject) subject {
	return subject{strings.Clone(s.tenant), strings.Clone(s.name)}
}
