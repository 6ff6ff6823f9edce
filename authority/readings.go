package authority

import (
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gatehouse-ws/gatehouse/authority/pki"
	"github.com/gatehouse-ws/gatehouse/storage"
)

// reading is the state of an authority at one scrape.
type reading struct {
	storage.Stats
	fleetCounts
	waiting                        int // counts of acknowledgements
	auditLost                      uint64
	edgeKeyAge                     float64 // in seconds
	dependents                     int     // on the CA to be retired
	serverEnds, caEnds, clientEnds float64 // Unix time; +Inf where there is none
	elderEnds                      float64 // as these
}

// readings collects metrics that are read anew at each scrape, all from one
// reading.
type readings struct {
	service *Service
	values  []reader
	commits [2]*prometheus.Desc // seconds, writes
}

type reader struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	read func(*reading) float64
}

func newReadings(s *Service) *readings {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("gatehouse_authority_"+name, help, nil, nil)
	}
	r := &readings{service: s, commits: [2]*prometheus.Desc{
		desc("store_commit_duration_seconds", "How long commits to the store took, with the sync."),
		desc("store_commit_writes", "Writes that share a commit."),
	}}
	for _, g := range []struct {
		name, help string
		read       func(*reading) float64
	}{
		{"tokens", "Tokens stored.", func(r *reading) float64 { return float64(r.Tokens) }},
		{"sessions", "Live sessions.", func(r *reading) float64 { return float64(r.Sessions) }},
		{"log_entries", "Entries of the revocation log.", func(r *reading) float64 { return float64(r.Entries) }},
		{"locks", "Standing locks.", func(r *reading) float64 { return float64(r.Locks) }},
		{"store_bytes", "Size of the store's file.", func(r *reading) float64 { return float64(r.FileBytes) }},
		{"store_queue", "Writes that wait for a commit to take them.", func(r *reading) float64 { return float64(r.Queued) }},
		{"nodes", "Registered node instances.", func(r *reading) float64 { return float64(r.registered) }},
		{"nodes_attached", "Node instances that are attached.", func(r *reading) float64 { return float64(r.attached) }},
		{"nodes_silent", "Registered node instances not heard of for longer than the admission fence.", func(r *reading) float64 { return float64(r.silent) }},
		{"acknowledgements_waiting", "Counts of closed sockets in acknowledgements that are not on disk yet.", func(r *reading) float64 { return float64(r.waiting) }},
		{"node_lag_entries", "Entries of the revocation log that the attached node instance furthest behind has not enforced.", func(r *reading) float64 { return float64(r.lag) }},
		{"edge_key_age_seconds", "For how long tokens have been made with the edge key in use.", func(r *reading) float64 { return r.edgeKeyAge }},
		{"server_certificate_expiry_timestamp_seconds", "When the authority's server certificate ends, in Unix time.", func(r *reading) float64 { return r.serverEnds }},
		{"ca_certificate_expiry_timestamp_seconds", "When the certificate of the CA that signs ends, in Unix time.", func(r *reading) float64 { return r.caEnds }},
		{"elder_ca_certificate_expiry_timestamp_seconds", "When the certificate of the CA ends that is to be retired, in Unix time; +Inf where there is none.", func(r *reading) float64 { return r.elderEnds }},
		{"elder_ca_dependents", "Credentials that depend on the CA to be retired.", func(r *reading) float64 { return float64(r.dependents) }},
		{"client_certificate_expiry_timestamp_seconds", "When the first client certificate ends, of those that credentials last connected with or were given, in Unix time; +Inf where there is none.", func(r *reading) float64 { return r.clientEnds }},
	} {
		r.values = append(r.values, reader{desc(g.name, g.help), prometheus.GaugeValue, g.read})
	}
	r.values = append(r.values, reader{
		desc("audit_lines_lost_total", "Lines of the audit trail that were lost since it could not be written."),
		prometheus.CounterValue, func(r *reading) float64 { return float64(r.auditLost) },
	})
	return r
}

// Describe implements prometheus.Collector.
func (r *readings) Describe(out chan<- *prometheus.Desc) {
	for _, v := range r.values {
		out <- v.desc
	}
	for _, d := range r.commits {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (r *readings) Collect(out chan<- prometheus.Metric) {
	now := r.service.reading()
	for _, v := range r.values {
		out <- prometheus.MustNewConstMetric(v.desc, v.kind, v.read(&now))
	}
	out <- constHistogram(r.commits[0], &now.CommitSeconds)
	out <- constHistogram(r.commits[1], &now.CommitCalls)
}

func constHistogram(desc *prometheus.Desc, d *storage.Distribution) prometheus.Metric {
	count, buckets := uint64(0), make(map[float64]uint64, len(d.Bounds))
	for i, n := range d.Counts {
		count += n
		if i < len(d.Bounds) {
			buckets[d.Bounds[i]] = count
		}
	}
	return prometheus.MustNewConstHistogram(desc, count, d.Sum, buckets)
}

func (s *Service) reading() reading {
	now := s.now()
	head, _ := s.store.Head()
	r := reading{Stats: s.store.Stats(), fleetCounts: s.fleet.count(head, s.silence(now))}
	r.waiting = s.receipts.unkeptCounts()
	r.auditLost, _ = s.audit.failure()
	unix := func(end time.Time) float64 {
		if end.IsZero() {
			return math.Inf(1)
		}
		return float64(end.Unix())
	}
	r.edgeKeyAge = now.Sub(s.keys.Load().activeSince(now)).Seconds()
	r.caEnds, r.clientEnds, r.serverEnds, r.elderEnds = unix(s.ca.Cert().NotAfter), unix(s.callers.firstEnd()), unix(s.serverEnds()), math.Inf(1)
	if elder := s.elder(); elder != nil {
		r.elderEnds, r.dependents = unix(elder.NotAfter), len(s.callers.dependents(pki.ID(elder), now))
	}
	return r
}

// fleetCounts tells how the node instances stand.
type fleetCounts struct {
	registered, attached, silent int
	lag                          uint64 // of the attached one furthest behind
}

// count counts the instances, as silent those not heard of since then.
func (f *fleet) count(head storage.Revision, since time.Time) (c fleetCounts) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c.registered = len(f.instances)
	for _, i := range f.instances {
		if i.silent(since) {
			c.silent++
		}
		if i.attachment == nil {
			continue
		}
		c.attached++
		c.lag = max(c.lag, i.behind(head))
	}
	return c
}

// unkeptCounts is how many counts of acknowledgements are not on disk yet.
func (r *receipts) unkeptCounts() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := 0
	for _, n := range r.waiting {
		all += n
	}
	return all
}

// activeSince is from when on the key that makes tokens at now has done so.
func (k *keyring) activeSince(now time.Time) time.Time {
	id := k.active(now)
	for _, e := range k.stored {
		if e.ID == id {
			return e.ActiveFrom
		}
	}
	return now
}

// firstEnd is when the first client certificate ends, of those that credentials
// in use last connected with or were given; zero if there are none.
func (c *callers) firstEnd() (first time.Time) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, k := range c.byName {
		at := k.shown.Load().ends
		if at == 0 || k.Disabled {
			continue
		}
		if end := time.Unix(at, 0); first.IsZero() || end.Before(first) {
			first = end
		}
	}
	return first
}
