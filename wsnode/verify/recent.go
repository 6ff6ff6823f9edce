package verify

import "sync"

// maxRecent is how many entries are kept for grants in flight: at 1,000
// revocations a second four seconds' worth.
const maxRecent = 4096

// recent is the newest entries, against which grants in flight are checked.
type recent struct {
	mu      sync.Mutex
	entries []Entry  // a ring, its oldest at at; their revisions rise
	at      int      //
	floor   Revision // entries above it are kept
	applied Revision
}

func (r *recent) init() { r.entries = make([]Entry, 0, maxRecent) }

// reset forgets all, as a snapshot of the log up to head begins. Of grants older
// than head nothing is known from then on.
func (r *recent) reset(head Revision) {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.entries)
	r.entries, r.at, r.floor, r.applied = r.entries[:0], 0, head, Revision{Epoch: head.Epoch}
}

// add keeps entries, in their order, before they are enforced.
func (r *recent) add(entries []Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range entries {
		if !entries[i].Revision.After(r.newest()) { // of the snapshot, or sent again
			continue
		}
		if len(r.entries) < maxRecent {
			r.entries = append(r.entries, entries[i])
			continue
		}
		r.floor = r.entries[r.at].Revision
		r.entries[r.at] = entries[i]
		r.at = (r.at + 1) % maxRecent
	}
}

func (r *recent) newest() Revision {
	if len(r.entries) == 0 {
		return r.floor
	}
	return r.entries[(r.at+len(r.entries)-1)%len(r.entries)].Revision
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
		switch {
		case !e.Hits(&g.Identity):
		case e.Lock:
			return Locked
		case e.Replaced:
			return Replaced
		default:
			return Revoked
		}
	}
	return Holds
}
