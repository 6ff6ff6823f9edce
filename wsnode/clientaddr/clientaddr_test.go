package clientaddr

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestNew(t *testing.T) {
	one := func(mode Mode, networks ...string) []Trusted { return []Trusted{{networks, mode}} }
	many := make([]string, maxNetworks+1)
	for i := range many {
		many[i] = fmt.Sprintf("10.%d.%d.0/24", i/256, i%256)
	}
	for _, c := range []struct {
		rule    string
		trusted []Trusted
		want    string // of the error; empty for none
	}{
		{"nobody", nil, ""},
		{"a network, an address, IPv6", one(Proxy, "10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "::1"), ""},
		{"IPv4 in IPv6", one(XFF, "::ffff:10.0.0.0/104", "::ffff:192.0.2.1"), ""},
		{"one mode twice", one(XFF, "10.0.0.0/8", "10.1.0.0/16"), ""},
		{"no mode", one("", "10.0.0.0/8"), `trusted_proxies[0].mode: "" is neither proxy, xff nor forwarded`},
		{"another mode", one("both", "10.0.0.0/8"), `trusted_proxies[0].mode: "both" is neither proxy, xff nor forwarded`},
		{"no network", one(XFF), "trusted_proxies[0].networks: required, at least one"},
		{"a name", one(XFF, "lb.example.com"), `trusted_proxies[0].networks[0]: "lb.example.com" is no address and no network such as 10.1.0.0/16`},
		{"a zone", one(XFF, "fe80::1%eth0"), `trusted_proxies[0].networks[0]: "fe80::1%eth0" is no address and no network such as 10.1.0.0/16`},
		{"a length too long", one(XFF, "10.0.0.0/33"), `trusted_proxies[0].networks[0]: "10.0.0.0/33" is no network such as 10.1.0.0/16`},
		{"bits beyond the length", one(XFF, "10.0.0.0/8", "10.1.2.3/16"), `trusted_proxies[0].networks[1]: "10.1.2.3/16" has bits beyond its length: say 10.1.0.0/16`},
		{"everybody", one(XFF, "0.0.0.0/0"), `trusted_proxies[0].networks[0]: "0.0.0.0/0" trusts whoever connects, who could then be anybody: name the proxies' networks`},
		{"everybody in IPv6", one(XFF, "::/0"), `trusted_proxies[0].networks[0]: "::/0" trusts whoever connects, who could then be anybody: name the proxies' networks`},
		{"everybody, mapped", one(XFF, "::ffff:0:0/96"), `trusted_proxies[0].networks[0]: "::ffff:0:0/96" trusts whoever connects, who could then be anybody: name the proxies' networks`},
		{"wider than what is mapped", one(XFF, "::ffff:0:0/95"), `trusted_proxies[0].networks[0]: "::ffff:0:0/95" is wider than all of IPv4, which ::ffff:0:0/96 stands for`},
		{"two modes for one", []Trusted{{[]string{"10.0.0.0/8"}, Proxy}, {[]string{"192.0.2.1", "::ffff:10.1.0.1"}, XFF}},
			"trusted_proxies[1].networks[1]: ::ffff:10.1.0.1 overlaps 10.0.0.0/8 of trusted_proxies[0].networks[0], whose mode is proxy: a proxy has one mode"},
		{"too many", one(XFF, many...), "trusted_proxies: 257 networks are more than 256; name networks that hold several of them"},
	} {
		_, err := New("trusted_proxies", c.trusted)
		if got := fmt.Sprint(err); got != c.want && !(err == nil && c.want == "") {
			t.Errorf("%s: %s, want %q", c.rule, got, c.want)
		}
	}
	_, err := New("p", []Trusted{{nil, ""}, {[]string{"x", "y"}, XFF}})
	if n := len(strings.Split(err.Error(), "\n")); n != 4 {
		t.Errorf("%d problems at once, want 4: %v", n, err)
	}
}

// testProxies has a network of each mode.
func testProxies(t testing.TB) *Proxies {
	t.Helper()
	p, err := New("p", []Trusted{
		{[]string{"10.1.0.0/16", "2001:db8:1::/48"}, Proxy},
		{[]string{"10.2.0.0/16", "2001:db8:2::/48"}, XFF},
		{[]string{"::ffff:10.3.0.0/112", "2001:db8:3::/48"}, Forwarded},
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestMode(t *testing.T) {
	p := testProxies(t)
	for addr, want := range map[string]Mode{
		"10.1.0.0": Proxy, "10.1.255.255": Proxy, "10.0.255.255": Untrusted, "::ffff:10.1.2.3": Proxy, "2001:db8:1::1": Proxy,
		"10.2.0.1": XFF, "2001:db8:2:ffff::": XFF, "10.3.0.1": Forwarded, "::ffff:10.3.0.1": Forwarded, "10.4.0.0": Untrusted,
		"::10.1.0.1": Untrusted, "2001:db8:4::": Untrusted,
	} {
		if got := p.Mode(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: %q, want %q", addr, got, want)
		}
	}
	if (*Proxies)(nil).Mode(netip.MustParseAddr("10.1.0.1")) != Untrusted {
		t.Error("nobody trusts somebody")
	}
}

func TestModeAllocs(t *testing.T) {
	p, addr := testProxies(t), netip.MustParseAddr("10.4.0.0")
	if n := testing.AllocsPerRun(100, func() { p.Mode(addr) }); n != 0 {
		t.Errorf("Mode: %v allocs, want 0", n)
	}
}

// fields are header fields, from lines.
func fields(lines ...string) func(yield func(name, value []byte) bool) {
	return func(yield func(name, value []byte) bool) {
		for _, l := range lines {
			name, value, _ := strings.Cut(l, ":")
			if !yield([]byte(name), []byte(strings.Trim(value, " \t"))) {
				return
			}
		}
	}
}

// clientCase is a request and its client, or why it has none.
type clientCase struct {
	rule  string
	lines []string
	want  any // an address as text, or an error
}

func testClient(t *testing.T, mode Mode, cases []clientCase) {
	t.Helper()
	p := testProxies(t)
	for _, c := range cases {
		got, err := p.Client(mode, fields(c.lines...))
		if want, ok := c.want.(error); ok {
			if err != want || got.IsValid() {
				t.Errorf("%s: %v, %v, want %v", c.rule, got, err, want)
			}
		} else if err != nil || got.String() != c.want {
			t.Errorf("%s: %v, %v, want %v", c.rule, got, err, c.want)
		}
	}
}

func TestXFF(t *testing.T) {
	one := func(rule, value string, want any) clientCase {
		return clientCase{rule, []string{"X-Forwarded-For: " + value}, want}
	}
	testClient(t, XFF, []clientCase{
		one("one address", "192.0.2.1", "192.0.2.1"),
		one("IPv6", "2001:db8::1", "2001:db8::1"),
		one("IPv6 in brackets", "[2001:db8::1]", "2001:db8::1"),
		one("a port", "192.0.2.1:40000", "192.0.2.1"),
		one("IPv6 and a port", "[2001:db8::1]:40000", "2001:db8::1"),
		one("mapped IPv4 is IPv4", "::ffff:192.0.2.1", "192.0.2.1"),
		one("mapped IPv4 in brackets", "[::ffff:192.0.2.1]:1", "192.0.2.1"),
		{"any case of the name", []string{"x-fORWARDED-for: 192.0.2.1"}, "192.0.2.1"},
		{"not another field", []string{"X-Real-IP: 192.0.2.1", "Forwarded: for=192.0.2.2", "X_Forwarded_For: 192.0.2.3"}, ErrNoField},
		one("an empty field", "", ErrNoField),
		one("empty elements do not count (RFC 9110 5.6.1)", ", 192.0.2.1, ,", "192.0.2.1"),
		one("the leftmost is the attacker's", "203.0.113.9, 192.0.2.1", "192.0.2.1"),
		one("proxies are passed over from the right", "203.0.113.9, 192.0.2.1, 10.2.0.1, 2001:db8:2::7", "192.0.2.1"),
		one("and mapped ones", "203.0.113.9, 192.0.2.1, ::ffff:10.2.0.1", "192.0.2.1"),
		one("but not proxies of another mode, who pass on what clients wrote", "203.0.113.9, 10.1.0.1, 10.2.0.1", "10.1.0.1"),
		one("where all are proxies, the leftmost", "10.2.0.3, 10.2.0.2", "10.2.0.3"),
		{"several fields are one list", []string{"X-Forwarded-For: 203.0.113.9, 192.0.2.1", "Host: x", "X-Forwarded-For: 10.2.0.1"}, "192.0.2.1"},
		{"the last field is the proxy's", []string{"X-Forwarded-For: 203.0.113.9", "X-Forwarded-For: 192.0.2.1"}, "192.0.2.1"},
		one("nonsense left of the client", `for="x, ;;, 999.1.1.1, 192.0.2.1`, "192.0.2.1"),
		one("nonsense for the client", "192.0.2.1, 999.1.1.1", ErrAddress),
		one("nonsense left of a proxy", "192.0.2.1, x, 10.2.0.1", ErrAddress),
		one("a name", "client.example.com", ErrAddress),
		one("unknown", "192.0.2.1, Unknown", ErrUnknown),
		one("zeros before", "192.0.2.01", ErrAddress),
		one("a short form", "192.0.513", ErrAddress),
		one("a zone", "fe80::1%eth0", ErrAddress),
		one("no address", "0.0.0.0", ErrAddress),
		one("no address of IPv6", "::", ErrAddress),
		one("a group's address", "ff02::1", ErrAddress),
		one("a port too high", "192.0.2.1:65536", ErrAddress),
		one("an empty port", "192.0.2.1:", ErrAddress),
		one("IPv4 in brackets", "[192.0.2.1]", ErrAddress),
		one("no end of brackets", "[2001:db8::1", ErrAddress),
		one("more behind brackets", "[2001:db8::1]x", ErrAddress),
		one("white space within", "192.0.2.1 192.0.2.2", ErrAddress),
		one("as many as may be", strings.Repeat("192.0.2.9,", maxHops-1)+"192.0.2.1", "192.0.2.1"),
		one("too many", strings.Repeat("192.0.2.9,", maxHops)+"192.0.2.1", ErrTooManyHops),
		{"too many over several fields", slices.Repeat([]string{"X-Forwarded-For: 192.0.2.9"}, maxHops+1), ErrTooManyHops},
	})
}

func TestForwarded(t *testing.T) {
	one := func(rule, value string, want any) clientCase {
		return clientCase{rule, []string{"Forwarded: " + value}, want}
	}
	testClient(t, Forwarded, []clientCase{
		one("4 one address", "for=192.0.2.1", "192.0.2.1"),
		one("4 names in any case", "Proto=https;FOR=192.0.2.1;By=_x", "192.0.2.1"),
		one("4 for need not be first", `by=203.0.113.43;for="192.0.2.1:47011";proto=http`, "192.0.2.1"),
		one("4 empty pairs and elements", ";for=192.0.2.1;, ,;", "192.0.2.1"),
		one("white space around semicolons", "for=192.0.2.1 ; proto=https", "192.0.2.1"),
		one("6 IPv6 is quoted and in brackets", `for="[2001:db8::1]"`, "2001:db8::1"),
		one("6 IPv6 and a port", `for="[2001:db8::1]:4711"`, "2001:db8::1"),
		one("6 a made-up port", `for="192.0.2.1:_p-1"`, "192.0.2.1"),
		one("6 mapped IPv4 is IPv4", `for="[::ffff:192.0.2.1]"`, "192.0.2.1"),
		{"not another field", []string{"X-Forwarded-For: 192.0.2.1"}, ErrNoField},
		one("an empty field", "", ErrNoField),
		one("semicolons alone", ";;", ErrNoField),
		one("7.1 proxies add to the right", "for=203.0.113.9, for=192.0.2.1", "192.0.2.1"),
		one("7.1 proxies are passed over", `for=203.0.113.9, for=192.0.2.1, for=10.3.0.1;by=_a, for="[2001:db8:3::1]"`, "192.0.2.1"),
		one("but not proxies of another mode", "for=203.0.113.9, for=10.2.0.1", "10.2.0.1"),
		one("where all are proxies, the leftmost", "for=10.3.0.3, for=10.3.0.2", "10.3.0.3"),
		{"7.1 several fields are one list", []string{"Forwarded: for=203.0.113.9, for=192.0.2.1", "Forwarded: for=10.3.0.1"}, "192.0.2.1"},
		one("6.2 unknown", "for=192.0.2.1, for=unknown", ErrUnknown),
		one("6.3 a made-up name", "for=_hidden", ErrUnknown),
		one("a hop without for", "for=192.0.2.1, by=10.3.0.1", ErrUnknown),
		one("an empty for", `for=""`, ErrUnknown),
		one("what a made-up name is made of", "for=_", ErrAddress),
		one("5 for once in an element", "for=192.0.2.1;for=192.0.2.2", ErrField),
		one("6 IPv6 that is not quoted", "for=2001:db8::1", ErrField),
		one("6 IPv6 without brackets", `for="2001:db8::1"`, ErrAddress),
		one("6 a port that is not quoted", "for=192.0.2.1:80", ErrField),
		one("a port too high", `for="192.0.2.1:65536"`, ErrAddress),
		one("an empty port", `for="192.0.2.1:"`, ErrAddress),
		one("IPv4 in brackets", `for="[192.0.2.1]"`, ErrAddress),
		one("an escape, which no address has", `for="192.0.2\.1"`, ErrAddress),
		one("no value", "for=", ErrField),
		one("no name", "=192.0.2.1", ErrField),
		one("no pair", "192.0.2.1", ErrField),
		one("white space around the equals sign", "for = 192.0.2.1", ErrField),
		one("no semicolon", "for=192.0.2.1 proto=https", ErrField),
		one("a comma in quotes divides nothing", `for="203.0.113.9, 192.0.2.1"`, ErrAddress),
		one("an escaped quote ends nothing", `x="a\", for=203.0.113.9;y=\"", for=192.0.2.1`, "192.0.2.1"),
		one("a quote that hides what a proxy added", `x=", for=192.0.2.1`, ErrField),
		one("the same where the proxy quotes", `x=", for="[2001:db8::1]"`, ErrField),
		one("the same over two pairs", `x=", for=192.0.2.1;by="y"`, ErrField),
		{"the same over two fields", []string{`Forwarded: for="203.0.113.9`, `Forwarded: for=192.0.2.1"`}, ErrField},
		one("as many as may be", strings.Repeat("for=192.0.2.9,", maxHops-1)+"for=192.0.2.1", "192.0.2.1"),
		one("too many", strings.Repeat("for=192.0.2.9,", maxHops)+"for=192.0.2.1", ErrTooManyHops),
	})
}

// FuzzClient proves that a client can't choose its address: whatever it wrote
// into the fields, behind what its proxy adds to them it is who the proxy says,
// or it is refused.
func FuzzClient(f *testing.F) {
	for _, s := range []string{"", "192.0.2.9", "192.0.2.9, ", "for=192.0.2.9", `for="192.0.2.9`, `x="`, `x="\`, `for=192.0.2.9;`, "for=", "10.2.0.1,", "for=10.3.0.1,", ",;,"} {
		f.Add(s, s, true)
		f.Add(s, "", false)
	}
	p := testProxies(f)
	f.Fuzz(func(t *testing.T, before, same string, other bool) {
		for mode, says := range map[Mode][]string{
			XFF:       {"203.0.113.1", "203.0.113.1:80", "::ffff:203.0.113.1", "203.0.113.1, 10.2.0.1"},
			Forwarded: {"for=203.0.113.1", `for="203.0.113.1:80"`, `for="[::ffff:203.0.113.1]";by="_x"`, `by="";for=203.0.113.1, for="10.3.0.1:1"`},
		} {
			name := map[Mode]string{XFF: "X-Forwarded-For: ", Forwarded: "Forwarded: "}[mode]
			for _, added := range says {
				lines := []string{name + before, name + same + ", " + added}
				if other {
					lines = []string{name + before, name + same, name + added}
				}
				if got, err := p.Client(mode, fields(lines...)); err == nil && got.String() != "203.0.113.1" {
					t.Errorf("%q: %v", lines, got)
				}
			}
		}
	})
}
