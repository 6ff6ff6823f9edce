package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/gatehouse-ws/gatehouse/wsnode"
)

// hostileClients come at once, beside honestClients.
const (
	hostileClients = 8000
	honestClients  = 100

	// hostileSendBytes is what the kernel has room for of what the node sends to each,
	// so that the rest waits in the node.
	hostileSendBytes = 16 << 10
)

// hostileRuns are the manners in which they behave, and what the node's settings
// let so many of them have of its memory.
var hostileRuns = []struct {
	manner string
	bound  string
	bytes  func(c *wsnode.SocketConfig, clients int) int
}{
	{"head", "head_bytes each", func(c *wsnode.SocketConfig, n int) int { return n * c.HeadBytes }},
	{"frame", "message_bytes each", func(c *wsnode.SocketConfig, n int) int { return n * c.MessageBytes }},
	{"fragments", "message_bytes each", func(c *wsnode.SocketConfig, n int) int { return n * c.MessageBytes }},
	{"deaf", "loop_bytes for all and 1 KiB each", func(c *wsnode.SocketConfig, n int) int { return c.LoopBytes + n<<10 }},
}

// benchHostile measures what clients feel that behave, first alone and then
// beside very many that do not, and what those cost the node's memory.
func benchHostile(ctx context.Context, l *lab) (err error) {
	w, err := l.startWS([]wsServer{{spec{Kind: "node", SendBytes: hostileSendBytes}, "Gatehouse node"}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	keys, err := l.keys()
	if err != nil {
		return err
	}
	h, err := l.serverOn(l.cores.load, spec{Kind: "hostile", Keys: keys, Authority: w.authority.addr})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.stop()) }()
	honest, err := w.openOn(ctx, 0, honestClients)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, honest.close()) }()

	n := l.part(hostileClients, 50)
	t := l.report.table("hostile", fmt.Sprintf("%d honest clients that echo %d bytes, one under way on each: alone, then beside %d others that behave badly and come again when they are thrown out; memory is what the node has more with them", honestClients, wsPayload, n),
		"messages/s alone", "with them", "p99 ms alone", "p99 ms with them", "of alone", "live MB", "private MB", "bound MB", "kernel's buffers MB", "thrown out/s")
	settings := wsnode.DefaultConfig().Sockets
	for _, run := range hostileRuns {
		m := manners[run.manner]
		samples, err := l.inTurns(
			contender{"honest alone", func() (sample, error) { return l.measure(w.servers[0], honest.echo) }},
			contender{fmt.Sprintf("beside %d that send %s", n, m.about), func() (sample, error) { return l.beside(w.servers[0], h, run.manner, n, honest) }},
		)
		if err != nil {
			return fmt.Errorf("%s: %w", run.manner, err)
		}
		alone, with := samples[0], samples[1]
		ratio, live, bound := medianRatio(with, alone, sample.p99), figure(with, 0), float64(run.bytes(&settings, n))/1e6
		t.row(m.about, median(alone, sample.rate), median(with, sample.rate), median(alone, sample.p99), median(with, sample.p99), ratio,
			live, figure(with, 1), bound, figure(with, 2), figure(with, 3))
		l.report.atMost("hostile: p99 of honest clients beside those that send "+m.about+", of alone", ratio, 2)
		l.report.atMost(fmt.Sprintf("hostile: live MB for those, bound by %s", run.bound), live, bound)
	}
	return nil
}

// beside measures the honest clients beside n hostile ones, which have been there
// for a while then, and has them go. The node must have forgotten them soon.
func (l *lab) beside(node, hostile *child, manner string, n int, honest *wsConns) (s sample, err error) {
	before, err := node.ask(order{Do: "memory"})
	if err != nil {
		return s, err
	}
	descriptors, err := node.descriptors()
	if err != nil {
		return s, err
	}
	if _, err := hostile.ask(order{Do: "begin", Manner: manner, Count: n, Visitors: visitorsOrder{Addr: node.addr}}); err != nil {
		return s, err
	}
	if err := awaitHostile(hostile, n); err != nil {
		return s, err
	}
	time.Sleep(16 * l.interval) // until those that came first are thrown out
	at := time.Now()
	state, err := hostile.ask(order{Do: "state"})
	if err != nil {
		return s, err
	}
	if s, err = l.measure(node, honest.echo); err != nil {
		return s, err
	}
	garbage, err := node.ask(order{Do: "garbage"})
	if err != nil {
		return s, err
	}
	buffers, err := socketBuffers()
	if err != nil {
		return s, err
	}
	after, err := hostile.ask(order{Do: "state"})
	if err != nil {
		return s, err
	}
	ended := float64(after.Ended-state.Ended) / time.Since(at).Seconds()
	live, err := node.ask(order{Do: "memory"})
	if err != nil {
		return s, err
	}
	if _, err := hostile.ask(order{Do: "cease"}); err != nil {
		return s, err
	}
	s.figures = []float64{
		float64(live.Memory.Heap-before.Memory.Heap) / 1e6, float64(garbage.Memory.Private-before.Memory.Private) / 1e6, float64(buffers) / 1e6, ended,
	}
	return s, awaitForgotten(node, descriptors)
}

// awaitHostile waits until nearly all have a connection: some are always on their
// way back.
func awaitHostile(h *child, n int) error {
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		a, err := h.ask(order{Do: "state"})
		if err != nil {
			return err
		}
		if int(a.Count) >= n-n/20 {
			return nil
		}
		if time.Since(began) > time.Minute {
			return fmt.Errorf("%d of %d hostile clients are connected after a minute, %d were turned away", a.Count, n, a.TurnedAway)
		}
	}
}

// awaitForgotten waits until a node has the honest clients alone, by its metrics,
// and no more descriptors than it had.
func awaitForgotten(node *child, descriptors int) error {
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		a, err := node.ask(order{Do: "gauges"})
		if err != nil {
			return err
		}
		have, err := node.descriptors()
		if err != nil {
			return err
		}
		sessions, sockets, waiting := a.Gauges["sessions"], a.Gauges["sockets"], a.Gauges["sockets_unauthenticated"]
		if sessions == honestClients && sockets == honestClients && waiting == 0 && have <= descriptors {
			return nil
		}
		if time.Since(began) > 30*time.Second {
			return fmt.Errorf("half a minute after the hostile clients have gone the node has %v sessions, %v sockets, %v of them not authenticated, and %d descriptors; want %d, %d, 0 and %d",
				sessions, sockets, waiting, have, honestClients, honestClients, descriptors)
		}
	}
}

// descriptors counts those that the server has open.
func (c *child) descriptors() (int, error) {
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", c.cmd.Process.Pid))
	return len(list), err
}
