package authority

import (
	"errors"
	"fmt"
	"time"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// Config says how long things live and how nodes are held. The zero value is
// not valid; start from DefaultConfig.
type Config struct {
	Tokens   TokenConfig   `yaml:"tokens"`
	Sessions SessionConfig `yaml:"sessions"`
	Fleet    FleetConfig   `yaml:"fleet"`
	EdgeKeys EdgeKeyConfig `yaml:"edge_keys"`
}

// TokenConfig bounds how long tokens may open sockets.
type TokenConfig struct {
	DefaultTTL time.Duration `yaml:"default_ttl" help:"how long a token may open sockets where its issuer does not say"`
	MaxTTL     time.Duration `yaml:"max_ttl" help:"the longest ttl an issuer may ask for; lowering it also cuts tokens already issued"`
	MaxUses    uint32        `yaml:"max_uses" help:"the most sockets that an issuer may let one token open"`
}

// SessionConfig bounds sessions.
type SessionConfig struct {
	DefaultTTL time.Duration `yaml:"default_ttl" help:"how long a socket may live where the token's issuer does not say"`
	MaxTTL     time.Duration `yaml:"max_ttl" help:"the longest session_ttl an issuer may ask for; lowering it also cuts tokens already issued"`
	PerSubject uint32        `yaml:"per_subject" help:"live sessions of one subject over all nodes; 0 is without bound"`
	AtLimit    AtLimit       `yaml:"at_limit" help:"what becomes of one above per_subject, or above the token's own bound: refuse_new, or close_oldest, which lets it in and closes the subject's oldest"`
	PerTenant  uint32        `yaml:"per_tenant" help:"live sessions of one tenant over all nodes; 0 is without bound"`
	MaxGrace   time.Duration `yaml:"max_grace" help:"the longest grace that a revocation may leave sockets to renew; 0 allows none"`
}

// AtLimit is what becomes of a session above what its subject may have.
type AtLimit string

// What it may be.
const (
	// RefuseNew refuses it.
	RefuseNew AtLimit = "refuse_new"
	// CloseOldest lets it in, and closes the subject's oldest.
	CloseOldest AtLimit = "close_oldest"
)

// FleetConfig holds the nodes.
type FleetConfig struct {
	HeartbeatInterval time.Duration `yaml:"heartbeat_interval" help:"how often nodes send heartbeats"`
	AdmissionFence    time.Duration `yaml:"admission_fence" help:"how long after its last answered heartbeat a node goes on admitting sockets"`
	SessionFence      time.Duration `yaml:"session_fence" help:"how long after its last answered heartbeat a node keeps its sockets; 0 keeps them until their sessions are over, and receipts then name no deadline"`
	RetryAfter        time.Duration `yaml:"retry_after" help:"when clients may come back that a node turns away because this authority can't be asked, or a limit of sessions is reached"`
	MaxInstances      int           `yaml:"max_instances" help:"node processes that one credential may have registered; each receipt has a row for each"`
	MaxEntries        int           `yaml:"max_entries" help:"entries of the revocation log in one message to a node"`
}

// EdgeKeyConfig times the rotation of edge keys.
type EdgeKeyConfig struct {
	Lifetime time.Duration `yaml:"lifetime" help:"how long tokens are made with one edge key"`
	Lead     time.Duration `yaml:"lead" help:"how long a new edge key is known to nodes before tokens are made with it"`
}

// fence is the session fence as records of instances have it.
func (c *FleetConfig) fence() time.Duration {
	if c.SessionFence == 0 {
		return storage.NoFence
	}
	return c.SessionFence
}

// socketLife is how long after its last answered heartbeat a node keeps a socket at
// most that lives by neither less nor more than it is told: the session fence or,
// without one, the end of the longest session that it then had. Before that it
// closes sockets over a minute, as before a fence: those are over by then.
func (c *Config) socketLife() time.Duration {
	if c.Fleet.SessionFence == 0 {
		return c.Fleet.AdmissionFence + c.Sessions.MaxTTL + time.Minute
	}
	return c.Fleet.SessionFence
}

// releaseAfter is how long after the last heartbeat arrived from it a silent
// node with this fence has surely closed every socket: the fence, and what
// the clocks of two machines may gain on one another within it (NTP slews by at
// most 500 ppm each), and a second for the scheduling of the close. 0 is never.
func releaseAfter(fence time.Duration) time.Duration {
	if fence == storage.NoFence {
		return 0
	}
	return fence + slack(fence)
}

// slack is what the clocks of two machines may gain on one another within d, and
// a second for scheduling.
func slack(d time.Duration) time.Duration { return d/1000 + time.Second }

// DefaultConfig is what DESIGN promises of an authority that nobody configured.
func DefaultConfig() Config {
	return Config{
		Tokens:   TokenConfig{DefaultTTL: time.Minute, MaxTTL: time.Hour, MaxUses: 100},
		Sessions: SessionConfig{DefaultTTL: 12 * time.Hour, MaxTTL: 7 * 24 * time.Hour, MaxGrace: 5 * time.Minute, AtLimit: RefuseNew},
		Fleet: FleetConfig{
			HeartbeatInterval: time.Second,
			AdmissionFence:    10 * time.Second,
			SessionFence:      time.Hour,
			RetryAfter:        2 * time.Second,
			MaxInstances:      1000,
			MaxEntries:        1000,
		},
		EdgeKeys: EdgeKeyConfig{Lifetime: 24 * time.Hour, Lead: time.Minute},
	}
}

// Validate tells all that is wrong, each with its field, value, bound and fix.
func (c *Config) Validate() error {
	var problems []error
	bound := func(field string, v, low, high time.Duration, why string) {
		if v < low || v > high {
			problems = append(problems, fmt.Errorf("%s: %v is outside %v to %v: %s", field, v, low, high, why))
		}
	}
	const year = 365 * 24 * time.Hour
	bound("tokens.max_ttl", c.Tokens.MaxTTL, time.Second, year, "a handshake token is not for keeping")
	bound("tokens.default_ttl", c.Tokens.DefaultTTL, time.Second, c.Tokens.MaxTTL, "tokens.max_ttl is the ceiling")
	if n := c.Tokens.MaxUses; n < 1 || n > maxUses {
		problems = append(problems, fmt.Errorf("tokens.max_uses: %d is outside 1 to %d: all uses of a token are told in one message", n, maxUses))
	}
	bound("sessions.max_ttl", c.Sessions.MaxTTL, time.Second, year, "a socket outlives no login for longer")
	bound("sessions.default_ttl", c.Sessions.DefaultTTL, time.Second, c.Sessions.MaxTTL, "sessions.max_ttl is the ceiling")
	if a := c.Sessions.AtLimit; a != RefuseNew && a != CloseOldest {
		problems = append(problems, fmt.Errorf("sessions.at_limit: %q is neither refuse_new nor close_oldest", string(a)))
	}
	bound("sessions.max_grace", c.Sessions.MaxGrace, 0, 24*time.Hour, "who must go at once has no grace, and who need not can log in again within a day")
	bound("fleet.heartbeat_interval", c.Fleet.HeartbeatInterval, 10*time.Millisecond, time.Minute, "nodes live by their heartbeats")
	bound("fleet.admission_fence", c.Fleet.AdmissionFence, 2*c.Fleet.HeartbeatInterval, time.Hour, "at least two heartbeats must fit")
	if f := c.Fleet.SessionFence; f != 0 {
		bound("fleet.session_fence", f, c.Fleet.AdmissionFence, 30*24*time.Hour, "fleet.admission_fence must end before it, or 0 for no fence")
	}
	bound("fleet.retry_after", c.Fleet.RetryAfter, time.Second, time.Hour, "Retry-After is in whole seconds")
	if n := c.Fleet.MaxInstances; n < 1 || n > maxInstances {
		problems = append(problems, fmt.Errorf("fleet.max_instances: %d is outside 1 to %d: each receipt has a row for each instance", n, maxInstances))
	}
	if n := c.Fleet.MaxEntries; n < 1 || n > maxEntries {
		problems = append(problems, fmt.Errorf("fleet.max_entries: %d is outside 1 to %d: a message has at most 4 MiB", n, maxEntries))
	}
	bound("edge_keys.lead", c.EdgeKeys.Lead, c.Fleet.AdmissionFence, c.EdgeKeys.Lifetime,
		"until fleet.admission_fence is over a node may refuse tokens of a key that it has not heard of; and edge_keys.lifetime must be longer")
	bound("edge_keys.lifetime", c.EdgeKeys.Lifetime, time.Minute, year, "a key id has 16 bits and must not come around too soon")
	if c.Tokens.MaxTTL/max(c.EdgeKeys.Lifetime, 1) > 1000 {
		problems = append(problems, fmt.Errorf("edge_keys.lifetime: %v is below a thousandth of tokens.max_ttl: nodes would hold over 1000 keys", c.EdgeKeys.Lifetime))
	}
	return errors.Join(problems...)
}

const (
	maxEntries = 5000 // of about 500 bytes at most
	// maxInstances is the highest bound on the instances of one credential.
	maxInstances = 10_000
	maxUses      = 10_000 // of one token
)

// tokenLife is how long after its issue a token may still open sockets:
// not_before may lie a whole ttl ahead.
func (c *Config) tokenLife() time.Duration { return 2 * c.Tokens.MaxTTL }

// keepEntry is how long an entry of the log can still hit something. Even were a
// session's life nothing, what it hits is swept before it is: so an entry that
// was dropped by a clock that ran ahead is not missed once that has gone back.
func (c *Config) keepEntry() time.Duration {
	return c.tokenLife() + c.Sessions.MaxTTL + releaseAfter(c.Fleet.fence()) + sweepKeep + sweepUnit
}

// keepReplaced is how long the entry of a session that was replaced is kept: until
// a node that lacks it has surely closed every socket. Without a session fence it
// is kept as others are, since nodes are held to have all of these.
func (c *Config) keepReplaced() time.Duration {
	if d := releaseAfter(c.Fleet.fence()); d > 0 {
		return d
	}
	return c.keepEntry()
}
