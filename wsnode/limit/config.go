// Package limit decides how many sockets an address may have and how fast it
// may open them, and how fast a socket may send. It is arithmetic on counts and
// on a time passed in: it has no clock and no goroutine, and its memory is
// fixed when it is made.
package limit

import (
	"errors"
	"fmt"
	"time"
)

// Config holds the limits of a node. All are on by default; a limit with
// dry_run refuses nothing and says in its decisions what it would have refused.
type Config struct {
	Sockets                   Ceiling  `yaml:"sockets" help:"open sockets of this node, authenticated or not"`
	Unauthenticated           Ceiling  `yaml:"unauthenticated" help:"sockets of this node that have not finished their opening handshake"`
	UnauthenticatedPerAddress Ceiling  `yaml:"unauthenticated_per_address" help:"the same for one address (IPv6: one /64)"`
	AuthenticatedPerAddress   Ceiling  `yaml:"authenticated_per_address" help:"sockets in use for one address; high, since an office shares one; the action is reject"`
	NewPerAddress             Window   `yaml:"new_per_address" help:"new sockets of one address in a window of time"`
	Messages                  Messages `yaml:"messages" help:"messages that one socket may send"`
	Addresses                 int      `yaml:"addresses" help:"addresses remembered at once, 40 bytes each; keep it above sockets.max"`
}

// Ceiling bounds a number of sockets.
type Ceiling struct {
	Max    int    `yaml:"max" help:"the most there may be"`
	Action Action `yaml:"action" help:"what a socket above it meets: drop or reject"`
	DryRun bool   `yaml:"dry_run" help:"refuse nothing, report what would have been refused"`
}

// Window bounds arrivals. An address that was quiet for a whole window may open
// Max sockets at once, and Max in each window from then on, spread evenly: one
// becomes free every Length / Max.
type Window struct {
	Max    int           `yaml:"max" help:"sockets in one window"`
	Length time.Duration `yaml:"window" help:"length of the window"`
	Action Action        `yaml:"action" help:"what a socket above it meets: drop or reject"`
	DryRun bool          `yaml:"dry_run" help:"refuse nothing, report what would have been refused"`
}

// Messages bounds the messages of one socket; NewRate makes the bucket. The
// bucket only says no: what follows from DryRun is for the caller.
type Messages struct {
	PerSecond uint32 `yaml:"per_second" help:"messages a second; 0 switches the limit off"`
	Burst     uint32 `yaml:"burst" help:"messages at once after a pause"`
	DryRun    bool   `yaml:"dry_run" help:"refuse nothing, report what would have been refused"`
}

// Action says what becomes of a refused socket.
type Action string

const (
	// Drop resets the connection and sends nothing.
	Drop Action = "drop"
	// Reject answers the opening handshake, 429 or 503 with Retry-After.
	Reject Action = "reject"
)

const (
	maxSockets   = 1 << 24 // also keeps the packed counts of Addresses apart
	minAddresses = shardCount * 16
	maxAddresses = 1 << 24
	maxWindow    = 24 * time.Hour
	maxPerWindow = 1_000_000
	maxPerSecond = 1_000_000_000 // above it, a message costs less than a nanosecond
)

// Default returns the limits that a node starts with.
//
// A handshake is unauthenticated for one redemption and a few round trips, 0.2
// seconds on a bad line. A thousand at once are therefore 5,000 handshakes a
// second, as much as two cores do in TLS; more in number would only wait.
func Default() Config {
	return Config{
		Sockets:                   Ceiling{Max: 100_000, Action: Reject},
		Unauthenticated:           Ceiling{Max: 1_000, Action: Reject},
		UnauthenticatedPerAddress: Ceiling{Max: 10, Action: Reject},
		AuthenticatedPerAddress:   Ceiling{Max: 1_000, Action: Reject},
		NewPerAddress:             Window{Max: 60, Length: 10 * time.Second, Action: Reject},
		Messages:                  Messages{PerSecond: 50, Burst: 100},
		Addresses:                 1 << 17,
	}
}

// Validate returns every problem of the configuration, joined: each names the
// field, its value, the bound and what to do.
func (c *Config) Validate() error {
	var problems []error
	bad := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	inRange := func(field string, v, low, high int) {
		switch {
		case v < low:
			bad("%s: %d is below %d; to refuse nothing, set dry_run: true", field, v, low)
		case v > high:
			bad("%s: %d is above %d; set %d or less", field, v, high, high)
		}
	}
	action := func(field string, a Action) {
		if a != Drop && a != Reject {
			bad("%s.action: %q is neither drop nor reject; set one of them", field, string(a))
		}
	}
	inRange("sockets.max", c.Sockets.Max, 1, maxSockets)
	inRange("unauthenticated.max", c.Unauthenticated.Max, 1, maxSockets)
	inRange("unauthenticated_per_address.max", c.UnauthenticatedPerAddress.Max, 1, maxSockets)
	inRange("authenticated_per_address.max", c.AuthenticatedPerAddress.Max, 1, maxSockets)
	inRange("new_per_address.max", c.NewPerAddress.Max, 1, maxPerWindow)
	action("sockets", c.Sockets.Action)
	action("unauthenticated", c.Unauthenticated.Action)
	action("unauthenticated_per_address", c.UnauthenticatedPerAddress.Action)
	if a := c.AuthenticatedPerAddress.Action; a != Reject {
		bad("authenticated_per_address.action: %q is not reject; it is known only once the request has been read, and then it is answered", string(a))
	}
	action("new_per_address", c.NewPerAddress.Action)
	if l := c.NewPerAddress.Length; l < 100*time.Millisecond || l > maxWindow {
		bad("new_per_address.window: %v is not between 100ms and %v; set a length between them", l, maxWindow)
	}
	if m := c.Messages; m.PerSecond > maxPerSecond {
		bad("messages.per_second: %d is above %d; set less, or 0 to switch the limit off", m.PerSecond, uint32(maxPerSecond))
	} else if m.PerSecond > 0 && m.Burst < 1 {
		bad("messages.burst: 0 is below 1, so no message would ever pass; set at least 1")
	}
	if a := c.Addresses; a < minAddresses || a > maxAddresses {
		bad("addresses: %d is not between %d and %d; set more than sockets.max if memory allows", a, minAddresses, maxAddresses)
	}
	return errors.Join(problems...)
}
