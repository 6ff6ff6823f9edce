package noded

import (
	"crypto/tls"
	"regexp"
	"slices"

	"github.com/gatehouse-ws/gatehouse/cmd/internal/settings"
	"github.com/gatehouse-ws/gatehouse/wsnode"
)

// reloadable are the keys that Reload puts into force.
var reloadable = regexp.MustCompile(`^(limits\.|routes\[\d+\]\.(origins|missing_origin)$|trusted_proxies|listeners\[\d+\]\.(cert_file|key_file|key_exchange|client_))`)

// Reload reads the settings, certificates and schema files anew and puts into
// force what it can under open sockets. If anything is wrong, the log says what
// and where, and all stays as it was. One call at a time.
func (d *Daemon) Reload(load func() (Config, error)) {
	var cfg Config
	var over []*tls.Config
	err := d.node.Reload(func() (wsnode.Config, error) {
		var err error
		if cfg, err = load(); err == nil {
			over, err = d.certificates(&cfg)
		}
		return cfg.Config, err
	})
	if err != nil {
		for _, e := range each(err) {
			d.log.Error("settings are not reloaded, the old ones stay", "error", e)
		}
		return
	}
	for i, l := range d.listeners {
		if over[i] != nil {
			l.current.Store(over[i])
		}
	}
	changed := settings.Diff(d.loaded, cfg)
	d.loaded = cfg
	attrs := []any{"sockets_max", d.node.MaxSockets()}
	if len(changed) > 0 {
		attrs = append(attrs, "changed", changed)
	}
	d.log.Info("settings reloaded", attrs...)
	later := slices.DeleteFunc(settings.Diff(d.cfg, cfg), func(key string) bool {
		return reloadable.MatchString(key) && key != "limits.addresses"
	})
	if len(later) > 0 {
		d.log.Warn("these settings take effect at the next start", "settings", later)
	}
}

// certificates loads what the listeners are to show from now on, each by its
// address. It is nil for one that is plain, or that is not there any more.
func (d *Daemon) certificates(cfg *Config) ([]*tls.Config, error) {
	over := make([]*tls.Config, len(d.listeners))
	for i, was := range d.cfg.Listeners {
		at := slices.IndexFunc(cfg.Listeners, func(l Listener) bool { return l.Address == was.Address })
		if at < 0 || was.Plain {
			continue
		}
		var err error
		if over[i], err = cfg.listenerTLS(at, d.log); err != nil {
			return nil, err
		}
	}
	return over, nil
}
