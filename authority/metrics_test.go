package authority_test

import (
	"cmp"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc/codes"

	"github.com/gatehouse-ws/gatehouse/authority"
	"github.com/gatehouse-ws/gatehouse/authority/pki"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage/boltstore"
)

func (f *fixture) families() []*dto.MetricFamily {
	f.Helper()
	families, err := f.metrics.Gather()
	f.ok(err)
	return families
}

// TestMetricNames proves that names and units are those that Prometheus asks
// for, and that no label can hold a user, address or token.
func TestMetricNames(t *testing.T) {
	f := newFixture(t)
	problems, err := promlint.NewWithMetricFamilies(f.families()).Lint()
	f.ok(err)
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	closed := []string{"method", "outcome", "reason", "limit", "binding", "mode", "selector", "kind"}
	for _, family := range f.families() {
		if name := family.GetName(); name != "gatehouse_build_info" && !strings.HasPrefix(name, "gatehouse_authority_") {
			t.Errorf("%s is not of the authority", name)
		}
		for _, m := range family.GetMetric() {
			for _, l := range m.GetLabel() {
				if !slices.Contains(closed, l.GetName()) && family.GetName() != "gatehouse_build_info" {
					t.Errorf("%s: label %s is of no closed list", family.GetName(), l.GetName())
				}
			}
		}
	}
}

// TestMetricsBeginAtZero proves that each series of each counter is there from
// the start, so that the first event shows in its rate.
func TestMetricsBeginAtZero(t *testing.T) {
	f := newFixture(t)
	series := map[string]int{}
	for _, family := range f.families() {
		series[family.GetName()] = len(family.GetMetric())
		for _, m := range family.GetMetric() {
			if n := m.GetCounter().GetValue(); n != 0 {
				t.Errorf("%s begins at %v", family.GetName(), n)
			}
		}
	}
	for method := range authority.Rules {
		f.equal(method, f.metric(`gatehouse_authority_calls_total{method="`+method+`",outcome="ok"}`), 0)
		for _, failure := range authority.Failures() {
			f.equal(method, f.metric(`gatehouse_authority_calls_total{method="`+method+`",outcome="`+failure.Reason.Label()+`"}`), 0)
		}
	}
	n := f.node("node-1")
	f.tokens("login").IssueToken(f.ctx, &pb.IssueTokenRequest{})
	n.refusal(n.item(f.issue().GetToken(), func(it *pb.RedeemItem) { it.Digest[0] ^= 1 }))
	f.revoke(bySubject("acme", "ada"))
	f.code(f.callAs(f.clientTLS("", 0)), codes.Unauthenticated)
	for _, family := range f.families() {
		if now, before := len(family.GetMetric()), series[family.GetName()]; now != before {
			t.Errorf("%s has %d series after a few calls, and had %d at the start", family.GetName(), now, before)
		}
	}
}

// TestRefusalsBeginAtZero proves that no reason to refuse a redemption for is
// left out of the series that are there from the start.
func TestRefusalsBeginAtZero(t *testing.T) {
	f := newFixture(t)
	source, err := os.ReadFile("judge.go")
	f.ok(err)
	named := regexp.MustCompile(`pb\.Reason_(REASON_\w+)`).FindAllStringSubmatch(string(source), -1)
	if len(named) < 15 {
		t.Fatalf("only %d reasons were found", len(named))
	}
	for _, name := range named {
		r := pb.Reason(pb.Reason_value[name[1]])
		f.equal(name[1], f.metric(`gatehouse_authority_tokens_redeemed_total{outcome="`+r.Label()+`"}`), 0)
	}
}

// callAs calls over a connection of its own.
func (f *fixture) callAs(cfg *tls.Config) error {
	f.Helper()
	c := f.dial(cfg)
	defer c.Close()
	_, err := pb.NewSessionServiceClient(c).ListNodes(f.ctx, &pb.ListNodesRequest{})
	return err
}

// TestMetricsMove proves of every histogram, and of what else is measured, that
// it moves with what it measures.
func TestMetricsMove(t *testing.T) {
	f := newFixture(t, func(f *fixture) {
		var err error
		f.store, err = boltstore.Open(filepath.Join(f.TempDir(), "gatehouse.db"), boltstore.Options{})
		f.ok(err)
	})
	before := map[string]float64{}
	moved := func(what string, by float64, samples ...string) {
		t.Helper()
		for _, sample := range samples {
			name := "gatehouse_authority_" + sample
			if !strings.Contains(name, "{") {
				name += "{}"
			}
			now := f.metric(name)
			if got := now - before[name]; got != by {
				t.Errorf("%s: %s moved by %v, want %v", what, name, got, by)
			}
			before[name] = now
		}
	}
	attach, redeem := `streams{method="/gatehouse.authority.v1.NodeService/Attach"}`, `streams{method="/gatehouse.authority.v1.NodeService/Redeem"}`

	commits := f.metric("gatehouse_authority_store_commit_duration_seconds{}")
	issued := f.issue()
	moved("an issue", 1, `call_duration_seconds{method="/gatehouse.authority.v1.TokenService/IssueToken"}`, `tokens_issued_total{outcome="ok"}`, "tokens")
	if now := f.metric("gatehouse_authority_store_commit_duration_seconds{}"); now <= commits || now != f.metric("gatehouse_authority_store_commit_writes{}") {
		t.Errorf("an issue: %v commits became %v", commits, now)
	}

	a, b := f.node("node-1"), f.node("node-2")
	moved("two nodes", 2, attach, "nodes", "nodes_attached")
	a.grant(a.item(issued.GetToken()))
	moved("a batch", 1, redeem, "redeem_batch_duration_seconds", "redeem_batch_tokens", `tokens_redeemed_total{outcome="ok"}`, "sessions")
	moved("a batch that is decided", 0, "redeem_batches")

	r := f.revoke(bySubject("acme", "ada")).GetRevision()
	moved("a revocation", 1, "log_entries", "node_lag_entries", `revocations_total{selector="subject"}`)
	f.clock.advance(time.Second)
	a.acknowledge(r)
	a.beat(r)
	f.eventually("the first acknowledgement", func() bool { return f.metric("gatehouse_authority_revocation_enforced_seconds{}") == 1 })
	moved("one of two nodes", 0, "receipt_complete_seconds")
	moved("one of two nodes", 1, "revocation_enforced_seconds")
	b.acknowledge(r)
	b.beat(r)
	f.eventually("the receipt", func() bool { return f.metric("gatehouse_authority_receipt_complete_seconds{}") == 1 })
	moved("the other node", 1, "revocation_enforced_seconds", "receipt_complete_seconds")
	moved("both nodes", -1, "node_lag_entries")

	b.end()
	f.eventually("the end of a stream", func() bool { return f.metric("gatehouse_authority_nodes_attached{}") == 1 })
	f.clock.advance(time.Hour)
	moved("an hour's silence", 2, "nodes_silent")
	f.ok(f.service.Tend(f.ctx))
	moved("a sweep", 1, "sweep_duration_seconds", `swept_total{kind="tokens"}`)
	moved("a sweep", -1, "tokens")
}

// TestExpiries proves that what is going to end is told in time.
func TestExpiries(t *testing.T) {
	f := newFixture(t)
	ends := func(whose string, after time.Duration) {
		t.Helper()
		at := f.metric("gatehouse_authority_" + whose + "_certificate_expiry_timestamp_seconds{}")
		f.equal(whose, time.Unix(int64(at), 0).Sub(start), after)
	}
	ends("ca", pki.CALife)
	ends("server", pki.ServerLife)
	f.equal("before any call", f.metric("gatehouse_authority_client_certificate_expiry_timestamp_seconds{}"), math.Inf(1))
	f.equal("edge key", f.metric("gatehouse_authority_edge_key_age_seconds{}"), 0)
	_, err := f.sessions("admin").ListNodes(f.ctx, &pb.ListNodesRequest{})
	f.ok(err)
	ends("client", pki.ClientLife)
	f.ok(f.callAs(f.certificateFor("viewer", 24*time.Hour)))
	ends("client", 24*time.Hour) // the first of two
	f.clock.advance(time.Hour)
	f.equal("edge key an hour later", f.metric("gatehouse_authority_edge_key_age_seconds{}"), 3600)
	f.ok(f.callAs(f.certificateFor("viewer", 48*time.Hour)))
	ends("client", 48*time.Hour) // it is renewed
	_, err = f.credentials("admin").DisableCredential(f.ctx, &pb.DisableCredentialRequest{Name: "viewer", Reason: "test"})
	f.ok(err)
	ends("client", pki.ClientLife) // the other's
}

// certificateFor is clientTLS with a certificate that is good for so long from
// start on.
func (f *fixture) certificateFor(name string, life time.Duration) *tls.Config {
	f.Helper()
	return f.signedBy(f.ca, name, life)
}

func (f *fixture) signedBy(ca *pki.CA, name string, life time.Duration) *tls.Config {
	f.Helper()
	cfg := f.clientTLS("", 0)
	key, csr := f.request()
	cert, err := ca.SignClient(csr, name, 1, life)
	f.ok(err)
	pair, err := tls.X509KeyPair(pki.EncodeCertificate(cert), key)
	f.ok(err)
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	return cfg
}

// TestRefusedCallersAreCounted proves that whoever is turned away, by TLS or by
// credential, is counted with the reason.
func TestRefusedCallersAreCounted(t *testing.T) {
	f := newFixture(t)
	other, err := pki.Create(filepath.Join(t.TempDir(), "ca"), f.clock.Now, rand.Reader)
	f.ok(err)
	_, err = f.credentials("admin").DisableCredential(f.ctx, &pb.DisableCredentialRequest{Name: "viewer", Reason: "test"})
	f.ok(err)
	expired := f.certificateFor("login", time.Minute)
	f.clock.advance(time.Hour)
	distrusting := f.clientTLS("login", 1)
	distrusting.RootCAs = x509.NewCertPool()
	old := f.clientTLS("login", 1)
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12

	for _, c := range []struct {
		rule, metric string
		call         func() error
	}{
		{"no credential", `callers_refused_total{reason="no_credential"}`, func() error { return f.callAs(f.clientTLS("", 0)) }},
		{"an unknown one", `callers_refused_total{reason="unknown_credential"}`, func() error { return f.callAs(f.clientTLS("nobody", 1)) }},
		{"a disabled one", `callers_refused_total{reason="credential_disabled"}`, func() error { return f.callAs(f.clientTLS("viewer", 1)) }},
		{"not that one's call", `callers_refused_total{reason="permission_denied"}`, func() error { return f.callAs(f.clientTLS("login", 1)) }},
		{"an expired certificate", `tls_handshakes_failed_total{reason="certificate_expired"}`, func() error { return f.callAs(expired) }},
		{"another CA's certificate", `tls_handshakes_failed_total{reason="certificate_untrusted"}`, func() error { return f.callAs(f.signedBy(other, "login", 0)) }},
		{"a caller that trusts another CA", `tls_handshakes_failed_total{reason="refused_by_peer"}`, func() error { return f.callAs(distrusting) }},
		{"an old version of TLS", `tls_handshakes_failed_total{reason="other"}`, func() error { return f.callAs(old) }},
		{"no TLS at all", `tls_handshakes_failed_total{reason="other"}`, func() error {
			conn, err := net.Dial("tcp", f.address)
			f.ok(err)
			defer conn.Close()
			_, err = conn.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
			f.ok(err)
			_, err = io.Copy(io.Discard, conn)
			return cmp.Or(err, io.EOF)
		}},
	} {
		name := "gatehouse_authority_" + c.metric
		before := f.metric(name)
		if c.call() == nil {
			t.Errorf("%s: the call succeeds", c.rule)
		}
		f.eventually(c.rule, func() bool { return f.metric(name) > before })
	}
}

// TestRefusedConnectionsAreCounted proves that connections above a limit are
// counted by it.
func TestRefusedConnectionsAreCounted(t *testing.T) {
	f := newFixture(t)
	for limit, most := range map[string]int{"connections": 1, "connections_per_address": 20} {
		name := `gatehouse_authority_connections_refused_total{limit="` + limit + `"}`
		l, err := net.Listen("tcp", "127.0.0.1:0")
		f.ok(err)
		go func() { _ = f.server.ServeBounded(l, most) }()
		for range 3 {
			conn, err := net.Dial("tcp", l.Addr().String())
			f.ok(err)
			defer conn.Close()
		}
		f.eventually(limit, func() bool { return f.metric(name) > 0 })
	}
}
