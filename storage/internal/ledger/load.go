package ledger

import (
	"strings"

	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/internal/record"
)

// The Load methods rebuild a ledger from what a store has kept, before anything
// else is asked of it. Uses come before sessions, each in the order of commit.

// LoadHead sets the log's head, up to when tokens are swept, and how many are
// stored.
func (l *Ledger) LoadHead(sequence uint64, swept int64, tokens int) {
	l.head, l.shown = sequence, sequence
	l.swept = swept
	l.sweptSeen.Store(swept)
	l.count.Tokens = tokens
	l.countSeen = l.count
}

// LoadUse adds one use of a token, unless that is swept.
func (l *Ledger) LoadUse(r record.Redemption) {
	if r.Token.Expiry().UnixMilli() <= l.swept {
		return
	}
	u := l.uses[r.Token]
	if u.n == 0 {
		u.first = r.Session
	} else {
		l.laterUses[r.Token] = append(l.laterUses[r.Token], r.Session)
	}
	u.n++
	l.uses[r.Token] = u
	l.sessions[r.Session] = session{token: r.Token, observation: r.Observation, ended: true}
}

// LoadSession adds a live session.
func (l *Ledger) LoadSession(s *storage.Session) {
	whose := l.subjects.place(subject{s.Tenant, s.Subject}, cloneSubject)
	tenant := l.tenants.place(s.Tenant, strings.Clone)
	instance := l.instances.place(s.Instance, func(id storage.InstanceID) storage.InstanceID { return id })
	l.subjects.add1(whose)
	l.tenants.add1(tenant)
	l.instances.add1(instance)
	l.sessions[s.ID] = session{
		token:       s.Token,
		expires:     s.ExpiresAt.UnixMilli(),
		observation: record.Observation(s),
		subject:     whose,
		tenant:      tenant,
		instance:    instance,
	}
	l.count.Sessions++
	l.countSeen = l.count
}

// LoadEntry adds an entry of the log.
func (l *Ledger) LoadEntry(e *storage.Entry) {
	seq := e.Revision.Sequence
	if e.Kind != storage.LiftLock {
		sel := e.Selector
		l.entries.put(&sel, hit{newest: seq, committed: seq})
	}
	if e.RequestID != "" {
		l.requests[digest(e.RequestID)] = seq
	}
	l.count.Entries++
	l.countSeen = l.count
}

// LoadLock adds a standing lock.
func (l *Ledger) LoadLock(k *storage.Lock) {
	l.addDenial(k.ID, k.Selector, k.Revision.Sequence)
	clear(l.undo)
	l.undo = l.undo[:0]
	l.countSeen = l.count
}

// LoadInstance adds a registered instance.
func (l *Ledger) LoadInstance(id storage.InstanceID) {
	i := l.instances.place(id, func(id storage.InstanceID) storage.InstanceID { return id })
	l.instances.all[i].pin = true
}
