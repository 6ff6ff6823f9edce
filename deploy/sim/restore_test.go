package sim

import (
	"context"
	"math"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/memstore"
)

func revisionFrom(r *pb.Revision) storage.Revision {
	return storage.Revision{Epoch: r.GetEpoch(), Sequence: r.GetSequence()}
}

// restored is one restore.
type restored struct {
	ended    time.Time // the authority before it
	epoch    uint64
	before   map[uint64]bool          // epochs that are over
	tokens   map[storage.TokenID]bool // that the store before it knew
	attached map[*machine]time.Time   // when a machine first said that it goes by epoch
}

func (w *world) takeBackup() {
	w.event("backup")
	w.backup = w.store.Backup()
}

// restore ends the authority and starts one on the last backup, or takes one if
// there is none yet. Of a store that is lost nobody can tell which nodes it knew.
func (w *world) restore(kill, lost bool, after time.Duration) {
	if w.backup == nil {
		w.takeBackup()
		return
	}
	w.stopAuthority(kill)
	epoch := uint64(0)
	if w.rules.oneEpoch {
		epoch = w.backup.Epoch()
	}
	was := w.store
	replaced := was.Backup()
	if lost {
		replaced = nil
	}
	w.store = memstore.Restore(w.backup, replaced, epoch)
	if w.rules.fleetLost {
		w.forgetFleet()
	}
	w.history.restored(was, w.store)
	time.Sleep(after)
	w.startAuthority()
}

// forgetFleet makes a restored store one that knows of no node.
func (w *world) forgetFleet() {
	all, err := w.store.Instances(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, i := range all {
		if err := w.store.RemoveInstance(context.Background(), i.ID, time.Now(), "test"); err != nil {
			w.t.Fatal(err)
		}
	}
}

// restored notes what the store before a restore knew.
func (h *history) restored(was, is *memstore.Store) {
	entries, err := was.Entries(context.Background(), storage.Revision{}, 1_000_000)
	if err != nil {
		h.w.t.Fatal(err)
	}
	page, err := was.ListTokens(context.Background(), storage.TokenQuery{Limit: math.MaxInt32})
	if err != nil {
		h.w.t.Fatal(err)
	}
	old, _ := was.Head()
	head, _ := is.Head()
	h.mu.Lock()
	defer h.mu.Unlock()
	r := &restored{ended: time.Now(), epoch: head.Epoch, before: map[uint64]bool{}, tokens: map[storage.TokenID]bool{}, attached: map[*machine]time.Time{}}
	if n := len(h.restores); n > 0 {
		for e := range h.restores[n-1].before {
			r.before[e] = true
		}
	}
	if old.Epoch != head.Epoch {
		r.before[old.Epoch] = true
	}
	for _, t := range page.Tokens {
		r.tokens[t.ID] = true
	}
	h.restores = append(h.restores, r)
	h.ended = append(h.ended, entries...)
	h.w.event("restored at %d, %d tokens were issued", head.Sequence, len(page.Tokens))
}

// says notes what a machine tells the authority.
func (h *history) says(m *machine, msg proto.Message) {
	h.mu.Lock()
	defer h.mu.Unlock()
	req, ok := msg.(*pb.AttachRequest)
	if n := len(h.restores); ok && req.GetHeartbeat() != nil && n > 0 && h.restores[n-1].epoch == req.GetHeartbeat().GetApplied().GetEpoch() {
		if r := h.restores[n-1]; r.attached[m].IsZero() {
			r.attached[m] = time.Now()
		}
	}
}

// isBefore reports whether a history was over when another began. mu is locked.
func (h *history) isBefore(epoch, other uint64) bool {
	for _, r := range h.restores {
		if r.epoch == other {
			return r.before[epoch]
		}
	}
	return false
}

// checkRestores holds what nodes accepted against what a restore promises:
// nothing that was issued before it is accepted by a node that has attached
// since, nor by any once the session fence is over. mu is locked.
func (h *history) checkRestores() {
	for _, r := range h.restores {
		for _, s := range h.order {
			t := h.tokens[s.token]
			if t == nil || !r.before[t.revision.Epoch] && !r.tokens[storage.TokenID(s.token)] {
				continue
			}
			last := s.accepted[len(s.accepted)-1]
			if at := r.attached[s.m]; !at.IsZero() && last.After(at) {
				h.w.fault("session %s was issued before a restore, to which %s attaches at %s, and is accepted at %s", short(s.id), s.m, h.w.at(at), h.w.at(last))
			}
			if deadline := r.ended.Add(releaseAfter); last.After(deadline) {
				h.w.fault("session %s was issued before a restore, with deadline %s, and is accepted by %s at %s", short(s.id), h.w.at(deadline), s.m, h.w.at(last))
			}
		}
	}
}

// A restore ends what was issued before it, on nodes that attach and on those
// that can't, and a receipt of after it waits for both. With the history of the
// backup it would not: a node that has applied all of that finds nothing new. And
// without the nodes of before, receipts would be complete that do not speak for
// them.
func TestRestore(t *testing.T) {
	schedule := func(w *world) {
		w.startNode(nodeName(0))
		cutOff := w.startNode(nodeName(1))
		w.runPlanned(time.Now().Add(2 * time.Second))
		w.takeBackup()
		for range 12 {
			w.connectSome()
			w.runPlanned(time.Now().Add(100 * time.Millisecond))
		}
		cutOff.link.hold(true, true)
		w.restore(true, false, 100*time.Millisecond)
		for _, subject := range subjects {
			w.revokeUser(subject)
		}
		for range 12 {
			w.connectSome()
			w.runPlanned(time.Now().Add(300 * time.Millisecond))
		}
	}
	found := map[string]int{}
	for seed := uint64(1); seed <= 10; seed++ {
		faults, trace := run(t, seed, rules{}, schedule)
		if len(faults) > 0 {
			t.Fatalf("seed %d: %s\n%s", seed, strings.Join(faults, "\n"), strings.Join(trace, "\n"))
		}
		for broken, r := range map[string]rules{
			"issued before a restore, to which": {oneEpoch: true},
			", complete at":                     {fleetLost: true},
		} {
			faults, _ = run(t, seed, r, schedule)
			for _, f := range faults {
				if strings.Contains(f, broken) {
					found[broken]++
					break
				}
			}
		}
	}
	if len(found) != 2 {
		t.Errorf("without their rules the schedules break %v: of the rest they test nothing", found)
	}
}
