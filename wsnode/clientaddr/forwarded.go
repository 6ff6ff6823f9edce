package clientaddr

import (
	"bytes"
	"iter"
	"net/netip"
)

// maxHops is how many addresses a request may list. No chain of proxies is that
// long.
const maxHops = 32

// hops are what a request lists, from the client on, each as it was sent.
type hops struct {
	list [maxHops][]byte
	n    int
}

func (h *hops) add(value []byte) error {
	if h.n == maxHops {
		return ErrTooManyHops
	}
	h.list[h.n] = value
	h.n++
	return nil
}

// Client is the client of a request that came from a proxy with this mode, XFF
// or Forwarded, by its header fields in the order in which they were sent.
//
// Proxies add to the right, so what is listed is looked at from there: the first
// address that is not itself a proxy's of the same mode is the client's. What
// stands left of it anybody may have written, and is not looked at. If all are
// proxies, the leftmost is the client.
func (p *Proxies) Client(mode Mode, fields iter.Seq2[[]byte, []byte]) (netip.Addr, error) {
	var h hops
	field, add, parse := "x-forwarded-for", (*hops).addXFF, parseXFF
	if mode == Forwarded {
		field, add, parse = "forwarded", (*hops).addForwarded, parseNode
	}
	for name, value := range fields {
		if !bytes.EqualFold(name, []byte(field)) {
			continue
		}
		if err := add(&h, value); err != nil {
			return netip.Addr{}, err
		}
	}
	if h.n == 0 {
		return netip.Addr{}, ErrNoField
	}
	for i := h.n - 1; ; i-- {
		addr, err := parse(h.list[i])
		if err != nil {
			return netip.Addr{}, err
		}
		if i == 0 || p.Mode(addr) != mode {
			return addr, nil
		}
	}
}

// addXFF takes a value of X-Forwarded-For. Empty elements of a list do not count
// (RFC 9110 section 5.6.1).
func (h *hops) addXFF(value []byte) error {
	for e := range bytes.SplitSeq(value, []byte(",")) {
		if e = bytes.Trim(e, " \t"); len(e) > 0 {
			if err := h.add(e); err != nil {
				return err
			}
		}
	}
	return nil
}

// parseXFF reads an address, with a port or without, as proxies write it.
func parseXFF(e []byte) (netip.Addr, error) {
	if bytes.EqualFold(e, []byte("unknown")) {
		return netip.Addr{}, ErrUnknown
	}
	if inner, rest, ok := cutBrackets(e); ok {
		if len(rest) > 0 && (rest[0] != ':' || !isPort(rest[1:])) {
			return netip.Addr{}, ErrAddress
		}
		return parseAddr(inner, netip.Addr.Is6)
	}
	if host, port, ok := bytes.Cut(e, []byte(":")); ok && bytes.IndexByte(port, ':') < 0 {
		if !isPort(port) {
			return netip.Addr{}, ErrAddress
		}
		return parseAddr(host, netip.Addr.Is4)
	}
	return parseAddr(e, netip.Addr.IsValid)
}

// cutBrackets cuts "[inner]rest".
func cutBrackets(e []byte) (inner, rest []byte, ok bool) {
	if len(e) == 0 || e[0] != '[' {
		return nil, nil, false
	}
	return bytes.Cut(e[1:], []byte("]"))
}

func parseAddr(text []byte, is func(netip.Addr) bool) (netip.Addr, error) {
	addr, err := netip.ParseAddr(string(text))
	if err != nil || !is(addr) {
		return netip.Addr{}, ErrAddress
	}
	return client(addr)
}

// addForwarded takes a value of Forwarded (RFC 7239 section 4): elements with
// commas between, of pairs with semicolons between. An element without "for" is
// a hop that does not say who its client is.
//
// Each value must be well-formed by itself. So what a client wrote into the same
// one as a proxy, such as a quote without its end, can hide nothing of what the
// proxy added: that would be left over behind the quote.
func (h *hops) addForwarded(value []byte) error {
	for rest := value; len(rest) > 0; {
		hop, any := []byte(nil), false
		for rest = bytes.TrimLeft(rest, " \t;"); len(rest) > 0 && rest[0] != ','; rest = bytes.TrimLeft(rest, " \t;") {
			var name, v []byte
			var err error
			if name, v, rest, err = cutPair(rest); err != nil {
				return err
			}
			if bytes.EqualFold(name, []byte("for")) {
				if hop != nil {
					return ErrField
				}
				hop = v
			}
			if len(rest) > 0 && rest[0] != ';' && rest[0] != ',' {
				return ErrField
			}
			any = true
		}
		if any {
			if err := h.add(hop); err != nil {
				return err
			}
		}
		if len(rest) > 0 {
			rest = rest[1:]
		}
	}
	return nil
}

// cutPair cuts "name=value" and the white space behind it, where the value is a
// token or a quoted string. A quoted string is given without its quotes, and with
// its escapes as they are: no address has any.
func cutPair(s []byte) (name, value, rest []byte, err error) {
	n := tokenLen(s)
	if n == 0 || n == len(s) || s[n] != '=' {
		return nil, nil, nil, ErrField
	}
	name, s = s[:n], s[n+1:]
	if len(s) == 0 || s[0] != '"' {
		if n = tokenLen(s); n == 0 {
			return nil, nil, nil, ErrField
		}
		return name, s[:n], bytes.TrimLeft(s[n:], " \t"), nil
	}
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return name, s[1:i:i], bytes.TrimLeft(s[i+1:], " \t"), nil
		}
	}
	return nil, nil, nil, ErrField
}

// tokenLen is how many bytes of s are those of a token (RFC 9110 section 5.6.2).
func tokenLen(s []byte) int {
	for i, c := range s {
		switch {
		case '0' <= c && c <= '9', 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z', bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), c) >= 0:
		default:
			return i
		}
	}
	return len(s)
}

// parseNode reads a node (RFC 7239 section 6), whose port does not matter.
func parseNode(e []byte) (netip.Addr, error) {
	host, port := e, []byte(nil)
	inner, rest, bracketed := cutBrackets(e)
	switch {
	case bracketed:
		host, port = inner, rest
	default:
		if i := bytes.IndexByte(e, ':'); i >= 0 {
			host, port = e[:i], e[i:]
		}
	}
	if len(port) > 0 && (port[0] != ':' || !isPort(port[1:]) && !isMadeUp(port[1:])) {
		return netip.Addr{}, ErrAddress
	}
	switch {
	case bracketed:
		return parseAddr(host, netip.Addr.Is6)
	case len(e) == 0, bytes.EqualFold(host, []byte("unknown")), isMadeUp(host):
		return netip.Addr{}, ErrUnknown
	}
	return parseAddr(host, netip.Addr.Is4)
}

// isMadeUp reports whether s is an obfuscated identifier (RFC 7239 section 6.3).
func isMadeUp(s []byte) bool {
	return len(s) > 1 && s[0] == '_' && tokenLen(s) == len(s)
}
