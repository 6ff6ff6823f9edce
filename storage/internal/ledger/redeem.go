package ledger

import (
	"bytes"
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
	l.touch(batch, sessions)
	first, err := l.retried(batch, sessions, observations, rec)
	if err != nil {
		return err
	}
	// One for all: whoever checks the grant of a session must see it where a later
	// one of the batch takes its place.
	asOf := storage.Revision{Epoch: l.epoch, Sequence: l.head}
	for i := range batch {
		results[i] = l.redeem(&batch[i], &sessions[i], asOf, observations[i], first)
	}
	return nil
}

// retried looks up the sessions that were granted before to what looks like a
// retry, all at once and by their uses: a node that has lost its stream asks
// again for all that was under way.
func (l *Ledger) retried(batch []storage.Redemption, sessions []storage.Session, observations []uint64, rec Records) (first map[uint32]*storage.Session, err error) {
	var uses []uint32
	var keys []storage.SessionKey
	for i := range batch {
		prior := l.bySession.Get(sessions[i].ID)
		if prior == 0 {
			continue
		}
		u := l.uses.at(prior)
		if l.over(u) || u.ended || u.token != batch[i].Token.ID || u.observation != observations[i] || u.group == l.group && u.grantedNow {
			continue
		}
		uses = append(uses, prior)
		keys = append(keys, storage.SessionKey{ExpiresAt: time.UnixMilli(u.expires), ID: u.session})
	}
	if len(keys) == 0 {
		return nil, nil
	}
	found, err := rec.Sessions(keys)
	if err != nil {
		return nil, err
	}
	first = make(map[uint32]*storage.Session, len(uses))
	for i, use := range uses {
		first[use] = found[i]
	}
	return first, nil
}

// touch looks up what redeem will look up again. These look-ups do not depend on
// each other, so that the processor waits for memory once for many of them, and
// not for each: with a million sessions that is a third of a redemption.
func (l *Ledger) touch(batch []storage.Redemption, sessions []storage.Session) {
	var sum uint32
	for i := range batch {
		t := batch[i].Token
		sum += l.bySession.Touch(sessions[i].ID) + l.byToken.Touch(t.ID) + l.subjects.places.Touch(l.keys.key(t.Tenant, t.Subject))
	}
	l.touched = sum
}

func (l *Ledger) redeem(r *storage.Redemption, s *storage.Session, asOf storage.Revision, observation uint64, retried map[uint32]*storage.Session) storage.Redeemed {
	refused := func(err error) storage.Redeemed { return storage.Redeemed{Err: err} }
	t := r.Token
	if t.ID.Expiry().UnixMilli() <= l.swept {
		return refused(storage.ErrExpired)
	}
	instance := l.instances.places.Get(s.Instance)
	if instance == 0 || !l.instances.at(instance).pin {
		return refused(storage.ErrInstanceUnknown)
	}
	prior := l.bySession.Get(s.ID)
	taken := prior != 0 && !l.over(l.uses.at(prior))
	if taken {
		if u := l.uses.at(prior); u.token == t.ID && u.observation == observation {
			if u.ended {
				return refused(storage.ErrSessionEnded)
			}
			first := retried[prior]
			if first == nil {
				first = l.grantedNow(prior)
			}
			if sameObservation(first, s) {
				switch {
				case l.revoked(t, first, l.head):
					return refused(storage.ErrRevoked)
				case l.lockOn(t, first, l.head) != nil:
					return refused(storage.ErrLocked)
				}
				return storage.Redeemed{Session: first, Retried: true}
			}
		}
	}
	earlier := l.byToken.Get(t.ID)
	nth := uint32(1)
	if earlier != 0 {
		nth += l.uses.at(earlier).nth
	}
	switch {
	case l.revoked(t, s, l.head), l.renewsRevoked(r):
		return refused(storage.ErrRevoked)
	case l.lockOn(t, s, l.head) != nil:
		return refused(storage.ErrLocked)
	case nth > t.MaxUses:
		return refused(storage.ErrUsed)
	case taken:
		return refused(storage.ErrSessionTaken)
	}
	whose := l.subjects.place(l.keys.key(t.Tenant, t.Subject))
	tenant := l.tenants.place(l.keys.key(t.Tenant, ""))
	var old []uint32
	renewed := l.renewed(r, whose)
	if r.SubjectSessions > 0 && l.subjects.at(whose).n-renewed >= r.SubjectSessions {
		if !r.CloseOldest {
			return refused(storage.ErrSessionLimit)
		}
		old = l.oldest(r, whose, renewed)
	}
	if r.TenantSessions > 0 && l.tenants.at(tenant).n-renewed-uint32(len(old)) >= r.TenantSessions {
		return refused(storage.ErrSessionLimit)
	}
	var replaced []storage.Replaced
	for _, i := range old {
		replaced = append(replaced, l.replace(i, s, r.KeepReplaced))
	}

	s.AsOf = asOf
	i := l.uses.take()
	*l.uses.at(i) = use{
		token:       t.ID,
		session:     s.ID,
		expires:     s.ExpiresAt.UnixMilli(),
		observation: observation,
		group:       l.group,
		nth:         nth,
		earlier:     earlier,
		subject:     whose,
		tenant:      tenant,
		instance:    instance,
		grantedNow:  true,
	}
	l.byToken.Put(t.ID, i)
	l.bySession.Put(s.ID, i)
	if prior != 0 && l.replaced[s.ID] == 0 {
		l.replaced[s.ID] = prior
	}
	l.subjects.add1(whose)
	l.tenants.add1(tenant)
	l.instances.add1(instance)
	l.count.Sessions++
	l.enqueue(i)
	l.undo = append(l.undo, change{use: i, prior: prior, granted: s})
	return storage.Redeemed{Session: s, Replaced: replaced}
}

// over reports whether nobody needs u any more: its session has ended, and its
// token is swept.
func (l *Ledger) over(u *use) bool {
	return u.ended && u.token.Expiry().UnixMilli() <= l.swept
}

func (l *Ledger) undoGrant(c *change) {
	u := l.uses.at(c.use)
	l.dequeue(c.use)
	l.subjects.drop1(u.subject)
	l.tenants.drop1(u.tenant)
	l.instances.drop1(u.instance)
	if c.prior != 0 {
		l.bySession.Put(u.session, c.prior)
	} else {
		l.bySession.Remove(u.session)
	}
	if u.earlier != 0 {
		l.byToken.Put(u.token, u.earlier)
	} else {
		l.byToken.Remove(u.token)
	}
	l.uses.giveBack(c.use)
}

// grantedNow finds a session that the group under way has granted.
func (l *Ledger) grantedNow(use uint32) *storage.Session {
	for n := len(l.undo) - 1; ; n-- {
		if c := &l.undo[n]; c.use == use && c.granted != nil {
			return c.granted
		}
	}
}

// sameObservation reports whether b is asked for as a was.
func sameObservation(a, b *storage.Session) bool {
	return a.Instance == b.Instance &&
		a.ClientIP == b.ClientIP &&
		bytes.Equal(a.UserAgent, b.UserAgent) &&
		bytes.Equal(a.Origin, b.Origin) &&
		bytes.Equal(a.Certificate, b.Certificate)
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

// renewed is how many of a subject's live sessions r renews, which do not count
// beside it: one that has ended in the meantime makes no room.
func (l *Ledger) renewed(r *storage.Redemption, subject uint32) uint32 {
	if r.Renews == (storage.SessionID{}) {
		return 0
	}
	i := l.bySession.Get(r.Renews)
	if i == 0 {
		return 0
	}
	if u := l.uses.at(i); u.ended || u.subject != subject {
		return 0
	}
	return 1
}

// renewsRevoked reports whether a newer entry than r's token hits the session that
// r would renew, and so what it would become.
func (l *Ledger) renewsRevoked(r *storage.Redemption) bool {
	return r.Renews != storage.SessionID{} && l.entries.sessions[r.Renews].newest > r.Token.IssuedRevision.Sequence
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

// EndSessions ends the sessions that expire before a Unix millisecond, and
// appends to out those that were live.
func (l *Ledger) EndSessions(ids []storage.SessionID, before int64, out []record.Ended) []record.Ended {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range ids {
		i := l.bySession.Get(id)
		if i == 0 {
			continue
		}
		u := l.uses.at(i)
		if u.ended || u.expires >= before {
			continue
		}
		l.end(i)
		out = append(out, record.Ended{Key: storage.SessionKey{ExpiresAt: time.UnixMilli(u.expires), ID: id}, Token: u.token})
	}
	return out
}

// end ends a live session.
func (l *Ledger) end(i uint32) {
	u := l.uses.at(i)
	l.undo = append(l.undo, change{use: i, newest: l.dequeue(i)})
	if u.group != l.group {
		u.group, u.grantedNow = l.group, false
	}
	u.ended = true
	l.subjects.drop1(u.subject)
	l.tenants.drop1(u.tenant)
	l.instances.drop1(u.instance)
	l.count.Sessions--
	if l.over(u) {
		l.ended = append(l.ended, i)
	}
}

func (l *Ledger) undoEnd(c *change) {
	u := l.uses.at(c.use)
	u.ended = false // of this group it stays, which tells the same
	l.requeue(c.use, c.newest)
	l.subjects.add1(u.subject)
	l.tenants.add1(u.tenant)
	l.instances.add1(u.instance)
}

// forgetUse forgets a use that is over, and that Forget has come by for. Its
// session id may be another's by now.
func (l *Ledger) forgetUse(i uint32) {
	if u := l.uses.at(i); !l.over(u) || l.byToken.Get(u.token) != 0 {
		return
	}
	if id := l.uses.at(i).session; l.bySession.Get(id) == i {
		l.bySession.Remove(id)
	}
	l.uses.giveBack(i)
}
