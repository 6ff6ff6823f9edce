package pki

import (
	"crypto/rand"
	"crypto/x509"
	"errors"
	"strconv"
	"testing"
)

// FuzzParseURI proves that a URI which parses is the one URI of its credential.
func FuzzParseURI(f *testing.F) {
	for _, seed := range []string{
		"gatehouse://credential/node-1/7", "gatehouse://credential/a/0", "gatehouse://credential/a/4294967295", "gatehouse://credential/a/4294967296",
		"gatehouse://credential/a/00", "gatehouse://credential/a/+1", "gatehouse://credential/a/1#", "gatehouse://credential/.a/1", "gatehouse://credential//1", "",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, uri string) {
		name, generation, ok := parseURI(uri)
		if back := uriPrefix + name + "/" + strconv.FormatUint(uint64(generation), 10); ok && back != uri {
			t.Fatalf("%q parses as the credential of %q", uri, back)
		}
	})
}

// FuzzCredentialOf proves that no alternative names make it panic, and that
// what it takes, a certificate signed for the same credential carries too.
func FuzzCredentialOf(f *testing.F) {
	ca := newCA(f)
	_, csr, err := NewRequest(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	signed, err := ca.SignClient(csr, "node-1", 7, 0)
	if err != nil {
		f.Fatal(err)
	}
	for _, ext := range signed.Extensions {
		f.Add(ext.Value)
	}
	f.Add(certWith(f, uriName("gatehouse://credential/a/1"), uriName("gatehouse://credential/a/1")).Extensions[0].Value)
	f.Add([]byte{0x30, 0x80, 0, 0})
	f.Fuzz(func(t *testing.T, san []byte) {
		name, generation, err := CredentialOf(certWithSAN(san))
		if err != nil {
			if !errors.Is(err, ErrNotCredential) {
				t.Fatal(err)
			}
			return
		}
		want := certWith(t, uriName(uriPrefix+name+"/"+strconv.FormatUint(uint64(generation), 10))).Extensions[0].Value
		if string(want) != string(san) {
			t.Fatalf("% x is taken for %s %d, which is written % x", san, name, generation, want)
		}
	})
}

// FuzzSignClient proves that no request makes signing panic, and that what is
// signed is what was asked for and nothing of the request's own.
func FuzzSignClient(f *testing.F) {
	ca := newCA(f)
	_, csr, err := NewRequest(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(csr, "node-1", uint32(1))
	f.Add(csr[:len(csr)-1], "a", uint32(0))
	f.Add([]byte{0x30, 0}, "..", uint32(4294967295))
	f.Fuzz(func(t *testing.T, csr []byte, name string, generation uint32) {
		cert, err := ca.SignClient(csr, name, generation, 0)
		if err != nil {
			return
		}
		gotName, gotGeneration, err := CredentialOf(cert)
		if err != nil || gotName != name || gotGeneration != generation || len(cert.ExtKeyUsage) != 1 || cert.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth || cert.IsCA {
			t.Fatalf("%q %d was signed as %q %d, %v", name, generation, gotName, gotGeneration, err)
		}
	})
}
