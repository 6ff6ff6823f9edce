package verify

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/token"
	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

func revoked(s *pb.Selector) *pb.Entry {
	return &pb.Entry{Revision: &pb.Revision{Epoch: 1, Sequence: 10}, Event: &pb.Entry_Revoked{Revoked: s}}
}

func locked(s *pb.LockSelector) *pb.Entry {
	return &pb.Entry{Revision: &pb.Revision{Epoch: 1, Sequence: 10}, Event: &pb.Entry_Locked{Locked: &pb.LockEntry{Selector: s}}}
}

func byPrefix(p string) *pb.Selector { return &pb.Selector{By: &pb.Selector_IpPrefix{IpPrefix: p}} }

func lockSubject(tenant, subject string) *pb.LockSelector {
	return &pb.LockSelector{By: &pb.LockSelector_Subject{Subject: &pb.Subject{Tenant: tenant, Subject: subject}}}
}

// What an entry hits: the session below, or not.
func TestEntryHits(t *testing.T) {
	who := Identity{
		Session: [16]byte{0xab, 1}, Token: token.ID{1, 2, 3}, Tenant: "acme", Subject: "u42", Issuer: "login",
		TokenIP: netip.MustParseAddr("192.0.2.1"), ClientIP: netip.MustParseAddr("2001:db8::5"), Issued: Revision{1, 9},
	}
	for _, c := range []struct {
		rule  string
		entry *pb.Entry
		hits  bool
	}{
		{"its token", revoked(wstest.ByToken(who.Token)), true},
		{"another token", revoked(wstest.ByToken(token.ID{1, 2, 4})), false},
		{"its session", revoked(wstest.BySession(who.Session)), true},
		{"another session", revoked(wstest.BySession([16]byte{0xab, 2})), false},
		{"its subject", revoked(wstest.BySubject("acme", "u42")), true},
		{"another subject", revoked(wstest.BySubject("acme", "u4")), false},
		{"its subject's name in another tenant", revoked(wstest.BySubject("acne", "u42")), false},
		{"its tenant", revoked(&pb.Selector{By: &pb.Selector_Tenant{Tenant: "acme"}}), true},
		{"another tenant", revoked(&pb.Selector{By: &pb.Selector_Tenant{Tenant: "acm"}}), false},
		{"its token's address", revoked(byPrefix("192.0.2.0/24")), true},
		{"that address, written as IPv6", revoked(byPrefix("::ffff:192.0.2.0/120")), true},
		{"its own address", revoked(byPrefix("2001:db8::/64")), true},
		{"another address", revoked(byPrefix("192.0.3.0/24")), false},
		{"its issuer", revoked(&pb.Selector{By: &pb.Selector_Issuer{Issuer: "login"}}), true},
		{"another issuer", revoked(&pb.Selector{By: &pb.Selector_Issuer{Issuer: "login2"}}), false},
		{"everyone", revoked(&pb.Selector{By: &pb.Selector_AllSubjects{AllSubjects: true}}), true},
		{"its subject locked", locked(lockSubject("acme", "u42")), true},
		{"its tenant locked", locked(&pb.LockSelector{By: &pb.LockSelector_Tenant{Tenant: "acme"}}), true},
		{"its address locked", locked(&pb.LockSelector{By: &pb.LockSelector_IpPrefix{IpPrefix: "2001:db8::5/128"}}), true},
		{"its issuer locked", locked(&pb.LockSelector{By: &pb.LockSelector_Issuer{Issuer: "login"}}), true},
		{"another subject locked", locked(lockSubject("acme", "u43")), false},
		{"a lock lifted ends nothing", &pb.Entry{Revision: &pb.Revision{Epoch: 1, Sequence: 10}, Event: &pb.Entry_Unlocked{Unlocked: "x"}}, false},
	} {
		e, err := entryFrom(c.entry)
		if err != nil {
			t.Errorf("%s: %v", c.rule, err)
			continue
		}
		if got := e.Hits(&who); got != c.hits {
			t.Errorf("%s: hits is %v, want %v", c.rule, got, c.hits)
		}
		if e.Lock != (c.entry.GetLocked() != nil) {
			t.Errorf("%s: Lock is %v", c.rule, e.Lock)
		}
		if session, id, subject, wide := e.Narrow(); c.hits && !wide && session != who.Session && id != who.Token && subject != who.Subject {
			t.Errorf("%s: an index by what Narrow says would miss it", c.rule)
		}
		for _, issued := range []struct {
			at    Revision
			above bool
		}{{Revision{1, 9}, true}, {Revision{1, 10}, false}, {Revision{1, 11}, false}, {Revision{2, 11}, true}} {
			at := who
			at.Issued = issued.at
			if got := e.Hits(&at); got != (c.hits && issued.above) {
				t.Errorf("%s: a session issued at %v is hit: %v", c.rule, issued.at, got)
			}
		}
	}
}

// What is not understood is an error: it would be acknowledged without being
// enforced, or enforced on everyone.
func TestMalformedEntries(t *testing.T) {
	zeros := strings.Repeat("0", 32)
	for rule, e := range map[string]*pb.Entry{
		"no event":                     {Revision: &pb.Revision{Epoch: 1, Sequence: 1}},
		"a revocation of nothing":      revoked(nil),
		"a selector of nothing":        revoked(&pb.Selector{}),
		"no token id":                  revoked(&pb.Selector{By: &pb.Selector_TokenId{TokenId: "01J"}}),
		"the zero token id":            revoked(wstest.ByToken(token.ID{})),
		"a session id too short":       revoked(&pb.Selector{By: &pb.Selector_SessionId{SessionId: "ab"}}),
		"a session id too long":        revoked(&pb.Selector{By: &pb.Selector_SessionId{SessionId: zeros + "01"}}),
		"the zero session id":          revoked(&pb.Selector{By: &pb.Selector_SessionId{SessionId: zeros}}),
		"a subject without its name":   revoked(wstest.BySubject("acme", "")),
		"a subject of nothing":         revoked(&pb.Selector{By: &pb.Selector_Subject{}}),
		"no tenant":                    revoked(&pb.Selector{By: &pb.Selector_Tenant{}}),
		"no prefix":                    revoked(byPrefix("192.0.2.1")),
		"no issuer":                    revoked(&pb.Selector{By: &pb.Selector_Issuer{}}),
		"not all subjects":             revoked(&pb.Selector{By: &pb.Selector_AllSubjects{}}),
		"a lock of nothing":            {Event: &pb.Entry_Locked{}},
		"a locked subject without one": locked(lockSubject("acme", "")),
		"a lock of no prefix":          locked(&pb.LockSelector{By: &pb.LockSelector_IpPrefix{IpPrefix: "*"}}),
	} {
		if got, err := entryFrom(e); !errors.Is(err, errMalformedEntry) {
			t.Errorf("%s: %+v and %v, want an error", rule, got, err)
		}
	}
}

func entryAt(sequence uint64, subject string, lock bool) Entry {
	return Entry{Revision: Revision{1, sequence}, Lock: lock, tenant: "acme", subject: subject}
}

func grantAt(asOf Revision, subject string) *Grant {
	return &Grant{AsOf: asOf, Identity: Identity{Tenant: "acme", Subject: subject, Issued: Revision{asOf.Epoch, 0}}}
}

// A grant in flight is checked against the entries above its as_of; what is no
// longer kept is not guessed.
func TestStanding(t *testing.T) {
	var r recent
	r.init()
	if got := r.standing(grantAt(Revision{1, 5}, "a")); got != Unknown {
		t.Errorf("before any welcome: %v, want Unknown", got)
	}
	r.reset(Revision{1, 4})
	r.add([]Entry{entryAt(2, "old", false), entryAt(4, "old", false)}) // of the snapshot
	r.add([]Entry{entryAt(5, "a", false), entryAt(6, "b", true)})
	r.add([]Entry{entryAt(6, "c", false), entryAt(7, "a", true)}) // 6 comes again
	for _, c := range []struct {
		rule string
		g    *Grant
		want Standing
	}{
		{"older than the snapshot", grantAt(Revision{1, 3}, "z"), Unknown},
		{"as old as the snapshot", grantAt(Revision{1, 4}, "z"), Holds},
		{"an entry above as_of", grantAt(Revision{1, 4}, "b"), Locked},
		{"the entry at as_of", grantAt(Revision{1, 6}, "b"), Holds},
		{"the newest counts", grantAt(Revision{1, 4}, "a"), Locked},
		{"the newest is at as_of", grantAt(Revision{1, 7}, "a"), Holds},
		{"ahead of the node", grantAt(Revision{1, 99}, "a"), Holds},
		{"an entry sent again is not another", grantAt(Revision{1, 4}, "c"), Holds},
		{"another history", grantAt(Revision{2, 7}, "z"), Unknown},
	} {
		if got := r.standing(c.g); got != c.want {
			t.Errorf("%s: %v, want %v", c.rule, got, c.want)
		}
	}
	issued := grantAt(Revision{1, 4}, "a")
	issued.Identity.Issued = Revision{1, 4}
	r.add([]Entry{entryAt(8, "a", false)})
	if got := r.standing(issued); got != Revoked {
		t.Errorf("issued before, granted before: %v, want Revoked", got)
	}
	r.reset(Revision{2, 0})
	if got := r.standing(grantAt(Revision{1, 8}, "z")); got != Unknown {
		t.Errorf("after a snapshot of another history: %v, want Unknown", got)
	}
}

// The ring against the whole log, at random.
func TestStandingModel(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var r recent
	r.init()
	r.reset(Revision{1, 0})
	var log []Entry
	for range 400 {
		var batch []Entry
		for range random.IntN(40) {
			e := entryAt(uint64(len(log)+1), fmt.Sprint(random.IntN(200)), random.IntN(4) == 0)
			log, batch = append(log, e), append(batch, e)
		}
		r.add(batch)
		for range 3 {
			g := grantAt(Revision{1, uint64(max(0, len(log)-random.IntN(2*maxRecent)))}, fmt.Sprint(random.IntN(200)))
			want := Holds
			for _, e := range log[g.AsOf.Sequence:] {
				if e.Hits(&g.Identity) {
					if want = Revoked; e.Lock {
						want = Locked
					}
				}
			}
			if g.AsOf.Sequence+maxRecent < uint64(len(log)) {
				want = Unknown
			}
			if got := r.standing(g); got != want {
				t.Fatalf("as of %d of %d: %v, want %v", g.AsOf.Sequence, len(log), got, want)
			}
		}
	}
	if len(log) < maxRecent+1000 {
		t.Fatalf("a log of %d never overflows the ring", len(log))
	}
}

// A token is refused by the node alone once it has surely expired, by the
// authority's clock and not its own.
func TestAuthoritysClock(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	id, err := token.NewID(now, strings.NewReader("0123456789"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		offset  time.Duration
		at      time.Time
		expired bool
	}{
		{0, now, false},
		{0, now.Add(clockSlack), false},
		{0, now.Add(clockSlack + 1), true},
		{time.Hour, now.Add(-time.Hour + clockSlack), false}, // the authority is an hour ahead of us
		{time.Hour, now.Add(-time.Hour + clockSlack + 1), true},
		{-time.Hour, now.Add(time.Hour), false},
		{-time.Hour, now.Add(time.Hour + clockSlack + 1), true},
	} {
		client := &Client{}
		client.told.Store(&reading{now.Add(c.offset), now})
		if got := client.Expired(id, c.at); got != c.expired {
			t.Errorf("offset %v, %v from expiry: expired is %v", c.offset, c.at.Sub(now), got)
		}
		if got, want := client.AuthorityTime(c.at), c.at.Add(c.offset); !got.Equal(want) {
			t.Errorf("offset %v: %v is %v there, want %v", c.offset, c.at, got, want)
		}
	}
}
