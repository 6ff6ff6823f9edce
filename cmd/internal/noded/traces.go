package noded

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/gatehouse-ws/gatehouse/cmd/internal/tracing"
	"github.com/gatehouse-ws/gatehouse/wsnode"
)

// TracesConfig says what of a node is traced.
type TracesConfig struct {
	Handshakes float64 `yaml:"handshakes" help:"the share of opening handshakes of which spans are exported, 0 to 1, by OTLP as the OTEL_* variables say; 0 for none"`
}

// validate holds the variables to nothing where they have no meaning: they may be
// there for other programs.
func (c *TracesConfig) validate() error {
	switch {
	case !(c.Handshakes >= 0 && c.Handshakes <= 1):
		return fmt.Errorf("traces.handshakes: %v is outside 0 to 1: write 0.01 for one of a hundred", c.Handshakes)
	case c.Handshakes > 0:
		return tracing.Check()
	}
	return nil
}

// tracer makes spans of a share of the opening handshakes. What it calls queues a
// span that has ended, and drops it where the queue is full: no loop waits.
type tracer struct {
	of    trace.Tracer
	share float64
}

func newTracer(p trace.TracerProvider, share float64) *tracer {
	return &tracer{p.Tracer("github.com/gatehouse-ws/gatehouse/wsnode"), share}
}

// Handshake implements wsnode.Tracer.
func (t *tracer) Handshake(driver string, at time.Time) wsnode.HandshakeSpan {
	if rand.Float64() >= t.share {
		return nil
	}
	ctx, span := t.of.Start(context.Background(), "handshake", trace.WithTimestamp(at), trace.WithSpanKind(trace.SpanKindServer),
		trace.WithAttributes(attribute.String("gatehouse.driver", driver)))
	if !span.IsRecording() { // the variables have a sampler too
		return nil
	}
	return &handshakeSpan{of: t.of, ctx: ctx, span: span}
}

type handshakeSpan struct {
	of     trace.Tracer
	ctx    context.Context // which has span
	span   trace.Span
	redeem trace.Span // nil before it begins
}

const outcomeKey = "gatehouse.outcome"

// Redeem implements wsnode.HandshakeSpan.
func (h *handshakeSpan) Redeem(at time.Time) (name [24]byte) {
	_, h.redeem = h.of.Start(h.ctx, "redeem", trace.WithTimestamp(at), trace.WithSpanKind(trace.SpanKindClient))
	c := h.redeem.SpanContext()
	id, own := c.TraceID(), c.SpanID()
	copy(name[copy(name[:], id[:]):], own[:])
	return name
}

// Redeemed implements wsnode.HandshakeSpan.
func (h *handshakeSpan) Redeemed(outcome string, at time.Time) {
	h.redeem.SetAttributes(attribute.String(outcomeKey, outcome))
	h.redeem.End(trace.WithTimestamp(at)) // once: what comes after has no effect
}

// End implements wsnode.HandshakeSpan.
func (h *handshakeSpan) End(e wsnode.EndedHandshake, at time.Time) {
	if h.redeem != nil {
		h.redeem.End(trace.WithTimestamp(at))
	}
	h.span.SetAttributes(attribute.String("gatehouse.handshake_id", e.ID), attribute.String(outcomeKey, e.Outcome))
	if e.Route != "" {
		h.span.SetAttributes(attribute.String("http.route", e.Route))
	}
	h.span.End(trace.WithTimestamp(at))
}
