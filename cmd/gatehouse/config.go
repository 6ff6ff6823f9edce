package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/gatehouse-ws/gatehouse/cmd/internal/settings"
)

// config is how the CLI reaches its authority.
type config struct {
	Address     string        `yaml:"address" help:"host:port of the authority"`
	CAFile      string        `yaml:"ca_file" path:"true" help:"the CA of the authority, in PEM; no other is trusted"`
	CertFile    string        `yaml:"cert_file" path:"true" help:"the certificate to call with, in PEM"`
	KeyFile     string        `yaml:"key_file" path:"true" help:"its private key, in PEM"`
	APIKeyFile  string        `yaml:"api_key_file" path:"true" help:"a file with the API key to call with, instead of a certificate"`
	ServerName  string        `yaml:"server_name" help:"the name in the authority's certificate, where it is not the address's"`
	CallTimeout time.Duration `yaml:"call_timeout" help:"how long one call may take"`
}

func defaultConfig() config { return config{CallTimeout: 10 * time.Second} }

// serverVariables are the variables of gatehouse-authority and gatehouse-node,
// which the CLI finds in its environment when it runs in their containers.
var serverVariables = []string{
	"GATEHOUSE_TEST_*", "GATEHOUSE_LOG_*", "GATEHOUSE_LISTEN", "GATEHOUSE_ADMIN", "GATEHOUSE_STATE",
	"GATEHOUSE_REFLECTION", "GATEHOUSE_AUDIT_FILE", "GATEHOUSE_TOKENS_*", "GATEHOUSE_SESSIONS_*",
	"GATEHOUSE_FLEET_*", "GATEHOUSE_EDGE_KEYS_*", "GATEHOUSE_ALLOW_PLAIN", "GATEHOUSE_CREDENTIAL_*",
	"GATEHOUSE_SCHEMAS", "GATEHOUSE_HANDLER", "GATEHOUSE_AUTHORITY_*", "GATEHOUSE_LIMITS_*", "GATEHOUSE_SOCKETS_*",
}

// defaultConfigFile is where the settings are when nobody names a file; empty
// if the user has no such folder.
func defaultConfigFile() string {
	dir, err := os.UserConfigDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "gatehouse", "cli.yaml")
}

// loaded is a configuration with where it came from.
type loaded struct {
	config
	origins settings.Origins
	file    string // that was read; empty for none
	fromDev string // the file of gatehouse dev, if that was read
}

// load reads the settings and checks them. If nothing names an authority or a
// credential, it looks for a running gatehouse dev.
func (c *cli) load() (*loaded, error) {
	l, err := c.read(c.source)
	if err != nil {
		return nil, err
	}
	if _, namedBy := c.source.File(); namedBy == "" && !l.namesAuthority() {
		if dev, err := c.readDev(); dev != nil || err != nil {
			return dev, err
		}
	}
	return l, nil
}

// readDev reads the file of gatehouse dev; nil if there is none.
func (c *cli) readDev() (*loaded, error) {
	dir, err := defaultStateDir()
	if err != nil {
		return nil, nil // no home, no dev
	}
	src := c.source
	src.Path = filepath.Join(dir, devSettings)
	if _, err := os.Stat(src.Path); err != nil {
		return nil, nil
	}
	l, err := c.read(src)
	if err == nil {
		l.fromDev = src.Path
	}
	return l, err
}

func (c *cli) read(src settings.Source) (*loaded, error) {
	cfg, origins, err := settings.Load(defaultConfig(), src)
	if err != nil {
		return nil, usage("gatehouse help connection lists the settings", "%w", err)
	}
	l := &loaded{config: cfg, origins: origins}
	if path, _ := src.File(); path != "" {
		if _, err := os.Stat(path); err == nil {
			l.file = path
		}
	}
	return l, nil
}

// namesAuthority reports whether anything says where to call, or with what.
func (l *loaded) namesAuthority() bool {
	return l.Address != "" || l.CAFile != "" || l.CertFile != "" || l.KeyFile != "" || l.APIKeyFile != ""
}

func (l *loaded) files() map[string]*string {
	return map[string]*string{"ca_file": &l.CAFile, "cert_file": &l.CertFile, "key_file": &l.KeyFile, "api_key_file": &l.APIKeyFile}
}

// check tells all that is wrong, each with where it was set.
func (l *loaded) check() error {
	if !l.namesAuthority() {
		return usage("start one with gatehouse dev, or name one with --address, --ca-file and a credential (gatehouse help connection)",
			"no authority is named, and no gatehouse dev was found")
	}
	var problems []error
	bad := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if l.Address == "" {
		bad("address: required, host:port of the authority")
	} else if host, port, err := net.SplitHostPort(l.Address); err != nil || host == "" || port == "" {
		bad("address: %q is not host:port, such as localhost:8440", l.Address)
	}
	if l.CAFile == "" {
		bad("ca_file: required, the ca.crt that came with the credential")
	}
	switch {
	case l.APIKeyFile != "" && (l.CertFile != "" || l.KeyFile != ""):
		bad("api_key_file: contradicts cert_file and key_file: a call shows one credential")
	case l.APIKeyFile == "" && l.CertFile == "" && l.KeyFile == "":
		bad("cert_file: required with key_file, or api_key_file")
	case l.CertFile == "" && l.KeyFile != "":
		bad("cert_file: required with key_file")
	case l.KeyFile == "" && l.CertFile != "":
		bad("key_file: required with cert_file")
	}
	if l.CallTimeout <= 0 {
		bad("call_timeout: %v is not above 0", l.CallTimeout)
	}
	if err := l.origins.Locate(errors.Join(problems...)); err != nil {
		return usage("gatehouse help connection lists the settings", "%w", err)
	}
	return nil
}

func (c *cli) configCommand() *cobra.Command {
	cmd := verbs("config", "Check or print how the CLI reaches its authority")
	cmd.AddCommand(&cobra.Command{
		Use: "check", Short: "Load settings and credential as a call does, and report every problem",
		Example: "  gatehouse config check\n  gatehouse config check --config ./cli.yaml",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			cl, err := c.connect()
			if err != nil {
				return err
			}
			defer cl.close()
			if c.format == formatJSON {
				return c.printValue(map[string]string{"address": cl.settings.Address, "credential": cl.identity(), "file": cl.settings.file})
			}
			return c.printf("ok: %s with %s\n", cl.settings.Address, cl.identity())
		},
	}, &cobra.Command{
		Use: "print", Short: "Print the settings in force, and where each was set",
		Example: "  gatehouse config print\n  gatehouse config print -o json | jq -r .address.value",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			l, err := c.load()
			if err != nil {
				return err
			}
			if c.format == formatJSON {
				return c.printValue(l.describe())
			}
			return settings.Print(c.stdout, l.config, settings.PrintOptions{Help: true, Origins: l.origins})
		},
	})
	return cmd
}

type setting struct {
	Value  string `json:"value"`
	Origin string `json:"origin"` // empty for the default
}

func (l *loaded) describe() map[string]setting {
	out := map[string]setting{}
	for key, path := range l.files() {
		out[key] = setting{*path, l.origins[key]}
	}
	out["address"] = setting{l.Address, l.origins["address"]}
	out["server_name"] = setting{l.ServerName, l.origins["server_name"]}
	out["call_timeout"] = setting{l.CallTimeout.String(), l.origins["call_timeout"]}
	return out
}
