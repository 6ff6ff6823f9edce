package authority

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// maxMessage bounds one message of a peer: a full batch of items whose every
// field is at its bound.
const maxMessage = 4 << 20

// streamWorkers is how many calls run on goroutines that are kept, with their
// stacks grown: a new one for each call would grow its stack each time. More
// calls than that get one of their own.
const streamWorkers = 512

// What a peer may send before it is read, on a stream and on a connection. The
// windows are fixed: to find its own, grpc has every message that comes alone
// answered by a ping, which costs both sides as much as the message.
const (
	streamWindow = 1 << 20
	connWindow   = 4 << 20
)

const (
	// maxConnections bounds the connections that are open at once. One address has at
	// most a tenth of them, but for those on which a call has shown a credential: of
	// these one credential has at most half, so that who has stolen it keeps nobody
	// out who could disable it.
	maxConnections = 10_000
	// maxIdle ends connections on which nothing was called for so long. Callers
	// connect again by themselves.
	maxIdle = 30 * time.Minute
	// maxAge has callers make their next call on a new connection, on which they
	// show the certificate that they have by then; streams go on.
	maxAge = time.Hour
	// maxStranger ends a connection that showed no certificate and on which no call
	// with an API key has come for so long.
	maxStranger = 15 * time.Second
)

// Server is a Service on the wire.
type Server struct {
	*grpc.Server
	service *Service
	health  *health.Server
}

// NewServer builds the gRPC server of s. tlsConfig must verify the client
// certificates that are given. It fails if a method has no rule.
func NewServer(s *Service, tlsConfig *tls.Config, withReflection bool) (*Server, error) {
	srv := &Server{service: s, health: health.NewServer()}
	s.tls.Store(tlsConfig)
	srv.Server = grpc.NewServer(append(s.tracing.serverOptions(),
		grpc.Creds(certifying{&countedTLS{credentials.NewTLS(tlsConfig), s.metrics}, s.conns, s.metrics.connections.WithLabelValues(limitStranger), s.stranger}),
		grpc.UnaryInterceptor(s.interceptUnary),
		grpc.StreamInterceptor(s.interceptStream),
		grpc.ForceServerCodecV2(newCodec()),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.MaxRecvMsgSize(maxMessage),
		//lint:ignore SA1019 it alone comes before the compressors that any linked package may have registered
		grpc.RPCDecompressor(noInflating{}),
		grpc.MaxConcurrentStreams(1000),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connWindow),
		grpc.ConnectionTimeout(10*time.Second),
		grpc.MaxHeaderListSize(16<<10),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: maxIdle, MaxConnectionAge: maxAge, Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.WaitForHandlers(true),
	)...)
	s.Register(srv)
	healthpb.RegisterHealthServer(srv, srv.health)
	if withReflection {
		reflection.Register(srv)
	}
	if err := checkRules(srv.GetServiceInfo()); err != nil {
		return nil, fmt.Errorf("start: %w", err)
	}
	for name := range srv.GetServiceInfo() {
		srv.health.SetServingStatus(name, healthpb.HealthCheckResponse_SERVING)
	}
	return srv, nil
}

// noInflating refuses compressed messages. A unary request is read before it is
// known who sends it, and one of 4 KiB could inflate to maxMessage.
type noInflating struct{}

func (noInflating) Do(io.Reader) ([]byte, error) {
	return nil, errors.New("compressed messages are not taken: call without a compressor")
}

func (noInflating) Type() string { return "gzip" }

// Register registers the services, which must be called through the
// interceptors.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	pb.RegisterTokenServiceServer(r, s)
	pb.RegisterRevocationServiceServer(r, s)
	pb.RegisterNodeServiceServer(r, s)
	pb.RegisterSessionServiceServer(r, s)
	pb.RegisterCredentialServiceServer(r, s)
	pb.RegisterAuditServiceServer(r, s)
	pb.RegisterMaintenanceServiceServer(r, s)
}

// Interceptors find out who calls and decide whether that caller may, on every
// transport. A peer of the call's context with credentials.TLSInfo is the
// caller.
func (s *Service) Interceptors() (grpc.UnaryServerInterceptor, grpc.StreamServerInterceptor) {
	return s.interceptUnary, s.interceptStream
}

// Drain says NOT_SERVING, ends streams, and waits for calls under way until ctx
// ends; then it cuts them off. At last it keeps what nodes have acknowledged.
func (srv *Server) Drain(ctx context.Context) {
	srv.health.Shutdown()
	srv.service.Stop()
	done := make(chan struct{})
	go func() { // ends when the server has stopped, which Stop makes sure of
		srv.GracefulStop()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		srv.service.writes.cutOff()
		srv.Stop()
		<-done
	}
	srv.service.streams.Wait() // no stream is left for them to wait for
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainWrite)
	defer cancel()
	if err := srv.service.keepAcknowledged(ctx, nil); err != nil {
		srv.service.log.Error("last acknowledgements can't be kept; nodes tell them again", "error", err)
	}
	srv.service.tellAudit(srv.service.now())
}

// drainWrite bounds the last write of a drain.
const drainWrite = 5 * time.Second

// Serve answers calls on l until Drain, or until l fails.
func (srv *Server) Serve(l net.Listener) error {
	return srv.serve(newBounded(l, maxConnections))
}

func (srv *Server) serve(l *boundedListener) error {
	l.refused = srv.service.metrics.connections
	return srv.Server.Serve(l)
}

// The limits on connections.
const (
	limitAll     = "connections"
	limitAddress = "connections_per_address"
	// limitStranger closes those that are let in and show no credential.
	limitStranger = "without_credential"
)

// boundedListener accepts no more connections than may be open at once, in all
// and from one address; more are closed as they come.
type boundedListener struct {
	net.Listener
	max, maxAddress, maxCredential int
	refused                        *prometheus.CounterVec // by limit; nil counts none

	mu           sync.Mutex // guards what follows, and whose its connections are
	open         int
	byAddress    map[netip.Addr]int // that have shown no credential yet
	byCredential map[string]int
}

func newBounded(l net.Listener, most int) *boundedListener {
	return &boundedListener{
		Listener: l, max: most, maxAddress: max(most/10, 1), maxCredential: max(most/2, 1),
		byAddress: map[netip.Addr]int{}, byCredential: map[string]int{},
	}
}

func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		var addr netip.Addr
		if tcp, ok := c.RemoteAddr().(*net.TCPAddr); ok {
			addr = tcp.AddrPort().Addr().Unmap()
		}
		limit := l.take(addr)
		if limit == "" {
			return &boundedConn{Conn: c, listener: l, address: addr}, nil
		}
		_ = c.Close() // it is not heard of again
		if l.refused != nil {
			l.refused.WithLabelValues(limit).Inc()
		}
	}
}

// take gives a place, or names the limit that refuses it.
func (l *boundedListener) take(addr netip.Addr) (limit string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.open >= l.max:
		return limitAll
	case addr.IsValid() && l.byAddress[addr] >= l.maxAddress:
		return limitAddress
	}
	l.open++
	l.byAddress[addr]++
	return ""
}

func (l *boundedListener) giveBack(c *boundedConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.over {
		return
	}
	c.over = true
	l.open--
	if c.credential != "" {
		lower(l.byCredential, c.credential)
	} else {
		lower(l.byAddress, c.address)
	}
}

// vouch has a connection count for a credential, no longer for its address.
func (l *boundedListener) vouch(c *boundedConn, credential string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case c.credential != "" || c.over:
		return nil
	case l.byCredential[credential] >= l.maxCredential:
		return fmt.Errorf("credential %s has %d connections open, of at most so many: close some, or share the work among credentials (%w)", credential, l.maxCredential, errQuota)
	}
	lower(l.byAddress, c.address)
	l.byCredential[credential]++
	c.credential = credential
	return nil
}

func lower[K comparable](counts map[K]int, of K) {
	if counts[of]--; counts[of] == 0 {
		delete(counts, of)
	}
}

// boundedConn gives its place back when it is closed.
type boundedConn struct {
	net.Conn
	listener *boundedListener
	address  netip.Addr
	known    atomic.Bool                // it counts for a credential
	stranger atomic.Pointer[time.Timer] // closes it; nil where it need not show anything

	// Guarded by the listener's mu.
	credential string // for which it counts
	over       bool   // it has given its place back
}

func (c *boundedConn) Close() error {
	c.awaited()
	c.listener.giveBack(c)
	return c.Conn.Close()
}

// expectCredential closes the connection unless it is known by then.
func (c *boundedConn) expectCredential(within time.Duration, closed prometheus.Counter) {
	c.stranger.Store(time.AfterFunc(within, func() {
		closed.Inc()
		_ = c.Close()
	}))
}

// show says that a call on the connection has shown a credential.
func (c *boundedConn) show(credential string) error {
	if c.known.Load() {
		return nil
	}
	if err := c.listener.vouch(c, credential); err != nil {
		return err
	}
	c.known.Store(true)
	c.awaited()
	return nil
}

// awaited says that no credential is expected any more.
func (c *boundedConn) awaited() {
	if t := c.stranger.Load(); t != nil {
		t.Stop()
	}
}
