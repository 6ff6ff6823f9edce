package ledger

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/internal/record"
)

// Append decides an entry of the log. The entry returned is what the caller is
// told; added says that the store must keep it, and, of a lock, the lock.
func (l *Ledger) Append(e storage.Entry, rec Records) (entry storage.Entry, added bool, err error) {
	if e.Grace < 0 {
		return storage.Entry{}, false, fmt.Errorf("log entry with a grace of %v, want 0 or more", e.Grace)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.RequestID != "" {
		first, err := l.requested(e.RequestID, rec)
		if err != nil {
			return storage.Entry{}, false, err
		}
		if first != nil {
			if !sameRequest(first, &e) {
				return storage.Entry{}, false, storage.ErrRequestReused
			}
			return *first, false, nil
		}
	}
	if e.Kind != storage.LiftLock && e.Selector == (storage.Selector{}) {
		return storage.Entry{}, false, errors.New("log entry without a selector")
	}
	e.CommittedAt, e.KeepUntil, e.Grace = record.Time(e.CommittedAt), record.Time(e.KeepUntil), e.Grace.Truncate(time.Millisecond)
	switch e.Kind {
	case storage.Revoke:
	case storage.SetLock:
		if k, ok := l.locks[e.Lock]; ok && !l.isLifted(k) {
			return storage.Entry{}, false, storage.ErrExists
		}
	case storage.LiftLock:
		k, ok := l.locks[e.Lock]
		if !ok || l.isLifted(k) {
			return storage.Entry{}, false, storage.ErrNotFound
		}
		e.Selector = *k.selector
	default:
		return storage.Entry{}, false, fmt.Errorf("log entry of unknown kind %d", e.Kind)
	}

	l.head++
	seq := l.head
	l.later(func() { l.head-- })
	e.Revision = storage.Revision{Epoch: l.epoch, Sequence: seq}
	l.count.Entries++
	if e.RequestID != "" {
		id := digest(e.RequestID)
		prior, had := l.requests[id]
		l.requests[id] = seq
		l.later(func() { putBack(l.requests, id, prior, had) })
	}
	switch e.Kind {
	case storage.Revoke:
		l.addHit(&e.Selector, seq)
	case storage.SetLock:
		l.addHit(&e.Selector, seq)
		l.addDenial(e.Lock, e.Selector, seq)
	case storage.LiftLock:
		k := l.locks[e.Lock]
		l.setLift(k, seq)
		l.lifted = append(l.lifted, k)
		l.later(func() {
			l.setLift(k, 0)
			l.lifted = l.lifted[:len(l.lifted)-1]
		})
		l.count.Locks--
	}
	l.addFresh(e)
	return e, true, nil
}

// addFresh keeps an entry for the group's later decisions.
func (l *Ledger) addFresh(e storage.Entry) {
	l.fresh = append(l.fresh, e)
	l.later(func() { l.fresh = l.fresh[:len(l.fresh)-1] })
}

func (l *Ledger) keepBrief(e *storage.Entry) {
	if e.Kind == storage.Replace {
		l.briefs = append(l.briefs, brief{e.Revision.Sequence, e.KeepUntil.UnixMilli()})
	}
}

func putBack[K comparable, V any](m map[K]V, k K, prior V, had bool) {
	if had {
		m[k] = prior
	} else {
		delete(m, k)
	}
}

// requested finds the entry that has this request id, or nil.
func (l *Ledger) requested(id string, rec Records) (*storage.Entry, error) {
	seq, ok := l.requests[digest(id)]
	if !ok {
		return nil, nil
	}
	if seq > l.shown {
		return &l.fresh[seq-l.shown-1], nil
	}
	e, err := rec.Entry(seq)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil // dropped by this group
	}
	if err != nil {
		return nil, err
	}
	return &e, nil
}

// sameRequest reports whether e asks for what first was.
func sameRequest(first, e *storage.Entry) bool {
	if first.Kind != e.Kind || first.Reason != e.Reason || first.Actor != e.Actor || first.Grace != e.Grace {
		return false
	}
	if e.Kind == storage.LiftLock {
		return first.Lock == e.Lock
	}
	return first.Selector == e.Selector
}

func (l *Ledger) addHit(sel *storage.Selector, seq uint64) {
	s := *sel
	prior, had := l.entries.get(&s)
	h := hit{newest: seq, committed: prior.committed}
	if prior.newest <= l.shown {
		h.committed = prior.newest
	}
	l.entries.put(&s, h)
	l.later(func() {
		if had {
			l.entries.put(&s, prior)
		} else {
			l.entries.remove(&s)
		}
	})
}

func (l *Ledger) addDenial(id storage.LockID, sel storage.Selector, seq uint64) {
	ds, _ := l.standing.get(&sel)
	l.standing.put(&sel, append(slices.Clip(ds), denial{id: id, set: seq}))
	k := lock{id, seq, &sel}
	prior, had := l.locks[id] // one that this group has lifted
	l.locks[id] = k
	l.count.Locks++
	l.later(func() {
		l.removeDenial(k)
		putBack(l.locks, id, prior, had)
	})
}

func (l *Ledger) isLifted(k lock) bool {
	ds, _ := l.standing.get(k.selector)
	for _, d := range ds {
		if d.set == k.set {
			return d.lift != 0
		}
	}
	return true
}

func (l *Ledger) setLift(k lock, seq uint64) {
	ds, _ := l.standing.get(k.selector)
	for i := range ds {
		if ds[i].set == k.set {
			ds[i].lift = seq
		}
	}
}

// DropEntries forgets entries in their order: such as begin the log, or Brief has
// found.
func (l *Ledger) DropEntries(entries []storage.Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.dropped)
	l.dropped = append(l.dropped, entries...)
	l.count.Entries -= len(entries)
	l.later(func() { l.dropped = l.dropped[:n] })
}

// PutInstance registers an instance, and returns the log's head, with what the
// group has appended.
func (l *Ledger) PutInstance(id storage.InstanceID) (head uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := l.instances.place(id)
	if !l.instances.at(i).pin {
		l.instances.setPin(i, true)
		l.later(func() { l.instances.setPin(i, false) })
	}
	return l.head
}

// RemoveInstance forgets an instance that has no live session; else it reports
// that it has. head is as of PutInstance.
func (l *Ledger) RemoveInstance(id storage.InstanceID) (removed bool, head uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := l.instances.places.Get(id)
	if i == 0 || !l.instances.at(i).pin {
		return true, l.head
	}
	if l.instances.at(i).n > 0 {
		return false, l.head
	}
	l.instances.setPin(i, false)
	l.later(func() { l.instances.setPin(i, true) })
	return true, l.head
}

// msPerMinute is what SweepTo rounds to: stores keep the tokens of a minute
// together.
const msPerMinute = 60_000

// SweepTo is up to when a sweep that may reach upTo declares tokens gone, where
// it was prior before and latest is the latest expiry up to upTo of a stored
// token, or prior: to the end of that minute. All are Unix milliseconds.
func SweepTo(prior, upTo, latest int64) int64 {
	if latest <= 0 { // nothing was ever swept
		return prior
	}
	return max(prior, min(upTo, latest/msPerMinute*msPerMinute+msPerMinute-1))
}

// Sweep declares the tokens gone that expire at or before this Unix
// millisecond, and returns from when on that was so already.
func (l *Ledger) Sweep(ms int64) (prior int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	prior = l.swept
	if ms > prior {
		l.swept = ms
		l.later(func() { l.swept = prior })
	}
	return prior
}
