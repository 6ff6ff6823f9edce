package boltstore

import (
	"context"
	"errors"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// Groups form by themselves, on one processor too. There a committer that
// commits what is queued and no more lets each caller wait for a sync of its
// own: those that the last commit has woken have not run yet.
func TestGroupsOnOneProcessor(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	s := open(t, filepath.Join(t.TempDir(), "gatehouse.db"), Options{})
	defer check(t, s)
	const callers, calls = 512, 20
	before := s.Stats()
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := range calls {
				if err := insert(t, s, c*calls+i); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	after := s.Stats()
	groups, grouped := after.Groups-before.Groups, after.Grouped-before.Grouped
	if grouped != callers*calls {
		t.Fatalf("%d calls were counted, want %d", grouped, callers*calls)
	}
	if mean := float64(grouped) / float64(groups); mean < 100 {
		t.Fatalf("%.1f calls to a commit, want at least 100", mean)
	}
}

// What is appended to the log takes along who waits already, and waits itself for
// nobody who has not run yet.
func TestUrgentCallsAreNotGathered(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	const tries = 40
	late := map[bool]int{} // calls of their groups that came after them
	for i := range 2 * tries {
		urgent := i < tries
		s := &Store{queue: make(chan *call, 2), opts: Options{GroupItems: 10}}
		g := newGroup(s)
		s.queue <- &call{items: 1, urgent: urgent}
		go func() { s.queue <- &call{items: 1} }()
		s.gather(g, &call{items: 1})
		late[urgent] += len(g.calls) - 2
	}
	if late[true] > tries/4 || late[false] < tries/2 { // the scheduler has its own mind
		t.Errorf("in %d tries each, %d calls were gathered after an urgent one, %d after others", tries, late[true], late[false])
	}
}

// held returns a store whose committer is held within a commit, and what lets
// it go.
func held(t *testing.T, opts Options) (*Store, func()) {
	g := &gate{}
	opts.commit = g.commit
	s := open(t, filepath.Join(t.TempDir(), "gatehouse.db"), opts)
	return s, g.hold(s)
}

// hold holds the committer of s within a commit, and returns what lets it go.
func (g *gate) hold(s *Store) func() {
	arrived, release := make(chan struct{}), make(chan struct{})
	g.set(func(tx *bbolt.Tx) error {
		g.set(nil)
		close(arrived)
		<-release
		return tx.Commit()
	})
	go func() { _ = s.PutEdgeKeys(context.Background(), nil) }()
	<-arrived
	return func() { close(release) }
}

// A group is bounded, however many calls wait.
func TestGroupIsBounded(t *testing.T) {
	opts := small
	opts.GroupItems = 10
	s, release := held(t, opts)
	var wg sync.WaitGroup
	const calls = 100
	for i := range calls {
		wg.Go(func() {
			if err := insert(t, s, 3*i, 3*i+1, 3*i+2); err != nil {
				t.Error(err)
			}
		})
	}
	for len(s.queue) < calls {
		time.Sleep(time.Millisecond)
	}
	before := s.groups.Load()
	release()
	wg.Wait()
	// Each group ends with the call that fills it: here the fourth.
	if n := s.groups.Load() - before; n < calls/4 || n > calls/4+2 {
		t.Fatalf("%d groups for %d calls of 3 items, want %d of at most 12 items", n, calls, calls/4)
	}
	check(t, s)
}

// A caller whose context ends is let go, while it waits for its commit or for
// a place in the queue; what was told as not done is not done later.
func TestAbandonedCalls(t *testing.T) {
	s, release := held(t, small)
	ctx, cancel := context.WithCancel(t.Context())
	queued := make(chan error)
	go func() {
		_, err := s.Insert(ctx, []*storage.Token{testToken(1)})
		queued <- err
	}()
	for len(s.queue) < 1 {
		time.Sleep(time.Millisecond)
	}
	var wg sync.WaitGroup
	for i := range queueCalls - 1 {
		wg.Go(func() {
			if err := insert(t, s, 10+i); err != nil {
				t.Error(err)
			}
		})
	}
	for len(s.queue) < queueCalls {
		time.Sleep(time.Millisecond)
	}
	late, cancelLate := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancelLate()
	if _, err := s.Insert(late, []*storage.Token{testToken(2)}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("with the queue full: %v, want %v", err, context.DeadlineExceeded)
	}
	cancel()
	if err := <-queued; !errors.Is(err, context.Canceled) {
		t.Fatalf("abandoned in the queue: %v, want %v", err, context.Canceled)
	}
	release()
	wg.Wait()
	found, err := s.Lookup(t.Context(), []storage.TokenID{testID(1), testID(2)})
	must(t, err)
	for i := range found {
		if found[i] != nil {
			t.Errorf("token %d was stored after its caller was let go", i+1)
		}
	}
	check(t, s)
}

// Close waits for what is queued, and answers it.
func TestCloseCommitsWhatIsQueued(t *testing.T) {
	s, release := held(t, small)
	errs := make(chan error, 20)
	for i := range cap(errs) {
		go func() { errs <- insert(t, s, i) }()
	}
	for len(s.queue) < cap(errs) {
		time.Sleep(time.Millisecond)
	}
	closed := make(chan error)
	go func() { closed <- s.Close() }()
	for !s.closed.Load() {
		time.Sleep(time.Millisecond)
	}
	release()
	for range cap(errs) {
		must(t, <-errs)
	}
	must(t, <-closed)
	s = open(t, s.path, small)
	if n := s.Stats().Tokens; n != cap(errs) {
		t.Errorf("%d tokens, want %d", n, cap(errs))
	}
	check(t, s)
}

// What refuses and changes nothing costs no commit.
func TestRefusalsCostNoCommit(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "gatehouse.db"), small)
	must(t, insert(t, s, 1))
	before := s.groups.Load()
	if err := redeem(t, s, 1, 1); err != storage.ErrInstanceUnknown {
		t.Fatal(err)
	}
	if err := insert(t, s, 1); err != storage.ErrExists {
		t.Fatal(err)
	}
	if n := s.groups.Load() - before; n != 0 {
		t.Errorf("%d commits, want 0", n)
	}
	check(t, s)
}
