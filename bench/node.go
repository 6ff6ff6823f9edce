package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/credentials"

	"github.com/gatehouse-ws/gatehouse/wsnode"
	"github.com/gatehouse-ws/gatehouse/wsnode/deliver"
	"github.com/gatehouse-ws/gatehouse/wsnode/limit"
	"github.com/gatehouse-ws/gatehouse/wsnode/schema"
)

// wsMessage is what is echoed and broadcast: 128 bytes.
const wsMessage = `{"type":"chat","id":"01KB7Q8V7Y3N6M2K5T0R4W1X8C","room":"general","text":"It seems faster","sent_at":"2026-11-24T09:30:15.250Z"}`

// serveNode is a node as gatehouse-node runs it: its limits are
// all on but set so high that a load from one address passes them. Its route is
// unchecked.
func serveNode(sp spec) (*server, error) {
	return startNode(sp, func(r *wsnode.Route) { r.Unchecked = true })
}

// serveChecked is serveNode with a schema for the messages.
func serveChecked(sp spec) (*server, error) {
	return startNode(sp, func(r *wsnode.Route) { r.Messages.Types = []schema.Type{{Name: "chat", Schema: schemaFile("chat")}} })
}

func startNode(sp spec, edit func(*wsnode.Route)) (*server, error) {
	debug.SetGCPercent(50) // as gatehouse-node has it
	config := wsnode.DefaultConfig()
	config.Authority.Address = sp.Authority
	var err error
	if config.Schemas, err = fs.Sub(messages, "messages"); err != nil {
		return nil, err
	}
	route := wsnode.Route{Path: wsPath, Audience: audience}
	route.SetDefaults()
	edit(&route)
	route.Origins = []string{origin}
	config.Routes = []wsnode.Route{route}
	if sp.Portable {
		config.Sockets.Driver = wsnode.PortableDriver
	}
	config.Sockets.PingInterval = time.Hour // to open many sockets takes longer than to be silent for too long
	const many = 1_000_000
	config.Limits.Unauthenticated.Max, config.Limits.UnauthenticatedPerAddress.Max = many, many
	config.Limits.AuthenticatedPerAddress.Max, config.Limits.Sockets.Max = many, many
	config.Limits.NewPerAddress = limit.Window{Max: many, Length: time.Second, Action: limit.Reject}
	if sp.Addresses > 0 {
		config.Limits.Addresses = sp.Addresses
	}
	config.Limits.Messages = limit.Messages{PerSecond: many, Burst: many}

	logTo, err := queueLog(filepath.Join(sp.Dir, "log.jsonl"))
	if err != nil {
		return nil, err
	}
	registry := prometheus.NewRegistry()
	config.Log, config.Metrics = slog.New(slog.NewJSONHandler(logTo, nil)), registry
	call, err := clientTLS(sp.Keys, "node")
	if err != nil {
		return nil, err
	}
	config.Credentials = credentials.NewTLS(call)
	var over *tls.Config
	if sp.TLS {
		if over, err = publicTLS(sp.Keys); err != nil {
			return nil, err
		}
	}
	n, err := wsnode.New(config, deliver.Echo{})
	if err != nil {
		return nil, err
	}
	n.Start()
	for began := time.Now(); n.Ready() != nil; time.Sleep(time.Millisecond) {
		if time.Since(began) > 10*time.Second {
			return nil, fmt.Errorf("node does not become ready: %w", n.Ready())
		}
	}
	var listen net.ListenConfig
	listen.SetMultipathTCP(false) // as gatehouse-node listens
	if sp.SendBytes > 0 {
		listen.Control = func(_, _ string, c syscall.RawConn) error { // who is accepted has it from the listener
			var err error
			e := c.Control(func(fd uintptr) {
				err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF, sp.SendBytes)
			})
			return errors.Join(e, err)
		}
	}
	l, err := listen.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- n.Serve(l, over) }() // ends by Shutdown
	return &server{
		addr: l.Addr().String(),
		do: map[string]func(order) (answer, error){
			"gauges": func(order) (answer, error) { return gaugesOf(registry) },
			"broadcast": func(order) (answer, error) {
				return answer{}, n.Broadcast(deliver.To{All: true}, deliver.Text, []byte(wsMessage))
			},
		},
		close: func() error {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			return errors.Join(n.Shutdown(ctx), <-ended, logTo.Close())
		},
	}, nil
}

// gaugesOf reads a node's metrics, as whoever watches it does.
func gaugesOf(from prometheus.Gatherer) (answer, error) {
	families, err := from.Gather()
	if err != nil {
		return answer{}, err
	}
	a := answer{Gauges: map[string]float64{}}
	for _, f := range families {
		name, ours := strings.CutPrefix(f.GetName(), "gatehouse_node_")
		if !ours {
			continue
		}
		for _, m := range f.GetMetric() {
			var labels []string
			for _, p := range m.GetLabel() {
				labels = append(labels, p.GetValue())
			}
			of := name
			if len(labels) > 0 {
				of += "{" + strings.Join(labels, ",") + "}"
			}
			a.Gauges[of] = m.GetGauge().GetValue() + m.GetCounter().GetValue() // it is one of them
		}
	}
	return a, nil
}
