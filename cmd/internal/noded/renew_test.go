package noded

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/tlsfile"
)

// renewals is an authority that renews certificates for ten more days, unless
// err says otherwise.
type renewals struct {
	pb.UnimplementedCredentialServiceServer
	ca    tls.Certificate
	err   error
	asked int
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
	return &pb.RenewCertificateResponse{Issued: &pb.IssuedCredential{CertificatePem: string(text)}}, err
}

func (r *renewals) sign(key any, from time.Time, life time.Duration) ([]byte, error) {
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(from.Unix()), NotBefore: from, NotAfter: from.Add(life), DNSNames: []string{"localhost"},
	}, r.ca.Leaf, key, r.ca.PrivateKey)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), err
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

// A node's certificate is renewed once two thirds of its life are over, kept
// while that fails, and left alone where the configuration says so.
func TestRenewer(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	pair(t, at("ca.crt"), at("ca.key"), func(key *ecdsa.PrivateKey) ([]byte, error) {
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(1000 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
		der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), err
	})
	ca, err := tls.LoadX509KeyPair(at("ca.crt"), at("ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	authority := &renewals{ca: ca}
	pair(t, at("server.crt"), at("server.key"), func(key *ecdsa.PrivateKey) ([]byte, error) {
		return authority.sign(&key.PublicKey, time.Now(), time.Hour)
	})
	pair(t, at("tls.crt"), at("tls.key"), func(key *ecdsa.PrivateKey) ([]byte, error) {
		return authority.sign(&key.PublicKey, time.Now().Add(-60*time.Hour), 100*time.Hour)
	})
	quiet := slog.New(slog.DiscardHandler)
	serverTLS, err := tlsfile.Server(at("server.crt"), at("server.key"), ca.Leaf, time.Now, quiet)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.Creds(credentials.NewTLS(serverTLS)))
	pb.RegisterCredentialServiceServer(srv, authority)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	defer func() { srv.Stop(); <-done }()

	clientTLS, err := tlsfile.Client(at("ca.crt"), at("tls.crt"), at("tls.key"), time.Now, quiet)
	if err != nil {
		t.Fatal(err)
	}
	clientTLS.ServerName = "localhost"
	now := time.Now()
	var log bytes.Buffer
	r := &renewer{
		cfg: CredentialConfig{CertFile: at("tls.crt"), KeyFile: at("tls.key"), Renew: true}, address: l.Addr().String(),
		tls: clientTLS, log: slog.New(slog.NewTextHandler(&log, nil)), now: func() time.Time { return now },
	}
	reg := prometheus.NewRegistry()
	if err := r.register(reg); err != nil {
		t.Fatal(err)
	}
	look := func(what string, asked int, fails string) {
		t.Helper()
		err := r.look(t.Context())
		if fails == "" && err != nil || fails != "" && (err == nil || !strings.Contains(err.Error(), fails)) {
			t.Fatalf("%s: %v, want %q", what, err, fails)
		}
		if authority.asked != asked {
			t.Fatalf("%s: the authority was asked %d times, want %d", what, authority.asked, asked)
		}
	}
	look("in good time", 0, "")
	ends := r.ends.Load()
	now = now.Add(8 * time.Hour)
	r.cfg.Renew = false
	look("switched off", 0, "")
	r.cfg.Renew = true
	authority.err = status.Error(codes.Unavailable, "not now")
	look("the authority is away", 1, "not now")
	if r.ends.Load() != ends {
		t.Error("the certificate has changed")
	}
	authority.err = nil
	look("the authority is back", 2, "")
	if got := time.Unix(r.ends.Load(), 0); got.Before(time.Now().Add(9 * 24 * time.Hour)) {
		t.Errorf("the new certificate ends at %v", got)
	}
	if !strings.Contains(log.String(), `msg="certificate renewed"`) {
		t.Errorf("log: %s", log.String())
	}
	look("renewed", 2, "")
	families, err := reg.Gather()
	if err != nil || len(families) != 1 || families[0].GetMetric()[0].GetGauge().GetValue() != float64(r.ends.Load()) {
		t.Errorf("metric %v, %v", families, err)
	}
	if err := os.WriteFile(at("tls.crt"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	look("a file that is none", 2, "not a certificate and its key")
	if r.ends.Load() != 0 {
		t.Error("an end is told of a certificate that can't be read")
	}
}
