package wsnode

import (
	"cmp"
	"sync"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/token"
	"github.com/gatehouse-ws/gatehouse/wsnode/verify"
)

// sessions finds the live sessions that an entry of the log hits. Safe for
// concurrent use. Its lock comes before verify's, and before those of loops.
type sessions struct {
	mu        sync.Mutex
	byID      index[[16]byte]
	renewed   map[[16]byte]*peer // by what they have renewed
	byToken   index[token.ID]
	bySubject index[string] // of any tenant
}

func newSessions() *sessions {
	return &sessions{
		byID:      newIndex(func(p *peer) [16]byte { return p.session }, func(p *peer) *links { return &p.byID }),
		byToken:   newIndex(func(p *peer) token.ID { return p.token }, func(p *peer) *links { return &p.byToken }),
		bySubject: newIndex(func(p *peer) string { return p.subject }, func(p *peer) *links { return &p.bySubject }),
		renewed:   map[[16]byte]*peer{},
	}
}

// put makes h the holder of p, as g has it, unless why, asked in the same step,
// has a reason not to: whoever looks for sessions finds p by what it was before,
// or by g.
func (t *sessions) put(p *peer, h holder, g *verify.Grant, why func() pb.Reason) pb.Reason {
	t.mu.Lock()
	defer t.mu.Unlock()
	if reason := why(); reason != 0 {
		return reason
	}
	if p.listed {
		t.forget(p)
	}
	p.become(h, &g.Identity)
	p.listed = true
	t.byID.add(p)
	t.byToken.add(p)
	t.bySubject.add(p)
	for _, id := range g.Identity.Renewed {
		t.renewed[id] = p
	}
	return 0
}

// remove forgets a session, and reports whether it was known.
func (t *sessions) remove(p *peer) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !p.listed {
		return false
	}
	t.forget(p)
	p.listed = false
	return true
}

// forget takes p out of the lists. It is called with the lock held.
func (t *sessions) forget(p *peer) {
	t.byID.remove(p)
	t.byToken.remove(p)
	t.bySubject.remove(p)
	if m := p.more.Load(); m != nil {
		for _, id := range m.renewed {
			delete(t.renewed, id)
		}
	}
}

// stillHit is list without those at its end that an entry no longer hits: they
// have ended, or renewed.
func (t *sessions) stillHit(list []*peer, e *verify.Entry) []*peer {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(list) > 0 {
		last := len(list) - 1
		if p := list[last]; p.listed && p.hitBy(e) {
			break
		}
		list[last] = nil
		list = list[:last]
	}
	return list
}

// hitBy reports whether an entry ends the session. Call it as bearer.
func (p *peer) hitBy(e *verify.Entry) bool {
	who := p.bearer()
	return e.Hits(&who)
}

func (t *sessions) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byID.peers
}

func (t *sessions) all() []*peer {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]*peer, 0, t.byID.peers)
	t.byID.all(func(p *peer) { out = append(out, p) })
	return out
}

// hit lists the sessions that an entry ends. What selects one user costs as
// much as that user has sessions.
func (t *sessions) hit(e *verify.Entry) []*peer {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []*peer
	take := func(p *peer) {
		if p.hitBy(e) {
			out = append(out, p)
		}
	}
	id, tok, subject, wide := e.Narrow()
	switch {
	case wide:
		t.byID.all(take)
	case subject != "":
		for p := t.bySubject.first(subject); p != nil; p = t.bySubject.next(p) {
			take(p)
		}
	case !tok.IsZero():
		for p := t.byToken.first(tok); p != nil; p = t.byToken.next(p) {
			take(p)
		}
	default:
		if p := cmp.Or(t.byID.first(id), t.renewed[id]); p != nil {
			take(p)
		}
	}
	return out
}
