package pki

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

// leaf verifies a chain as a TLS peer does, with the bundle ca that it has.
func leaf(t *testing.T, ca []byte, usage x509.ExtKeyUsage, chain ...*x509.Certificate) error {
	t.Helper()
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		t.Fatal("the bundle has no certificate")
	}
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: testTime, KeyUsages: []x509.ExtKeyUsage{usage}})
	return err
}

// chainOf reads all certificates of a file.
func chainOf(t *testing.T, path string) (chain []*x509.Certificate) {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(path+".crt", path+".key")
	if err != nil {
		t.Fatal(err)
	}
	for _, der := range pair.Certificate {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, cert)
	}
	return chain
}

func filesIn(t *testing.T, dir string) (out []string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		out = append(out, e.Name())
	}
	return out
}

// withoutVouching makes a CA as versions did that could not rotate.
func withoutVouching(t *testing.T) *CA {
	t.Helper()
	key, keyPEM, err := newKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(77), Subject: pkix.Name{CommonName: "Gatehouse CA 0000004d"}, NotBefore: testTime.Add(-skew), NotAfter: testTime.Add(CALife),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
	cert, err := sign(template, template, key.Public(), key, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "ca")
	if err := createFolder(dir, []file{{caCertFile, 0o644, EncodeCertificate(cert)}, {caKeyFile, 0o600, keyPEM}}); err != nil {
		t.Fatal(err)
	}
	ca, err := Load(dir, testNow, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// From rotation to retirement certificates of both CAs count, and the server's
// is taken by who knows either CA; after it those of the old one do not.
func TestRotate(t *testing.T) {
	for name, made := range map[string]func(*testing.T) *CA{
		"of this version":              func(t *testing.T) *CA { return newCA(t) },
		"of one that could not rotate": withoutVouching,
		"which came by a rotation": func(t *testing.T) *CA {
			ca := newCA(t)
			if err := errors.Join(ca.Rotate(), ca.Retire()); err != nil {
				t.Fatal(err)
			}
			return ca
		},
	} {
		t.Run("a CA "+name, func(t *testing.T) {
			ca := made(t)
			dir := t.TempDir()
			server := func(want string) []*x509.Certificate {
				t.Helper()
				if why, err := ca.EnsureServer(dir, []string{"localhost"}); err != nil || why != want {
					t.Fatalf("a server certificate since %q, want %q: %v", why, want, err)
				}
				if why, err := ca.EnsureServer(dir, []string{"localhost"}); err != nil || why != "" {
					t.Fatalf("and another since %q: %v", why, err)
				}
				return chainOf(t, filepath.Join(dir, "server"))
			}
			server("there was none")
			old, first, pool := newClient(t, ca, "a", 1), ca.Cert(), ca.Pool()
			oldLeaf, oldBundle, changed := readCertPEM(t, old.Cert), ca.Bundle(), ca.Changed()

			if err := ca.Rotate(); err != nil {
				t.Fatal(err)
			}
			select {
			case <-changed:
			default:
				t.Error("the change is not told")
			}
			if ca.Pool() == pool {
				t.Error("other CAs, but the same pool")
			}
			check := func(ca *CA) {
				t.Helper()
				if got := ca.Trusted(); len(got) != 2 || !got[0].Signs || got[1].Signs || !got[1].Cert.Equal(first) || got[0].Cert.Equal(first) {
					t.Fatalf("trusted are %v", got)
				}
				if !ca.Trusts(ID(first)) || !ca.Trusts(ID(ca.Cert())) || ca.Trusts("") {
					t.Error("Trusts tells otherwise")
				}
			}
			check(ca)
			loaded, err := Load(ca.dir, testNow, rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			check(loaded)
			if !bytes.Equal(loaded.Bundle(), ca.Bundle()) || !loaded.Cert().Equal(ca.Cert()) {
				t.Error("another CA was loaded than was made")
			}
			fresh := newClient(t, ca, "a", 1)
			newLeaf := readCertPEM(t, fresh.Cert)
			if newLeaf.CheckSignatureFrom(ca.Cert()) != nil || !bytes.Equal(fresh.CA, ca.Bundle()) {
				t.Error("a new certificate is not the new CA's")
			}
			both := ca.Bundle()
			for _, l := range []*x509.Certificate{oldLeaf, newLeaf} {
				if err := leaf(t, both, x509.ExtKeyUsageClientAuth, l); err != nil {
					t.Error(err)
				}
			}
			alone := EncodeCertificate(ca.Cert())
			chain := server(map[bool]string{true: "the CA changed"}[first.MaxPathLen != 0])
			for who, bundle := range map[string][]byte{"both": both, "the old CA": oldBundle, "the new CA": alone} {
				err := leaf(t, bundle, x509.ExtKeyUsageServerAuth, chain...)
				if who == "the new CA" && first.MaxPathLen == 0 {
					continue // the old one signs on, since it may not vouch
				}
				if err != nil {
					t.Errorf("who knows %s does not take the server's certificate: %v", who, err)
				}
			}
			if err := ca.Rotate(); !errors.Is(err, ErrRotating) {
				t.Errorf("rotated again: %v", err)
			}

			if err := ca.Retire(); err != nil {
				t.Fatal(err)
			}
			if got := ca.Trusted(); len(got) != 1 || ca.Trusts(ID(first)) || !bytes.Equal(ca.Bundle(), alone) {
				t.Errorf("trusted are %v", got)
			}
			if leaf(t, ca.Bundle(), x509.ExtKeyUsageClientAuth, oldLeaf) == nil {
				t.Error("a certificate of the retired CA is taken")
			}
			chain = server("the CA changed")
			if len(chain) != 1 || leaf(t, alone, x509.ExtKeyUsageServerAuth, chain...) != nil {
				t.Errorf("the server shows %d certificates", len(chain))
			}
			if got, want := filesIn(t, ca.dir), []string{"ca-" + ID(ca.Cert()) + ".key", "ca.crt"}; !slices.Equal(got, want) {
				t.Errorf("the folder has %v, want %v", got, want)
			}
			if err := ca.Retire(); !errors.Is(err, ErrNoElder) {
				t.Errorf("retired again: %v", err)
			}
			if loaded, err = Load(ca.dir, testNow, rand.Reader); err != nil || !loaded.Cert().Equal(ca.Cert()) {
				t.Errorf("loaded after it: %v", err)
			}
		})
	}
}

func readCertPEM(t *testing.T, text []byte) *x509.Certificate {
	t.Helper()
	cert, err := x509.ParseCertificate(decode(t, text))
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// A rotation that was cut off before ca.crt was replaced has changed nothing,
// and the next one removes what it left.
func TestRotateAfterACrash(t *testing.T) {
	ca := newCA(t)
	_, other, err := newKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ca-00112233445566aa.key", "ca-00112233445566aa.vouched.crt", ".ca.crt.tmp-1"} {
		if err := os.WriteFile(filepath.Join(ca.dir, name), other, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	again, err := Load(ca.dir, testNow, rand.Reader)
	if err != nil || len(again.Trusted()) != 1 || !again.Cert().Equal(ca.Cert()) {
		t.Fatalf("loaded %v", err)
	}
	if err := again.Rotate(); err != nil {
		t.Fatal(err)
	}
	id := "ca-" + ID(again.Cert())
	if got, want := filesIn(t, ca.dir), []string{".ca.crt.tmp-1", id + ".key", id + ".vouched.crt", "ca.crt", "ca.key"}; !slices.Equal(got, want) {
		t.Errorf("the folder has %v, want %v", got, want)
	}
}

// What can't be written changes nothing, in memory either.
func TestRotateThatFails(t *testing.T) {
	ca := newCA(t)
	before, aside := ca.Cert(), ca.dir+".aside"
	if err := os.Rename(ca.dir, aside); err != nil {
		t.Fatal(err)
	}
	if err := ca.Rotate(); err == nil {
		t.Fatal("rotated into no folder")
	}
	if !ca.Cert().Equal(before) || len(ca.Trusted()) != 1 {
		t.Error("another CA signs")
	}
	if err := os.Rename(aside, ca.dir); err != nil {
		t.Fatal(err)
	}
	if err := ca.Rotate(); err != nil {
		t.Error(err)
	}
}

// What is in the folder of a rotated CA must fit together.
func TestLoadRefusesARotatedCA(t *testing.T) {
	for name, harm := range map[string]func(t *testing.T, ca *CA, id string) error{
		"without its key":         func(_ *testing.T, ca *CA, id string) error { return os.Remove(filepath.Join(ca.dir, id+".key")) },
		"without the elder's key": func(_ *testing.T, ca *CA, _ string) error { return os.Remove(filepath.Join(ca.dir, "ca.key")) },
		"whose elder vouches for another": func(t *testing.T, ca *CA, id string) error {
			return os.WriteFile(filepath.Join(ca.dir, id+".vouched.crt"), newCA(t).Bundle(), 0o644)
		},
		"with three certificates": func(t *testing.T, ca *CA, _ string) error {
			return os.WriteFile(filepath.Join(ca.dir, "ca.crt"), slices.Concat(ca.Bundle(), newCA(t).Bundle()), 0o644)
		},
		"whose key others may read": func(_ *testing.T, ca *CA, id string) error { return os.Chmod(filepath.Join(ca.dir, id+".key"), 0o644) },
	} {
		ca := newCA(t)
		if err := ca.Rotate(); err != nil {
			t.Fatal(err)
		}
		if err := harm(t, ca, "ca-"+ID(ca.Cert())); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(ca.dir, testNow, rand.Reader); !mentions(err, "load CA: ", ca.dir) {
			t.Errorf("a CA %s: %v", name, err)
		}
	}
}

// The elder's end bounds what it vouches for, and from then on the server's
// certificate is the new CA's whatever the elder may do.
func TestEldersEnd(t *testing.T) {
	ca := withoutVouching(t)
	now := testTime
	ca.now = func() time.Time { return now }
	now = ca.Cert().NotAfter.Add(-time.Hour)
	if err := ca.Rotate(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	elder := ca.Trusted()[1].Cert
	for range 2 {
		if _, err := ca.EnsureServer(dir, []string{"localhost"}); err != nil {
			t.Fatal(err)
		}
		cert := readCert(t, filepath.Join(dir, "server.crt"))
		by := map[bool]*x509.Certificate{true: elder, false: ca.Cert()}[now.Before(elder.NotAfter)]
		if cert.CheckSignatureFrom(by) != nil || !cert.NotAfter.After(now) {
			t.Errorf("at %v the server's certificate is another's, or ends at %v", now, cert.NotAfter)
		}
		now = elder.NotAfter.Add(time.Second)
	}
}

// Certificates are signed while the CA is rotated and retired, each by one that
// is trusted.
func TestRotateWhileSigning(t *testing.T) {
	ca := newCA(t)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	_, csr, err := NewRequest(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := ca.SignClient(csr, "a", 1, 0); err != nil {
					t.Error(err)
				}
				if got := ca.Trusted(); len(got) == 0 || !got[0].Signs {
					t.Error("nobody signs")
				}
			}
		})
	}
	for range 5 {
		if err := errors.Join(ca.Rotate(), ca.Retire()); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	wg.Wait()
}
