package main

import (
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/gatehouse-ws/gatehouse/authority/pki"
	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/tlsfile"
)

// callers are the credentials of a run. Gatehouse and its bare peers are called
// with the same certificates.
var callers = map[string]storage.Role{
	"admin": storage.Admin,
	"login": storage.Issuer,
	"node":  storage.Node,
}

// makeKeys makes a CA in dir, a server certificate and one for each caller.
func makeKeys(dir string) error {
	ca, err := pki.Create(filepath.Join(dir, "ca"), time.Now, rand.Reader)
	if err != nil {
		return err
	}
	if _, err := ca.EnsureServer(filepath.Join(dir, "server"), []string{"localhost", "127.0.0.1"}); err != nil {
		return err
	}
	for name := range callers {
		key, csr, err := pki.NewRequest(rand.Reader)
		if err != nil {
			return err
		}
		cert, err := ca.SignClient(csr, name, 1, pki.ClientLife)
		if err != nil {
			return err
		}
		bundle := pki.Bundle{Key: key, Cert: pki.EncodeCertificate(cert), CA: ca.Bundle()}
		if err := bundle.Write(filepath.Join(dir, name), false); err != nil {
			return err
		}
	}
	return nil
}

// keys is the folder of the run's certificates, made on first use.
func (l *lab) keys() (string, error) {
	dir := filepath.Join(l.dir, "keys")
	if l.keysMade {
		return dir, nil
	}
	if err := makeKeys(dir); err != nil {
		return "", fmt.Errorf("make certificates: %w", err)
	}
	l.keysMade = true
	return dir, nil
}

func serverTLS(keys string, ca *pki.CA) (*tls.Config, error) {
	dir := filepath.Join(keys, "server")
	return tlsfile.Server(filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key"), ca.Pool, time.Now, slog.New(slog.DiscardHandler))
}

// publicTLS is a server's for clients of which it wants no certificate.
func publicTLS(keys string) (*tls.Config, error) {
	dir := filepath.Join(keys, "server")
	return tlsfile.Public(filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key"), time.Now, slog.New(slog.DiscardHandler))
}

func clientTLS(keys, name string) (*tls.Config, error) {
	dir := filepath.Join(keys, name)
	return tlsfile.Client(filepath.Join(dir, "ca.crt"), filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"), time.Now, slog.New(slog.DiscardHandler))
}

// dial connects to a server of this run with a caller's certificate.
func (l *lab) dial(addr, caller string) (*grpc.ClientConn, error) {
	keys, err := l.keys()
	if err != nil {
		return nil, err
	}
	config, err := clientTLS(keys, caller)
	if err != nil {
		return nil, err
	}
	return grpc.NewClient(addr, grpc.WithTransportCredentials(credentials.NewTLS(config)))
}
