package sim

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"github.com/gatehouse-ws/gatehouse/authority"
	"github.com/gatehouse-ws/gatehouse/authority/pki"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/memstore"
	"github.com/gatehouse-ws/gatehouse/storage/storagetest"
	"github.com/gatehouse-ws/gatehouse/wsnode"
	"github.com/gatehouse-ws/gatehouse/wsnode/deliver"
	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

// Lengths that the authority of a world dictates, short enough for a schedule
// to see each of them run out.
const (
	heartbeat      = 300 * time.Millisecond
	admissionFence = 2 * time.Second
	sessionFence   = 10 * time.Second
	maxGrace       = 8 * time.Second
)

const nodeNames = 3

// installation is the CA of every world, and the certificates of every
// credential of one.
type installation struct {
	dir          string
	ca           *x509.Certificate
	certificates map[string]*x509.Certificate
}

// bubbleStart is when time begins in a bubble of testing/synctest.
var bubbleStart = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

var installed = sync.OnceValue(func() *installation {
	dir, err := os.MkdirTemp("", "gatehouse-sim-")
	if err != nil {
		panic(err)
	}
	ca, err := pki.Create(filepath.Join(dir, "ca"), func() time.Time { return bubbleStart }, rand.Reader)
	if err != nil {
		panic(err)
	}
	in := &installation{dir: dir, ca: ca.Cert(), certificates: map[string]*x509.Certificate{}}
	for _, c := range standing() {
		_, csr, err := pki.NewRequest(rand.Reader)
		if err != nil {
			panic(err)
		}
		if in.certificates[c.Name], err = ca.SignClient(csr, c.Name, 1, 0); err != nil {
			panic(err)
		}
	}
	return in
})

func standing() []storage.Credential {
	out := []storage.Credential{{Name: "admin", Role: storage.Admin}, {Name: "login", Role: storage.Issuer}, {Name: "other", Role: storage.Issuer}}
	for n := range nodeNames {
		out = append(out, storage.Credential{Name: nodeName(n), Role: storage.Node})
	}
	for i := range out {
		out[i].Generation = 1
	}
	return out
}

func nodeName(n int) string { return fmt.Sprintf("node-%d", n) }

// world is an authority, its nodes and their clients, in a bubble of
// testing/synctest: the code is the real one, the clock and the network are not.
// Every choice comes from its seed.
type world struct {
	t    *testing.T
	seed uint64
	log  *slog.Logger

	*chances // the schedule's own

	mu      sync.Mutex // guards what follows
	started time.Time
	trace   []string
	faults  []string
	plan    []planned // owned by the schedule
	counts  map[string]int

	store   *memstore.Store
	backup  *memstore.Backup // the last, or nil; owned by the schedule
	process *process
	nodes   []*machine // all there ever were
	console *link      // of the admin
	logins  map[string]*link
	rules   rules
	history history
	// patience is how long nodes wait for an answer to a redemption; owned by the
	// schedule.
	patience time.Duration
	fence    time.Duration   // the session fence with which the authority starts; owned by the schedule
	life     time.Duration   // of a session; owned by the schedule
	wg       sync.WaitGroup  // of clients and admins
	ctx      context.Context // ends clients and admins
	stop     context.CancelFunc
}

// rules are switched off, for a schedule that shows what each is for.
type rules struct {
	tap      func(*link, proto.Message)        // changes what nodes are told
	hears    func(proto.Message)               // changes what nodes say
	wrap     func(storage.Store) storage.Store // changes what the authority knows of its store
	most     uint32                            // sessions of a subject, the newest; 0 leaves that to the seed
	oneEpoch bool                              // a restore goes on with the history of its backup
	// fleetLost has a restored store know of no node that was registered before.
	fleetLost bool
}

func newWorld(t *testing.T, seed uint64, r rules) *world {
	w := &world{
		t: t, seed: seed, started: time.Now(), counts: map[string]int{},
		store: memstore.New(), log: slog.New(slog.DiscardHandler), rules: r, logins: map[string]*link{},
		patience: 3 * time.Second, fence: sessionFence, life: 10 * time.Minute,
	}
	if verbose {
		w.log = slog.New(slog.NewTextHandler(traceWriter{w}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	w.chances = w.chancesOf("schedule")
	w.history.init(w)
	w.ctx, w.stop = context.WithCancel(context.Background())
	for _, c := range standing() {
		c.CreatedAt = time.Now()
		if err := w.store.CreateCredential(w.ctx, c); err != nil {
			t.Fatal(err)
		}
	}
	w.console = w.newLink("admin")
	w.logins["login"], w.logins["other"] = w.newLink("login"), w.newLink("other")
	w.startAuthority()
	return w
}

type traceWriter struct{ w *world }

func (t traceWriter) Write(b []byte) (int, error) {
	t.w.event("log %s", strings.TrimSpace(string(b)))
	return len(b), nil
}

// event writes a line of the trace.
func (w *world) event(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.trace = append(w.trace, fmt.Sprintf("%9.4f ", time.Since(w.started).Seconds())+fmt.Sprintf(format, args...))
}

// chances are drawn from the seed. Whoever acts beside others has chances of
// its own, so that it does not matter who of them comes first.
type chances struct{ random *mathrand.Rand }

// chancesOf makes the chances of the next who that has this name.
func (w *world) chancesOf(name string) *chances {
	w.mu.Lock()
	w.counts[name]++
	n := w.counts[name]
	w.mu.Unlock()
	h := fnv.New64a()
	fmt.Fprintf(h, "%d %s %d", w.seed, name, n)
	return &chances{mathrand.New(mathrand.NewPCG(w.seed, h.Sum64()))}
}

// fork makes other chances of these.
func (c *chances) fork() *chances {
	return &chances{mathrand.New(mathrand.NewPCG(c.random.Uint64(), c.random.Uint64()))}
}

// between draws a duration.
func (c *chances) between(low, high time.Duration) time.Duration {
	return low + time.Duration(c.random.Int64N(int64(high-low)))
}

// chance is true p times in 100.
func (c *chances) chance(p int) bool { return c.draw(100) < p }

func (c *chances) draw(n int) int { return c.random.IntN(n) }

// delay is how long a message takes: mostly a millisecond, sometimes much.
func (c *chances) delay() time.Duration {
	if c.chance(5) {
		return c.between(20*time.Millisecond, 700*time.Millisecond)
	}
	return c.between(100*time.Microsecond, 4*time.Millisecond)
}

func (w *world) nextNumber() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts["number"]++
	return w.counts["number"]
}

// process is one run of the authority.
type process struct {
	server  *server
	service *authority.Service
	store   *storagetest.Faulty
	audit   *authority.Audit
	stop    context.CancelFunc
	ran     chan error
}

// server is the authority's process as the network finds it, or nil.
func (w *world) server() *server {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.process == nil {
		return nil
	}
	return w.process.server
}

func (w *world) config() authority.Config {
	cfg := authority.DefaultConfig()
	cfg.Tokens.DefaultTTL, cfg.Tokens.MaxTTL = 20*time.Second, time.Minute
	cfg.Sessions.DefaultTTL, cfg.Sessions.MaxTTL = w.life, w.life
	cfg.Fleet.HeartbeatInterval, cfg.Fleet.AdmissionFence, cfg.Fleet.SessionFence = heartbeat, admissionFence, w.fence
	cfg.Fleet.MaxEntries = 3
	cfg.Sessions.MaxGrace = maxGrace
	cfg.Sessions.PerSubject, cfg.Sessions.AtLimit = w.most(), authority.CloseOldest
	return cfg
}

func (w *world) startAuthority() {
	// A process that is gone must not write any more, whatever its goroutines do.
	p := &process{store: &storagetest.Faulty{Store: w.store}, audit: authority.NewAudit(io.Discard), ran: make(chan error, 1)}
	var store storage.Store = keeper{p.store, w}
	if w.rules.wrap != nil {
		store = w.rules.wrap(store)
	}
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	// Its channels must be of this bubble.
	ca, err := pki.Load(filepath.Join(installed().dir, "ca"), time.Now, rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	p.service, err = authority.New(ctx, w.config(), authority.Parts{
		Store: store, CA: ca, Audit: p.audit, Log: w.log, Metrics: prometheus.NewRegistry(), Now: time.Now, Random: rand.Reader,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	p.server = &server{methods: map[string]method{}, ctx: ctx}
	p.server.unary, p.server.stream = p.service.Interceptors()
	p.service.Register(p.server)
	go func() { p.ran <- p.service.Run(ctx) }()
	w.event("authority starts")
	w.mu.Lock()
	w.counts["authority"]++
	w.process = p
	w.mu.Unlock()
}

// stopAuthority ends the process: in good order, or as kill -9 does.
func (w *world) stopAuthority(kill bool) {
	w.mu.Lock()
	p := w.process
	w.process = nil
	w.mu.Unlock()
	w.event("authority ends, killed %t", kill)
	if kill {
		p.store.Stop(errors.New("killed"))
	} else {
		p.service.Stop()
		time.Sleep(20 * time.Millisecond)
	}
	p.stop()
	p.server.calls.Wait()
	<-p.ran
	if err := p.audit.Close(); err != nil {
		w.t.Error(err)
	}
}

// machine is one process of a node.
type machine struct {
	w      *world
	name   string
	number int
	link   *link
	node   *wsnode.Node
	l      *wstest.Listener
	drift  float64 // of its clock: what it gains in a second
	dead   bool    // written by the schedule, with w.mu locked
	served chan error

	mu     sync.Mutex
	paused chan struct{} // closed on resume; nil while it runs
	stuck  chan struct{} // closed when the application goes on; nil while it does
	inside int           // turns that wait for that
}

// clock is the node's CLOCK_BOOTTIME. A process that is stopped does nothing:
// whoever asks for the time waits until it goes on.
func (m *machine) clock() time.Duration {
	for {
		m.mu.Lock()
		paused := m.paused
		m.mu.Unlock()
		if paused == nil {
			return time.Duration(float64(time.Since(m.w.started)) * (1 + m.drift))
		}
		<-paused
		time.Sleep(m.turn())
	}
}

// turn is when a goroutine that was stopped goes on after the process does: one
// after the other, in an order that the seed decides by what they were doing.
func (m *machine) turn() time.Duration {
	var at [8]uintptr
	frames := runtime.CallersFrames(at[:runtime.Callers(3, at[:])])
	h := fnv.New64a()
	fmt.Fprintf(h, "%d %s", m.w.seed, m)
	for {
		f, more := frames.Next()
		fmt.Fprintf(h, " %s:%d", f.Function, f.Line)
		if !more {
			break
		}
	}
	return time.Duration(1 + h.Sum64()%uint64(2*resumeTime))
}

// resumeTime is between the parts of a resume.
const resumeTime = time.Millisecond

// awake waits while the machine is paused.
func (m *machine) awake() {
	m.mu.Lock()
	paused := m.paused
	m.mu.Unlock()
	if paused != nil {
		<-paused
	}
}

// stick has the application keep the turns that bring it a message, as one does
// that waits for its database.
func (m *machine) stick() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stuck = make(chan struct{})
}

// unstick lets it go on, and returns how many turns it has kept.
func (m *machine) unstick() (kept int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stuck != nil {
		close(m.stuck)
		m.stuck = nil
	}
	return m.inside
}

// keep is what the application does with a turn.
func (m *machine) keep() {
	m.mu.Lock()
	stuck := m.stuck
	m.mu.Unlock()
	if stuck == nil {
		return
	}
	m.count(1)
	<-stuck
	m.count(-1)
}

func (m *machine) count(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.inside += n
}

func (m *machine) pause() {
	m.w.event("%s pauses", m)
	m.mu.Lock()
	m.paused = make(chan struct{})
	m.mu.Unlock()
	m.link.hold(true, true)
}

// resume lets the process go on: its timers first, or what has come for it
// meanwhile.
func (m *machine) resume() {
	if !m.isPaused() {
		return
	}
	m.w.event("%s goes on", m)
	networkFirst := m.w.chance(50)
	if networkFirst {
		m.link.hold(false, false)
		time.Sleep(resumeTime)
	}
	m.unpause()
	if !networkFirst {
		time.Sleep(resumeTime)
		m.link.hold(false, false)
	}
}

func (m *machine) unpause() (was bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if was = m.paused != nil; was {
		close(m.paused)
		m.paused = nil
	}
	return was
}

func (m *machine) String() string { return fmt.Sprintf("%s#%d", m.name, m.number) }

// startNode starts a process of a node. dead are processes of it that are known
// to have ended.
func (w *world) startNode(name string, dead ...*machine) *machine {
	m := &machine{w: w, name: name, number: len(w.nodes), link: w.newLink(name), l: wstest.Listen(), served: make(chan error, 1)}
	m.drift = float64(w.draw(1001)-500) / 1e6 // as NTP slews at most
	m.link.tap = func(msg proto.Message) {
		w.history.sent(m, msg)
		if w.rules.tap != nil {
			w.rules.tap(m.link, msg)
		}
	}
	m.link.hears = func(msg proto.Message) {
		w.history.says(m, msg)
		if w.rules.hears != nil {
			w.rules.hears(msg)
		}
	}
	cfg := wsnode.DefaultConfig()
	cfg.Authority.Address, cfg.Authority.RedeemTimeout = "simulated", w.patience
	cfg.Limits.Addresses, cfg.Limits.Sockets.Max = 1024, 1000
	cfg.Limits.UnauthenticatedPerAddress.Max, cfg.Limits.NewPerAddress.Max = 1000, 1000
	cfg.Limits.Messages.PerSecond = 0
	cfg.Log = w.log.With("node", m.String())
	cfg.Sockets.HandshakeTimeout = 30 * time.Second
	route := wsnode.Route{Path: "/", Audience: "chat"}
	route.SetDefaults()
	route.MissingOrigin, route.Unchecked = wsnode.AllowMissing, true
	cfg.Routes = []wsnode.Route{route}
	for _, d := range dead {
		cfg.Dead = append(cfg.Dead, d.node.Instance())
	}
	var err error
	if m.node, err = wsnode.Over(pb.NewNodeServiceClient(m.link), m.clock, cfg, &handler{m}); err != nil {
		w.t.Fatal(err)
	}
	w.event("%s starts, instance %x", m, short(m.node.Instance()))
	w.mu.Lock()
	w.nodes = append(w.nodes, m)
	w.mu.Unlock()
	m.node.Start()
	go func() { m.served <- m.node.Serve(m.l, nil) }()
	return m
}

// end begins to end the process: in good order, or as kill -9 and a lost machine
// do. It has ended, for all to know, endsWithin later; then does what comes next.
func (m *machine) end(kill bool, then func()) {
	m.w.mu.Lock()
	m.dead = true
	m.w.mu.Unlock()
	kill = kill || m.isPaused()
	m.w.event("%s ends, killed %t", m, kill)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	if kill {
		m.w.history.killed(m)
		cancel()
		m.unpause()
		m.link.hold(true, true) // nothing that it says from now on is heard
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer cancel()
		if err := m.node.Shutdown(ctx); err != nil && !kill { // its last words were not heard
			m.w.event("%s: shutdown: %v", m, err)
			m.w.history.killed(m)
		}
		if err := <-m.served; err != nil {
			m.w.t.Errorf("%s: serve: %v", m, err)
		}
		m.link.cut()
	}()
	m.w.later(endsWithin, func() {
		<-ended
		m.w.event("%s has ended", m)
		then()
	})
}

// endsWithin is longer than an end takes: how long that is the seed does not
// decide alone.
const endsWithin = 8 * time.Second

// short is the beginning of an id, for traces.
func short[T ~[16]byte](id T) string { return hex.EncodeToString(id[:4]) }

// handler is the application of a node: it tells history.
type handler struct{ m *machine }

func (h *handler) Opened(s deliver.Session) { h.m.w.history.opened(h.m, s.Identity()) }

func (h *handler) Message(s deliver.Session, _ deliver.Op, payload []byte) error {
	h.m.w.history.message(h.m, s.Identity())
	h.m.keep()
	return s.Send(payload)
}

func (h *handler) Closed(s deliver.Session, code uint16, reason string) {
	h.m.w.history.closed(h.m, s.Identity(), code, reason)
}

var clientAddresses = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.77"), netip.MustParseAddr("198.51.100.5")}
