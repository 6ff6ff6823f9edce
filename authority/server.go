package authority

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"time"

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

const (
	// maxConnections bounds the connections that are open at once. Who opens one
	// need not have shown a credential yet.
	maxConnections = 10_000
	// maxIdle ends connections on which nothing was called for so long. Callers
	// connect again by themselves.
	maxIdle = 30 * time.Minute
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
	srv.Server = grpc.NewServer(
		grpc.Creds(credentials.NewTLS(tlsConfig)),
		grpc.UnaryInterceptor(s.interceptUnary),
		grpc.StreamInterceptor(s.interceptStream),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxConcurrentStreams(1000),
		grpc.ConnectionTimeout(10*time.Second),
		grpc.MaxHeaderListSize(16<<10),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: maxIdle, Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.WaitForHandlers(true),
	)
	pb.RegisterTokenServiceServer(srv, s)
	pb.RegisterRevocationServiceServer(srv, s)
	pb.RegisterNodeServiceServer(srv, s)
	pb.RegisterSessionServiceServer(srv, s)
	pb.RegisterCredentialServiceServer(srv, s)
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

// Drain says NOT_SERVING, ends streams, and waits for calls under way until ctx
// ends; then it cuts them off.
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
		srv.Stop()
		<-done
	}
	srv.service.streams.Wait() // no stream is left for them to wait for
}

// Serve answers calls on l until Drain, or until l fails.
func (srv *Server) Serve(l net.Listener) error {
	return srv.Server.Serve(&boundedListener{Listener: l, free: newSlots(maxConnections)})
}

// boundedListener accepts no more connections than may be open at once; more
// are closed as they come.
type boundedListener struct {
	net.Listener
	free chan struct{} // one for each connection that may still be opened
}

func newSlots(n int) chan struct{} {
	free := make(chan struct{}, n)
	for range n {
		free <- struct{}{}
	}
	return free
}

func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case <-l.free:
			return &boundedConn{Conn: c, free: l.free}, nil
		default:
			_ = c.Close() // it is not heard of again
		}
	}
}

// boundedConn gives its place back when it is closed.
type boundedConn struct {
	net.Conn
	free chan<- struct{}
	once sync.Once
}

func (c *boundedConn) Close() error {
	c.once.Do(func() { c.free <- struct{}{} })
	return c.Conn.Close()
}
