package storagetest

import (
	"time"

	"github.com/gatehouse-ws/gatehouse/storage"
)

var sweepCases = []testCase{
	{"what expired before now less keep is forgotten, to the millisecond", func(f *fixture) {
		at := func(d time.Duration) *storage.Token {
			return f.issue(func(t *storage.Token) { t.ID = f.id(f.now.Add(d)) })
		}
		old := []*storage.Token{at(-5 * time.Minute), at(-time.Minute - time.Second), at(-time.Minute - time.Millisecond)}
		kept := []*storage.Token{at(-time.Minute), at(-time.Second), at(time.Minute)}
		f.pause()
		f.equal("swept", f.sweep(f.now, time.Minute), storage.Swept{Tokens: 3})
		f.pause()
		for _, t := range old {
			if f.lookup(t.ID) != nil {
				f.Fatalf("%x is still found", t.ID)
			}
			f.equal("status", f.status(t), storage.TokenStatus{})
		}
		for _, t := range kept {
			if f.lookup(t.ID) == nil {
				f.Fatalf("%x is gone", t.ID)
			}
		}
		f.equal("listed", f.listTokens(storage.TokenQuery{Limit: 9}), []storage.TokenID{kept[0].ID, kept[1].ID, kept[2].ID})
		f.equal("tokens", f.Stats().Tokens, 3)
		n, _, err := f.Count(f.ctx, storage.Selector{Tenant: "acme"}, f.now.Add(-time.Hour))
		f.ok(err)
		f.equal("counted", n, 3)
		f.equal("swept again", f.sweep(f.now, time.Minute), storage.Swept{})
		f.equal("swept later", f.sweep(f.now.Add(time.Minute), time.Minute), storage.Swept{Tokens: 2})
		f.pause()
		f.equal("tokens", f.Stats().Tokens, 1)
	}},
	{"a used token does not revive when it is forgotten", func(f *fixture) {
		t := f.issue()
		first := f.session()
		f.ok(f.redeemAs(t, first).Err)
		f.end(first.ID)
		for _, d := range []time.Duration{61, 90, 121, 3600} {
			f.sweep(f.now.Add(d*time.Second), 0)
			f.pause()
			f.is(f.redeem(t).Err, storage.ErrExpired)
			f.is(f.redeemAs(t, first).Err, storage.ErrExpired)
			f.is(f.insert(f.token(func(n *storage.Token) { n.ID = t.ID })), storage.ErrExpired)
		}
	}},
	{"a clock that was a year ahead once does no lasting harm", func(f *fixture) {
		t := f.issue()
		f.equal("swept", f.sweep(f.now.AddDate(1, 0, 0), time.Minute), storage.Swept{Tokens: 1})
		f.pause()
		f.is(f.insert(f.token(func(n *storage.Token) { n.ID = t.ID })), storage.ErrExpired)
		f.is(f.redeem(t).Err, storage.ErrExpired)
		later := f.issue(func(n *storage.Token) { n.ID = f.id(t.ID.Expiry().Add(time.Minute)) })
		f.is(f.redeem(later).Err, nil)
	}},
	{"live sessions are forgotten after their end, and not before", func(f *fixture) {
		until := func(d time.Duration) *storage.Session {
			t := f.issue(func(t *storage.Token) { t.ID = f.id(f.now.Add(time.Hour)) })
			return f.redeem(t, func(s *storage.Session) { s.ExpiresAt = f.now.Add(d) }).Session
		}
		over, edge, live := until(-time.Millisecond), until(0), until(time.Minute)
		f.pause()
		f.equal("swept", f.sweep(f.now, 0), storage.Swept{Sessions: 1})
		f.pause()
		if f.live(over.ID) != nil || f.live(edge.ID) == nil || f.live(live.ID) == nil {
			f.Fatal("the wrong sessions are live")
		}
		f.equal("live", f.Stats().Sessions, 2)
	}},
	{"a session outlives its token", func(f *fixture) {
		t := f.issue()
		s := f.redeem(t).Session
		f.equal("swept", f.sweep(f.now.Add(time.Hour), 0), storage.Swept{Tokens: 1})
		f.pause()
		if f.live(s.ID) == nil {
			f.Fatal("the session has ended with its token")
		}
		f.equal("swept", f.sweep(f.now.Add(13*time.Hour), 0), storage.Swept{Sessions: 1})
	}},
	{"the log is forgotten from its beginning, up to what must be kept", func(f *fixture) {
		keep := func(d time.Duration) storage.Entry {
			return f.append(storage.Entry{Kind: storage.Revoke, Selector: storage.Selector{Tenant: "acme"}, KeepUntil: f.now.Add(d)})
		}
		keep(-time.Hour)
		keep(0)
		third := keep(time.Minute)
		fourth := keep(-time.Hour) // after one that must be kept
		f.pause()
		f.equal("swept", f.sweep(f.now, 0), storage.Swept{Entries: 2})
		f.pause()
		got, err := f.Entries(f.ctx, storage.Revision{}, 9)
		f.ok(err)
		f.equal("entries", got, []storage.Entry{third, fourth})
		f.equal("swept", f.sweep(f.now.Add(time.Minute), 0), storage.Swept{Entries: 2})
		f.pause()
		f.equal("head", f.head(), fourth.Revision) // revisions go on
		f.equal("next", f.revoke(storage.Selector{Tenant: "acme"}).Revision.Sequence, 5)
		f.equal("entries", f.Stats().Entries, 1)
	}},
	{"a forgotten entry hits nothing, an older lock stands on", func(f *fixture) {
		t := f.issue(func(t *storage.Token) { t.ID = f.id(f.now.Add(time.Hour)) })
		f.append(storage.Entry{Kind: storage.Revoke, Selector: storage.Selector{Token: t.ID}, KeepUntil: f.now})
		l := f.append(storage.Entry{Kind: storage.SetLock, Lock: storage.LockID(f.draw()), Selector: storage.Selector{Tenant: "acme"}, KeepUntil: f.now})
		f.is(f.redeem(t).Err, storage.ErrRevoked)
		f.equal("swept", f.sweep(f.now, 0), storage.Swept{Entries: 2})
		f.pause()
		f.is(f.redeem(t).Err, storage.ErrLocked)
		f.is(f.insert(f.token()), storage.ErrLocked)
		f.lift(l.Lock)
		f.is(f.redeem(t).Err, nil)
	}},
	{"of two entries with one selector the younger still hits when the older is forgotten", func(f *fixture) {
		f.append(storage.Entry{Kind: storage.Revoke, Selector: storage.Selector{Tenant: "acme"}, KeepUntil: f.now})
		t := f.issue()
		f.append(storage.Entry{Kind: storage.Revoke, Selector: storage.Selector{Tenant: "acme"}, KeepUntil: f.now.Add(time.Hour)})
		f.equal("swept", f.sweep(f.now, 0), storage.Swept{Entries: 1})
		f.pause()
		f.is(f.redeem(t).Err, storage.ErrRevoked)
	}},
	{"a forgotten request id is free", func(f *fixture) {
		e := storage.Entry{Kind: storage.Revoke, Selector: storage.Selector{Tenant: "acme"}, RequestID: "one", KeepUntil: f.now}
		f.append(e)
		f.sweep(f.now, 0)
		f.requested("one", storage.Revision{})
		f.pause()
		f.requested("one", storage.Revision{})
		e.Reason = "other"
		f.equal("revision", f.append(e).Revision.Sequence, 2)
	}},
	{"many of everything are forgotten", func(f *fixture) {
		const n = 1500
		tokens := make([]*storage.Token, n)
		for i := range tokens {
			tokens[i] = f.token(func(t *storage.Token) { t.ID = f.id(f.now.Add(time.Duration(i) * 100 * time.Millisecond)) })
		}
		_, err := f.Insert(f.ctx, tokens)
		f.ok(err)
		batch := make([]storage.Redemption, n)
		for i := range batch {
			batch[i] = storage.Redemption{Token: tokens[i], Session: f.session(func(s *storage.Session) { s.ExpiresAt = f.now.Add(time.Hour) })}
		}
		for i, r := range f.redeemAll(batch...) {
			if r.Err != nil {
				f.Fatalf("redemption %d: %v", i, r.Err)
			}
		}
		f.pause()
		f.equal("half", f.sweep(f.now.Add(n/2*100*time.Millisecond), 0), storage.Swept{Tokens: n / 2})
		f.pause()
		f.equal("all", f.sweep(f.now.Add(2*time.Hour), 0), storage.Swept{Tokens: n / 2, Sessions: n})
		f.pause()
		st := f.Stats()
		f.equal("left", []int{st.Tokens, st.Sessions}, []int{0, 0})
		for _, b := range batch[:10] {
			f.is(f.redeemAs(b.Token, b.Session).Err, storage.ErrExpired)
		}
	}},
}
