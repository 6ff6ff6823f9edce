package storagetest

import (
	"net/netip"
	"reflect"
	"sync"
	"time"

	"github.com/gatehouse-ws/gatehouse/storage"
)

var redeemCases = []testCase{
	{"a grant is the session asked for, with what is the token's and the head as of its commit", func(f *fixture) {
		f.revoke(storage.Selector{Tenant: "elsewhere"})
		t := f.issue()
		e := f.revoke(storage.Selector{Tenant: "elsewhere"})
		s := f.session()
		r := f.redeemAs(t, s)
		f.ok(r.Err)
		want := *s
		want.Token, want.TokenIP, want.IssuedRevision, want.AsOf = t.ID, t.ClientIP, t.IssuedRevision, e.Revision
		want.Tenant, want.Subject, want.Audience, want.Issuer = t.Tenant, t.Subject, t.Audience, t.Issuer
		if r.Retried || !reflect.DeepEqual(normalSession(r.Session), want) {
			f.Fatalf("granted\n%+v, want\n%+v", r.Session, want)
		}
		if s.AsOf != (storage.Revision{}) || s.Tenant != "" {
			f.Fatal("the session asked for was written to")
		}
		f.pause()
		if got := f.live(s.ID); got == nil || !reflect.DeepEqual(normalSession(got), want) {
			f.Fatalf("stored\n%+v, want\n%+v", got, want)
		}
	}},
	{"an entry that hits a session hits what would renew it, but by a newer token", func(f *fixture) {
		old, older := f.session(), f.issue()
		f.ok(f.redeemAs(f.issue(), old).Err)
		renew := func(t *storage.Token) error {
			return f.redeemAll(storage.Redemption{Token: t, Session: f.session(), Renews: old.ID})[0].Err
		}
		f.revoke(storage.Selector{Session: old.ID})
		f.is(renew(older), storage.ErrRevoked)
		f.pause()
		f.is(renew(older), storage.ErrRevoked)
		f.ok(renew(f.issue()))
		f.ok(f.redeem(older).Err) // for a session of its own
	}},
	{"a token opens max_uses sessions and no more", func(f *fixture) {
		for _, uses := range []uint32{0, 1, 3} {
			t := f.issue(func(t *storage.Token) { t.MaxUses = uses })
			for range uses {
				f.is(f.redeem(t).Err, nil)
				f.pause()
			}
			f.is(f.redeem(t).Err, storage.ErrUsed)
			f.equal("uses", f.status(t).Uses, uses)
		}
	}},
	{"a use is used up when its session has ended", func(f *fixture) {
		t := f.issue()
		f.end(f.redeem(t).Session.ID)
		f.pause()
		f.is(f.redeem(t).Err, storage.ErrUsed)
	}},
	{"within a batch the earlier redemption is decided first", func(f *fixture) {
		t, other := f.issue(), f.issue()
		r := f.redeemAll(
			storage.Redemption{Token: t, Session: f.session()},
			storage.Redemption{Token: t, Session: f.session()},
			storage.Redemption{Token: other, Session: f.session()},
		)
		f.is(r[0].Err, nil)
		f.is(r[1].Err, storage.ErrUsed)
		f.is(r[2].Err, nil)
		f.pause()
		f.equal("uses", f.status(t).Uses, 1)
	}},
	{"of many who redeem a token at once, as many win as may", func(f *fixture) {
		for _, uses := range []uint32{1, 5} {
			t := f.issue(func(t *storage.Token) { t.MaxUses = uses })
			const callers = 48
			var sessions [callers]*storage.Session
			for i := range sessions {
				sessions[i] = f.session()
			}
			var wg sync.WaitGroup
			var won, used [callers]bool
			for i := range callers {
				wg.Go(func() {
					r, err := f.Redeem(f.ctx, []storage.Redemption{{Token: t, Session: sessions[i]}})
					if err != nil {
						f.Error(err)
						return
					}
					won[i], used[i] = r[0].Err == nil, r[0].Err == storage.ErrUsed
				})
			}
			wg.Wait()
			n := 0
			for i := range won {
				if won[i] {
					n++
				} else if !used[i] {
					f.Fatalf("caller %d neither won nor was told that the token is used", i)
				}
			}
			f.equal("winners", n, uses)
			f.pause()
			f.equal("uses", f.status(t).Uses, uses)
		}
	}},
	{"an entry revokes what was issued before it, by every selector", func(f *fixture) {
		for _, c := range append(denials, moreDenials...) {
			hit, missed := f.issue(c.hit), f.issue(c.missed)
			f.revoke(c.selector)
			f.pause()
			f.is(f.redeem(hit).Err, storage.ErrRevoked)
			f.equal("uses", f.status(hit).Uses, 0)
			f.is(f.redeem(missed, elsewhere).Err, nil)
			f.is(f.redeem(f.issue(c.hit)).Err, nil)
		}
	}},
	{"an entry revokes everyone where that is said", func(f *fixture) {
		used := f.issue(func(t *storage.Token) { t.MaxUses = 2 })
		f.is(f.redeem(used).Err, nil)
		other := f.issue(func(t *storage.Token) {
			t.Tenant, t.Subject, t.Issuer, t.ClientIP = "other", "bob", "batch", netip.Addr{}
		})
		e := f.revoke(storage.Selector{AllSubjects: true})
		f.pause()
		for _, t := range []*storage.Token{used, other} {
			f.is(f.redeem(t).Err, storage.ErrRevoked)
			f.equal("revoked by", f.status(t).RevokedBy, e.Revision)
		}
		f.is(f.redeem(f.issue()).Err, nil)
	}},
	{"a revoked token id leaves other tokens alone", func(f *fixture) {
		t, other := f.issue(), f.issue()
		e := f.revoke(storage.Selector{Token: t.ID})
		f.pause()
		f.is(f.redeem(t).Err, storage.ErrRevoked)
		f.is(f.redeem(other).Err, nil)
		f.equal("revoked by", f.status(t).RevokedBy, e.Revision)
	}},
	{"a revoked session id can't be opened, its token can", func(f *fixture) {
		t := f.issue()
		s := f.session()
		f.revoke(storage.Selector{Session: s.ID})
		f.pause()
		f.is(f.redeemAs(t, s).Err, storage.ErrRevoked)
		f.is(f.redeem(t).Err, nil)
	}},
	{"the session's own address counts, for revocations and locks", func(f *fixture) {
		t := f.issue(func(t *storage.Token) { t.MaxUses = 2; t.ClientIP = netip.Addr{} })
		f.revoke(storage.Selector{Prefix: netip.MustParsePrefix("198.51.100.0/24")})
		f.pause()
		f.is(f.redeem(t).Err, storage.ErrRevoked)
		f.is(f.redeem(t, func(s *storage.Session) { s.ClientIP = netip.MustParseAddr("::ffff:198.51.100.1") }).Err, storage.ErrRevoked)
		f.is(f.redeem(t, func(s *storage.Session) { s.ClientIP = netip.MustParseAddr("203.0.113.5") }).Err, nil)
		f.lock(storage.Selector{Prefix: netip.MustParsePrefix("203.0.113.0/24")})
		f.pause()
		later := f.issue(func(t *storage.Token) { t.ClientIP = netip.Addr{} })
		f.is(f.redeem(later, func(s *storage.Session) { s.ClientIP = netip.MustParseAddr("203.0.113.5") }).Err, storage.ErrLocked)
		f.is(f.redeem(later, func(s *storage.Session) { s.ClientIP = netip.MustParseAddr("203.0.114.5") }).Err, nil)
	}},
	{"a lock denies what is younger than it, until it is lifted", func(f *fixture) {
		for _, c := range denials {
			// Issued under another lock's absence: only the lock's standing denies.
			young := f.token(c.hit)
			l := f.lock(c.selector)
			young.IssuedRevision = f.head()
			missed := f.issue(c.missed)
			f.pause()
			f.is(f.redeem(young).Err, storage.ErrLocked)
			f.is(f.redeem(missed, elsewhere).Err, nil)
			f.lift(l.Lock)
			f.pause()
			f.is(f.redeem(young).Err, nil)
		}
	}},
	{"a lock revokes what is older than it, even when it is lifted", func(f *fixture) {
		t := f.issue()
		l := f.lock(storage.Selector{Tenant: "acme", Subject: "ada"})
		f.is(f.redeem(t).Err, storage.ErrRevoked)
		f.lift(l.Lock)
		f.pause()
		f.is(f.redeem(t).Err, storage.ErrRevoked)
		f.is(f.redeem(f.issue()).Err, nil)
	}},
	{"an instance that is not registered gets no session", func(f *fixture) {
		t := f.issue()
		gone := f.register()
		f.ok(f.RemoveInstance(f.ctx, gone, start, "goodbye"))
		f.pause()
		for _, id := range []storage.InstanceID{gone, storage.InstanceID(f.draw()), {}} {
			f.is(f.redeem(t, func(s *storage.Session) { s.Instance = id }).Err, storage.ErrInstanceUnknown)
		}
		f.is(f.redeem(t).Err, nil)
	}},
	{"limits count live sessions of the subject and of the tenant", func(f *fixture) {
		limited := func(subject, tenant uint32, edits ...func(*storage.Token)) storage.Redeemed {
			return f.redeemAll(storage.Redemption{Token: f.issue(edits...), Session: f.session(), SubjectSessions: subject, TenantSessions: tenant})[0]
		}
		bob := func(t *storage.Token) { t.Subject = "bob" }
		first := limited(1, 0)
		f.is(first.Err, nil)
		f.pause()
		f.is(limited(1, 0).Err, storage.ErrSessionLimit)
		f.is(limited(1, 0, func(t *storage.Token) { t.Tenant = "other" }).Err, nil) // another ada
		f.is(limited(1, 0, bob).Err, nil)
		f.is(limited(0, 2, bob).Err, storage.ErrSessionLimit)
		f.is(limited(0, 3, bob).Err, nil)
		f.is(limited(2, 0).Err, nil)
		f.is(limited(0, 0).Err, nil)
		f.end(first.Session.ID)
		f.pause()
		f.is(limited(2, 0).Err, storage.ErrSessionLimit)
		f.is(limited(3, 0).Err, nil)
	}},
	{"limits hold within a batch", func(f *fixture) {
		var batch []storage.Redemption
		for range 5 {
			batch = append(batch, storage.Redemption{Token: f.issue(), Session: f.session(), SubjectSessions: 3})
		}
		got := 0
		for i, r := range f.redeemAll(batch...) {
			if r.Err == nil {
				got++
			} else if f.is(r.Err, storage.ErrSessionLimit); i < 3 {
				f.Fatalf("redemption %d was refused", i)
			}
		}
		f.equal("granted", got, 3)
	}},
	{"a refusal uses nothing up", func(f *fixture) {
		t := f.issue()
		s := f.session()
		f.redeem(f.issue())
		f.is(f.redeemAll(storage.Redemption{Token: t, Session: s, TenantSessions: 1})[0].Err, storage.ErrSessionLimit)
		f.is(f.redeem(t, func(s *storage.Session) { s.Instance = storage.InstanceID{} }).Err, storage.ErrInstanceUnknown)
		f.pause()
		f.equal("status", f.status(t), storage.TokenStatus{})
		if f.live(s.ID) != nil {
			f.Fatal("a refused session is live")
		}
		f.is(f.redeemAs(t, s).Err, nil) // its id is not taken either
	}},
	{"a swept token can't be redeemed by one who still holds it", func(f *fixture) {
		unused, used := f.issue(), f.issue()
		f.redeem(used)
		f.sweep(f.now.Add(2*time.Minute), 0)
		f.pause()
		f.is(f.redeem(unused).Err, storage.ErrExpired)
		f.is(f.redeem(used).Err, storage.ErrExpired)
	}},
	{"of several reasons to refuse, the first of the list is told", func(f *fixture) {
		t := f.issue() // swept
		taken := f.session()
		f.is(f.redeemAs(f.issue(func(t *storage.Token) { t.ID = f.id(f.now.Add(time.Hour)) }), taken).Err, nil)
		f.sweep(f.now.Add(2*time.Minute), 0)

		long := func(t *storage.Token) { t.ID = f.id(f.now.Add(time.Hour)) }
		revoked := f.issue(long)
		used := f.issue(long)
		f.is(f.redeem(used).Err, nil)
		f.revoke(storage.Selector{Token: revoked.ID})
		l := f.lock(storage.Selector{Tenant: "acme"})
		unknown := *taken
		unknown.Instance = storage.InstanceID{}
		young := func(t *storage.Token) *storage.Token { n := *t; n.IssuedRevision = f.head(); return &n }

		redeem := func(t *storage.Token, s *storage.Session) error {
			return f.redeemAll(storage.Redemption{Token: t, Session: s, TenantSessions: 1})[0].Err
		}
		f.is(redeem(t, &unknown), storage.ErrExpired)
		f.is(redeem(revoked, &unknown), storage.ErrInstanceUnknown)
		f.is(redeem(revoked, taken), storage.ErrRevoked)
		f.is(redeem(young(used), taken), storage.ErrLocked)
		f.lift(l.Lock)
		f.is(redeem(young(used), taken), storage.ErrUsed)
		fresh := f.issue(long)
		f.is(redeem(fresh, taken), storage.ErrSessionTaken)
		f.is(redeem(fresh, f.session()), storage.ErrSessionLimit)
	}},
}

// elsewhere gives a session an address that no selector of denials hits.
func elsewhere(s *storage.Session) { s.ClientIP = netip.MustParseAddr("2001:db9::1") }

// moreDenials are selectors that no lock of the standing kind uses.
var moreDenials = []struct {
	selector    storage.Selector
	hit, missed func(*storage.Token)
}{
	// The first field that is set counts.
	{storage.Selector{Tenant: "acme", Issuer: "nobody"}, func(*storage.Token) {}, func(t *storage.Token) { t.Tenant = "other"; t.Issuer = "nobody" }},
	{storage.Selector{Prefix: netip.MustParsePrefix("192.0.2.0/24"), Issuer: "nobody"}, func(*storage.Token) {}, func(t *storage.Token) { t.ClientIP = netip.Addr{}; t.Issuer = "nobody" }},
}
