package tracing

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
)

func TestProtocol(t *testing.T) {
	for _, c := range []struct {
		rule string
		env  map[string]string
		want string
	}{
		{"off unless asked for", nil, ""},
		{"a protocol alone asks for nothing", map[string]string{"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, ""},
		{"an endpoint turns it on, by the default protocol", map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, "http/protobuf"},
		{"so does one for traces", map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318"}, "http/protobuf"},
		{"so does the exporter's name", map[string]string{"OTEL_TRACES_EXPORTER": "otlp"}, "http/protobuf"},
		{"none is none", map[string]string{"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, ""},
		{"disabled is disabled", map[string]string{"OTEL_SDK_DISABLED": "TRUE", "OTEL_TRACES_EXPORTER": "otlp"}, ""},
		{"anything else than true is not", map[string]string{"OTEL_SDK_DISABLED": "1", "OTEL_TRACES_EXPORTER": "otlp"}, "http/protobuf"},
		{"the protocol is chosen", map[string]string{"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "grpc"},
		{"that for traces first", map[string]string{"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}, "http/protobuf"},
		{"another exporter is refused", map[string]string{"OTEL_TRACES_EXPORTER": "zipkin"},
			`OTEL_TRACES_EXPORTER: "zipkin" is neither otlp nor none: let a collector turn OTLP into other forms`},
		{"another protocol is refused", map[string]string{"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
			`OTEL_EXPORTER_OTLP_PROTOCOL: "http/json" is neither http/protobuf nor grpc`},
	} {
		got, err := protocol(func(name string) string { return c.env[name] })
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.rule, got, c.want)
		}
	}
}

// collector keeps what is sent to it, by both protocols.
type collector struct {
	mu   sync.Mutex
	sent string
}

func (c *collector) add(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent += what
}

func (c *collector) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	c.add(r.URL.Path + " " + string(body))
}

func (c *collector) grpc(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(s)
		var body raw
		if err := s.RecvMsg(&body); err != nil {
			return err
		}
		c.add(method + " " + string(body))
		return s.SendMsg(&raw{})
	}), grpc.ForceServerCodec(&body{}))
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(srv.Stop)
	return "http://" + l.Addr().String()
}

type raw []byte

// body is a codec that leaves messages as they are.
type body struct{}

func (body) Marshal(v any) ([]byte, error)      { return *v.(*raw), nil }
func (body) Unmarshal(data []byte, v any) error { *v.(*raw) = append(raw(nil), data...); return nil }
func (body) Name() string                       { return "proto" }

func TestExport(t *testing.T) {
	c := &collector{}
	web := httptest.NewServer(c)
	defer web.Close()
	for _, by := range []struct{ protocol, endpoint, want string }{
		{"http/protobuf", web.URL, "/v1/traces"},
		{"grpc", c.grpc(t), "/opentelemetry.proto.collector.trace.v1.TraceService/Export"},
	} {
		c.sent = ""
		t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", by.endpoint)
		t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", by.protocol)
		t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment=blue")
		e, err := Start(t.Context(), "gatehouse-test", "1.2.3", slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if got := e.To(); got != "otlp over "+by.protocol {
			t.Errorf("exported %s", got)
		}
		_, span := e.Provider().Tracer("test").Start(context.Background(), "a span")
		span.End()
		e.Close()
		for _, want := range []string{by.want, "a span", "gatehouse-test", "1.2.3", "blue"} {
			if !strings.Contains(c.sent, want) {
				t.Errorf("%s: no %q in %q", by.protocol, want, c.sent)
			}
		}
	}
}

func TestNothingIsExportedUnasked(t *testing.T) {
	e, err := Start(t.Context(), "gatehouse-test", "1.2.3", slog.New(slog.DiscardHandler))
	if err != nil || e != nil {
		t.Fatalf("%v, %v", e, err)
	}
	if e.Provider() != nil || e.To() != "off" {
		t.Errorf("%v, %s", e.Provider(), e.To())
	}
	e.Close()
}

// A collector that is away delays nothing but the end, within its bound, and the
// log tells.
func TestAnAbsentCollector(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close() // nobody listens there now
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+l.Addr().String())
	t.Setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "300")
	var log strings.Builder
	e, err := Start(t.Context(), "gatehouse-test", "1.2.3", slog.New(slog.NewJSONHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	_, span := e.Provider().Tracer("test").Start(context.Background(), "a span")
	span.End()
	e.Close()
	if !strings.Contains(log.String(), `"level":"WARN","msg":"traces may be lost"`) {
		t.Errorf("log: %s", log.String())
	}
}
