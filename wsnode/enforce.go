package wsnode

import (
	"math"
	"math/rand/v2"
	"time"

	"github.com/gatehouse-ws/gatehouse/wsnode/verify"
)

// enforceTimeout bounds how long an acknowledgement waits for close frames to
// be queued; what is later lingers. The sessions are dead before.
const enforceTimeout = time.Second

// enforcer is the node as verify sees it.
type enforcer struct{ n *Node }

// Sessions implements verify.Enforcer.
func (e enforcer) Sessions() int { return e.n.Sessions() }

// Enforce implements verify.Enforcer.
func (e enforcer) Enforce(entries []verify.Entry) []verify.Count {
	counts := make([]verify.Count, len(entries))
	type hit struct {
		s  *peer
		of *verify.Count
	}
	var hits []hit
	for i := range entries {
		cause := errRevoked
		switch {
		case entries[i].Lock:
			cause = errLocked
		case entries[i].Replaced:
			cause = errReplaced
		}
		for _, s := range e.n.sessions.hit(&entries[i]) {
			if s.setCause(cause) { // else an entry before hit it, or it was ending
				hits = append(hits, hit{s, &counts[i]})
			}
		}
	}
	if len(hits) == 0 {
		return counts
	}
	queued := make(chan *verify.Count, len(hits))
	for _, h := range hits {
		h.of.Closed++
		h.of.Lingering++
		h.s.hangUp(func() { queued <- h.of })
	}
	timeout := time.NewTimer(enforceTimeout)
	defer timeout.Stop()
	for range hits {
		select {
		case of := <-queued:
			of.Lingering--
		case <-timeout.C:
			return counts
		}
	}
	return counts
}

// Warn implements verify.Enforcer.
func (e enforcer) Warn(entry *verify.Entry) (left func() bool) {
	hit := e.n.sessions.hit(entry)
	for _, s := range hit {
		s.warn(entry)
	}
	return func() bool {
		hit = e.n.sessions.stillHit(hit, entry)
		return len(hit) > 0
	}
}

// Fence implements verify.Enforcer.
func (e enforcer) Fence() {
	for _, s := range e.n.sessions.all() {
		s.kill(errFence)
	}
}

// Thin implements verify.Enforcer.
func (e enforcer) Thin() func(share float64) {
	all := e.n.sessions.all()
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	ended := 0
	return func(share float64) {
		for until := int(math.Round(share * float64(len(all)))); ended < until; ended++ {
			all[ended].kill(errFence)
			all[ended] = nil // it is not kept for the others
		}
	}
}
