package wsnode

import (
	"errors"
	"fmt"
	"slices"

	"github.com/gatehouse-ws/gatehouse/wsnode/clientaddr"
	"github.com/gatehouse-ws/gatehouse/wsnode/limit"
	"github.com/gatehouse-ws/gatehouse/wsnode/netloop"
	"github.com/gatehouse-ws/gatehouse/wsnode/schema"
)

// live are settings that Reload replaces. They are not changed.
type live struct {
	limits  limit.Config // with no more sockets than there are descriptors for
	proxies *clientaddr.Proxies
}

// otherDescriptors are left to listeners, logs, files and the way to the
// authority.
const otherDescriptors = 100

// newLive makes them of a valid configuration.
func (n *Node) newLive(cfg *Config) (*live, error) {
	proxies, err := clientaddr.New("trusted_proxies", cfg.TrustedProxies)
	if err != nil {
		return nil, err
	}
	l := &live{limits: cfg.Limits, proxies: proxies}
	if most := netloop.Capacity(otherDescriptors + maxRejecting); most > 0 && most < l.limits.Sockets.Max {
		n.log.Warn("the limit on open files allows fewer sockets than limits.sockets.max: raise it, or start more nodes", "configured", cfg.Limits.Sockets.Max, "sockets_max", most)
		l.limits.Sockets.Max = most
	}
	return l, nil
}

// Reload puts what read returns in the place of some settings, under open sockets,
// which all stay: of Limits all but Addresses, of the routes Origins and
// MissingOrigin, and TrustedProxies. It reads the schema files anew as well. All
// else in the configuration is as it was when the node was made, routes that are
// new or gone too. If read fails, or anything is wrong, nothing is changed.
//
// Limits and origins decide about who comes from then on, and about messages of
// sessions that are opened or renewed from then on.
func (n *Node) Reload(read func() (Config, error)) error {
	err := n.reload(read)
	n.metrics.reloaded(err)
	return err
}

// ReloadSchemas reads the schemas of all routes anew. If one of them is wrong, all
// stay as they were and the error says what is wrong. It may be called at any
// time; a message that is being checked is held against what was there before. The
// log names the files whose text has changed.
func (n *Node) ReloadSchemas() error {
	n.reloading.Lock()
	defer n.reloading.Unlock()
	err := n.loadSchemas()
	n.metrics.reloaded(err)
	return err
}

func (n *Node) reload(read func() (Config, error)) error {
	n.reloading.Lock()
	defer n.reloading.Unlock()
	cfg, err := read()
	if err != nil {
		return err
	}
	if err := cfg.Validate(); err != nil {
		return err
	}
	live, err := n.newLive(&cfg)
	if err != nil {
		return err
	}
	if err := n.loadSchemas(); err != nil { // the last that can fail
		return err
	}
	n.live.Store(live)
	n.addresses.SetConfig(live.limits)
	for i := range cfg.Routes {
		if r := n.routes[cfg.Routes[i].Path]; r != nil {
			r.origins.Store(cfg.Routes[i].originRule())
		}
	}
	return nil
}

// loadSchemas wants the lock reloading held: of two at once, the one that read
// first could store last, and bring back what was there before.
func (n *Node) loadSchemas() error {
	sets, outgoing := make([]*schema.Set, len(n.cfg.Routes)), make([]*schema.Set, len(n.cfg.Routes))
	var problems []error
	for i, r := range n.cfg.Routes {
		var err error
		if outgoing[i], err = r.Outgoing.Compile(n.cfg.Schemas); err != nil {
			problems = append(problems, fmt.Errorf("routes[%d].outgoing: %w", i, err))
		}
		if r.Unchecked {
			continue
		}
		if sets[i], err = schema.Compile(n.cfg.Schemas, r.Messages); err != nil {
			problems = append(problems, fmt.Errorf("routes[%d].messages: %w", i, err))
		}
	}
	if len(problems) > 0 {
		return errors.Join(problems...)
	}
	var changed []string
	for i, r := range n.cfg.Routes {
		route := n.routes[r.Path]
		changed = append(changed, sets[i].Changed(route.checks.Swap(sets[i]))...)
		changed = append(changed, outgoing[i].Changed(route.outgoing.checks.Swap(outgoing[i]))...)
	}
	n.logChanged(changed)
	return nil
}

// maxFilesTold is how many schema files a reload names in the log.
const maxFilesTold = 20

// logChanged names the schema files that say something else than before.
func (n *Node) logChanged(files []string) {
	slices.Sort(files)
	if files = slices.Compact(files); len(files) == 0 {
		return
	}
	attrs := []any{"files", files[:min(len(files), maxFilesTold)]}
	if more := len(files) - maxFilesTold; more > 0 {
		attrs = append(attrs, "and_more", more)
	}
	n.log.Info("schemas changed", attrs...)
}
