package authority

import (
	"context"
	"log/slog"
	"net"
	"time"

	"google.golang.org/grpc"

	"github.com/gatehouse-ws/gatehouse/auditlog"
	"github.com/gatehouse-ws/gatehouse/storage"
)

// Flush writes out the lines that wait.
func (a *Audit) Flush() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.flush(time.Now())
}

// Tend does once what Run does every second.
func (s *Service) Tend(ctx context.Context) error { return s.tend(ctx) }

// Keep writes the acknowledgements that wait, as Run does.
func (s *Service) Keep(ctx context.Context) error { return s.keepAcknowledged(ctx, nil) }

// CrowdCounts has no more counts of a node be kept until it is told to relent.
func (s *Service) CrowdCounts(node string) (relent func()) {
	r := s.receipts
	add := func(n int) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.written(node, -n)
	}
	add(maxUnkept)
	return func() { add(-maxUnkept) }
}

// Rules is the table of who may call what.
var Rules = rules

// CheckRules is what stops a start.
func CheckRules(services map[string]grpc.ServiceInfo) error { return checkRules(services) }

// Families reads a User-Agent.
func Families(userAgent []byte) (browser, os string) { return families(userAgent) }

// RoleName is a role as error messages name it.
func RoleName(r storage.Role) string { return roleName(r) }

// MaxHold is how long a receipt holds tokens up at most.
const MaxHold = maxHold

// MaxConnections is how many connections a server takes.
const MaxConnections = maxConnections

// Bounded accepts at most n connections at once.
func Bounded(l net.Listener, n int) net.Listener { return newBounded(l, n) }

// Record adds a line.
func (a *Audit) Record(now time.Time, action, outcome string) {
	a.record(now, action, outcome, slog.String("caller", "test"))
}

// Opened writes the line of a start.
func (a *Audit) Opened(now time.Time, epoch uint64) { a.opened(now, epoch) }

// Checkpoint stands for what was written out.
func (a *Audit) Checkpoint() auditlog.Checkpoint { return a.checkpoint() }

// ServeBounded serves l with at most n connections at once.
func (srv *Server) ServeBounded(l net.Listener, n int) error { return srv.serve(newBounded(l, n)) }

// KeepShown writes by which certificates callers have called.
func (s *Service) KeepShown(ctx context.Context) error { return s.keepShown(ctx) }

// ExpectCredentials has servers that are made from now on close connections without
// a credential sooner.
func (s *Service) ExpectCredentials(within time.Duration) { s.stranger = within }
