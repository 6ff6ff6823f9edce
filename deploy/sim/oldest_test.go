package sim

import (
	"context"
	"math"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
)

// most is how many sessions a subject may have; 0 is without bound.
func (w *world) most() uint32 {
	if w.rules.most > 0 {
		return w.rules.most
	}
	return []uint32{0, 2, 3}[w.seed%3]
}

// keeper is the authority's store. It keeps what ends for newer sessions, whose
// entries the log forgets soon, and holds each redemption to the limit.
type keeper struct {
	storage.Store
	w *world
}

// Redeem implements storage.Store.
func (k keeper) Redeem(ctx context.Context, batch []storage.Redemption) ([]storage.Redeemed, error) {
	k.w.history.renews(batch) // before others can see it
	got, err := k.Store.Redeem(ctx, batch)
	for i := range got {
		k.w.history.replaced(&batch[i], &got[i])
	}
	if most := k.w.most(); err == nil && most > 0 {
		page, err := k.Store.ListSessions(ctx, storage.SessionQuery{Limit: math.MaxInt32})
		if err == nil {
			k.w.history.checkLimit(page.Sessions, most)
		}
	}
	return got, err
}

// renews notes which sessions are renewed by a batch, or are asked to be.
func (h *history) renews(batch []storage.Redemption) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range batch {
		h.renewing[batch[i].Renews]++
	}
}

// replaced notes what a redemption has ended, and that one which was refused
// renews nothing.
func (h *history) replaced(r *storage.Redemption, got *storage.Redeemed) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if got.Err != nil {
		h.renewing[r.Renews]--
	}
	for _, x := range got.Replaced {
		h.ended = append(h.ended, x.Entry)
		h.w.event("entry %d: session %s ends for session %s", x.Entry.Revision.Sequence, short(x.Key.ID), short(got.Session.ID))
	}
}

// checkLimit holds the live sessions against the limit. One that was renewed is live
// until its node says so, beside the one on the same socket.
func (h *history) checkLimit(live []*storage.Session, most uint32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := map[[2]string]uint32{}
	for _, s := range live {
		if h.renewing[s.ID] == 0 {
			n[[2]string{s.Tenant, s.Subject}]++
		}
	}
	for who, n := range n {
		if n > most {
			h.w.fault("%s has %d sessions, of at most %d", who, n, most)
		}
	}
}

// oldest are races of a session with newer ones that take its place.
var oldest = []race{
	{
		// The node of the session is out of reach, and the authority starts anew
		// before it is back.
		name: "who takes a session's place is told to its node, whenever that comes",
		on:   rules{most: 1},
		off: rules{most: 1, tap: func(_ *link, m proto.Message) {
			if e := asAttach(m).GetEntries(); e != nil {
				e.Entries = slices.DeleteFunc(e.Entries, (*pb.Entry).GetReplaced)
			}
		}},
		schedule: func(w *world, _ bool) {
			m, other := w.begin("node-0"), w.begin("node-1")
			w.user(m, "ada")
			time.Sleep(time.Second)
			m.link.hold(true, true)
			w.user(other, "ada")
			time.Sleep(time.Second)
			w.stopAuthority(true)
			w.startAuthority()
			m.link.hold(false, false)
			m.link.cut() // so that it attaches anew at once
			time.Sleep(releaseAfter + 2*time.Second)
		},
		broken: "with deadline",
	},
	{
		// The grant was decided before the session's place was taken, and its node
		// hears of that first.
		name: "a grant in flight is checked against who took its place",
		off:  rules{most: 1, tap: grantsAreNew},
		on:   rules{most: 1},
		schedule: func(w *world, _ bool) {
			m, other := w.begin("node-0"), w.begin("node-1")
			m.link.close(isAnswer)
			w.user(m, "ada")
			time.Sleep(time.Second)
			w.user(other, "ada")
			time.Sleep(1500 * time.Millisecond)
			m.link.close(nil)
			time.Sleep(releaseAfter + 2*time.Second)
		},
		broken: "with deadline",
	},
	{
		// The authority grants sessions side by side.
		name: "the limit is decided where the session is granted",
		off:  rules{most: 2, wrap: func(s storage.Store) storage.Store { return lavish{s} }},
		on:   rules{most: 2},
		schedule: func(w *world, _ bool) {
			m := w.begin("node-0")
			for range 4 {
				w.user(m, "ada")
			}
			time.Sleep(2 * time.Second)
		},
		broken: "of at most",
	},
}

// lavish is a store that looks at no limit.
type lavish struct{ storage.Store }

func (s lavish) Redeem(ctx context.Context, batch []storage.Redemption) ([]storage.Redeemed, error) {
	for i := range batch {
		batch[i].SubjectSessions = 0
	}
	return s.Store.Redeem(ctx, batch)
}
