package authority

import (
	"errors"
	"runtime"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
)

// metrics are what the authority counts and times. No label holds a user,
// address or token, and every series is there from the start.
type metrics struct {
	calls        *prometheus.CounterVec
	callSeconds  *prometheus.HistogramVec
	streams      *prometheus.GaugeVec
	refused      *prometheus.CounterVec // callers
	tlsFailed    *prometheus.CounterVec
	connections  *prometheus.CounterVec // refused
	issued       *prometheus.CounterVec
	redeemed     *prometheus.CounterVec
	granted      prometheus.Counter // of redeemed: ok
	replaced     prometheus.Counter
	mismatches   *prometheus.CounterVec
	revocations  *prometheus.CounterVec
	batches      prometheus.Gauge // under way
	batchSeconds prometheus.Histogram
	batchTokens  prometheus.Histogram
	sweepSeconds prometheus.Histogram
	swept        *prometheus.CounterVec
	foreign      prometheus.Counter
	lag          *lag
}

// Bounds of histograms: seconds from 122 µs to 16 s, seconds from 1 ms to 68
// minutes, which the fences of most fleets lie within, and tokens of a batch.
var (
	callBounds  = storage.PowersOfTwo(-13, 4)
	lagBounds   = storage.PowersOfTwo(-10, 12)
	batchBounds = storage.PowersOfTwo(0, 8)
)

func newMetrics(reg prometheus.Registerer, s *Service) (*metrics, error) {
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "gatehouse", Subsystem: "authority", Name: name, Help: help}
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts(opts(name, help)), labels)
	}
	histogram := func(name, help string, bounds []float64) prometheus.HistogramOpts {
		return prometheus.HistogramOpts{Namespace: "gatehouse", Subsystem: "authority", Name: name, Help: help, Buckets: bounds}
	}
	m := &metrics{
		calls:        counter("calls_total", "RPCs by method and outcome: ok or a reason.", "method", "outcome"),
		callSeconds:  prometheus.NewHistogramVec(histogram("call_duration_seconds", "How long unary RPCs took, by method.", callBounds), []string{"method"}),
		streams:      prometheus.NewGaugeVec(prometheus.GaugeOpts(opts("streams", "Open streaming RPCs by method.")), []string{"method"}),
		refused:      counter("callers_refused_total", "Calls that their caller may not make, by reason.", "reason"),
		tlsFailed:    counter("tls_handshakes_failed_total", "TLS handshakes that failed, by reason.", "reason"),
		connections:  counter("connections_refused_total", "Connections closed as they came, by the limit they were above, or later without_credential.", "limit"),
		issued:       counter("tokens_issued_total", "Tokens asked for, by outcome: ok or a reason.", "outcome"),
		redeemed:     counter("tokens_redeemed_total", "Redemptions asked for, by outcome: ok or a reason.", "outcome"),
		mismatches:   counter("binding_mismatches_total", "Redemptions whose client did not fit the token's binding, refused or let pass.", "binding", "mode"),
		replaced:     prometheus.NewCounter(prometheus.CounterOpts(opts("sessions_replaced_total", "Sessions that ended for a newer one of their subject."))),
		revocations:  counter("revocations_total", "Revocations by kind of selector.", "selector"),
		batches:      prometheus.NewGauge(prometheus.GaugeOpts(opts("redeem_batches", "Batches of redemptions being decided."))),
		batchSeconds: prometheus.NewHistogram(histogram("redeem_batch_duration_seconds", "How long batches of redemptions took to decide and store.", callBounds)),
		batchTokens:  prometheus.NewHistogram(histogram("redeem_batch_tokens", "Redemptions in a batch.", batchBounds)),
		sweepSeconds: prometheus.NewHistogram(histogram("sweep_duration_seconds", "How long sweeps of what has expired took.", callBounds)),
		swept:        counter("swept_total", "What sweeps forgot, by kind.", "kind"),
		foreign:      prometheus.NewCounter(prometheus.CounterOpts(opts("foreign_session_ends_total", "Ends that a node reported of sessions that are another's."))),
		lag: &lag{
			enforced: prometheus.NewHistogram(histogram("revocation_enforced_seconds", "From the commit of a revocation or lock until a node instance acknowledged it.", lagBounds)),
			complete: prometheus.NewHistogram(histogram("receipt_complete_seconds", "From the commit of a revocation or lock until its receipt was complete, of receipts with a node.", lagBounds)),
		},
	}
	m.prepare(s)
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "gatehouse_build_info", Help: "Always 1; its labels say what runs.",
		ConstLabels: prometheus.Labels{"component": "authority", "version": pb.Version, "go": runtime.Version()},
	})
	build.Set(1)
	var errs []error
	for _, c := range []prometheus.Collector{
		m.calls, m.callSeconds, m.streams, m.refused, m.tlsFailed, m.connections, m.issued, m.redeemed, m.mismatches, m.replaced, m.revocations,
		m.batches, m.batchSeconds, m.batchTokens, m.sweepSeconds, m.swept, m.foreign, m.lag.enforced, m.lag.complete, build, newReadings(s),
	} {
		errs = append(errs, reg.Register(c))
	}
	return m, errors.Join(errs...)
}

// prepare makes every series, so that a rate is right from the first event on.
func (m *metrics) prepare(s *Service) {
	outcomes := []string{"ok", "canceled", "deadline_exceeded"}
	for _, f := range Failures() {
		if l := f.Reason.Label(); !slices.Contains(outcomes, l) {
			outcomes = append(outcomes, l)
		}
	}
	for method := range rules {
		for _, o := range outcomes {
			m.calls.WithLabelValues(method, o)
		}
	}
	var own services
	s.Register(&own)
	for _, service := range own {
		for _, u := range service.Methods {
			m.callSeconds.WithLabelValues(fullMethod(service, u.MethodName))
		}
		for _, st := range service.Streams {
			m.streams.WithLabelValues(fullMethod(service, st.StreamName))
		}
	}
	for _, o := range outcomes {
		m.issued.WithLabelValues(o)
	}
	m.granted = m.redeemed.WithLabelValues("ok")
	for _, r := range refusals {
		m.redeemed.WithLabelValues(r.Label())
	}
	for _, binding := range []string{"origin", "client_certificate", "user_agent", "ip"} {
		m.mismatches.WithLabelValues(binding, "refused")
		if binding != "origin" && binding != "client_certificate" {
			m.mismatches.WithLabelValues(binding, "let_pass")
		}
	}
	for v, values := range map[*prometheus.CounterVec][]string{
		m.refused:     {noCredential, unknownCredential, disabledCredential, notPermitted},
		m.tlsFailed:   {tlsExpired, tlsUntrusted, tlsTimeout, tlsRefused, tlsOther},
		m.connections: {limitAll, limitAddress, limitStranger},
		m.revocations: {"token_id", "session_id", "subject", "tenant", "ip_prefix", "issuer", "all_subjects"},
		m.swept:       {"tokens", "sessions", "entries"},
	} {
		for _, value := range values {
			v.WithLabelValues(value)
		}
	}
}

// services are those that an authority registers and has rules for.
type services []*grpc.ServiceDesc

// RegisterService implements grpc.ServiceRegistrar.
func (s *services) RegisterService(d *grpc.ServiceDesc, _ any) { *s = append(*s, d) }

func fullMethod(service *grpc.ServiceDesc, method string) string {
	return "/" + service.ServiceName + "/" + method
}

// refusals are the reasons for which a redemption is refused.
var refusals = []pb.Reason{
	pb.Reason_REASON_TOKEN_UNKNOWN, pb.Reason_REASON_TOKEN_SECRET_WRONG, pb.Reason_REASON_TOKEN_EXPIRED,
	pb.Reason_REASON_TOKEN_NOT_YET_ACTIVE, pb.Reason_REASON_TOKEN_CARRIER, pb.Reason_REASON_AUDIENCE_MISMATCH,
	pb.Reason_REASON_ORIGIN_MISMATCH, pb.Reason_REASON_CLIENT_CERTIFICATE_MISMATCH, pb.Reason_REASON_USER_AGENT_MISMATCH, pb.Reason_REASON_IP_MISMATCH,
	pb.Reason_REASON_TOKEN_USED, pb.Reason_REASON_TOKEN_REVOKED, pb.Reason_REASON_LOCKED, pb.Reason_REASON_SESSION_ENDED,
	pb.Reason_REASON_SESSION_ID_TAKEN, pb.Reason_REASON_SESSION_LIMIT, pb.Reason_REASON_RENEWAL_MISMATCH,
}

// Why a call is not its caller's to make.
const (
	noCredential       = "no_credential"
	unknownCredential  = "unknown_credential"
	disabledCredential = "credential_disabled"
	notPermitted       = "permission_denied"
)

// refuse counts a caller that is refused with err.
func (m *metrics) refuse(err error) {
	reason := notPermitted
	switch {
	case errors.Is(err, errUnauthenticated):
		reason = noCredential
	case errors.Is(err, errUnknown):
		reason = unknownCredential
	case errors.Is(err, errDisabled):
		reason = disabledCredential
	}
	m.refused.WithLabelValues(reason).Inc()
}

// batch counts that a batch of redemptions is decided, and times it.
func (m *metrics) batch(tokens int, took time.Duration) {
	m.batches.Dec()
	m.batchTokens.Observe(float64(tokens))
	m.batchSeconds.Observe(took.Seconds())
}

// sweep counts what a sweep forgot, and times it.
func (m *metrics) sweep(swept storage.Swept, took time.Duration) {
	m.sweepSeconds.Observe(took.Seconds())
	m.swept.WithLabelValues("tokens").Add(float64(swept.Tokens))
	m.swept.WithLabelValues("sessions").Add(float64(swept.Sessions))
	m.swept.WithLabelValues("entries").Add(float64(swept.Entries))
}
