package schema

import "bytes"

// isURI: RFC 3986 section 3.
func isURI(b []byte) bool {
	colon := bytes.IndexByte(b, ':')
	if colon < 1 || !isScheme(b[:colon]) {
		return false
	}
	return isHierarchy(b[colon+1:])
}

// isURIReference: RFC 3986 section 4.1.
func isURIReference(b []byte) bool {
	if isURI(b) {
		return true
	}
	// In a relative path the first segment has no colon, or it would be a scheme.
	segment := b
	if end := bytes.IndexAny(b, "/?#"); end >= 0 {
		segment = b[:end]
	}
	return bytes.IndexByte(segment, ':') < 0 && isHierarchy(b)
}

func isScheme(b []byte) bool {
	return 'a' <= b[0]|0x20 && b[0]|0x20 <= 'z' && scheme.all(b)
}

// isHierarchy checks what follows the scheme.
func isHierarchy(b []byte) bool {
	if hash := bytes.IndexByte(b, '#'); hash >= 0 {
		if !encoded(b[hash+1:], afterPath) {
			return false
		}
		b = b[:hash]
	}
	if query := bytes.IndexByte(b, '?'); query >= 0 {
		if !encoded(b[query+1:], afterPath) {
			return false
		}
		b = b[:query]
	}
	if len(b) >= 2 && b[0] == '/' && b[1] == '/' {
		b = b[2:]
		end := bytes.IndexByte(b, '/')
		if end < 0 {
			end = len(b)
		}
		if !isAuthority(b[:end]) {
			return false
		}
		b = b[end:]
	}
	for len(b) > 0 && b[0] == '/' {
		b = b[1:]
	}
	return encoded(b, pathSet)
}

var pathSet = union(pchar, newByteSet("", "/"))

// isAuthority: RFC 3986 section 3.2.
func isAuthority(b []byte) bool {
	if at := bytes.LastIndexByte(b, '@'); at >= 0 {
		if !encoded(b[:at], userinfo) {
			return false
		}
		b = b[at+1:]
	}
	if len(b) > 0 && b[0] == '[' {
		end := bytes.IndexByte(b, ']')
		if end < 0 || !isIPLiteral(b[1:end]) {
			return false
		}
		b = b[end+1:]
		return len(b) == 0 || b[0] == ':' && leadingDigits(b[1:]) == len(b)-1
	}
	if colon := bytes.IndexByte(b, ':'); colon >= 0 {
		if leadingDigits(b[colon+1:]) != len(b)-colon-1 {
			return false
		}
		b = b[:colon]
	}
	return encoded(b, regName)
}

// isIPLiteral checks what is between brackets: an IPv6 address, or one of a
// version to come.
func isIPLiteral(b []byte) bool {
	if len(b) == 0 || b[0]|0x20 != 'v' {
		return isIPv6(b)
	}
	dot := bytes.IndexByte(b, '.')
	return dot > 1 && hexadecimal.all(b[1:dot]) && dot < len(b)-1 && userinfo.all(b[dot+1:])
}

// encoded checks that a text is of these characters and of bytes written as %XX.
func encoded(b []byte, allowed *byteSet) bool {
	for {
		b = b[allowed.span(b):]
		if len(b) == 0 {
			return true
		}
		if b[0] != '%' || len(b) < 3 || !hexadecimal.all(b[1:3]) {
			return false
		}
		b = b[3:]
	}
}
