// Package ops is what every daemon gives its operators: a log, a listener for
// health and metrics, and an end by signal.
package ops

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// LogConfig says what is logged, and how.
type LogConfig struct {
	Level  Level  `yaml:"level" help:"debug, info, warn or error"`
	Format string `yaml:"format" help:"json, or text for reading by eye"`
}

// DefaultLog is JSON lines from info on.
func DefaultLog() LogConfig { return LogConfig{Level: Level(slog.LevelInfo), Format: "json"} }

// Level is from where on something is logged.
type Level slog.Level

// MarshalText implements encoding.TextMarshaler.
func (l Level) MarshalText() ([]byte, error) {
	return []byte(strings.ToLower(slog.Level(l).String())), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (l *Level) UnmarshalText(text []byte) error {
	if (*slog.Level)(l).UnmarshalText(text) != nil {
		return errors.New("want debug, info, warn or error")
	}
	return nil
}

// Validate tells what is wrong.
func (c *LogConfig) Validate() error {
	if c.Format != "json" && c.Format != "text" {
		return fmt.Errorf("log.format: %q is neither json nor text", c.Format)
	}
	return nil
}

// Logger writes to w as the configuration says.
func (c *LogConfig) Logger(w io.Writer) *slog.Logger {
	opts := &slog.HandlerOptions{Level: slog.Level(c.Level), ReplaceAttr: durationText}
	if c.Format == "text" {
		return slog.New(slog.NewTextHandler(w, opts))
	}
	return slog.New(slog.NewJSONHandler(w, opts))
}

// durationText writes durations with their unit: JSON lines would have bare
// nanoseconds.
func durationText(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().String())
	}
	return a
}

// UntilSignal is a context that the first SIGINT or SIGTERM ends, so that the
// program stops gracefully; the second ends the program as if nobody listened.
func UntilSignal(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// OnHangup calls f whenever SIGHUP comes, one call at a time, until stop is
// called, which waits for a call under way. Signals that come during a call make
// one more.
func OnHangup(f func()) (stop func()) {
	signals, stopped, ended := make(chan os.Signal, 1), make(chan struct{}), make(chan struct{})
	signal.Notify(signals, syscall.SIGHUP)
	go func() { // ends by stop
		defer close(ended)
		for {
			select {
			case <-stopped:
				return
			case <-signals:
				f()
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(stopped)
		<-ended
	}
}

// Listen opens a TCP listener; when it can't, the error names the flag or
// setting that chooses another address. It takes no Multipath TCP (RFC 8684), with
// which a peer sends from addresses that nobody has looked at.
func Listen(address, setting string) (net.Listener, error) {
	var one net.ListenConfig
	one.SetMultipathTCP(false)
	l, err := one.Listen(context.Background(), "tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s is in use by another process; choose another address with %s, or end the other: %w", address, setting, err)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s (%s): %w", address, setting, err)
	}
	return l, nil
}

// NewMetrics is a registry with the process's own metrics.
func NewMetrics() *prometheus.Registry {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return reg
}

// ServeAdmin answers /livez, /readyz and /metrics on l until ctx ends. ready is
// nil while the daemon takes work, or says why not.
func ServeAdmin(ctx context.Context, l net.Listener, reg *prometheus.Registry, ready func() error) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "ok\n")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second}))
	srv := &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 20 * time.Second,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() }) // Serve returns
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("admin listener: %w", err)
	}
	return nil
}
