package noded

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/gatehouse-ws/gatehouse/wsnode"
	"github.com/gatehouse-ws/gatehouse/wsnode/deliver"
	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

// collector is where spans are sent.
type collector struct {
	mu    sync.Mutex
	text  []byte
	spans []*tracepb.Span
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var sent tracepb.TracesData // on the wire as what is sent in fact
	if err != nil || r.URL.Path != "/v1/traces" || proto.Unmarshal(body, &sent) != nil {
		http.Error(w, "not OTLP", http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.text = append(c.text, body...)
	for _, of := range sent.GetResourceSpans() {
		for _, scope := range of.GetScopeSpans() {
			c.spans = append(c.spans, scope.GetSpans()...)
		}
	}
}

// told is what a span says beside its ids.
func told(s *tracepb.Span) string {
	var out []string
	for _, a := range s.GetAttributes() {
		if a.GetKey() != "gatehouse.handshake_id" {
			out = append(out, a.GetKey()+"="+a.GetValue().GetStringValue())
		}
	}
	slices.Sort(out)
	return s.GetName() + " " + strings.Join(out, " ")
}

// handshakes has a node of this configuration take one handshake and refuse one, and
// returns the spans that the authority was told of.
func handshakes(t *testing.T, share float64) (spans [][]byte, traces string, log string) {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Traces.Handshakes, cfg.DrainWindow, cfg.ReturnWindow = share, 0, 0
	cfg.Authority.Address, cfg.Config.Log = "in memory", quiet
	route := wsnode.Route{Path: "/chat", Audience: "chat"}
	route.SetDefaults()
	route.MissingOrigin, route.Unchecked = wsnode.AllowMissing, true
	cfg.Routes = []wsnode.Route{route}
	lines := &bytes.Buffer{}
	exporter, err := traced(&cfg, slog.New(slog.NewTextHandler(lines, nil)))
	if err != nil {
		t.Fatal(err)
	}
	a, begin := wstest.NewAuthority(), time.Now()
	n, err := wsnode.Over(a.Client(), func() time.Duration { return time.Since(begin) }, cfg.Config, deliver.Echo{})
	if err != nil {
		t.Fatal(err)
	}
	n.Start()
	l, served := wstest.Listen(), make(chan error, 1)
	go func() { served <- n.Serve(l, nil) }()
	for end := time.Now().Add(wstest.Patience); n.Ready() != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(n.Ready())
		}
	}
	token := a.Issue(wstest.Token{Subject: "canary-subject"}).Text
	for _, status := range []int{101, 401} {
		c, err := l.Dial(netip.MustParseAddr("192.0.2.1"))
		if err != nil {
			t.Fatal(err)
		}
		p := wstest.NewPeer(t, c)
		p.Write(wstest.Opening{Target: "/chat", Bearer: token, Fields: []string{"User-Agent: canary-agent"}}.Bytes())
		if resp, _ := p.Response(); resp.StatusCode != status {
			t.Errorf("status %d, want %d", resp.StatusCode, status)
		}
		_ = c.Close()
	}
	ctx, cancel := context.WithTimeout(t.Context(), wstest.Patience)
	defer cancel()
	if err := n.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	exporter.Close()
	a.Await(t, "two redemptions", func(s *wstest.Seen) bool {
		for _, item := range s.Redeems {
			spans = append(spans, item.GetSpan())
		}
		return len(s.Redeems) == 2
	})
	return spans, exporter.To(), lines.String()
}

// Handshakes that are traced are exported as the standard variables say, each with
// its redemption, which the authority is told of; nothing of the peer is in them.
func TestHandshakesAreExported(t *testing.T) {
	c := &collector{}
	web := httptest.NewServer(c)
	defer web.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", web.URL)
	named, to, _ := handshakes(t, 1)
	if to != "otlp over http/protobuf" {
		t.Errorf("exported %s", to)
	}
	var got []string
	byID := map[string]*tracepb.Span{}
	for _, s := range c.spans {
		got = append(got, told(s))
		byID[string(s.GetSpanId())] = s
	}
	want := []string{
		"redeem gatehouse.outcome=ok", "handshake gatehouse.driver=portable gatehouse.outcome=ok http.route=/chat",
		"redeem gatehouse.outcome=token_used", "handshake gatehouse.driver=portable gatehouse.outcome=token_used http.route=/chat",
	}
	if !slices.Equal(got, want) {
		t.Errorf("exported %q, want %q", got, want)
	}
	for _, name := range named {
		s := byID[string(name[16:])]
		if s == nil || !bytes.Equal(s.GetTraceId(), name[:16]) || byID[string(s.GetParentSpanId())].GetName() != "handshake" {
			t.Errorf("the authority was told of the span %x, of which %v was exported", name, s)
		}
	}
	if bytes.Contains(c.text, []byte("canary")) || bytes.Contains(c.text, []byte("gh1_")) {
		t.Errorf("what a peer has said is exported: %q", c.text)
	}
}

// Without a word, and without somewhere to send spans to, nothing is traced; the
// second is said.
func TestHandshakesAreNotTraced(t *testing.T) {
	c := &collector{}
	web := httptest.NewServer(c)
	defer web.Close()
	for _, way := range []struct {
		endpoint string
		share    float64
		warns    bool
	}{{web.URL, 0, false}, {"", 1, true}} {
		t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", way.endpoint)
		named, to, log := handshakes(t, way.share)
		if to != "off" || len(c.spans) > 0 || len(named[0])+len(named[1]) > 0 {
			t.Errorf("%+v: exported %s %v, named %x", way, to, c.spans, named)
		}
		if strings.Contains(log, "traces.handshakes has no effect") != way.warns {
			t.Errorf("%+v: log %s", way, log)
		}
	}
}

// A share of all handshakes is traced.
func TestTracerTakesAShare(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
	for _, share := range []float64{0.25, 1} {
		cfg := DefaultConfig()
		cfg.Traces.Handshakes = share
		exporter, err := traced(&cfg, quiet)
		if err != nil {
			t.Fatal(err)
		}
		const all = 10_000
		n := 0
		for range all {
			if cfg.Tracer.Handshake("loops", time.Now()) != nil {
				n++
			}
		}
		if low, high := share*0.9*all, min(share*1.1, 1)*all; float64(n) < low || float64(n) > high {
			t.Errorf("%d of %d, want a share of %v", n, all, share)
		}
		exporter.Close() // none has ended: there is nothing to send
	}
	for _, share := range []float64{-0.1, 1.1} {
		cfg := DefaultConfig()
		cfg.Traces.Handshakes = share
		if want := fmt.Sprintf("traces.handshakes: %v is outside 0 to 1", share); !strings.Contains(cfg.Validate().Error(), want) {
			t.Errorf("%v, want %s", cfg.Validate(), want)
		}
	}
}

// What the variables say that are there for other programs keeps no node from
// starting which traces nothing.
func TestVariablesOfOthers(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")
	for share, refuses := range map[float64]bool{0: false, 0.01: true} {
		cfg := DefaultConfig()
		cfg.Traces.Handshakes = share
		if err := cfg.Validate(); strings.Contains(err.Error(), "OTEL_EXPORTER_OTLP_PROTOCOL") != refuses {
			t.Errorf("with a share of %v: %v", share, err)
		}
	}
}
