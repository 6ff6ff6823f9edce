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

// listenerTLS loads the certificate of a listener; nil for a plain one.
func (c *Config) listenerTLS(i int, log *slog.Logger) (*tls.Config, error) {
	l := c.Listeners[i]
	if l.Plain {
		return nil, nil
	}
	cfg, err := tlsfile.Public(l.CertFile, l.KeyFile, time.Now, log)
	if err != nil {
		return nil, fmt.Errorf("listeners[%d].cert_file: %w", i, err)
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
	_, err := cfg.Credential.load(quiet)
	problems = append(problems, err)
	for i, r := range cfg.Routes {
		if r.Unchecked {
			continue
		}
		_, err := schema.Compile(os.DirFS(cfg.Schemas), r.Messages)
		for _, err := range each(err) {
			problems = append(problems, fmt.Errorf("routes[%d].messages: %w", i, err))
		}
	}
	return errors.Join(problems...)
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
