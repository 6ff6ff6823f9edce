package wsconn

import (
	"bytes"
	"encoding/binary"
)

// charset is a set of bytes; all of ours are within ASCII, its first half.
type charset [4]uint64

func (s *charset) has(c byte) bool { return s[c>>6]>>(c&63)&1 != 0 }

// only reports whether p is made of set's characters alone.
func only[T string | []byte](p T, set *charset) bool {
	for i := range len(p) {
		if !set.has(p[i]) {
			return false
		}
	}
	return true
}

const (
	digits  = (1<<10 - 1) << '0'
	letters = (1<<26-1)<<('A'-64) | (1<<26-1)<<('a'-64)

	tokenLow  = digits | 1<<'!' | 1<<'#' | 1<<'$' | 1<<'%' | 1<<'&' | 1<<'\'' | 1<<'*' | 1<<'+' | 1<<'-' | 1<<'.'
	tokenHigh = letters | 1<<('^'-64) | 1<<('_'-64) | 1<<('`'-64) | 1<<('|'-64) | 1<<('~'-64)
)

var (
	// tchar (RFC 9110 §5.6.2).
	tokenChars = charset{tokenLow, tokenHigh}
	// A protocol name with a version, as Upgrade lists them (RFC 9110 §7.8).
	protocolChars = charset{tokenLow | 1<<'/', tokenHigh}
	// Path and query (RFC 3986 §3.3, §3.4), and what browsers leave unescaped
	// there beyond it.
	targetChars = charset{
		digits | 1<<'!' | 1<<'$' | 1<<'%' | 1<<'&' | 1<<'\'' | 1<<'(' | 1<<')' | 1<<'*' | 1<<'+' | 1<<',' |
			1<<'-' | 1<<'.' | 1<<'/' | 1<<':' | 1<<';' | 1<<'=' | 1<<'?',
		letters | 1<<('@'-64) | 1<<('_'-64) | 1<<('~'-64) |
			1<<('['-64) | 1<<(']'-64) | 1<<('^'-64) | 1<<('`'-64) | 1<<('{'-64) | 1<<('|'-64) | 1<<('}'-64),
	}
	// A host name or an IPv4 address. Escapes, user names and whatever else
	// RFC 3986 would allow in a registered name are refused.
	hostChars = charset{digits | 1<<'-' | 1<<'.', letters | 1<<('_'-64)}
	// Between the brackets of an IPv6 address.
	ipv6Chars = charset{digits | 1<<':' | 1<<'.', (1<<6-1)<<('A'-64) | (1<<6-1)<<('a'-64)}
	// A port.
	digitChars = charset{digits}
)

func isToken[T string | []byte](p T) bool { return len(p) > 0 && only(p, &tokenChars) }

// clean reports whether p is free of control characters other than HTAB.
func clean(p []byte) bool {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	for len(p) >= 8 {
		x := binary.LittleEndian.Uint64(p)
		del := x ^ 0x7f*ones
		// A byte's high bit is set where it is below 0x20, or DEL.
		if ((x-0x20*ones)&^x|(del-ones)&^del)&highs != 0 && !cleanBytes(p[:8]) {
			return false
		}
		p = p[8:]
	}
	return cleanBytes(p)
}

func cleanBytes[T string | []byte](p T) bool {
	for i := range len(p) {
		if p[i] < ' ' && p[i] != '\t' || p[i] == 0x7f {
			return false
		}
	}
	return true
}

// validHost reports whether h is a host name or an address, with or without a
// port.
func validHost(h []byte) bool {
	name, port := h, []byte(nil)
	set := &hostChars
	if len(h) > 0 && h[0] == '[' {
		end := bytes.IndexByte(h, ']')
		if end < 0 {
			return false
		}
		name, port, set = h[1:end], h[end+1:], &ipv6Chars
		if len(port) > 0 && port[0] != ':' {
			return false
		}
	} else if colon := bytes.IndexByte(h, ':'); colon >= 0 {
		name, port = h[:colon], h[colon:]
	}
	if len(port) > 0 {
		port = port[1:]
	}
	return len(name) > 0 && only(name, set) && len(port) <= 5 && only(port, &digitChars)
}

// validTarget reports whether t is an origin-form target (RFC 9112 §3.2.1)
// whose escapes are whole and hide no NUL.
func validTarget(t []byte) bool {
	if len(t) == 0 || t[0] != '/' {
		return false
	}
	for i, c := range t {
		if !targetChars.has(c) {
			return false
		}
		if c == '%' && (len(t)-i < 3 || !isHex(t[i+1]) || !isHex(t[i+2]) || t[i+1] == '0' && t[i+2] == '0') {
			return false
		}
	}
	return true
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

// isSpace is the optional white space of RFC 9110 §5.6.3.
func isSpace(c byte) bool { return c == ' ' || c == '\t' }

func trim(p []byte) []byte {
	for len(p) > 0 && isSpace(p[0]) {
		p = p[1:]
	}
	for len(p) > 0 && isSpace(p[len(p)-1]) {
		p = p[:len(p)-1]
	}
	return p
}

// nextElement cuts the first element off a comma-separated list.
func nextElement(list []byte) (element, rest []byte) {
	if i := bytes.IndexByte(list, ','); i >= 0 {
		return trim(list[:i]), list[i+1:]
	}
	return trim(list), nil
}

// lists reports whether element, in any case, is on the list, and whether the
// list is made of set's characters. Empty elements do not count (RFC 9110
// §5.6.1).
func lists(list []byte, element string, set *charset) (found, ok bool) {
	for len(list) > 0 {
		var e []byte
		e, list = nextElement(list)
		if !only(e, set) {
			return false, false
		}
		found = found || equalFold(e, element)
	}
	return found, true
}

// equalFold reports whether the token name is lower, which has no upper case
// letters, but for case. In tokens, setting bit 0x20 changes letters alone.
func equalFold(name []byte, lower string) bool {
	if len(name) != len(lower) {
		return false
	}
	for i, c := range name {
		if c|0x20 != lower[i] {
			return false
		}
	}
	return true
}

// fieldKind tells the header fields that the opening handshake knows.
type fieldKind uint8

const (
	otherField fieldKind = iota
	hostField
	originField
	userAgentField
	authorizationField
	cookieField
	connectionField
	upgradeField
	contentLengthField
	transferEncodingField
	keyField
	versionField
	protocolField
)

// singleton reports whether a second field of this kind is refused. Of two
// values, a proxy before us could have checked the one and we take the other;
// RFC 6455 (§11.3), RFC 9110 and RFC 6454 define each of these to stand once.
func (k fieldKind) singleton() bool {
	switch k {
	case hostField, originField, userAgentField, authorizationField, contentLengthField, keyField, versionField:
		return true
	}
	return false
}

// kindOf tells which field has this name, a token.
func kindOf(name []byte) fieldKind {
	is := func(lower string, k fieldKind) fieldKind {
		if equalFold(name, lower) {
			return k
		}
		return otherField
	}
	switch len(name) {
	case 4:
		return is("host", hostField)
	case 6:
		return max(is("origin", originField), is("cookie", cookieField))
	case 7:
		return is("upgrade", upgradeField)
	case 10:
		return max(is("connection", connectionField), is("user-agent", userAgentField))
	case 13:
		return is("authorization", authorizationField)
	case 14:
		return is("content-length", contentLengthField)
	case 17:
		return max(is("transfer-encoding", transferEncodingField), is("sec-websocket-key", keyField))
	case 21:
		return is("sec-websocket-version", versionField)
	case 22:
		return is("sec-websocket-protocol", protocolField)
	}
	return otherField
}
