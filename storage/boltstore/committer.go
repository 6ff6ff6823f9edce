package boltstore

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// call is one call of a write method on its way through the committer.
type call struct {
	items  int                  // how much it adds to its group
	sweep  bool                 // it frees space: it may use the last of it
	urgent bool                 // its group waits for nobody
	decide func(g *group) error // runs in the committer; its error is the call's alone
	alone  func() error         // in its place: runs between groups, in none

	ctx  context.Context // of who waits, where somebody does: what has ended is not begun
	done chan struct{}   // closed when err and what decide has written may be read
	err  error
}

// do has the committer decide and commit c. When ctx ends first, c is committed only
// if that was under way.
func (s *Store) do(ctx context.Context, c *call) error {
	c.ctx, c.done = ctx, make(chan struct{})
	if err := s.enqueue(ctx, c); err != nil {
		return err
	}
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Store) enqueue(ctx context.Context, c *call) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.closing.RLock()
	defer s.closing.RUnlock()
	if s.closed.Load() {
		return storage.ErrClosed
	}
	select {
	case s.queue <- c:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run is the committer.
func (s *Store) run() {
	defer close(s.done)
	defer catchFaults()()
	g := newGroup(s)
	for {
		c, ok := s.next()
		if !ok {
			return
		}
		for c != nil {
			c = s.serve(g, c)
		}
	}
}

// serve answers c, alone or with what else waits, and returns a call that it met
// and that is to be served next, or nil.
func (s *Store) serve(g *group, c *call) (next *call) {
	if c.alone != nil {
		if c.err = s.Err(); c.err == nil {
			c.err = c.alone()
		}
		close(c.done)
		return nil
	}
	next = s.gather(g, c)
	s.commit(g)
	g.reset()
	return next
}

// next waits for a call. While there is none it makes room ahead.
func (s *Store) next() (*call, bool) {
	for s.Err() == nil && s.room.wanting() {
		select {
		case c, ok := <-s.queue:
			return c, ok
		default:
		}
		if err := s.room.fillAhead(); err != nil {
			s.fail(fmt.Errorf("grow %s: %w", s.path, err))
		}
	}
	c, ok := <-s.queue
	return c, ok
}

// gather makes a group of c and of what else waits, up to a call that goes alone,
// which it returns.
//
// It yields until the queue grows no more. On one processor the callers that
// the last commit has woken have not run yet when their first call arrives
// here: to commit it alone would let each of them wait for a sync of its own.
// A timer is not needed for that, and would cost an idle store its latency.
// With an urgent call it takes what is queued and yields to none: under load each
// time is a turn of all that can run.
func (s *Store) gather(g *group, c *call) (alone *call) {
	g.calls = append(g.calls, c)
	items, urgent := c.items, c.urgent
	for items < s.opts.GroupItems {
		select {
		case c, ok := <-s.queue:
			if !ok {
				return nil // closed; run will find out again
			}
			if c.alone != nil {
				return c
			}
			g.calls = append(g.calls, c)
			items += c.items
			urgent = urgent || c.urgent
			continue
		default:
		}
		if urgent {
			return nil
		}
		runtime.Gosched()
		if len(s.queue) == 0 {
			return nil
		}
	}
	return nil
}

// commit decides the group, commits it and answers its calls.
func (s *Store) commit(g *group) {
	err := s.Err()
	if err == nil {
		err = s.tryCommit(g)
	}
	for _, c := range g.calls {
		if err != nil {
			c.err = err
		}
		close(c.done)
	}
}

// tryCommit returns the error of the whole group, after undoing it: ErrFull, or
// ErrStopped where the store has stopped.
func (s *Store) tryCommit(g *group) (err error) {
	defer func() {
		if r := recover(); r != nil {
			// bbolt or a damaged page: nobody knows what is in memory now.
			s.fail(fmt.Errorf("%w: %s: %v", storage.ErrCorrupt, s.path, r))
			s.ledger.Rollback()
			g.abandon()
			err = s.Err()
		}
	}()
	began := time.Now()
	tx, err := s.db().Begin(true)
	if err != nil {
		s.fail(fmt.Errorf("begin to write %s: %w", s.path, err))
		return s.Err()
	}
	g.begin(tx)
	for _, c := range g.calls {
		s.decide(g, c)
	}
	if !g.dirty() {
		s.ledger.Commit(nil)
		return s.giveUp(g)
	}
	err = g.broken
	if err == nil {
		s.room.used = tx.Size()
		s.used.Store(tx.Size())
		err = s.room.ensure(s.needs(g))
	}
	if err == nil {
		err = g.write()
	}
	if err == nil {
		err = s.commitTx(g)
	}
	if err == nil {
		s.groups.Add(1)
		s.grouped.Add(uint64(len(g.calls)))
		took := time.Since(began)
		s.commits.observe(took, len(g.calls))
		if s.opts.Observe != nil {
			s.opts.Observe(took, g.sweeps())
		}
		return nil
	}
	s.ledger.Rollback()
	return errors.Join(s.classify(g, err), s.giveUp(g))
}

// decide runs one call; what it has done is undone if it fails.
func (s *Store) decide(g *group, c *call) {
	if c.err = c.ctx.Err(); c.err != nil {
		return // it was told so, and may have waited long
	}
	mark, from := s.ledger.Mark(), g.mark()
	if c.err = c.decide(g); c.err != nil {
		s.ledger.RollbackTo(mark)
		g.rollbackTo(from)
	}
}

// commitTx commits the transaction and then shows the group to readers. From
// within bbolt's commit on, the file shows the group to transactions that begin;
// they wait on settled.
func (s *Store) commitTx(g *group) error {
	id := uint64(g.tx.ID())
	settled := make(chan struct{})
	s.settled.Store(&settled)
	g.settled = settled
	if err := s.opts.commit(g.tx); err != nil {
		return err
	}
	s.ledger.Commit(func() { s.db().visible.Store(id) })
	s.fresh.add(g.tokens)
	close(settled)
	g.settled = nil
	return nil
}

// classify tells what the failure of a group means for the store. It goes on
// only where a write found no space and the file does not show the group.
func (s *Store) classify(g *group, err error) error {
	if isFull(err) && !s.shown(g) {
		return fmt.Errorf("%w: %w", storage.ErrFull, err)
	}
	s.fail(fmt.Errorf("commit to %s: %w", s.path, err))
	return s.Err()
}

// shown reports whether the file shows the group's transaction.
func (s *Store) shown(g *group) bool {
	db := s.db()
	tx, err := db.Begin(false)
	if err != nil {
		return true
	}
	id := tx.ID()
	return tx.Rollback() != nil || uint64(id) > db.visible.Load()
}

// giveUp ends the group's transaction where a commit has not.
func (s *Store) giveUp(g *group) error {
	err := g.tx.Rollback()
	if g.settled != nil {
		close(g.settled)
		g.settled = nil
	}
	if err != nil && !errors.Is(err, bolterrors.ErrTxClosed) {
		s.fail(fmt.Errorf("roll back %s: %w", s.path, err))
		return s.Err()
	}
	return nil
}

// needs is how many bytes beyond the used part of the file the group may take:
// none where enough of that part is free.
func (s *Store) needs(g *group) int64 {
	bytes := g.estimate()
	if free := int64(s.db().Stats().FreePageN) * int64(s.pageSize); free >= 2*bytes {
		return 0
	}
	if g.sweeps() {
		return bytes
	}
	return bytes + reserveBytes
}

// sweeps reports whether a call of the group forgets what is over.
func (g *group) sweeps() bool {
	return slices.ContainsFunc(g.calls, func(c *call) bool { return c.sweep })
}

// abandon leaves a transaction behind a panic: rolling it back may panic too.
func (g *group) abandon() {
	defer func() {
		if recover() != nil {
			g.store.wedged.Store(true)
		}
	}()
	if g.settled != nil {
		close(g.settled)
		g.settled = nil
	}
	if g.tx != nil {
		_ = g.tx.Rollback()
	}
}

// commits measures the commits since the start.
type commits struct {
	mu             sync.Mutex // guards what follows
	seconds, calls storage.Distribution
}

func newCommits() *commits {
	return &commits{
		seconds: storage.NewDistribution(storage.CommitBounds.Seconds),
		calls:   storage.NewDistribution(storage.CommitBounds.Calls),
	}
}

func (c *commits) observe(took time.Duration, calls int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seconds.Observe(took.Seconds())
	c.calls.Observe(float64(calls))
}

func (c *commits) read(st *storage.Stats) {
	c.mu.Lock()
	defer c.mu.Unlock()
	st.CommitSeconds, st.CommitCalls = c.seconds.Clone(), c.calls.Clone()
}
