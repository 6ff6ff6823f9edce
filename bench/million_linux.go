package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

const (
	// markedSockets is how many sockets one revocation closes, spread over all nodes.
	markedSockets = 100
	// pairsAtOnce is how many nodes are filled at once: the authority takes their
	// handshakes together.
	pairsAtOnce = 4
	// echoesEach is how many sockets of each node are asked for an echo.
	echoesEach = 5
)

// fleet is nodes, and for each a process of clients whose sockets it has.
type fleet struct {
	lab       *lab
	authority *child
	nodes     []*child
	visitors  []*child
	sizes     []int // of those
	marked    int   // sockets of each of the two kinds that are revoked
}

// share is the part of the i-th of n that whole is dealt to.
func share(whole, i, n int) int { return whole/n + boolInt(i < whole%n) }

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// benchMillion opens more sockets than one process may have, on several nodes,
// and looks at what all of it takes while they are open.
func benchMillion(ctx context.Context, l *lab) (err error) {
	room, err := roomHere()
	if err != nil {
		return err
	}
	pairs, err := room.pairsFor(l.sockets)
	if err != nil {
		return err
	}
	f := &fleet{lab: l, marked: min(markedSockets, l.sockets/4)}
	defer func() { err = errors.Join(err, f.close()) }()
	l.say("  %v sockets on %d nodes, from %d processes of clients", Number(l.sockets), pairs, pairs)
	if err := f.start(ctx, pairs); err != nil {
		return err
	}
	before, err := f.look()
	if err != nil {
		return err
	}
	took, err := f.open(ctx)
	if err != nil {
		return err
	}
	time.Sleep(l.settle)
	after, err := f.look()
	if err != nil {
		return err
	}
	byNodes, byClients, err := f.count(l.sockets)
	if err != nil {
		return err
	}
	n := float64(l.sockets)
	l.report.table("million", "idle authenticated sockets, all open at once, each with a token of its own that was issued, redeemed and stored", "sockets", "by the nodes", "by the clients",
		"nodes", "all opened in s", "sockets/s", "node's CPU-µs each", "authority's CPU-µs each").
		row("opened", n, byNodes, byClients, float64(pairs), took.Seconds(), n/took.Seconds(),
			micros(after.nodesCPU-before.nodesCPU)/n, micros(after.authorityCPU-before.authorityCPU)/n)
	f.memoryTable(before, after)
	if err := f.echo(); err != nil {
		return err
	}
	if err := f.revoke(ctx); err != nil {
		return err
	}
	return f.leave()
}

func (f *fleet) start(ctx context.Context, pairs int) (err error) {
	l := f.lab
	keys, err := l.keys()
	if err != nil {
		return err
	}
	if f.authority, err = l.serverOn(l.cores.load, spec{Kind: "authority", Keys: keys}); err != nil {
		return err
	}
	for i := range pairs {
		if err := ctx.Err(); err != nil {
			return err
		}
		f.sizes = append(f.sizes, share(l.sockets, i, pairs))
		n, err := l.server(spec{Kind: "node", Keys: keys, Authority: f.authority.addr, Addresses: addressesFor(f.sizes[i])})
		if err != nil {
			return err
		}
		f.nodes = append(f.nodes, n)
		c, err := l.serverOn(l.cores.load, spec{Kind: "visitors", Keys: keys, Authority: f.authority.addr})
		if err != nil {
			return err
		}
		f.visitors = append(f.visitors, c)
	}
	return nil
}

// addressesFor is a power of two that is above a number of sockets, so that as
// many addresses are remembered.
func addressesFor(sockets int) int {
	n := 1 << 12
	for n <= sockets {
		n *= 2
	}
	return n
}

// each calls fn for all pairs, some at once.
func (f *fleet) each(fn func(i int) error) error {
	_, err := drive(pairsAtOnce, forCount(len(f.visitors)), numbered(fn))
	return err
}

// open opens all sockets.
func (f *fleet) open(ctx context.Context) (time.Duration, error) {
	first := make([]int, len(f.sizes)+1)
	for i, n := range f.sizes {
		first[i+1] = first[i] + n
	}
	began := time.Now()
	var open atomic.Int64
	err := f.each(func(i int) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		free, err := memoryAvailable()
		if err != nil {
			return err
		}
		if under := int64(pairsAtOnce * f.sizes[i] * socketBytes); free < keepFree+under {
			return fmt.Errorf("%w: %d MB of memory are free with %v sockets open, and %d MB must stay so: something else takes memory too", errNoRoom, free>>20, Number(open.Load()), keepFree>>20)
		}
		_, err = f.visitors[i].ask(order{Do: "open", Count: f.sizes[i], Visitors: visitorsOrder{
			Addr: f.nodes[i].addr, First: first[i], ByAddress: share(f.marked, i, len(f.visitors)), BySubject: share(f.marked, i, len(f.visitors)),
		}})
		if err != nil {
			return err
		}
		f.lab.say("  %v sockets open after %v; %v GB of memory free", Number(open.Add(int64(f.sizes[i]))), time.Since(began).Round(time.Second), Number(float64(free)/1e9))
		return nil
	})
	return time.Since(began), err
}

// count is how many sockets there are, as the nodes' metrics and the clients say.
// Both must say want, and the nodes of no other sockets: at once, but that the
// last that went may be seen to go.
func (f *fleet) count(want int) (byNodes, byClients float64, err error) {
	for _, v := range f.visitors {
		a, err := v.ask(order{Do: "count"})
		if err != nil {
			return 0, 0, err
		}
		byClients += float64(a.Count)
	}
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		var all, unauthenticated float64
		byNodes = 0
		for _, n := range f.nodes {
			a, err := n.ask(order{Do: "gauges"})
			if err != nil {
				return 0, 0, err
			}
			byNodes += a.Gauges["sessions"]
			all += a.Gauges["sockets"]
			unauthenticated += a.Gauges["sockets_unauthenticated"]
		}
		switch {
		case byClients == float64(want) && byNodes == byClients && all == byNodes && unauthenticated == 0:
			return byNodes, byClients, nil
		case byClients != float64(want) || byNodes < byClients || time.Since(began) > 30*time.Second:
			return 0, 0, fmt.Errorf("the nodes have %v sessions, %v sockets and %v that are not authenticated, the clients %v, want %d", byNodes, all, unauthenticated, byClients, want)
		}
	}
}

// echo has some sockets of each node send a message.
func (f *fleet) echo() error {
	var latency []time.Duration
	for _, c := range f.visitors {
		a, err := c.ask(order{Do: "echo", Count: echoesEach})
		if err != nil {
			return err
		}
		latency = append(latency, a.Latency...)
	}
	slices.Sort(latency)
	s := sample{tally: tally{latency: latency}}
	f.lab.report.table("million echo", fmt.Sprintf("a text of %d bytes on %d of the sockets of each node, one after the other; all must come back", wsPayload, echoesEach), "messages", "p50 ms", "p99 ms").
		row("echo", float64(len(latency)), s.p50(), s.p99())
	return nil
}

// revoke revokes few of the sockets, which all nodes have some of.
func (f *fleet) revoke(ctx context.Context) error {
	admin, err := f.lab.dial(f.authority.addr, "admin")
	if err != nil {
		return err
	}
	defer func() { _ = admin.Close() }() // there is nothing more to say
	api := pb.NewRevocationServiceClient(admin)
	t := f.lab.report.table("million revoke", "one Revoke until its receipt says that all nodes have enforced it, and until the last of the clients has its close frame with 4501",
		"sockets", "nodes", "receipt ms", "all closed ms")
	left := f.lab.sockets
	for _, c := range []struct {
		name string
		by   *pb.Selector
	}{
		{fmt.Sprintf("%d subjects, by the prefix of their addresses", f.marked), &pb.Selector{By: &pb.Selector_IpPrefix{IpPrefix: markedPrefix}}},
		{"one subject with as many sockets", &pb.Selector{By: &pb.Selector_Subject{Subject: &pb.Subject{Tenant: "default", Subject: markedSubject}}}},
	} {
		began := time.Now()
		resp, err := api.Revoke(ctx, &pb.RevokeRequest{Selector: c.by, Reason: "bench"})
		if err != nil {
			return err
		}
		if err := awaitReceipt(ctx, api, resp.GetRevision(), len(f.nodes), f.marked); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		receipt := time.Since(began)
		last := began
		for i, v := range f.visitors { // what came meanwhile waits to be read, so that this is how long it took at most
			a, err := v.ask(order{Do: "closed", Count: share(f.marked, i, len(f.visitors))})
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			if a.Time.After(last) {
				last = a.Time
			}
		}
		t.row(c.name, float64(f.marked), float64(len(f.nodes)), millis(receipt), millis(last.Sub(began)))
		left -= f.marked
	}
	_, _, err = f.count(left)
	return err
}

// leave has all clients go, after which no node may count a socket.
func (f *fleet) leave() error {
	f.lab.say("  all leave")
	if err := f.each(func(i int) error {
		_, err := f.visitors[i].ask(order{Do: "leave"})
		return err
	}); err != nil {
		return err
	}
	_, _, err := f.count(0)
	return err
}

// close ends the clients first, so that the nodes have nobody to wait for.
func (f *fleet) close() error {
	stop := func(all []*child) (errs []error) {
		for _, c := range all {
			errs = append(errs, c.stop())
		}
		return errs
	}
	errs := stop(f.visitors)
	if err := errors.Join(stop(f.nodes)...); err != nil { // the authority may have too much to do yet to hear them
		f.lab.say("  a node did not end well: %v", err)
	}
	if f.authority != nil {
		errs = append(errs, f.authority.stop())
	}
	return errors.Join(errs...)
}
