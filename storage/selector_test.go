package storage

import (
	"net/netip"
	"testing"
)

func TestSelectorHits(t *testing.T) {
	token := &Token{ID: TokenID{1}, Tenant: "acme", Subject: "ada", Issuer: "login", ClientIP: netip.MustParseAddr("192.0.2.7")}
	session := &Session{ID: SessionID{2}, Token: TokenID{1}, Tenant: "acme", Subject: "ada", Issuer: "login",
		TokenIP: netip.MustParseAddr("192.0.2.7"), ClientIP: netip.MustParseAddr("2001:db8::9%eth0")}
	prefix := netip.MustParsePrefix
	for _, c := range []struct {
		rule           string
		s              Selector
		token, session bool
	}{
		{"nothing set hits nothing", Selector{}, false, false},
		{"a token id", Selector{Token: TokenID{1}}, true, true},
		{"another token id", Selector{Token: TokenID{9}}, false, false},
		{"a session id leaves its token alone", Selector{Session: SessionID{2}}, false, true},
		{"a subject of its tenant", Selector{Tenant: "acme", Subject: "ada"}, true, true},
		{"a subject of another tenant", Selector{Tenant: "other", Subject: "ada"}, false, false},
		{"a subject without tenant is that of no tenant", Selector{Subject: "ada"}, false, false},
		{"a tenant", Selector{Tenant: "acme"}, true, true},
		{"an issuer", Selector{Issuer: "login"}, true, true},
		{"the first field that is set counts", Selector{Tenant: "other", Issuer: "login"}, false, false},
		{"a prefix of the token's address", Selector{Prefix: prefix("192.0.2.0/24")}, true, true},
		{"its bits behind the length do not count", Selector{Prefix: prefix("192.0.2.99/24")}, true, true},
		{"IPv4 written as IPv6 is IPv4", Selector{Prefix: prefix("::ffff:192.0.2.0/120")}, true, true},
		{"every IPv4 address, written as IPv6", Selector{Prefix: prefix("::ffff:0:0/96")}, true, true},
		{"a prefix of the session's address, whatever its zone", Selector{Prefix: prefix("2001:db8::/32")}, false, true},
		{"every IPv6 address is no IPv4 address", Selector{Prefix: prefix("::/0")}, false, true},
	} {
		if got := c.s.HitsToken(token); got != c.token {
			t.Errorf("%s: hits the token: %v", c.rule, got)
		}
		if got := c.s.HitsSession(session); got != c.session {
			t.Errorf("%s: hits the session: %v", c.rule, got)
		}
	}
	if (&Selector{Prefix: prefix("0.0.0.0/0")}).HitsToken(&Token{}) {
		t.Error("a prefix hits a token that is bound to no address")
	}
}

func TestRevisionAfter(t *testing.T) {
	for _, c := range []struct {
		r, o  Revision
		after bool
	}{
		{Revision{1, 2}, Revision{1, 1}, true},
		{Revision{1, 1}, Revision{1, 1}, false},
		{Revision{1, 1}, Revision{1, 2}, false},
		{Revision{2, 1}, Revision{1, 9}, true}, // another history
		{Revision{1, 1}, Revision{}, true},
	} {
		if got := c.r.After(c.o); got != c.after {
			t.Errorf("%v after %v: %v", c.r, c.o, got)
		}
	}
}

func TestExpiryIsTheTimeOfTheID(t *testing.T) {
	id := TokenID{0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0xff}
	if got := id.Expiry().UnixMilli(); got != 0x010203040506 {
		t.Fatalf("expiry %#x", got)
	}
}
