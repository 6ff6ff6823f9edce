package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/tlsfile"
)

const (
	// maxAnswer bounds one message of the authority.
	maxAnswer = 64 << 20
	// othersMode is what must be off in the mode of a file with an API key, as
	// tlsfile has it for keys.
	othersMode = 0o007
)

// client calls the authority. Every call without a deadline gets one, and every
// error is a failure.
type client struct {
	settings    *loaded
	fromDev     string
	certificate *x509.Certificate // shown; nil with an API key
	conn        *grpc.ClientConn

	tokens      pb.TokenServiceClient
	revocations pb.RevocationServiceClient
	sessions    pb.SessionServiceClient
	credentials pb.CredentialServiceClient
	audit       pb.AuditServiceClient
	maintenance pb.MaintenanceServiceClient
}

// connect prepares calls; the first one connects. Close what it returns.
func (c *cli) connect() (*client, error) {
	l, err := c.load()
	if err != nil {
		return nil, err
	}
	if err := l.check(); err != nil {
		return nil, err
	}
	cl := &client{settings: l, fromDev: l.fromDev}
	tlsConfig, err := tlsfile.Client(l.CAFile, l.CertFile, l.KeyFile, c.now, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, usage("gatehouse config print tells where the file was named", "%w", err)
	}
	tlsConfig.ServerName = l.ServerName
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(alertCredentials{credentials.NewTLS(tlsConfig)}),
		grpc.WithNoProxy(), // the address says where to go, not the environment
		grpc.WithUnaryInterceptor(cl.callUnary),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithUserAgent("gatehouse/" + pb.Version),
	}
	if l.APIKeyFile != "" {
		key, err := readAPIKey(l.APIKeyFile)
		if err != nil {
			return nil, err
		}
		opts = append(opts, grpc.WithPerRPCCredentials(key))
	} else if cl.certificate, err = shownCertificate(tlsConfig); err != nil {
		return nil, err
	}
	if cl.conn, err = grpc.NewClient(l.Address, opts...); err != nil {
		return nil, usagef("address: %w", err)
	}
	cl.tokens = pb.NewTokenServiceClient(cl.conn)
	cl.revocations = pb.NewRevocationServiceClient(cl.conn)
	cl.sessions = pb.NewSessionServiceClient(cl.conn)
	cl.credentials = pb.NewCredentialServiceClient(cl.conn)
	cl.audit = pb.NewAuditServiceClient(cl.conn)
	cl.maintenance = pb.NewMaintenanceServiceClient(cl.conn)
	return cl, nil
}

func shownCertificate(cfg *tls.Config) (*x509.Certificate, error) {
	pair, err := cfg.GetClientCertificate(&tls.CertificateRequestInfo{})
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(pair.Certificate[0])
}

// close drops the connection; nothing is under way.
func (cl *client) close() { _ = cl.conn.Close() }

// identity tells what calls show, without any secret.
func (cl *client) identity() string {
	if cl.certificate == nil {
		return "the API key in " + cl.settings.APIKeyFile
	}
	return fmt.Sprintf("the certificate of %s in %s, which ends on %s",
		cl.certificate.Subject.CommonName, cl.settings.CertFile, cl.certificate.NotAfter.UTC().Format(time.DateOnly))
}

func (cl *client) callUnary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	call := ctx
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		call, cancel = context.WithTimeout(ctx, cl.settings.CallTimeout)
		defer cancel()
	}
	return cl.explain(ctx, invoke(call, method, req, reply, cc, opts...))
}

// apiKey is the credential of callers without a certificate.
type apiKey string

// String hides the key.
func (apiKey) String() string { return "[API key]" }

// GoString hides the key from %#v.
func (apiKey) GoString() string { return "[API key]" }

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (k apiKey) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(k)}, nil
}

// RequireTransportSecurity keeps the key off plain connections.
func (apiKey) RequireTransportSecurity() bool { return true }

func readAPIKey(path string) (apiKey, error) {
	b, err := tlsfile.Read(path, othersMode)
	if err != nil {
		return "", usage("gatehouse config print tells where the file was named", "%w", err)
	}
	key := text(b)
	if key == "" || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return "", usage("the file holds the key as gatehouse credential create printed it, and nothing else", "%s does not hold an API key", path)
	}
	return apiKey(key), nil
}
