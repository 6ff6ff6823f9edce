package storage

import "net/netip"

// Selector says what an entry hits. One of Token, Session, Subject (with its
// Tenant), Tenant alone, Prefix, Issuer and AllSubjects is set; of several the first
// in this order counts. Append refuses an empty one.
type Selector struct {
	Token   TokenID
	Session SessionID
	Tenant  string
	Subject string
	Prefix  netip.Prefix
	Issuer  string
	// AllSubjects hits everyone, in every tenant.
	AllSubjects bool
}

// HitsToken reports whether an entry with selector s would hit t, were it
// younger.
func (s *Selector) HitsToken(t *Token) bool {
	switch {
	case s.Token != TokenID{}:
		return s.Token == t.ID
	case s.Session != SessionID{}:
		return false // a session's revocation leaves its token alone
	case s.Subject != "":
		return s.Subject == t.Subject && s.Tenant == t.Tenant
	case s.Tenant != "":
		return s.Tenant == t.Tenant
	case s.Prefix.IsValid():
		return prefixHits(s.Prefix, t.ClientIP)
	case s.Issuer != "":
		return s.Issuer == t.Issuer
	}
	return s.AllSubjects
}

// HitsSession reports whether an entry with selector s would hit x, were it
// younger than the token of x.
func (s *Selector) HitsSession(x *Session) bool {
	switch {
	case s.Token != TokenID{}:
		return s.Token == x.Token
	case s.Session != SessionID{}:
		return s.Session == x.ID
	case s.Subject != "":
		return s.Subject == x.Subject && s.Tenant == x.Tenant
	case s.Tenant != "":
		return s.Tenant == x.Tenant
	case s.Prefix.IsValid():
		return prefixHits(s.Prefix, x.TokenIP) || prefixHits(s.Prefix, x.ClientIP)
	case s.Issuer != "":
		return s.Issuer == x.Issuer
	}
	return s.AllSubjects
}

func prefixHits(p netip.Prefix, a netip.Addr) bool {
	return CanonicalPrefix(p).Contains(CanonicalAddr(a))
}

// CanonicalAddr is the form of a that prefixes are matched against: IPv4
// written as IPv6 (::ffff:192.0.2.1) is IPv4, and a zone is dropped, so that
// neither hides a client from a revocation.
func CanonicalAddr(a netip.Addr) netip.Addr {
	return a.Unmap().WithZone("")
}

// CanonicalPrefix is the form of p that addresses are matched against: without
// the bits behind its length, and IPv4 where it is IPv4 written as IPv6.
func CanonicalPrefix(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked()
}

// After reports whether r lies above o: in the same epoch a higher sequence;
// an entry of another epoch lies above everything of this one.
func (r Revision) After(o Revision) bool {
	return r.Epoch != o.Epoch || r.Sequence > o.Sequence
}
