package wsnode

import (
	"cmp"
	"sync"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/token"
	"github.com/gatehouse-ws/gatehouse/wsnode/verify"
)

// sessions finds the live sessions that an entry of the log hits. Safe for
// concurrent use. Its lock comes before verify's.
type sessions struct {
	mu        sync.Mutex
	byID      map[[16]byte]*session
	renewed   map[[16]byte]*session // by what they have renewed
	byToken   map[token.ID]*session // the first of a list, by sessions' own links
	bySubject map[string]*session   // as byToken; of any tenant
}

// links are a session's place in a list: it leaves that of a subject with many
// sessions as fast as any, and one that is alone in its own needs no more memory.
// Guarded by sessions.mu.
type links struct{ next, prev *session }

func tokenLinks(s *session) *links   { return &s.ofToken }
func subjectLinks(s *session) *links { return &s.ofSubject }

func newSessions() *sessions {
	return &sessions{
		byID: map[[16]byte]*session{}, renewed: map[[16]byte]*session{}, byToken: map[token.ID]*session{}, bySubject: map[string]*session{},
	}
}

// put makes g the grant of s, unless why, asked in the same step, has a reason
// not to: whoever looks for sessions finds s by the grant that it had before, or
// by g.
func (t *sessions) put(s *session, g *verify.Grant, why func() pb.Reason) pb.Reason {
	t.mu.Lock()
	defer t.mu.Unlock()
	if reason := why(); reason != 0 {
		return reason
	}
	if s.grant != nil {
		t.forget(s)
	}
	s.grant = g
	who := &g.Identity
	t.byID[who.Session] = s
	for _, id := range who.Renewed {
		t.renewed[id] = s
	}
	add(t.byToken, who.Token, s, tokenLinks)
	add(t.bySubject, who.Subject, s, subjectLinks)
	return 0
}

// remove forgets a session, and reports whether it was known.
func (t *sessions) remove(s *session) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID[s.grant.Identity.Session] != s {
		return false
	}
	t.forget(s)
	return true
}

// forget takes s out of the lists. It is called with the lock held.
func (t *sessions) forget(s *session) {
	who := &s.grant.Identity
	delete(t.byID, who.Session)
	for _, id := range who.Renewed {
		delete(t.renewed, id)
	}
	drop(t.byToken, who.Token, s, tokenLinks)
	drop(t.bySubject, who.Subject, s, subjectLinks)
}

// add puts s first in a list.
func add[K comparable](lists map[K]*session, key K, s *session, of func(*session) *links) {
	first := lists[key]
	of(s).next = first
	if first != nil {
		of(first).prev = s
	}
	lists[key] = s
}

// drop takes s out of its list.
func drop[K comparable](lists map[K]*session, key K, s *session, of func(*session) *links) {
	l := *of(s)
	*of(s) = links{}
	if l.next != nil {
		of(l.next).prev = l.prev
	}
	switch {
	case l.prev != nil:
		of(l.prev).next = l.next
	case l.next != nil:
		lists[key] = l.next
	default:
		delete(lists, key)
	}
}

// stillHit is list without those at its end that an entry no longer hits: they
// have ended, or renewed.
func (t *sessions) stillHit(list []*session, e *verify.Entry) []*session {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(list) > 0 {
		last := len(list) - 1
		if s := list[last]; t.byID[s.grant.Identity.Session] == s && e.Hits(&s.grant.Identity) {
			break
		}
		list[last] = nil
		list = list[:last]
	}
	return list
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
		for s := t.bySubject[subject]; s != nil; s = s.ofSubject.next {
			take(s)
		}
	case !tok.IsZero():
		for s := t.byToken[tok]; s != nil; s = s.ofToken.next {
			take(s)
		}
	default:
		if s := cmp.Or(t.byID[id], t.renewed[id]); s != nil {
			take(s)
		}
	}
	return out
}
