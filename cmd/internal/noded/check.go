package noded

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/gatehouse-ws/gatehouse/tlsfile"
	"github.com/gatehouse-ws/gatehouse/wsnode/schema"
)

// listenerTLS is how a listener speaks TLS, with its files loaded; nil for a plain
// one.
func (c *Config) listenerTLS(i int, log *slog.Logger) (*tls.Config, error) {
	l := c.Listeners[i]
	if l.Plain {
		return nil, nil
	}
	cfg, err := tlsfile.Public(l.CertFile, l.KeyFile, time.Now, log)
	if err != nil {
		return nil, fmt.Errorf("listeners[%d].cert_file: %w", i, err)
	}
	if cfg.CurvePreferences, err = tlsfile.KeyExchange(l.KeyExchange); err != nil {
		return nil, fmt.Errorf("listeners[%d].key_exchange: %w", i, err)
	}
	if l.ClientCertificates.asks() {
		if err := tlsfile.AskClients(cfg, l.ClientCA, l.ClientCertificates == ClientCertificatesRequire); err != nil {
			return nil, fmt.Errorf("listeners[%d].client_ca: %w", i, err)
		}
	}
	return cfg, nil
}

func (c *CredentialConfig) load(log *slog.Logger) (*tls.Config, error) {
	cfg, err := tlsfile.Client(c.CAFile, c.CertFile, c.KeyFile, time.Now, log)
	if err != nil {
		return nil, fmt.Errorf("credential: %w", err)
	}
	return cfg, nil
}

// Check reads all files that Open reads, and tells all that is wrong with them.
// It opens nothing else.
func Check(cfg Config) error {
	quiet := slog.New(slog.DiscardHandler)
	var problems []error
	for i := range cfg.Listeners {
		_, err := cfg.listenerTLS(i, quiet)
		problems = append(problems, err)
	}
	_, err := newRenewer(&cfg, quiet)
	problems = append(problems, err)
	for i, r := range cfg.Routes {
		_, err := r.Outgoing.Compile(os.DirFS(cfg.Schemas))
		for _, err := range each(err) {
			problems = append(problems, fmt.Errorf("routes[%d].outgoing: %w", i, err))
		}
		if r.Unchecked {
			continue
		}
		_, err = schema.Compile(os.DirFS(cfg.Schemas), r.Messages)
		for _, err := range each(err) {
			problems = append(problems, fmt.Errorf("routes[%d].messages: %w", i, err))
		}
	}
	return errors.Join(problems...)
}

// soon is how long before the end of what the node calls its authority with it is
// warned of.
const soon = 30 * 24 * time.Hour

// Warn tells what a start would not find wrong, but an operator should see to.
func Warn(cfg Config) []string {
	r, err := newRenewer(&cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil // Check tells
	}
	return r.warn()
}

func (r *renewer) warn() (warnings []string) {
	tell := func(what string, end time.Time, fix string) {
		if left := end.Sub(r.now()); left < soon {
			ends := "ends"
			if left < 0 {
				ends = "ended"
			}
			warnings = append(warnings, fmt.Sprintf("%s %s on %s: %s", what, ends, end.UTC().Format(time.DateOnly), fix))
		}
	}
	if _, err := r.due(); err == nil && (!r.cfg.Renew || r.now().Unix() > r.ends.Load()) {
		tell("credential.cert_file: the certificate", time.Unix(r.ends.Load(), 0), "gatehouse credential reissue makes another")
	}
	tell("credential.ca_file: the last CA", r.trust.ends(), "have the authority's CA rotated, or copy its ca.crt if it was")
	return warnings
}

// each are the errors that err joins.
func each(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	if err == nil {
		return nil
	}
	return []error{err}
}
