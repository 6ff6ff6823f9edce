package wsnode

import (
	"errors"
	"runtime"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/wsnode/limit"
	"github.com/gatehouse-ws/gatehouse/wsnode/tunnel"
)

// metrics are the node's counters. No label holds a user, address or token.
type metrics struct {
	handshakes prometheus.Counter
	messages   sharded
	tlsFailed  prometheus.Counter
	refused    map[pb.Reason]prometheus.Counter
	closed     map[pb.Reason]prometheus.Counter
	dropped    map[limit.Rule]prometheus.Counter
	noAddress  prometheus.Counter // of the same metric as dropped
	tlsBusy    prometheus.Counter // the same
	dry        *prometheus.CounterVec

	dryMessages prometheus.Counter // of dry
	postponed   map[pb.Reason]prometheus.Counter
	reloads     *prometheus.CounterVec
	forgiven    map[pb.Reason]prometheus.Counter
	unsent      map[pb.Reason]prometheus.Counter
	tunnels     *prometheus.CounterVec
}

// sharded is a counter of what is counted for every message: each loop adds to a
// number of its own, in a line of the cache of its own, and who reads the counter
// adds them up.
type sharded struct {
	last   atomic.Uint32
	shards [64]struct {
		atomic.Uint64
		_ [56]byte
	}
}

// shard is a number for one more loop. Of very many, some share theirs.
func (s *sharded) shard() *atomic.Uint64 {
	return &s.shards[s.last.Add(1)%uint32(len(s.shards))].Uint64
}

func (s *sharded) sum() float64 {
	sum := uint64(0)
	for i := range s.shards {
		sum += s.shards[i].Load()
	}
	return float64(sum)
}

// refuse counts a refused handshake.
func (m *metrics) refuse(r pb.Reason) { count(m.refused, r) }

// postpone counts a renewal that left its session as it was.
func (m *metrics) postpone(r pb.Reason) { count(m.postponed, r) }

// reloaded counts a reload.
func (m *metrics) reloaded(err error) {
	if err != nil {
		m.reloads.WithLabelValues("failed").Inc()
		return
	}
	m.reloads.WithLabelValues("ok").Inc()
}

func count(by map[pb.Reason]prometheus.Counter, r pb.Reason) {
	c := by[r]
	if c == nil { // of a newer authority: answered as refusalOf says
		c = by[pb.Reason_REASON_UNSPECIFIED]
	}
	c.Inc()
}

func newMetrics(reg prometheus.Registerer, n *Node) (*metrics, error) {
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "gatehouse", Subsystem: "node", Name: name, Help: help}
	}
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts(opts(name, help)), labels)
	}
	gauge := func(name, help string, read func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts(opts(name, help)), read)
	}
	refused := vec("handshakes_refused_total", "Refused opening handshakes by reason.", "reason")
	closed := vec("sessions_closed_total", "Ended sessions by reason.", "reason")
	postponed := vec("renewals_postponed_total", "Renewals that left their session as it was, by reason.", "reason")
	dropped := vec("connections_refused_total", "Connections that a limit refused, by limit; no_address is those without an address to count by, tls_handshakes those that came with as many TLS handshakes under way as may be.", "limit")
	forgiven := vec("messages_forgiven_total", "Messages that were refused and did not close their socket, by reason.", "reason")
	unsent := vec("messages_unsent_total", "Messages of the application that were not sent because their schemas do not allow them, by reason.", "reason")
	m := &metrics{
		handshakes: prometheus.NewCounter(prometheus.CounterOpts(opts("handshakes_accepted_total", "Opening handshakes answered with 101."))),
		tlsFailed:  prometheus.NewCounter(prometheus.CounterOpts(opts("tls_handshakes_failed_total", "TLS handshakes that failed."))),
		refused:    map[pb.Reason]prometheus.Counter{},
		closed:     map[pb.Reason]prometheus.Counter{},
		dropped:    map[limit.Rule]prometheus.Counter{},
		postponed:  map[pb.Reason]prometheus.Counter{},
		forgiven:   map[pb.Reason]prometheus.Counter{},
		unsent:     map[pb.Reason]prometheus.Counter{},
		dry:        vec("limits_dry_run_total", "What limits with dry_run would have refused, by limit.", "limit"),
		reloads:    vec("reloads_total", "Times that settings and schemas were to be read anew, by result: ok, or failed, and the old ones stay.", "result"),
		tunnels:    vec("tunnels_found_total", "Sockets whose messages carried another protocol, by route and signature.", "route", "signature"),
	}
	unchecked := prometheus.NewGaugeVec(prometheus.GaugeOpts(opts("route_unchecked", "1 for each route that passes messages on without a schema, 0 for the others.")), []string{"route"})
	for _, r := range n.cfg.Routes {
		without := unchecked.WithLabelValues(r.Path)
		if r.Unchecked {
			without.Set(1)
		}
		for _, s := range tunnel.Signatures() {
			m.tunnels.WithLabelValues(r.Path, s.String())
		}
	}
	for _, r := range forgivable {
		m.forgiven[r] = forgiven.WithLabelValues(r.Label())
	}
	for _, r := range outgoingReasons {
		m.unsent[r] = unsent.WithLabelValues(r.Label())
	}
	for _, result := range []string{"ok", "failed"} {
		m.reloads.WithLabelValues(result)
	}
	for number := range pb.Reason_name { // every series is there from the start
		r := pb.Reason(number)
		if _, ok := refusals[r]; ok || r == pb.Reason_REASON_UNSPECIFIED {
			m.refused[r] = refused.WithLabelValues(r.Label())
		}
		if row, ok := refusals[r]; ok && row.retry || r == pb.Reason_REASON_UNSPECIFIED || r == pb.Reason_REASON_TOKEN_REVOKED { // within a grace
			m.postponed[r] = postponed.WithLabelValues(r.Label())
		}
	}
	for _, rule := range closeTable {
		m.closed[rule.reason] = closed.WithLabelValues(rule.reason.Label())
	}
	m.closed[pb.Reason_REASON_RENEWED] = closed.WithLabelValues(pb.Reason_REASON_RENEWED.Label())
	for _, rule := range []limit.Rule{limit.Sockets, limit.Unauthenticated, limit.TableFull, limit.UnauthenticatedPerAddress, limit.NewPerAddress, limit.AuthenticatedPerAddress} {
		m.dropped[rule] = dropped.WithLabelValues(rule.String())
	}
	m.noAddress = dropped.WithLabelValues("no_address")
	m.tlsBusy = dropped.WithLabelValues("tls_handshakes")
	m.dryMessages = m.dry.WithLabelValues("messages")
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "gatehouse_build_info", Help: "Always 1; its labels say what runs.",
		ConstLabels: prometheus.Labels{"component": "node", "version": pb.Version, "go": runtime.Version()},
	})
	build.Set(1)
	if reg == nil {
		return m, nil
	}
	var errs []error
	for _, c := range []prometheus.Collector{
		m.handshakes, m.tlsFailed, refused, closed, postponed, dropped, m.dry, m.reloads, forgiven, unsent, m.tunnels, unchecked, build,
		prometheus.NewCounterFunc(prometheus.CounterOpts(opts("messages_received_total", "Messages that passed every check.")), m.messages.sum),
		gauge("sockets", "Open sockets.", func() float64 { return float64(n.addresses.Counts().Sockets) }),
		gauge("sockets_unauthenticated", "Of those, sockets whose opening handshake has not ended.", func() float64 { return float64(n.addresses.Counts().Unauthenticated) }),
		gauge("tls_handshakes", "TLS handshakes under way; sockets.tls_handshakes bounds them.", func() float64 {
			underWay, _ := n.driver.Handshakes()
			return float64(underWay)
		}),
		gauge("tls_handshakes_parked", "Of those, TLS handshakes that wait for their peers.", func() float64 {
			_, parked := n.driver.Handshakes()
			return float64(parked)
		}),
		gauge("sessions", "Live sessions.", func() float64 { return float64(n.sessions.count()) }),
		gauge("outbound_queued_bytes", "Memory that holds what waits for peers to read it.", func() float64 { return float64(n.driver.Queued()) }),
		gauge("admitting", "1 while new handshakes are admitted.", func() float64 {
			if n.Ready() == nil {
				return 1
			}
			return 0
		}),
	} {
		errs = append(errs, reg.Register(c))
	}
	return m, errors.Join(errs...)
}

// TrustExpiry is the metric of when the last CA ends that a node knows its
// authority by, in Unix time, for whoever keeps them.
func TrustExpiry(read func() int64) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "gatehouse", Subsystem: "node", Name: "ca_certificate_expiry_timestamp_seconds",
		Help: "When the last CA ends that the node knows its authority by, in Unix time; 0 while none can be read.",
	}, func() float64 { return float64(read()) })
}

// LogLinesLost is the metric of the log's lines that were lost, for whoever writes
// the log.
func LogLinesLost(read func() uint64) prometheus.Collector {
	return prometheus.NewCounterFunc(prometheus.CounterOpts{
		Namespace: "gatehouse", Subsystem: "node", Name: "log_lines_lost_total",
		Help: "Lines of the log that were lost: they could not be written, or not as fast as they came.",
	}, func() float64 { return float64(read()) })
}

// CredentialExpiry is the metric of when a node's credential ends, in Unix time,
// for whoever keeps the credential.
func CredentialExpiry(read func() int64) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "gatehouse", Subsystem: "node", Name: "credential_expiry_timestamp_seconds",
		Help: "When the certificate ends that the node calls its authority with, in Unix time; 0 while it cannot be read.",
	}, func() float64 { return float64(read()) })
}
