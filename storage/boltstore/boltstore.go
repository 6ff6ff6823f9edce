// Package boltstore keeps Gatehouse's state durably in one bbolt file.
//
// All writes go through one committer, which decides them in order, writes the
// group in one transaction and only then answers. Tokens lie in slots of about
// 25,000, by the minute in which they expire or, where they live for long, by more
// of those, so that a slot can be forgotten whole and quickly. Redemptions are keyed
// by until when they are kept. Sessions are keyed by their end. What decisions
// need is also held in memory (storage/internal/ledger) and rebuilt at the
// start. The file never shrinks by itself; freed pages are used again.
package boltstore

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/internal/ledger"
)

// Options tune a store; the zero value is right for most.
type Options struct {
	// MapBytes is address space for the file to grow into; growing beyond it
	// stops all readers for a moment. 0 is 8 GiB. It costs no memory.
	MapBytes int
	// AheadBytes of the file are written in advance while the store is idle: a
	// commit into space that was never written takes twice as long. 0 is 16 MiB.
	AheadBytes int64
	// GroupItems bounds one commit: it takes no more calls once it has so many
	// tokens, redemptions or other items. 0 is 4096.
	GroupItems int
	// Observe, where it is set, is told of every commit how long it held other
	// writes up, its sync included, and whether it forgot what was over. The
	// committer calls it, and waits.
	Observe func(took time.Duration, sweep bool)

	// For tests.
	slotTokens int                         // 0 is 25,000
	useRecords int                         // that one step of a sweep drops; 0 is 1,000
	counts     uint64                      // 0 is storage.MaxCounts
	departed   uint64                      // 0 is storage.MaxDeparted
	freshBytes int                         // 0 is 64 MiB
	purgeMin   int                         // 0 is 50,000
	commit     func(tx *bbolt.Tx) error    // in place of tx.Commit
	grow       func(*os.File, int64) error // in place of room.writeZeros
	noSync     bool
}

const (
	defaultMapBytes   = min(8<<30, math.MaxInt>>1+1) // half of a small address space
	defaultAheadBytes = 16 << 20
	defaultGroupItems = 4096
	defaultSlotTokens = 25_000
	defaultUseRecords = 1000
	defaultPurgeMin   = 50_000
	defaultFreshBytes = 64 << 20 // about 150,000 usual records

	// queueCalls bounds the calls that wait for the committer. More block.
	queueCalls = 1024
	// lockTimeout bounds the wait for another process that has the file open.
	lockTimeout = time.Second
)

func (o Options) withDefaults() Options {
	if o.MapBytes == 0 {
		o.MapBytes = defaultMapBytes
	}
	if o.AheadBytes == 0 {
		o.AheadBytes = defaultAheadBytes
	}
	if o.GroupItems == 0 {
		o.GroupItems = defaultGroupItems
	}
	if o.slotTokens == 0 {
		o.slotTokens = defaultSlotTokens
	}
	if o.useRecords == 0 {
		o.useRecords = defaultUseRecords
	}
	if o.freshBytes == 0 {
		o.freshBytes = defaultFreshBytes
	}
	if o.purgeMin == 0 {
		o.purgeMin = defaultPurgeMin
	}
	if o.counts == 0 {
		o.counts = storage.MaxCounts
	}
	if o.departed == 0 {
		o.departed = storage.MaxDeparted
	}
	if o.commit == nil {
		o.commit = (*bbolt.Tx).Commit
	}
	return o
}

// Store is a storage.Store in a bbolt file.
type Store struct {
	// Set at construction.
	path     string
	opts     Options
	pageSize int
	epoch    uint64
	system   storage.SystemID
	ledger   *ledger.Ledger
	slots    *slots
	fresh    *fresh

	// Calls on their way to the committer. closing is locked by Close alone.
	closing sync.RWMutex
	closed  atomic.Bool
	queue   chan *call
	done    chan struct{} // closed when the committer has ended

	// Where readers stand: in the file as it is now, and settled is closed when the
	// commit under way has ended, well or not.
	moving  sync.RWMutex // file stays while a reader begins: bbolt holds up who begins on a file that is being closed
	file    atomic.Pointer[boltFile]
	settled atomic.Pointer[chan struct{}]

	failed  chan struct{} // closed when the store can write no more
	failure atomic.Pointer[error]

	groups, grouped atomic.Uint64
	commits         *commits
	used            atomic.Int64 // bytes of the file, by bbolt; for Backup

	sweeping sync.Mutex     // one Sweep at a time
	copying  sync.RWMutex   // held by who needs the file to stay
	leaving  sync.WaitGroup // files that were replaced and whose readers have not ended

	room   room        // owned by the committer
	wedged atomic.Bool // a transaction could not be ended: bbolt would wait for it
}

var _ storage.Store = (*Store)(nil)

// Open opens the store at path, and creates it if there is no such file. It
// returns ErrCorrupt, ErrNewer or ErrInUse, with the path, of a file that it
// cannot use; it never changes such a file.
func Open(path string, opts Options) (*Store, error) {
	s := &Store{
		path:   resolved(path),
		opts:   opts.withDefaults(),
		queue:  make(chan *call, queueCalls),
		done:   make(chan struct{}),
		failed: make(chan struct{}),
	}
	s.fresh = newFresh(s.opts.freshBytes)
	s.commits = newCommits()
	if err := s.open(); err != nil {
		return nil, err
	}
	settled := make(chan struct{})
	close(settled)
	s.settled.Store(&settled)
	go s.run()
	return s, nil
}

// Close waits for writes under way and closes the store.
func (s *Store) Close() error {
	s.closing.Lock()
	if s.closed.Swap(true) {
		s.closing.Unlock()
		return nil
	}
	close(s.queue)
	s.closing.Unlock()
	<-s.done
	s.leaving.Wait()
	s.room.close()
	if s.wedged.Load() {
		return s.room.file.Close()
	}
	return s.db().Close()
}

// db is the file as it is now.
func (s *Store) db() *boltFile { return s.file.Load() }

// Failed is closed when the store can write no more; Err then says why.
func (s *Store) Failed() <-chan struct{} { return s.failed }

// Err is why the store can write no more, or nil.
func (s *Store) Err() error {
	if err := s.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// fail ends all writing. The committer alone calls it.
func (s *Store) fail(why error) {
	if s.failure.Load() != nil {
		return
	}
	err := fmt.Errorf("%w: %w", storage.ErrStopped, why)
	s.failure.Store(&err)
	close(s.failed)
}

// begin starts a read transaction that sees committed groups only. bbolt shows
// a group as soon as its last page is written, which is before the sync that
// can still fail; a reader that comes then waits for the outcome.
func (s *Store) begin(ctx context.Context) (*bbolt.Tx, error) {
	for {
		tx, settled, err := s.tryBegin()
		if tx != nil || err != nil {
			return tx, err
		}
		if err := s.await(ctx, settled); err != nil {
			return nil, err
		}
	}
}

// tryBegin starts a read transaction, or returns the channel to wait on.
func (s *Store) tryBegin() (*bbolt.Tx, <-chan struct{}, error) {
	settled := *s.settled.Load() // before Begin, lest its closing is missed
	s.moving.RLock()
	db := s.db()
	tx, err := db.Begin(false)
	s.moving.RUnlock()
	switch {
	case errors.Is(err, bolterrors.ErrDatabaseNotOpen):
		return nil, nil, storage.ErrClosed
	case err != nil:
		return nil, nil, fmt.Errorf("begin to read %s: %w", s.path, err)
	case uint64(tx.ID()) <= db.visible.Load():
		return tx, nil, nil
	}
	if err := tx.Rollback(); err != nil {
		return nil, nil, fmt.Errorf("end reading %s: %w", s.path, err)
	}
	return nil, settled, nil
}

func (s *Store) await(ctx context.Context, settled <-chan struct{}) error {
	select {
	case <-settled:
	case <-ctx.Done():
		return ctx.Err()
	}
	// A group whose sync failed stays visible in the file: no later read
	// can tell it from what was committed.
	return s.Err()
}

// ready reports why a reader that needs no transaction is not answered.
func (s *Store) ready(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.closed.Load() {
		return storage.ErrClosed
	}
	return nil
}

// view runs fn in a read transaction that sees committed groups only.
func (s *Store) view(ctx context.Context, fn func(tx *bbolt.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	tx, err := s.begin(ctx)
	if err != nil {
		return err
	}
	return s.read(tx, fn)
}

// read runs fn in tx and ends it.
func (s *Store) read(tx *bbolt.Tx, fn func(tx *bbolt.Tx) error) (err error) {
	defer func() { _ = tx.Rollback() }() // of a reader: nothing to lose
	defer s.recoverDamage(&err)
	defer catchFaults()()
	return fn(tx)
}

// recoverDamage turns what bbolt does on a damaged page, a panic or a fault in
// the mapped file, into an error.
func (s *Store) recoverDamage(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("%w: %s: %v", storage.ErrCorrupt, s.path, r)
	}
}

// catchFaults makes a fault in the mapped file a panic of this goroutine, until
// the function it returns is called.
func catchFaults() (restore func()) {
	was := debug.SetPanicOnFault(true)
	return func() { debug.SetPanicOnFault(was) }
}
