package wsnode

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gatehouse-ws/gatehouse/wsnode/limit"
	"github.com/gatehouse-ws/gatehouse/wsnode/netloop"
	"github.com/gatehouse-ws/gatehouse/wsnode/verify"
	"github.com/gatehouse-ws/gatehouse/wsnode/wsconn"
)

// Config is a node's. Start from DefaultConfig and give it an authority and at
// least one route.
type Config struct {
	Authority verify.Config `yaml:"authority"`
	Routes    []Route       `yaml:"routes" help:"the paths that clients may ask for"`
	Limits    limit.Config  `yaml:"limits"`
	Sockets   SocketConfig  `yaml:"sockets"`

	// What cannot stand in a file. TLS and Log are required.
	TLS     *tls.Config           `yaml:"-"` // with which the authority is called
	Log     *slog.Logger          `yaml:"-"`
	Metrics prometheus.Registerer `yaml:"-"` // nil for none
	Schemas fs.FS                 `yaml:"-"` // where the routes' schema files lie; may be nil if all are unchecked
	// Dead are earlier instances of this node that are known to have ended.
	Dead [][16]byte `yaml:"-"`
}

// SocketConfig bounds what one socket may take, in bytes and time.
type SocketConfig struct {
	HandshakeTimeout time.Duration `yaml:"handshake_timeout" help:"for the TLS handshake, and again for the request head"`
	HeadBytes        int           `yaml:"head_bytes" help:"bytes of a request head"`
	HeadFields       int           `yaml:"head_fields" help:"header fields of a request"`
	MessageBytes     int           `yaml:"message_bytes" help:"bytes of one message, over all its fragments"`
	Fragments        int           `yaml:"fragments" help:"frames of one message"`
	MessageTimeout   time.Duration `yaml:"message_timeout" help:"for the rest of a message that has begun; pings do not extend it"`
	PingInterval     time.Duration `yaml:"ping_interval" help:"how long a peer may be silent before it is pinged"`
	PongTimeout      time.Duration `yaml:"pong_timeout" help:"how long it may stay silent then before it is closed"`
	CloseTimeout     time.Duration `yaml:"close_timeout" help:"for the peer to answer a close frame"`
	WriteTimeout     time.Duration `yaml:"write_timeout" help:"for each 64 KiB of what is sent; a peer that takes longer to read them is gone"`
	OutboundBytes    int           `yaml:"outbound_bytes" help:"bytes that may wait for a peer to read; one that lets more wait is closed with 1013"`
}

// DefaultConfig has no authority and no route.
func DefaultConfig() Config {
	w := wsconn.Limits{}.WithDefaults()
	return Config{
		Authority: verify.DefaultConfig(),
		Limits:    limit.Default(),
		Sockets: SocketConfig{
			HandshakeTimeout: w.HandshakeTimeout, HeadBytes: w.HeadBytes, HeadFields: w.HeadFields,
			MessageBytes: w.MessageBytes, Fragments: w.Fragments, MessageTimeout: w.MessageTimeout,
			PingInterval: 30 * time.Second, PongTimeout: 10 * time.Second,
			CloseTimeout: w.CloseTimeout, WriteTimeout: 10 * time.Second, OutboundBytes: 1 << 20,
		},
	}
}

// Validate tells all that is wrong, each with its field, value, bound and fix.
func (c *Config) Validate() error {
	problems := []error{c.Authority.Validate(), within("limits", c.Limits.Validate()), c.Sockets.validate()}
	if len(c.Routes) == 0 {
		problems = append(problems, errors.New("routes: required, at least one"))
	}
	paths := map[string]int{}
	for i := range c.Routes {
		problems = append(problems, c.Routes[i].validate(fmt.Sprintf("routes[%d]", i)))
		if j, taken := paths[c.Routes[i].Path]; taken {
			problems = append(problems, fmt.Errorf("routes[%d].path: %q is the path of routes[%d] too", i, c.Routes[i].Path, j))
		}
		paths[c.Routes[i].Path] = i
	}
	return errors.Join(problems...)
}

func (c *SocketConfig) validate() error {
	problems := []error{within("sockets", c.wsconn().Validate())}
	span := func(field string, v time.Duration, high time.Duration) {
		if v < 100*time.Millisecond || v > high {
			problems = append(problems, fmt.Errorf("sockets.%s: %v is outside 100ms to %v", field, v, high))
		}
	}
	span("ping_interval", c.PingInterval, time.Hour)
	span("pong_timeout", c.PongTimeout, time.Hour)
	span("write_timeout", c.WriteTimeout, 10*time.Minute)
	if c.OutboundBytes < c.MessageBytes {
		problems = append(problems, fmt.Errorf("sockets.outbound_bytes: %d is below sockets.message_bytes, %d: no message of that size could be answered", c.OutboundBytes, c.MessageBytes))
	}
	return errors.Join(problems...)
}

// wsconn is the part that the protocol enforces.
func (c *SocketConfig) wsconn() wsconn.Limits {
	return wsconn.Limits{
		HeadBytes: c.HeadBytes, HeadFields: c.HeadFields, HandshakeTimeout: c.HandshakeTimeout,
		MessageBytes: c.MessageBytes, Fragments: c.Fragments, MessageTimeout: c.MessageTimeout, CloseTimeout: c.CloseTimeout,
	}.WithDefaults()
}

func (c *SocketConfig) driver() netloop.Config {
	return netloop.Config{
		HandshakeTimeout: c.HandshakeTimeout, WriteTimeout: c.WriteTimeout,
		OutboundBytes: c.OutboundBytes, LingerTimeout: time.Second,
	}
}

// within puts a section's name before each of its problems.
func within(section string, err error) error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return err
	}
	var out []error
	for _, e := range joined.Unwrap() {
		out = append(out, fmt.Errorf("%s.%w", section, e))
	}
	return errors.Join(out...)
}
