package noded

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/gatehouse-ws/gatehouse/tlsfile"
)

// trust is by which CAs a node knows its authority: those of ca_file, until the
// authority has told of others. What it told is kept in a file which says on
// which ca_file that follows, so that one that somebody has changed counts again.
type trust struct {
	caFile string
	kept   string // the file; empty where nothing can be kept
	log    *slog.Logger

	mu      sync.Mutex // guards what follows
	told    []byte     // what the authority told last; nil while ca_file counts
	follows string     // the ca_file that told follows on
	certs   []*x509.Certificate
	pool    *x509.CertPool
	failed  bool // the files could not be read, and the log has heard of it
}

const (
	// trustFile keeps what the authority told, in the state folder, or without one
	// beside cert_file, which the node writes too.
	trustFile = "authority-ca.crt"
	// followsLine begins the line that names the ca_file.
	followsLine = "# follows the ca_file with the SHA-256 "
	// maxCAs bounds what an authority may tell; there are two while it rotates.
	maxCAs = 8
)

func newTrust(cfg *Config, log *slog.Logger) (*trust, error) {
	t := &trust{caFile: cfg.Credential.CAFile, log: log}
	switch {
	case cfg.State != "":
		t.kept = filepath.Join(cfg.State, trustFile)
	case cfg.Credential.Renew:
		t.kept = filepath.Join(filepath.Dir(cfg.Credential.CertFile), trustFile)
	}
	return t, t.read()
}

// current are the CAs to verify the authority by now. While the files can't be
// read they stay as they were.
func (t *trust) current() *x509.CertPool {
	t.mu.Lock()
	defer t.mu.Unlock()
	err := t.read()
	if err != nil && !t.failed {
		t.log.Warn("kept the CAs that were trusted: the files do not load", "error", err)
	}
	t.failed = err != nil
	return t.pool
}

// read puts into force what the files have.
func (t *trust) read() error {
	own, err := tlsfile.Read(t.caFile, 0)
	if err != nil {
		return err
	}
	follows := sumOf(own)
	told := t.told
	if t.follows != follows {
		told = nil // somebody has changed ca_file
	}
	if t.kept != "" {
		text, err := tlsfile.Read(t.kept, 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if line, rest, _ := bytes.Cut(text, []byte("\n")); string(line) == followsLine+follows {
			if _, err := tlsfile.Certificates(rest); err == nil { // else ca_file has to do
				told = rest
			}
		}
	}
	use, from := own, t.caFile
	if told != nil {
		use, from = told, t.kept
	}
	certs, err := tlsfile.Certificates(use)
	if err != nil {
		return fmt.Errorf("%s %w", from, err)
	}
	t.put(told, follows, certs)
	return nil
}

func (t *trust) put(told []byte, follows string, certs []*x509.Certificate) {
	if t.pool != nil && sameCerts(certs, t.certs) {
		t.told, t.follows = told, follows
		return
	}
	t.told, t.follows, t.certs, t.pool = told, follows, certs, x509.NewCertPool()
	for _, c := range certs {
		t.pool.AddCert(c)
	}
}

// learn takes what the authority tells, durably before it counts, and reports
// whether it is new.
func (t *trust) learn(caPEM []byte) (changed bool, err error) {
	certs, err := tlsfile.Certificates(caPEM)
	if err != nil {
		return false, fmt.Errorf("what the authority tells of its CAs %w", err)
	}
	if len(certs) > maxCAs {
		return false, fmt.Errorf("the authority tells of %d CAs, which is above %d", len(certs), maxCAs)
	}
	for _, c := range certs {
		if !c.IsCA {
			return false, fmt.Errorf("the authority tells of %s as of a CA, which it is not", c.Subject)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	own, err := tlsfile.Read(t.caFile, 0)
	if err != nil {
		return false, err
	}
	follows := sumOf(own)
	if t.follows == follows && sameCerts(certs, t.certs) {
		return false, nil
	}
	if t.kept != "" {
		if err := tlsfile.Write(t.kept, append([]byte(followsLine+follows+"\n"), caPEM...), 0o644); err != nil {
			return false, fmt.Errorf("keep the authority's CAs: %w", err)
		}
	}
	t.put(bytes.Clone(caPEM), follows, certs)
	return true, nil
}

// signs is the CA that signs new certificates, or nil while the authority has
// told of none.
func (t *trust) signs() *x509.Certificate {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.told == nil {
		return nil
	}
	return t.certs[0]
}

// ends is when the last CA ends.
func (t *trust) ends() (last time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.certs {
		if c.NotAfter.After(last) {
			last = c.NotAfter
		}
	}
	return last
}

func (t *trust) names() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var names []string
	for _, c := range t.certs {
		names = append(names, c.Subject.CommonName)
	}
	return strings.Join(names, ", ")
}

func sumOf(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

func sameCerts(a, b []*x509.Certificate) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !a[i].Equal(b[i]) {
			return false
		}
	}
	return true
}
