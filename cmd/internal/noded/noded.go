package noded

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gatehouse-ws/gatehouse/cmd/internal/ops"
	"github.com/gatehouse-ws/gatehouse/cmd/internal/tracing"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/wsnode"
	"github.com/gatehouse-ws/gatehouse/wsnode/deliver"
)

// drainTimeout bounds how long sockets may take to close once they were told to,
// which takes the drain window.
const drainTimeout = 10 * time.Second

// listener is an opened address.
type listener struct {
	net.Listener
	tls     *tls.Config                // nil for plain
	current atomic.Pointer[tls.Config] // what tls has in force
}

// over has the listener speak TLS as current says.
func (l *listener) over(current *tls.Config) {
	l.current.Store(current)
	l.tls = &tls.Config{
		MinVersion:         current.MinVersion,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return l.current.Load(), nil },
	}
}

// Daemon is a node with its listeners open.
type Daemon struct {
	cfg       Config // of the start
	loaded    Config // last
	log       *slog.Logger
	node      *wsnode.Node
	listeners []*listener
	admin     net.Listener
	instances *instances // nil without a state folder
	renewer   *renewer
	metrics   *prometheus.Registry
	traces    *tracing.Exporter // nil for none
}

// Open opens the listeners and builds the node. Run what it returns. lost counts
// the lines that log has lost.
func Open(cfg Config, log *slog.Logger, lost func() uint64) (_ *Daemon, err error) {
	d := &Daemon{cfg: cfg, loaded: cfg, log: log, metrics: ops.NewMetrics()}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	for i, l := range cfg.Listeners {
		open := &listener{}
		over, err := cfg.listenerTLS(i, log)
		if err != nil {
			return nil, err
		}
		if over != nil {
			open.over(over)
		}
		if open.Listener, err = ops.Listen(l.Address, fmt.Sprintf("listeners[%d].address", i)); err != nil {
			return nil, err
		}
		d.listeners = append(d.listeners, open)
	}
	if cfg.Admin != "" {
		if d.admin, err = ops.Listen(cfg.Admin, "--admin"); err != nil {
			return nil, err
		}
	}
	if cfg.State != "" {
		if d.instances, err = openInstances(cfg.State); err != nil {
			return nil, err
		}
		cfg.Dead = d.instances.known
	}
	if d.renewer, err = newRenewer(&cfg, log); err != nil {
		return nil, err
	}
	cfg.Credentials, cfg.Authority.Trust = d.renewer.creds, d.renewer.tell
	if err = errors.Join(d.renewer.register(d.metrics), d.metrics.Register(wsnode.LogLinesLost(lost))); err != nil {
		return nil, err
	}
	cfg.Config.Log, cfg.Metrics, cfg.Config.Schemas = log, d.metrics, os.DirFS(cfg.Schemas)
	if d.traces, err = traced(&cfg, log); err != nil {
		return nil, err
	}
	if d.node, err = wsnode.New(cfg.Config, deliver.Echo{}); err != nil {
		return nil, err
	}
	if d.instances != nil {
		return d, d.instances.write(append(d.instances.known, d.node.Instance()))
	}
	return d, nil
}

// traced has a node's handshakes traced and exported, where they are to be.
func traced(cfg *Config, log *slog.Logger) (*tracing.Exporter, error) {
	if cfg.Traces.Handshakes == 0 {
		return nil, nil
	}
	traces, err := tracing.Start(context.Background(), "gatehouse-node", pb.Version, log)
	if err == nil && traces == nil {
		log.Warn("traces.handshakes has no effect: no OTEL_EXPORTER_OTLP_ENDPOINT says where spans are to go")
	}
	if err != nil || traces == nil {
		return nil, err
	}
	cfg.Tracer = newTracer(traces.Provider(), cfg.Traces.Handshakes)
	return traces, nil
}

// Run serves until ctx ends, then drains.
func (d *Daemon) Run(ctx context.Context) error {
	defer d.close()
	d.start()
	var wg sync.WaitGroup
	adminCtx, stopAdmin := context.WithCancel(context.Background())
	failed := make(chan error, len(d.listeners)+1)
	if d.admin != nil {
		wg.Go(func() {
			ready := func() error {
				if ctx.Err() != nil {
					return errors.New("stopping")
				}
				return d.node.Ready()
			}
			if err := ops.ServeAdmin(adminCtx, d.admin, d.metrics, ready); err != nil {
				failed <- err
			}
		})
	}
	wg.Go(func() { d.renewer.run(adminCtx) })
	d.node.Start()
	for _, l := range d.listeners {
		wg.Go(func() {
			if err := d.node.Serve(l.Listener, l.tls); err != nil {
				failed <- err
			}
		})
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	d.log.Info("node drains", "sessions", d.node.Sessions(), "window", d.cfg.DrainWindow)
	drain, cancel := context.WithTimeout(context.Background(), d.cfg.DrainWindow+drainTimeout)
	defer cancel()
	shut := d.node.Shutdown(drain)
	if shut == nil && d.instances != nil {
		shut = d.instances.write(d.instances.known) // it said goodbye: nobody need declare it dead
	}
	stopAdmin()
	wg.Wait()
	d.log.Info("node stopped")
	return errors.Join(err, shut)
}

func (d *Daemon) start() {
	for i, l := range d.listeners {
		d.log.Info("listening", "address", l.Addr().String(), "tls", l.tls != nil)
		if l.tls == nil {
			d.log.Warn("this listener has no TLS: tokens and messages cross the network for all to read", "address", d.cfg.Listeners[i].Address)
		}
	}
	for _, p := range d.cfg.TrustedProxies {
		d.log.Info("proxies are trusted to say who their clients are", "networks", p.Networks, "mode", p.Mode)
	}
	for _, r := range d.cfg.Routes {
		if r.Unchecked {
			d.log.Warn("this route passes messages on without a schema", "path", r.Path, "binary", r.Binary)
		}
		if r.Tunnels == wsnode.ThrottleTunnels || r.Tunnels == wsnode.LogTunnels {
			d.log.Warn("this route does not close sockets whose messages carry another protocol", "path", r.Path, "tunnels", string(r.Tunnels))
		}
	}
	id := d.node.Instance()
	d.log.Info("node started", "version", pb.Version, "instance", fmt.Sprintf("%x", id), "authority", d.cfg.Authority.Address,
		"admin", d.cfg.Admin, "sockets_max", d.node.MaxSockets(), "routes", len(d.cfg.Routes), "traces", d.traces.To())
}

// close closes what is open; after Run all of it is closed already but for the
// state folder.
func (d *Daemon) close() {
	for _, l := range d.listeners {
		_ = l.Close()
	}
	if d.admin != nil {
		_ = d.admin.Close()
	}
	if d.instances != nil {
		_ = d.instances.close()
	}
	d.traces.Close()
}
