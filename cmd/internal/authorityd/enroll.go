package authorityd

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/gatehouse-ws/gatehouse/authority/pki"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/boltstore"
	"github.com/gatehouse-ws/gatehouse/tlsfile"
)

// FirstAdmin is the credential that Init makes.
const FirstAdmin = "admin"

// ErrFolder says that a credential could not be written to its folder, so none
// is made.
var ErrFolder = errors.New("the credential's folder")

// Init makes what an authority needs to start: the store, the CA, the server
// certificate, and a first admin credential in the state folder. Run again it
// makes what is missing and keeps what is there, and made tells whether anything
// was; but a store that is missing beside its CA is ErrStoreMissing.
func Init(ctx context.Context, cfg Config, log *slog.Logger) (made bool, err error) {
	if err := os.MkdirAll(cfg.State, 0o700); err != nil {
		return false, fmt.Errorf("state folder: %w", err)
	}
	if err := checkPrivate(cfg.State); err != nil {
		return false, err
	}
	if _, err := os.Stat(cfg.caDir()); errors.Is(err, os.ErrNotExist) {
		if err := makeStore(cfg); err != nil {
			return false, err
		}
		if _, err := pki.Create(cfg.caDir(), time.Now, rand.Reader); err != nil {
			return false, err
		}
		made = true
	}
	dir := cfg.CredentialDir(FirstAdmin)
	_, missing := os.Stat(filepath.Join(dir, "tls.crt"))
	a, err := Open(ctx, cfg, log)
	if errors.Is(err, ErrInUse) && missing == nil { // by an authority, which began with all this
		return made, nil
	}
	if err != nil {
		return made, err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	stored, err := a.hasFirstAdmin(ctx)
	if err != nil || stored && missing == nil {
		return made, err
	}
	return true, a.firstAdmin(ctx, dir)
}

// makeStore makes the store if there is none. It comes before the CA, so that a
// CA without a store has lost it.
func makeStore(cfg Config) error {
	store, err := boltstore.Open(cfg.storeAt(), boltstore.Options{})
	if err != nil {
		return err
	}
	return store.Close()
}

// SetAside puts the CA of a lost store out of the way, so that Init begins anew:
// the certificates it signed must not be worth anything to a store that does not
// know which of them were replaced or disabled. It returns the CA's new place.
func SetAside(cfg Config) (string, error) {
	if _, err := os.Lstat(cfg.storeAt()); !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("%s is there: nothing was lost, and nothing is begun anew", cfg.storeAt())
	}
	to := cfg.caDir() + ".lost-" + time.Now().UTC().Format("20060102T150405Z")
	if err := os.Rename(cfg.caDir(), to); err != nil {
		return "", fmt.Errorf("begin anew: %w", err)
	}
	return to, nil
}

func (a *Authority) hasFirstAdmin(ctx context.Context) (bool, error) {
	all, err := a.store.Credentials(ctx)
	return slices.ContainsFunc(all, func(c storage.Credential) bool { return c.Name == FirstAdmin }), err
}

// firstAdmin writes the credential that lets everything else be made through
// the authority's own door. If an earlier Init stored it and went no further,
// it is issued again.
func (a *Authority) firstAdmin(ctx context.Context, dir string) error {
	key, csr, err := pki.NewRequest(rand.Reader)
	if err != nil {
		return err
	}
	cred := storage.Credential{Name: FirstAdmin, Role: storage.Admin, CreatedAt: time.Now(), Generation: 1}
	err = a.store.CreateCredential(ctx, cred)
	if errors.Is(err, storage.ErrExists) {
		cred, err = a.store.UpdateCredential(ctx, FirstAdmin, func(c *storage.Credential) error {
			c.Generation++
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("store the first admin credential: %w", err)
	}
	cert, err := a.ca.SignClient(csr, cred.Name, cred.Generation, pki.ClientLife)
	if err != nil {
		return err
	}
	return pki.Bundle{Key: key, Cert: pki.EncodeCertificate(cert), CA: a.ca.Bundle()}.Write(dir, true)
}

// checkPrivate refuses a state folder that others may read: it holds keys.
func checkPrivate(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("state folder: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("state folder %s is open to others (mode %04o): run chmod 700 %s", dir, info.Mode().Perm(), dir)
	}
	return nil
}

// Enrolment asks for a credential.
type Enrolment struct {
	Credential *pb.Credential
	APIKey     bool   // an API key instead of a certificate
	Out        string // the folder for a certificate
	Replace    bool   // issue an existing credential anew; what it called with stops working
}

// Enrolled is what it calls with: an API key, or a folder.
type Enrolled struct {
	Credential *pb.Credential
	APIKey     string
	Dir        string
	ExpiresAt  time.Time
}

// Enroll makes a credential with the first admin's, through the running
// authority, or else by starting one on the state folder for as long as it
// takes.
//
// The error of a call has its gRPC status; ErrFolder says that none was made.
func Enroll(ctx context.Context, cfg Config, e Enrolment, log *slog.Logger) (made *Enrolled, err error) {
	err = through(ctx, cfg, log, func(address string) error {
		made, err = EnrollAt(ctx, cfg, address, e, log)
		return err
	})
	return made, err
}

// through calls the running authority, or else one that it starts on the state
// folder for as long as that takes.
func through(ctx context.Context, cfg Config, log *slog.Logger, call func(address string) error) (err error) {
	a, err := Open(ctx, cfg, log)
	asAdmin := func(address string) error {
		if err := freshen(ctx, cfg, address, log); errors.Is(err, ErrLeftBehind) {
			return err
		} else if err != nil {
			log.Warn("the first admin's certificate is not renewed", "error", err)
		}
		return call(address)
	}
	if errors.Is(err, ErrInUse) { // an authority runs
		return asAdmin(cfg.Local())
	}
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		return errors.Join(err, a.Close())
	}
	serve, stop := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- a.Serve(serve, l) }() // ends by stop
	defer func() {
		stop()
		err = errors.Join(err, <-served, a.Close())
	}()
	return asAdmin(l.Addr().String())
}

// dial calls an authority as the first admin.
func dial(cfg Config, address string, log *slog.Logger) (*grpc.ClientConn, error) {
	dir := cfg.CredentialDir(FirstAdmin)
	tlsConfig, err := tlsfile.Client(filepath.Join(dir, "ca.crt"), filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"), time.Now, log)
	if err != nil {
		return nil, fmt.Errorf("the first admin's credential: %w", err)
	}
	tlsConfig.ServerName = cfg.ServerNames[0]
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(tlsConfig)), grpc.WithNoProxy())
	if err != nil {
		return nil, fmt.Errorf("authority %s: %w", address, err)
	}
	return conn, nil
}

// EnrollAt makes a credential through the authority that runs at address on the
// state folder of cfg.
func EnrollAt(ctx context.Context, cfg Config, address string, e Enrolment, log *slog.Logger) (*Enrolled, error) {
	if e.Out == "" {
		e.Out = cfg.CredentialDir(e.Credential.GetName())
	}
	if !e.APIKey {
		if err := checkOut(e.Out, e.Replace); err != nil {
			return nil, err
		}
	}
	conn, err := dial(cfg, address, log)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }() // nothing is under way
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()

	var key, csr []byte
	if !e.APIKey {
		if key, csr, err = pki.NewRequest(rand.Reader); err != nil {
			return nil, err
		}
	}
	cred, issued, err := request(ctx, pb.NewCredentialServiceClient(conn), e, csr)
	if err != nil {
		return nil, fmt.Errorf("make credential %s: %w", e.Credential.GetName(), err)
	}
	out := &Enrolled{Credential: cred, APIKey: issued.GetApiKey(), ExpiresAt: issued.GetExpiresAt().AsTime()}
	if e.APIKey {
		return out, nil
	}
	out.Dir = e.Out
	bundle := pki.Bundle{Key: key, Cert: []byte(issued.GetCertificatePem()), CA: []byte(issued.GetCaPem())}
	if err := bundle.Write(e.Out, e.Replace); err != nil {
		return nil, fmt.Errorf("credential %s is made but not written: %w", cred.GetName(), err)
	}
	return out, nil
}

// checkOut finds what would keep a certificate out of its folder before one is
// made: names of credentials are never used again.
func checkOut(dir string, replace bool) error {
	for _, name := range []string{"tls.key", "tls.crt", "ca.crt"} {
		path := filepath.Join(dir, name)
		if _, err := os.Lstat(path); !replace && err == nil {
			return fmt.Errorf("%w: %s exists already", ErrFolder, path)
		}
	}
	at := filepath.Clean(dir)
	for _, err := os.Stat(at); errors.Is(err, os.ErrNotExist) && at != filepath.Dir(at); _, err = os.Stat(at) {
		at = filepath.Dir(at) // it will be made below this one
	}
	probe, err := os.CreateTemp(at, ".enroll-*")
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFolder, err)
	}
	return errors.Join(probe.Close(), os.Remove(probe.Name()))
}

func request(ctx context.Context, api pb.CredentialServiceClient, e Enrolment, csr []byte) (*pb.Credential, *pb.IssuedCredential, error) {
	name := e.Credential.GetName()
	if e.Replace {
		resp, err := api.ReissueCredential(ctx, &pb.ReissueCredentialRequest{Name: name, CertificateRequest: csr})
		if status.Code(err) != codes.NotFound {
			return resp.GetCredential(), resp.GetIssued(), err
		}
	}
	resp, err := api.CreateCredential(ctx, &pb.CreateCredentialRequest{Credential: e.Credential, CertificateRequest: csr})
	return resp.GetCredential(), resp.GetIssued(), err
}
