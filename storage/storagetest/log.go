package storagetest

import (
	"net/netip"
	"reflect"
	"time"

	"github.com/gatehouse-ws/gatehouse/storage"
)

var logCases = []testCase{
	{"entries have revisions of one epoch, in order without gaps", func(f *fixture) {
		head, moved := f.Head()
		if head.Epoch == 0 || head.Sequence != 0 {
			f.Fatalf("head of a new store: %+v", head)
		}
		for i := range 5 {
			select {
			case <-moved:
				f.Fatal("the head has moved though nothing was appended")
			default:
			}
			e := f.revoke(storage.Selector{Tenant: "acme"})
			f.equal("revision", e.Revision, storage.Revision{Epoch: head.Epoch, Sequence: uint64(i + 1)})
			select {
			case <-moved:
			case <-time.After(10 * time.Second):
				f.Fatal("the head has moved, but its channel is open")
			}
			f.pause()
			var now storage.Revision
			now, moved = f.Head()
			f.equal("head", now, e.Revision)
		}
	}},
	{"a grace below zero is refused", func(f *fixture) {
		e := f.entry(storage.Entry{Kind: storage.Revoke, Selector: storage.Selector{Tenant: "acme"}, Grace: -time.Second, RequestID: "r"})
		if got, err := f.Append(f.ctx, e); err == nil {
			f.Errorf("it was appended as %+v", got)
		}
		f.pause()
		f.equal("head", f.head().Sequence, 0)
		e.Grace = 0
		f.append(e)
	}},
	{"an entry is kept whole", func(f *fixture) {
		l := f.lock(storage.Selector{Tenant: "t", Subject: "s"})
		want := []storage.Entry{
			l,
			f.append(storage.Entry{Kind: storage.Revoke, Selector: storage.Selector{Token: f.id(f.now)}, Reason: "r", Actor: "a", RequestID: "q", Grace: time.Minute}),
			f.append(storage.Entry{Kind: storage.Revoke, Selector: storage.Selector{Session: storage.SessionID(f.draw())}, CommittedAt: f.now.Add(1500 * time.Microsecond)}),
			f.append(storage.Entry{Kind: storage.Revoke, Selector: storage.Selector{Prefix: netip.MustParsePrefix("2001:db8::1/32")}}),
			f.append(storage.Entry{Kind: storage.Revoke, Selector: storage.Selector{Issuer: "i"}}),
			f.lift(l.Lock),
		}
		f.equal("selector of the lifted lock", want[5].Selector, l.Selector)
		f.pause()
		got, err := f.Entries(f.ctx, storage.Revision{}, 100)
		f.ok(err)
		if !reflect.DeepEqual(got, want) {
			f.Fatalf("got\n%+v, want\n%+v", got, want)
		}
		for _, w := range want {
			e, err := f.Entry(f.ctx, w.Revision)
			f.ok(err)
			if !reflect.DeepEqual(e, w) {
				f.Fatalf("got\n%+v, want\n%+v", e, w)
			}
		}
	}},
	{"entries are read from a revision on, up to a limit", func(f *fixture) {
		var all []storage.Entry
		for range 10 {
			all = append(all, f.revoke(storage.Selector{Tenant: "acme"}))
		}
		f.pause()
		head := f.head()
		for _, c := range []struct {
			after storage.Revision
			limit int
			want  []storage.Entry
		}{
			{storage.Revision{}, 100, all},
			{storage.Revision{}, 3, all[:3]},
			{storage.Revision{Epoch: head.Epoch, Sequence: 4}, 3, all[4:7]},
			{storage.Revision{Epoch: head.Epoch, Sequence: 9}, 3, all[9:]},
			{head, 3, nil},
			{storage.Revision{Epoch: head.Epoch, Sequence: 99}, 3, nil},
			{storage.Revision{Epoch: head.Epoch + 1, Sequence: 4}, 2, all[:2]}, // another history
			{storage.Revision{Epoch: head.Epoch}, 2, all[:2]},
		} {
			got, err := f.Entries(f.ctx, c.after, c.limit)
			f.ok(err)
			f.equal("entries", got, c.want)
		}
		for _, r := range []storage.Revision{{}, {Epoch: head.Epoch}, {Epoch: head.Epoch, Sequence: 11}, {Epoch: head.Epoch + 1, Sequence: 1}} {
			_, err := f.Entry(f.ctx, r)
			f.is(err, storage.ErrNotFound)
		}
	}},
	{"a request id brings back its entry, and refuses another request", func(f *fixture) {
		lock := storage.LockID(f.draw())
		revoke := storage.Entry{Kind: storage.Revoke, Selector: storage.Selector{Tenant: "acme", Subject: "ada"}, Reason: "r", Actor: "a", RequestID: "one"}
		set := storage.Entry{Kind: storage.SetLock, Lock: lock, Selector: storage.Selector{Issuer: "i"}, Reason: "r", Actor: "a", RequestID: "two"}
		lift := storage.Entry{Kind: storage.LiftLock, Lock: lock, Reason: "r", Actor: "a", RequestID: "three"}
		f.requested("one", storage.Revision{})
		first := []storage.Entry{f.append(revoke), f.append(set), f.append(lift)}
		f.requested("two", first[1].Revision)
		f.pause()
		for i, id := range []string{"one", "two", "three"} {
			f.requested(id, first[i].Revision)
		}
		f.requested("", storage.Revision{})
		for i, again := range []storage.Entry{revoke, set, lift} {
			again.CommittedAt, again.KeepUntil = f.now.Add(time.Hour), f.now.Add(48*time.Hour)
			if again.Kind == storage.SetLock {
				again.Lock = storage.LockID(f.draw()) // drawn anew at each try
			}
			f.equal("entry", f.append(again), first[i])
			for _, edit := range []func(*storage.Entry){
				func(e *storage.Entry) { e.Reason = "other" },
				func(e *storage.Entry) { e.Actor = "other" },
				func(e *storage.Entry) { e.Grace = time.Second },
				func(e *storage.Entry) {
					if e.Kind == storage.LiftLock {
						e.Lock = storage.LockID(f.draw())
					} else {
						e.Selector = storage.Selector{Tenant: "other"}
					}
				},
				func(e *storage.Entry) {
					e.Kind = storage.SetLock
					if again.Kind == storage.SetLock {
						e.Kind = storage.Revoke
					}
				},
			} {
				other := again
				edit(&other)
				_, err := f.Append(f.ctx, f.entry(other))
				f.is(err, storage.ErrRequestReused)
			}
		}
		f.equal("head", f.head().Sequence, 3)
		f.equal("entries", f.Stats().Entries, 3)
	}},
	{"locks stand from their commit until they are lifted", func(f *fixture) {
		a := f.lock(storage.Selector{Tenant: "acme", Subject: "ada"})
		b := f.lock(storage.Selector{Tenant: "acme", Subject: "ada"}) // the same, again
		f.pause()
		locks, err := f.Locks(f.ctx)
		f.ok(err)
		want := func(es ...storage.Entry) (ls []storage.Lock) {
			for _, e := range es {
				ls = append(ls, storage.Lock{ID: e.Lock, Selector: e.Selector, Reason: e.Reason, Actor: e.Actor, CommittedAt: e.CommittedAt, Revision: e.Revision})
			}
			return ls
		}
		f.equal("locks", locks, want(a, b))
		f.lift(a.Lock)
		f.pause()
		f.is(f.insert(f.token()), storage.ErrLocked) // b stands
		f.lift(b.Lock)
		f.pause()
		f.is(f.insert(f.token()), nil)
		locks, err = f.Locks(f.ctx)
		f.ok(err)
		f.equal("locks", locks, want())
		f.equal("count", f.Stats().Locks, 0)
		f.equal("head", f.head().Sequence, 4)
	}},
	{"a lock id stands once; one that does not stand can't be lifted", func(f *fixture) {
		l := f.lock(storage.Selector{Tenant: "acme"})
		f.pause()
		e := f.entry(storage.Entry{Kind: storage.SetLock, Lock: l.Lock, Selector: storage.Selector{Tenant: "other"}})
		_, err := f.Append(f.ctx, e)
		f.is(err, storage.ErrExists)
		lift := f.entry(storage.Entry{Kind: storage.LiftLock, Lock: storage.LockID(f.draw())})
		_, err = f.Append(f.ctx, lift)
		f.is(err, storage.ErrNotFound)
		f.lift(l.Lock)
		f.pause()
		lift.Lock = l.Lock
		_, err = f.Append(f.ctx, lift)
		f.is(err, storage.ErrNotFound)
		f.equal("head", f.head().Sequence, 2)
		_, err = f.Append(f.ctx, e) // its id is free again
		f.ok(err)
	}},
	{"an entry without kind or selector is refused", func(f *fixture) {
		for _, e := range []storage.Entry{
			{Selector: storage.Selector{Tenant: "acme"}},
			{Kind: 99, Selector: storage.Selector{Tenant: "acme"}},
			{Kind: storage.Revoke},
			{Kind: storage.SetLock, Lock: storage.LockID(f.draw())},
		} {
			if _, err := f.Append(f.ctx, f.entry(e)); err == nil {
				f.Fatalf("%+v was appended", e)
			}
		}
		f.equal("head", f.head().Sequence, 0)
	}},
	{"a count tells what an entry would hit now", func(f *fixture) {
		for i := range 20 {
			t := f.issue(func(t *storage.Token) {
				if i%2 == 0 {
					t.Subject = "bob"
				}
				if i >= 15 {
					t.ID = f.id(f.now) // expired
				}
			})
			if i < 4 {
				f.ok(f.redeem(t).Err)
			}
		}
		odd := f.issue(func(t *storage.Token) { t.Tenant, t.Issuer, t.ClientIP = "other", "batch", netip.Addr{} })
		s := f.redeem(odd).Session
		f.pause()
		for _, c := range []struct {
			s                storage.Selector
			tokens, sessions int
		}{
			{storage.Selector{Tenant: "acme"}, 15, 4},
			{storage.Selector{Tenant: "acme", Subject: "bob"}, 8, 2},
			{storage.Selector{Tenant: "other", Subject: "bob"}, 0, 0},
			{storage.Selector{Issuer: "batch"}, 1, 1},
			{storage.Selector{Token: odd.ID}, 1, 1},
			{storage.Selector{Session: s.ID}, 0, 1},
			{storage.Selector{Prefix: netip.MustParsePrefix("192.0.2.0/24")}, 15, 4},
			{storage.Selector{Prefix: netip.MustParsePrefix("198.51.100.0/24")}, 0, 5}, // their own address
			{storage.Selector{AllSubjects: true}, 16, 5},
			{storage.Selector{}, 0, 0},
		} {
			tokens, sessions, err := f.Count(f.ctx, c.s, f.now)
			f.ok(err)
			f.equal("count", []int{tokens, sessions}, []int{c.tokens, c.sessions})
		}
		// What was revoked already would not be hit again; its session has not ended yet.
		e := f.append(storage.Entry{Kind: storage.Revoke, Selector: storage.Selector{Tenant: "acme", Subject: "bob"}})
		for _, c := range []struct {
			s                storage.Selector
			tokens, sessions int
		}{
			{e.Selector, 0, 2},
			{storage.Selector{Tenant: "acme"}, 7, 4},
			{storage.Selector{AllSubjects: true}, 8, 5},
		} {
			tokens, sessions, err := f.Count(f.ctx, c.s, f.now)
			f.ok(err)
			f.equal("count after a revocation", []int{tokens, sessions}, []int{c.tokens, c.sessions})
		}
		// Sessions outlive their tokens, and are counted all the same.
		f.sweep(f.now.Add(2*time.Hour), 0)
		f.pause()
		for _, sel := range []storage.Selector{{Token: odd.ID}, {Session: s.ID}, {Issuer: "batch"}} {
			tokens, sessions, err := f.Count(f.ctx, sel, f.now)
			f.ok(err)
			f.equal("count of what outlived its token", []int{tokens, sessions}, []int{0, 1})
		}
	}},
}
