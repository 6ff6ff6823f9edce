// Package clientaddr finds out who a client is that comes through proxies: from
// a PROXY header, X-Forwarded-For or Forwarded. Only proxies that are trusted by
// their address are believed, each in the one way that it is trusted for. The
// package knows no socket: bytes and header fields go in.
//
// An IPv4 address that is mapped into IPv6 is that IPv4 address throughout.
package clientaddr

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Mode is how a proxy tells who its client is.
type Mode string

const (
	// Untrusted is the mode of everybody else: a client is who connects.
	Untrusted Mode = ""
	// Proxy is a PROXY header, version 1 or 2, before all else on the connection.
	Proxy Mode = "proxy"
	// XFF is the header field X-Forwarded-For.
	XFF Mode = "xff"
	// Forwarded is the header field of RFC 7239.
	Forwarded Mode = "forwarded"
)

// Trusted are proxies that are believed, in one way.
type Trusted struct {
	Networks []string `yaml:"networks" help:"the proxies' addresses, such as 10.1.0.0/16 or 2001:db8::5"`
	Mode     Mode     `yaml:"mode" help:"how they tell who their client is: proxy (PROXY protocol 1 or 2, before TLS), xff (X-Forwarded-For) or forwarded (RFC 7239); they must do so always"`
}

// maxNetworks bounds what is looked through for each connection.
const maxNetworks = 256

// Proxies are all that are trusted. A nil *Proxies trusts nobody. It is not
// changed once made.
type Proxies struct{ networks []network }

type network struct {
	netip.Prefix
	mode Mode
	key  string // of the configuration
}

// New makes Proxies of a configuration, or tells all that is wrong with it, each
// with its key below that of the whole.
func New(whole string, trusted []Trusted) (*Proxies, error) {
	p := &Proxies{}
	var problems []error
	bad := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	for i, t := range trusted {
		below := fmt.Sprintf("%s[%d]", whole, i)
		if t.Mode != Proxy && t.Mode != XFF && t.Mode != Forwarded {
			bad("%s.mode: %q is neither proxy, xff nor forwarded", below, string(t.Mode))
		}
		if len(t.Networks) == 0 {
			bad("%s.networks: required, at least one", below)
		}
		for k, text := range t.Networks {
			key := fmt.Sprintf("%s.networks[%d]", below, k)
			prefix, err := parseNetwork(text)
			if err != nil {
				bad("%s: %w", key, err)
				continue
			}
			n := network{prefix, t.Mode, key}
			if other := p.contradicting(n); other != nil {
				bad("%s: %s overlaps %s of %s, whose mode is %s: a proxy has one mode", key, text, other.Prefix, other.key, other.mode)
			}
			p.networks = append(p.networks, n)
		}
	}
	if len(p.networks) > maxNetworks {
		bad("%s: %d networks are more than %d; name networks that hold several of them", whole, len(p.networks), maxNetworks)
	}
	return p, errors.Join(problems...)
}

// parseNetwork takes a CIDR, or one address.
func parseNetwork(text string) (netip.Prefix, error) {
	if !strings.Contains(text, "/") {
		addr, err := netip.ParseAddr(text)
		if err != nil || addr.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("%q is no address and no network such as 10.1.0.0/16", text)
		}
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is no network such as 10.1.0.0/16", text)
	}
	if addr := prefix.Addr(); addr.Is4In6() {
		if prefix.Bits() < 96 {
			return netip.Prefix{}, fmt.Errorf("%q is wider than all of IPv4, which ::ffff:0:0/96 stands for", text)
		}
		prefix = netip.PrefixFrom(addr.Unmap(), prefix.Bits()-96)
	}
	switch masked := prefix.Masked(); {
	case prefix.Bits() == 0:
		return netip.Prefix{}, fmt.Errorf("%q trusts whoever connects, who could then be anybody: name the proxies' networks", text)
	case masked != prefix:
		return netip.Prefix{}, fmt.Errorf("%q has bits beyond its length: say %s", text, masked)
	}
	return prefix, nil
}

func (p *Proxies) contradicting(n network) *network {
	i := slices.IndexFunc(p.networks, func(o network) bool { return o.mode != n.mode && o.Overlaps(n.Prefix) })
	if i < 0 {
		return nil
	}
	return &p.networks[i]
}

// Mode is how the proxy at addr is trusted, if it is.
func (p *Proxies) Mode(addr netip.Addr) Mode {
	if p == nil {
		return Untrusted
	}
	addr = addr.Unmap()
	for i := range p.networks {
		if n := &p.networks[i]; n.Contains(addr) {
			return n.mode
		}
	}
	return Untrusted
}

// Why a proxy's client is not known.
var (
	// ErrMissing groups what says nothing of a client: the proxy is not set up as
	// it is trusted for.
	ErrMissing = errors.New("the proxy does not say who its client is")
	// ErrMalformed groups what can't be understood.
	ErrMalformed = errors.New("what the proxy says of its client is malformed")
)

// cause is a fixed error that belongs to a group.
type cause struct {
	group error
	text  string
}

func (c *cause) Error() string { return c.text }
func (c *cause) Unwrap() error { return c.group }

// Causes.
var (
	ErrNoHeader    error = &cause{ErrMissing, "no PROXY header"}
	ErrNoAddress   error = &cause{ErrMissing, "the PROXY header has no address: its connection is not TCP's, or the proxy does not know"}
	ErrNoField     error = &cause{ErrMissing, "no header field that names a client"}
	ErrUnknown     error = &cause{ErrMissing, "the client is given as unknown, under a made-up name, or not at all"}
	ErrHeader      error = &cause{ErrMalformed, "malformed PROXY header"}
	ErrHeaderSize  error = &cause{ErrMalformed, "PROXY header too long"}
	ErrHeaderHalf  error = &cause{ErrMalformed, "PROXY header not finished"}
	ErrField       error = &cause{ErrMalformed, "malformed header field"}
	ErrAddress     error = &cause{ErrMalformed, "not the address of a client"}
	ErrTooManyHops error = &cause{ErrMalformed, "header field lists too many addresses"}
)

// client checks that a peer can have this address.
func client(addr netip.Addr) (netip.Addr, error) {
	if addr = addr.Unmap(); !addr.IsValid() || addr.Zone() != "" || addr.IsUnspecified() || addr.IsMulticast() {
		return netip.Addr{}, ErrAddress
	}
	return addr, nil
}
