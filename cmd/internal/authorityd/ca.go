package authorityd

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/gatehouse-ws/gatehouse/authority/pki"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/tlsfile"
)

// ErrLeftBehind says that the first admin can't call any more.
var ErrLeftBehind = errors.New("a CA that is not trusted any more")

// RotateCA makes a new CA with the first admin's credential, and renews that. As
// all that follow, it goes through the running authority, or else through one that
// it starts on the state folder for as long as it takes. The error of a call has
// its gRPC status.
func RotateCA(ctx context.Context, cfg Config, reason string, log *slog.Logger) (made *pb.CertificateAuthority, err error) {
	err = through(ctx, cfg, log, func(address string) error {
		err := call(ctx, cfg, address, log, func(ctx context.Context, api pb.CredentialServiceClient) error {
			resp, err := api.RotateCA(ctx, &pb.RotateCARequest{Reason: reason})
			made = resp.GetCa()
			return err
		})
		if err != nil {
			return err
		}
		if err := freshen(ctx, cfg, address, log); err != nil {
			return fmt.Errorf("the CA is rotated, but the first admin's certificate is not renewed; the next command tries again: %w", err)
		}
		return nil
	})
	return made, err
}

// ListCAs tells which CAs are trusted, and who depends on the one to be retired.
func ListCAs(ctx context.Context, cfg Config, log *slog.Logger) (list *pb.ListCAsResponse, err error) {
	err = through(ctx, cfg, log, func(address string) error {
		return call(ctx, cfg, address, log, func(ctx context.Context, api pb.CredentialServiceClient) error {
			list, err = api.ListCAs(ctx, &pb.ListCAsRequest{})
			return err
		})
	})
	return list, err
}

// RetireCA ends the trust in the CA before the one that signs; with force, though
// credentials depend on it.
func RetireCA(ctx context.Context, cfg Config, reason string, force bool, log *slog.Logger) (retired *pb.RetireCAResponse, err error) {
	err = through(ctx, cfg, log, func(address string) error {
		return call(ctx, cfg, address, log, func(ctx context.Context, api pb.CredentialServiceClient) error {
			retired, err = api.RetireCA(ctx, &pb.RetireCARequest{Reason: reason, Force: force})
			return err
		})
	})
	return retired, err
}

// callTimeout bounds one call.
const callTimeout = 10 * time.Second

// call makes one call as the first admin.
func call(ctx context.Context, cfg Config, address string, log *slog.Logger, do func(context.Context, pb.CredentialServiceClient) error) error {
	conn, err := dial(cfg, address, log)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // nothing is under way
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return do(ctx, pb.NewCredentialServiceClient(conn))
}

// freshen has the first admin's certificate renewed when two thirds of its life
// are over or the CA has been rotated, and keeps the CAs beside it those of the
// state folder.
func freshen(ctx context.Context, cfg Config, address string, log *slog.Logger) error {
	dir := cfg.CredentialDir(FirstAdmin)
	caPath, certPath, keyPath := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	ca, err := pki.Load(cfg.caDir(), time.Now, rand.Reader)
	if err != nil {
		return err
	}
	if has, err := os.ReadFile(caPath); err == nil && !bytes.Equal(has, ca.Bundle()) {
		if err := tlsfile.Write(caPath, ca.Bundle(), 0o644); err != nil {
			return err
		}
	}
	pair, err := tlsfile.LoadPair(certPath, keyPath, 0)
	if err != nil {
		return err
	}
	cert := pair.Leaf
	if ca.SignerOf(cert) == "" {
		return fmt.Errorf("%s is of %w", certPath, ErrLeftBehind)
	}
	due := cert.NotBefore.Add(cert.NotAfter.Sub(cert.NotBefore) * 2 / 3)
	if time.Now().Before(due) && cert.CheckSignatureFrom(ca.Cert()) == nil {
		return nil
	}
	return tlsfile.Renew(certPath, keyPath, func(csr []byte) (cert []byte, err error) {
		err = call(ctx, cfg, address, log, func(ctx context.Context, api pb.CredentialServiceClient) error {
			resp, err := api.RenewCertificate(ctx, &pb.RenewCertificateRequest{CertificateRequest: csr})
			cert = []byte(resp.GetIssued().GetCertificatePem())
			return err
		})
		return cert, err
	})
}

// soon is how long before its end a CA is warned of: certificates that it signs
// from then on are shorter than they should be.
const soon = pki.ClientLife

// Warn tells what a start would not find wrong, but an operator should see to.
func Warn(cfg Config) (warnings []string) {
	ca, err := pki.Load(cfg.caDir(), time.Now, rand.Reader)
	if err != nil {
		return nil // Check tells
	}
	return warnOf(ca, time.Now())
}

func warnOf(ca *pki.CA, now time.Time) (warnings []string) {
	for _, t := range ca.Trusted() {
		name, end := t.Cert.Subject.CommonName, t.Cert.NotAfter.UTC().Format(time.DateOnly)
		switch {
		case !t.Signs && now.After(t.Cert.NotAfter):
			warnings = append(warnings, fmt.Sprintf("%s ended on %s: gatehouse-authority ca retire ends the rotation", name, end))
		case !t.Signs:
			warnings = append(warnings, fmt.Sprintf("%s is trusted still, until it is retired: gatehouse-authority ca list tells who depends on it", name))
		case t.Cert.NotAfter.Sub(now) < soon:
			warnings = append(warnings, fmt.Sprintf("%s ends on %s, and every certificate with it: gatehouse-authority ca rotate makes its successor", name, end))
		}
	}
	return warnings
}
