package authority_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/gzip" // registers it, for TestNothingIsInflated
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/gatehouse-ws/gatehouse/authority"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
)

// TestDrain proves the order of an end: health says NOT_SERVING, streams end,
// and a unary call under way is answered.
func TestDrain(t *testing.T) {
	slow := &slowStore{began: make(chan struct{}), proceed: make(chan struct{})}
	f := newFixture(t, func(f *fixture) { slow.Store, f.store = f.store, slow })
	health := healthpb.NewHealthClient(f.conn("viewer"))
	for _, service := range []string{"", "gatehouse.authority.v1.TokenService", "gatehouse.authority.v1.NodeService", "grpc.health.v1.Health"} {
		resp, err := health.Check(f.ctx, &healthpb.HealthCheckRequest{Service: service})
		f.ok(err)
		f.equal(service, resp.GetStatus(), healthpb.HealthCheckResponse_SERVING)
	}
	_, err := health.Check(f.ctx, &healthpb.HealthCheckRequest{Service: "unknown"})
	f.code(err, codes.NotFound)
	watch, err := health.Watch(f.ctx, &healthpb.HealthCheckRequest{})
	f.ok(err)
	first, err := watch.Recv()
	f.ok(err)
	f.equal("watched", first.GetStatus(), healthpb.HealthCheckResponse_SERVING)

	n := f.node("node-1")
	type answer struct {
		resp *pb.IssueTokenResponse
		err  error
	}
	issued := make(chan answer, 1)
	go func() {
		resp, err := f.tokens("login").IssueToken(f.ctx, request())
		issued <- answer{resp, err}
	}()
	<-slow.began
	drained, finished := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(finished)
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		f.server.Drain(ctx)
		close(drained)
	}()
	// Who watches hears that it no longer serves, or is cut off with that reason.
	for {
		next, err := watch.Recv()
		if err != nil {
			f.fails(err, "Unavailable stopping: authority is stopping")
			break
		}
		f.equal("watched", next.GetStatus(), healthpb.HealthCheckResponse_NOT_SERVING)
	}
	_, err = n.attach.Recv()
	f.fails(err, "Unavailable stopping: authority is stopping")
	select {
	case <-drained:
		t.Fatal("drained while a call is under way")
	default:
	}
	close(slow.proceed)
	a := <-issued
	f.ok(a.err)
	f.parsed(a.resp.GetToken())
	<-finished
}

// TestDrainCutsOff proves that a call which does not end in time is cut off.
func TestDrainCutsOff(t *testing.T) {
	stuck := &stuckStore{began: make(chan struct{})}
	f := newFixture(t, func(f *fixture) { stuck.Store, f.store = f.store, stuck })
	issued := make(chan error, 1)
	go func() {
		_, err := f.tokens("login").IssueToken(f.ctx, request())
		issued <- err
	}()
	<-stuck.began
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	f.server.Drain(ctx)
	f.code(<-issued, codes.Unavailable)
}

// stuckStore answers no Insert before its context ends.
type stuckStore struct {
	storage.Store
	began chan struct{}
}

func (s *stuckStore) Insert(ctx context.Context, _ []*storage.Token) ([]storage.Inserted, error) {
	close(s.began)
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestReflection proves that the services can be listed where that is set, by
// whoever has a credential.
func TestReflection(t *testing.T) {
	list := func(f *fixture, caller string) ([]string, error) {
		conn := f.dial(f.clientTLS(caller, 1))
		defer conn.Close()
		stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(f.ctx)
		f.ok(err)
		if err := stream.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil && err != io.EOF {
			return nil, err
		}
		resp, err := stream.Recv()
		var names []string
		for _, s := range resp.GetListServicesResponse().GetService() {
			names = append(names, s.GetName())
		}
		return names, err
	}
	off := newFixture(t)
	_, err := list(off, "viewer")
	off.code(err, codes.Unimplemented)

	on := newFixture(t, func(f *fixture) { f.reflection = true })
	names, err := list(on, "viewer")
	on.ok(err)
	if !slices.Contains(names, "gatehouse.authority.v1.TokenService") {
		t.Errorf("services %v", names)
	}
	_, err = list(on, "")
	on.fails(err, "Unauthenticated unauthenticated: no credential: call with a client certificate or an API key")

	// A stream of it that says nothing ends with the rest.
	stream, err := reflectionpb.NewServerReflectionClient(on.conn("viewer")).ServerReflectionInfo(on.ctx)
	on.ok(err)
	on.ok(stream.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}))
	_, err = stream.Recv()
	on.ok(err)
	on.service.Stop()
	_, err = stream.Recv()
	on.fails(err, "Unavailable stopping: authority is stopping")
}

// failingStore fails writes with err, and can stop.
type failingStore struct {
	storage.Store
	err    error
	failed chan struct{}
}

func (s *failingStore) Insert(context.Context, []*storage.Token) ([]storage.Inserted, error) {
	return nil, s.err
}

func (s *failingStore) Redeem(context.Context, []storage.Redemption) ([]storage.Redeemed, error) {
	return nil, s.err
}

func (s *failingStore) Append(context.Context, storage.Entry) (storage.Entry, error) {
	return storage.Entry{}, s.err
}

func (s *failingStore) EndSessions(context.Context, []storage.SessionID) (int, error) {
	return 0, s.err
}

func (s *failingStore) UpdateCredential(context.Context, string, func(*storage.Credential) error) (storage.Credential, error) {
	return storage.Credential{}, s.err
}

func (s *failingStore) Sweep(context.Context, time.Time, time.Duration) (storage.Swept, error) {
	return storage.Swept{}, s.err
}

func (s *failingStore) Failed() <-chan struct{} { return s.failed }

func (s *failingStore) Err() error {
	select {
	case <-s.failed:
		return s.err
	default:
		return nil
	}
}

// TestStoreFails proves that what a store cannot write is not acknowledged, and
// what callers are told of it: a reason, when to come back, and no inner cause.
func TestStoreFails(t *testing.T) {
	for _, c := range []struct {
		rule  string
		err   error
		want  string
		retry time.Duration
	}{
		{"full disk", fmt.Errorf("%w: write /secret/path", storage.ErrFull), "Unavailable store_unavailable: the store's disk is full; nothing was done", 5 * time.Second},
		{"failed sync", fmt.Errorf("%w: fdatasync /secret/path", storage.ErrStopped), "Unavailable store_unavailable: the store can't write", 5 * time.Second},
		{"closed", storage.ErrClosed, "Unavailable stopping: authority is stopping", time.Second},
		{"broken", errors.New("secret cause"), "Internal internal: internal error", 0},
	} {
		t.Run(c.rule, func(t *testing.T) {
			failing := &failingStore{err: c.err, failed: make(chan struct{})}
			f := newFixture(t)
			issued := f.issue()
			n := f.node("node-1")
			it := n.item(f.issue().GetToken())
			n.grant(it)
			failing.Store, f.store = f.store, failing
			f.restart()
			n.begin()

			check := func(what string, err error) {
				t.Helper()
				f.in(t).equal(what, failed(err), c.want)
				f.in(t).equal(what+", retry after", retryAfter(err), c.retry)
			}
			_, err := f.tokens("login").IssueToken(f.ctx, request())
			check("IssueToken", err)
			_, err = f.tokens("login").IssueTokens(f.ctx, &pb.IssueTokensRequest{Requests: []*pb.IssueTokenRequest{request(), {}}})
			check("IssueTokens", err)
			_, err = f.revocations("admin").Revoke(f.ctx, &pb.RevokeRequest{Selector: bySubject("acme", "ada")})
			check("Revoke", err)
			_, err = f.revocations("admin").Lock(f.ctx, &pb.LockRequest{Selector: lockSubject("acme", "ada"), Reason: "r"})
			check("Lock", err)
			_, err = f.revocations("admin").Unlock(f.ctx, &pb.UnlockRequest{LockId: strings.Repeat("ab", 16), Reason: "r"})
			check("Unlock", err)
			_, err = f.credentials("admin").DisableCredential(f.ctx, &pb.DisableCredentialRequest{Name: "login", Reason: "r"})
			check("DisableCredential", err)
			_, err = f.nodes("node-1").ReportSessions(f.ctx, &pb.ReportSessionsRequest{InstanceId: n.id[:], Ended: []*pb.SessionEnd{
				{SessionId: it.GetSessionId(), Reason: pb.Reason_REASON_PEER_CLOSED, EndedAt: timestamp(start)},
			}})
			check("ReportSessions", err)
			stream := n.open(f.ctx)
			f.ok(stream.Send(&pb.RedeemRequest{Items: []*pb.RedeemItem{n.item(issued.GetToken())}}))
			_, err = stream.Recv()
			check("Redeem", err)

			reason := strings.Fields(strings.ReplaceAll(c.want, ":", ""))[1]
			f.equal("audit line", f.lastLine("IssueTokens"), "caller=login outcome="+reason+" refused=2 tokens=0")
			f.trail.Flush()
			if got := f.audit.String(); strings.Contains(got, "SessionEnd") || strings.Count(got, `"action":"IssueToken",`) != 2+1+2 {
				t.Errorf("audit trail: %s", got)
			}
			f.equal("logged", strings.Contains(f.log.String(), "secret cause"), c.rule == "broken")
			_, err = f.tokens("admin").GetToken(f.ctx, &pb.GetTokenRequest{TokenId: issued.GetTokenId()})
			f.ok(err) // reads go on
		})
	}
}

// TestStoppedStoreEndsRun proves that Run ends with the cause when the store
// can write no more, and quietly when its context ends.
func TestStoppedStoreEndsRun(t *testing.T) {
	failing := &failingStore{err: fmt.Errorf("%w: fdatasync: EIO", storage.ErrStopped), failed: make(chan struct{})}
	f := newFixture(t, func(f *fixture) { failing.Store, f.store = f.store, failing })
	ended := make(chan error, 1)
	go func() { ended <- f.service.Run(context.Background()) }()
	close(failing.failed)
	if err := <-ended; !errors.Is(err, storage.ErrStopped) || !strings.Contains(err.Error(), "fdatasync: EIO") {
		t.Errorf("Run: %v", err)
	}
	well := newFixture(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	well.ok(well.service.Run(ctx))
}

// TestRunTends proves that Run sweeps by itself, and logs what fails without
// ending for it.
func TestRunTends(t *testing.T) {
	f := newFixture(t)
	f.issue()
	f.clock.advance(time.Hour)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f.service.Run(ctx) }()
	f.eventually("swept", func() bool { return f.store.Stats().Tokens == 0 })
	cancel()
	f.ok(<-ended)

	failing := &failingStore{err: storage.ErrFull, failed: make(chan struct{})}
	f = newFixture(t, func(f *fixture) { failing.Store, f.store = f.store, failing })
	ctx, cancel = context.WithCancel(context.Background())
	go func() { ended <- f.service.Run(ctx) }()
	f.eventually("logged", func() bool { return strings.Contains(f.log.String(), "housekeeping failed") })
	cancel()
	f.ok(<-ended)
}

// TestPanicFailsItsCallAlone proves that a broken invariant ends one call, with
// a stack in the log and nothing of it in the answer.
func TestPanicFailsItsCallAlone(t *testing.T) {
	bad := &panickingStore{}
	f := newFixture(t, func(f *fixture) { bad.Store, f.store = f.store, bad })
	n := f.node("node-1")
	_, err := f.tokens("admin").GetToken(f.ctx, &pb.GetTokenRequest{TokenId: "01JD8Z0Q4M3T5V7X9ZABCDEFGH"})
	f.fails(err, "Internal internal: internal error")
	stream := n.open(f.ctx)
	f.ok(stream.Send(&pb.RedeemRequest{Items: []*pb.RedeemItem{n.item(f.issue().GetToken())}}))
	_, err = stream.Recv()
	f.fails(err, "Internal internal: internal error")
	n.beat(nil)
	f.issue()
	if got := f.log.String(); strings.Count(got, "panickingStore") < 2 || strings.Contains(got, someToken) {
		t.Errorf("log: %s", got)
	}
}

// TestNothingIsInflated proves that a compressed message is refused, though a
// package that is linked has registered gzip.
func TestNothingIsInflated(t *testing.T) {
	if encoding.GetCompressor("gzip") == nil {
		t.Fatal("gzip is not registered")
	}
	f := newFixture(t)
	const want = "Internal no reason: grpc: failed to decompress the received message: compressed messages are not taken: call without a compressor"
	_, err := f.tokens("login").IssueToken(f.ctx, request(), grpc.UseCompressor("gzip"))
	f.fails(err, want)
	c := f.dial(f.clientTLS("", 0)) // whoever calls
	defer c.Close()
	_, err = pb.NewTokenServiceClient(c).IssueToken(f.ctx, request(), grpc.UseCompressor("gzip"))
	f.fails(err, want)
	_, err = f.tokens("login").IssueToken(f.ctx, request())
	f.ok(err)
}

type panickingStore struct{ storage.Store }

func (*panickingStore) Lookup(context.Context, []storage.TokenID) ([]*storage.Token, error) {
	panic("about " + someToken)
}

// TestConnectionsAreBounded proves that more connections than may be open are
// closed as they come, and that each that ends makes room.
func TestConnectionsAreBounded(t *testing.T) {
	if authority.MaxConnections > 20_000 {
		t.Fatal("more connections than a process commonly has descriptors")
	}
	l := &countedListener{conns: make(chan net.Conn)}
	bounded := authority.Bounded(l, 2)
	accepted := make(chan net.Conn)
	go func() {
		defer close(accepted)
		for {
			c, err := bounded.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	dial := func() (ours, theirs net.Conn) {
		ours, theirs = net.Pipe()
		l.conns <- theirs
		return ours, theirs
	}
	_, _ = dial()
	first := <-accepted
	_, _ = dial()
	second := <-accepted
	ours, _ := dial()
	if _, err := ours.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("a third: %v", err)
	}
	_, _ = first.Close(), first.Close() // twice makes room once
	_, _ = dial()
	third := <-accepted
	ours, _ = dial()
	if _, err := ours.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("one too many: %v", err)
	}
	_, _ = second.Close(), third.Close()
	close(l.conns)
	<-accepted
}

// TestConnectionsOfOneAddressAreBounded proves that one address takes no more
// than its share of the connections.
func TestConnectionsOfOneAddressAreBounded(t *testing.T) {
	l := &countedListener{conns: make(chan net.Conn)}
	bounded := authority.Bounded(l, 20) // two for an address
	accepted := make(chan net.Conn, 20)
	go func() {
		defer close(accepted)
		for {
			c, err := bounded.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	closed := func(from string) bool {
		ours, theirs := net.Pipe()
		l.conns <- &fromConn{theirs, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(from))}
		_ = ours.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		_, err := ours.Read(make([]byte, 1))
		return err == io.EOF
	}
	for i, c := range []struct {
		from string
		want bool
	}{
		{"192.0.2.1:1", false}, {"192.0.2.1:2", false}, {"192.0.2.1:3", true}, {"[::ffff:192.0.2.1]:4", true},
		{"192.0.2.2:1", false}, {"[2001:db8::1]:1", false},
	} {
		if got := closed(c.from); got != c.want {
			t.Errorf("connection %d, from %s: closed %t", i, c.from, got)
		}
	}
	_ = (<-accepted).Close()
	if closed("192.0.2.1:5") {
		t.Error("an end makes no room")
	}
	close(l.conns)
}

// TestConnectionsOfCredentials proves that a connection counts for its address until
// a call has shown a credential, so that a fleet may share an address, and then for
// the credential, which leaves places for the others.
func TestConnectionsOfCredentials(t *testing.T) {
	f := newFixture(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	f.ok(err)
	f.address = l.Addr().String()
	go func() { _ = f.server.ServeBounded(l, 20) }() // two for an address, ten for a credential
	call := func(name string) (*grpc.ClientConn, error) {
		conn := f.dial(f.clientTLS(name, 1))
		_, err := pb.NewTokenServiceClient(conn).IssueToken(f.ctx, request())
		if err != nil {
			f.ok(conn.Close())
		} else {
			t.Cleanup(func() { _ = conn.Close() })
		}
		return conn, err
	}
	first, err := call("login")
	f.ok(err)
	for range 9 {
		_, err := call("login")
		f.ok(err)
	}
	_, err = call("login")
	f.fails(err, "ResourceExhausted quota_exceeded: credential login has 10 connections open, ...")
	_, err = call("admin")
	f.ok(err)
	f.ok(first.Close())
	f.eventually("an end makes room", func() bool { _, err := call("login"); return err == nil })
}

type fromConn struct {
	net.Conn
	from net.Addr
}

func (c *fromConn) RemoteAddr() net.Addr { return c.from }

type countedListener struct {
	net.Listener
	conns chan net.Conn
}

func (l *countedListener) Accept() (net.Conn, error) {
	if c, ok := <-l.conns; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}

// TestStrangers proves that a connection which shows no credential is closed before
// long, whatever it calls, and none that has shown one.
func TestStrangers(t *testing.T) {
	const within = 300 * time.Millisecond
	f := newFixture(t, func(f *fixture) { f.stranger = within })
	resp, err := f.credentials("admin").CreateCredential(f.ctx, &pb.CreateCredentialRequest{Credential: &pb.Credential{Name: "by-key", Role: pb.Role_ROLE_ISSUER}})
	f.ok(err)
	open := func(name string, opts ...grpc.DialOption) (*grpc.ClientConn, func() bool) {
		closed := make(chan struct{})
		conn := f.dial(f.clientTLS(name, 1), append(opts, grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
			return &watchedConn{c, sync.OnceFunc(func() { close(closed) })}, err
		}))...)
		t.Cleanup(func() { _ = conn.Close() })
		return conn, func() bool {
			select {
			case <-closed:
				return true
			default:
				return false
			}
		}
	}
	issue := func(conn *grpc.ClientConn) error {
		_, err := pb.NewTokenServiceClient(conn).IssueToken(f.ctx, request())
		return err
	}
	byKey, keyClosed := open("", grpc.WithPerRPCCredentials(apiKey(resp.GetIssued().GetApiKey())))
	f.ok(issue(byKey))
	certified, certClosed := open("login")
	f.ok(issue(certified))
	began := time.Now()
	stranger, strangerClosed := open("")
	f.fails(issue(stranger), "Unauthenticated unauthenticated: ...")
	f.eventually("the stranger is cut off", strangerClosed)
	if took := time.Since(began); took < within {
		t.Errorf("cut off after %v, want %v", took, within)
	}
	f.ok(issue(byKey))
	f.ok(issue(certified))
	f.equal("the others are cut off", []bool{keyClosed(), certClosed()}, []bool{false, false})
	f.equal("counted", f.metric(`gatehouse_authority_connections_refused_total{limit="without_credential"}`) > 0, true)
}

// watchedConn tells that its peer has closed it.
type watchedConn struct {
	net.Conn
	closed func()
}

func (c *watchedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil {
		c.closed()
	}
	return n, err
}

// TestOversizedMessages proves that a message beyond the bound fails its call
// or stream and is not logged as the authority's own failure.
func TestOversizedMessages(t *testing.T) {
	f := newFixture(t)
	_, err := f.tokens("login").IssueToken(f.ctx, &pb.IssueTokenRequest{UserAgent: make([]byte, 5<<20)})
	f.code(err, codes.ResourceExhausted)
	n := f.node("node-1")
	stream := n.open(f.ctx)
	f.ok(stream.Send(&pb.RedeemRequest{Items: []*pb.RedeemItem{{Audience: strings.Repeat("x", 5<<20)}}}))
	_, err = stream.Recv()
	f.code(err, codes.ResourceExhausted)
	f.eventually("the stream's line", func() bool { return strings.Contains(f.audit.String(), `"action":"RedeemStream"`) })
	f.equal("audit line", f.lastLine("RedeemStream"), "caller=node-1 outcome=invalid_request")
	if strings.Contains(f.log.String(), `"level":"ERROR"`) {
		t.Errorf("log: %s", f.log)
	}
}

// TestCallersWhoGoAway proves that they are not counted as failures.
func TestCallersWhoGoAway(t *testing.T) {
	f := newFixture(t)
	n := f.node("node-1")
	n.grant(n.item(f.issue().GetToken()))
	n.end()
	for _, action := range []string{"AttachStream", "RedeemStream"} {
		f.eventually(action, func() bool {
			f.trail.Flush()
			return strings.Contains(f.audit.String(), `"action":"`+action+`"`)
		})
		if got := f.lastLine(action); !strings.Contains(got, "outcome=canceled") {
			t.Errorf("%s: %s", action, got)
		}
	}
	stuck, cancel := context.WithTimeout(f.ctx, time.Nanosecond)
	defer cancel()
	_, err := f.tokens("login").IssueToken(stuck, request())
	f.equal("code", status.Code(err), codes.DeadlineExceeded)
	if strings.Contains(f.log.String(), `"level":"ERROR"`) {
		t.Errorf("log: %s", f.log)
	}
}
