package wsnode

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/gatehouse-ws/gatehouse/wsnode/deliver"
	"github.com/gatehouse-ws/gatehouse/wsnode/schema"
	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Routes of every lab.
const (
	echoPath    = "/echo"    // unchecked, programs may come
	binaryPath  = "/binary"  // the same with binary messages
	chatPath    = "/chat"    // checked, browsers of appOrigin only
	closingPath = "/closing" // as echoPath, refuses by close, takes tokens in the query
	appOrigin   = "https://app.example"
)

var testSchemas = fstest.MapFS{"chat.json": {Data: []byte(`{
	"$schema": "https://json-schema.org/draft/2020-12/schema",
	"$defs": {
		"chat": {"type": "object", "required": ["text"], "properties": {"type": {"const": "chat"}, "text": {"type": "string", "maxLength": 20}}, "additionalProperties": false},
		"ping": {"type": "object", "properties": {"type": {"const": "ping"}}, "additionalProperties": false},
		"tree": {"properties": {"tree": {"$ref": "#/$defs/costly"}}},
		"costly": {"anyOf": [{"items": {"$ref": "#/$defs/costly"}, "minItems": 1}, {"items": {"$ref": "#/$defs/costly"}, "minItems": 1}]}
	}}`)}}

// testConfig has the routes, and defaults for the rest.
func testConfig() Config {
	c := DefaultConfig()
	c.Authority.Address = "in memory"
	c.Limits.Addresses = 1024
	c.Limits.Sockets.Max = 1000
	c.DrainWindow, c.ReturnWindow = 0, 0
	route := func(path string, edit func(*Route)) {
		r := Route{Path: path, Audience: "test"}
		r.SetDefaults()
		r.MissingOrigin, r.Unchecked, r.Subprotocols = AllowMissing, true, []string{"app.v2", "app.v1"}
		edit(&r)
		c.Routes = append(c.Routes, r)
	}
	route(echoPath, func(*Route) {})
	route(binaryPath, func(r *Route) { r.Binary = true })
	route(closingPath, func(r *Route) { r.RefuseByClose, r.QueryToken = true, true })
	route(chatPath, func(r *Route) {
		r.MissingOrigin, r.Unchecked, r.Origins = RefuseMissing, false, []string{appOrigin}
		r.Messages.Types = []schema.Type{{Name: "chat", Schema: "chat.json#/$defs/chat"}, {Name: "ping", Schema: "chat.json#/$defs/ping"}, {Name: "tree", Schema: "chat.json#/$defs/tree"}}
	})
	c.Schemas = testSchemas
	return c
}

// logbook is the lines that were logged.
type logbook struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logbook) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logbook) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// lines are those with this message, as what they say.
func (b *logbook) lines(t testing.TB, msg string) (out []map[string]any) {
	t.Helper()
	for line := range strings.Lines(b.String()) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("log line %q: %v", line, err)
		}
		if m["msg"] == msg {
			out = append(out, m)
		}
	}
	return out
}

// lab is a node that serves a listener in memory, and its authority in memory,
// in a bubble.
type lab struct {
	*Node
	t       *testing.T
	a       *wstest.Authority
	l       *wstest.Listener
	logs    *logbook
	calls   *recorder
	metrics *prometheus.Registry
	down    bool // the test has shut the node down
}

var quiet = slog.New(slog.DiscardHandler)

const shutdownTimeout = 30 * time.Second

// inLab runs test in a bubble. edit may be nil. At the end the node is shut
// down, and everything that it counts must be back at zero: sockets, sessions,
// and the sessions that the authority knows of, each ended exactly once.
func inLab(t *testing.T, edit func(c *Config, a *wstest.Authority), test func(l *lab)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, testConfig(), edit)
		l.Start()
		serving := make(chan error, 1)
		go func() { serving <- l.Serve(l.l, nil) }()
		defer func() {
			if err := <-serving; err != nil {
				t.Errorf("Serve: %v", err)
			}
		}()
		defer l.shutdown()
		synctest.Wait()
		test(l)
	})
}

func newLab(t *testing.T, cfg Config, edit func(c *Config, a *wstest.Authority)) *lab {
	l := &lab{t: t, a: wstest.NewAuthority(), l: wstest.Listen(), logs: &logbook{}, metrics: prometheus.NewRegistry()}
	l.a.HeartbeatInterval = time.Second
	l.calls = newRecorder(t)
	cfg.Log = slog.New(slog.NewJSONHandler(l.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	cfg.Metrics = l.metrics
	if edit != nil {
		edit(&cfg, l.a)
	}
	begin := time.Now()
	clock := func() time.Duration { return time.Since(begin) }
	var err error
	l.Node, err = Over(l.a.Client(), clock, cfg, l.calls)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *lab) shutdown() {
	l.t.Helper()
	if !l.down {
		for g := range wstest.Gate(6) {
			l.a.Hold(g, false)
		}
		l.a.Down(nil)
		ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
		defer cancel()
		if err := l.Shutdown(ctx); err != nil {
			l.t.Errorf("Shutdown: %v", err)
		}
		l.down = true
	}
	if c := l.addresses.Counts(); c.Sockets != 0 || c.Unauthenticated != 0 || l.rejecting.Load() != 0 {
		l.t.Errorf("counts after the end: %+v, %d rejecting", c, l.rejecting.Load())
	}
	if n := l.driver.Queued(); n != 0 {
		l.t.Errorf("%d bytes are queued after the end", n)
	}
	if n := l.Sessions(); n != 0 || l.sessions.byToken.peers != 0 || l.sessions.bySubject.peers != 0 {
		l.t.Errorf("%d sessions after the end", n)
	}
	for _, s := range l.a.Sessions() {
		if len(s.Reports) != 1 {
			l.t.Errorf("session %x: its end was reported as %v, want once", s.ID, s.Reports)
		}
	}
	l.calls.finish()
	if strings.Contains(l.logs.String(), "gh1_") && strings.Count(l.logs.String(), "gh1_") != strings.Count(l.logs.String(), "gh1_[scrubbed]") {
		l.t.Error("a token was logged")
	}
}

// dialFrom connects from an address.
func (l *lab) dialFrom(addr string) *wstest.Peer {
	l.t.Helper()
	c, err := l.l.Dial(netip.MustParseAddr(addr))
	if err != nil {
		l.t.Fatal(err)
	}
	return wstest.NewPeer(l.t, c)
}

func (l *lab) dial() *wstest.Peer { return l.dialFrom("192.0.2.1") }

// token issues one.
func (l *lab) token() string { return l.a.Issue(wstest.Token{}).Text }

// open opens a session on path with a token as t says.
func (l *lab) open(path string, t wstest.Token) *wstest.Peer {
	l.t.Helper()
	o := wstest.Opening{Target: path, Bearer: l.a.Issue(t).Text}
	if path == chatPath {
		o.Origin = appOrigin
	}
	p := l.dial()
	p.Open(o)
	return p
}

// metric is the value of a counter or gauge, by its name and label value.
func (l *lab) metric(name, label string) float64 {
	l.t.Helper()
	families, err := l.metrics.Gather()
	if err != nil {
		l.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "gatehouse_node_"+name {
			continue
		}
		for _, m := range f.GetMetric() {
			if label == "" || len(m.GetLabel()) == 1 && m.GetLabel()[0].GetValue() == label {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	l.t.Fatalf("there is no metric %s with %q", name, label)
	return 0
}

// recorder is a handler that echoes, writes down what it is told, and finds out
// whether the node keeps the contract of deliver.Handler.
type recorder struct {
	t testing.TB
	// May be set to do more.
	opened  func(s deliver.Session)
	message func(s deliver.Session, op deliver.Op, payload []byte) error
	closed  func(s deliver.Session, code uint16, reason string)

	mu       sync.Mutex
	sessions map[deliver.Session]*record
	last     deliver.Session
	events   []string
}

type record struct {
	busy   bool
	closed bool
}

func newRecorder(t testing.TB) *recorder {
	return &recorder{t: t, sessions: map[deliver.Session]*record{}}
}

// begin begins a call for s.
func (r *recorder) begin(s deliver.Session, event string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	x := r.sessions[s]
	switch {
	case x == nil && event == "opened":
		x = &record{}
		r.sessions[s] = x
		r.last = s
	case x == nil:
		r.t.Errorf("%s before Opened", event)
		x = &record{}
	case event == "opened":
		r.t.Error("Opened twice")
	case x.busy:
		r.t.Errorf("%s within another call", event)
	case x.closed:
		r.t.Errorf("%s after Closed", event)
	}
	x.busy = true
	x.closed = strings.HasPrefix(event, "closed")
	r.events = append(r.events, event)
}

func (r *recorder) end(s deliver.Session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sessions[s].busy = false
}

func (r *recorder) Opened(s deliver.Session) {
	r.begin(s, "opened")
	defer r.end(s)
	if r.opened != nil {
		r.opened(s)
	}
}

func (r *recorder) Message(s deliver.Session, op deliver.Op, payload []byte) error {
	r.begin(s, "message "+string(payload))
	defer r.end(s)
	if r.message != nil {
		return r.message(s, op, payload)
	}
	return deliver.Echo{}.Message(s, op, payload)
}

func (r *recorder) Closed(s deliver.Session, code uint16, reason string) {
	r.begin(s, fmt.Sprintf("closed %d %s", code, reason))
	defer r.end(s)
	if r.closed != nil {
		r.closed(s, code, reason)
	}
}

// newest is the session that was opened last.
func (r *recorder) newest() deliver.Session {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last
}

func (r *recorder) seen() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.events...)
}

func (r *recorder) finish() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for s, x := range r.sessions {
		if !x.closed {
			r.t.Errorf("session %x was opened and never closed", s.Identity().Session)
		}
	}
}
