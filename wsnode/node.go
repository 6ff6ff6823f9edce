// Package wsnode is a Gatehouse node: it accepts ws and wss, lets in who shows
// a token that the authority redeems, and hands what they send to a Handler
// once it is valid. It holds no truth of its own.
package wsnode

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/wsnode/deliver"
	"github.com/gatehouse-ws/gatehouse/wsnode/limit"
	"github.com/gatehouse-ws/gatehouse/wsnode/netloop"
	"github.com/gatehouse-ws/gatehouse/wsnode/schema"
	"github.com/gatehouse-ws/gatehouse/wsnode/verify"
	"github.com/gatehouse-ws/gatehouse/wsnode/wsconn"
)

// Node is a node. Make it with New, Start it, Serve its listeners, and end it
// with Shutdown.
type Node struct {
	cfg       Config
	limits    wsconn.Limits
	log       *slog.Logger
	handler   deliver.Handler
	routes    map[string]*route
	addresses *limit.Addresses
	sessions  *sessions
	verify    *verify.Client
	driver    *netloop.Portable
	metrics   *metrics

	draining  atomic.Bool
	rejecting atomic.Int32 // sockets above a limit that are being told so

	mu        sync.Mutex
	listeners map[net.Listener]struct{}
	stop      context.CancelFunc // ends verify
	stopped   chan struct{}      // closed when verify has ended
}

// New makes a node that hands messages to handler. Its schema files are read
// now.
func New(cfg Config, handler deliver.Handler) (*Node, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	n := &Node{
		cfg: cfg, limits: cfg.Sockets.wsconn(), log: cfg.Log, handler: handler,
		routes: map[string]*route{}, addresses: limit.NewAddresses(cfg.Limits), sessions: newSessions(),
		listeners: map[net.Listener]struct{}{},
	}
	for i, r := range cfg.Routes {
		use := &route{Route: r}
		if !r.Unchecked {
			var err error
			if use.checks, err = schema.Compile(cfg.Schemas, r.Messages); err != nil {
				return nil, fmt.Errorf("routes[%d].messages: %w", i, err)
			}
		}
		n.routes[r.Path] = use
	}
	var err error
	if n.verify, err = verify.New(cfg.Authority, cfg.TLS, cfg.Dead, n, cfg.Log); err != nil {
		return nil, err
	}
	n.driver = netloop.NewPortable(cfg.Sockets.driver(), n, cfg.Log)
	n.metrics, err = newMetrics(cfg.Metrics, n)
	return n, err
}

// Instance is the id that this process is registered under.
func (n *Node) Instance() [16]byte { return n.verify.Instance() }

// Start begins to follow the authority. Until it has caught up, handshakes are
// refused with 503.
func (n *Node) Start() {
	ctx, cancel := context.WithCancel(context.Background())
	n.mu.Lock()
	defer n.mu.Unlock()
	n.stop, n.stopped = cancel, make(chan struct{})
	go func() { // ends by Shutdown
		defer close(n.stopped)
		n.verify.Run(ctx)
	}()
}

// Serve accepts from l until Drain or Shutdown closes it, over TLS if
// tlsConfig is not nil.
func (n *Node) Serve(l net.Listener, tlsConfig *tls.Config) error {
	n.mu.Lock()
	if n.draining.Load() {
		n.mu.Unlock()
		_ = l.Close() // nothing was accepted from it
		return nil
	}
	n.listeners[l] = struct{}{}
	n.mu.Unlock()
	return n.driver.Serve(l, tlsConfig)
}

// Ready is nil while handshakes are admitted, or says why not.
func (n *Node) Ready() error {
	if n.draining.Load() {
		return errDraining
	}
	return n.verify.Ready()
}

// Sessions counts the live sessions.
func (n *Node) Sessions() int { return n.sessions.count() }

// Drain admits nobody any more, closes every session with 1012 and waits until
// all sockets are gone, or ctx ends.
func (n *Node) Drain(ctx context.Context) error {
	n.mu.Lock()
	n.draining.Store(true)
	for l := range n.listeners {
		_ = l.Close() // Serve returns
	}
	n.mu.Unlock()
	n.killAll(errDraining)
	return n.driver.Wait(ctx)
}

// Shutdown drains, cuts off what is left when ctx ends, and leaves the
// authority.
func (n *Node) Shutdown(ctx context.Context) error {
	err := n.Drain(ctx)
	n.driver.Close()
	n.mu.Lock()
	stop, stopped := n.stop, n.stopped
	n.mu.Unlock()
	if stop == nil {
		return err
	}
	goodbye, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if e := n.verify.Goodbye(goodbye); e != nil {
		err = errors.Join(err, fmt.Errorf("goodbye to the authority: %w", e))
	}
	stop()
	<-stopped
	return err
}

// maxRejecting is how many sockets above a limit are given an answer at once;
// more are reset.
const maxRejecting = 256

// Accepted implements netloop.Opener. A full node refuses before TLS: there is
// nothing to answer with but a costly handshake.
func (n *Node) Accepted(from netip.AddrPort, overTLS bool, now time.Time) (netloop.Ticket, bool) {
	addr := from.Addr()
	d := n.addresses.Accept(addr, now)
	n.countDry(d)
	if d.Allow {
		return &ticket{n: n, addr: addr}, true
	}
	n.metrics.dropped[d.Rule].Inc()
	reason, full := limitReason(d.Rule)
	if d.Action == limit.Drop || full && overTLS {
		n.log.Debug("connection reset", "reason", reason.Label(), "client_ip", addr.String())
		return nil, false
	}
	if n.rejecting.Add(1) > maxRejecting {
		n.rejecting.Add(-1)
		return nil, false
	}
	return &ticket{n: n, addr: addr, reason: reason, retry: d.RetryAfter}, true
}

// limitReason is the reason of a limit's refusal, and whether the node as a
// whole is full.
func limitReason(r limit.Rule) (reason pb.Reason, full bool) {
	switch r {
	case limit.UnauthenticatedPerAddress:
		return pb.Reason_REASON_ADDRESS_UNAUTHENTICATED_LIMIT, false
	case limit.AuthenticatedPerAddress:
		return pb.Reason_REASON_ADDRESS_LIMIT, false
	case limit.NewPerAddress:
		return pb.Reason_REASON_ADDRESS_RATE, false
	}
	return pb.Reason_REASON_CAPACITY, true
}

// ticket is a connection that was let in and has no machine yet. With a reason
// it was let in only to be told so, and no limit counts it.
type ticket struct {
	n      *Node
	addr   netip.Addr
	reason pb.Reason
	retry  time.Duration
}

// Open implements netloop.Ticket.
func (t *ticket) Open(link netloop.Link, now time.Time) netloop.Machine {
	p := &peer{
		n: t.n, link: link, addr: t.addr, began: now, now: now, heard: now,
		counted: t.reason == 0, early: t.reason, retry: t.retry,
	}
	if _, err := rand.Read(p.id[:]); err != nil {
		panic("no randomness: " + err.Error()) // crypto/rand never fails on supported systems
	}
	switch {
	case p.early != 0:
	case t.n.draining.Load():
		p.early = pb.Reason_REASON_DRAINING
	case t.n.verify.Ready() != nil:
		p.early = pb.Reason_REASON_FENCED
	}
	p.conn.Reset(&t.n.limits, now)
	return p
}

// Failed implements netloop.Ticket.
func (t *ticket) Failed(err error) {
	t.n.log.Debug("TLS handshake failed", "client_ip", t.addr.String(), "error", err)
	t.n.metrics.tlsFailed.Inc()
	t.n.gone(t.addr, t.reason == 0, false)
}

// gone takes a socket out of the counts.
func (n *Node) gone(addr netip.Addr, counted, admitted bool) {
	if counted {
		n.addresses.Gone(addr, admitted)
	} else {
		n.rejecting.Add(-1)
	}
}

// giveBack ends a session whose socket is gone before it was told.
func (n *Node) giveBack(o verify.Outcome, id [16]byte, now time.Time) {
	if o.Grant != nil {
		n.verify.Ended(id, pb.Reason_REASON_CONNECTION_LOST, now)
	}
}

func (n *Node) countDry(d limit.Decision) {
	if d.Dry == 0 {
		return
	}
	for rule := range n.metrics.dropped {
		if d.Dry.Has(rule) {
			n.metrics.dry.WithLabelValues(rule.String()).Inc()
		}
	}
}

// enforceTimeout bounds how long an acknowledgement waits for close frames to
// be queued; what is later lingers. The sessions are dead before.
const enforceTimeout = time.Second

// Enforce implements verify.Enforcer.
func (n *Node) Enforce(entries []verify.Entry) []verify.Count {
	counts := make([]verify.Count, len(entries))
	type hit struct {
		s  *session
		of int
	}
	var hits []hit
	for i := range entries {
		for _, s := range n.sessions.hit(&entries[i]) {
			if !s.dead.Load() { // else an entry before hit it, or it was ending
				s.dead.Store(true)
				hits = append(hits, hit{s, i})
			}
		}
	}
	if len(hits) == 0 {
		return counts
	}
	queued := make(chan int, len(hits))
	for _, h := range hits {
		counts[h.of].Closed++
		counts[h.of].Lingering++
		cause := errRevoked
		if entries[h.of].Lock {
			cause = errLocked
		}
		h.s.kill(cause, func() { queued <- h.of })
	}
	timeout := time.After(enforceTimeout)
	for range hits {
		select {
		case of := <-queued:
			counts[of].Lingering--
		case <-timeout:
			return counts
		}
	}
	return counts
}

// Fence implements verify.Enforcer.
func (n *Node) Fence() { n.killAll(errFence) }

func (n *Node) killAll(cause error) {
	for _, s := range n.sessions.all() {
		s.kill(cause, nil)
	}
}
