package ledger

import (
	"bytes"
	"cmp"
	"slices"
	"time"

	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/internal/record"
)

// The live sessions of a subject stand in a line, in the order of their grants:
// a ring through the uses, of which the tally knows the newest.

// enqueue puts a use at the end of its subject's line.
func (l *Ledger) enqueue(i uint32) {
	u, c := l.uses.at(i), l.subjects.at(l.uses.at(i).subject)
	if c.newest == 0 {
		u.prev, u.next = i, i
	} else {
		newest := l.uses.at(c.newest)
		u.prev, u.next = c.newest, newest.next
		l.uses.at(newest.next).prev = i
		newest.next = i
	}
	c.newest = i
}

// dequeue takes a use out of its subject's line. It keeps its neighbours, for
// requeue, and the newest of before is returned for that too.
func (l *Ledger) dequeue(i uint32) (newest uint32) {
	u, c := l.uses.at(i), l.subjects.at(l.uses.at(i).subject)
	newest = c.newest
	switch {
	case u.next == i:
		c.newest = 0
		return newest
	case newest == i:
		c.newest = u.prev
	}
	l.uses.at(u.prev).next, l.uses.at(u.next).prev = u.next, u.prev
	return newest
}

// requeue undoes dequeue, where all that came after it is undone.
func (l *Ledger) requeue(i, newest uint32) {
	u := l.uses.at(i)
	l.uses.at(u.prev).next, l.uses.at(u.next).prev = i, i
	l.subjects.at(u.subject).newest = newest
}

// loaded is a use with when its session began, which the store has it by.
type loaded struct {
	use     uint32
	started int64
	id      storage.SessionID
}

// LoadLines puts the sessions that were loaded into the order in which they were
// granted, as far as the times of that tell. It comes after the last of them.
func (l *Ledger) LoadLines() {
	slices.SortFunc(l.loading, func(a, b loaded) int {
		return cmp.Or(cmp.Compare(a.started, b.started), bytes.Compare(a.id[:], b.id[:]))
	})
	for i := range l.loading {
		l.enqueue(l.loading[i].use)
	}
	l.loading = nil
}

// maxReplaced is how many sessions one redemption ends at most, as when the bound
// was lowered: each newer session ends as many again. One group has no more than
// maxReplacing entries by that, or one for each of its redemptions.
const (
	maxReplaced  = 100
	maxReplacing = 1000
)

// oldest are the sessions that r ends, for there to be room for one more of its
// subject: the oldest, but not the one that it renews, if one of them is that.
func (l *Ledger) oldest(r *storage.Redemption, subject, renewed uint32) (out []uint32) {
	c := l.subjects.at(subject)
	if c.newest == 0 {
		return nil
	}
	first := l.uses.at(c.newest).next
	most := min(maxReplaced, max(maxReplacing-len(l.fresh), 1))
	for i, left := first, c.n-renewed; left >= r.SubjectSessions && len(out) < most; {
		u := l.uses.at(i)
		if u.session != r.Renews {
			out = append(out, i)
			left--
		}
		if i = u.next; i == first {
			break
		}
	}
	return out
}

// replace ends a session whose place s takes, with an entry of the log that has
// its node close the socket.
func (l *Ledger) replace(i uint32, s *storage.Session, keep time.Duration) storage.Replaced {
	u := l.uses.at(i)
	done := record.Ended{Key: storage.SessionKey{ExpiresAt: time.UnixMilli(u.expires), ID: u.session}, Token: u.token}
	l.end(i)
	l.head++
	l.later(func() { l.head-- })
	l.count.Entries++
	e := storage.Entry{
		Revision: storage.Revision{Epoch: l.epoch, Sequence: l.head}, Kind: storage.Replace,
		Selector: storage.Selector{Session: u.session}, CommittedAt: s.StartedAt, KeepUntil: record.Time(s.StartedAt.Add(keep)),
	}
	l.addFresh(e)
	return storage.Replaced{Entry: e, Key: done.Key, Token: done.Token}
}

// brief is an entry that need not wait for those before it to be dropped.
type brief struct {
	sequence uint64
	until    int64 // Unix milliseconds
}

// Brief finds entries that can be dropped at a Unix millisecond though entries
// before them can't: up to limit, oldest first.
func (l *Ledger) Brief(at int64, limit int) (out []uint64) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, b := range l.briefs {
		if b.until > at || len(out) == limit {
			break
		}
		out = append(out, b.sequence)
	}
	return out
}

// forgetBriefs forgets entries that were dropped, whose sequences rise.
func (l *Ledger) forgetBriefs(dropped []storage.Entry) {
	n := 0
	for i := range dropped {
		if n < len(l.briefs) && l.briefs[n].sequence == dropped[i].Revision.Sequence {
			n++
		}
	}
	if l.briefs = l.briefs[n:]; len(l.briefs) == 0 {
		l.briefs = nil
	}
}
