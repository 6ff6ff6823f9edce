package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

var testTime = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func testNow() time.Time { return testTime }

func newCA(t testing.TB) *CA {
	t.Helper()
	ca, err := Create(filepath.Join(t.TempDir(), "pki"), testNow, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func newClient(t testing.TB, ca *CA, name string, generation uint32) Bundle {
	t.Helper()
	key, csr, err := NewRequest(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.SignClient(csr, name, generation, 0)
	if err != nil {
		t.Fatal(err)
	}
	return Bundle{Key: key, Cert: EncodeCertificate(cert), CA: ca.Bundle()}
}

func mode(t *testing.T, path string) fs.FileMode {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode().Perm()
}

func mentions(err error, words ...string) bool {
	if err == nil {
		return false
	}
	return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(err.Error(), w) })
}

func TestCreateThenLoad(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state", "pki")
	made, err := Create(dir, testNow, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]fs.FileMode{dir: 0o700, filepath.Join(dir, "ca.crt"): 0o644, filepath.Join(dir, "ca.key"): 0o600} {
		if got := mode(t, path); got != want {
			t.Errorf("%s has mode %o, want %o", path, got, want)
		}
	}
	loaded, err := Load(dir, testNow, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	onDisk, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil || !loaded.Cert().Equal(made.Cert()) || !bytes.Equal(loaded.Bundle(), onDisk) || !bytes.Equal(made.Bundle(), onDisk) {
		t.Errorf("loaded another CA than was made: %v", err)
	}
	leaf := newClient(t, loaded, "node-1", 1)
	pool := x509.NewCertPool()
	pool.AddCert(made.Cert())
	block, err := x509.ParseCertificate(decode(t, leaf.Cert))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := block.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: testTime, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
}

// The profile is rebuilt here from its description (RFC 5280), field by field.
func TestProfiles(t *testing.T) {
	ca := newCA(t)
	dir := t.TempDir()
	if _, err := ca.EnsureServer(dir, []string{"authority.example.com", "::1", "127.0.0.1"}); err != nil {
		t.Fatal(err)
	}
	server := readCert(t, filepath.Join(dir, "server.crt"))
	client, err := x509.ParseCertificate(decode(t, newClient(t, ca, "node-1", 7).Cert))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		cert  *x509.Certificate
		life  time.Duration
		usage x509.KeyUsage
		ext   []x509.ExtKeyUsage
	}{
		{"CA", ca.Cert(), 10 * 365 * 24 * time.Hour, x509.KeyUsageCertSign | x509.KeyUsageCRLSign, nil},
		{"server", server, 365 * 24 * time.Hour, x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}},
		{"client", client, 365 * 24 * time.Hour, x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}},
	} {
		isCA := c.name == "CA"
		key, ok := c.cert.PublicKey.(*ecdsa.PublicKey)
		if !ok || key.Curve != elliptic.P256() || c.cert.SignatureAlgorithm != x509.ECDSAWithSHA256 {
			t.Errorf("%s: %T, %v, want P-256 and SHA-256", c.name, c.cert.PublicKey, c.cert.SignatureAlgorithm)
		}
		if !c.cert.NotBefore.Equal(testTime.Add(-5*time.Minute)) || !c.cert.NotAfter.Equal(testTime.Add(c.life)) {
			t.Errorf("%s: valid %v to %v", c.name, c.cert.NotBefore, c.cert.NotAfter)
		}
		if c.cert.KeyUsage != c.usage || !slices.Equal(c.cert.ExtKeyUsage, c.ext) || len(c.cert.UnknownExtKeyUsage) > 0 {
			t.Errorf("%s: usage %b %v", c.name, c.cert.KeyUsage, c.cert.ExtKeyUsage)
		}
		if !c.cert.BasicConstraintsValid || c.cert.IsCA != isCA || isCA && c.cert.MaxPathLen != 1 {
			t.Errorf("%s: basic constraints %v, CA %v, path %d", c.name, c.cert.BasicConstraintsValid, c.cert.IsCA, c.cert.MaxPathLen)
		}
		if len(c.cert.SubjectKeyId) != 20 || !isCA && !bytes.Equal(c.cert.AuthorityKeyId, ca.Cert().SubjectKeyId) {
			t.Errorf("%s: key ids %x, %x", c.name, c.cert.SubjectKeyId, c.cert.AuthorityKeyId)
		}
		if bits := c.cert.SerialNumber.BitLen(); bits < 80 || bits > 128 {
			t.Errorf("%s: serial number of %d bits", c.name, bits)
		}
	}
	if !slices.Equal(server.DNSNames, []string{"authority.example.com"}) || len(server.IPAddresses) != 2 || len(server.URIs) > 0 {
		t.Errorf("server: names %v %v %v", server.DNSNames, server.IPAddresses, server.URIs)
	}
	if len(client.URIs) != 1 || client.URIs[0].String() != "gatehouse://credential/node-1/7" || len(client.DNSNames)+len(client.IPAddresses)+len(client.EmailAddresses) > 0 {
		t.Errorf("client: names %v %v %v", client.URIs, client.DNSNames, client.IPAddresses)
	}
}

func TestSerialsAreAll128Bits(t *testing.T) {
	random := bytes.NewReader(append(bytes.Repeat([]byte{0xff}, 16), bytes.Repeat([]byte{0}, 16)...))
	n, err := newSerial(random)
	if err != nil || hex.EncodeToString(n.Bytes()) != strings.Repeat("f", 32) {
		t.Errorf("%x, %v", n, err)
	}
	if n, err := newSerial(random); err == nil {
		t.Errorf("a random source of zeros gave serial %v", n)
	}
	if n, err := newSerial(random); err == nil {
		t.Errorf("an exhausted random source gave serial %v", n)
	}
}

func TestCreateOverwritesNothing(t *testing.T) {
	root := t.TempDir()
	made := newCA(t)
	full, occupied, plain, empty := filepath.Join(root, "full"), filepath.Join(root, "occupied"), filepath.Join(root, "plain"), filepath.Join(root, "empty")
	for _, dir := range []string{occupied, empty} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{filepath.Join(occupied, "notes"), plain} {
		if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	first, err := Create(full, testNow, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{full, full + "/", occupied, plain} {
		if _, err := Create(dir, testNow, rand.Reader); !mentions(err, filepath.Clean(dir), "name a folder that does not exist") {
			t.Errorf("%s: %v", dir, err)
		}
	}
	if again, err := Load(full, testNow, rand.Reader); err != nil || !again.Cert().Equal(first.Cert()) || again.Cert().Equal(made.Cert()) {
		t.Errorf("the CA that was there: %v", err)
	}
	for _, path := range []string{filepath.Join(occupied, "notes"), plain} {
		if text, err := os.ReadFile(path); string(text) != "mine" {
			t.Errorf("%s: %q, %v", path, text, err)
		}
	}
	if _, err := Create(empty, testNow, rand.Reader); err != nil || mode(t, empty) != 0o700 {
		t.Errorf("an empty folder: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(root, ".*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestLoadRefuses(t *testing.T) {
	other := newCA(t)
	otherKey, _, err := NewRequest(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		harm func(dir string) error
		now  time.Time
		want []string
	}{
		{"a key its group may read", func(d string) error { return os.Chmod(d+"/ca.key", 0o640) }, testTime, []string{"ca.key", "mode 0640", "chmod 600 "}},
		{"a key all may read", func(d string) error { return os.Chmod(d+"/ca.key", 0o604) }, testTime, []string{"ca.key", "chmod 600 "}},
		{"a key others may write", func(d string) error { return os.Chmod(d+"/ca.key", 0o602) }, testTime, []string{"ca.key", "chmod 600 "}},
		{"no key", func(d string) error { return os.Remove(d + "/ca.key") }, testTime, []string{"ca.key", "backup"}},
		{"no certificate", func(d string) error { return os.Remove(d + "/ca.crt") }, testTime, []string{"ca.crt", "gatehouse-authority init"}},
		{"another CA's certificate", func(d string) error { return os.WriteFile(d+"/ca.crt", other.Bundle(), 0o644) }, testTime, []string{"ca.crt", "ca.key", "backup"}},
		{"another key", func(d string) error { return os.WriteFile(d+"/ca.key", otherKey, 0o600) }, testTime, []string{"ca.crt", "ca.key", "backup"}},
		{"an empty key", func(d string) error { return os.Truncate(d+"/ca.key", 0) }, testTime, []string{"ca.key"}},
		{"half a certificate", func(d string) error { return os.Truncate(d+"/ca.crt", 200) }, testTime, []string{"ca.crt"}},
		{"an endless file", func(d string) error { return os.WriteFile(d+"/ca.crt", make([]byte, 64<<10+1), 0o644) }, testTime, []string{"ca.crt", "larger"}},
		{"a CA that has ended", func(string) error { return nil }, testTime.Add(CALife + time.Second), []string{"ca.crt", "ended on 2036-11-20"}},
		{"a clock that is behind", func(string) error { return nil }, testTime.Add(-time.Hour), []string{"ca.crt", "clock"}},
		{"a leaf in place of a CA", func(d string) error {
			b := newClient(t, other, "x", 1)
			return errors.Join(os.WriteFile(d+"/ca.crt", b.Cert, 0o644), os.WriteFile(d+"/ca.key", b.Key, 0o600))
		}, testTime, []string{"ca.crt", "not the certificate of a CA"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "pki")
			if _, err := Create(dir, testNow, rand.Reader); err != nil {
				t.Fatal(err)
			}
			if err := c.harm(dir); err != nil {
				t.Fatal(err)
			}
			_, err := Load(dir, func() time.Time { return c.now }, rand.Reader)
			if !mentions(err, append(c.want, dir)...) {
				t.Errorf("%v, want mention of %v", err, c.want)
			}
		})
	}
}

func TestServerCertificateIsReissued(t *testing.T) {
	dir, now := t.TempDir(), testTime
	ca, err := Create(filepath.Join(t.TempDir(), "pki"), func() time.Time { return now }, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	second := newCA(t)
	second.now = ca.now
	names := []string{"Localhost", "127.0.0.1", "::1", "::ffff:10.0.0.1"}
	step := func(what, want string) {
		t.Helper()
		got, err := ca.EnsureServer(dir, names)
		if err != nil || got != want {
			t.Errorf("%s: reissued because %q, %v; want %q", what, got, err, want)
		}
	}
	step("nothing there", "there was none")
	if got := mode(t, dir+"/server.key"); got != 0o600 {
		t.Errorf("server.key has mode %o", got)
	}
	key, err := os.ReadFile(dir + "/server.key")
	if err != nil {
		t.Fatal(err)
	}
	step("at once again", "")
	names = []string{"::1", "127.0.0.1", "localhost", "10.0.0.1", "localhost"}
	step("the same names in another order", "")
	names = append(names, "node.example.com")
	step("one name more", "the names changed")
	names = names[:1]
	step("names less", "the names changed")
	now = testTime.Add(ServerLife - ServerLife/3 - time.Hour)
	step("just before the last third", "")
	now = testTime.Add(ServerLife - ServerLife/3 + time.Hour)
	step("in the last third", "the old one ends on 2027-11-23")
	step("at once again", "")
	now = now.Add(2 * ServerLife)
	step("long after its end", "the old one is not valid now")
	now = testTime
	step("the clock was set back", "the old one is not valid now")
	if err := os.WriteFile(dir+"/server.crt", []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	step("damaged", "the old one was damaged")
	if kept, err := os.ReadFile(dir + "/server.key"); !bytes.Equal(kept, key) {
		t.Errorf("the key was replaced: %v", err)
	}
	if err := os.Remove(dir + "/server.key"); err != nil {
		t.Fatal(err)
	}
	step("the key is gone", "the key changed")
	ca = second
	step("another CA", "the CA changed")
	now = testTime.Add(CALife - 24*time.Hour)
	step("shortly before the CA's end", "the old one is not valid now")
	if got := readCert(t, dir+"/server.crt").NotAfter; !got.Equal(ca.Cert().NotAfter) {
		t.Errorf("the certificate ends %v, the CA %v", got, ca.Cert().NotAfter)
	}
	now = ca.Cert().NotAfter.Add(-time.Minute)
	step("a minute before the CA's end, when a new one would live no longer", "")
}

func TestEnsureServerRefuses(t *testing.T) {
	ca := newCA(t)
	for _, names := range [][]string{nil, {""}, {"*.example.com"}, {"a..b"}, {"example.com."}, {"-a"}, {"a-"}, {"a_b"}, {"host:443"}, {"[::1]"}, {"fe80::1%eth0"}, {"10.0.0.256"}, {"a b"}, {"münchen.de"}, {strings.Repeat("a", 64)}, {strings.Repeat("a.", 127) + "a"}} {
		dir := t.TempDir()
		if why, err := ca.EnsureServer(dir, names); err == nil {
			t.Errorf("%q: made a certificate: %s", names, why)
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/server.key", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ca.EnsureServer(dir, []string{"a"}); !mentions(err, "server.key", "remove it") {
		t.Error(err)
	}
	if err := os.Chmod(dir+"/server.key", 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ca.EnsureServer(dir, []string{"a"}); !mentions(err, "server.key", "chmod 600") {
		t.Error(err)
	}
}

func TestSignClientChecksKeys(t *testing.T) {
	ca := newCA(t)
	p224, _ := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	p256, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	p521, _ := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	rsa2048, _ := rsa.GenerateKey(rand.Reader, 2048)
	for _, c := range []struct {
		name string
		key  crypto.Signer
		ok   bool
	}{
		{"P-224", p224, false}, {"P-256", p256, true}, {"P-384", p384, true}, {"P-521", p521, false}, {"Ed25519", ed, true}, {"RSA 2048", rsa2048, true},
	} {
		csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, c.key)
		if err != nil {
			t.Fatal(c.name, err)
		}
		cert, err := ca.SignClient(csr, "a", 1, 0)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrBadRequest) {
			t.Errorf("%s: %v", c.name, err)
		}
		if c.ok && !cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool }).Equal(c.key.Public()) {
			t.Errorf("%s: another key was signed", c.name)
		}
	}
	for bits, ok := range map[uint]bool{1024: false, 2047: false, 2048: true, 8192: true, 8193: false} {
		if err := checkKey(&rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), bits-1), E: 65537}); (err == nil) != ok {
			t.Errorf("RSA of %d bits: %v", bits, err)
		}
	}
}

func TestSignClientTakesOnlyTheKey(t *testing.T) {
	ca := newCA(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	evil, _ := url.Parse("gatehouse://credential/root/1")
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: ca.Cert().Subject, DNSNames: []string{"authority.example.com"}, IPAddresses: []net.IP{{127, 0, 0, 1}}, URIs: []*url.URL{evil}, EmailAddresses: []string{"a@b"},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.SignClient(csr, "viewer", 4294967295, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	name, generation, err := CredentialOf(cert)
	if err != nil || name != "viewer" || generation != 4294967295 {
		t.Errorf("%s %d %v", name, generation, err)
	}
	if cert.Subject.String() != "CN=viewer" || len(cert.DNSNames)+len(cert.IPAddresses)+len(cert.EmailAddresses) > 0 || !cert.NotAfter.Equal(testTime.Add(time.Hour)) {
		t.Errorf("taken from the request: %v %v", cert.Subject, cert.DNSNames)
	}
}

func TestSignClientRefuses(t *testing.T) {
	ca := newCA(t)
	_, csr, err := NewRequest(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	forged := bytes.Clone(csr)
	forged[len(forged)-1] ^= 1
	for _, c := range []struct {
		name, credential string
		csr              []byte
		life             time.Duration
		bad              bool
	}{
		{"no request", "a", nil, 0, true},
		{"a forged signature", "a", forged, 0, true},
		{"a byte too many", "a", append(bytes.Clone(csr), 0), 0, true},
		{"a request too large", "a", append(bytes.Clone(csr), make([]byte, maxRequestBytes)...), 0, true},
		{"no name", "", csr, 0, false},
		{"a name of 65", strings.Repeat("a", 65), csr, 0, false},
		{"a name with a slash", "a/1", csr, 0, false},
		{"a negative life", "a", csr, -1, false},
	} {
		if cert, err := ca.SignClient(c.csr, c.credential, 1, c.life); err == nil || errors.Is(err, ErrBadRequest) != c.bad {
			t.Errorf("%s: %v, %v", c.name, cert, err)
		}
	}
	if cert, err := ca.SignClient(csr, "a", 1, 2*CALife); err != nil || !cert.NotAfter.Equal(ca.Cert().NotAfter) {
		t.Errorf("a client certificate outlives its CA: %v", err)
	}
}

func TestCheckName(t *testing.T) {
	for name, ok := range map[string]bool{
		"a": true, "0": true, "node-1.eu_west": true, strings.Repeat("a", 64): true, "a..": true,
		"": false, strings.Repeat("a", 65): false, ".a": false, "-a": false, "_a": false, "A": false, "a b": false, "a/b": false, "a%41": false, "ä": false, "a\n": false, "a\x00": false,
	} {
		if err := CheckName(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// certWith makes a certificate of the given alternative names without going
// through net/url, which would tidy them.
func certWith(t testing.TB, names ...asn1.RawValue) *x509.Certificate {
	t.Helper()
	value, err := asn1.Marshal(names)
	if err != nil {
		t.Fatal(err)
	}
	return certWithSAN(value)
}

func uriName(s string) asn1.RawValue {
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(s)}
}

func TestCredentialOfIsStrict(t *testing.T) {
	const good = "gatehouse://credential/node-1/7"
	if name, generation, err := CredentialOf(certWith(t, uriName(good))); name != "node-1" || generation != 7 || err != nil {
		t.Fatalf("%s: %s %d %v", good, name, generation, err)
	}
	for _, uri := range []string{
		"", "gatehouse:", "gatehouse://credential/", "gatehouse://credential/node-1", "gatehouse://credential/node-1/", "gatehouse://credential//7",
		"Gatehouse://credential/node-1/7", "https://credential/node-1/7", "gatehouse://Credential/node-1/7", "gatehouse://token/node-1/7", "gatehouse:///node-1/7",
		"gatehouse://x@credential/node-1/7", "gatehouse://credential:1/node-1/7", "gatehouse://credential:/node-1/7", "gatehouse://credential./node-1/7",
		good + "?", good + "?a", good + "#", good + "#a", good + "/", good + " ", good + "\x00", good + "\n", " " + good,
		"gatehouse://credential/node%2d1/7", "gatehouse://credential/node-1/%37", "gatehouse://credential/./node-1/7", "gatehouse://credential/Node-1/7",
		"gatehouse://credential/node-1/07", "gatehouse://credential/node-1/00", "gatehouse://credential/node-1/+7", "gatehouse://credential/node-1/-7", "gatehouse://credential/node-1/7_0",
		"gatehouse://credential/node-1/4294967296", "gatehouse://credential/node-1/0x7", "gatehouse://credential/node-1/٧", "gatehouse://credential/node-1/7/8", "gatehouse://credential/" + strings.Repeat("a", 65) + "/7",
	} {
		if name, generation, err := CredentialOf(certWith(t, uriName(uri))); !errors.Is(err, ErrNotCredential) {
			t.Errorf("%q is taken for %s %d (%v)", uri, name, generation, err)
		}
	}
	dns := asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 2, Bytes: []byte(good)}
	for name, cert := range map[string]*x509.Certificate{
		"no alternative names":         {},
		"an empty list":                certWith(t),
		"two URIs":                     certWith(t, uriName(good), uriName(good)),
		"a URI of another kind beside": certWith(t, uriName(good), uriName("spiffe://example.org/x")),
		"a DNS name beside":            certWith(t, dns, uriName(good)),
		"a DNS name that looks so":     certWith(t, dns),
		"bytes behind the list":        certWithSAN(append(certWith(t, uriName(good)).Extensions[0].Value, 0)),
		"a compound URI":               certWith(t, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, IsCompound: true, Bytes: []byte(good)}),
		"two extensions":               {Extensions: append(certWith(t, uriName(good)).Extensions, certWith(t, uriName(good)).Extensions...)},
		"no list":                      certWithSAN([]byte{4, 0}),
	} {
		if got, _, err := CredentialOf(cert); !errors.Is(err, ErrNotCredential) {
			t.Errorf("%s: taken for %s (%v)", name, got, err)
		}
	}
}

func certWithSAN(value []byte) *x509.Certificate {
	return &x509.Certificate{Extensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: value}}}
}

func decode(t testing.TB, text []byte) []byte {
	t.Helper()
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatalf("%q is not PEM", text)
	}
	return block.Bytes
}

func readCert(t testing.TB, path string) *x509.Certificate {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(decode(t, text))
	if err != nil {
		t.Fatal(err)
	}
	return cert
}
