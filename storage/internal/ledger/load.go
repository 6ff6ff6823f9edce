package ledger

import (
	"fmt"

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
	i, earlier := l.uses.take(), l.byToken.Get(r.Token)
	nth := uint32(1)
	if earlier != 0 {
		nth += l.uses.at(earlier).nth
	}
	*l.uses.at(i) = use{token: r.Token, session: r.Session, observation: r.Observation, nth: nth, earlier: earlier, ended: true}
	l.byToken.Put(r.Token, i)
	l.bySession.Put(r.Session, i)
}

// LoadSession adds a live session, which LoadLines finds its place. The error says
// that no store can have it beside what was loaded before.
func (l *Ledger) LoadSession(s *storage.Session) error {
	i := l.bySession.Get(s.ID)
	fresh := i == 0 // its token is swept
	if fresh {
		i = l.uses.take()
	}
	u := l.uses.at(i)
	switch {
	case fresh:
	case !u.ended:
		return fmt.Errorf("%w: session %x is live twice", storage.ErrCorrupt, s.ID)
	case u.token != s.Token:
		return fmt.Errorf("%w: session %x of token %x has the id of a use of token %x", storage.ErrCorrupt, s.ID, s.Token, u.token)
	}
	u.token, u.session, u.ended = s.Token, s.ID, false
	if fresh {
		l.bySession.Put(s.ID, i)
	}
	u.expires, u.observation = s.ExpiresAt.UnixMilli(), record.Observation(s)
	u.subject = l.subjects.place(l.keys.key(s.Tenant, s.Subject))
	u.tenant = l.tenants.place(l.keys.key(s.Tenant, ""))
	u.instance = l.instances.place(s.Instance)
	l.loading = append(l.loading, loaded{i, s.StartedAt.UnixMilli(), s.ID})
	l.subjects.add1(u.subject)
	l.tenants.add1(u.tenant)
	l.instances.add1(u.instance)
	l.count.Sessions++
	l.countSeen = l.count
	return nil
}

// LoadEntry adds an entry of the log.
func (l *Ledger) LoadEntry(e *storage.Entry) {
	seq := e.Revision.Sequence
	l.keepBrief(e)
	if e.Kind != storage.LiftLock && e.Kind != storage.Replace {
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
	l.instances.at(l.instances.place(id)).pin = true
}
