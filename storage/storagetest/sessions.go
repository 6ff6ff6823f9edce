package storagetest

import (
	"net/netip"
	"time"

	"github.com/gatehouse-ws/gatehouse/storage"
)

var sessionCases = []testCase{
	{"sessions are live until they are ended, once", func(f *fixture) {
		a, b := f.redeem(f.issue()).Session, f.redeem(f.issue()).Session
		f.pause()
		got, err := f.Sessions(f.ctx, []storage.SessionID{b.ID, storage.SessionID(f.draw()), a.ID})
		f.ok(err)
		if got[0] == nil || got[1] != nil || got[2] == nil || got[0].ID != b.ID || got[2].ID != a.ID {
			f.Fatalf("got %v", got)
		}
		f.equal("ended", f.end(a.ID, a.ID, storage.SessionID(f.draw())), 1)
		f.pause()
		f.equal("ended again", f.end(a.ID), 0)
		if f.live(a.ID) != nil || f.live(b.ID) == nil {
			f.Fatal("the wrong session is live")
		}
		f.equal("live", f.Stats().Sessions, 1)
	}},
	{"sessions are listed in the order of their end, in pages", func(f *fixture) {
		var want []storage.SessionID
		ends := map[storage.SessionID]time.Time{}
		for i := range 30 {
			s := f.redeem(f.issue(), func(s *storage.Session) {
				s.ExpiresAt = f.now.Add(time.Duration(i*i%10) * time.Minute)
			}).Session
			want = append(want, s.ID)
			ends[s.ID] = s.ExpiresAt
		}
		for i := range want { // few enough for the simplest sort
			for j := i; j > 0; j-- {
				a, b := want[j-1], want[j]
				if ends[a].Before(ends[b]) || ends[a].Equal(ends[b]) && string(a[:]) < string(b[:]) {
					break
				}
				want[j-1], want[j] = b, a
			}
		}
		f.pause()
		for _, limit := range []int{1, 7, 30, 1000} {
			f.equal("ids", f.listSessions(storage.SessionQuery{Limit: limit}), want)
		}
		after := storage.SessionKey{ExpiresAt: ends[want[9]], ID: want[9]}
		f.equal("after the tenth", f.listSessions(storage.SessionQuery{Limit: 4, After: after}), want[10:])
		f.end(want[3], want[20])
		f.pause()
		left := append(append(append([]storage.SessionID{}, want[:3]...), want[4:20]...), want[21:]...)
		f.equal("without the ended", f.listSessions(storage.SessionQuery{Limit: 5}), left)
	}},
	{"listed sessions match every field of the query", func(f *fixture) {
		other := f.register()
		at := 0
		redeem := func(token func(*storage.Token), session func(*storage.Session)) *storage.Session {
			at++
			r := f.redeem(f.issue(token), func(s *storage.Session) { s.ExpiresAt = f.now.Add(time.Duration(at) * time.Hour) }, session)
			f.ok(r.Err)
			return r.Session
		}
		same, as := func(*storage.Token) {}, func(*storage.Session) {}
		all := []*storage.Session{
			redeem(same, as),
			redeem(func(t *storage.Token) { t.Tenant = "other" }, as),
			redeem(func(t *storage.Token) { t.Subject = "bob" }, as),
			redeem(func(t *storage.Token) { t.Issuer = "batch" }, as),
			redeem(same, func(s *storage.Session) { s.Node = "node-2" }),
			redeem(same, func(s *storage.Session) { s.Instance = other }),
			redeem(func(t *storage.Token) { t.ClientIP = netip.MustParseAddr("203.0.113.1") }, as),
			redeem(same, func(s *storage.Session) { s.ClientIP = netip.MustParseAddr("203.0.113.2") }),
		}
		f.pause()
		for _, c := range []struct {
			q    storage.SessionQuery
			want []int
		}{
			{storage.SessionQuery{}, []int{0, 1, 2, 3, 4, 5, 6, 7}},
			{storage.SessionQuery{Tenant: "other"}, []int{1}},
			{storage.SessionQuery{Subject: "bob"}, []int{2}},
			{storage.SessionQuery{Tenant: "other", Subject: "bob"}, nil},
			{storage.SessionQuery{Issuer: "batch"}, []int{3}},
			{storage.SessionQuery{Node: "node-2"}, []int{4}},
			{storage.SessionQuery{Instance: other}, []int{5}},
			{storage.SessionQuery{Prefix: netip.MustParsePrefix("203.0.113.0/24")}, []int{6, 7}},
			{storage.SessionQuery{Token: all[0].Token}, []int{0}},
		} {
			var want []storage.SessionID
			for _, i := range c.want {
				want = append(want, all[i].ID)
			}
			c.q.Limit = 3
			f.equal("ids", f.listSessions(c.q), want)
		}
	}},
	{"a removed instance leaves no session behind", func(f *fixture) {
		other := f.register()
		var its []storage.SessionID
		for range 25 {
			its = append(its, f.redeem(f.issue(), func(s *storage.Session) { s.Instance = other }).Session.ID)
		}
		stays := f.redeem(f.issue()).Session
		f.pause()
		f.ok(f.RemoveInstance(f.ctx, other, start, "goodbye"))
		f.ok(f.RemoveInstance(f.ctx, other, start, "goodbye"))
		f.pause()
		live, err := f.Sessions(f.ctx, its)
		f.ok(err)
		for _, s := range live {
			if s != nil {
				f.Fatal("a session of the removed instance is live")
			}
		}
		if f.live(stays.ID) == nil {
			f.Fatal("another instance's session has ended")
		}
		f.equal("live", f.Stats().Sessions, 1)
		// Ended sessions count for no limit any more.
		r := f.redeemAll(storage.Redemption{Token: f.issue(), Session: f.session(), TenantSessions: 2})[0]
		f.is(r.Err, nil)
	}},
}

// listSessions reads all pages.
func (f *fixture) listSessions(q storage.SessionQuery) (ids []storage.SessionID) {
	f.Helper()
	for range 1000 {
		page, err := f.ListSessions(f.ctx, q)
		f.ok(err)
		if len(page.Sessions) > q.Limit {
			f.Fatalf("%d sessions on a page of %d", len(page.Sessions), q.Limit)
		}
		for _, s := range page.Sessions {
			ids = append(ids, s.ID)
		}
		if !page.More {
			return ids
		}
		q.After = page.Next
	}
	f.Fatal("the pages have no end")
	return nil
}
