package docs

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc/credentials"

	"github.com/gatehouse-ws/gatehouse/authority"
	"github.com/gatehouse-ws/gatehouse/authority/pki"
	"github.com/gatehouse-ws/gatehouse/storage/memstore"
	"github.com/gatehouse-ws/gatehouse/wsnode"
	"github.com/gatehouse-ws/gatehouse/wsnode/deliver"
)

// metrics.md is what the registries have.
func TestMetricsPage(t *testing.T) {
	var b strings.Builder
	b.WriteString("# Metrics\n\nWritten by `go test ./docs -update` from the registries in the code.\n\n" +
		"Each program answers `/metrics` on its `admin` listener, with `go_*` and `process_*` of the Go runtime beside what is here. " +
		"Times are in seconds; no label holds a user, an address or a token; every series of a counter is there from the start, but for calls of gRPC's own services. " +
		"Bounds of histograms are powers of two: they are bounds of Prometheus's native histograms too. " +
		"`deploy/grafana` has a dashboard for each program.\n")
	for _, p := range []struct {
		name     string
		families []*dto.MetricFamily
	}{{"gatehouse-authority", authorityMetrics(t)}, {"gatehouse-node", nodeMetrics(t)}} {
		fmt.Fprintf(&b, "\n## %s\n\n| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n", p.name)
		for _, f := range p.families {
			var labels []string
			for _, l := range labelsOf(f) {
				labels = append(labels, "`"+l+"`")
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.GetName(), strings.ToLower(f.GetType().String()), strings.Join(labels, ", "), f.GetHelp())
		}
	}
	if *update {
		if err := os.WriteFile("metrics.md", []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	written, err := os.ReadFile("metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(written) != b.String() {
		t.Error("metrics.md is out of date: go test ./docs -update")
	}
}

func labelsOf(f *dto.MetricFamily) (names []string) {
	for _, m := range f.GetMetric() {
		for _, l := range m.GetLabel() {
			if !slices.Contains(names, l.GetName()) {
				names = append(names, l.GetName())
			}
		}
	}
	return names
}

func authorityMetrics(t *testing.T) []*dto.MetricFamily {
	ca, err := pki.Create(filepath.Join(t.TempDir(), "ca"), time.Now, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	trail := authority.NewAudit(io.Discard)
	defer trail.Close()
	reg := prometheus.NewRegistry()
	_, err = authority.New(t.Context(), authority.DefaultConfig(), authority.Parts{
		Store: memstore.New(), CA: ca, Audit: trail, Log: slog.New(slog.DiscardHandler), Metrics: reg, Now: time.Now, Random: rand.Reader,
	})
	if err != nil {
		t.Fatal(err)
	}
	return gather(t, reg)
}

func nodeMetrics(t *testing.T) []*dto.MetricFamily {
	cfg, reg := wsnode.DefaultConfig(), prometheus.NewRegistry()
	cfg.Authority.Address, cfg.Credentials, cfg.Log, cfg.Metrics = "localhost:1", credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13}), slog.New(slog.DiscardHandler), reg
	cfg.Routes = []wsnode.Route{{Path: "/", Audience: "chat", MissingOrigin: "allow", Unchecked: true}}
	n, err := wsnode.New(cfg, deliver.Echo{})
	if err != nil {
		t.Fatal(err)
	}
	reg.MustRegister(wsnode.CredentialExpiry(func() int64 { return 0 }), wsnode.TrustExpiry(func() int64 { return 0 }), wsnode.LogLinesLost(func() uint64 { return 0 }))
	families := gather(t, reg)
	if err := n.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	return families
}

func gather(t *testing.T, reg *prometheus.Registry) []*dto.MetricFamily {
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return families
}

var (
	queried = regexp.MustCompile(`\bgatehouse_\w+`)
	grouped = regexp.MustCompile(`by \(([^)]*)\)`)
)

// The dashboards query metrics and group by labels that there are.
func TestDashboards(t *testing.T) {
	labels := map[string][]string{} // by what may be queried
	for _, f := range append(authorityMetrics(t), nodeMetrics(t)...) {
		names := append(labelsOf(f), "instance", "job")
		if f.GetType() == dto.MetricType_HISTOGRAM {
			labels[f.GetName()+"_bucket"] = append(names, "le")
			labels[f.GetName()+"_sum"], labels[f.GetName()+"_count"] = names, names
		} else {
			labels[f.GetName()] = names
		}
	}
	for _, name := range []string{"authority", "node"} {
		path := "../deploy/grafana/" + name + ".json"
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var dashboard any
		if err := json.Unmarshal(text, &dashboard); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		n := 0
		for _, expr := range exprs(dashboard) {
			var known []string
			for _, metric := range queried.FindAllString(expr, -1) {
				n++
				if labels[metric] == nil {
					t.Errorf("%s: there is no %s to query", path, metric)
				}
				known = append(known, labels[metric]...)
			}
			for _, by := range grouped.FindAllStringSubmatch(expr, -1) {
				for label := range strings.SplitSeq(by[1], ",") {
					if !slices.Contains(known, strings.TrimSpace(label)) {
						t.Errorf("%s: no metric has the label %q in %s", path, label, expr)
					}
				}
			}
		}
		if n < 10 {
			t.Errorf("%s: only %d metrics are queried", path, n)
		}
	}
}

// exprs are the strings under keys named expr, wherever they are.
func exprs(v any) (found []string) {
	switch v := v.(type) {
	case map[string]any:
		for k, below := range v {
			if s, ok := below.(string); ok && k == "expr" {
				found = append(found, s)
			}
			found = append(found, exprs(below)...)
		}
	case []any:
		for _, below := range v {
			found = append(found, exprs(below)...)
		}
	}
	return found
}
