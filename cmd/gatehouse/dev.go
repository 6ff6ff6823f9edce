package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	tryout "github.com/gatehouse-ws/gatehouse/cmd/gatehouse/page"
	"github.com/gatehouse-ws/gatehouse/cmd/internal/authorityd"
	"github.com/gatehouse-ws/gatehouse/cmd/internal/ops"
	"github.com/gatehouse-ws/gatehouse/cmd/internal/shell"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/tlsfile"
	"github.com/gatehouse-ws/gatehouse/wsnode"
	"github.com/gatehouse-ws/gatehouse/wsnode/deliver"
	"github.com/gatehouse-ws/gatehouse/wsnode/netloop"
	"github.com/gatehouse-ws/gatehouse/wsnode/schema"
)

//go:embed schemas
var devSchemas embed.FS

const (
	devAudience = "chat"
	devPath     = "/chat"
	devSubject  = "demo-user"
	devHint     = "gatehouse dev --help lists the flags"
	readyWithin = 10 * time.Second
)

// devOptions are the flags of gatehouse dev.
type devOptions struct {
	state                      string
	stateGiven                 bool
	fresh, yes                 bool
	authority, wss, plain, web string // host:port
	logLevel                   string
}

func (c *cli) devCommand() *cobra.Command {
	var o devOptions
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Start a whole Gatehouse on this machine, with a page to try it",
		Long: `Start an authority, a node that echoes messages, and a page to try them, in one
process. Tokens, revocations and keys are kept in a folder and found again at
the next start.

The page and the ws listener it uses are plain HTTP on loopback, and hand out
tokens to whoever loads the page: dev is for a developer's own machine.

Other gatehouse commands find a dev on the default --state by themselves, unless
settings of your own name another authority. The lines that dev prints lead to
this one.`,
		Example: `  gatehouse dev
  gatehouse dev --state ./state --wss-address localhost:9443
  gatehouse dev --fresh`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.stateGiven = cmd.Flags().Changed("state")
			return c.runDev(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.state, "state", "", "the folder of CA, credentials, keys and store (default: gatehouse/dev in your state directory)")
	f.BoolVar(&o.fresh, "fresh", false, "forget what dev keeps in the state folder and start anew, after asking")
	f.BoolVar(&o.yes, "yes", false, "do not ask")
	f.StringVar(&o.authority, "authority-address", "localhost:8440", "host:port of the authority's gRPC listener")
	f.StringVar(&o.wss, "wss-address", "localhost:8443", "host:port of the node's wss listener")
	f.StringVar(&o.plain, "ws-address", "localhost:8081", "host:port of the node's ws listener, on loopback")
	f.StringVar(&o.web, "page-address", "localhost:8080", "host:port of the page, on loopback")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	return cmd
}

// dev is a system that is being started or runs.
type dev struct {
	devOptions
	log       *slog.Logger
	cfg       authorityd.Config
	authority *authorityd.Authority
	node      *wsnode.Node
	issuer    *grpc.ClientConn
	mark      *os.File // locked
	program   []string // how the user calls this program, so that it calls this dev
	astray    []string // variables that lead it elsewhere

	onAuthority, onWSS, onPlain, onPage net.Listener
}

// runDev touches the state folder only once it is known that this process can
// have it, and all it needs beside.
func (c *cli) runDev(ctx context.Context, o devOptions) (err error) {
	if err := o.settle(); err != nil {
		return err
	}
	logs := ops.LogConfig{Format: "text"}
	if err := logs.Level.UnmarshalText([]byte(o.logLevel)); err != nil {
		return usage(devHint, "--log-level: %q is none of debug, info, warn and error", o.logLevel)
	}
	d := &dev{devOptions: o, log: logs.Logger(c.stderr), cfg: o.authorityConfig()}
	defer func() { err = errors.Join(err, d.close()) }()
	if err := d.listen(); err != nil {
		return err
	}
	if d.mark, err = takeState(d.state); err != nil {
		return err
	}
	if o.fresh {
		if err := c.forget(ctx, d.cfg, o.yes); err != nil {
			return err
		}
	}
	if err := d.open(ctx); err != nil {
		return err
	}
	return d.run(ctx, c)
}

// settle fills in defaults and refuses what would let others in.
func (o *devOptions) settle() error {
	if o.state == "" {
		if o.stateGiven {
			return usage("an unset shell variable, perhaps", "--state is empty: name a folder")
		}
		dir, err := defaultStateDir()
		if err != nil {
			return err
		}
		o.state = filepath.Join(dir, filepath.Dir(devSettings))
	}
	var err error
	if o.state, err = filepath.Abs(o.state); err != nil {
		return fmt.Errorf("--state: %w", err)
	}
	if _, ok := shell.Line([]string{o.state}); !ok {
		return usage(devHint, "--state: %q has characters that a terminal does not show as themselves", o.state)
	}
	for _, a := range []struct {
		flag, address string
		plain         bool
	}{
		{"authority-address", o.authority, false}, {"wss-address", o.wss, false}, {"ws-address", o.plain, true}, {"page-address", o.web, true},
	} {
		host, port, err := net.SplitHostPort(a.address)
		if err != nil || port == "" {
			return usage(devHint, "--%s: %q is not host:port, such as localhost:8080", a.flag, a.address)
		}
		if ip, err := netip.ParseAddr(host); a.plain && host != "localhost" && (err != nil || !ip.IsLoopback()) {
			return usage(devHint, "--%s: %q is not on loopback, and this listener has no TLS; use localhost", a.flag, host)
		}
	}
	return nil
}

// listen takes all ports before anything is made, so that a busy one leaves no
// traces.
func (d *dev) listen() error {
	for _, l := range []struct {
		to            *net.Listener
		address, flag string
	}{
		{&d.onAuthority, d.devOptions.authority, "authority-address"},
		{&d.onWSS, d.wss, "wss-address"},
		{&d.onPlain, d.plain, "ws-address"},
		{&d.onPage, d.web, "page-address"},
	} {
		var err error
		if *l.to, err = ops.Listen(l.address, "--"+l.flag); err != nil {
			return err
		}
	}
	return nil
}

func (o *devOptions) authorityConfig() authorityd.Config {
	cfg := authorityd.DefaultConfig()
	cfg.State, cfg.Listen, cfg.Reflection = o.state, o.authority, true
	if host, _, err := net.SplitHostPort(o.authority); err == nil && !slices.Contains(cfg.ServerNames, host) && host != "" {
		cfg.ServerNames = append(cfg.ServerNames, host)
	}
	return cfg
}

// open makes or finds the state and builds the authority.
func (d *dev) open(ctx context.Context) error {
	_, err := authorityd.Init(ctx, d.cfg, slog.New(slog.DiscardHandler))
	if err == nil {
		d.authority, err = authorityd.Open(ctx, d.cfg, d.log)
	}
	switch {
	case errors.Is(err, authorityd.ErrInUse):
		return stateInUse(d.state, err)
	case errors.Is(err, authorityd.ErrStoreMissing):
		return failed(exitFailure, "gatehouse dev --fresh begins anew", "%w", err)
	}
	return err
}

// run starts everything and waits for the end.
func (d *dev) run(ctx context.Context, c *cli) error {
	serve, stopAuthority := context.WithCancel(context.Background())
	defer stopAuthority()
	failed := make(chan error, 4)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { failed <- d.authority.Serve(serve, d.onAuthority) })

	web, err := d.startNode(ctx, c)
	if err != nil {
		stopAuthority()
		return errors.Join(err, <-failed)
	}
	wg.Go(func() {
		if err := web.Serve(d.onPage); !errors.Is(err, http.ErrServerClosed) {
			failed <- fmt.Errorf("page: %w", err)
		}
	})
	if err = d.waitReady(ctx, failed, readyWithin); err == nil && ctx.Err() == nil {
		fmt.Fprint(c.stdout, d.banner())
		select {
		case <-ctx.Done():
		case err = <-failed:
		}
	}
	fmt.Fprintln(c.stdout, "\nstopping: sockets are closed with 1012")
	drain, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = web.Close() // it has no state
	err = errors.Join(err, d.node.Shutdown(drain))
	stopAuthority()
	return err
}

// startNode makes the credentials that are missing, and the node and page that
// call with them.
func (d *dev) startNode(ctx context.Context, c *cli) (*http.Server, error) {
	node, err := d.credential(ctx, devNode, &pb.Credential{Name: devNode, Role: pb.Role_ROLE_NODE})
	if err != nil {
		return nil, err
	}
	issuer, err := d.credential(ctx, devPage, &pb.Credential{
		Name: devPage, Role: pb.Role_ROLE_ISSUER, Audiences: []string{devAudience}, TokensPerSecond: 100,
	})
	if err != nil {
		return nil, err
	}
	if d.node, err = wsnode.New(d.nodeConfig(node), deliver.Echo{}); err != nil {
		return nil, err
	}
	tlsDir := filepath.Join(d.state, "wss")
	host, _, _ := net.SplitHostPort(d.wss)
	names := []string{"localhost", "127.0.0.1", "::1"}
	if host != "" && !slices.Contains(names, host) {
		names = append(names, host)
	}
	if err := d.authority.EnsureServer(tlsDir, names); err != nil {
		return nil, err
	}
	wss, err := tlsfile.Public(filepath.Join(tlsDir, "server.crt"), filepath.Join(tlsDir, "server.key"), time.Now, d.log)
	if err != nil {
		return nil, err
	}
	if d.issuer, err = grpc.NewClient(d.onAuthority.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(issuer))); err != nil {
		return nil, err
	}
	if err := d.writeCLIConfig(); err != nil {
		return nil, err
	}
	d.lead(c)
	handler, err := tryout.New(d.pageConfig())
	if err != nil {
		return nil, err
	}
	d.node.Start()
	go func() { _ = d.node.Serve(d.onWSS, wss) }()   // until Shutdown closes the listener
	go func() { _ = d.node.Serve(d.onPlain, nil) }() // likewise
	return &http.Server{
		Handler: handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 20 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}, nil
}

// credential makes a credential once, and configures its calls.
func (d *dev) credential(ctx context.Context, name string, c *pb.Credential) (tlsConfig *tlsConfig, err error) {
	dir := d.cfg.CredentialDir(name)
	if _, err := os.Stat(filepath.Join(dir, "tls.crt")); errors.Is(err, fs.ErrNotExist) {
		e := authorityd.Enrolment{Credential: c, Replace: true} // an earlier start may have been cut off
		if _, err := authorityd.EnrollAt(ctx, d.cfg, d.onAuthority.Addr().String(), e, d.log); err != nil {
			return nil, err
		}
	}
	if tlsConfig, err = tlsfile.Client(filepath.Join(dir, "ca.crt"), filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"), time.Now, d.log); err != nil {
		return nil, err
	}
	tlsConfig.ServerName = d.cfg.ServerNames[0]
	return tlsConfig, nil
}

func (d *dev) nodeConfig(call *tlsConfig) wsnode.Config {
	c := wsnode.DefaultConfig()
	c.Authority.Address = d.onAuthority.Addr().String()
	c.Credentials, c.Log = credentials.NewTLS(call), d.log
	// Few descriptors are no news to a developer; more than the node sets aside
	// are left, so that it does not warn of them either.
	if most := netloop.Capacity(500); most > 0 {
		c.Limits.Sockets.Max = min(c.Limits.Sockets.Max, most)
	}
	c.DrainWindow, c.ReturnWindow = 0, 0         // one developer is no herd
	c.Sockets.CloseTimeout = 2 * time.Second     // well within what Ctrl-C waits
	c.Schemas, _ = fs.Sub(devSchemas, "schemas") // the folder is embedded
	r := wsnode.Route{Path: devPath, Audience: devAudience, Origins: d.origins()}
	r.SetDefaults()
	r.MissingOrigin, r.RefuseByClose = wsnode.AllowMissing, true
	r.Messages.Types = []schema.Type{{Name: "chat", Schema: "chat.json#/$defs/chat"}, {Name: "ping", Schema: "chat.json#/$defs/ping"}}
	c.Routes = []wsnode.Route{r}
	return c
}

// hosts are the names under which a browser may load the page.
func (d *dev) hosts() []string {
	host, port, _ := net.SplitHostPort(d.web) // listen has used it
	if port == "0" {
		_, port, _ = net.SplitHostPort(d.onPage.Addr().String())
	}
	hosts := []string{net.JoinHostPort(host, port)}
	for _, h := range []string{"localhost", "127.0.0.1"} {
		if h := net.JoinHostPort(h, port); !slices.Contains(hosts, h) {
			hosts = append(hosts, h)
		}
	}
	return hosts
}

func (d *dev) origins() []string {
	var out []string
	for _, h := range d.hosts() {
		out = append(out, "http://"+strings.TrimSuffix(h, ":80"))
	}
	return out
}

// reach is the address by which a local client reaches a listener.
func reach(asked string, l net.Listener) string {
	host, _, _ := net.SplitHostPort(asked)
	_, port, _ := net.SplitHostPort(l.Addr().String())
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return net.JoinHostPort(host, port)
}

func (d *dev) pageConfig() tryout.Config {
	return tryout.Config{
		Hosts: d.hosts(), Origins: d.origins(), Audience: devAudience, Version: pb.Version, Log: d.log,
		Endpoints: []tryout.Endpoint{
			{Name: "ws, without TLS", URL: "ws://" + reach(d.plain, d.onPlain) + devPath, Note: "Plain, and on loopback only: gatehouse dev opens it for this page."},
			{Name: "wss", URL: "wss://" + reach(d.wss, d.onWSS) + devPath, Note: "The browser must trust the CA in " + filepath.Join(d.state, "ca", "ca.crt") + " first."},
		},
		Issue: d.issue,
		Commands: func(tokenID, subject string) []tryout.Command {
			return []tryout.Command{
				{Title: "Revoke this token", Args: slices.Concat(d.program, []string{"revoke", "--token", tokenID})},
				{Title: "Revoke all that " + subject + " holds", Args: slices.Concat(d.program, []string{"revoke", "--subject", subject})},
			}
		},
	}
}

func (d *dev) issue(ctx context.Context, r tryout.IssueRequest) (tryout.IssueResponse, error) {
	resp, err := pb.NewTokenServiceClient(d.issuer).IssueToken(ctx, &pb.IssueTokenRequest{
		Subject: r.Subject, Audience: r.Audience, ClientIp: r.ClientIP.String(), UserAgent: []byte(r.UserAgent), Origin: r.Origin,
	})
	if err != nil {
		return tryout.IssueResponse{}, err
	}
	return tryout.IssueResponse{Token: resp.GetToken(), TokenID: resp.GetTokenId(), ExpiresAt: resp.GetExpiresAt().AsTime()}, nil
}

// waitReady waits until the node admits sockets, or ctx ends.
func (d *dev) waitReady(ctx context.Context, failed <-chan error, limit time.Duration) error {
	late := time.After(limit)
	for {
		unready := d.node.Ready()
		if unready == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		case <-late:
			return &failure{
				exit: exitFailure, hint: "the log above says why; --log-level debug says more, gatehouse dev --fresh begins anew",
				err: fmt.Errorf("the node does not get ready within %v: %w", limit, unready),
			}
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// close closes what run has not.
func (d *dev) close() error {
	for _, l := range []net.Listener{d.onAuthority, d.onWSS, d.onPlain, d.onPage} {
		if l != nil {
			_ = l.Close()
		}
	}
	var errs []error
	if d.issuer != nil {
		errs = append(errs, d.issuer.Close())
	}
	if d.authority != nil {
		errs = append(errs, d.authority.Close())
	}
	if d.mark != nil {
		errs = append(errs, d.mark.Close())
	}
	return errors.Join(errs...)
}
