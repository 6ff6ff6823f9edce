package schema

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func guarded(edit func(*Guards)) Guards {
	g := Default().Guards
	if edit != nil {
		edit(&g)
	}
	return g
}

func TestParseRefuses(t *testing.T) {
	bomb := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	names := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `,"n%d":0`, i)
		}
		return "{" + b.String()[1:] + "}"
	}
	for _, test := range []struct {
		rule, in string
		want     error
	}{
		// RFC 8259: what is not JSON.
		{"nothing", "", ErrNotJSON},
		{"white space alone", " \t\r\n", ErrNotJSON},
		{"a byte order mark", "\ufeff{}", ErrNotJSON},
		{"a byte order mark after the text", "{}\ufeff", ErrNotJSON},
		{"a no-break space", "\u00a0{}", ErrNotJSON},
		{"a form feed", "\f{}", ErrNotJSON},
		{"a NUL before", "\x00{}", ErrNotJSON},
		{"a NUL after", "{}\x00", ErrNotJSON},
		{"a NUL in a string", "\"a\x00b\"", ErrNotJSON},
		{"a line break in a string", "\"a\nb\"", ErrNotJSON},
		{"0x1f in a string", "\"\x1f\"", ErrNotJSON},
		{"text after the value", "{} {}", ErrNotJSON},
		{"a bracket too many", "[]]", ErrNotJSON},
		{"a comma after the value", "{},", ErrNotJSON},
		{"a comment", "{}//", ErrNotJSON},
		{"a comment inside", "[1/**/]", ErrNotJSON},
		{"an open object", "{", ErrNotJSON},
		{"an open object after a name", `{"a"`, ErrNotJSON},
		{"an open object after a colon", `{"a":`, ErrNotJSON},
		{"an open object after a value", `{"a":1`, ErrNotJSON},
		{"an open object after a comma", `{"a":1,`, ErrNotJSON},
		{"an open array", "[", ErrNotJSON},
		{"an open array after a comma", "[1,", ErrNotJSON},
		{"an open string", `"a`, ErrNotJSON},
		{"an open escape", `"\`, ErrNotJSON},
		{"an open \\u", `"\u12"`, ErrNotJSON},
		{"an open surrogate pair", `"\ud83d\`, ErrNotJSON},
		{"the wrong bracket", "[1}", ErrNotJSON},
		{"a comma before the end of an array", "[1,]", ErrNotJSON},
		{"a comma before the end of an object", `{"a":1,}`, ErrNotJSON},
		{"two commas", "[1,,2]", ErrNotJSON},
		{"a leading comma", "[,1]", ErrNotJSON},
		{"no comma", "[1 2]", ErrNotJSON},
		{"no colon", `{"a" 1}`, ErrNotJSON},
		{"two colons", `{"a"::1}`, ErrNotJSON},
		{"a name without quotes", `{a:1}`, ErrNotJSON},
		{"a name that is a number", `{1:1}`, ErrNotJSON},
		{"single quotes", `{'a':1}`, ErrNotJSON},
		{"an unknown escape", `"\x41"`, ErrNotJSON},
		{"an escaped single quote", `"\'"`, ErrNotJSON},
		{"an upper case \\U", `"\U0041"`, ErrNotJSON},
		{"a \\u with a letter that is no digit", `"\u00g0"`, ErrNotJSON},
		{"a \\u with a sign", `"\u+041"`, ErrNotJSON},
		{"a literal in upper case", "True", ErrNotJSON},
		{"a cut literal", "tru", ErrNotJSON},
		{"a long literal", "nulll", ErrNotJSON},
		{"NaN", "NaN", ErrNotJSON},
		{"Infinity", "-Infinity", ErrNotJSON},
		{"undefined", "[undefined]", ErrNotJSON},
		{"a leading zero", "01", ErrNotJSON},
		{"a leading zero after the sign", "-01", ErrNotJSON},
		{"a plus sign", "+1", ErrNotJSON},
		{"a sign alone", "-", ErrNotJSON},
		{"no digit before the point", ".5", ErrNotJSON},
		{"no digit after the point", "1.", ErrNotJSON},
		{"no digit between point and exponent", "1.e5", ErrNotJSON},
		{"no digit in the exponent", "1e", ErrNotJSON},
		{"a sign alone in the exponent", "1e+", ErrNotJSON},
		{"a hexadecimal number", "0x10", ErrNotJSON},
		{"a number with an underscore", "1_000", ErrNotJSON},
		{"digits that are not ASCII", "１", ErrNotJSON},
		// RFC 3629: what is not UTF-8.
		{"a stray continuation byte", "\"\x80\"", ErrNotJSON},
		{"an overlong slash", "\"\xc0\xaf\"", ErrNotJSON},
		{"a surrogate in UTF-8", "\"\xed\xa0\x80\"", ErrNotJSON},
		{"beyond U+10FFFF", "\"\xf4\x90\x80\x80\"", ErrNotJSON},
		{"a cut character", "\"\xe2\x82", ErrNotJSON},
		{"invalid UTF-8 in a name", "{\"\xff\":1}", ErrNotJSON},
		// What decoders read differently.
		{"a lone high surrogate", `"\ud83d"`, ErrLoneSurrogate},
		{"a high surrogate before a letter", `"\ud83dx"`, ErrLoneSurrogate},
		{"a high surrogate before another escape", `"\ud83d\n"`, ErrLoneSurrogate},
		{"a high surrogate before a \\u that is no low one", `"\ud83d\u0041"`, ErrLoneSurrogate},
		{"two high surrogates", `"\ud83d\ud83d"`, ErrLoneSurrogate},
		{"a lone low surrogate", `"\ude00"`, ErrLoneSurrogate},
		{"a pair the wrong way round", `"\ude00\ud83d"`, ErrLoneSurrogate},
		{"a lone surrogate in a name", `{"\udfff":1}`, ErrLoneSurrogate},
		{"a name twice", `{"a":1,"b":2,"a":1}`, ErrDuplicateName},
		{"a name twice, once escaped", `{"a":1,"\u0061":2}`, ErrDuplicateName},
		{"an empty name twice", `{"":1,"":2}`, ErrDuplicateName},
		{"a name twice, deep inside", `[{"x":[{"a":1,"a":2}]}]`, ErrDuplicateName},
		{"__proto__", `{"__proto__":{}}`, ErrHazardousName},
		{"__proto__ escaped", `{"__pr\u006fto__":{}}`, ErrHazardousName},
		{"constructor, inside", `{"a":[{"constructor":1}]}`, ErrHazardousName},
		{"prototype", `{"prototype":1}`, ErrHazardousName},
		{"1e309 is no double", "1e309", ErrNumberRange},
		{"-1e309 is no double", "-1e309", ErrNumberRange},
		{"1e99999999999999999999 is no double", "1e99999999999999999999", ErrNumberRange},
		{"1e-400 is zero as a double", "1e-400", ErrNumberRange},
		{"1e-99999999999999999999 is zero as a double", "-0.1e-99999999999999999999", ErrNumberRange},
		{"2^53 has no neighbour as a double", "9007199254740992", ErrNumberRange},
		{"-2^53", "-9007199254740992", ErrNumberRange},
		{"2^64", "18446744073709551616", ErrNumberRange},
		{"an integer of 100 digits", strings.Repeat("9", 100), ErrNumberRange},
		{"a number of 129 characters", "0." + strings.Repeat("1", 127), ErrNumberRange},
		{"an exponent with 200 zeros", "1e" + strings.Repeat("0", 200) + "1", ErrNumberRange},
		// What would cost too much.
		{"33 levels", bomb(33), ErrTooDeep},
		{"100,000 levels", bomb(100_000), ErrTooDeep},
		{"100,000 levels, never closed", strings.Repeat("[", 100_000), ErrTooDeep},
		{"33 levels of objects", strings.Repeat(`{"a":`, 33) + "0" + strings.Repeat("}", 33), ErrTooDeep},
		{"257 names in an object", names(257), ErrTooManyNames},
		{"100,000 names in an object", names(100_000), ErrTooManyNames},
		{"10,001 tokens", "[0" + strings.Repeat(",0", 9_999) + "]", ErrTooManyTokens},
		{"10,001 tokens, names and values alike", "[" + strings.Repeat(`{"a":0},`, 3_333) + "0]", ErrTooManyTokens},
	} {
		t.Run(test.rule, func(t *testing.T) {
			_, err := parse([]byte(test.in), guarded(nil))
			if !errors.Is(err, test.want) {
				t.Fatalf("%v, want %v", err, test.want)
			}
			var e *Error
			if !errors.As(err, &e) || e.Offset < 0 || e.Offset > len(test.in) {
				t.Errorf("%#v: no place in the message", err)
			}
			if want := fmt.Sprintf("%v at byte %d", test.want, e.Offset); err.Error() != want {
				t.Errorf("%q, want %q and nothing of the message", err, want)
			}
		})
	}
}

func TestParseAccepts(t *testing.T) {
	for _, test := range []struct {
		rule, in string
		want     any
	}{
		{"white space of all four kinds", " \t\r\n{ \t\r\n} \t\r\n", map[string]any{}},
		{"an empty array", "[ ]", []any{}},
		{"literals", "[true,false,null]", []any{true, false, nil}},
		{"every escape", `"\"\\\/\b\f\n\r\t\u0000\u00e9"`, "\"\\/\b\f\n\r\t\x00é"},
		{"upper and lower case digits", `"\u00E9\u00e9"`, "éé"},
		{"a surrogate pair", `"\ud83d\ude00"`, "😀"},
		{"the last character", "\"\U0010FFFF\\udbff\\udfff\"", "\U0010FFFF\U0010FFFF"},
		{"DEL and a noncharacter are characters", "\"\x7f\uffff\"", "\x7f\uffff"},
		{"names that differ in case", `{"a":1,"A":2}`, map[string]any{"a": json.Number("1"), "A": json.Number("2")}},
		{"one name in different objects", `[{"a":1},{"a":1}]`, []any{map[string]any{"a": json.Number("1")}, map[string]any{"a": json.Number("1")}}},
		{"2^53-1", "9007199254740991", json.Number("9007199254740991")},
		{"-(2^53-1)", "-9007199254740991", json.Number("-9007199254740991")},
		{"the largest double", "1.7976931348623157e308", json.Number("1.7976931348623157e308")},
		{"the smallest double", "5e-324", json.Number("5e-324")},
		{"a number with an exponent beyond 2^53", "6.02214076e23", json.Number("6.02214076e23")},
		{"a number of 128 characters", "0." + strings.Repeat("1", 126), json.Number("0." + strings.Repeat("1", 126))},
		{"zero however it is written", "[0,-0,0.0,0e5,-0.00E-5,0e999999999999999999999]", []any{zero, zero, zero, zero, zero, zero}},
		{"32 levels", strings.Repeat("[", 32) + strings.Repeat("]", 32), nest(32)},
		{"a string as the whole text", `"x"`, "x"},
		{"a number as the whole text", "-1.5E+2", json.Number("-1.5E+2")},
	} {
		t.Run(test.rule, func(t *testing.T) {
			in := []byte(test.in)
			got, err := parse(in, guarded(nil))
			if err != nil || !reflect.DeepEqual(got, test.want) {
				t.Errorf("%#v, %v; want %#v", got, err, test.want)
			}
			if string(in) != test.in {
				t.Error("parse wrote into its input")
			}
		})
	}
}

// Whatever a setting lets pass, the rest stays as it is.
func TestLooseGuardsStillRefuse(t *testing.T) {
	loose := guarded(func(g *Guards) {
		g.HazardousNames, g.DuplicateNames, g.LoneSurrogates, g.WideNumbers, g.TrailingBytes = true, true, true, true, true
	})
	for _, in := range []string{
		"", "{", `{"a":1,}`, `"\ud83d`, `"\ud83d\u"`, `"\ud83d\`, "01", "1e", "1e99999", "-1e-99999", "\"\xff\"", strings.Repeat("9", 129), "}", "\ufeff{}",
	} {
		if v, err := parse([]byte(in), loose); err == nil {
			t.Errorf("%q became %#v", in, v)
		}
	}
	got, err := parse([]byte(`"\ud83dx\ud83d\u0041\ude00"`), loose)
	if want := "\ufffdx\ufffdA\ufffd"; got != want || err != nil {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
}

// An object of many names is checked by other means than one of few: at every
// size each of its names is known, and those of the objects in it are others.
func TestDuplicateNamesOfEverySize(t *testing.T) {
	g := guarded(func(g *Guards) { g.Names, g.Tokens = 5000, 1<<20 })
	for _, size := range []int{1, 2, fewNames - 1, fewNames, fewNames + 1, fewNames + 2, 40, 300, 2000} {
		var members []string
		for i := range size {
			members = append(members, fmt.Sprintf(`"name %d":{"name 0":1,"name %d":[{"name 1":2}]}`, i, i+1))
		}
		if _, err := parse([]byte("{"+strings.Join(members, ",")+"}"), g); err != nil {
			t.Errorf("%d names: %v", size, err)
		}
		for _, again := range []int{0, size / 2, size - 1} {
			if _, err := parse([]byte("{"+strings.Join(append(members, members[again]), ",")+"}"), g); !errors.Is(err, ErrDuplicateName) {
				t.Errorf("%d names and the one at %d again: %v", size, again, err)
			}
		}
	}
}

// Names whose keys are the same are still told apart.
func TestNamesWithEqualKeys(t *testing.T) {
	var names []string
	for i := range 100 { // the key does not know the middle
		names = append(names, fmt.Sprintf("0123456%05dabcdefgh", i))
	}
	if keyOf([]byte("01234567xxabcdefgh")) != keyOf([]byte("01234567yyabcdefgh")) {
		t.Fatal("these keys were meant to be the same")
	}
	for n := range names {
		var b strings.Builder
		for i, name := range names[:n+1] {
			fmt.Fprintf(&b, `,"01234567%syabcdefgh":%d`, name[7:12], i)
		}
		in := b.String()[1:]
		if _, err := parse([]byte("{"+in+"}"), guarded(nil)); err != nil {
			t.Fatalf("%d names: %v", n+1, err)
		}
		if _, err := parse([]byte("{"+in+","+in+"}"), guarded(nil)); !errors.Is(err, ErrDuplicateName) {
			t.Fatalf("%d names twice: %v", n+1, err)
		}
	}
}

func TestKeysOfShortNamesDiffer(t *testing.T) {
	seen := map[int64]string{}
	for _, name := range []string{"", "\x00", "\x00\x00", "a", "b", "aa", "ab", "ba", "abc", "acb", "abcd", "abcde", "abcdef", "abcdefg", "bbcdefg", "abcdefh", "aaaaaaa", "aaaaaa", "aaaaa", "aaaa", "aaa"} {
		key := keyOf([]byte(name))
		if other, ok := seen[key]; ok || key < 0 {
			t.Errorf("%q has the key of %q, %x", name, other, key)
		}
		seen[key] = name
	}
	if keyOf([]byte("abcdefgh")) >= 0 {
		t.Error("the key of a longer name looks exact")
	}
}

// A tape that has had its messages needs no more memory for the next ones.
// TestPlainTextsByWords compares what is found in eight bytes at once with what is
// found in one after the other, where all that matters stands beside one another.
func TestPlainTextsByWords(t *testing.T) {
	const bytesThatMatter = "a\x00\x1f !\"#[\\]\x7f\x80\xa2\xdc\xff"
	random := rand.New(rand.NewPCG(1, 2))
	for range 300_000 {
		in := make([]byte, random.IntN(28))
		for i := range in {
			if in[i] = 'a'; random.IntN(4) == 0 {
				in[i] = bytesThatMatter[random.IntN(len(bytesThatMatter))]
			}
		}
		from := random.IntN(len(in) + 1)
		end, high, ascii := from, false, from
		for ; end < len(in) && in[end] >= ' ' && in[end] != '"' && in[end] != '\\'; end++ {
			if high = high || in[end] >= utf8.RuneSelf; !high {
				ascii = end + 1
			}
		}
		if gotEnd, gotHigh := plainEnd(in, from); gotEnd != end || (gotHigh != 0) != high {
			t.Fatalf("plainEnd(%q, %d) = %d, %#x, want %d, %t", in, from, gotEnd, gotHigh, end, high)
		}
		got, last := plainText(in, from)
		switch {
		case got < ascii && got > len(in)-8: // it has stopped before
		case got != ascii:
			t.Fatalf("plainText(%q, %d) = %d, want %d", in, from, got, ascii)
		case ascii-from < 8 && shortKey(last, ascii-from) != keyOf(in[from:ascii]):
			t.Fatalf("plainText(%q, %d) has %#x before the end", in, from, last)
		}
	}
}

func TestReadAllocs(t *testing.T) {
	messages := []string{
		`{"type":"chat","text":"hello","n":[1,-2.50,1e300,123456789012345.678901,true,null]}`, `{"\u0074ype":"\ud83d\ude00 and \n more","x":"grüß"}`, `[` + strings.Repeat(`{"a":1},`, 500) + `1]`,
		`{"a":1,"a":2}`, `[1e309]`, "\"\xff\"", "[", strings.Repeat("[", 100), `{"constructor":1}`,
	}
	var names []string
	for i := range 100 {
		names = append(names, fmt.Sprintf(`"n%d":%d`, i, i))
	}
	messages = append(messages, "{"+strings.Join(names, ",")+"}")
	var tape tape
	g := guarded(nil)
	for _, m := range messages {
		in := []byte(m)
		if got := testing.AllocsPerRun(100, func() { tape.read(in, &g) }); got != 0 {
			t.Errorf("%.40s: %v allocations, want 0", m, got)
		}
	}
}

func nest(n int) any {
	v := []any{}
	for range n - 1 {
		v = []any{v}
	}
	return v
}

func TestGuardsAreSettings(t *testing.T) {
	for _, test := range []struct {
		rule, in string
		edit     func(*Guards)
	}{
		{"depth", strings.Repeat("[", 40) + strings.Repeat("]", 40), func(g *Guards) { g.Depth = 40 }},
		{"tokens", "[0" + strings.Repeat(",0", 9_999) + "]", func(g *Guards) { g.Tokens = 10_001 }},
		{"names", `{"a":1,"b":2,"c":3}`, func(g *Guards) { g.Names = 3 }},
		{"integers", "9223372036854775807", func(g *Guards) { g.MaxInteger = math.MaxInt64 }},
		{"hazardous names", `{"__proto__":1,"constructor":2,"prototype":3}`, func(g *Guards) { g.HazardousNames = true }},
		{"duplicate names", `{"a":1,"\u0061":2,"a":[]}`, func(g *Guards) { g.DuplicateNames = true }},
		{"lone surrogates", `["\ud83d","\ude00","\ud83dx\ud83d\u0041"]`, func(g *Guards) { g.LoneSurrogates = true }},
		{"wide numbers", `[1e309,1e-400,18446744073709551616,-9007199254740992,1e-9999]`, func(g *Guards) { g.WideNumbers = true }},
		{"trailing bytes", `{} and so on`, func(g *Guards) { g.TrailingBytes = true }},
	} {
		t.Run(test.rule, func(t *testing.T) {
			if _, err := parse([]byte(test.in), guarded(test.edit)); err != nil {
				t.Errorf("at the bound: %v", err)
			}
			if _, err := parse([]byte(test.in), guarded(func(g *Guards) { g.Names = 2 })); err == nil {
				t.Error("passes without the setting")
			}
		})
	}
}

// FuzzParse proves against encoding/json that parse accepts no text which is not
// JSON, reads what it accepts as encoding/json does, calls nothing wrong that is
// right, and keeps to its guards.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		`{"type":"chat","text":"grüß 😀 \ud83d\ude00","n":[0,-1.5e-3,true,null]}`,
		`{"a":1,"\u0061":2}`, `[[[[[[[[[[]]]]]]]]]]`, `"\ud83d"`, `1e309`, `9007199254740992`, "\ufeff{}", "{}\x00", `{"__proto__":1}`, "\"\xff\"", "[1,]", "-0.0",
	} {
		f.Add([]byte(seed))
	}
	g := guarded(func(g *Guards) { g.Depth, g.Names, g.Tokens = 8, 8, 64 })
	f.Fuzz(func(t *testing.T, in []byte) {
		kept := bytes.Clone(in)
		got, err := parse(in, g)
		if !bytes.Equal(in, kept) {
			t.Fatal("parse wrote into its input")
		}
		isJSON := json.Valid(in) && utf8.Valid(in)
		switch {
		case errors.Is(err, ErrNotJSON):
			if isJSON {
				t.Fatalf("%q is JSON: %v", in, err)
			}
			return
		case err != nil:
			return
		case !isJSON:
			t.Fatalf("%q is not JSON", in)
		}
		dec := json.NewDecoder(bytes.NewReader(in))
		dec.UseNumber()
		var want any
		if err := dec.Decode(&want); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, zeroes(want)) {
			t.Fatalf("%q is %#v, encoding/json reads %#v", in, got, want)
		}
		proveGuards(t, in, g)
	})
}

// zeroes writes every zero of a decoded text as parse does.
func zeroes(v any) any {
	switch v := v.(type) {
	case json.Number:
		if f, err := v.Float64(); err == nil && f == 0 {
			return zero
		}
	case []any:
		for i := range v {
			v[i] = zeroes(v[i])
		}
	case map[string]any:
		for name := range v {
			v[name] = zeroes(v[name])
		}
	}
	return v
}

// proveGuards counts again, token by token, what parse has let through.
func proveGuards(t *testing.T, in []byte, g Guards) {
	dec := json.NewDecoder(bytes.NewReader(in))
	dec.UseNumber()
	tokens := 0
	var value func(depth int)
	value = func(depth int) {
		tokens++
		tok, err := dec.Token()
		if err != nil {
			t.Fatal(err)
		}
		switch tok {
		case json.Delim('{'):
			var names []string
			for dec.More() {
				name, _ := dec.Token()
				tokens++
				if slices.Contains(names, name.(string)) {
					t.Fatalf("%q has %q twice", in, name)
				}
				names = append(names, name.(string))
				value(depth + 1)
			}
			dec.Token()
			if len(names) > g.Names || depth > g.Depth {
				t.Fatalf("%q passed: %d names at depth %d", in, len(names), depth)
			}
		case json.Delim('['):
			for dec.More() {
				value(depth + 1)
			}
			dec.Token()
			if depth > g.Depth {
				t.Fatalf("%q passed at depth %d", in, depth)
			}
		}
		if n, ok := tok.(json.Number); ok {
			if f, err := n.Float64(); err != nil || math.IsInf(f, 0) {
				t.Fatalf("%q passed with %s", in, n)
			}
		}
	}
	value(1)
	if _, err := dec.Token(); err != io.EOF {
		t.Fatalf("%q passed with more behind it", in)
	}
	if tokens > g.Tokens {
		t.Fatalf("%q passed with %d tokens", in, tokens)
	}
}
