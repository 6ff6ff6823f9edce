package authority

import (
	"encoding/hex"
	"log/slog"
	"slices"
	"sync"
	"time"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
)

// maxEnforcements bounds the counts that are remembered; beyond, all are
// forgotten, and a node that repeats one gets a second line.
const maxEnforcements = 200_000

// enforcements remembers which counts have a line in the audit trail: nodes
// repeat them until they are heard. Safe for concurrent use.
type enforcements struct {
	mu   sync.Mutex
	told map[enforcement]closedSockets
}

type enforcement struct {
	instance storage.InstanceID
	sequence uint64
}

type closedSockets struct{ closed, lingering uint32 }

// news reports whether a count differs from what was told of it.
func (e *enforcements) news(id storage.InstanceID, n *pb.Enforced) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	key, now := enforcement{id, n.GetSequence()}, closedSockets{n.GetClosed(), n.GetLingering()}
	if e.told[key] == now { // nothing closed is no news
		return false
	}
	if e.told == nil || len(e.told) >= maxEnforcements {
		e.told = map[enforcement]closedSockets{}
	}
	e.told[key] = now
	return true
}

// ownCounts are those of counts that an instance can have: of entries that it has
// acknowledged, and that are newer than its registration. It had no socket before.
func ownCounts(i *storage.Instance, through uint64, counts []*pb.Enforced) []*pb.Enforced {
	return slices.DeleteFunc(counts, func(n *pb.Enforced) bool { return n.GetSequence() <= i.Registered || n.GetSequence() > through })
}

// auditEnforced writes a line for every entry that ended sockets on a node,
// once it has acknowledged the log through it. A node that says ever something
// else gets no more lines than one for which much is revoked.
func (s *Service) auditEnforced(i *storage.Instance, counts []*pb.Enforced, now time.Time) {
	head, _ := s.store.Head()
	for _, n := range counts {
		if !s.enforcements.news(i.ID, n) {
			continue
		}
		skipped, ok := s.sampler.allow(kind{"Enforced", "ok", i.Node}, now)
		if !ok {
			continue
		}
		attrs := append(make([]slog.Attr, 0, 9), slog.Uint64("epoch", head.Epoch), slog.Uint64("revision", n.GetSequence()),
			slog.Uint64("closed", uint64(n.GetClosed())), slog.Uint64("lingering", uint64(n.GetLingering())),
			slog.String("node", i.Node), slog.String("instance_id", hex.EncodeToString(i.ID[:])),
			slog.String("caller", i.Node), slog.String("peer", i.Address))
		if skipped > 0 {
			attrs = append(attrs, slog.Uint64("skipped_before", skipped))
		}
		s.audit.record(now, "Enforced", "ok", attrs...)
	}
}

// completion is a receipt that waits for nobody any more.
type completion struct {
	sequence  uint64
	instances int
	closed    uint64
	after     time.Duration // until the last was done
}

// takeCompleted takes the receipts that have become complete since it was called
// last, in the order in which they did.
func (r *receipts) takeCompleted() []completion {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []completion
	for _, rc := range r.completed {
		c := completion{sequence: rc.sequence, instances: len(rc.rows)}
		for _, row := range rc.rows {
			c.closed += uint64(row.closed)
			c.after = max(c.after, row.after)
		}
		out = append(out, c)
	}
	r.completed = nil
	return out
}

// auditComplete writes a line for every receipt that has become complete.
func (s *Service) auditComplete(now time.Time) {
	head, _ := s.store.Head()
	for _, c := range s.receipts.takeCompleted() {
		s.audit.record(now, "ReceiptComplete", "ok", slog.Uint64("epoch", head.Epoch), slog.Uint64("revision", c.sequence), slog.Int("instances", c.instances),
			slog.Uint64("closed", c.closed), slog.Int64("after_ms", c.after.Milliseconds()), slog.String("caller", self))
	}
}
