package storagetest

import (
	"context"
	"sync"
	"time"

	"github.com/gatehouse-ws/gatehouse/storage"
)

var storeCases = []testCase{
	{"a call whose context has ended does nothing", func(f *fixture) {
		t := f.issue()
		ended, cancel := context.WithCancel(f.ctx)
		cancel()
		s := f.session()
		for name, call := range map[string]func() error{
			"Insert":  func() error { _, err := f.Insert(ended, []*storage.Token{f.token()}); return err },
			"Lookup":  func() error { _, err := f.Lookup(ended, []storage.TokenID{t.ID}); return err },
			"Redeem":  func() error { _, err := f.Redeem(ended, []storage.Redemption{{Token: t, Session: s}}); return err },
			"Append":  func() error { _, err := f.Append(ended, f.entry(storage.Entry{Kind: storage.Revoke})); return err },
			"Entries": func() error { _, err := f.Entries(ended, storage.Revision{}, 1); return err },
		} {
			if err := call(); err != context.Canceled {
				f.Errorf("%s: error %v, want %v", name, err, context.Canceled)
			}
		}
		f.pause()
		f.equal("status", f.status(t), storage.TokenStatus{})
		f.equal("tokens", f.Stats().Tokens, 1)
	}},
	{"stats count what is stored, live and standing", func(f *fixture) {
		t := f.issue(func(t *storage.Token) { t.MaxUses = 9 })
		f.issue()
		a, _ := f.redeem(t), f.redeem(t)
		f.end(a.Session.ID)
		l := f.lock(storage.Selector{Tenant: "elsewhere"})
		f.lock(storage.Selector{Tenant: "elsewhere"})
		f.lift(l.Lock)
		f.pause()
		st := f.Stats()
		f.equal("stats", []int{st.Tokens, st.Sessions, st.Entries, st.Locks}, []int{2, 1, 3, 1})
	}},
	{"stats measure every commit", func(f *fixture) {
		before := f.Stats()
		f.redeem(f.issue())
		after := f.Stats()
		var seconds, calls uint64
		for _, n := range after.CommitSeconds.Counts {
			seconds += n
		}
		for _, n := range after.CommitCalls.Counts {
			calls += n
		}
		f.equal("commits", []uint64{seconds, calls}, []uint64{after.Groups, after.Groups})
		f.equal("calls", after.CommitCalls.Sum, float64(after.Grouped))
		f.equal("since before", []uint64{after.Groups - before.Groups, after.Grouped - before.Grouped}, []uint64{2, 2})
		f.equal("queued", after.Queued, 0)
	}},
	{"a store that has not failed says so", func(f *fixture) {
		select {
		case <-f.Failed():
			f.Fatal("Failed is closed")
		default:
		}
		f.is(f.Err(), nil)
	}},
	{"a closed store answers ErrClosed", func(f *fixture) {
		t := f.issue()
		f.ok(f.Close())
		_, err := f.Insert(f.ctx, []*storage.Token{f.token()})
		f.is(err, storage.ErrClosed)
		_, err = f.Lookup(f.ctx, []storage.TokenID{t.ID})
		f.is(err, storage.ErrClosed)
		_, err = f.Statuses(f.ctx, []*storage.Token{t})
		f.is(err, storage.ErrClosed)
		_, err = f.Sessions(f.ctx, []storage.SessionID{{1}})
		f.is(err, storage.ErrClosed)
		_, err = f.Sweep(f.ctx, f.now, 0)
		f.is(err, storage.ErrClosed)
		f.ok(f.Close())
	}},
	{"what was answered before Close is kept, and nothing else is answered", func(f *fixture) {
		var wg sync.WaitGroup
		var mu sync.Mutex
		var kept []storage.TokenID
		tokens := make([][]*storage.Token, 8)
		for i := range tokens {
			for range 200 {
				tokens[i] = append(tokens[i], f.token())
			}
		}
		closing := make(chan struct{})
		for i := range tokens {
			wg.Go(func() {
				for n, t := range tokens[i] {
					if n == 5 && i == 0 {
						close(closing)
					}
					r, err := f.Insert(f.ctx, []*storage.Token{t})
					if err != nil {
						if err != storage.ErrClosed {
							f.Errorf("error %v, want %v", err, storage.ErrClosed)
						}
						return
					}
					if r[0].Err != nil {
						f.Error(r[0].Err)
					}
					mu.Lock()
					kept = append(kept, t.ID)
					mu.Unlock()
				}
			})
		}
		<-closing
		if f.reopen == nil {
			f.ok(f.Close())
			wg.Wait()
			return
		}
		old := f.Store
		f.ok(old.Close())
		wg.Wait()
		f.pause()
		got, err := f.Lookup(f.ctx, kept)
		f.ok(err)
		for i := range got {
			if got[i] == nil {
				f.Fatalf("token %d of %d that were answered is gone", i, len(kept))
			}
		}
	}},
	{"calls of all kinds at once", func(f *fixture) {
		const callers, rounds = 8, 25
		type plan struct {
			tokens   []*storage.Token
			sessions []*storage.Session
		}
		plans := make([]plan, callers)
		for i := range plans {
			for range rounds {
				plans[i].tokens = append(plans[i].tokens, f.token(func(t *storage.Token) { t.ID = f.id(f.now.Add(time.Hour)) }))
				plans[i].sessions = append(plans[i].sessions, f.session())
			}
		}
		var wg sync.WaitGroup
		for i := range callers {
			wg.Go(func() {
				for n, t := range plans[i].tokens {
					if !f.roundTrip(t, plans[i].sessions[n], n%3 == 0) {
						return
					}
				}
			})
		}
		wg.Go(func() {
			for range rounds {
				if _, err := f.Append(f.ctx, f.entry(storage.Entry{Kind: storage.Revoke, Selector: storage.Selector{Tenant: "elsewhere"}})); err != nil {
					f.Error(err)
				}
				if _, err := f.Sweep(f.ctx, f.now, 0); err != nil {
					f.Error(err)
				}
				if _, err := f.ListTokens(f.ctx, storage.TokenQuery{Limit: 10}); err != nil {
					f.Error(err)
				}
				if _, err := f.ListSessions(f.ctx, storage.SessionQuery{Limit: 10}); err != nil {
					f.Error(err)
				}
				f.Stats()
			}
		})
		wg.Wait()
		f.pause()
		ended := callers * (rounds + 2) / 3
		f.equal("live sessions", f.Stats().Sessions, callers*rounds-ended)
		f.equal("tokens", f.Stats().Tokens, callers*rounds)
		f.equal("listed", len(f.listSessions(storage.SessionQuery{Limit: 50})), callers*rounds-ended)
	}},
}

// roundTrip takes one token through its life, next to others.
func (f *fixture) roundTrip(t *storage.Token, s *storage.Session, end bool) bool {
	r, err := f.Insert(f.ctx, []*storage.Token{t})
	if err != nil || r[0].Err != nil {
		f.Error("insert:", r, err)
		return false
	}
	found, err := f.Lookup(f.ctx, []storage.TokenID{t.ID})
	if err != nil || found[0] == nil {
		f.Error("a token is not found after it was stored:", err)
		return false
	}
	got, err := f.Redeem(f.ctx, []storage.Redemption{{Token: found[0], Session: s}})
	if err != nil || got[0].Err != nil {
		f.Error("redeem:", got, err)
		return false
	}
	live, err := f.Sessions(f.ctx, []storage.SessionID{s.ID})
	if err != nil || live[0] == nil {
		f.Error("a session is not live after it was granted:", err)
		return false
	}
	if st, err := f.Statuses(f.ctx, found); err != nil || st[0].Uses != 1 {
		f.Error("status:", st, err)
		return false
	}
	if !end {
		return true
	}
	if n, err := f.EndSessions(f.ctx, []storage.SessionID{s.ID}); err != nil || n != 1 {
		f.Error("end:", n, err)
		return false
	}
	if live, err := f.Sessions(f.ctx, []storage.SessionID{s.ID}); err != nil || live[0] != nil {
		f.Error("a session is live after its end:", err)
		return false
	}
	return true
}
