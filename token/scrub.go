package token

import "bytes"

// scrubbed stands where token text stood.
const scrubbed = Prefix + "[scrubbed]"

// Scrub replaces whatever in s follows a token's prefix, as far as base64url
// characters go, so that peers' strings can be logged and shown. Cut, extended
// and repeated tokens are scrubbed too. It returns s itself when s holds no
// prefix, which allocates nothing; case does not matter, since HTTP clients
// fold some names.
func Scrub(s []byte) []byte {
	at := indexPrefix(s)
	if at < 0 {
		return s
	}
	out := make([]byte, 0, len(s)+len(scrubbed))
	for at >= 0 {
		out = append(out, s[:at]...)
		out = append(out, scrubbed...)
		s = s[at+len(Prefix):]
		for len(s) > 0 && isBase64URL(s[0]) {
			s = s[1:]
		}
		at = indexPrefix(s)
	}
	return append(out, s...)
}

func indexPrefix(s []byte) int {
	for from := 0; ; {
		i := bytes.IndexByte(s[from:], Prefix[len(Prefix)-1]) // '_' is rarer than 'g'
		if i < 0 {
			return -1
		}
		end := from + i + 1
		if end >= len(Prefix) && bytes.EqualFold(s[end-len(Prefix):end], []byte(Prefix)) {
			return end - len(Prefix)
		}
		from = end
	}
}

func isBase64URL(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}
