package ledger

import (
	"net/netip"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// index finds values by what their selectors hit: a handful of map look-ups,
// whatever the number of values. Prefixes are looked up once for each length
// that is in use.
type index[V any] struct {
	tokens   map[storage.TokenID]V
	sessions map[storage.SessionID]V
	subjects map[subject]V
	tenants  map[string]V
	issuers  map[string]V
	everyone map[struct{}]V // of one
	prefixes map[netip.Prefix]V
	lengths4 []length
	lengths6 []length
}

// length counts the prefixes of one length.
type length struct{ bits, n int }

func newIndex[V any]() index[V] {
	return index[V]{
		tokens:   make(map[storage.TokenID]V),
		sessions: make(map[storage.SessionID]V),
		subjects: make(map[subject]V),
		tenants:  make(map[string]V),
		issuers:  make(map[string]V),
		everyone: make(map[struct{}]V),
		prefixes: make(map[netip.Prefix]V),
	}
}

// Each of get, put and remove takes the field that Selector.HitsToken takes.

func (x *index[V]) get(s *storage.Selector) (v V, ok bool) {
	switch {
	case s.Token != storage.TokenID{}:
		v, ok = x.tokens[s.Token]
	case s.Session != storage.SessionID{}:
		v, ok = x.sessions[s.Session]
	case s.Subject != "":
		v, ok = x.subjects[subject{s.Tenant, s.Subject}]
	case s.Tenant != "":
		v, ok = x.tenants[s.Tenant]
	case s.Prefix.IsValid():
		v, ok = x.prefixes[storage.CanonicalPrefix(s.Prefix)]
	case s.Issuer != "":
		v, ok = x.issuers[s.Issuer]
	case s.AllSubjects:
		v, ok = x.everyone[struct{}{}]
	}
	return v, ok
}

func (x *index[V]) put(s *storage.Selector, v V) {
	switch {
	case s.Token != storage.TokenID{}:
		x.tokens[s.Token] = v
	case s.Session != storage.SessionID{}:
		x.sessions[s.Session] = v
	case s.Subject != "":
		x.subjects[subject{s.Tenant, s.Subject}] = v
	case s.Tenant != "":
		x.tenants[s.Tenant] = v
	case s.Prefix.IsValid():
		p := storage.CanonicalPrefix(s.Prefix)
		if _, ok := x.prefixes[p]; !ok {
			x.countLength(p, 1)
		}
		x.prefixes[p] = v
	case s.Issuer != "":
		x.issuers[s.Issuer] = v
	case s.AllSubjects:
		x.everyone[struct{}{}] = v
	}
}

func (x *index[V]) remove(s *storage.Selector) {
	switch {
	case s.Token != storage.TokenID{}:
		delete(x.tokens, s.Token)
	case s.Session != storage.SessionID{}:
		delete(x.sessions, s.Session)
	case s.Subject != "":
		delete(x.subjects, subject{s.Tenant, s.Subject})
	case s.Tenant != "":
		delete(x.tenants, s.Tenant)
	case s.Prefix.IsValid():
		p := storage.CanonicalPrefix(s.Prefix)
		if _, ok := x.prefixes[p]; ok {
			x.countLength(p, -1)
		}
		delete(x.prefixes, p)
	case s.Issuer != "":
		delete(x.issuers, s.Issuer)
	case s.AllSubjects:
		clear(x.everyone)
	}
}

func (x *index[V]) countLength(p netip.Prefix, by int) {
	ls := &x.lengths4
	if p.Addr().Is6() {
		ls = &x.lengths6
	}
	for i := range *ls {
		if l := &(*ls)[i]; l.bits == p.Bits() {
			if l.n += by; l.n == 0 {
				*ls = append((*ls)[:i], (*ls)[i+1:]...)
			}
			return
		}
	}
	*ls = append(*ls, length{p.Bits(), by})
}

// hits calls visit for the value of each selector that hits t or, where x is
// not nil, the session x that t opens, until visit returns true; it reports
// whether that happened.
func (x *index[V]) hits(t *storage.Token, s *storage.Session, visit func(V) bool) bool {
	if len(x.tokens) > 0 {
		if v, ok := x.tokens[t.ID]; ok && visit(v) {
			return true
		}
	}
	if len(x.subjects) > 0 && t.Subject != "" {
		if v, ok := x.subjects[subject{t.Tenant, t.Subject}]; ok && visit(v) {
			return true
		}
	}
	if len(x.tenants) > 0 {
		if v, ok := x.tenants[t.Tenant]; ok && visit(v) {
			return true
		}
	}
	if len(x.issuers) > 0 {
		if v, ok := x.issuers[t.Issuer]; ok && visit(v) {
			return true
		}
	}
	if v, ok := x.everyone[struct{}{}]; ok && visit(v) {
		return true
	}
	if len(x.prefixes) > 0 && x.hitsAddr(t.ClientIP, visit) {
		return true
	}
	if s == nil {
		return false
	}
	if len(x.sessions) > 0 {
		if v, ok := x.sessions[s.ID]; ok && visit(v) {
			return true
		}
	}
	return len(x.prefixes) > 0 && s.ClientIP != t.ClientIP && x.hitsAddr(s.ClientIP, visit)
}

func (x *index[V]) hitsAddr(a netip.Addr, visit func(V) bool) bool {
	if !a.IsValid() {
		return false
	}
	a = storage.CanonicalAddr(a)
	ls := x.lengths4
	if a.Is6() {
		ls = x.lengths6
	}
	for _, l := range ls {
		p, err := a.Prefix(l.bits)
		if err != nil {
			continue
		}
		if v, ok := x.prefixes[p]; ok && visit(v) {
			return true
		}
	}
	return false
}
