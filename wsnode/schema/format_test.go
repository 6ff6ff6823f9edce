package schema

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestFormats(t *testing.T) {
	label63 := strings.Repeat("a", 63)
	for _, test := range []struct {
		format   string
		yes, not []string
	}{
		{"date-time", []string{
			"1963-06-19T08:30:06.283185Z", "1963-06-19t08:30:06.283185z", "2026-11-24T09:30:15+05:30", "1998-12-31T23:59:60Z", "1998-12-31T15:59:60.123-08:00", "2000-02-29T00:00:00-00:00",
		}, []string{
			"", "1998-12-31T23:58:60Z", "1998-12-31T22:59:60Z", "1990-02-31T15:59:59Z", "1990-12-31T15:59:59-24:00", "06/19/1963 08:30:06 PST", "2013-350T01:01:01", "1963-6-19T08:30:06Z", "1963-06-1T00:00:00Z",
			"1963-06-1৪T00:00:00Z", "1963-06-11T0৪:00:00Z", "1963-06-19T08:30:06", "1963-06-19 08:30:06Z", "1963-06-19T08:30:06.Z", "1963-06-19T08:30Z", "1963-06-19T24:00:00Z", "2026-11-24T", "+11963-06-19T08:30:06Z",
		}},
		{"date", []string{"1963-06-19", "2020-01-31", "2020-02-29", "2021-02-28", "0000-01-01", "2000-02-29", "2020-12-31"}, []string{
			"", "06/19/1963", "2013-350", "1998-1-20", "1998-01-1", "1998-13-01", "1998-00-01", "1998-01-00", "2020-01-32", "2021-02-29", "1900-02-29", "2020-02-30", "2020-04-31", "1963-06-1৪", "20230328", "2023-W01", "1963-06-19Z", "-1963-06-1", "1963-06-19T",
		}},
		{"time", []string{"08:30:06Z", "08:30:06.283185Z", "08:30:06+00:20", "08:30:06-08:00", "23:59:60Z", "23:59:60+00:00", "01:29:60+01:30", "23:29:60+23:30", "15:59:60-08:00", "00:29:60-23:30", "08:30:06z", "23:59:60.9Z"}, []string{
			"", "008:030:006Z", "8:3:6Z", "8:0030:6Z", "22:59:60Z", "23:58:60Z", "23:59:60+01:00", "23:59:60+00:30", "23:59:60-01:00", "08:30:06-8:000", "08:30:06+23:60", "08:30:06+24:00", "01:01:01,1111", "12:00:00", "12:00:00.52", "24:00:00Z",
			"00:60:00Z", "00:00:61Z", "12:00:00+0100", "12:00:00Z+00:30", "08:30:06 PST", "08:30:06#00:20", "0৮:30:06Z", "12:00:00.Z", "12:00:00+1:00",
		}},
		{"duration", []string{"P4DT12H30M5S", "P4Y", "PT0S", "P0D", "P1M", "PT1M", "PT36H", "P1DT12H", "P2W", "P1Y2M3D", "P1Y1D"}, []string{
			"", "P", "PT", "PT1D", "4DT12H30M5S", "P4DT12H30M5Sx", "P2D1Y", "P1D2H", "P2S", "P1Y2W", "P1", "P২Y", "PT1S2M", "P1YT", "P1W2D", "PW", "P-1D", "PT1HT1M", "p1d", "P1.5D",
		}},
		{"email", []string{"joe.bloggs@example.com", "te~st@example.com", "~test@example.com", "te.s.t@example.com", `"joe bloggs"@example.com`, `"joe..bloggs"@example.com`, `"joe@bloggs"@example.com`, `"a\"b"@example.com`, "joe.bloggs@[127.0.0.1]", "joe.bloggs@[IPv6:::1]", "a@b", strings.Repeat("a", 64) + "@b.c"}, []string{
			"", "2962", ".test@example.com", "test.@example.com", "te..st@example.com", "joe.bloggs@invalid=domain.com", "joe.bloggs@[127.0.0.300]", "@example.com", "a@", "a b@example.com", "é@example.com", "a@-b.c", `"a@b.c`, `"a"b"@c`, `"\"@c`, "a@b@c", "a@[]", "a@[IPv6:]", strings.Repeat("a", 65) + "@b.c",
		}},
		{"hostname", []string{"www.example.com", "xn--4gbwdl.xn--wgbh1c", "a", "a-b", "1host", "host.", label63 + ".com", strings.Repeat("a.", 126) + "a", "A.B"}, []string{
			"", ".", "-a-host-name-that-starts-with--", "not_a_valid_host_name", "-hostname", "hostname-", "a.-b", "a-.b", ".a", "a..b", "a...", "é", "a b", label63 + "a.com", strings.Repeat("a.", 127) + "a",
		}},
		{"ipv4", []string{"192.168.0.1", "0.0.0.0", "255.255.255.255", "87.10.0.1"}, []string{"", "127.0.0.0.1", "256.256.256.256", "127.0", "0x7f000001", "2130706433", "087.10.0.1", "87.10.0.1a", "1২7.0.0.1", "192.168.1.0/24", "1.2.3.", "1..2.3", ".1.2.3", "1.2.3.4 ", "0x7f.0.0.1", "1.2.3.0004"}},
		{"ipv6", []string{"::1", "::", "::abef", "d6::", "1:d6::42", "1:d6:0:0:0:0:0:42", "::ffff:192.168.0.1", "1:2::192.168.0.1", "1000:1000:1000:1000:1000:1000:255.255.255.255", "1:2:3:4:5:6:7::", "::2:3:4:5:6:7:8", "A:b:C:d:E:f:0:1"}, []string{
			"", ":", "12345::", "1:1:1:1:1:1:1:1:1:1:1:1:1:1:1:1", "::laptop", ":2:3:4:5:6:7:8", "1:2:3:4:5:6:7:", ":2:3:4::8", "1::d6::42", "1::2:192.168.256.1", "1::2:192.168.ff.1", "1:2:3:4:5:::8", "1:2:3:4:5:6:7", "1", "127.0.0.1", "1:2:3:4:1.2.3", "  ::1", "::1  ", "fe80::/64", "fe80::a%eth1",
			"1000:1000:1000:1000:1000:1000:1000:1000:255.255.255.255", "100:100:100:100:100:100:255.255.255.255.255", "1:2:3:4:5:6:7:৪", "1:2::192.16৪.0.1", "::1.2.3.4:5", "1:2:3:4:5:6:7:8::", ":::1",
		}},
		{"uri", []string{
			"http://foo.bar/?baz=qux#quux", "http://foo.com/blah_(wikipedia)_blah#cite-1", "http://foo.bar/?q=Test%20URL-encoded%20stuff", "http://xn--nw2a.xn--j6w193g/", "http://-.~_!$&'()*+,;=:%40:80%2f::::::@example.com", "http://223.255.255.254", "ftp://ftp.is.co.za/rfc/rfc1808.txt",
			"http://www.ietf.org/rfc/rfc2396.txt", "ldap://[2001:db8::7]/c=GB?objectClass?one", "mailto:John.Doe@example.com", "news:comp.infosystems.www.servers.unix", "tel:+1-816-555-1212", "urn:oasis:names:specification:docbook:dtd:xml:4.1.2", "a:", "a:b:c", "http://[v1.a:b]:80/", "http://h:/", "file:///etc/passwd", "x+1.-:/?",
		}, []string{
			"", ":", "//foo.bar/?baz=qux#quux", "/abc", `\\WINDOWS\fileshare`, "abc", "http:// shouldfail.com", ":// should fail", "bar,baz:foo", `https://[@example.org/test.txt`, `https://example.org/foobar\.txt`, "https://example.org/foobar<>.txt", "https://example.org/foobar{}.txt", "https://example.org/foobar^.txt",
			"https://example.org/foobar`.txt", "https://example.org/foo bar.txt", "https://example.org/foobar|.txt", "http://example.com/%", "http://example.com/%4", "http://example.com/%zz", "http://h:x/", "http://[::1", "http://[::1]x", "http://[1.2.3.4]/", "http://é/", "a:#b#c", "1a:b", "http://a@b@c/", "http://[v.a]/", "http://[v1.]/",
		}},
		{"uri-reference", []string{"http://foo.bar/?baz=qux#quux", "//foo.bar/?baz=qux#quux", "/abc", "abc", "#fragment", "", "?q", "a/b:c", "../x", "./a:b", "//", "a%20b"}, []string{`\\WINDOWS\fileshare`, `#frag\ment`, "unescaped é", "a b", "1a:b", ":a", "#a#b", "%", "//h:p"}},
		{"uuid", []string{"2EB8AA08-AA98-11EA-B4AA-73B441D16380", "2eb8aa08-aa98-11ea-b4aa-73b441d16380", "00000000-0000-0000-0000-000000000000"}, []string{"", "2eb8aa08-aa98-11ea-b4aa-73b441d1638", "2eb8aa08-aa98-11ea-73b441d16380", "2eb8aa08-aa98-11ea-b4ga-73b441d16380", "2eb8aa08aa9811eab4aa73b441d16380", "2eb8aa08aa98-11ea-b4aa73b441d16380----", "2eb8aa08-aa98-11ea-b4aa-73b441d163801"}},
		{"json-pointer", []string{"", "/", "//", "/foo/bar~0/baz~1/%a", "/foo//bar", "/foo/bar/", "/foo/0", "/ ", "/m~0n", "/foo/-", "/~1.1", "/~01", "/é"}, []string{"a", "0", "#", "#/", "a/a", "/foo/bar~", "/~2", "/~0~", "/~~", "/~-1", "~0"}},
		{"relative-json-pointer", []string{"1", "0/foo/bar", "2/0/baz/1/zip", "0#", "120/foo"}, []string{"", "/foo/bar", "-1/foo/bar", "+1/foo", "0##", "01/a", "01#", "a", "0a", "1#/a"}},
		{"regex", []string{
			"", `([abc])+\s+$`, `^\d{3}-\d{4}$`, `a|b|`, `(?:a|b)*?`, `(?=a)b(?!c)`, `(?<=a)b(?<!c)`, `(?<year>\d{4})-\k<year>`, `\k<a>(?<a>b)`, `(a)\1`, `\1(a)`, `[a-z\d\-]`, `[^]`, `[]`, `[\b]`, `\u{1F600}\ud83d\ude00\u0041\x41\cA\0`, `\p{L}\P{Script=Greek}`, `a{2}b{2,}c{2,3}d*?e+?f??`, `\/\.\{`, `[[]`, `[-a]`, `[a-]`, `[+--]`, `é+`, `.^$\b\B`, `(?:)`, `\p{Lu}`,
		}, []string{
			`^(abc]`, `(`, `)`, `[`, `[a`, `a**`, `*a`, `+`, `?`, `{1}`, `}`, `]`, `a{1`, `a{,2}`, `a{2,1}`, `\`, `[\`, `\a`, `\é`, `\_`, `[z-a]`, `[\d-z]`, `[a-\w]`, `(a)\2`, `\k<b>(?<a>b)`, `\k`, `\k<`, `(?<a>.)(?<a>.)`, `(?<1a>.)`, `(?<a`, `(?a)`, `(?i:a)`, `^*`, `\b+`, `(?=a)*`, `(?<=a)+`, `\u{110000}`, `\u{}`, `\u12`, `\x1`, `\c1`, `\01`,
			`\p`, `\pL`, `\p{`, `\p{}`, `\p{a=}`, `\p{=a}`, `\p{é}`, `\p{^Lu}`, `[\B]`, `[\k<a>]`, `[\1]`, strings.Repeat("(", 300) + strings.Repeat(")", 300), `(?`, `(?<`,
		}},
	} {
		check := formats[test.format]
		for _, text := range test.yes {
			if !check([]byte(text)) {
				t.Errorf("%q is a %s", text, test.format)
			}
		}
		for _, text := range test.not {
			if check([]byte(text)) {
				t.Errorf("%q is no %s", text, test.format)
			}
		}
	}
}

// FuzzFormats proves that no text makes a format panic or allocate nothing but
// time, and that those agree with the standard library which it knows.
func FuzzFormats(f *testing.F) {
	for _, seed := range []string{"2024-02-29", "2026-11-24T09:30:15.5+01:00", "0000-01-01T0:00:00+00:00", "::ffff:1.2.3.4", "10.0.0.1", "a@b.c", "http://[::1]:80/?#", "P1DT1S", `(?<a>[a-\u{ff}]{1,2})\k<a>`, "xn--a.b", "/~0~1", "0#"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		in := []byte(text)
		got := map[string]bool{}
		for name, check := range formats {
			got[name] = check(in)
		}
		if string(in) != text {
			t.Fatal("a format wrote into its input")
		}
		_, err := time.Parse(time.DateOnly, text)
		agree(t, text, "date", got["date"], err == nil)
		if addr, err := netip.ParseAddr(text); !strings.Contains(text, "%") {
			agree(t, text, "ipv4", got["ipv4"], err == nil && addr.Is4())
			agree(t, text, "ipv6", got["ipv6"], err == nil && addr.Is6())
		}
		// Package time takes an hour of one digit too, and a comma for the point.
		if at, err := time.Parse(time.RFC3339, text); err == nil && !at.IsZero() && text[len("2006-01-02T1")] != ':' && !strings.Contains(text, ",") && !got["date-time"] {
			t.Errorf("%q is a date-time to package time", text)
		}
		if got["uri"] && !got["uri-reference"] {
			t.Errorf("%q is a uri and no uri-reference", text)
		}
	})
}

func agree(t *testing.T, text, format string, got, want bool) {
	t.Helper()
	if got != want {
		t.Errorf("%q is a %s: %v, want %v", text, format, got, want)
	}
}
