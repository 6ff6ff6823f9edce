package storagetest

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// Faulty is a store that fails as it is told, and else does what the Store in
// it does. Methods are named as in storage.Store.
//
//	f := &storagetest.Faulty{Store: memstore.New()}
//	f.Fail("Redeem", storage.ErrFull, nil, storage.ErrFull) // the next, not that after it, the third
//	f.Lose("Insert", context.DeadlineExceeded)              // stored, but the answer is lost
//	f.Stop(errors.New("sync failed"))                       // for good
//
// Its methods may be called by many at once.
type Faulty struct {
	storage.Store

	mu      sync.Mutex
	fail    map[string][]error
	lose    map[string][]error
	hold    map[string]chan struct{}
	waiting map[string]int // calls held
	stopped error
	failed  chan struct{}
}

// Fail makes the next calls of a method return these errors, one each, without
// asking the store. nil lets a call through.
func (f *Faulty) Fail(method string, errs ...error) { f.plan(&f.fail, method, errs) }

// Lose makes the next calls of a method return these errors, one each, though
// the store has done what they ask. nil tells the true answer.
func (f *Faulty) Lose(method string, errs ...error) { f.plan(&f.lose, method, errs) }

func (f *Faulty) plan(m *map[string][]error, method string, errs []error) {
	known(method)
	f.mu.Lock()
	defer f.mu.Unlock()
	if *m == nil {
		*m = make(map[string][]error)
	}
	(*m)[method] = append((*m)[method], errs...)
}

// Hold makes calls of a method wait, before the store is asked, until release
// is called or their context ends.
func (f *Faulty) Hold(method string) (release func()) {
	known(method)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.hold == nil {
		f.hold = make(map[string]chan struct{})
	}
	held := make(chan struct{})
	f.hold[method] = held
	return sync.OnceFunc(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.hold[method] == held {
			delete(f.hold, method)
		}
		close(held)
	})
}

// Holding reports whether a call of a method waits for its release.
func (f *Faulty) Holding(method string) bool {
	known(method)
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.waiting[method] > 0
}

// Stop makes the store one that can write no more, as after a failed sync.
func (f *Faulty) Stop(why error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopped != nil {
		return
	}
	f.stopped = fmt.Errorf("%w: %w", storage.ErrStopped, why)
	close(f.channel())
}

// channel is Failed's; mu is locked.
func (f *Faulty) channel() chan struct{} {
	if f.failed == nil {
		f.failed = make(chan struct{})
	}
	return f.failed
}

// methods are those that can fail; true ones write.
var methods = map[string]bool{
	"Insert": true, "Lookup": false, "Statuses": false, "ListTokens": false, "Redeem": true, "EndSessions": true,
	"Sessions": false, "ListSessions": false, "Append": true, "Entries": false, "Entry": false, "Locks": false,
	"Count": false, "PutInstance": true, "RemoveInstance": true, "Instances": false, "CreateCredential": true,
	"UpdateCredential": true, "Credentials": false, "PutEdgeKeys": true, "EdgeKeys": false, "Sweep": true,
	"Acknowledge": true, "Acknowledged": false, "Departed": false, "Counts": false,
}

func known(method string) {
	if _, ok := methods[method]; !ok {
		panic("storagetest: a store has no method " + method + " that can fail")
	}
}

func next(m map[string][]error, method string) (err error) {
	if errs := m[method]; len(errs) > 0 {
		err, m[method] = errs[0], errs[1:]
	}
	return err
}

// before is why a call fails before the store is asked.
func (f *Faulty) before(ctx context.Context, method string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if held := f.hold[method]; held != nil {
		if f.waiting == nil {
			f.waiting = make(map[string]int)
		}
		f.waiting[method]++
		f.mu.Unlock()
		var err error
		select {
		case <-held:
		case <-ctx.Done():
			err = ctx.Err()
		}
		f.mu.Lock()
		if f.waiting[method]--; err != nil {
			return err
		}
	}
	if err := next(f.fail, method); err != nil {
		return err
	}
	if methods[method] {
		return f.stopped
	}
	return nil
}

// call runs one call of a method with its faults.
func call[R any](f *Faulty, ctx context.Context, method string, fn func() (R, error)) (none R, err error) {
	if err := f.before(ctx, method); err != nil {
		return none, err
	}
	r, err := fn()
	if err != nil {
		return r, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := next(f.lose, method); err != nil {
		return none, err
	}
	return r, nil
}

func do(f *Faulty, ctx context.Context, method string, fn func() error) error {
	_, err := call(f, ctx, method, func() (struct{}, error) { return struct{}{}, fn() })
	return err
}

func (f *Faulty) Insert(ctx context.Context, tokens []*storage.Token) ([]storage.Inserted, error) {
	return call(f, ctx, "Insert", func() ([]storage.Inserted, error) { return f.Store.Insert(ctx, tokens) })
}

func (f *Faulty) Lookup(ctx context.Context, ids []storage.TokenID) ([]*storage.Token, error) {
	return call(f, ctx, "Lookup", func() ([]*storage.Token, error) { return f.Store.Lookup(ctx, ids) })
}

func (f *Faulty) Statuses(ctx context.Context, tokens []*storage.Token) ([]storage.TokenStatus, error) {
	return call(f, ctx, "Statuses", func() ([]storage.TokenStatus, error) { return f.Store.Statuses(ctx, tokens) })
}

func (f *Faulty) ListTokens(ctx context.Context, q storage.TokenQuery) (storage.TokenPage, error) {
	return call(f, ctx, "ListTokens", func() (storage.TokenPage, error) { return f.Store.ListTokens(ctx, q) })
}

func (f *Faulty) Redeem(ctx context.Context, batch []storage.Redemption) ([]storage.Redeemed, error) {
	return call(f, ctx, "Redeem", func() ([]storage.Redeemed, error) { return f.Store.Redeem(ctx, batch) })
}

func (f *Faulty) EndSessions(ctx context.Context, ids []storage.SessionID) (int, error) {
	return call(f, ctx, "EndSessions", func() (int, error) { return f.Store.EndSessions(ctx, ids) })
}

func (f *Faulty) Sessions(ctx context.Context, ids []storage.SessionID) ([]*storage.Session, error) {
	return call(f, ctx, "Sessions", func() ([]*storage.Session, error) { return f.Store.Sessions(ctx, ids) })
}

func (f *Faulty) ListSessions(ctx context.Context, q storage.SessionQuery) (storage.SessionPage, error) {
	return call(f, ctx, "ListSessions", func() (storage.SessionPage, error) { return f.Store.ListSessions(ctx, q) })
}

func (f *Faulty) Append(ctx context.Context, e storage.Entry) (storage.Entry, error) {
	return call(f, ctx, "Append", func() (storage.Entry, error) { return f.Store.Append(ctx, e) })
}

func (f *Faulty) Entries(ctx context.Context, after storage.Revision, limit int) ([]storage.Entry, error) {
	return call(f, ctx, "Entries", func() ([]storage.Entry, error) { return f.Store.Entries(ctx, after, limit) })
}

func (f *Faulty) Entry(ctx context.Context, r storage.Revision) (storage.Entry, error) {
	return call(f, ctx, "Entry", func() (storage.Entry, error) { return f.Store.Entry(ctx, r) })
}

func (f *Faulty) Locks(ctx context.Context) ([]storage.Lock, error) {
	return call(f, ctx, "Locks", func() ([]storage.Lock, error) { return f.Store.Locks(ctx) })
}

func (f *Faulty) Count(ctx context.Context, s storage.Selector, now time.Time) (tokens, sessions int, err error) {
	n, err := call(f, ctx, "Count", func() ([2]int, error) {
		tokens, sessions, err := f.Store.Count(ctx, s, now)
		return [2]int{tokens, sessions}, err
	})
	return n[0], n[1], err
}

func (f *Faulty) PutInstance(ctx context.Context, i *storage.Instance) error {
	return do(f, ctx, "PutInstance", func() error { return f.Store.PutInstance(ctx, i) })
}

func (f *Faulty) RemoveInstance(ctx context.Context, id storage.InstanceID, at time.Time, cause string) error {
	return do(f, ctx, "RemoveInstance", func() error { return f.Store.RemoveInstance(ctx, id, at, cause) })
}

func (f *Faulty) Acknowledge(ctx context.Context, acks []storage.Acknowledgement) error {
	return do(f, ctx, "Acknowledge", func() error { return f.Store.Acknowledge(ctx, acks) })
}

func (f *Faulty) Acknowledged(ctx context.Context) (map[storage.InstanceID]storage.Progress, error) {
	return call(f, ctx, "Acknowledged", func() (map[storage.InstanceID]storage.Progress, error) { return f.Store.Acknowledged(ctx) })
}

func (f *Faulty) Departed(ctx context.Context, sequence uint64) ([]storage.Departed, error) {
	return call(f, ctx, "Departed", func() ([]storage.Departed, error) { return f.Store.Departed(ctx, sequence) })
}

func (f *Faulty) Counts(ctx context.Context, sequence uint64) (map[storage.InstanceID]storage.Closed, error) {
	return call(f, ctx, "Counts", func() (map[storage.InstanceID]storage.Closed, error) { return f.Store.Counts(ctx, sequence) })
}

func (f *Faulty) Instances(ctx context.Context) ([]storage.Instance, error) {
	return call(f, ctx, "Instances", func() ([]storage.Instance, error) { return f.Store.Instances(ctx) })
}

func (f *Faulty) CreateCredential(ctx context.Context, c storage.Credential) error {
	return do(f, ctx, "CreateCredential", func() error { return f.Store.CreateCredential(ctx, c) })
}

func (f *Faulty) UpdateCredential(ctx context.Context, name string, change func(*storage.Credential) error) (storage.Credential, error) {
	return call(f, ctx, "UpdateCredential", func() (storage.Credential, error) { return f.Store.UpdateCredential(ctx, name, change) })
}

func (f *Faulty) Credentials(ctx context.Context) ([]storage.Credential, error) {
	return call(f, ctx, "Credentials", func() ([]storage.Credential, error) { return f.Store.Credentials(ctx) })
}

func (f *Faulty) PutEdgeKeys(ctx context.Context, keys []storage.EdgeKey) error {
	return do(f, ctx, "PutEdgeKeys", func() error { return f.Store.PutEdgeKeys(ctx, keys) })
}

func (f *Faulty) EdgeKeys(ctx context.Context) ([]storage.EdgeKey, error) {
	return call(f, ctx, "EdgeKeys", func() ([]storage.EdgeKey, error) { return f.Store.EdgeKeys(ctx) })
}

func (f *Faulty) Sweep(ctx context.Context, now time.Time, keep time.Duration) (storage.Swept, error) {
	return call(f, ctx, "Sweep", func() (storage.Swept, error) { return f.Store.Sweep(ctx, now, keep) })
}

// Failed is closed by Stop. Of the store in it, it knows nothing.
func (f *Faulty) Failed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.channel()
}

// Err is why Stop was called, or else the Err of the store in it.
func (f *Faulty) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopped != nil {
		return f.stopped
	}
	return f.Store.Err()
}
