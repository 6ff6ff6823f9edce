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
	mu    sync.Mutex // guards what follows
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
	// maxUnwanted bounds them; beyond, the oldest is forgotten.
	maxUnwanted = 200_000
)

func newUnwanted() *unwanted { return &unwanted{since: map[reported]time.Time{}} }

func (u *unwanted) add(id reported, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, known := u.since[id]; known {
		return
	}
	u.since[id] = now
	u.order = append(u.order, id)
	if len(u.since) > maxUnwanted {
		u.drop()
	}
}

func (u *unwanted) has(id reported) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	_, found := u.since[id]
	return found
}

// sweep forgets those that are too old to matter.
func (u *unwanted) sweep(now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for u.first < len(u.order) && now.Sub(u.since[u.order[u.first]]) > keepUnwanted {
		u.drop()
	}
}

// drop forgets the oldest; mu is locked.
func (u *unwanted) drop() {
	delete(u.since, u.order[u.first])
	if u.first++; u.first > len(u.order)/2 {
		n := copy(u.order, u.order[u.first:])
		u.order, u.first = u.order[:n], 0
	}
}
