// Package tracing exports traces by OTLP, as the standard OTEL_* variables say
// (https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/).
// The libraries under it read the environment themselves.
package tracing

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Exporter exports the traces of a process. A nil one exports none.
type Exporter struct {
	provider *sdk.TracerProvider
	by       string
}

// Check tells what is wrong with the variables.
func Check() error {
	_, err := protocol(os.Getenv)
	return err
}

// Start begins to export the traces of a service, and tells log what fails
// meanwhile. It returns nil where the variables ask for no traces. Close what
// it returns.
func Start(ctx context.Context, service, version string, log *slog.Logger) (*Exporter, error) {
	by, err := protocol(os.Getenv)
	if err != nil || by == "" {
		return nil, err
	}
	var client otlptrace.Client
	if by == "grpc" {
		client = otlptracegrpc.NewClient()
	} else {
		client = otlptracehttp.NewClient()
	}
	// The variables come last, so that they win.
	about, err := resource.New(ctx, resource.WithTelemetrySDK(),
		resource.WithAttributes(attribute.String("service.name", service), attribute.String("service.version", version)), resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	otel.SetLogger(logr.FromSlogHandler(log.Handler()))
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("traces may be lost", "error", err) }))
	exporter, err := otlptrace.New(ctx, client)
	if err != nil {
		return nil, fmt.Errorf("export traces (OTEL_EXPORTER_OTLP_*): %w", err)
	}
	return &Exporter{sdk.NewTracerProvider(sdk.WithBatcher(exporter), sdk.WithResource(about)), by}, nil
}

// Provider makes the spans that are exported; nil where there are none.
func (e *Exporter) Provider() trace.TracerProvider {
	if e == nil {
		return nil
	}
	return e.provider
}

// To says how traces are exported, for a start line.
func (e *Exporter) To() string {
	if e == nil {
		return "off"
	}
	return "otlp over " + e.by
}

// closeTimeout bounds how long the end of a process waits for the collector.
const closeTimeout = 5 * time.Second

// Close exports what is left. That it can't is no failure of the service: the
// log tells.
func (e *Exporter) Close() {
	if e == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if err := e.provider.Shutdown(ctx); err != nil {
		otel.Handle(fmt.Errorf("the last traces are lost: %w", err))
	}
}

// protocol is grpc or http/protobuf; empty where no traces are asked for.
func protocol(getenv func(string) string) (string, error) {
	if strings.EqualFold(getenv("OTEL_SDK_DISABLED"), "true") {
		return "", nil
	}
	switch exporter := getenv("OTEL_TRACES_EXPORTER"); exporter {
	case "none":
		return "", nil
	case "otlp":
	case "":
		if getenv("OTEL_EXPORTER_OTLP_ENDPOINT") == "" && getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") == "" {
			return "", nil
		}
	default:
		return "", fmt.Errorf("OTEL_TRACES_EXPORTER: %q is neither otlp nor none: let a collector turn OTLP into other forms", exporter)
	}
	for _, name := range []string{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"} {
		switch by := getenv(name); by {
		case "grpc", "http/protobuf":
			return by, nil
		case "":
		default:
			return "", fmt.Errorf("%s: %q is neither http/protobuf nor grpc", name, by)
		}
	}
	return "http/protobuf", nil // as the specification has it
}
