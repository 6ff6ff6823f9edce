package ledger

import (
	"time"

	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/internal/record"
)

// Head is the revision of the last committed entry, and a channel that is
// closed when it has moved on.
func (l *Ledger) Head() (storage.Revision, <-chan struct{}) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return storage.Revision{Epoch: l.epoch, Sequence: l.shown}, l.moved
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
			u := l.uses[t.ID]
			if u.group == l.group {
				u.n -= u.now
			}
			st.Uses = u.n
			if u.n > 0 {
				st.Sessions = make([]storage.SessionID, 1, u.n)
				st.Sessions[0] = u.first
				st.Sessions = append(st.Sessions, l.laterUses[t.ID][:u.n-1]...)
			}
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

// LiveSessions finds the keys of live sessions; the zero key stands for one
// that is not. With both locked, begin begins a transaction of the store, which
// then sees the same commits as the keys.
func (l *Ledger) LiveSessions(ids []storage.SessionID, begin func()) []storage.SessionKey {
	l.mu.RLock()
	defer l.mu.RUnlock()
	begin()
	out := make([]storage.SessionKey, len(ids))
	for i, id := range ids {
		s, ok := l.sessions[id]
		if !ok {
			continue
		}
		live := !s.ended
		if s.group == l.group {
			live = !s.grantedNow // the group under way does not count
		}
		if live {
			out[i] = storage.SessionKey{ExpiresAt: time.UnixMilli(s.expires), ID: id}
		}
	}
	return out
}

// Forget drops the uses of swept tokens, and their sessions that have ended.
func (l *Ledger) Forget(uses []record.Redemption) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range uses {
		u := &uses[i]
		delete(l.uses, u.Token)
		delete(l.laterUses, u.Token)
		if s, ok := l.sessions[u.Session]; ok && s.ended && s.group != l.group && s.token == u.Token {
			delete(l.sessions, u.Session)
		}
	}
}
