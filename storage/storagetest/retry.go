package storagetest

import (
	"net/netip"
	"reflect"
	"time"

	"github.com/gatehouse-ws/gatehouse/storage"
)

var retryCases = []testCase{
	{"a retry gets the session that was granted first", func(f *fixture) {
		t := f.issue()
		s := f.session()
		first := f.redeemAs(t, s)
		f.ok(first.Err)
		f.revoke(storage.Selector{Tenant: "elsewhere"}) // as_of stays that of the grant
		f.pause()
		again := *s
		again.StartedAt, again.ExpiresAt = s.StartedAt.Add(time.Second), s.ExpiresAt.Add(time.Hour)
		r := f.redeemAs(t, &again)
		f.ok(r.Err)
		if !r.Retried || !reflect.DeepEqual(normalSession(r.Session), normalSession(first.Session)) {
			f.Fatalf("retried %v, got\n%+v, want\n%+v", r.Retried, r.Session, first.Session)
		}
		f.equal("uses", f.status(t).Uses, 1)
		f.equal("sessions", f.Stats().Sessions, 1)
	}},
	{"a retry within the batch of the first try", func(f *fixture) {
		t := f.issue()
		s := f.session()
		r := f.redeemAll(storage.Redemption{Token: t, Session: s}, storage.Redemption{Token: t, Session: s})
		f.ok(r[0].Err)
		f.ok(r[1].Err)
		if r[0].Retried || !r[1].Retried || !reflect.DeepEqual(r[0].Session, r[1].Session) {
			f.Fatalf("got %+v and %+v", r[0], r[1])
		}
	}},
	{"a retry is bound by no limit", func(f *fixture) {
		t := f.issue()
		s := f.session()
		f.ok(f.redeemAs(t, s).Err)
		r := f.redeemAll(storage.Redemption{Token: t, Session: s, SubjectSessions: 1, TenantSessions: 1})[0]
		f.ok(r.Err)
	}},
	{"the same session id with anything else is taken", func(f *fixture) {
		other := f.register()
		edits := []func(*storage.Session){
			func(s *storage.Session) { s.Instance = other },
			func(s *storage.Session) { s.ClientIP = netip.MustParseAddr("198.51.100.10") },
			func(s *storage.Session) { s.ClientIP = netip.Addr{} },
			func(s *storage.Session) { s.ClientIP = netip.MustParseAddr("::ffff:198.51.100.9") },
			func(s *storage.Session) { s.UserAgent = []byte("curl") },
			func(s *storage.Session) { s.UserAgent = nil },
			func(s *storage.Session) { s.Origin = []byte("https://evil.example") },
			func(s *storage.Session) { s.Certificate = []byte("\xff another, of the same length \x00") },
			func(s *storage.Session) { s.Certificate = nil },
			func(s *storage.Session) { s.UserAgent, s.Origin = nil, append(s.UserAgent, s.Origin...) },
		}
		for _, ended := range []bool{false, true} {
			t := f.issue(func(t *storage.Token) { t.MaxUses = 2 })
			s := f.session()
			f.ok(f.redeemAs(t, s).Err)
			if ended {
				f.end(s.ID)
			}
			f.pause()
			for i, edit := range edits {
				changed := *s
				edit(&changed)
				if err := f.redeemAs(t, &changed).Err; err != storage.ErrSessionTaken {
					f.Fatalf("edit %d: error %v, want %v", i, err, storage.ErrSessionTaken)
				}
			}
			f.is(f.redeemAs(f.issue(), s).Err, storage.ErrSessionTaken) // another token
			f.equal("uses", f.status(t).Uses, 1)
		}
	}},
	{"a retry of a session that has ended is ErrSessionEnded, used token or not", func(f *fixture) {
		for _, uses := range []uint32{1, 2} {
			t := f.issue(func(t *storage.Token) { t.MaxUses = uses })
			s := f.session()
			f.ok(f.redeemAs(t, s).Err)
			f.equal("ended", f.end(s.ID), 1)
			f.pause()
			f.is(f.redeemAs(t, s).Err, storage.ErrSessionEnded)
		}
	}},
	{"a retry gets nothing once the session is revoked", func(f *fixture) {
		for _, sel := range []func(*storage.Token, *storage.Session) storage.Selector{
			func(t *storage.Token, _ *storage.Session) storage.Selector { return storage.Selector{Token: t.ID} },
			func(_ *storage.Token, s *storage.Session) storage.Selector { return storage.Selector{Session: s.ID} },
			func(t *storage.Token, _ *storage.Session) storage.Selector {
				return storage.Selector{Tenant: t.Tenant, Subject: t.Subject}
			},
			func(t *storage.Token, _ *storage.Session) storage.Selector {
				return storage.Selector{Tenant: t.Tenant}
			},
			func(t *storage.Token, _ *storage.Session) storage.Selector {
				return storage.Selector{Issuer: t.Issuer}
			},
			func(*storage.Token, *storage.Session) storage.Selector {
				return storage.Selector{Prefix: netip.MustParsePrefix("198.51.100.0/24")}
			},
			func(*storage.Token, *storage.Session) storage.Selector {
				return storage.Selector{Prefix: netip.MustParsePrefix("192.0.2.0/24")}
			},
		} {
			t := f.issue()
			s := f.session()
			f.ok(f.redeemAs(t, s).Err)
			f.revoke(sel(t, s))
			f.pause()
			f.is(f.redeemAs(t, s).Err, storage.ErrRevoked)
			if f.live(s.ID) == nil {
				f.Fatal("a revocation ended the session by itself: its node does that")
			}
		}
	}},
	{"a retry gets nothing while a lock that is older than the token stands", func(f *fixture) {
		// Such a token was issued elsewhere than under the lock: by its address.
		l := f.lock(storage.Selector{Prefix: netip.MustParsePrefix("198.51.100.0/24")})
		t := f.issue()
		s := f.session(func(s *storage.Session) { s.ClientIP = netip.MustParseAddr("203.0.113.4") })
		f.ok(f.redeemAs(t, s).Err)
		second := f.lock(storage.Selector{Prefix: netip.MustParsePrefix("203.0.113.0/24")})
		f.pause()
		f.is(f.redeemAs(t, s).Err, storage.ErrRevoked)
		young := *t
		young.IssuedRevision = f.head()
		f.is(f.redeemAs(&young, s).Err, storage.ErrLocked)
		f.lift(second.Lock)
		f.lift(l.Lock)
		f.pause()
		if r := f.redeemAs(&young, s); r.Err != nil || !r.Retried {
			f.Fatalf("with the lock lifted: %+v", r)
		}
	}},
	{"a session id is taken while its session is live, even when its token is swept", func(f *fixture) {
		s := f.session()
		f.ok(f.redeemAs(f.issue(), s).Err)
		f.sweep(f.now.Add(2*time.Minute), 0)
		f.pause()
		later := func(t *storage.Token) { t.ID = f.id(f.now.Add(time.Hour)) }
		f.is(f.redeemAs(f.issue(later), s).Err, storage.ErrSessionTaken)
		f.equal("ended", f.end(s.ID), 1)
		f.pause()
		f.is(f.redeemAs(f.issue(later), s).Err, nil) // nobody knows it any more
	}},
	{"a session id is taken while its token is stored, even when it has ended", func(f *fixture) {
		s := f.session()
		t := f.issue()
		f.ok(f.redeemAs(t, s).Err)
		f.end(s.ID)
		f.pause()
		later := func(t *storage.Token) { t.ID = f.id(f.now.Add(time.Hour)) }
		f.is(f.redeemAs(f.issue(later), s).Err, storage.ErrSessionTaken)
		f.sweep(f.now.Add(2*time.Minute), 0)
		f.pause()
		f.is(f.redeemAs(f.issue(later), s).Err, nil)
	}},
}
