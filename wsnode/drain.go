package wsnode

import (
	"context"
	"math"
	"math/rand/v2"
	"strconv"
	"time"
)

// Drain admits nobody any more and ends every session with 1012, over
// DrainWindow, each with its own time to come back in the reason. Then, or at once
// when ctx ends, it refuses and closes all that is left, and waits until no socket
// is, or ctx ends. Ready says no before anything else happens.
func (n *Node) Drain(ctx context.Context) error {
	n.mu.Lock()
	n.draining.Store(true)
	for l := range n.listeners {
		_ = l.Close() // Serve returns
	}
	n.mu.Unlock()
	n.driver.LetNobodyIn()
	n.endOver(ctx, n.cfg.DrainWindow)
	n.driver.Stop()
	return n.driver.Wait(ctx)
}

// A drain ends sessions so often, and looks whether there are any.
const endOften, endSeldom = 10 * time.Millisecond, time.Second

// endOver ends the sessions that there are, evenly over window, until none is
// left or ctx ends.
func (n *Node) endOver(ctx context.Context, window time.Duration) {
	all := n.sessions.all()
	if len(all) == 0 || window == 0 {
		return
	}
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	begin := time.Now()
	turns := time.NewTicker(min(max(window/time.Duration(len(all)), endOften), endSeldom))
	defer turns.Stop()
	for ended := 0; n.sessions.count() > 0; {
		share := time.Since(begin).Seconds() / window.Seconds()
		for until := int(share*float64(len(all))) + 1; ended < min(until, len(all)); ended++ {
			all[ended].kill(errDraining)
			all[ended] = nil // it is not kept for the others
		}
		if ended == len(all) {
			return
		}
		select {
		case <-turns.C:
		case <-ctx.Done():
			return
		}
	}
}

// comeBack is when a peer may come back that is turned away because the node is
// to end. Multiples of the golden ratio are spread evenly over ReturnWindow,
// however many there are.
func (n *Node) comeBack() time.Duration {
	_, slot := math.Modf(float64(n.slots.Add(1)) * math.Phi)
	return time.Duration(slot * float64(n.cfg.ReturnWindow))
}

// firstSlot is where a node begins with them, lest those that end together give
// away the same.
func firstSlot() uint64 { return rand.Uint64N(1 << 32) }

// withSlot adds to the reason of a close frame when its peer may come back.
func (n *Node) withSlot(text string) string {
	if n.cfg.ReturnWindow == 0 {
		return text
	}
	return text + "; retry_after=" + strconv.FormatFloat(n.comeBack().Seconds(), 'f', 3, 64)
}
