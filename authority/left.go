package authority

import (
	"time"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// leaver is an instance that leaves or has left. Between the commit of an entry
// and the opening of its receipt it may go; the receipt says so then.
type leaver struct {
	id           storage.InstanceID
	node         string
	registered   uint64
	releaseAfter time.Duration
	acknowledged storage.Progress
	// Once it has left: the log's head, why, and when.
	has   bool
	head  uint64
	cause string
	at    time.Time
}

// maxLeft is how many are remembered: far more than can leave while one receipt is
// opened.
const maxLeft = 1000

// leaves notes that an instance is about to be forgotten; mu is held.
func (r *receipts) leaves(id storage.InstanceID) {
	i, ok := r.fleet.record(id)
	if !ok {
		return
	}
	if len(r.left) == maxLeft {
		r.left[0] = nil
		r.left = r.left[1:]
	}
	r.left = append(r.left, &leaver{id: id, node: i.Node, registered: i.Registered, releaseAfter: releaseAfter(i.SessionFence)})
}

// hasLeft notes that an instance is forgotten; mu is held.
func (r *receipts) hasLeft(id storage.InstanceID, head uint64, cause string, at time.Time) {
	for n := len(r.left) - 1; n >= 0; n-- {
		if l := r.left[n]; l.id == id && !l.has {
			l.acknowledged = r.applied[id]
			l.has, l.head, l.cause, l.at = true, head, cause, at
			return
		}
	}
}

// addLeft adds to a receipt that is opened the rows of those who were registered
// at the commit and are not any more; mu is held.
func (r *receipts) addLeft(rc *receipt) {
	for n := len(r.left) - 1; n >= 0; n-- {
		l := r.left[n]
		if l.has && l.head < rc.sequence {
			continue // and was none of those it waits for
		}
		if l.registered >= rc.sequence || rc.rows[l.id] != nil {
			continue
		}
		row := &receiptRow{node: l.node, releaseAfter: l.releaseAfter, done: l.has}
		if early := r.early[rc.sequence][l.id]; early != nil {
			row.closed, row.lingered = early.GetClosed(), early.GetLingering()
		}
		switch {
		case !l.has:
			rc.waiting++ // for gone
		case !l.acknowledged.Has(rc.sequence):
			row.departed, row.after, row.timed = l.cause, max(l.at.Sub(rc.committed), 0), true
		}
		rc.rows[l.id] = row
	}
}
