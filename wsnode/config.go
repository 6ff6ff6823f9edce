package wsnode

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/credentials"

	"github.com/gatehouse-ws/gatehouse/wsnode/clientaddr"
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

	DrainWindow  time.Duration `yaml:"drain_window" help:"over how long the node closes its sockets once it is to end; 0 for all at once"`
	ReturnWindow time.Duration `yaml:"return_window" help:"each of those is told a time of its own to come back at, within so long after it was closed; 0 tells none"`

	TrustedProxies []clientaddr.Trusted `yaml:"trusted_proxies" help:"proxies in front of the node that tell who their clients are; nobody else is believed"`

	// What cannot stand in a file. Credentials and Log are required. The event loops
	// log in their turns, so Log's handler must not wait, as for a disk or a pipe.
	Credentials credentials.TransportCredentials `yaml:"-"` // with which the authority is called; tlsfile makes them

	Log     *slog.Logger          `yaml:"-"`
	Metrics prometheus.Registerer `yaml:"-"` // nil for none
	Tracer  Tracer                `yaml:"-"` // nil for none
	Schemas fs.FS                 `yaml:"-"` // where the routes' schema files lie; may be nil if all are unchecked
	// Dead are earlier instances of this node that are known to have ended.
	Dead [][16]byte `yaml:"-"`
}

// SocketConfig bounds what one socket may take, in bytes and time.
type SocketConfig struct {
	HandshakeTimeout time.Duration `yaml:"handshake_timeout" help:"for the TLS handshake, and again for the request head; the first of them with a PROXY header before it"`
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
	LoopBytes        int           `yaml:"loop_bytes" help:"bytes that may wait for all peers of one event loop; the more do, the less each may let wait before it is closed with 1013; also those of broadcasts that wait for the loops"`
	Loops            int           `yaml:"loops" help:"event loops that drive the sockets, on Linux; 0 for half the processors, at least one"`
	TLSHandshakes    int           `yaml:"tls_handshakes" help:"TLS handshakes that may be under way at once, which they are once the ClientHello has come; who comes then is reset before its own"`
	Driver           Driver        `yaml:"driver" help:"what drives the sockets: auto, which is event loops on Linux, or portable, a goroutine for each socket as elsewhere"`
}

const maxWindow = time.Hour

// Driver says what drives the sockets.
type Driver string

const (
	// AutoDriver is the default: event loops, where the system has them.
	AutoDriver Driver = "auto"
	// PortableDriver has a goroutine for each socket.
	PortableDriver Driver = "portable"
)

// DefaultConfig has no authority and no route.
func DefaultConfig() Config {
	w := wsconn.Limits{}.WithDefaults()
	return Config{
		Authority: verify.DefaultConfig(),
		Limits:    limit.Default(),

		DrainWindow: 10 * time.Second, ReturnWindow: 10 * time.Second,

		Sockets: SocketConfig{
			HandshakeTimeout: w.HandshakeTimeout, HeadBytes: w.HeadBytes, HeadFields: w.HeadFields,
			MessageBytes: w.MessageBytes, Fragments: w.Fragments, MessageTimeout: w.MessageTimeout,
			PingInterval: 30 * time.Second, PongTimeout: 10 * time.Second,
			CloseTimeout: w.CloseTimeout, WriteTimeout: 10 * time.Second, OutboundBytes: 1 << 20,
			LoopBytes: 64 << 20, TLSHandshakes: 500, Driver: AutoDriver,
		},
	}
}

// Validate tells all that is wrong, each with its field, value, bound and fix.
func (c *Config) Validate() error {
	_, proxies := clientaddr.New("trusted_proxies", c.TrustedProxies)
	problems := []error{c.Authority.Validate(), within("limits", c.Limits.Validate()), c.Sockets.validate(), proxies}
	for key, window := range map[string]time.Duration{"drain_window": c.DrainWindow, "return_window": c.ReturnWindow} {
		if window < 0 || window > maxWindow {
			problems = append(problems, fmt.Errorf("%s: %v is outside 0 to %v", key, window, maxWindow))
		}
	}
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

const (
	maxLoops         = 64
	maxLoopBytes     = 1 << 30
	maxTLSHandshakes = 1 << 16
)

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
	if c.LoopBytes < c.OutboundBytes {
		problems = append(problems, fmt.Errorf("sockets.loop_bytes: %d is below sockets.outbound_bytes, %d: what one socket may let wait would not fit", c.LoopBytes, c.OutboundBytes))
	}
	if c.LoopBytes > maxLoopBytes {
		problems = append(problems, fmt.Errorf("sockets.loop_bytes: %d is above %d, 1 GiB: give the node more loops", c.LoopBytes, maxLoopBytes))
	}
	if c.Loops < 0 || c.Loops > maxLoops {
		problems = append(problems, fmt.Errorf("sockets.loops: %d is outside 0 to %d", c.Loops, maxLoops))
	}
	if c.TLSHandshakes < 1 || c.TLSHandshakes > maxTLSHandshakes {
		problems = append(problems, fmt.Errorf("sockets.tls_handshakes: %d is outside 1 to %d", c.TLSHandshakes, maxTLSHandshakes))
	}
	if c.Driver != AutoDriver && c.Driver != PortableDriver {
		problems = append(problems, fmt.Errorf("sockets.driver: %q is neither auto nor portable", string(c.Driver)))
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
	d := netloop.Config{
		HandshakeTimeout: c.HandshakeTimeout, WriteTimeout: c.WriteTimeout,
		OutboundBytes: c.OutboundBytes, LingerTimeout: time.Second,
		Loops: c.Loops, LoopBytes: c.LoopBytes, Handshakes: c.TLSHandshakes,
	}
	switch {
	case c.Driver == PortableDriver:
		d.Loops = 0
	case c.Loops == 0:
		d.Loops = max(runtime.GOMAXPROCS(0)/2, 1) // the others verify, shake hands and collect garbage
	}
	return d
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
