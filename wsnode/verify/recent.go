package verify

import "sync"

// maxRecent is how many entries are kept for grants in flight: at 1,000
// revocations a second four seconds' worth.
const maxRecent = 4096

// recent is the newest entries, against which grants in flight are checked.
type recent struct {
	mu      sync.Mutex
	entries []Entry // a ring, in order from at
	at      int
	floor   Revision // entries above it are kept
	applied Revision
}

func (r *recent) init() { r.entries = make([]Entry, 0, maxRecent) }

// reset forgets all, as a snapshot of an epoch's log begins.
func (r *recent) reset(epoch uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	start := Revision{Epoch: epoch}
	r.entries, r.at, r.floor, r.applied = r.entries[:0], 0, start, start
}

// add keeps entries before they are enforced.
func (r *recent) add(entries []Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range entries {
		if len(r.entries) < maxRecent {
			r.entries = append(r.entries, entries[i])
			continue
		}
		if old := r.entries[r.at].Revision; old.After(r.floor) {
			r.floor = old
		}
		r.entries[r.at] = entries[i]
		r.at = (r.at + 1) % maxRecent
	}
}

// through notes that all entries up to rev are enforced.
func (r *recent) through(rev Revision) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rev.After(r.applied) {
		r.applied = rev
	}
}

func (r *recent) appliedRevision() Revision {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.applied
}

func (r *recent) standing(g *Grant) Standing {
	r.mu.Lock()
	defer r.mu.Unlock()
	if g.AsOf.Epoch != r.floor.Epoch || r.floor.After(g.AsOf) {
		return Unknown
	}
	for i := len(r.entries) - 1; i >= 0; i-- { // newest first
		e := &r.entries[(r.at+i)%len(r.entries)]
		if !e.Revision.After(g.AsOf) {
			break
		}
		if e.Hits(&g.Identity) {
			return Ended
		}
	}
	return Holds
}
