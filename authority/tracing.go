package authority

import (
	"context"
	"log/slog"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
)

// tracing makes spans: of every RPC that has a rule, of what waits for a commit
// within one, of every batch of redemptions, and of receipts. Their attributes
// are counts; nothing that a peer wrote is in one. A nil one makes none.
type tracing struct {
	provider trace.TracerProvider
	tracer   trace.Tracer
}

func newTracing(p trace.TracerProvider) *tracing {
	if p == nil {
		return nil
	}
	return &tracing{provider: p, tracer: p.Tracer("github.com/gatehouse-ws/gatehouse/authority")}
}

// spanOf is the span of a call that is traced, or nil.
func (s *Service) spanOf(ctx context.Context) *trace.SpanContext {
	if s.tracing == nil {
		return nil
	}
	if span := trace.SpanContextFromContext(ctx); span.HasTraceID() {
		return &span
	}
	return nil
}

// inTrace adds to a line of the audit trail the trace that it belongs to.
func (s *Service) inTrace(ctx context.Context, attrs []slog.Attr) []slog.Attr {
	if span := s.spanOf(ctx); span != nil {
		attrs = append(attrs, slog.String("trace_id", span.TraceID().String()))
	}
	return attrs
}

// carried is the context of a write that is carried through, in the trace of
// ctx.
func (s *Service) carried(ctx context.Context) context.Context {
	if s.tracing == nil {
		return s.writes.context()
	}
	return trace.ContextWithSpan(s.writes.context(), trace.SpanFromContext(ctx))
}

// serverOptions trace the RPCs of a server. Without tracing there are none: a
// handler that makes no spans would cost every call.
func (t *tracing) serverOptions() []grpc.ServerOption {
	if t == nil {
		return nil
	}
	return []grpc.ServerOption{grpc.StatsHandler(otelgrpc.NewServerHandler(
		otelgrpc.WithTracerProvider(t.provider),
		otelgrpc.WithMeterProvider(noop.NewMeterProvider()),
		otelgrpc.WithPropagators(parent{}),
		// The name of an unknown method is whatever its caller made it, and grpc does
		// not tell when such a call has ended.
		otelgrpc.WithFilter(func(i *stats.RPCTagInfo) bool { return rules[i.FullMethodName] != nil }),
	))}
}

// parent takes from a call which span made it, and leaves its tracestate and
// baggage, which are a peer's text.
type parent struct{ propagation.TraceContext }

func (p parent) Extract(ctx context.Context, from propagation.TextMapCarrier) context.Context {
	span := trace.SpanContextFromContext(p.TraceContext.Extract(ctx, from))
	return trace.ContextWithRemoteSpanContext(ctx, span.WithTraceState(trace.TraceState{}))
}

// batch begins a trace of its own for a batch of redemptions, linked to the
// stream's, which goes on for hours, and to the spans of nodes that wait for it.
func (t *tracing) batch(ctx context.Context, items []*pb.RedeemItem) (context.Context, func()) {
	if t == nil {
		return ctx, func() {}
	}
	links := []trace.Link{trace.LinkFromContext(ctx)}
	for _, item := range items {
		if span, ok := waitingSpan(item.GetSpan()); ok {
			links = append(links, trace.Link{SpanContext: span})
		}
	}
	ctx, span := t.tracer.Start(ctx, "redeem batch", trace.WithNewRoot(), trace.WithLinks(links...),
		trace.WithAttributes(attribute.Int("gatehouse.tokens", len(items))))
	return ctx, func() { span.End() }
}

// spanBytes is the length of what names a span of a node.
const spanBytes = len(trace.TraceID{}) + len(trace.SpanID{})

func waitingSpan(b []byte) (trace.SpanContext, bool) {
	if len(b) != spanBytes {
		return trace.SpanContext{}, false
	}
	var c trace.SpanContextConfig
	copy(c.SpanID[:], b[copy(c.TraceID[:], b):])
	c.TraceFlags, c.Remote = trace.FlagsSampled, true
	span := trace.NewSpanContext(c)
	return span, span.IsValid()
}

// completed makes the span of a receipt, from the commit of its entry, within
// the trace that the entry was appended in.
func (t *tracing) completed(rc *receipt, now time.Time) {
	if t == nil || rc.from == nil {
		return
	}
	_, span := t.tracer.Start(trace.ContextWithSpanContext(context.Background(), *rc.from), "receipt", trace.WithTimestamp(rc.committed),
		trace.WithAttributes(attribute.Int64("gatehouse.revision", int64(rc.sequence)), attribute.Int("gatehouse.nodes", len(rc.rows))))
	span.End(trace.WithTimestamp(now))
}

// store makes spans of the writes to s within a trace.
func (t *tracing) store(s storage.Store) storage.Store {
	if t == nil {
		return s
	}
	return &tracedStore{s, t.tracer}
}

// log adds to lines the trace that they belong to.
func (t *tracing) log(l *slog.Logger) *slog.Logger {
	if t == nil {
		return l
	}
	return slog.New(tracedLog{l.Handler()})
}

type tracedLog struct{ slog.Handler }

func (h tracedLog) Handle(ctx context.Context, r slog.Record) error {
	if span := trace.SpanContextFromContext(ctx); span.HasTraceID() {
		r = r.Clone()
		r.AddAttrs(slog.String("trace_id", span.TraceID().String()))
	}
	return h.Handler.Handle(ctx, r)
}

func (h tracedLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	return tracedLog{h.Handler.WithAttrs(attrs)}
}
func (h tracedLog) WithGroup(name string) slog.Handler { return tracedLog{h.Handler.WithGroup(name)} }

// tracedStore makes spans of writes: how long they waited for their commit.
type tracedStore struct {
	storage.Store
	tracer trace.Tracer
}

// waited runs a write of so many items. Outside of a trace it makes no span.
func waited[R any](ctx context.Context, s *tracedStore, method string, items int, write func(context.Context) (R, error)) (R, error) {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return write(ctx)
	}
	ctx, span := s.tracer.Start(ctx, "store."+method, trace.WithAttributes(attribute.Int("gatehouse.items", items)))
	defer span.End()
	r, err := write(ctx)
	if err != nil {
		span.SetStatus(codes.Error, verdictOf(err).outcome())
	}
	return r, err
}

func (s *tracedStore) Insert(ctx context.Context, tokens []*storage.Token) ([]storage.Inserted, error) {
	return waited(ctx, s, "Insert", len(tokens), func(ctx context.Context) ([]storage.Inserted, error) { return s.Store.Insert(ctx, tokens) })
}

func (s *tracedStore) Redeem(ctx context.Context, batch []storage.Redemption) ([]storage.Redeemed, error) {
	return waited(ctx, s, "Redeem", len(batch), func(ctx context.Context) ([]storage.Redeemed, error) { return s.Store.Redeem(ctx, batch) })
}

func (s *tracedStore) EndSessions(ctx context.Context, ids []storage.SessionID) (int, error) {
	return waited(ctx, s, "EndSessions", len(ids), func(ctx context.Context) (int, error) { return s.Store.EndSessions(ctx, ids) })
}

func (s *tracedStore) Append(ctx context.Context, e storage.Entry) (storage.Entry, error) {
	return waited(ctx, s, "Append", 1, func(ctx context.Context) (storage.Entry, error) { return s.Store.Append(ctx, e) })
}
