// Package ledger decides what a store does: it is the one state machine behind
// every store. It holds in memory what decisions depend on (uses of tokens,
// live sessions and their counts, what revocations and locks hit, request ids,
// instances, the log's head), and nothing that only readers want.
//
// Decisions come in groups. One goroutine, the writer, decides calls in order,
// makes the group durable and then calls Commit, or Rollback, which undoes the
// group's decisions in reverse. Later decisions of a group build on earlier
// ones; readers see none of them before Commit.
package ledger

import (
	"crypto/sha256"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/internal/places"
)

// Records is what a store must look up for the writer. It answers from what is
// committed; what the group under way has decided the ledger knows itself.
type Records interface {
	HasToken(id storage.TokenID) (bool, error)
	Sessions(keys []storage.SessionKey) ([]*storage.Session, error) // live ones
	Entry(sequence uint64) (storage.Entry, error)
}

// Ledger is the state. The writer's methods are Insert, Redeem, EndSessions,
// Append, PutInstance, RemoveInstance, Sweep, DropEntries, Commit, Rollback,
// Mark and RollbackTo. All others may be called by anyone, though not from
// within a transaction of the store: the writer calls Records with mu locked.
type Ledger struct {
	mu sync.RWMutex // guards what follows

	epoch     uint64
	head      uint64 // of the log, with the group under way
	shown     uint64 // of the log, as committed
	moved     chan struct{}
	swept     int64        // tokens that expire at or before this Unix millisecond are gone
	sweptSeen atomic.Int64 // the same, as committed

	group     uint64 // names the group under way, in use
	uses      slab[use]
	byToken   *places.Table[storage.TokenID] // its latest use
	bySession *places.Table[storage.SessionID]
	keys      hasher
	subjects  *tally[key]
	tenants   *tally[key]
	instances *tally[storage.InstanceID] // registered ones are pinned

	entries  index[hit]      // revocations, and locks as such
	standing index[[]denial] // locks
	locks    map[storage.LockID]lock
	requests map[requestID]uint64 // sequences by request id
	briefs   []brief              // committed, in the order of their sequences

	count     storage.Stats // of tokens, sessions, entries and locks
	countSeen storage.Stats
	gone      int // of the tokens counted, how many are swept

	touched uint32   // see touch
	loading []loaded // until LoadLines

	// Of the group under way; the writer's alone.
	undo     []change
	inserted map[storage.TokenID]struct{}
	replaced map[storage.SessionID]uint32 // uses that were over, by their ids
	fresh    []storage.Entry              // above shown
	lifted   []lock
	dropped  []storage.Entry
	ended    []uint32 // uses of swept tokens
}

// subject is a user, as a selector names one.
type subject struct{ tenant, name string }

// use is one use of a token and the session that it opened, kept while that is
// live or the token is stored. It holds no pointer, so that the collector need
// not look into millions of them.
type use struct {
	token       storage.TokenID
	session     storage.SessionID
	expires     int64 // Unix milliseconds
	observation uint64
	group       uint64 // that granted or ended it
	nth         uint32 // of the token's uses
	earlier     uint32 // place of the one before
	subject     uint32 // places in the tallies
	tenant      uint32
	instance    uint32
	prev, next  uint32 // in the line of the subject
	ended       bool
	grantedNow  bool // by group, which may have ended it too
}

// hit is the newest entry with one selector, and the newest that was committed.
type hit struct {
	newest    uint64
	committed uint64
}

// denial is a standing lock, as found by what it hits.
type denial struct {
	id   storage.LockID
	set  uint64 // sequence of its entry
	lift uint64 // and of the one that lifts it
}

// lock is a standing lock, as found by its id.
type lock struct {
	id       storage.LockID
	set      uint64
	selector *storage.Selector
}

type requestID [16]byte

// digest names a request id in a fixed size, without a pointer.
func digest(id string) requestID {
	sum := sha256.Sum256([]byte(id))
	return requestID(sum[:])
}

// change is one step to undo: a grant, the end of a session, or any other, with
// its function.
type change struct {
	use     uint32
	prior   uint32 // of a grant: the use that had its session id, and was over
	newest  uint32 // of an end: the subject's newest use before
	granted *storage.Session
	undo    func()
}

// New makes an empty ledger of the history epoch.
func New(epoch uint64) *Ledger {
	l := &Ledger{
		epoch:     epoch,
		moved:     make(chan struct{}),
		swept:     -1,
		group:     1,
		keys:      newHasher(),
		subjects:  newTally[key](),
		tenants:   newTally[key](),
		instances: newTally[storage.InstanceID](),
		entries:   newIndex[hit](),
		standing:  newIndex[[]denial](),
		locks:     make(map[storage.LockID]lock),
		requests:  make(map[requestID]uint64),
		inserted:  make(map[storage.TokenID]struct{}),
		replaced:  make(map[storage.SessionID]uint32),
	}
	l.byToken = places.New(func(i uint32) storage.TokenID { return l.uses.at(i).token })
	l.bySession = places.New(func(i uint32) storage.SessionID { return l.uses.at(i).session })
	l.sweptSeen.Store(-1)
	return l
}

// Commit shows the group's decisions to readers and begins the next group.
// Where show is not nil, it makes the store show the group's records, in the
// same instant for LiveSessions.
func (l *Ledger) Commit(show func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if show != nil {
		show()
	}
	for _, k := range l.lifted {
		l.removeDenial(k)
		if l.locks[k.id].set == k.set {
			delete(l.locks, k.id)
		}
	}
	for i := range l.dropped {
		l.forgetEntry(&l.dropped[i])
	}
	l.forgetBriefs(l.dropped)
	for i := range l.fresh {
		l.keepBrief(&l.fresh[i])
	}
	l.sweptSeen.Store(l.swept)
	for _, i := range l.ended {
		l.forgetUse(i)
	}
	l.subjects.settle()
	l.tenants.settle()
	l.instances.settle()
	l.countSeen = l.count
	if l.shown != l.head {
		l.shown = l.head
		close(l.moved)
		l.moved = make(chan struct{})
	}
	l.nextGroup()
}

// Rollback undoes the group's decisions and begins the next group.
func (l *Ledger) Rollback() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.undoTo(0)
	l.count = l.countSeen
	l.subjects.settle()
	l.tenants.settle()
	l.instances.settle()
	l.nextGroup()
}

func (l *Ledger) nextGroup() {
	for _, i := range l.replaced {
		l.forgetUse(i)
	}
	l.group++
	clear(l.undo)
	clear(l.inserted)
	clear(l.replaced)
	l.undo = l.undo[:0]
	l.fresh, l.lifted, l.dropped, l.ended = nil, nil, nil, l.ended[:0]
}

// Mark is a place in the group under way, for RollbackTo.
type Mark struct {
	undo  int
	count storage.Stats
}

// Mark remembers how far the group has come.
func (l *Ledger) Mark() Mark { return Mark{len(l.undo), l.count} }

// RollbackTo undoes what was decided since m: a call that failed halfway.
func (l *Ledger) RollbackTo(m Mark) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.undoTo(m.undo)
	l.count = m.count
}

func (l *Ledger) undoTo(n int) {
	for i := len(l.undo) - 1; i >= n; i-- {
		switch c := &l.undo[i]; {
		case c.undo != nil:
			c.undo()
		case c.granted != nil:
			l.undoGrant(c)
		default:
			l.undoEnd(c)
		}
	}
	clear(l.undo[n:])
	l.undo = l.undo[:n]
}

// later registers how to undo a rare change.
func (l *Ledger) later(undo func()) {
	l.undo = append(l.undo, change{undo: undo})
}

func (l *Ledger) removeDenial(k lock) {
	ds, _ := l.standing.get(k.selector)
	ds = slices.DeleteFunc(slices.Clone(ds), func(d denial) bool { return d.set == k.set })
	if len(ds) == 0 {
		l.standing.remove(k.selector)
		return
	}
	l.standing.put(k.selector, ds)
}

// forgetEntry forgets an entry whose dropping is committed.
func (l *Ledger) forgetEntry(e *storage.Entry) {
	if h, ok := l.entries.get(&e.Selector); ok && h.newest == e.Revision.Sequence {
		l.entries.remove(&e.Selector)
	}
	if e.RequestID != "" {
		if id := digest(e.RequestID); l.requests[id] == e.Revision.Sequence {
			delete(l.requests, id)
		}
	}
}
