package storagetest

import (
	"fmt"
	"slices"
	"time"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// opened redeems a token of ada's as a session that begins so long after start, with
// a bound of so many for her, by whom edits change that.
func (f *fixture) opened(after time.Duration, bound uint32, edits ...func(*storage.Redemption)) storage.Redeemed {
	f.Helper()
	s := f.session()
	s.StartedAt = f.now.Add(after)
	r := storage.Redemption{Token: f.issue(), Session: s, SubjectSessions: bound, CloseOldest: true, KeepReplaced: time.Minute}
	for _, edit := range edits {
		edit(&r)
	}
	return f.redeemAll(r)[0]
}

// replaced are the ids of sessions that have ended for another.
func replaced(r storage.Redeemed) (out []storage.SessionID) {
	for _, x := range r.Replaced {
		out = append(out, x.Key.ID)
	}
	return out
}

var oldestCases = []testCase{
	{"at its bound a subject's oldest session ends for a new one, with an entry", func(f *fixture) {
		var all []*storage.Session
		for i := range 3 {
			all = append(all, f.opened(time.Duration(i)*time.Second, 3).Session)
		}
		f.pause()
		r := f.opened(3*time.Second, 3)
		f.ok(r.Err)
		want := storage.Entry{
			Revision: storage.Revision{Epoch: r.Session.AsOf.Epoch, Sequence: 1}, Kind: storage.Replace,
			Selector: storage.Selector{Session: all[0].ID}, CommittedAt: r.Session.StartedAt, KeepUntil: r.Session.StartedAt.Add(time.Minute),
		}
		f.equal("replaced", r.Replaced, []storage.Replaced{{Entry: want, Key: storage.SessionKey{ExpiresAt: all[0].ExpiresAt, ID: all[0].ID}, Token: all[0].Token}})
		f.equal("as of", r.Session.AsOf.Sequence, 0)
		f.pause()
		e, err := f.Entry(f.ctx, want.Revision)
		f.ok(err)
		f.equal("entry", e, want)
		f.equal("head", f.head(), want.Revision)
		f.equal("live", []bool{f.live(all[0].ID) != nil, f.live(all[1].ID) != nil, f.live(all[2].ID) != nil, f.live(r.Session.ID) != nil}, []bool{false, true, true, true})
		f.equal("counts", []int{f.Stats().Sessions, f.Stats().Entries}, []int{3, 1})
	}},
	{"a retry ends nobody, and one of a session that was replaced has ended", func(f *fixture) {
		t, s := f.issue(), f.session()
		r := storage.Redemption{Token: t, Session: s, SubjectSessions: 1, CloseOldest: true}
		f.ok(f.redeemAll(r)[0].Err)
		again := f.redeemAll(r)[0]
		f.equal("again", []any{again.Retried, len(again.Replaced)}, []any{true, 0})
		f.equal("replaced", replaced(f.opened(time.Second, 1)), []storage.SessionID{s.ID})
		f.is(f.redeemAll(r)[0].Err, storage.ErrSessionEnded)
		f.pause()
		f.is(f.redeemAll(r)[0].Err, storage.ErrSessionEnded)
		f.equal("ended once", f.end(s.ID), 0)
	}},
	{"the order is that of the grants, also of those that are left after a restart", func(f *fixture) {
		var ids []storage.SessionID
		for i := range 8 {
			r := f.opened(time.Duration(i)*time.Second, 0, func(r *storage.Redemption) {
				r.Session.ExpiresAt = f.now.Add(time.Duration(20-i) * time.Hour) // so that keys are in another order
			})
			ids = append(ids, r.Session.ID)
		}
		f.end(ids[0], ids[3], ids[7])
		ids = slices.Delete(slices.Delete(slices.Delete(ids, 7, 8), 3, 4), 0, 1)
		for len(ids) > 0 {
			f.pause()
			r := f.opened(time.Minute-time.Duration(len(ids))*time.Second, 5)
			f.equal("replaced", replaced(r), ids[:1])
			ids = ids[1:]
		}
	}},
	{"a bound that was lowered ends as many as it takes, but for the one that is renewed", func(f *fixture) {
		var ids []storage.SessionID
		for i := range 5 {
			ids = append(ids, f.opened(time.Duration(i)*time.Second, 0).Session.ID)
		}
		r := f.opened(9*time.Second, 3, func(r *storage.Redemption) { r.Renews = ids[1] })
		f.equal("replaced", replaced(r), []storage.SessionID{ids[0], ids[2]})
		f.pause()
		f.equal("live", []any{f.live(ids[1]) != nil, f.live(ids[4]) != nil}, []any{true, true})
	}},
	{"a session that has ended makes no room for one that would renew it", func(f *fixture) {
		old := f.opened(time.Second, 1).Session.ID
		f.equal("replaced", replaced(f.opened(2*time.Second, 1)), []storage.SessionID{old})
		second := f.opened(3*time.Second, 2)
		f.equal("replaced by a third", len(replaced(second)), 0)
		r := f.opened(4*time.Second, 2, func(r *storage.Redemption) { r.Renews = old })
		f.equal("replaced by the renewal", len(replaced(r)), 1)
		f.pause()
		f.equal("live", f.Stats().Sessions, 2)
	}},
	{"at most 100 end at once", func(f *fixture) {
		for i := range 103 {
			f.opened(time.Duration(i)*time.Second, 0)
		}
		f.equal("replaced", len(f.opened(time.Hour, 1).Replaced), 100)
		f.equal("replaced then", len(f.opened(2*time.Hour, 1).Replaced), 4)
		f.pause()
		f.equal("live", f.Stats().Sessions, 1)
	}},
	{"at most 1000 end in one commit, and one for each redemption beyond", func(f *fixture) {
		const users, each, all = 13, 101, 1000
		batch := func(n int, bound uint32) (out []storage.Redemption) {
			tokens := f.issueAll(n, func(i int, t *storage.Token) { t.Subject = fmt.Sprint("user ", i%users) })
			for i, t := range tokens {
				s := f.session()
				s.StartedAt = f.now.Add(time.Duration(i/users) * time.Second)
				out = append(out, storage.Redemption{Token: t, Session: s, SubjectSessions: bound, CloseOldest: true})
			}
			return out
		}
		for _, r := range f.redeemAll(batch(users*each, 0)...) {
			f.ok(r.Err)
		}
		ends := func() (out []int) {
			for _, r := range f.redeemAll(batch(users, 1)...) {
				f.ok(r.Err)
				out = append(out, len(r.Replaced))
			}
			return out
		}
		f.equal("replaced", ends(), []int{100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 1, 1, 1})
		f.equal("head", f.head().Sequence, all+3)
		f.equal("replaced then", ends(), []int{2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 100, 100, 100})
		f.equal("replaced at last", ends(), []int{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2})
		f.pause()
		f.equal("live", f.Stats().Sessions, users)
		got, err := f.Entries(f.ctx, storage.Revision{}, users*(each+3))
		f.ok(err)
		f.equal("entries", len(got), users*(each+2))
	}},
	{"nobody ends for a session that is refused", func(f *fixture) {
		first := f.opened(0, 1)
		other := func(r *storage.Redemption) { r.TenantSessions = 1 }
		bob := f.issue(func(t *storage.Token) { t.Subject = "bob" })
		f.ok(f.redeem(bob).Err)
		f.is(f.opened(time.Second, 1, other).Err, storage.ErrSessionLimit) // bob's is one too many with hers
		f.is(f.opened(time.Second, 1, func(r *storage.Redemption) { r.CloseOldest = false }).Err, storage.ErrSessionLimit)
		f.pause()
		f.equal("live", []any{f.live(first.Session.ID) != nil, f.head().Sequence}, []any{true, 0})
		f.ok(f.opened(time.Second, 1, func(r *storage.Redemption) { r.TenantSessions = 2 }).Err) // hers makes room for hers
	}},
	{"within a batch the last ones are left", func(f *fixture) {
		var batch []storage.Redemption
		for i := range 4 {
			s := f.session()
			s.StartedAt = f.now.Add(time.Duration(i))
			batch = append(batch, storage.Redemption{Token: f.issue(), Session: s, SubjectSessions: 2, CloseOldest: true})
		}
		got := f.redeemAll(batch...)
		for i, r := range got {
			f.ok(r.Err)
			f.equal("replaced", len(r.Replaced), []int{0, 0, 1, 1}[i])
			f.equal("as of", r.Session.AsOf.Sequence, 0) // below what ends the first of them
		}
		f.pause()
		f.equal("live", []any{f.live(batch[0].Session.ID) == nil, f.live(batch[1].Session.ID) == nil, f.Stats().Sessions}, []any{true, true, 2})
	}},
	{"its entry denies nothing", func(f *fixture) {
		t := f.issue(func(t *storage.Token) { t.MaxUses = 3 })
		s := f.session()
		f.ok(f.redeemAll(storage.Redemption{Token: t, Session: s})[0].Err)
		f.opened(time.Second, 1)
		f.equal("status", f.status(t).RevokedBy, storage.Revision{})
		f.ok(f.redeem(t).Err)
	}},
	{"its entry is dropped in its time, whatever is kept before it", func(f *fixture) {
		kept := f.append(storage.Entry{Kind: storage.Revoke, Selector: storage.Selector{Tenant: "elsewhere"}, KeepUntil: f.now.Add(time.Hour)})
		for i := range 3 {
			f.opened(time.Duration(i)*time.Second, 1)
		}
		last := f.append(storage.Entry{Kind: storage.Revoke, Selector: storage.Selector{Tenant: "elsewhere"}, KeepUntil: f.now.Add(time.Hour)})
		f.equal("swept too early", f.sweep(f.now.Add(time.Minute), time.Hour), storage.Swept{})
		f.pause()
		f.equal("swept", f.sweep(f.now.Add(time.Minute+time.Second), time.Hour), storage.Swept{Entries: 1})
		f.equal("swept", f.sweep(f.now.Add(time.Minute+2*time.Second), time.Hour), storage.Swept{Entries: 1})
		f.pause()
		got, err := f.Entries(f.ctx, storage.Revision{}, 100)
		f.ok(err)
		f.equal("left", got, []storage.Entry{kept, last})
		f.equal("entries", f.Stats().Entries, 2)
		f.equal("next", f.revoke(storage.Selector{Tenant: "elsewhere"}).Revision.Sequence, 5)
	}},
}
