//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// allowedMessages are of schemas/messages.json, and allowed by it.
var allowedMessages = []string{
	`{"type":"chat","room":"lobby_1","text":"hello"}`,
	`{"type":"chat","id":"123e4567-e89b-12d3-a456-426614174000","room":"a","text":"ünïcödé 😀","to":["a","b",""]}`,
	`{"type":"order","items":[{"kind":"book","pages":1},{"kind":"disc","minutes":99.5}],"count":3,"paid":true}`,
	`{"type":"order","items":[{"kind":"disc","minutes":0.001}],"count":-6,"note":{"a":[1,"b"]}}`,
	`{"type":"order","items":[{"kind":"book","pages":4999}],"paid":null,"count":30,"note":"short"}`,
	`{"type":"order","items":[{"kind":"book","pages":4999}],"count":9007199254740990}`,
	`{"type":"order","items":[{"kind":"book","pages":7}],"note":2.5}`,
	`{"type":"shapes","name":"n","pair":[1,"abc"],"some":[true,5,2,9],"map":{"é":1,"😀":2.5,"abc":-0.0},"toString":true}`,
	`{"type":"shapes","name":"😀😀😀😀😀😀😀😀😀😀","byName":{"x-1":"a","x-99":"", "\u2003é":null},"not":null,"pair":[]}`,
	`{"type":"shapes","name":"n","tree":{"value":1,"below":[{"value":2,"below":[]},{}]}}`,
	`{"type":"formats","date":"2024-02-29","time":"23:59:60Z","date-time":"2026-11-29T12:00:00.5+01:30","duration":"P1Y2M3DT4H5M6S"}`,
	`{"type":"formats","email":"joe.bloggs@example.com","hostname":"www.example.com","ipv4":"192.168.0.1","ipv6":"::ffff:1.2.3.4"}`,
	`{"type":"formats","uri":"http://foo.bar/?baz=qux#quux","uri-reference":"/abc","uuid":"2EB8AA08-AA98-11EA-B4AA-73B441D16380","json-pointer":"/foo/bar~0/baz~1/%a","relative-json-pointer":"120/foo/bar"}`,
	`{"type":"patterns","dot":"é😀","space":"\u00a0xa-1z","any":"\n\u2028😀","not":"dé\u0000","words":"one two","escapes":"\té\u0001","groups":"bccc"}`,
	`{"type":"patterns","escapes":"😀/-","groups":"dddd"}`,
}

// formatTexts are texts to try all formats with: those that are of one, and those
// that are nearly.
var formatTexts = strings.Fields(`
	1963-06-19 2020-02-30 2023-02-29 1998-13-01 1963-6-19 0000-01-01 1963-06-1৪ 20200101 2020-01-01T
	08:30:06Z 08:30:06 23:59:60Z 22:59:60Z 23:29:60+23:30 15:59:60-08:00 00:00:60+00:01 24:00:00Z 12:00:00.52z 12:00:00.Z 12:00:00+1:00 01:29:60+01:30 12:00:00+24:00
	1963-06-19T08:30:06Z 1990-12-31T15:59:59.123-08:00 1998-12-31T23:59:60Z 1990-12-31t15:59:59z 1990-12-31T24:59:59Z 2013-350T01:01:01 1963-06-19T08:30:06.
	P4DT12H30M5S P4Y P PT P1D2H P1W P1Y2W PT1D P0D P1YT1S P1S PT0.5S P2D1Y PT36H -P1D P1D1D P1
	joe@x.org te~st@example.com .t@example.com te..st@example.com "a@b"@x.org "joe"bloggs@example.com joe@[127.0.0.1] joe@[IPv6:::1] joe@[ipv6:1::2] joe@[IPv6:] joe@-x.org joe@x_y.org a@b@c.d @x.org x@ "\""@x.org "é"@x.org joe@[127.0.0.300] joe@x.org.
	example a.b.c xn--4gbwdl.xn--wgbh1c -bad bad- a..b .a a. a_b 1host ex%20mple hostname. a.-b
	127.0.0.0.1 256.256.256.256 127.0 0x7f000001 2130706433 087.10.0.1 1.2.3.4 1২7.0.0.1 1.2.3.4. .1.2.3 1.2.3.
	::1 :: ::ffff:192.168.0.1 12345:: 1:2:3:4:5:6:7:8 1:2:3:4:5:6:7::8 :1 1: 1::2::3 ::1.2.3 1::1.2.3.4:5 fe80::a%eth1 1:2:3:4:5:6:1.2.3.4 1:2:3:4:5:6:7:1.2.3.4 ::abcef ::laptop 1:2:3:4:5:6:7:: ::2:3:4:5:6:7:8 1:2:3:4:5:6:7 ::: 1:::2 ::1.2.3.4:5 1.2.3.4 ::%
	http://foo.bar/baz#a http://ex.com/blah_(wiki)_(x)#c-1 ldap://[2001:db8::7]/c?o mailto:J.D@e.com urn:a:b tel:+1-816 //foo.bar /abc abc \\\\W http:// bar,\\u0022 :// http://[v1.a:b]/ http://[v.a]/ http://a:b@c:1/ http://a:x/ http://a@b@c/ http://%zz %41 a:b ./a:b 1a:b #f##g ?q ?q?q http://[::1]:80 http://[::1]x http://[ é http://é/ http:///x //[::]/
	2EB8AA08-AA98-11EA-B4AA-73B441D16380 2eb8aa08-aa98-11ea-b4aa-73b441d1638 2eb8aa08aa9811eab4aa73b441d16380 urn:uuid:2eb8aa08-aa98-11ea-b4aa-73b441d16380 2eb8aa08-aa98-11ea-b4aa-73b441d1638g {2eb8aa08-aa98-11ea-b4aa-73b441d16380}
	/foo/0 /a~1b / /~01 /~ ~ /a~2 a /é //a #/a 0 1/0 0# 01 0/a~ 120/~1 # 1#a 00
`)

// values are put in place of every value of a message.
var values = []any{
	nil, true, false, json.Number("100000000000000000000"), json.Number("1e+21"), json.Number("0"), json.Number("-1"), json.Number("1"), json.Number("3"), json.Number("5"), json.Number("6"), json.Number("1.5"), json.Number("99.50001"),
	json.Number("4999"), json.Number("5000"), json.Number("9007199254740991"), json.Number("9007199254740992"), json.Number("1e+300"), json.Number("5e-324"), json.Number("-0"),
	"", "a", "abc", "a longer note", "abcdefghijklm", "😀😀😀😀😀😀😀😀😀😀😀😀", "\u0000", "\u2028", "x-1", "chat", "book", "constructor",
	[]any{}, []any{json.Number("1")}, []any{"a", "a"}, []any{json.Number("1"), "a", nil}, []any{json.Number("1"), json.Number("1")},
	map[string]any{}, map[string]any{"a": json.Number("1")}, map[string]any{"__proto__": json.Number("1")}, map[string]any{"x-1": "a"}, map[string]any{"toString": true}, map[string]any{"é😀": json.Number("1")},
}

// variants calls try with v changed at each of its places in turn.
func variants(v any, try func(any)) {
	for _, other := range values {
		try(other)
	}
	switch v := v.(type) {
	case []any:
		for i := range v {
			variants(v[i], func(other any) {
				changed := slices.Clone(v)
				changed[i] = other
				try(changed)
			})
			try(slices.Delete(slices.Clone(v), i, i+1))
			try(append(slices.Clone(v), v[i]))
		}
		try(append(slices.Clone(v), v...))
	case map[string]any:
		names := sortedNames(v)
		for _, name := range names {
			variants(v[name], func(other any) { try(with(v, name, other)) })
			without := with(v, name, nil)
			delete(without, name)
			try(without)
		}
		for _, name := range append([]string{"", "extra", "toString", "hasOwnProperty", "constructor", "é"}, names...) {
			try(with(v, name, nil))
			try(with(v, name+"x", "a"))
		}
	}
}

func sortedNames(v map[string]any) []string {
	var names []string
	for name := range v {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func with(v map[string]any, name string, value any) map[string]any {
	out := map[string]any{name: value}
	for n, old := range v {
		if n != name {
			out[n] = old
		}
	}
	return out
}

// messageLines are some ten thousand messages of schemas/messages.json, most of
// them a step away from one that it allows, and JSON texts that are no longer any.
func messageLines(t *testing.T) []string {
	t.Helper()
	seen := map[string]bool{}
	var lines []string
	add := func(line string) {
		if line = strings.ReplaceAll(line, "\n", " "); strings.TrimSpace(line) != "" && !seen[line] && shared(line) {
			seen[line] = true
			lines = append(lines, line)
		}
	}
	addValue := func(v any) {
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(v); err != nil {
			t.Fatal(err)
		}
		add(strings.TrimSuffix(b.String(), "\n"))
	}
	random := rand.New(rand.NewPCG(1, 2))
	for _, text := range allowedMessages {
		add(text)
		d := json.NewDecoder(strings.NewReader(text))
		d.UseNumber()
		var v any
		if err := d.Decode(&v); err != nil {
			t.Fatal(err)
		}
		variants(v, addValue)
		for range 300 { // of the text
			at, inserted := random.IntN(len(text)), "{}[]:,\"\\ \t0123456789.eE+-/abtnufr\u00e9\u0001\ufeff"
			_, changed, _ := strings.Cut(inserted[random.IntN(len(inserted)):], "")
			add(strings.ToValidUTF8(text[:at]+changed[:min(1, len(changed))]+text[at:], "?"))
			add(strings.ToValidUTF8(text[:at], "?"))
			add(strings.ToValidUTF8(text[:at]+text[at+1:], "?"))
		}
	}
	for _, text := range formatTexts {
		for _, changed := range []string{text, text + "0", "-" + text, strings.ToUpper(text), text + ".", text[:len(text)/2]} {
			for _, format := range []string{"date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uri-reference", "uuid", "json-pointer", "relative-json-pointer"} {
				addValue(map[string]any{"type": "formats", format: strings.ToValidUTF8(changed, "?")})
			}
		}
	}
	for _, n := range []int{31, 32, 33, 40} {
		add(strings.Repeat("[", n) + strings.Repeat("]", n))
		add(`{"type":"shapes","name":"n","tree":` + strings.Repeat(`{"below":[`, n/2) + strings.Repeat("]}", n/2) + "}")
	}
	for _, n := range []int{255, 256, 257} {
		add(`{"type":"chat"` + listOf(n-1, func(i int) string { return fmt.Sprintf(`,"p%d":0`, i) }) + "}")
	}
	for _, n := range []int{9996, 9997, 9998, 9999} {
		add(`{"a":[` + strings.TrimPrefix(listOf(n, func(int) string { return ",0" }), ",") + "]}")
	}
	for _, s := range []string{`\ud800`, `\udc00`, `\ud83d\ude00`, `\ude00\ud83d`, `a\ud800b`} {
		add(`{"type":"chat","room":"a","text":"` + s + `"}`)
		add(`{"type":"shapes","name":"n","map":{"` + s + `":1}}`)
	}
	for _, n := range []string{"1e400", "-1e400", "1E2", "1.0", "10e-1", "1.", "01", ".5", "+1", "0x1", "NaN", "Infinity", "-", "1e", "123456789012345680000"} {
		add(`{"type":"order","items":[{"kind":"book","pages":` + n + `}]}`)
	}
	return lines
}

func listOf(n int, item func(int) string) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(item(i))
	}
	return b.String()
}

var numbers = regexp.MustCompile(`-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?`)

// shared reports whether JSON.stringify might have written the numbers of a text:
// of others a browser sees only the nearest double.
func shared(text string) bool {
	for _, n := range numbers.FindAllString(text, -1) {
		double, err := strconv.ParseFloat(n, 64)
		if err != nil {
			continue // infinite, which both see
		}
		if math.Abs(double) >= 1<<53 && math.Abs(double) < 1e21 && double == math.Trunc(double) && strings.ContainsAny(n, ".eE") {
			return false // it would have written an integer, which is refused
		}
		if len(n) > 40 {
			return false
		}
		exact, ok := new(big.Rat).SetString(n)
		shortest, also := new(big.Rat).SetString(strconv.FormatFloat(double, 'g', -1, 64))
		if !ok || !also || exact.Cmp(shortest) != 0 {
			return false
		}
	}
	return true
}
