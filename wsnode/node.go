// Package wsnode is a Gatehouse node: it accepts ws and wss, lets in who shows
// a token that the authority redeems, and hands what they send to a Handler
// once it is valid. It holds no truth of its own.
package wsnode

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
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
	made      time.Time // instants count from then
	log       *slog.Logger
	handler   deliver.Handler
	routes    map[string]*route
	addresses *limit.Addresses
	sessions  *sessions
	verify    *verify.Client
	driver    *netloop.Driver
	metrics   *metrics
	live      atomic.Pointer[live]

	lobby           loop // of who waits for a loop; nobody has a turn there
	draining        atomic.Bool
	slots           atomic.Uint64 // of coming back that were given away
	rejecting       atomic.Int32  // sockets above a limit that are being told so
	noAddressLogged seldom        // of connections without an address
	noClientLogged  seldom        // of trusted proxies that do not name their clients

	reloading sync.Mutex // one at a time

	mu        sync.Mutex
	listeners map[net.Listener]struct{}
	stop      context.CancelFunc // ends verify
	stopped   chan struct{}      // closed when verify has ended
}

// New makes a node that hands messages to handler. Its schema files are read
// now. A node that is not to be used after all needs its Shutdown too.
func New(cfg Config, handler deliver.Handler) (*Node, error) {
	if cfg.Credentials == nil {
		return nil, errors.New("config: no Credentials to call the authority with")
	}
	return newNode(cfg, handler, func(e verify.Enforcer) (*verify.Client, error) {
		return verify.New(cfg.Authority, cfg.Credentials, cfg.Dead, e, cfg.Log)
	})
}

// Over is New for an authority that is reached otherwise than by its address,
// and for another clock to count leases by; see verify.Over.
func Over(api pb.NodeServiceClient, clock func() time.Duration, cfg Config, handler deliver.Handler) (*Node, error) {
	return newNode(cfg, handler, func(e verify.Enforcer) (*verify.Client, error) {
		return verify.Over(api, clock, cfg.Authority, cfg.Dead, e, cfg.Log)
	})
}

func newNode(cfg Config, handler deliver.Handler, client func(verify.Enforcer) (*verify.Client, error)) (*Node, error) {
	if cfg.Log == nil {
		return nil, errors.New("config: no Log")
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	n := &Node{
		cfg: cfg, limits: cfg.Sockets.wsconn(), made: time.Now().Add(-1), log: cfg.Log, handler: handler,
		routes: map[string]*route{}, sessions: newSessions(),
		listeners: map[net.Listener]struct{}{},
	}
	n.lobby.n, n.lobby.entrance.loop = n, &n.lobby
	n.slots.Store(firstSlot())
	for _, r := range cfg.Routes {
		use := &route{Route: r}
		use.origins.Store(r.originRule())
		for _, t := range r.Messages.Types {
			if t.PerSecond == 0 {
				continue
			}
			if use.rated == nil {
				use.rated = map[string]schema.Type{}
			}
			use.rated[t.Name] = t
		}
		n.routes[r.Path] = use
	}
	live, err := n.newLive(&cfg)
	if err != nil {
		return nil, err
	}
	n.live.Store(live)
	n.addresses = limit.NewAddresses(live.limits)
	if err = n.loadSchemas(); err != nil {
		return nil, err
	}
	n.driver = netloop.NewDriver(cfg.Sockets.driver(), opener{n}, cfg.Log)
	if n.metrics, err = newMetrics(cfg.Metrics, n); err != nil {
		return nil, err
	}
	if n.verify, err = client(enforcer{n}); err != nil {
		return nil, err
	}
	return n, nil
}

// Instance is the id that this process is registered under.
func (n *Node) Instance() [16]byte { return n.verify.Instance() }

// MaxSockets is the limit on open sockets that is in force: limits.sockets.max,
// or less where the limit on open files is lower.
func (n *Node) MaxSockets() int { return n.live.Load().limits.Sockets.Max }

// Start begins to follow the authority. Until it has caught up, handshakes are
// refused with 503. Call it once.
func (n *Node) Start() {
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	n.mu.Lock()
	n.stop, n.stopped = cancel, stopped
	n.mu.Unlock()
	go func() { // ends by Shutdown
		defer close(stopped)
		n.verify.Run(ctx)
	}()
}

// Serve accepts from l until Drain or Shutdown, which close it, over TLS if
// tlsConfig is not nil. l is Serve's from now on. An error of l that time does
// not mend ends it before, and is returned. What tlsConfig has called in a handshake
// must not wait: all handshakes of the node may wait for it.
//
// l should take no Multipath TCP (RFC 8684), which net.Listen may ask for: its peers
// may send from other addresses too, and limits, bindings and revocations know the
// first alone. net.ListenConfig.SetMultipathTCP turns it off.
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

// Shutdown drains, cuts off what is left when ctx ends, and leaves the
// authority. The node is of no use after it.
func (n *Node) Shutdown(ctx context.Context) error {
	err := n.Drain(ctx)
	n.driver.Close()
	n.mu.Lock()
	stop, stopped := n.stop, n.stopped
	n.stop = nil
	n.mu.Unlock()
	if stop == nil { // never started, or shut down before
		n.verify.Close()
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
