package wstest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// TLS makes a server's and a client's configuration that trust each other, for
// localhost and the loopback addresses.
func TLS(tb testing.TB) (server, client *tls.Config) {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		tb.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	server = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12}
	client = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12, ServerName: "localhost"}
	return server, client
}

// Serve serves the authority over gRPC and TLS on loopback until the test ends,
// or stop is called.
func (a *Authority) Serve(tb testing.TB) (address string, client *tls.Config, stop func()) {
	tb.Helper()
	serverTLS, client := TLS(tb)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	return l.Addr().String(), client, a.ServeOn(tb, l, serverTLS)
}

// ServeOn is Serve on a listener of the caller's.
func (a *Authority) ServeOn(tb testing.TB, l net.Listener, serverTLS *tls.Config) (stop func()) {
	tb.Helper()
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(serverTLS)), grpc.WaitForHandlers(true))
	pb.RegisterNodeServiceServer(s, a)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }() // ends by stop
	stop = sync.OnceFunc(func() {
		s.Stop()
		if err := <-served; err != nil {
			tb.Errorf("fake authority: %v", err)
		}
	})
	tb.Cleanup(stop)
	return stop
}
