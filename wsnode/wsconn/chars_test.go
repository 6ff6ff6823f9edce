package wsconn

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"
)

const alphanumeric = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

func TestCharsets(t *testing.T) {
	for name, c := range map[string]struct {
		set  *charset
		want string
	}{
		"9110/5.6.2 tchar":                        {&tokenChars, "!#$%&'*+-.^_`|~" + alphanumeric},
		"9110/7.8 protocol":                       {&protocolChars, "!#$%&'*+-.^_`|~/" + alphanumeric},
		"3986/3.3 pchar, query, browsers' extras": {&targetChars, "-._~%!$&'()*+,;=:@/?" + "[]^`{|}" + alphanumeric},
		"host":      {&hostChars, "-._" + alphanumeric},
		"3986 IPv6": {&ipv6Chars, "0123456789abcdefABCDEF:."},
		"port":      {&digitChars, "0123456789"},
	} {
		for b := range 256 {
			if want := b < 128 && strings.IndexByte(c.want, byte(b)) >= 0; c.set.has(byte(b)) != want {
				t.Errorf("%s: %q is in the set: %t", name, rune(b), !want)
			}
		}
	}
}

// clean looks at eight bytes at a time: each byte at each place.
func TestClean(t *testing.T) {
	for n := 1; n <= 20; n++ {
		for at := range n {
			for b := range 256 {
				p := bytes.Repeat([]byte{' '}, n)
				p[at] = byte(b)
				if want := b == '\t' || b >= ' ' && b != 0x7f; clean(p) != want {
					t.Fatalf("byte %#x at %d of %d: clean is %t", b, at, n, !want)
				}
				// A tab before it sends its word the slow way.
				if p[0] = '\t'; at > 0 && clean(p) != (b == '\t' || b >= ' ' && b != 0x7f) {
					t.Fatalf("byte %#x at %d of %d behind a tab", b, at, n)
				}
			}
		}
	}
}

func TestEqualFoldOverTokens(t *testing.T) {
	for b := range 256 {
		if !tokenChars.has(byte(b)) {
			continue
		}
		for _, l := range []byte("abcdefghijklmnopqrstuvwxyz-") {
			want := strings.ToLower(string(rune(b))) == string(l)
			if got := equalFold([]byte{byte(b)}, string(l)); got != want {
				t.Errorf("%#x is %q: %t", byte(b), l, got)
			}
		}
	}
}

// utf8Prefix says yes exactly to what some bytes could complete.
func TestUTF8Prefix(t *testing.T) {
	edges := []byte{'a', 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc1, 0xc2, 0xe0, 0xe1, 0xed, 0xf0, 0xf1, 0xf4, 0xf5}
	follow := []byte{0x80, 0x90, 0x9f, 0xa0, 0xbf}
	completable := func(p []byte) bool {
		q := append([]byte(nil), p...)
		var try func(depth int) bool
		try = func(depth int) bool {
			if utf8.Valid(q) {
				return true
			}
			if depth == 0 {
				return false
			}
			for _, c := range follow {
				q = append(q, c)
				if try(depth - 1) {
					return true
				}
				q = q[:len(q)-1]
			}
			return false
		}
		return try(3)
	}
	var check func(p []byte, depth int)
	check = func(p []byte, depth int) {
		unfinished, ok := utf8Prefix(p)
		if want := completable(p); ok != want {
			t.Fatalf("% x: %t, want %t", p, ok, want)
		}
		if ok && (unfinished > 0) == utf8.Valid(p) {
			t.Fatalf("% x: %d bytes unfinished", p, unfinished)
		}
		if depth > 0 {
			for _, c := range edges {
				check(append(p[:len(p):len(p)], c), depth-1)
			}
		}
	}
	check(nil, 4)
}

// The assembly must say what the standard library says, at every length and
// place.
func TestValidUTF8(t *testing.T) {
	for n := 0; n < 200; n++ {
		for _, unit := range []string{"a", "é", "€", "🜂"} {
			p := []byte(strings.Repeat("x", n%7) + strings.Repeat(unit, n/len(unit)+1))
			for _, b := range []byte{'x', 0x80, 0xff, 0xc0, 0xed} {
				for _, at := range []int{0, len(p) / 2, len(p) - 1} {
					q := append([]byte(nil), p...)
					q[at] = b
					if got, want := validUTF8(q), utf8.Valid(q); got != want {
						t.Fatalf("% x: %t, want %t", q, got, want)
					}
				}
			}
			for cut := max(0, len(p)-4); cut <= len(p); cut++ {
				if got, want := validUTF8(p[:cut]), utf8.Valid(p[:cut]); got != want {
					t.Fatalf("% x: %t, want %t", p[:cut], got, want)
				}
			}
		}
	}
}
