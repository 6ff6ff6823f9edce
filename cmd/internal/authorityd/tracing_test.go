package authorityd

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// TestTracesAreExported proves that the standard variables make a running
// authority export its calls, and that a wrong one is found by config check and
// stops the start.
func TestTracesAreExported(t *testing.T) {
	cfg := initialised(t)
	var sent atomic.Pointer[string]
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		text := string(body)
		sent.Store(&text)
	}))
	defer collector.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	a, err := Open(t.Context(), cfg, quiet)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	ctx, end := context.WithCancel(t.Context())
	go func() { served <- a.Serve(ctx, l) }()
	if _, err := EnrollAt(t.Context(), cfg, l.Addr().String(), viewer("v"), quiet); err != nil {
		t.Error(err)
	}
	end()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if got := sent.Load(); got == nil {
		t.Error("nothing was exported")
	} else if !strings.Contains(*got, "CredentialService/CreateCredential") || !strings.Contains(*got, "gatehouse-authority") {
		t.Errorf("exported: %q", *got)
	}

	t.Setenv("OTEL_TRACES_EXPORTER", "jaeger")
	const want = `OTEL_TRACES_EXPORTER: "jaeger" is neither otlp nor none`
	if err := Check(cfg); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("config check: %v", err)
	}
	if _, err := Open(t.Context(), cfg, quiet); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("start: %v", err)
	}
}
