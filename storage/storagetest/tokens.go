package storagetest

import (
	"net/netip"
	"reflect"
	"time"

	"github.com/gatehouse-ws/gatehouse/storage"
)

var tokenCases = []testCase{
	{"a stored token is found, whole", func(f *fixture) {
		want := f.token()
		f.ok(f.insert(want))
		bare := &storage.Token{ID: f.id(f.now.Add(time.Hour))}
		f.ok(f.insert(bare))
		f.pause()
		for _, w := range []*storage.Token{want, bare} {
			got := f.lookup(w.ID)
			if got == nil {
				f.Fatal("token not found")
			}
			if !reflect.DeepEqual(normal(got), normal(w)) {
				f.Fatalf("found\n%+v, stored\n%+v", got, w)
			}
		}
	}},
	{"times are kept to the millisecond, addresses without their zone", func(f *fixture) {
		t := f.issue(func(t *storage.Token) {
			t.IssuedAt = f.now.Add(1234567 * time.Nanosecond)
			t.ClientIP = netip.MustParseAddr("fe80::1%eth0")
		})
		f.equal("issued at", t.IssuedAt, f.now.Add(time.Millisecond))
		f.equal("client IP", t.ClientIP, netip.MustParseAddr("fe80::1"))
	}},
	{"an unknown token is nil in its place", func(f *fixture) {
		a, b := f.issue(), f.issue()
		f.pause()
		got, err := f.Lookup(f.ctx, []storage.TokenID{f.id(f.now), b.ID, f.id(f.now.Add(time.Minute)), a.ID, b.ID})
		f.ok(err)
		if got[0] != nil || got[2] != nil {
			f.Fatal("found a token that was never stored")
		}
		f.equal("ids", []storage.TokenID{got[1].ID, got[3].ID, got[4].ID}, []storage.TokenID{b.ID, a.ID, b.ID})
	}},
	{"empty batches are answered", func(f *fixture) {
		if r, err := f.Insert(f.ctx, nil); err != nil || len(r) != 0 {
			f.Fatal(r, err)
		}
		if r, err := f.Lookup(f.ctx, nil); err != nil || len(r) != 0 {
			f.Fatal(r, err)
		}
		if r, err := f.Redeem(f.ctx, nil); err != nil || len(r) != 0 {
			f.Fatal(r, err)
		}
		if n, err := f.EndSessions(f.ctx, nil); err != nil || n != 0 {
			f.Fatal(n, err)
		}
	}},
	{"issued_revision is the head at the token's commit", func(f *fixture) {
		first := f.token()
		f.ok(f.insert(first))
		f.equal("of the first token", first.IssuedRevision, f.head())
		e := f.revoke(storage.Selector{Tenant: "elsewhere"})
		r, err := f.Insert(f.ctx, []*storage.Token{f.token(), f.token()})
		f.ok(err)
		for _, r := range r {
			f.equal("in the result", r.IssuedRevision, e.Revision)
		}
		second := f.issue()
		f.pause()
		f.equal("of the second token", f.lookup(second.ID).IssuedRevision, e.Revision)
	}},
	{"an id that is stored is ErrExists, also within a batch, and changes nothing", func(f *fixture) {
		t := f.issue()
		f.pause()
		again := f.token(func(n *storage.Token) { n.ID, n.Subject = t.ID, "mallory" })
		f.is(f.insert(again), storage.ErrExists)
		twice := f.token()
		r, err := f.Insert(f.ctx, []*storage.Token{twice, f.token(func(n *storage.Token) { n.ID, n.Subject = twice.ID, "mallory" }), f.token()})
		f.ok(err)
		f.is(r[0].Err, nil)
		f.is(r[1].Err, storage.ErrExists)
		f.is(r[2].Err, nil)
		f.pause()
		f.equal("subjects", []string{f.lookup(t.ID).Subject, f.lookup(twice.ID).Subject}, []string{"ada", "ada"})
		f.equal("tokens", f.Stats().Tokens, 3)
	}},
	{"an id that could have been swept is ErrExpired, whatever the clock says later", func(f *fixture) {
		f.issue(func(t *storage.Token) { t.ID = f.id(f.now.Add(-time.Minute - time.Second)) })
		f.sweep(f.now, time.Minute)
		f.sweep(f.now.Add(-time.Hour), time.Minute)
		f.pause()
		edge := f.now.Add(-time.Minute)
		f.is(f.insert(f.token(func(t *storage.Token) { t.ID = f.id(edge.Add(-time.Millisecond)) })), storage.ErrExpired)
		f.is(f.insert(f.token(func(t *storage.Token) { t.ID = f.id(edge) })), nil)
	}},
	{"a standing lock refuses what it denies", func(f *fixture) {
		for _, c := range denials {
			l := f.lock(c.selector)
			f.pause()
			f.is(f.insert(f.token(c.hit)), storage.ErrLocked)
			f.is(f.insert(f.token(c.missed)), nil)
			f.lift(l.Lock)
			f.pause()
			f.is(f.insert(f.token(c.hit)), nil)
		}
	}},
	{"tokens are listed in the order of their ids, in pages", func(f *fixture) {
		var want []storage.TokenID
		for i := range 50 {
			ms := time.Duration(i*i%50) * 7 * time.Second // some minutes, out of order
			want = append(want, f.issue(func(t *storage.Token) { t.ID = f.id(f.now.Add(ms)) }).ID)
		}
		f.pause()
		sortIDs(want)
		for _, limit := range []int{1, 7, 50, 1000} {
			f.equal("ids", f.listTokens(storage.TokenQuery{Limit: limit}), want)
		}
		page, err := f.ListTokens(f.ctx, storage.TokenQuery{Limit: 7})
		f.ok(err)
		if len(page.Tokens) > 7 {
			f.Fatalf("%d tokens on a page of 7", len(page.Tokens))
		}
		f.equal("after the tenth", f.listTokens(storage.TokenQuery{Limit: 7, After: want[9]}), want[10:])
	}},
	{"listed tokens match every field of the query", func(f *fixture) {
		all := []*storage.Token{
			f.issue(),
			f.issue(func(t *storage.Token) { t.Tenant = "other" }),
			f.issue(func(t *storage.Token) { t.Subject = "bob" }),
			f.issue(func(t *storage.Token) { t.Audience = "orders" }),
			f.issue(func(t *storage.Token) { t.Issuer = "batch" }),
			f.issue(func(t *storage.Token) { t.ClientIP = netip.MustParseAddr("203.0.113.1") }),
			f.issue(func(t *storage.Token) { t.ClientIP = netip.Addr{} }),
			f.issue(func(t *storage.Token) { t.ID = f.id(f.now.Add(time.Hour)) }),
		}
		f.pause()
		pick := func(ns ...int) (ids []storage.TokenID) {
			for _, n := range ns {
				ids = append(ids, all[n].ID)
			}
			sortIDs(ids)
			return ids
		}
		for _, c := range []struct {
			q    storage.TokenQuery
			want []storage.TokenID
		}{
			{storage.TokenQuery{}, pick(0, 1, 2, 3, 4, 5, 6, 7)},
			{storage.TokenQuery{Tenant: "other"}, pick(1)},
			{storage.TokenQuery{Subject: "bob"}, pick(2)},
			{storage.TokenQuery{Tenant: "other", Subject: "bob"}, nil},
			{storage.TokenQuery{Audience: "orders"}, pick(3)},
			{storage.TokenQuery{Issuer: "batch"}, pick(4)},
			{storage.TokenQuery{Prefix: netip.MustParsePrefix("203.0.113.0/24")}, pick(5)},
			{storage.TokenQuery{Prefix: netip.MustParsePrefix("::ffff:203.0.113.0/120")}, pick(5)},
			{storage.TokenQuery{Since: f.now.Add(time.Minute + time.Millisecond)}, pick(7)},
			{storage.TokenQuery{Since: f.now.Add(time.Minute)}, pick(0, 1, 2, 3, 4, 5, 6, 7)},
			{storage.TokenQuery{Since: f.now.Add(time.Minute + time.Nanosecond)}, pick(7)},
			{storage.TokenQuery{Since: f.now.Add(2 * time.Hour)}, nil},
		} {
			c.q.Limit = 3
			f.equal("ids", f.listTokens(c.q), c.want)
		}
	}},
	{"a status tells uses, sessions oldest first, what hits the token, and the lock", func(f *fixture) {
		t := f.issue(func(t *storage.Token) { t.MaxUses = 3 })
		f.equal("of a new token", f.status(t), storage.TokenStatus{})
		var opened []storage.SessionID
		for range 3 {
			opened = append(opened, f.redeem(t).Session.ID)
		}
		f.end(opened[0])
		f.pause()
		f.equal("of a used token", f.status(t), storage.TokenStatus{Uses: 3, Sessions: opened})
		e := f.revoke(storage.Selector{Token: t.ID})
		f.pause()
		f.equal("revoked by", f.status(t).RevokedBy, e.Revision)
		later := f.issue()
		f.equal("of a later token", f.status(later), storage.TokenStatus{})
		l := f.lock(storage.Selector{Tenant: "acme", Subject: "ada"})
		after := f.token()
		after.IssuedRevision = f.head()
		f.pause()
		f.equal("lock", f.status(later).Lock, l.Lock)
		f.equal("a lock revokes too", f.status(later).RevokedBy, l.Revision)
		f.equal("but only what is older", f.status(after), storage.TokenStatus{Lock: l.Lock})
	}},
	{"a token of another epoch is revoked", func(f *fixture) {
		t := f.issue()
		old := *t
		old.IssuedRevision.Epoch++
		f.pause()
		f.is(f.redeem(&old).Err, storage.ErrRevoked)
		if f.status(&old).RevokedBy == (storage.Revision{}) {
			f.Fatal("status does not tell")
		}
		f.is(f.redeem(t).Err, nil)
	}},
}

// denials are selectors with tokens that they hit and miss.
var denials = []struct {
	selector    storage.Selector
	hit, missed func(*storage.Token)
}{
	{storage.Selector{Tenant: "acme", Subject: "ada"}, func(*storage.Token) {}, func(t *storage.Token) { t.Tenant = "other" }},
	{storage.Selector{Tenant: "acme", Subject: "ada"}, func(*storage.Token) {}, func(t *storage.Token) { t.Subject = "bob" }},
	{storage.Selector{Tenant: "acme"}, func(*storage.Token) {}, func(t *storage.Token) { t.Tenant = "acm" }},
	{storage.Selector{Issuer: "login"}, func(*storage.Token) {}, func(t *storage.Token) { t.Issuer = "batch" }},
	{storage.Selector{Prefix: netip.MustParsePrefix("192.0.2.0/24")}, func(*storage.Token) {}, func(t *storage.Token) { t.ClientIP = netip.MustParseAddr("192.0.3.7") }},
	{storage.Selector{Prefix: netip.MustParsePrefix("192.0.2.99/24")}, func(*storage.Token) {}, func(t *storage.Token) { t.ClientIP = netip.Addr{} }},
	{storage.Selector{Prefix: netip.MustParsePrefix("192.0.2.7/32")}, func(t *storage.Token) { t.ClientIP = netip.MustParseAddr("::ffff:192.0.2.7") }, func(t *storage.Token) { t.ClientIP = netip.MustParseAddr("192.0.2.8") }},
	{storage.Selector{Prefix: netip.MustParsePrefix("::ffff:192.0.2.0/120")}, func(*storage.Token) {}, func(t *storage.Token) { t.ClientIP = netip.MustParseAddr("2001:db8::1") }},
	{storage.Selector{Prefix: netip.MustParsePrefix("2001:db8::/32")}, func(t *storage.Token) { t.ClientIP = netip.MustParseAddr("2001:db8::1%eth0") }, func(*storage.Token) {}},
	{storage.Selector{Prefix: netip.MustParsePrefix("0.0.0.0/0")}, func(*storage.Token) {}, func(t *storage.Token) { t.ClientIP = netip.MustParseAddr("2001:db8::1") }},
}

// listTokens reads all pages.
func (f *fixture) listTokens(q storage.TokenQuery) (ids []storage.TokenID) {
	f.Helper()
	for range 1000 {
		page, err := f.ListTokens(f.ctx, q)
		f.ok(err)
		if len(page.Tokens) > q.Limit {
			f.Fatalf("%d tokens on a page of %d", len(page.Tokens), q.Limit)
		}
		for _, t := range page.Tokens {
			ids = append(ids, t.ID)
		}
		if !page.More {
			return ids
		}
		q.After = page.Next
	}
	f.Fatal("the pages have no end")
	return nil
}
