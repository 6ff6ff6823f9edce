package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// delivery says how a credential is handed out.
type delivery struct {
	out     string
	apiKey  bool
	replace bool
}

func (d *delivery) flags(f *pflag.FlagSet) {
	f.StringVar(&d.out, "out", "", "the folder to write tls.key, tls.crt and ca.crt to")
	f.BoolVar(&d.apiKey, "api-key", false, "make an API key instead of a certificate")
}

func (d *delivery) check() error {
	switch {
	case d.out == "" && !d.apiKey:
		return usage("--out ./NAME, for example", "say where the certificate goes with --out, or ask for an API key with --api-key")
	case d.out != "" && d.apiKey:
		return usagef("--out is for certificates, and --api-key prints a key: give one of them")
	case d.replace && d.apiKey:
		return usagef("--replace is about the files in --out")
	}
	return nil
}

// keyFolder is the folder of a credential that is being made. All files are
// staged under other names and renamed together, so that a failure on the way
// leaves the folder as it was.
type keyFolder struct {
	dir    string
	made   bool // dir was not there before
	key    []byte
	staged []stagedFile
}

type stagedFile struct{ at, name string }

// newKeyFolder makes dir if it is missing. Without replace it refuses a folder
// with any of the files to be written.
func newKeyFolder(dir string, replace bool) (*keyFolder, error) {
	for _, name := range []string{"tls.key", "tls.crt", "ca.crt"} {
		path := filepath.Join(dir, name)
		if _, err := os.Lstat(path); !replace && !errors.Is(err, fs.ErrNotExist) {
			return nil, usage("name another folder; reissue can --replace", "--out: %s exists already", path)
		}
	}
	f := &keyFolder{dir: dir}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		f.made = true
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("--out: %w", err)
	}
	return f, nil
}

// stageKey draws a key, puts it on disk, and returns a request to certify it.
func (f *keyFolder) stageKey(name string, random io.Reader) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), random)
	if err != nil {
		return nil, fmt.Errorf("draw key: %w", err)
	}
	csr, err := x509.CreateCertificateRequest(random, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
	if err != nil {
		return nil, fmt.Errorf("make certificate request: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	f.key = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return csr, f.stage("tls.key", 0o600, f.key)
}

// complete puts everything in place. The certificate comes last: a folder
// without one holds no credential.
func (f *keyFolder) complete(issued *pb.IssuedCredential) error {
	cert, ca := []byte(issued.GetCertificatePem()), []byte(issued.GetCaPem())
	if _, err := tls.X509KeyPair(cert, f.key); err != nil {
		return fmt.Errorf("the authority's certificate: %w", err)
	}
	if err := f.stage("ca.crt", 0o644, ca); err != nil {
		return err
	}
	if err := f.stage("tls.crt", 0o644, cert); err != nil {
		return err
	}
	for len(f.staged) > 0 {
		if err := os.Rename(f.staged[0].at, filepath.Join(f.dir, f.staged[0].name)); err != nil {
			return err
		}
		f.staged, f.made = f.staged[1:], false
	}
	return nil
}

func (f *keyFolder) stage(name string, mode fs.FileMode, text []byte) (err error) {
	tmp, err := os.CreateTemp(f.dir, "."+name+".tmp-*") // mode 0600
	if err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	f.staged = append(f.staged, stagedFile{tmp.Name(), name})
	defer func() { err = errors.Join(err, tmp.Close()) }()
	if _, err := tmp.Write(text); err != nil {
		return err
	}
	if err := tmp.Chmod(mode); err != nil {
		return err
	}
	return tmp.Sync()
}

// discard removes what was not completed.
func (f *keyFolder) discard() {
	for _, s := range f.staged {
		_ = os.Remove(s.at)
	}
	if f.made {
		_ = os.Remove(f.dir) // succeeds only on an empty folder
	}
}
