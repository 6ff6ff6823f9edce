package authority

import (
	"errors"
	"runtime"

	"github.com/prometheus/client_golang/prometheus"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// metrics are the authority's counters. No label holds a user, address or
// token.
type metrics struct {
	calls       *prometheus.CounterVec
	issued      *prometheus.CounterVec
	redeemed    *prometheus.CounterVec
	mismatches  *prometheus.CounterVec
	revocations *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, s *Service) (*metrics, error) {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "gatehouse", Subsystem: "authority", Name: name, Help: help}, labels)
	}
	gauge := func(name, help string, read func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "gatehouse", Subsystem: "authority", Name: name, Help: help}, read)
	}
	total := func(name, help string, read func() float64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "gatehouse", Subsystem: "authority", Name: name, Help: help}, read)
	}
	m := &metrics{
		calls:       counter("calls_total", "RPCs by method and outcome: ok or a reason.", "method", "outcome"),
		issued:      counter("tokens_issued_total", "Tokens asked for, by outcome: ok or a reason.", "outcome"),
		redeemed:    counter("tokens_redeemed_total", "Redemptions asked for, by outcome: ok or a reason.", "outcome"),
		mismatches:  counter("binding_mismatches_total", "Redemptions whose client did not fit the token's binding, refused or let pass.", "binding", "mode"),
		revocations: counter("revocations_total", "Revocations by kind of selector.", "selector"),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "gatehouse_build_info", Help: "Always 1; its labels say what runs.",
		ConstLabels: prometheus.Labels{"component": "authority", "version": pb.Version, "go": runtime.Version()},
	})
	build.Set(1)
	var errs []error
	for _, c := range []prometheus.Collector{
		m.calls, m.issued, m.redeemed, m.mismatches, m.revocations, build,
		gauge("tokens", "Tokens stored.", func() float64 { return float64(s.store.Stats().Tokens) }),
		gauge("sessions", "Live sessions.", func() float64 { return float64(s.store.Stats().Sessions) }),
		gauge("log_entries", "Entries of the revocation log.", func() float64 { return float64(s.store.Stats().Entries) }),
		gauge("locks", "Standing locks.", func() float64 { return float64(s.store.Stats().Locks) }),
		gauge("store_bytes", "Size of the store's file.", func() float64 { return float64(s.store.Stats().FileBytes) }),
		gauge("nodes", "Registered node instances.", func() float64 { return float64(len(s.fleet.snapshot())) }),
		total("audit_lines_lost_total", "Lines of the audit trail that were lost since it could not be written.", func() float64 {
			lost, _ := s.audit.failure()
			return float64(lost)
		}),
		total("store_groups_total", "Commits to the store.", func() float64 { return float64(s.store.Stats().Groups) }),
		total("store_writes_total", "Writes in those commits.", func() float64 { return float64(s.store.Stats().Grouped) }),
	} {
		errs = append(errs, reg.Register(c))
	}
	return m, errors.Join(errs...)
}
