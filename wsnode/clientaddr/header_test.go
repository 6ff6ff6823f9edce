package clientaddr

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
)

// v2 is a header of version 2.
func v2(command, family byte, rest string) string {
	return signature2 + string([]byte{command, family, byte(len(rest) >> 8), byte(len(rest))}) + rest
}

const (
	tcp4 = "\xc0\x00\x02\x01" + "\xc0\x00\x02\x02" + "\x9c\x40" + "\x01\xbb" // 192.0.2.1 to 192.0.2.2
	ip6  = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"    // 2001:db8::/120
	tcp6 = ip6 + "\x01" + ip6 + "\x02" + "\x9c\x40" + "\x01\xbb"
	tlv  = "\x20\x00\x03abc" + "\x03\x00\x04\x00\x00\x00\x00"
)

var mapped6 = string(make([]byte, 10)) + "\xff\xff\xc0\x00\x02\x01"

// headerCases are PROXY headers; the numbers are of the sections of their
// specification.
var headerCases = []struct {
	rule, header string
	want         any // an address as text, "local", an error, or nil where more must come
}{
	{"2.1 TCP4", "PROXY TCP4 192.0.2.1 192.0.2.2 40000 443\r\n", "192.0.2.1"},
	{"2.1 TCP6", "PROXY TCP6 2001:db8::1 2001:db8::2 40000 443\r\n", "2001:db8::1"},
	{"2.1 the longest", "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe 65535 65535\r\n", ErrAddress},
	{"2.1 a long one", "PROXY TCP6 2001:ffff:ffff:ffff:ffff:ffff:ffff:fffe 2001:ffff:ffff:ffff:ffff:ffff:ffff:fffe 65535 65535\r\n", "2001:ffff:ffff:ffff:ffff:ffff:ffff:fffe"},
	{"mapped IPv4 is IPv4", "PROXY TCP6 ::ffff:192.0.2.1 ::ffff:192.0.2.2 40000 443\r\n", "192.0.2.1"},
	{"ports from 0 on", "PROXY TCP4 192.0.2.1 192.0.2.2 0 0\r\n", "192.0.2.1"},
	{"2.1 UNKNOWN", "PROXY UNKNOWN\r\n", ErrNoAddress},
	{"2.1 UNKNOWN and what is to be ignored", "PROXY UNKNOWN ffff::1 x\r\n", ErrNoAddress},
	{"2.1 at most 107 bytes", "PROXY UNKNOWN " + strings.Repeat("x", 91) + "\r\n", ErrNoAddress},
	{"2.1 one more", "PROXY UNKNOWN " + strings.Repeat("x", 92) + "\r\n", ErrHeaderSize},
	{"another family", "PROXY UDP4 192.0.2.1 192.0.2.2 40000 443\r\n", ErrHeader},
	{"small letters", "PROXY tcp4 192.0.2.1 192.0.2.2 40000 443\r\n", ErrHeader},
	{"the other family's address", "PROXY TCP4 2001:db8::1 192.0.2.2 40000 443\r\n", ErrHeader},
	{"mapped in IPv4", "PROXY TCP4 ::ffff:192.0.2.1 192.0.2.2 40000 443\r\n", ErrHeader},
	{"IPv4 in IPv6", "PROXY TCP6 192.0.2.1 2001:db8::2 40000 443\r\n", ErrHeader},
	{"a zone", "PROXY TCP6 fe80::1%eth0 2001:db8::2 40000 443\r\n", ErrAddress},
	{"no address", "PROXY TCP4 0.0.0.0 192.0.2.2 40000 443\r\n", ErrAddress},
	{"zeros before a number", "PROXY TCP4 192.0.02.1 192.0.2.2 40000 443\r\n", ErrHeader},
	{"zeros before a port", "PROXY TCP4 192.0.2.1 192.0.2.2 040 443\r\n", ErrHeader},
	{"a port too high", "PROXY TCP4 192.0.2.1 192.0.2.2 40000 65536\r\n", ErrHeader},
	{"a port with a sign", "PROXY TCP4 192.0.2.1 192.0.2.2 +1 443\r\n", ErrHeader},
	{"a word too few", "PROXY TCP4 192.0.2.1 192.0.2.2 40000\r\n", ErrHeader},
	{"a word too many", "PROXY TCP4 192.0.2.1 192.0.2.2 40000 443 \r\n", ErrHeader},
	{"two spaces", "PROXY TCP4  192.0.2.1 192.0.2.2 40000 443\r\n", ErrHeader},
	{"no CR", "PROXY TCP4 192.0.2.1 192.0.2.2 40000 443\n", ErrHeader},
	{"nothing", "", nil},
	{"one byte of both", "P", nil},
	{"half a prefix", "PROX", nil},
	{"half a header", "PROXY TCP4 192.0.2.1", nil},
	{"a header but for its end", "PROXY TCP4 192.0.2.1 192.0.2.2 40000 443\r", nil},
	{"a request", "GET / HTTP/1.1\r\n", ErrNoHeader},
	{"a request that begins as a header does", "PROPFIND / HTTP/1.1\r\n", ErrNoHeader},
	{"a ClientHello", "\x16\x03\x01\x02\x00", ErrNoHeader},

	{"2.2 TCP over IPv4", v2(0x21, 0x11, tcp4), "192.0.2.1"},
	{"2.2 TCP over IPv6", v2(0x21, 0x21, tcp6), "2001:db8::1"},
	{"2.2 what stands behind the addresses is skipped", v2(0x21, 0x11, tcp4+tlv), "192.0.2.1"},
	{"mapped IPv4 is IPv4 in binary too", v2(0x21, 0x21, mapped6+mapped6+"\x00\x01\x00\x02"), "192.0.2.1"},
	{"2.2 LOCAL", v2(0x20, 0x00, ""), "local"},
	{"2.2 LOCAL, whatever it says beside", v2(0x20, 0x21, tlv), "local"},
	{"2.2 unspecified", v2(0x21, 0x00, tlv), ErrNoAddress},
	{"2.2 unix sockets", v2(0x21, 0x31, strings.Repeat("/", 216)), ErrNoAddress},
	{"2.2 datagrams", v2(0x21, 0x12, tcp4), ErrHeader},
	{"2.2 another family", v2(0x21, 0x41, tcp4), ErrHeader},
	{"2.2 another transport", v2(0x21, 0x13, tcp4), ErrHeader},
	{"2.2 another version", v2(0x11, 0x11, tcp4), ErrHeader},
	{"2.2 another command", v2(0x22, 0x11, tcp4), ErrHeader},
	{"2.2 too short for its addresses", v2(0x21, 0x11, tcp4[1:]), ErrHeader},
	{"2.2 too short for those of IPv6", v2(0x21, 0x21, tcp4), ErrHeader},
	{"no address in binary", v2(0x21, 0x11, "\x00\x00\x00\x00"+tcp4[4:]), ErrAddress},
	{"as long as may be", v2(0x21, 0x11, tcp4+strings.Repeat("x", MaxHeader-head2-12)), "192.0.2.1"},
	{"too long", v2(0x21, 0x11, tcp4+strings.Repeat("x", MaxHeader-head2-11)), ErrHeaderSize},
	{"LOCAL too long", v2(0x20, 0x11, tcp4+strings.Repeat("x", MaxHeader-head2-11)), ErrHeaderSize},
	{"half a signature", signature2[:7], nil},
	{"a signature that is none", "\r\n\r\n\x00\r\nQUIT\r", ErrNoHeader},
	{"half of the binary head", v2(0x21, 0x11, tcp4)[:14], nil},
	{"half of the addresses", v2(0x21, 0x11, tcp4)[:20], nil},
}

func TestParseHeader(t *testing.T) {
	for _, c := range headerCases {
		for _, more := range []string{"", "GET", "\n", "PROXY TCP4 203.0.113.9 192.0.2.2 1 2\r\n"} {
			if c.want == nil && more != "" {
				continue
			}
			h, n, err := ParseHeader([]byte(c.header + more))
			ok := false
			switch want := c.want.(type) {
			case nil:
				ok = n == 0 && err == nil
			case error:
				ok = n == 0 && err == want
			case string:
				ok = n == len(c.header) && err == nil && (h.Client.String() == want || h.Local && want == "local") && h.Local != h.Client.IsValid()
			}
			if !ok {
				t.Errorf("%s: %+v, %d, %v, want %v and %d", c.rule, h, n, err, c.want, len(c.header))
			}
		}
	}
}

// FuzzParseHeader proves that a header that comes a byte at a time is the same
// as one that comes at once, that it ends within bounds, and that no client is
// given whom the header does not name.
func FuzzParseHeader(f *testing.F) {
	for _, c := range headerCases {
		f.Add([]byte(c.header))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		b = b[:min(len(b), MaxHeader+2)]
		h, n, err := ParseHeader(b)
		if n > MaxHeader || n > len(b) || n != 0 && err != nil || n == 0 && err == nil && len(b) >= MaxHeader {
			t.Fatalf("%d of %d bytes, %v", n, len(b), err)
		}
		if n > 0 && h.Local == h.Client.IsValid() || n == 0 && h != (Header{}) {
			t.Fatalf("%+v", h)
		}
		for i := range b {
			h1, n1, err1 := ParseHeader(b[:i+1])
			if n1 == 0 && err1 == nil {
				continue
			}
			if h1 != h || n1 != n || err1 != err {
				t.Fatalf("of %d bytes %+v, %d, %v; of all %+v, %d, %v", i+1, h1, n1, err1, h, n, err)
			}
			break
		}
		if h.Client.IsValid() && bytes.HasPrefix(b, []byte(prefix1)) {
			word := bytes.Fields(b)[2]
			if addr, err := netip.ParseAddr(string(word)); err != nil || addr.Unmap() != h.Client {
				t.Fatalf("%q is taken for %v", word, h.Client)
			}
		}
	})
}
