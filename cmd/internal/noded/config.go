// Package noded runs a node from its configuration: what the gatehouse-node
// program does, and gatehouse dev in one process with the rest.
package noded

import (
	"errors"
	"fmt"
	"net"

	"github.com/gatehouse-ws/gatehouse/cmd/internal/ops"
	"github.com/gatehouse-ws/gatehouse/tlsfile"
	"github.com/gatehouse-ws/gatehouse/wsnode"
)

// Config is the configuration of gatehouse-node.
type Config struct {
	Listeners  []Listener       `yaml:"listeners" help:"where clients connect"`
	AllowPlain bool             `yaml:"allow_plain" help:"permit listeners without TLS: tokens and messages then cross the network for all to read"`
	Admin      string           `yaml:"admin" help:"host:port of /livez, /readyz and /metrics, plain HTTP; keep it off public networks, or empty for none"`
	State      string           `yaml:"state" path:"true" help:"a folder of this node alone, so that a restarted node can tell the authority that the one before is dead; empty for none"`
	Credential CredentialConfig `yaml:"credential"`
	Schemas    string           `yaml:"schemas" path:"true" help:"the folder of the routes' schema files"`
	Handler    string           `yaml:"handler" help:"where messages go: echo sends each back; programs that embed the node bring their own"`
	Log        ops.LogConfig    `yaml:"log"`
	Traces     TracesConfig     `yaml:"traces"`

	wsnode.Config `yaml:",inline"`
}

// Listener is an address that clients connect to.
type Listener struct {
	Address            string             `yaml:"address" help:"host:port"`
	CertFile           string             `yaml:"cert_file" path:"true" help:"the certificate chain in PEM; read again when it changes"`
	KeyFile            string             `yaml:"key_file" path:"true" help:"its private key in PEM"`
	KeyExchange        []string           `yaml:"key_exchange" help:"what a key may be agreed on by: some of X25519MLKEM768, SecP256r1MLKEM768, SecP384r1MLKEM1024, X25519, P-256, P-384 and P-521, in any order; empty for all"`
	ClientCertificates ClientCertificates `yaml:"client_certificates" help:"whether clients are asked for a certificate, to which their tokens may be bound: off, optional, or require, which fails the TLS handshake without one; empty is off"`
	ClientCA           string             `yaml:"client_ca" path:"true" help:"the CAs of those certificates, in PEM, 64 KiB at most; one that is of none fails the handshake"`
	Plain              bool               `yaml:"plain" help:"ws without TLS; needs allow_plain"`
}

// ClientCertificates says what a listener wants of its clients.
type ClientCertificates string

// What a listener may want. Empty is ClientCertificatesOff.
const (
	ClientCertificatesOff      ClientCertificates = "off"
	ClientCertificatesOptional ClientCertificates = "optional"
	ClientCertificatesRequire  ClientCertificates = "require"
)

// asks reports whether clients are asked for a certificate.
func (c ClientCertificates) asks() bool {
	return c == ClientCertificatesOptional || c == ClientCertificatesRequire
}

// CredentialConfig is what the node calls its authority with.
type CredentialConfig struct {
	CAFile   string `yaml:"ca_file" path:"true" help:"the CAs of the authority, in PEM; others that it tells of since are kept in the state folder, and count until this file is changed"`
	CertFile string `yaml:"cert_file" path:"true" help:"the node's certificate, in PEM; read again when it changes"`
	KeyFile  string `yaml:"key_file" path:"true" help:"its private key, in PEM"`
	Renew    bool   `yaml:"renew" help:"have the authority renew the certificate when two thirds of its life are over, and write it to cert_file"`
}

// DefaultConfig has no listener, route or credential.
func DefaultConfig() Config {
	c := Config{Admin: "127.0.0.1:8442", Handler: "echo", Schemas: ".", Log: ops.DefaultLog(), Config: wsnode.DefaultConfig(), Credential: CredentialConfig{Renew: true}}
	c.Authority.Address = "127.0.0.1:8440"
	return c
}

// Validate tells all that is wrong, each with its key and the fix.
func (c *Config) Validate() error {
	problems := []error{c.Log.Validate(), c.Traces.validate(), c.Config.Validate()}
	if len(c.Listeners) == 0 {
		problems = append(problems, errors.New("listeners: required, at least one"))
	}
	for i, l := range c.Listeners {
		key := fmt.Sprintf("listeners[%d]", i)
		if _, _, err := net.SplitHostPort(l.Address); err != nil {
			problems = append(problems, fmt.Errorf("%s.address: %q is not host:port, such as 0.0.0.0:8443", key, l.Address))
		}
		if _, err := tlsfile.KeyExchange(l.KeyExchange); err != nil {
			problems = append(problems, fmt.Errorf("%s.key_exchange: %w", key, err))
		}
		switch asks := l.ClientCertificates.asks(); {
		case !asks && l.ClientCertificates != "" && l.ClientCertificates != ClientCertificatesOff:
			problems = append(problems, fmt.Errorf("%s.client_certificates: %q is none of off, optional and require", key, string(l.ClientCertificates)))
		case asks && l.Plain:
			problems = append(problems, fmt.Errorf("%s.client_certificates: a plain listener has no TLS to show them in: leave it out, or plain", key))
		case asks && l.ClientCA == "":
			problems = append(problems, fmt.Errorf("%s.client_ca: required with client_certificates: %s", key, l.ClientCertificates))
		case !asks && l.ClientCA != "":
			problems = append(problems, fmt.Errorf("%s.client_ca: nobody is asked for a certificate: say client_certificates: optional, or require", key))
		}
		switch {
		case l.Plain && len(l.KeyExchange) > 0:
			problems = append(problems, fmt.Errorf("%s.key_exchange: a plain listener has no TLS to exchange keys for: leave it out, or plain", key))
		case l.Plain && (l.CertFile != "" || l.KeyFile != ""):
			problems = append(problems, fmt.Errorf("%s.plain: true contradicts cert_file and key_file: leave out one or the others", key))
		case l.Plain && !c.AllowPlain:
			problems = append(problems, fmt.Errorf("%s.plain: tokens would cross the network for all to read; if that is meant, say allow_plain: true", key))
		case !l.Plain && (l.CertFile == "" || l.KeyFile == ""):
			problems = append(problems, fmt.Errorf("%s.cert_file: required with key_file, or say plain: true", key))
		}
	}
	for _, f := range []struct{ key, value string }{
		{"ca_file", c.Credential.CAFile}, {"cert_file", c.Credential.CertFile}, {"key_file", c.Credential.KeyFile},
	} {
		if f.value == "" {
			problems = append(problems, fmt.Errorf("credential.%s: required; gatehouse-authority enroll node makes it", f.key))
		}
	}
	if c.Handler != "echo" {
		problems = append(problems, fmt.Errorf("handler: %q is not echo, the only one built in", c.Handler))
	}
	return errors.Join(problems...)
}
