package noded

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/tlsfile"
)

// renewals is an authority that renews certificates for ten more days, unless
// err says otherwise, by the first of its CAs.
type renewals struct {
	pb.UnimplementedCredentialServiceServer
	healthpb.UnimplementedHealthServer
	cas   []tls.Certificate // trusted, first the one that signs
	err   error
	asked int
	shown []string // the CAs of the certificates by which Check was called
}

func (r *renewals) RenewCertificate(_ context.Context, req *pb.RenewCertificateRequest) (*pb.RenewCertificateResponse, error) {
	r.asked++
	if r.err != nil {
		return nil, r.err
	}
	csr, err := x509.ParseCertificateRequest(req.GetCertificateRequest())
	if err != nil {
		return nil, err
	}
	text, err := r.sign(csr.PublicKey, time.Now(), 10*24*time.Hour)
	return &pb.RenewCertificateResponse{Issued: &pb.IssuedCredential{CertificatePem: string(text), CaPem: string(r.bundle())}}, err
}

func (r *renewals) Check(ctx context.Context, _ *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	p, _ := peer.FromContext(ctx)
	r.shown = append(r.shown, p.AuthInfo.(credentials.TLSInfo).State.PeerCertificates[0].Issuer.CommonName)
	return &healthpb.HealthCheckResponse{}, nil
}

func (r *renewals) sign(key any, from time.Time, life time.Duration) ([]byte, error) {
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(from.Unix()), NotBefore: from, NotAfter: from.Add(life), DNSNames: []string{"localhost"},
	}, r.cas[0].Leaf, key, r.cas[0].PrivateKey)
	return encode(der), err
}

func encode(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func (r *renewals) bundle() (out []byte) {
	for _, ca := range r.cas {
		out = append(out, encode(ca.Leaf.Raw)...)
	}
	return out
}

func (r *renewals) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	for _, ca := range r.cas {
		pool.AddCert(ca.Leaf)
	}
	return pool
}

// pair writes a new key and, by sign, its certificate.
func pair(t *testing.T, certPath, keyPath string, sign func(key *ecdsa.PrivateKey) ([]byte, error)) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := sign(key)
	if err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string][]byte{certPath: cert, keyPath: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// newCA makes a CA whose certificate ends after life.
func newCA(t *testing.T, name string, life time.Duration) tls.Certificate {
	t.Helper()
	crt, key := filepath.Join(t.TempDir(), "ca.crt"), filepath.Join(t.TempDir(), "ca.key")
	pair(t, crt, key, func(key *ecdsa.PrivateKey) ([]byte, error) {
		template := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(life),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
		return encode(der), err
	})
	ca, err := tls.LoadX509KeyPair(crt, key)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// site is an authority and the files of a node, whose certificate has lived for
// 60 of its 100 hours.
type site struct {
	*renewals
	dir     string
	address string
	log     bytes.Buffer
	now     time.Time
}

func (s *site) at(name string) string { return filepath.Join(s.dir, name) }

var quiet = slog.New(slog.DiscardHandler)

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{dir: t.TempDir(), renewals: &renewals{cas: []tls.Certificate{newCA(t, "first", 1000*time.Hour)}}, now: time.Now()}
	if err := errors.Join(os.WriteFile(s.at("ca.crt"), s.bundle(), 0o644), os.Mkdir(s.at("state"), 0o700)); err != nil {
		t.Fatal(err)
	}
	s.certify(t)
	pair(t, s.at("tls.crt"), s.at("tls.key"), func(key *ecdsa.PrivateKey) ([]byte, error) {
		return s.sign(&key.PublicKey, time.Now().Add(-60*time.Hour), 100*time.Hour)
	})
	serverTLS, err := tlsfile.Server(s.at("server.crt"), s.at("server.key"), s.pool, time.Now, quiet)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = l.Addr().String()
	srv := grpc.NewServer(grpc.Creds(credentials.NewTLS(serverTLS)))
	pb.RegisterCredentialServiceServer(srv, s.renewals)
	healthpb.RegisterHealthServer(srv, s.renewals)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() { srv.Stop(); <-done })
	return s
}

// certify gives the server a certificate of the CA that signs.
func (s *site) certify(t *testing.T) {
	pair(t, s.at("server.crt"), s.at("server.key"), func(key *ecdsa.PrivateKey) ([]byte, error) {
		return s.sign(&key.PublicKey, time.Now(), time.Hour)
	})
}

func (s *site) renewer(t *testing.T) *renewer {
	t.Helper()
	cfg := &Config{State: s.at("state"), Credential: CredentialConfig{CAFile: s.at("ca.crt"), CertFile: s.at("tls.crt"), KeyFile: s.at("tls.key"), Renew: true}}
	cfg.Authority.Address = "localhost:" + s.address[strings.LastIndex(s.address, ":")+1:]
	r, err := newRenewer(cfg, slog.New(slog.NewTextHandler(&s.log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	r.now = func() time.Time { return s.now }
	return r
}

// look has the certificate looked at, and wants the authority to have been asked
// so often.
func (s *site) look(t *testing.T, r *renewer, what string, asked int, fails string) {
	t.Helper()
	err := r.look(t.Context())
	if fails == "" && err != nil || fails != "" && (err == nil || !strings.Contains(err.Error(), fails)) {
		t.Fatalf("%s: %v, want %q", what, err, fails)
	}
	if s.asked != asked {
		t.Fatalf("%s: the authority was asked %d times, want %d", what, s.asked, asked)
	}
}

// A node's certificate is renewed once two thirds of its life are over, kept
// while that fails, and left alone where the configuration says so.
func TestRenewer(t *testing.T) {
	s := newSite(t)
	r := s.renewer(t)
	reg := prometheus.NewRegistry()
	if err := r.register(reg); err != nil {
		t.Fatal(err)
	}
	s.look(t, r, "in good time", 0, "")
	ends := r.ends.Load()
	s.now = s.now.Add(8 * time.Hour)
	r.cfg.Renew = false
	s.look(t, r, "switched off", 0, "")
	r.cfg.Renew = true
	s.err = status.Error(codes.Unavailable, "not now")
	s.look(t, r, "the authority is away", 1, "not now")
	if r.ends.Load() != ends {
		t.Error("the certificate has changed")
	}
	s.err = nil
	s.look(t, r, "the authority is back", 2, "")
	if got := time.Unix(r.ends.Load(), 0); got.Before(time.Now().Add(9 * 24 * time.Hour)) {
		t.Errorf("the new certificate ends at %v", got)
	}
	if !strings.Contains(s.log.String(), `msg="certificate renewed"`) {
		t.Errorf("log: %s", s.log.String())
	}
	s.look(t, r, "renewed", 2, "")
	families, err := reg.Gather()
	if err != nil || len(families) != 2 || families[1].GetMetric()[0].GetGauge().GetValue() != float64(r.ends.Load()) ||
		families[0].GetMetric()[0].GetGauge().GetValue() != float64(s.cas[0].Leaf.NotAfter.Unix()) {
		t.Errorf("metrics %v, %v", families, err)
	}
	if err := os.WriteFile(s.at("tls.crt"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.look(t, r, "a file that is none", 2, "not a certificate and its key")
	if r.ends.Load() != 0 || r.again() != lookAgain {
		t.Error("an end is told of a certificate that can't be read")
	}
}

// However short a certificate's life, it is looked at several times between when
// it is due and its end, and never in a tight loop.
func TestLooksFollowTheLife(t *testing.T) {
	for _, life := range []time.Duration{10 * time.Second, time.Minute, time.Hour, 3 * time.Hour, 24 * time.Hour, 365 * 24 * time.Hour} {
		now := time.Unix(1_800_000_000, 0)
		r := &renewer{now: func() time.Time { return now }}
		from := now
		r.from.Store(now.Unix())
		r.ends.Store(now.Add(life).Unix())
		due, late := 0, time.Duration(0)
		for now.Before(from.Add(life)) {
			again := r.again()
			if again < lookSoonest || again > lookEvery {
				t.Fatalf("of a life of %v the next look is after %v", life, again)
			}
			now = now.Add(again)
			if over := now.Sub(from.Add(life * 2 / 3)); over >= 0 && now.Before(from.Add(life)) {
				if due == 0 {
					late = over
				}
				due++
			}
		}
		if due < 3 || late > life/looks+time.Second {
			t.Errorf("of a life of %v, %d looks find it due, the first after %v", life, due, late)
		}
	}
}

// A node that is told of another CA keeps that on disk, has its certificate
// renewed, and calls by that; the CA that is retired then it knows no longer.
func TestRotation(t *testing.T) {
	s := newSite(t)
	r := s.renewer(t)
	s.look(t, r, "before", 0, "")
	first, second := s.cas[0], newCA(t, "second", 2000*time.Hour)
	tell := func(changes bool) {
		t.Helper()
		r.pending = s.bundle()
		if changed, err := r.learn(); err != nil || changed != changes || r.pending != nil {
			t.Fatalf("changed %v, want %v: %v", changed, changes, err)
		}
	}
	tell(false) // as at every start

	s.cas = []tls.Certificate{second, first}
	tell(true)
	tell(false)
	s.certify(t) // by the second alone: the node knows it by what it was told
	s.look(t, r, "rotated", 1, "")
	if len(s.shown) != 1 || s.shown[0] != "second" {
		t.Errorf("the new certificate was shown as of %q", s.shown)
	}
	s.look(t, r, "renewed", 1, "")
	if got := r.trust.ends(); !got.Equal(second.Leaf.NotAfter) {
		t.Errorf("the last CA ends at %v", got)
	}

	// It holds for the next process.
	r = s.renewer(t)
	if err := r.show(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.look(t, r, "after a restart", 1, "")

	s.cas = []tls.Certificate{second}
	tell(true)
	r = s.renewer(t)
	if err := r.show(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.cas = []tls.Certificate{first}
	s.certify(t)
	if err := r.show(t.Context()); err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("an authority of the retired CA: %v", err)
	}

	// Whoever writes another ca_file means it.
	third := newCA(t, "third", time.Hour)
	s.cas = []tls.Certificate{third, second}
	s.certify(t)
	if err := r.show(t.Context()); err == nil {
		t.Error("an authority of a CA that nobody told of")
	}
	if err := os.WriteFile(s.at("ca.crt"), s.bundle(), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := r.show(t.Context()); err != nil {
		t.Errorf("with another ca_file: %v", err)
	}
	if r.trust.signs() != nil {
		t.Error("what was told before counts still")
	}
}

// What can't be kept or is no CA is not taken, and the certificate of a new CA
// not without it.
func TestTrustRefuses(t *testing.T) {
	s := newSite(t)
	r := s.renewer(t)
	leaf, err := os.ReadFile(s.at("tls.crt"))
	if err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string][]byte{
		"nothing": nil, "noise": []byte("x"), "a certificate that is no CA's": leaf, "too many": bytes.Repeat(s.bundle(), maxCAs+1),
	} {
		if _, err := r.trust.learn(text); err == nil {
			t.Errorf("%s is taken", what)
		}
	}
	s.cas = []tls.Certificate{newCA(t, "second", time.Hour), s.cas[0]}
	if err := os.RemoveAll(s.at("state")); err != nil {
		t.Fatal(err)
	}
	r.pending = s.bundle()
	if _, err := r.learn(); err == nil || r.pending == nil || r.again() != lookAgain {
		t.Errorf("taken though it can't be kept: %v", err)
	}
	s.now = s.now.Add(8 * time.Hour)
	before, err := os.ReadFile(s.at("tls.crt"))
	if err != nil {
		t.Fatal(err)
	}
	s.look(t, r, "no folder to keep the CAs in", 1, "keep the authority's CAs")
	if after, err := os.ReadFile(s.at("tls.crt")); err != nil || !bytes.Equal(before, after) {
		t.Error("the certificate was taken without its CA")
	}
	if err := os.Mkdir(s.at("state"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.look(t, r, "and there is one again", 2, "")
	if r.pending != nil || r.trust.names() != "second, first" {
		t.Errorf("trusted are %s", r.trust.names())
	}

	// A kept file that was damaged does not stop the node: its ca_file has to do.
	if err := os.WriteFile(r.trust.kept, []byte("half"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := s.renewer(t).trust.names(); got != "first" {
		t.Errorf("with a damaged file, trusted are %s", got)
	}
}

// The loop takes what the authority tells while it waits.
func TestRunLearns(t *testing.T) {
	s := newSite(t)
	r := s.renewer(t)
	s.cas = []tls.Certificate{newCA(t, "second", time.Hour), s.cas[0]}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r.told = make(chan string, 1)
		r.tell("out of date")
		r.tell(string(s.bundle()))
		began := time.Now()
		if !r.wait(ctx, time.Hour) || time.Since(began) >= renewSpread {
			t.Errorf("it waited for %v", time.Since(began))
		}
		if r.trust.names() != "second, first" {
			t.Errorf("trusted are %s", r.trust.names())
		}
		r.tell(string(s.bundle())) // nothing new
		began = time.Now()
		if !r.wait(ctx, time.Hour) || time.Since(began) != time.Hour {
			t.Errorf("it waited for %v", time.Since(began))
		}
		cancel()
		if r.wait(ctx, time.Hour) {
			t.Error("it does not end")
		}
	})
}

func TestWarn(t *testing.T) {
	s := newSite(t)
	r := s.renewer(t)
	if got := r.warn(); len(got) != 0 {
		t.Errorf("warned of %q", got)
	}
	s.now = s.now.Add(970 * time.Hour)
	got := strings.Join(r.warn(), "\n")
	for _, want := range []string{"credential.cert_file: the certificate ended on ", "credential.ca_file: the last CA ends on "} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in %s", want, got)
		}
	}
}
