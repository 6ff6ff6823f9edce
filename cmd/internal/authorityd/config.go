// Package authorityd runs an authority from its state folder: what the
// gatehouse-authority program does, and gatehouse dev in one process with the
// rest.
package authorityd

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/gatehouse-ws/gatehouse/authority"
	"github.com/gatehouse-ws/gatehouse/authority/pki"
	"github.com/gatehouse-ws/gatehouse/cmd/internal/ops"
	"github.com/gatehouse-ws/gatehouse/cmd/internal/tracing"
)

// Config is the configuration of gatehouse-authority.
type Config struct {
	Listen      string        `yaml:"listen" help:"host:port of the gRPC listener, for issuers, nodes and admins"`
	Admin       string        `yaml:"admin" help:"host:port of /livez, /readyz and /metrics, plain HTTP; keep it off public networks, or empty for none"`
	State       string        `yaml:"state" path:"true" help:"the folder of the CA, certificates, credentials and the store; nobody else may read it"`
	ServerNames []string      `yaml:"server_names" help:"DNS names and IP addresses by which callers reach the authority; its certificate is for these"`
	Reflection  bool          `yaml:"reflection" help:"let callers list the services, as grpcurl does"`
	AuditFile   string        `yaml:"audit_file" path:"true" help:"the audit trail, appended to; audit.jsonl in the state folder where empty"`
	Log         ops.LogConfig `yaml:"log"`

	authority.Config `yaml:",inline"`
}

// DefaultConfig listens on loopback.
func DefaultConfig() Config {
	return Config{
		Listen:      "127.0.0.1:8440",
		Admin:       "127.0.0.1:8441",
		State:       "/var/lib/gatehouse/authority",
		ServerNames: []string{"localhost", "127.0.0.1", "::1"},
		Log:         ops.DefaultLog(),
		Config:      authority.DefaultConfig(),
	}
}

// Validate tells all that is wrong, each with its key and the fix.
func (c *Config) Validate() error {
	problems := []error{c.Log.Validate(), c.Config.Validate()}
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		problems = append(problems, fmt.Errorf("listen: %q is not host:port, such as 0.0.0.0:8440", c.Listen))
	}
	if _, _, err := net.SplitHostPort(c.Admin); err != nil && c.Admin != "" {
		problems = append(problems, fmt.Errorf("admin: %q is not host:port, such as 127.0.0.1:8441", c.Admin))
	}
	if c.State == "" {
		problems = append(problems, errors.New("state: required, a folder"))
	}
	if len(c.ServerNames) == 0 {
		problems = append(problems, errors.New("server_names: required, at least one"))
	}
	return errors.Join(problems...)
}

// Check tells what a start would find wrong with the OTEL_* variables, the
// names, the CA, and the store, which it does not open. It makes nothing.
func Check(cfg Config) error {
	problems := []error{tracing.Check()}
	if err := pki.CheckServerNames(cfg.ServerNames); err != nil {
		problems = append(problems, fmt.Errorf("server_names: %w", err))
	}
	if _, err := os.Stat(cfg.caDir()); err == nil {
		if _, err := os.Lstat(cfg.storeAt()); errors.Is(err, os.ErrNotExist) {
			problems = append(problems, fmt.Errorf("state: %s: %w", cfg.storeAt(), ErrStoreMissing))
		}
		if _, err := pki.Load(cfg.caDir(), time.Now, rand.Reader); err != nil {
			problems = append(problems, fmt.Errorf("state: %w", err))
		}
	}
	return errors.Join(problems...)
}

// Reach is the address to tell callers.
func (c *Config) Reach() string { return c.reach(c.ServerNames[0]) }

// Local is the address by which this machine reaches the authority.
func (c *Config) Local() string { return c.reach("localhost") }

// reach puts host where the listener is on all addresses.
func (c *Config) reach(host string) string {
	own, port, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return c.Listen
	}
	if ip, err := netip.ParseAddr(own); own != "" && (err != nil || !ip.IsUnspecified()) {
		host = own
	}
	return net.JoinHostPort(host, port)
}

// Files of the state folder.
func (c *Config) caDir() string   { return filepath.Join(c.State, "ca") }
func (c *Config) tlsDir() string  { return filepath.Join(c.State, "tls") }
func (c *Config) storeAt() string { return filepath.Join(c.State, "gatehouse.db") }

// systemAt tells which installation this is when the store can't any more.
func (c *Config) systemAt() string { return filepath.Join(c.State, "system-id") }

// CredentialDir is where init and enroll put what a credential calls with,
// unless told otherwise.
func (c *Config) CredentialDir(name string) string {
	return filepath.Join(c.State, "credentials", name)
}

func (c *Config) auditAt() string {
	if c.AuditFile != "" {
		return c.AuditFile
	}
	return filepath.Join(c.State, "audit.jsonl")
}
