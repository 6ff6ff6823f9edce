package schema

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp/syntax"
	"strings"
	"testing"
	"testing/fstest"
	"unicode/utf8"
)

func TestPatternsMeanWhatECMA262Says(t *testing.T) {
	for _, test := range []struct {
		pattern, matches, not string
	}{
		{`^a.c$`, "abc", "a\nc"},
		{`^a.c$`, "a\u0085c", "a\u2028c"}, // four line ends, U+0085 is none
		{`^a.c$`, "a😀c", "a\rc"},
		{`^a$`, "a", "a\n"},
		{`b`, "abc", "ac"},  // not anchored
		{`a|b`, "xb", "xc"}, // nor is an alternative
		{`^\s$`, " ", "x"},  // more than ASCII
		{`^\s$`, "\u00a0", "\u0085"},
		{`^\s$`, "\ufeff", "\u200b"},
		{`^\S$`, "x", "\u00a0"},
		{`^\S$`, "😀", "\u3000"},
		{`^[\s,]$`, "\u2003", "x"},
		{`^[^\s]$`, "x", "\u2003"},
		{`^[\S]$`, "x", "\u2003"},
		{`^[-\s]$`, "-", "x"},
		{`^[^-\s]$`, "x", "-"},
		{`^[a\-\s]$`, "\u2003", "b"},
		{`^[\s-]$`, "-", "x"},
		{`^\d$`, "7", "٣"},
		{`^\w$`, "_", "é"},
		{`^\bx\b$`, "x", "xy"},
		{`^[\b]$`, "\b", "b"},
		{`^\x41\u0042\u{43}\u{1F600}$`, "ABC😀", "ABC"},
		{`^\ud83d\ude00$`, "😀", "\ufffd"},
		{`^\uFFFD$`, "\ufffd", "x"},
		{`^\cA\0$`, "\x01\x00", "A0"},
		{`^\t\n\v\f\r$`, "\t\n\v\f\r", "tnvfr"},
		{`^\/\-\.\$\^\#$`, "/-.$^#", "x"},
		{`^[[:al]$`, "[", "b"}, // a class of four characters
		{`^[a\]b]$`, "]", "\\"},
		{`^[\-a]$`, "-", "b"},
		{`^[.]$`, ".", "x"},
		{`^[^]$`, "\n", ""},
		{`^\p{Lu}\P{Lu}$`, "Aa", "aA"},
		{`^\p{L}$`, "é", "1"},
		{`^\p{Letter}$`, "é", "1"},
		{`^\p{Script=Greek}$`, "λ", "l"},
		{`^\p{sc=Greek}\p{gc=Nd}$`, "λ3", "3λ"},
		{`^(?<year>\d{4})$`, "2026", "202"},
		{`^(?:a|b)+?$`, "abba", "abc"},
		{`^a{2,3}$`, "aaa", "a"},
		{`^é+$`, "éé", "e"},
		{`^$`, "", "\n"},
	} {
		re, err := compilePattern(test.pattern, maxPatternEffort)
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		for _, match := range []func(string) bool{re.MatchString, func(text string) bool { return re.match([]byte(text)) }} {
			if !match(test.matches) {
				t.Errorf("%q does not match %q", test.pattern, test.matches)
			}
			if match(test.not) {
				t.Errorf("%q matches %q", test.pattern, test.not)
			}
		}
	}
}

// Which patterns run how. That they mean the same is for FuzzMatch to prove.
func TestPatternsAreFast(t *testing.T) {
	for _, test := range []struct {
		patterns []string
		runs     bool
		table    bool
	}{
		{[]string{`^[a-z]+$`, `^[A-Z]{3}-\d{4,8}$`, `^b[0-9]*$`, `^$`, `^abc$`, `^[^<>]*$`, `^[^\x00-\x1f]+$`, `^a?b?c?$`, `^\w{1,64}$`, `^\d{4}-\d\d-\d\d$`, `^-?[0-9]+$`}, true, false},
		{[]string{`^[a-z]+[a-f]$`, `^a?a$`, `[a-z]`, `^[a-z]`, `^(a|b)*$`, `^é$`, `^[^a]{1,3}$`, `^.{2,}$`, `a|b`, `\bx\b`, `^(?:a{1,20}b{1,20})*$`, `^\p{L}{1,40}$`, `^\S+@\S+$`, `(a|b)*a(a|b){6}`}, false, true},
		{[]string{`(a|b)*a(a|b){20}`, `^(?:a|b)*a(?:a|b){14}`}, false, false},
	} {
		for _, pattern := range test.patterns {
			p, err := compilePattern(pattern, maxPatternEffort)
			if err != nil {
				t.Fatal(err)
			}
			if (p.runs != nil) != test.runs || (p.automaton != nil) != test.table {
				t.Errorf("%q: runs %v, automaton %v; want %v, %v", pattern, p.runs != nil, p.automaton != nil, test.runs, test.table)
			}
		}
	}
}

// FuzzMatch proves that the fast ways to match find what package regexp finds.
func FuzzMatch(f *testing.F) {
	for _, pattern := range []string{
		`^[a-z]+$`, `^[A-Z]{3}-\d{4,8}$`, `a.c`, `\bab\b`, `\B`, `^(a|bc)*$`, `^[^a]{1,3}$`, `(^a|b$)`, `a*?b`, `^$|x`, `\p{Lu}\s`, `[^\n]é`, `(?:^|,)a(?:,|$)`, `^[^<]*$`, `x*`, `\b`, `$^`, `a{2,3}b{0,2}`,
	} {
		for _, text := range []string{"", "abc", "ABC-1234", "é a", "a\nb", "ab ab,a", "\u2028", "aaabb", "<", "É\u00a0"} {
			f.Add(pattern, text)
		}
	}
	f.Fuzz(func(t *testing.T, pattern, text string) {
		if len(pattern) > 100 || len(text) > 1000 || !utf8.ValidString(text) {
			return
		}
		p, err := compilePattern(pattern, maxPatternEffort)
		if err != nil {
			return
		}
		if got, want := p.match([]byte(text)), p.MatchString(text); got != want {
			t.Fatalf("%q in %q: %v, package regexp says %v (runs %v, automaton %v)", pattern, text, got, want, p.runs != nil, p.automaton != nil)
		}
		if p.runs == nil {
			return
		}
		re, err := syntax.Parse(p.String(), syntax.Perl)
		if err != nil {
			t.Fatal(err)
		}
		if a, _ := newAutomaton(re); a != nil && a.match([]byte(text)) != p.MatchString(text) {
			t.Fatalf("%q in %q: an automaton does not say %v", pattern, text, p.MatchString(text))
		}
	})
}

func TestPatternsThatWouldMeanSomethingElse(t *testing.T) {
	for _, test := range []struct{ pattern, why string }{
		{`(?=a)`, "lookahead"},
		{`(?!a)`, "lookahead"},
		{`(?<=a)`, "lookbehind"},
		{`(?<!a)`, "lookbehind"},
		{`(?i)a`, "after (?"},
		{`(?P<n>a)`, "after (?"},
		{`(a)\1`, `\1 is not`},
		{`(?<n>a)\k<n>`, `\k is not`},
		{`\Aa\z`, `\A is not`},
		{`a\z`, `\z is not`},
		{`\Qa\E`, `\Q is not`},
		{`\a`, `\a is not`},
		{`\pL`, `\p without {`},
		{`\p{L`, "not closed"},
		{`\p{scx=Greek}`, "scx=...} is not supported"},
		{`\p{^Lu}`, `\p{^ is not`},
		{`[\t-\s]`, "end of a range"},
		{`[\s-\u{10ffff}]`, "end of a range"},
		{`[a-\S]`, "end of a range"},
		{`\p{Emoji}`, "categories and scripts"},
		{`[[:alpha:]]`, "[:alpha:] is no class in ECMA-262"},
		{`[^a-c[:^digit:]_]`, "[:^digit:] is no class in ECMA-262"},
		{`\01`, "octal"},
		{`\8`, `\8 is not`},
		{`\x4`, "cut"},
		{`\x`, "cut"},
		{`\u12`, "cut"},
		{`\u{110000}`, "no character"},
		{`\u{d800}`, "no character"},
		{`\u{}`, "1 to 6 digits"},
		{`\u{41`, "not closed"},
		{`\ud83d`, "surrogate"},
		{`\ud83dx`, "surrogate"},
		{`\ud83d\u0041`, "surrogate"},
		{`\ude00\ud83d`, "surrogate"},
		{`\c1`, `\c without`},
		{`\é`, "needs none"},
		{`[\B]`, "class"},
		{`[]`, "matches nothing"},
		{`[a`, "not closed"},
		{`(a`, "close it with )"},
		{`a**`, "between (?: and )"},
		{`*a`, "repeats nothing"},
		{`a{2000}`, "more than 1000 times"},
		{`(?:a{0,200}b){0,50}`, `"{0,50}" repeats from more to less, or more than 1000 times, those within it counted`},
		{`a\`, "backslash"},
	} {
		re, err := compilePattern(test.pattern, maxPatternEffort)
		if err == nil {
			t.Errorf("%q became %q", test.pattern, re)
		} else if !strings.Contains(err.Error(), test.why) || !strings.HasPrefix(err.Error(), "pattern ") {
			t.Errorf("%v, want it to say %q", err, test.why)
		}
	}
}

// FuzzTranslate proves that translation gives up or gives RE2, and leaves plain
// patterns alone.
func FuzzTranslate(f *testing.F) {
	for _, seed := range []string{`^[a-z]+$`, `\s[\S]\u{1f600}\ud83d\ude00`, `[[:alpha:]]`, `(?<n>.)`, `[^]`, `\`, `[\`, `\u{`, `\cz`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, pattern string) {
		out, err := translate(pattern)
		if err != nil {
			return
		}
		if !strings.ContainsAny(pattern, `\.[(`) && out != pattern {
			t.Fatalf("%q became %q", pattern, out)
		}
		if re, err := compilePattern(pattern, maxPatternEffort); err == nil && re.String() != out {
			t.Fatalf("%q is compiled as %q, translated as %q", pattern, re, out)
		}
	})
}

// A pattern that is told to be too much for longer texts is, and for no shorter ones.
func TestMostBytes(t *testing.T) {
	for _, test := range []struct {
		pattern, unit string
		want          int
	}{
		{`^[ab]*a[ab]{14}$`, "ab", 8},
		{`^(?:[a-z]{1,30}[.]?){1,30}$`, "ab", 0},
		{`^[ab]*a[ab]{8}$`, "ab", -1},
		{`^[a-z0-9]+(?:-[a-z0-9]+)*$`, "ab", -1},
		{`^\p{L}+$`, "é", -1},
	} {
		most, err := MostBytes(test.pattern)
		if err != nil || most != test.want {
			t.Errorf("%s: %d, %v, want %d", test.pattern, most, err, test.want)
		}
		cfg := Default()
		cfg.Types = []Type{{Name: "a", Schema: "a.json"}}
		pattern, _ := json.Marshal(test.pattern)
		set, err := Compile(fstest.MapFS{"a.json": {Data: fmt.Appendf(nil, `{"properties":{"text":{"pattern":%s}}}`, pattern)}}, cfg)
		if err != nil {
			t.Fatal(err)
		}
		for _, size := range []int{most, most + 4} {
			wantTooComplex := most >= 0 && size > most
			if most < 0 {
				size += 60_000
			}
			text := strings.Repeat(test.unit, size/2+1)[:size-size%len(test.unit)]
			_, err := set.Check(fmt.Appendf(nil, `{"type":"a","text":"%s"}`, text))
			if errors.Is(err, ErrTooComplex) != wantTooComplex && size > 0 {
				t.Errorf("%s: %v with %d bytes", test.pattern, err, size)
			}
		}
	}
	if _, err := MostBytes("("); err == nil {
		t.Error("no error for what is no pattern")
	}
}
