package wsnode

import (
	"sync"

	"github.com/gatehouse-ws/gatehouse/token"
	"github.com/gatehouse-ws/gatehouse/wsnode/verify"
)

// sessions finds the live sessions that an entry of the log hits. Safe for
// concurrent use.
type sessions struct {
	mu        sync.Mutex
	byID      map[[16]byte]*session
	byToken   map[token.ID][]*session
	bySubject map[string][]*session // of any tenant
}

// place is where a session stands in the lists of its token and its subject, so
// that it leaves those of a subject with many sessions as fast as any. Guarded
// by sessions.mu.
type place struct{ byToken, bySubject int }

func newSessions() *sessions {
	return &sessions{
		byID: map[[16]byte]*session{}, byToken: map[token.ID][]*session{}, bySubject: map[string][]*session{},
	}
}

func (t *sessions) add(s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	who := &s.grant.Identity
	t.byID[who.Session] = s
	s.place = place{len(t.byToken[who.Token]), len(t.bySubject[who.Subject])}
	t.byToken[who.Token] = append(t.byToken[who.Token], s)
	t.bySubject[who.Subject] = append(t.bySubject[who.Subject], s)
}

// remove forgets a session, and reports whether it was known.
func (t *sessions) remove(s *session) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	who := &s.grant.Identity
	if t.byID[who.Session] != s {
		return false
	}
	delete(t.byID, who.Session)
	drop(t.byToken, who.Token, s, func(s *session) *int { return &s.place.byToken })
	drop(t.bySubject, who.Subject, s, func(s *session) *int { return &s.place.bySubject })
	return true
}

// drop fills the place of s in its list with the last one.
func drop[K comparable](lists map[K][]*session, key K, s *session, place func(*session) *int) {
	list := lists[key]
	last := len(list) - 1
	if last == 0 {
		delete(lists, key)
		return
	}
	at := *place(s)
	list[at] = list[last]
	*place(list[at]) = at
	list[last] = nil
	lists[key] = list[:last]
}

func (t *sessions) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byID)
}

func (t *sessions) all() []*session {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]*session, 0, len(t.byID))
	for _, s := range t.byID {
		out = append(out, s)
	}
	return out
}

// hit lists the sessions that an entry ends. What selects one user costs as
// much as that user has sessions.
func (t *sessions) hit(e *verify.Entry) []*session {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []*session
	take := func(s *session) {
		if e.Hits(&s.grant.Identity) {
			out = append(out, s)
		}
	}
	id, tok, subject, wide := e.Narrow()
	switch {
	case wide:
		for _, s := range t.byID {
			take(s)
		}
	case subject != "":
		for _, s := range t.bySubject[subject] {
			take(s)
		}
	case !tok.IsZero():
		for _, s := range t.byToken[tok] {
			take(s)
		}
	default:
		if s := t.byID[id]; s != nil {
			take(s)
		}
	}
	return out
}
