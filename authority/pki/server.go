package pki

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-ws/gatehouse/tlsfile"
)

// The files of a server's certificate.
const (
	serverCertFile = "server.crt"
	serverKeyFile  = "server.key"
)

// EnsureServer keeps in dir a server certificate (server.crt) for names, which
// are DNS names and IP addresses, and its key (server.key). What is there stays
// while it serves; else EnsureServer signs a new certificate for the same key
// and tells why. Call it at the start and once a day: a new one is made when a
// third of the old one's life is left, and TLS configurations of tlsfile take
// it up by themselves. Call it too when the CA has changed: while that is
// rotated, the certificate comes with one by which the elder vouches for the CA.
//
// The key is drawn once. To replace it, remove server.key.
func (ca *CA) EnsureServer(dir string, names []string) (reissued string, err error) {
	want, err := parseNames(names)
	if err != nil {
		return "", err
	}
	if err := makeFolder(filepath.Clean(dir)); err != nil {
		return "", err
	}
	certPath, keyPath := filepath.Join(dir, serverCertFile), filepath.Join(dir, serverKeyFile)
	key, err := ca.ensureKey(dir, keyPath)
	if err != nil {
		return "", err
	}
	by, vouched := ca.current.Load().forServers(ca.now())
	reissued, err = ca.whyReissue(certPath, key.Public(), want, by, vouched)
	if reissued == "" || err != nil {
		return "", err
	}
	cert, err := ca.issue(by, &x509.Certificate{
		Subject:     pkix.Name{CommonName: "Gatehouse server"},
		DNSNames:    want.dns,
		IPAddresses: want.ips,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, key.Public(), ServerLife)
	if err != nil {
		return "", fmt.Errorf("make %s: %w", certPath, err)
	}
	chain := EncodeCertificate(cert)
	if vouched != nil {
		chain = append(chain, EncodeCertificate(vouched)...)
	}
	if err := replaceFiles(dir, []file{{serverCertFile, 0o644, chain}}); err != nil {
		return "", fmt.Errorf("make %s: %w", certPath, err)
	}
	return reissued, nil
}

// forServers is who signs server certificates, and what comes with them. Where
// the elder may not vouch, it goes on signing these until it is retired, so that
// callers who do not know the new CA yet can reach the authority.
func (s *standing) forServers(now time.Time) (*signer, *x509.Certificate) {
	if s.elder != nil && s.vouched == nil && now.Before(s.elder.cert.NotAfter) {
		return s.elder, nil
	}
	return &s.signer, s.vouched
}

func (ca *CA) ensureKey(dir, path string) (crypto.Signer, error) {
	text, err := tlsfile.Read(path, 0o077)
	if errors.Is(err, fs.ErrNotExist) {
		key, text, err := newKey(ca.random)
		if err != nil {
			return nil, err
		}
		if err := replaceFiles(dir, []file{{serverKeyFile, 0o600, text}}); err != nil {
			return nil, fmt.Errorf("make %s: %w", path, err)
		}
		return key, nil
	}
	if err != nil {
		return nil, err
	}
	if block, _ := pem.Decode(text); block != nil {
		if key, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
			if signer, ok := key.(crypto.Signer); ok {
				return signer, nil
			}
		}
	}
	return nil, fmt.Errorf("%s is not a private key in PEM (PKCS #8): remove it to have a new one made", path)
}

// whyReissue returns nothing when the certificate at path will do.
func (ca *CA) whyReissue(path string, pub crypto.PublicKey, want names, by *signer, vouched *x509.Certificate) (string, error) {
	text, err := tlsfile.Read(path, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return "there was none", nil
	}
	if err != nil {
		return "", err
	}
	chain, err := tlsfile.Certificates(text)
	if err != nil {
		return "the old one was damaged", nil
	}
	cert := chain[0]
	id, err := keyID(pub)
	if err != nil {
		return "", err
	}
	now := ca.now()
	switch have := (names{cert.DNSNames, cert.IPAddresses}); {
	case !bytes.Equal(cert.SubjectKeyId, id):
		return "the key changed", nil
	case cert.CheckSignatureFrom(by.cert) != nil, vouched == nil && len(chain) > 1, vouched != nil && (len(chain) != 2 || !chain[1].Equal(vouched)):
		return "the CA changed", nil
	case !want.equal(have):
		return "the names changed", nil
	case now.Before(cert.NotBefore) || now.After(cert.NotAfter):
		return "the old one is not valid now", nil
	case cert.NotAfter.Sub(now) < cert.NotAfter.Sub(cert.NotBefore)/3 && cert.NotAfter.Before(by.cert.NotAfter):
		return "the old one ends on " + cert.NotAfter.Format(time.DateOnly), nil
	}
	return "", nil
}

// names is what a server may be called, in the order it was given.
type names struct {
	dns []string
	ips []net.IP
}

// CheckServerNames reports the first name that EnsureServer would not take.
func CheckServerNames(list []string) error {
	_, err := parseNames(list)
	return err
}

func parseNames(list []string) (names, error) {
	var n names
	for _, name := range list {
		if addr, err := netip.ParseAddr(name); err == nil && addr.Zone() == "" {
			n.ips = append(n.ips, addr.Unmap().AsSlice())
			continue
		}
		host := strings.ToLower(name)
		if !isHost(host) {
			return names{}, fmt.Errorf("server name %q is neither a DNS name nor an IP address; write authority.example.com or 192.0.2.1, without port", name)
		}
		n.dns = append(n.dns, host)
	}
	if len(list) == 0 {
		return names{}, errors.New("a server certificate needs at least one name")
	}
	return n, nil
}

// isHost reports whether s is a host name as clients compare it: RFC 1123
// section 2.1, no wildcard, no dot at the end.
func isHost(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return false
		}
	}
	// The last label of a name is no number (RFC 3696 section 2), so that
	// nothing looks like an address and is none.
	return strings.Trim(s[strings.LastIndexByte(s, '.')+1:], "0123456789") != ""
}

func (n names) equal(other names) bool { return slices.Equal(n.sorted(), other.sorted()) }

func (n names) sorted() []string {
	all := slices.Clone(n.dns)
	for _, ip := range n.ips {
		all = append(all, ip.String())
	}
	slices.Sort(all)
	return slices.Compact(all)
}
