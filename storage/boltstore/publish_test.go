package boltstore

import (
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-ws/gatehouse/storage"
)

var testNode = storage.InstanceID{1}

// testID is the id of the nth token; all expire in a few minutes.
func testID(n int) storage.TokenID {
	id := firstID(benchStart.Add(time.Duration(n%300) * time.Second).UnixMilli())
	id[13], id[14], id[15] = byte(n>>16), byte(n>>8), byte(n)
	return id
}

func testToken(n int) *storage.Token {
	return &storage.Token{ID: testID(n), Tenant: "acme", Subject: "ada", Issuer: "login", MaxUses: 1, UserAgent: benchBrowser, IssuedAt: benchStart}
}

func testSession(n int) *storage.Session {
	return &storage.Session{ID: storage.SessionID{byte(n >> 8), byte(n), 1}, Instance: testNode, Node: "node-1", StartedAt: benchStart, ExpiresAt: benchStart.Add(time.Hour)}
}

func insert(t testing.TB, s *Store, ns ...int) error {
	t.Helper()
	var tokens []*storage.Token
	for _, n := range ns {
		tokens = append(tokens, testToken(n))
	}
	r, err := s.Insert(context.Background(), tokens)
	if err != nil {
		return err
	}
	for i := range r {
		if r[i].Err != nil {
			return r[i].Err
		}
	}
	return nil
}

func redeem(t testing.TB, s *Store, token, session int) error {
	t.Helper()
	found, err := s.Lookup(context.Background(), []storage.TokenID{testID(token)})
	if err != nil {
		return err
	}
	if found[0] == nil {
		return storage.ErrNotFound
	}
	r, err := s.Redeem(context.Background(), []storage.Redemption{{Token: found[0], Session: testSession(session)}})
	if err != nil {
		return err
	}
	return r[0].Err
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// gate lets a test hold, fail or watch commits.
type gate struct {
	mu   sync.Mutex
	hook func(tx *bbolt.Tx) error
}

func (g *gate) commit(tx *bbolt.Tx) error {
	g.mu.Lock()
	hook := g.hook
	g.mu.Unlock()
	if hook == nil {
		return tx.Commit()
	}
	return hook(tx)
}

func (g *gate) set(hook func(tx *bbolt.Tx) error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hook = hook
}

// gated opens a store with a registered node whose commits pass a gate.
func gated(t *testing.T) (*Store, *gate) {
	g := &gate{}
	opts := small
	opts.commit = g.commit
	s := open(t, filepath.Join(t.TempDir(), "gatehouse.db"), opts)
	must(t, s.PutInstance(t.Context(), &storage.Instance{ID: testNode, Node: "node-1"}))
	return s, g
}

// view is all that readers are told, as far as the tests change it.
type reading struct {
	found    bool // token 2
	uses     uint32
	live     bool // session 1
	listed   int  // tokens
	sessions int  // listed
	entries  int
	locks    int
	nodes    int
	head     uint64
	tokens   int // by Stats
}

// readers are what a reader can ask, each by itself.
func readers(s *Store, into *reading) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"Lookup": func(ctx context.Context) error {
			ts, err := s.Lookup(ctx, []storage.TokenID{testID(2)})
			into.found = err == nil && ts[0] != nil
			return err
		},
		"Statuses": func(ctx context.Context) error {
			st, err := s.Statuses(ctx, []*storage.Token{testToken(1)})
			if err == nil {
				into.uses = st[0].Uses
			}
			return err
		},
		"Sessions": func(ctx context.Context) error {
			ss, err := s.Sessions(ctx, []storage.SessionID{testSession(1).ID})
			into.live = err == nil && ss[0] != nil
			return err
		},
		"ListTokens": func(ctx context.Context) error {
			p, err := s.ListTokens(ctx, storage.TokenQuery{Limit: 100})
			into.listed = len(p.Tokens)
			return err
		},
		"ListSessions": func(ctx context.Context) error {
			p, err := s.ListSessions(ctx, storage.SessionQuery{Limit: 100})
			into.sessions = len(p.Sessions)
			return err
		},
		"Entries": func(ctx context.Context) error {
			es, err := s.Entries(ctx, storage.Revision{}, 100)
			into.entries = len(es)
			return err
		},
		"Locks": func(ctx context.Context) error {
			ls, err := s.Locks(ctx)
			into.locks = len(ls)
			return err
		},
		"Instances": func(ctx context.Context) error {
			is, err := s.Instances(ctx)
			into.nodes = len(is)
			return err
		},
		"Head": func(context.Context) error {
			r, _ := s.Head()
			into.head = r.Sequence
			return nil
		},
		"Stats": func(context.Context) error { into.tokens = s.Stats().Tokens; return nil },
	}
}

// change does one of everything in one group, which the gate holds: it returns
// when the committer has come to the gate, and wait waits for the answers.
func change(t *testing.T, s *Store, g *gate, hook func(tx *bbolt.Tx) error) (wait func() []error) {
	t.Helper()
	arrived := make(chan struct{})
	first := true
	hold, released := make(chan struct{}), make(chan struct{})
	g.set(func(tx *bbolt.Tx) error {
		if first { // a group that keeps the committer busy while the calls queue up
			first = false
			close(arrived)
			<-hold
			return tx.Commit()
		}
		close(released)
		return hook(tx)
	})
	go func() { _ = s.PutEdgeKeys(context.Background(), nil) }()
	<-arrived
	calls := []func() error{
		func() error { return insert(t, s, 2, 3) },
		func() error {
			r, err := s.Redeem(context.Background(), []storage.Redemption{{Token: testToken1(s), Session: testSession(1)}})
			if err == nil {
				err = r[0].Err
			}
			return err
		},
		func() error {
			_, err := s.Append(context.Background(), storage.Entry{Kind: storage.SetLock, Lock: storage.LockID{1}, Selector: storage.Selector{Tenant: "other"}, KeepUntil: benchStart})
			return err
		},
		func() error {
			return s.PutInstance(context.Background(), &storage.Instance{ID: storage.InstanceID{2}, Node: "node-2"})
		},
	}
	errs := make([]error, len(calls))
	var wg sync.WaitGroup
	for i, call := range calls {
		wg.Go(func() { errs[i] = call() })
	}
	for len(s.queue) < len(calls) {
		time.Sleep(time.Millisecond)
	}
	close(hold)
	<-released
	return func() []error { wg.Wait(); return errs }
}

// testToken1 is token 1 as the store has it.
func testToken1(s *Store) *storage.Token {
	x := testToken(1)
	x.IssuedRevision = storage.Revision{Epoch: s.epoch}
	return x
}

// A group whose commit has not begun to write is not seen, and nobody waits for
// it; one whose last page is written, but whose sync may still fail, is not
// seen either: who must read the file waits.
func TestReadersDoNotSeeAGroupThatIsHeld(t *testing.T) {
	for _, written := range []bool{false, true} {
		name := map[bool]string{false: "before it writes", true: "before its last sync has returned"}[written]
		t.Run(name, func(t *testing.T) {
			s, g := gated(t)
			must(t, insert(t, s, 1))
			release := make(chan struct{})
			wait := change(t, s, g, func(tx *bbolt.Tx) error {
				if !written {
					<-release
					return tx.Commit()
				}
				err := tx.Commit()
				<-release
				return err
			})
			before := reading{listed: 1, nodes: 1, tokens: 1}
			var got reading
			for name, read := range readers(s, &got) {
				ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
				err := read(ctx)
				cancel()
				fromMemory := name == "Statuses" || name == "Head" || name == "Stats"
				switch {
				case err == nil:
				case written && !fromMemory && errors.Is(err, context.DeadlineExceeded):
					// As told before the group, for what follows.
					switch name {
					case "ListTokens":
						got.listed = 1
					case "Instances":
						got.nodes = 1
					}
				default:
					t.Errorf("%s: %v", name, err)
				}
			}
			if got != before {
				t.Errorf("readers are told %+v, want %+v", got, before)
			}
			// Those who wait are answered with the group.
			var later reading
			var wg sync.WaitGroup
			errs := make(chan error, 20)
			if written {
				for _, read := range readers(s, &later) {
					wg.Go(func() { errs <- read(context.Background()) })
				}
			}
			close(release)
			for _, err := range wait() {
				must(t, err)
			}
			wg.Wait()
			close(errs)
			for err := range errs {
				must(t, err)
			}
			g.set(nil)
			after := reading{found: true, uses: 1, live: true, listed: 3, sessions: 1, entries: 1, locks: 1, nodes: 2, head: 1, tokens: 3}
			for _, read := range readers(s, &later) {
				must(t, read(t.Context()))
			}
			if later != after {
				t.Errorf("readers are told %+v, want %+v", later, after)
			}
			check(t, s)
		})
	}
}

func writeError(errno syscall.Errno) error {
	return &fs.PathError{Op: "write", Path: "gatehouse.db", Err: errno}
}

// A group that finds no space leaves nothing behind, and the store goes on.
func TestFullGroupLeavesNothing(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG} {
		s, g := gated(t)
		must(t, insert(t, s, 1))
		wait := change(t, s, g, func(*bbolt.Tx) error { return writeError(errno) })
		for _, err := range wait() {
			if !errors.Is(err, storage.ErrFull) || !errors.Is(err, errno) {
				t.Fatalf("error %v, want %v", err, storage.ErrFull)
			}
		}
		var got reading
		for _, read := range readers(s, &got) {
			must(t, read(t.Context()))
		}
		if want := (reading{listed: 1, nodes: 1, tokens: 1}); got != want {
			t.Errorf("readers are told %+v, want %+v", got, want)
		}
		if s.Err() != nil {
			t.Fatal(s.Err())
		}
		wait = change(t, s, g, (*bbolt.Tx).Commit) // the same again
		for _, err := range wait() {
			must(t, err)
		}
		check(t, s)
	}
}

// A failed sync, and whatever else is not known to be harmless, stops the store.
func TestFailedCommitStopsTheStore(t *testing.T) {
	for name, c := range map[string]struct {
		hook    func(tx *bbolt.Tx) error
		written bool
		cause   error
	}{
		"the sync of the pages fails":        {func(*bbolt.Tx) error { return syscall.EIO }, false, syscall.EIO},
		"the sync finds no space":            {func(*bbolt.Tx) error { return syscall.ENOSPC }, false, syscall.ENOSPC},
		"the last sync fails":                {func(tx *bbolt.Tx) error { return errors.Join(tx.Commit(), syscall.EIO) }, true, syscall.EIO},
		"no space, but the group is written": {func(tx *bbolt.Tx) error { return errors.Join(tx.Commit(), writeError(syscall.ENOSPC)) }, true, syscall.ENOSPC},
		"another error of a write":           {func(*bbolt.Tx) error { return writeError(syscall.EIO) }, false, syscall.EIO},
		"an unknown error":                   {func(*bbolt.Tx) error { return errors.New("odd") }, false, nil},
		"a panic":                            {func(*bbolt.Tx) error { panic("odd") }, false, storage.ErrCorrupt},
		"a panic after the group is written": {func(tx *bbolt.Tx) error { _ = tx.Commit(); panic("odd") }, true, storage.ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			s, g := gated(t)
			must(t, insert(t, s, 1))
			wait := change(t, s, g, c.hook)
			for _, err := range wait() {
				if !errors.Is(err, storage.ErrStopped) || c.cause != nil && !errors.Is(err, c.cause) {
					t.Fatalf("error %v, want %v because of %v", err, storage.ErrStopped, c.cause)
				}
			}
			select {
			case <-s.Failed():
			default:
				t.Error("Failed is open")
			}
			if !errors.Is(s.Err(), storage.ErrStopped) {
				t.Errorf("Err is %v", s.Err())
			}
			g.set(nil)
			if err := insert(t, s, 9); !errors.Is(err, storage.ErrStopped) {
				t.Errorf("a later write: %v", err)
			}
			if _, err := s.Sweep(t.Context(), benchStart, 0); !errors.Is(err, storage.ErrStopped) {
				t.Errorf("a later sweep: %v", err)
			}
			got := reading{listed: 1, nodes: 1}
			for name, read := range readers(s, &got) {
				err := read(t.Context())
				if err != nil && (!c.written || !errors.Is(err, storage.ErrStopped)) {
					t.Errorf("%s: %v", name, err)
				}
				if err != nil { // as told before
					switch name {
					case "ListTokens":
						got.listed = 1
					case "Instances":
						got.nodes = 1
					}
				}
			}
			if want := (reading{listed: 1, nodes: 1, tokens: 1}); got != want {
				t.Errorf("readers are told %+v, want %+v", got, want)
			}
			must(t, s.Close())

			// The next process finds the group whole or not at all.
			again := open(t, s.path, small)
			got = reading{}
			for _, read := range readers(again, &got) {
				must(t, read(t.Context()))
			}
			want := reading{listed: 1, nodes: 1, tokens: 1}
			if c.written {
				want = reading{found: true, uses: 1, live: true, listed: 3, sessions: 1, entries: 1, locks: 1, nodes: 2, head: 1, tokens: 3}
			}
			if got != want {
				t.Errorf("the next process is told %+v, want %+v", got, want)
			}
			check(t, again)
		})
	}
}

// Readers that race commits of all fates never see what has failed.
func TestReadersNeverSeeWhatFailed(t *testing.T) {
	s, g := gated(t)
	rnd := rand.New(rand.NewPCG(1, 2))
	g.set(func(tx *bbolt.Tx) error {
		if rnd.IntN(3) == 0 {
			time.Sleep(time.Duration(rnd.IntN(300)) * time.Microsecond)
			return writeError(syscall.ENOSPC)
		}
		err := tx.Commit()
		time.Sleep(time.Duration(rnd.IntN(300)) * time.Microsecond) // in the file, not yet told
		return err
	})
	const callers, calls = 4, 60
	var failed, seen sync.Map
	var done atomic.Bool
	var writers, watchers sync.WaitGroup
	for c := range callers {
		writers.Go(func() {
			for i := range calls {
				n := c*calls + i
				if err := insert(t, s, n); errors.Is(err, storage.ErrFull) {
					failed.Store(testID(n), true)
				} else if err != nil {
					t.Error(err)
				} else if found, err := s.Lookup(t.Context(), []storage.TokenID{testID(n)}); err != nil || found[0] == nil {
					t.Errorf("token %d was stored, but is not found: %v", n, err)
				}
			}
		})
	}
	for range 2 {
		watchers.Go(func() {
			for !done.Load() {
				page, err := s.ListTokens(t.Context(), storage.TokenQuery{Limit: 1000})
				if err != nil {
					t.Error(err)
				}
				for _, x := range page.Tokens {
					seen.Store(x.ID, true)
				}
			}
		})
	}
	writers.Wait()
	done.Store(true)
	watchers.Wait()
	n := 0
	failed.Range(func(id, _ any) bool {
		n++
		if _, ok := seen.Load(id); ok {
			t.Errorf("token %x was seen, though storing it has failed", id)
		}
		return true
	})
	if n == 0 || n == callers*calls {
		t.Errorf("%d of %d calls failed: the test tests nothing", n, callers*calls)
	}
	g.set(nil)
	check(t, s)
}
