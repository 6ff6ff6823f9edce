package wsnode

import (
	"cmp"
	"encoding/binary"
	"hash/maphash"
	"math"
	"sync"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/token"
	"github.com/gatehouse-ws/gatehouse/wsnode/verify"
)

// sessions finds the live sessions that an entry of the log hits. Safe for
// concurrent use. Its lock comes before verify's, and before those of loops.
type sessions struct {
	seed maphash.Seed

	mu        sync.Mutex
	renewed   map[[16]byte]*peer // by what they have renewed
	byToken   index[token.ID]    // and by id, see idFor
	bySubject index[string]      // of any tenant
	alone     map[*peer]struct{} // that no event loop has
}

func newSessions() *sessions {
	t := &sessions{seed: maphash.MakeSeed(), renewed: map[[16]byte]*peer{}, alone: map[*peer]struct{}{}}
	t.byToken = newIndex(func(p *peer) token.ID { return p.token }, t.hashOf, func(p *peer) *links { return &p.byToken })
	t.bySubject = newIndex(func(p *peer) string { return p.subject },
		func(s string) uint64 { return maphash.String(t.seed, s) }, func(p *peer) *links { return &p.bySubject })
	return t
}

// hashOf is that of a token's id: as many bits as idFor has room for.
func (t *sessions) hashOf(id token.ID) uint64 {
	return maphash.Bytes(t.seed, id[:]) & math.MaxUint32
}

// idFor makes a session's id of a random one: its end tells in which list the
// session is by its token, so that sessions need no lists by their id. What is
// left is random in 96 bits.
func (t *sessions) idFor(random [16]byte, tok token.ID) [16]byte {
	binary.BigEndian.PutUint32(random[12:], uint32(t.hashOf(tok)))
	return random
}

// withID is the session with this id, or nil. mu is locked.
func (t *sessions) withID(id [16]byte) *peer {
	p := t.byToken.like(uint64(binary.BigEndian.Uint32(id[12:])))
	for p != nil && p.session != id {
		p = p.byToken.next
	}
	return p
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
	t.byToken.add(p)
	t.bySubject.add(p)
	if p.alone {
		t.alone[p] = struct{}{}
	}
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
	delete(t.alone, p)
	p.listed = false
	return true
}

// forget takes p out of the lists. It is called with the lock held.
func (t *sessions) forget(p *peer) {
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
	return t.byToken.peers
}

func (t *sessions) all() []*peer {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]*peer, 0, t.byToken.peers)
	t.byToken.all(func(p *peer) { out = append(out, p) })
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
		t.byToken.all(take)
	case subject != "":
		for p := t.bySubject.first(subject); p != nil; p = t.bySubject.next(p) {
			take(p)
		}
	case !tok.IsZero():
		for p := t.byToken.first(tok); p != nil; p = t.byToken.next(p) {
			take(p)
		}
	default:
		if p := cmp.Or(t.withID(id), t.renewed[id]); p != nil {
			take(p)
		}
	}
	return out
}
