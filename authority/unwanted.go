package authority

import (
	"sync"
	"time"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// unwanted are sessions whose end a node has reported: a redemption of them that
// is still under way, on a stream that the node has given up, must not leave a
// session behind that nobody will ever end. Safe for concurrent use.
type unwanted struct {
	mu     sync.Mutex // guards what follows
	byNode map[string]*unwantedOf
}

// unwantedOf are those of one node, which make room for each other alone.
type unwantedOf struct {
	since map[reported]time.Time
	order []reported // oldest first, from first on
	first int
}

// reported names a session by who has told of its end, so that no node ends
// another's.
type reported struct {
	instance storage.InstanceID
	session  storage.SessionID
}

const (
	// keepUnwanted is longer than a redemption can be under way: what its stream
	// still holds is read, or the stream cut off, long before.
	keepUnwanted = 2 * writeTimeout
	// maxUnwanted bounds those of a node; beyond, the oldest is forgotten.
	maxUnwanted = 100_000
)

func newUnwanted() *unwanted { return &unwanted{byNode: map[string]*unwantedOf{}} }

func (u *unwanted) add(id reported, node string, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	of := u.byNode[node]
	if of == nil {
		of = &unwantedOf{since: map[reported]time.Time{}}
		u.byNode[node] = of
	}
	if _, known := of.since[id]; known {
		return
	}
	of.since[id] = now
	of.order = append(of.order, id)
	if len(of.since) > maxUnwanted {
		of.drop()
	}
}

func (u *unwanted) has(id reported, node string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	of := u.byNode[node]
	if of == nil {
		return false
	}
	_, found := of.since[id]
	return found
}

// sweep forgets those that are too old to matter.
func (u *unwanted) sweep(now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for node, of := range u.byNode {
		for of.first < len(of.order) && now.Sub(of.since[of.order[of.first]]) > keepUnwanted {
			of.drop()
		}
		if len(of.since) == 0 {
			delete(u.byNode, node)
		}
	}
}

// drop forgets the oldest.
func (u *unwantedOf) drop() {
	delete(u.since, u.order[u.first])
	if u.first++; u.first > len(u.order)/2 {
		n := copy(u.order, u.order[u.first:])
		u.order, u.first = u.order[:n], 0
	}
}
