package ledger

import (
	"time"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// Head is the revision of the last committed entry, and a channel that is
// closed when it has moved on.
func (l *Ledger) Head() (storage.Revision, <-chan struct{}) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return storage.Revision{Epoch: l.epoch, Sequence: l.shown}, l.moved
}

// Requested is the revision of the committed entry that has a request id.
func (l *Ledger) Requested(id string) (storage.Revision, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	seq, ok := l.requests[digest(id)]
	if !ok || seq > l.shown {
		return storage.Revision{}, false
	}
	return storage.Revision{Epoch: l.epoch, Sequence: seq}, true
}

// Swept is the last Unix millisecond up to which expired tokens are gone.
func (l *Ledger) Swept() int64 { return l.sweptSeen.Load() }

// Stats tells how many tokens, sessions, entries and locks there are.
func (l *Ledger) Stats() storage.Stats {
	l.mu.RLock()
	defer l.mu.RUnlock()
	s := l.countSeen
	s.Tokens -= l.gone
	return s
}

// Gone takes n swept tokens from the count of Stats.
func (l *Ledger) Gone(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gone += n
}

// Statuses tells what has become of tokens.
func (l *Ledger) Statuses(tokens []*storage.Token) []storage.TokenStatus {
	l.mu.RLock()
	defer l.mu.RUnlock()
	out := make([]storage.TokenStatus, len(tokens))
	swept := l.sweptSeen.Load()
	for i, t := range tokens {
		st := &out[i]
		if t.ID.Expiry().UnixMilli() > swept {
			l.usesOf(t.ID, st)
		}
		if t.IssuedRevision.Epoch != l.epoch {
			st.RevokedBy.Epoch = l.epoch
		} else if seq := l.revokedBy(t, nil, l.shown); seq != 0 {
			st.RevokedBy = storage.Revision{Epoch: l.epoch, Sequence: seq}
		}
		if d := l.lockOn(t, nil, l.shown); d != nil {
			st.Lock = d.id
		}
	}
	return out
}

// Revoked reports whether a committed entry hits t.
func (l *Ledger) Revoked(t *storage.Token) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.revoked(t, nil, l.shown)
}

// usesOf tells the uses of a token, without those of the group under way.
func (l *Ledger) usesOf(id storage.TokenID, st *storage.TokenStatus) {
	for i := l.byToken.Get(id); i != 0; {
		u := l.uses.at(i)
		if u.group != l.group || !u.grantedNow {
			if st.Sessions == nil {
				st.Uses = u.nth
				st.Sessions = make([]storage.SessionID, u.nth)
			}
			st.Sessions[u.nth-1] = u.session
		}
		i = u.earlier
	}
}

// SessionsOf finds the live sessions of a token. Of one that is swept it looks
// through all sessions, some at a time.
func (l *Ledger) SessionsOf(id storage.TokenID) (out []storage.SessionID) {
	if id.Expiry().UnixMilli() > l.Swept() {
		var st storage.TokenStatus
		l.mu.RLock()
		defer l.mu.RUnlock()
		l.usesOf(id, &st)
		return st.Sessions
	}
	for from, more := uint32(1), true; more; from += chunkSize {
		out, more = l.liveOf(id, from, out)
	}
	return out
}

// liveOf is SessionsOf among a chunk's worth of uses.
func (l *Ledger) liveOf(id storage.TokenID, from uint32, out []storage.SessionID) ([]storage.SessionID, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for i := from; i < from+chunkSize; i++ {
		if i > l.uses.used {
			return out, false
		}
		if u := l.uses.at(i); u.token == id && l.live(u) {
			out = append(out, u.session)
		}
	}
	return out, true
}

// live reports whether a use's session is live, as of the last commit.
func (l *Ledger) live(u *use) bool {
	if u.group == l.group {
		return !u.grantedNow // the group under way has granted or ended it
	}
	return !u.ended
}

// LiveSessions finds the keys of live sessions; the zero key stands for one
// that is not. Where begin is not nil, it begins a transaction of the store,
// which then sees the same commits as the keys.
func (l *Ledger) LiveSessions(ids []storage.SessionID, begin func()) []storage.SessionKey {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if begin != nil {
		begin()
	}
	out := make([]storage.SessionKey, len(ids))
	for n, id := range ids {
		i := l.bySession.Get(id)
		if was := l.replaced[id]; was != 0 {
			i = was // before the group under way
		}
		if i != 0 && l.live(l.uses.at(i)) {
			out[n] = storage.SessionKey{ExpiresAt: time.UnixMilli(l.uses.at(i).expires), ID: id}
		}
	}
	return out
}

// Forget drops the uses of tokens whose sweeping is committed, but for sessions
// that are live.
func (l *Ledger) Forget(tokens []storage.TokenID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range tokens {
		next := l.byToken.Get(id)
		l.byToken.Remove(id)
		for next != 0 {
			i, u := next, l.uses.at(next)
			next, u.earlier = u.earlier, 0
			if u.group != l.group && l.replaced[u.session] != i { // else the group's end does it
				l.forgetUse(i)
			}
		}
	}
}
