package authority_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/gatehouse-ws/gatehouse/auditlog"
	"github.com/gatehouse-ws/gatehouse/authority"
	"github.com/gatehouse-ws/gatehouse/authority/pki"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/memstore"
	"github.com/gatehouse-ws/gatehouse/tlsfile"
)

// start is when the tests take place.
var start = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// clock is the authority's clock. It stands still until it is moved.
type clock struct {
	mu    sync.Mutex
	now   time.Time
	since time.Time // unless zero, it runs since then
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.since.IsZero() {
		return c.now.Add(time.Since(c.since))
	}
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// buffer is a bytes.Buffer for several goroutines.
type buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// installation is the CA and the folder of the server's certificate, one for all
// tests that do not change it.
var installation = sync.OnceValues(func() (*pki.CA, string) {
	dir, err := os.MkdirTemp("", "gatehouse-authority-test-")
	if err != nil {
		panic(err)
	}
	return install(dir)
})

func install(dir string) (*pki.CA, string) {
	at := func() time.Time { return start }
	ca, err := pki.Create(filepath.Join(dir, "ca"), at, rand.Reader)
	if err != nil {
		panic(err)
	}
	if _, err := ca.EnsureServer(filepath.Join(dir, "tls"), []string{"localhost", "127.0.0.1"}); err != nil {
		panic(err)
	}
	return ca, filepath.Join(dir, "tls")
}

// fixture is an authority on a loopback port, with credentials of every kind:
//
//	admin, viewer
//	login    an issuer of every tenant and audience
//	acme     an issuer of tenant acme, for the audience chat
//	two      an issuer of tenants acme and bolt
//	node-1, node-2
type fixture struct {
	testing.TB
	*state
}

// state is what a fixture shares with those of subtests.
type state struct {
	ctx     context.Context
	cfg     authority.Config
	clock   *clock
	store   storage.Store
	trail   *authority.Audit
	audit   *auditText
	auditAt string    // the trail's file
	auditTo io.Writer // in its place, if a test wants another
	log     *buffer
	metrics *prometheus.Registry
	traces  trace.TracerProvider // nil unless a test wants spans
	ca      *pki.CA
	service *authority.Service
	server  *authority.Server
	address string

	site       func() (*pki.CA, string) // installation, if a test wants no other
	recertify  func() error
	reflection bool
	stranger   time.Duration // how long a connection may be without a credential, if a test has its own
	backup     func(context.Context, io.Writer, func(storage.Backup)) error
	compact    func(context.Context, func(int64, int64)) (storage.Compacted, error)
	served     chan error
	mu         sync.Mutex
	conns      map[string]*grpc.ClientConn
}

var standing = []storage.Credential{
	{Name: "admin", Role: storage.Admin},
	{Name: "viewer", Role: storage.Viewer},
	{Name: "login", Role: storage.Issuer},
	{Name: "acme", Role: storage.Issuer, Tenants: []string{"acme"}, Audiences: []string{"chat"}},
	{Name: "two", Role: storage.Issuer, Tenants: []string{"acme", "bolt"}},
	{Name: "node-1", Role: storage.Node},
	{Name: "node-2", Role: storage.Node},
}

// newFixture starts an authority on an empty memstore; edits change that.
func newFixture(t testing.TB, edits ...func(*fixture)) *fixture {
	t.Helper()
	f := &fixture{t, &state{
		ctx: t.Context(), cfg: authority.DefaultConfig(), clock: &clock{now: start}, store: memstore.New(),
		log: &buffer{}, conns: map[string]*grpc.ClientConn{}, site: installation,
	}}
	f.auditAt = filepath.Join(t.TempDir(), "audit.jsonl")
	f.audit = &auditText{f.auditAt}
	for _, edit := range edits {
		edit(f)
	}
	for _, c := range standing {
		c.Generation, c.CreatedAt = 1, start
		f.ok(f.store.CreateCredential(f.ctx, c))
	}
	f.start()
	t.Cleanup(func() {
		f.stop()
		if f.auditTo == nil {
			f.checkCallers()
		}
		if err := f.store.Close(); err != nil {
			t.Errorf("close the store: %v", err)
		}
	})
	return f
}

// in is f for a subtest.
func (f *fixture) in(t testing.TB) *fixture { return &fixture{t, f.state} }

// start makes and serves an authority on f.store.
func (f *fixture) start() {
	f.Helper()
	ca, dir := f.site()
	f.ca, f.metrics = ca, prometheus.NewRegistry()
	var err error
	if f.auditTo != nil {
		f.trail = authority.NewAudit(f.auditTo)
	} else {
		f.trail, err = authority.OpenAudit(f.auditAt)
		f.ok(err)
	}
	f.service, err = authority.New(f.ctx, f.cfg, authority.Parts{
		Store: f.store, CA: ca, Audit: f.trail, Log: slog.New(slog.NewJSONHandler(f.log, nil)),
		Metrics: f.metrics, Now: f.clock.Now, Random: rand.Reader, Traces: f.traces, Recertify: f.recertify, Backup: f.backup, Compact: f.compact,
	})
	f.ok(err)
	if f.stranger > 0 {
		f.service.ExpectCredentials(f.stranger)
	}
	tlsConfig, err := tlsfile.Server(filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key"), ca.Pool, f.clock.Now, slog.New(slog.DiscardHandler))
	f.ok(err)
	f.server, err = authority.NewServer(f.service, tlsConfig, f.reflection)
	f.ok(err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	f.ok(err)
	f.address, f.served = l.Addr().String(), make(chan error, 1)
	go func() { f.served <- f.server.Serve(l) }()
}

// stop drains the authority, once.
func (f *fixture) stop() {
	f.mu.Lock()
	conns := slices.Collect(maps.Values(f.conns))
	clear(f.conns)
	f.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
	if f.served == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	f.server.Drain(ctx)
	if err := <-f.served; err != nil && !errors.Is(err, grpc.ErrServerStopped) { // before it served
		f.Errorf("serve: %v", err)
	}
	f.served = nil
	if err := f.trail.Close(); err != nil {
		f.Errorf("close the audit trail: %v", err)
	}
}

// restart serves the same store by a new authority.
func (f *fixture) restart() {
	f.Helper()
	f.stop()
	f.start()
}

// create makes a credential that calls with a certificate of generation 1.
func (f *fixture) create(c *pb.Credential) {
	f.Helper()
	_, csr := f.request()
	_, err := f.credentials("admin").CreateCredential(f.ctx, &pb.CreateCredentialRequest{Credential: c, CertificateRequest: csr})
	f.ok(err)
}

// request is a key and a certificate request for it.
func (f *fixture) request() (keyPEM, csr []byte) {
	f.Helper()
	keyPEM, csr, err := pki.NewRequest(rand.Reader)
	f.ok(err)
	return keyPEM, csr
}

// conn is a connection that shows a certificate of name's generation 1.
func (f *fixture) conn(name string) *grpc.ClientConn {
	f.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.conns[name]; c != nil {
		return c
	}
	c := f.dial(f.clientTLS(name, 1))
	f.conns[name] = c
	return c
}

// clientTLS trusts the authority and, unless name is empty, shows a new
// certificate of a credential.
func (f *fixture) clientTLS(name string, generation uint32) *tls.Config {
	f.Helper()
	cfg := &tls.Config{RootCAs: f.ca.Pool(), MinVersion: tls.VersionTLS13, Time: f.clock.Now}
	if name == "" {
		return cfg
	}
	key, csr, err := pki.NewRequest(rand.Reader)
	f.ok(err)
	cert, err := f.ca.SignClient(csr, name, generation, 0)
	f.ok(err)
	pair, err := tls.X509KeyPair(pki.EncodeCertificate(cert), key)
	f.ok(err)
	cfg.Certificates = []tls.Certificate{pair}
	return cfg
}

// dial opens a connection that the caller closes.
func (f *fixture) dial(cfg *tls.Config, opts ...grpc.DialOption) *grpc.ClientConn {
	f.Helper()
	c, err := grpc.NewClient("dns:///"+f.address, append(opts, grpc.WithTransportCredentials(credentials.NewTLS(cfg)))...)
	f.ok(err)
	return c
}

// apiKey sends an API key with every call.
type apiKey string

func (k apiKey) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(k)}, nil
}

func (apiKey) RequireTransportSecurity() bool { return true }

func (f *fixture) tokens(name string) pb.TokenServiceClient {
	return pb.NewTokenServiceClient(f.conn(name))
}

func (f *fixture) revocations(name string) pb.RevocationServiceClient {
	return pb.NewRevocationServiceClient(f.conn(name))
}

func (f *fixture) nodes(name string) pb.NodeServiceClient {
	return pb.NewNodeServiceClient(f.conn(name))
}

func (f *fixture) sessions(name string) pb.SessionServiceClient {
	return pb.NewSessionServiceClient(f.conn(name))
}

func (f *fixture) credentials(name string) pb.CredentialServiceClient {
	return pb.NewCredentialServiceClient(f.conn(name))
}

// auditText is the text of the trail's file.
type auditText struct{ path string }

func (a *auditText) String() string {
	text, err := os.ReadFile(a.path)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// checkCallers fails the test if a line of the trail does not say who, unless
// nobody knows.
func (f *fixture) checkCallers() {
	f.Helper()
	for line := range strings.Lines(f.audit.String()) {
		r, err := auditlog.ParseRecord([]byte(line))
		if err == nil && r.Caller == "" && r.Outcome != "unauthenticated" {
			f.Errorf("no caller in the audit line %s", line)
		}
	}
}

// lines is the audit trail so far, without seals.
func (f *fixture) lines() []map[string]any {
	f.Helper()
	f.trail.Flush()
	var out []map[string]any
	d := json.NewDecoder(strings.NewReader(f.audit.String()))
	for {
		line := map[string]any{}
		if err := d.Decode(&line); err == io.EOF {
			return out
		} else if err != nil {
			f.Fatalf("audit trail: %v in\n%s", err, f.audit.String())
		}
		if line["seal"] == nil {
			out = append(out, line)
		}
	}
}

// lastLine is the newest line of an action, without its time, its peer and, where
// it names a revision, the store's epoch.
func (f *fixture) lastLine(action string) string {
	f.Helper()
	lines := f.lines()
	for _, line := range slices.Backward(lines) {
		if line["action"] == action {
			delete(line, "time")
			delete(line, "action")
			delete(line, "peer")
			head, _ := f.store.Head()
			switch {
			case line["revision"] == nil:
			case line["epoch"] == nil:
				f.Fatalf("a revision without its epoch: %s", show(line))
			case line["epoch"] == float64(head.Epoch):
				delete(line, "epoch")
			}
			return show(line)
		}
	}
	f.Fatalf("no audit line of %s in\n%s", action, f.audit.String())
	return ""
}

// show writes a line with its keys in order: "a=1 b=x".
func show(line map[string]any) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(line)) {
		parts = append(parts, fmt.Sprintf("%s=%v", k, line[k]))
	}
	return strings.Join(parts, " ")
}

func (f *fixture) ok(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) equal(what string, got, want any) {
	f.Helper()
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		f.Fatalf("%s:\n got %s\nwant %s", what, g, w)
	}
}

// failed describes an error as a caller sees it: CODE reason: message.
func failed(err error) string {
	if err == nil {
		return "OK"
	}
	s := status.Convert(err)
	reason := "no reason"
	for _, d := range s.Details() {
		if i, ok := d.(*errdetails.ErrorInfo); ok {
			reason = i.GetReason()
			if i.GetDomain() != pb.Domain {
				reason += " of domain " + i.GetDomain()
			}
		}
	}
	return fmt.Sprintf("%v %s: %s", s.Code(), reason, s.Message())
}

// retryAfter is the RetryInfo of an error, or zero.
func retryAfter(err error) time.Duration {
	for _, d := range status.Convert(err).Details() {
		if i, ok := d.(*errdetails.RetryInfo); ok {
			return i.GetRetryDelay().AsDuration()
		}
	}
	return 0
}

// fails fails the test unless err shows as want, which may end in "..." for
// any rest.
func (f *fixture) fails(err error, want string) {
	f.Helper()
	got := failed(err)
	if begin, cut := strings.CutSuffix(want, "..."); got != want && !(cut && strings.HasPrefix(got, begin)) {
		f.Fatalf("error:\n got %s\nwant %s", got, want)
	}
}

// code fails the test unless err has this code.
func (f *fixture) code(err error, want codes.Code) {
	f.Helper()
	if status.Code(err) != want {
		f.Fatalf("error %v, want %v", failed(err), want)
	}
}

// revoke revokes as admin.
func (f *fixture) revoke(by *pb.Selector) *pb.RevokeResponse {
	f.Helper()
	resp, err := f.revocations("admin").Revoke(f.ctx, &pb.RevokeRequest{Selector: by, Reason: "test"})
	f.ok(err)
	return resp
}

// revokeWithin revokes ada with a grace, as admin.
func (f *fixture) revokeWithin(grace time.Duration) *pb.Revision {
	f.Helper()
	resp, err := f.revocations("admin").Revoke(f.ctx, &pb.RevokeRequest{Selector: bySubject("acme", "ada"), Grace: durationpb.New(grace)})
	f.ok(err)
	f.equal("grace ends", resp.GetGraceUntil().AsTime(), resp.GetCommittedAt().AsTime().Add(grace))
	return resp.GetRevision()
}

// lock locks a prefix as admin.
func (f *fixture) lock(prefix string) *pb.LockResponse {
	f.Helper()
	resp, err := f.revocations("admin").Lock(f.ctx, &pb.LockRequest{
		Selector: &pb.LockSelector{By: &pb.LockSelector_IpPrefix{IpPrefix: prefix}}, Reason: "test",
	})
	f.ok(err)
	return resp
}

// metric reads a sample, written as name{label="value"}; of a histogram, how
// many values it has.
func (f *fixture) metric(sample string) float64 {
	f.Helper()
	families, err := f.metrics.Gather()
	f.ok(err)
	for _, family := range families {
		for _, m := range family.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			if sample == family.GetName()+"{"+strings.Join(labels, ",")+"}" {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	f.Fatalf("no metric %s", sample)
	return 0
}
