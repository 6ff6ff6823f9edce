package schema

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// JSON Schema's patterns are ECMA-262's, Go's are RE2's. Most mean the same in
// both; what differs is translated, and what cannot be is refused: a pattern
// that silently means something else would let the wrong messages pass. All
// patterns run in time linear in the text.

// What \s means in ECMA-262, and its complement, as ranges of a class: RE2's
// \s is ASCII.
const (
	ecmaSpace    = `\t-\r \x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}\x{feff}`
	ecmaNonSpace = `\x00-\x08\x0e-\x1f!-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027}\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{fefe}\x{ff00}-\x{10ffff}`
	ecmaNewlines = `\n\r\x{2028}\x{2029}`
)

// pattern is a compiled one: the fastest that it can be of runs, an automaton and
// what package regexp makes of it.
type pattern struct {
	*regexp.Regexp
	runs      []classRun
	automaton *automaton
	// Steps for any text, and for bytesPerStep bytes of it.
	once, weight int
	effort       int // that it took to make
}

// patterns are those of a route's schemas, each compiled once.
type patterns struct {
	known map[string]*pattern
	left  int // of maxPatternEffort
}

// maxPatternEffort bounds what it takes to make all patterns of a route, in
// instructions that are looked at: some seconds at most.
const maxPatternEffort = 100_000_000

func newPatterns() patterns { return patterns{map[string]*pattern{}, maxPatternEffort} }

func (p *patterns) compile(text string) (*pattern, error) {
	if known, ok := p.known[text]; ok {
		return known, nil
	}
	made, err := compilePattern(text, p.left)
	if err != nil {
		return nil, err
	}
	p.known[text] = made
	p.left -= made.effort
	return made, nil
}

// compilePattern compiles a pattern of JSON Schema, if it takes no more than most
// of effort before it is known what it will be.
func compilePattern(text string, most int) (*pattern, error) {
	translated, err := translate(text)
	if err != nil {
		return nil, err
	}
	re, err := syntax.Parse(translated, syntax.Perl)
	if err != nil {
		return nil, patternError(text, err)
	}
	p := &pattern{effort: rangeEffort * ranges(re)}
	if p.effort > most {
		return nil, fmt.Errorf("pattern %.100q: with those before it, it is too large; shorten repetitions such as {1000}, or use maxLength", text)
	}
	if p.Regexp, err = regexp.Compile(translated); err != nil {
		return nil, patternError(text, err)
	}
	p.hurry(re)
	return p, nil
}

// patternFaults say what is wrong with the part of a pattern that is at fault, and
// what to do.
var patternFaults = map[syntax.ErrorCode]string{
	syntax.ErrMissingParen:          `a group is not closed; close it with ), or write \( for a parenthesis`,
	syntax.ErrUnexpectedParen:       `a ) closes no group; write \) for a parenthesis`,
	syntax.ErrMissingRepeatArgument: `%q repeats nothing; write a \ before it for the character`,
	syntax.ErrInvalidRepeatOp:       `%q repeats what is repeated already; put that between (?: and )`,
	syntax.ErrInvalidRepeatSize:     `%q repeats from more to less, or more than 1000 times, those within it counted; write {1,1000} at most, or use maxLength`,
	syntax.ErrInvalidCharRange:      `%q is no range and no property that is known; write the lower end first, and of properties categories and scripts, as \p{L} and \p{Greek}`,
	syntax.ErrInvalidCharClass:      `%q is no class of characters; write its members, as [a-z]`,
	syntax.ErrInvalidEscape:         `%q is no escape; leave out the \, or write it twice for a backslash`,
	syntax.ErrInvalidNamedCapture:   `%q is no name that a group can have; write letters, digits and _`,
	syntax.ErrInvalidPerlOp:         `%q is no group; write (?: for one that captures nothing`,
	syntax.ErrTrailingBackslash:     `it ends in a backslash; write it twice for one`,
	syntax.ErrNestingDepth:          `it is nested too deeply; take out groups that do nothing`,
	syntax.ErrLarge:                 `it is too large; shorten repetitions such as {1000}, or use maxLength`,
}

func patternError(text string, err error) error {
	fault := err.Error()
	if e := (*syntax.Error)(nil); errors.As(err, &e) && patternFaults[e.Code] != "" {
		fault = patternFaults[e.Code]
		if strings.Contains(fault, "%q") {
			fault = fmt.Sprintf(fault, e.Expr)
		}
	}
	return fmt.Errorf("pattern %.100q: %s", text, fault)
}

// rangeEffort is the effort that goes into a range of characters: several programs
// are made of it, and all are sorted.
const rangeEffort = 10

// ranges counts the ranges of characters that a pattern has once its repetitions
// are written out.
func ranges(re *syntax.Regexp) int {
	switch re.Op {
	case syntax.OpLiteral:
		return len(re.Rune)
	case syntax.OpCharClass:
		return 1 + len(re.Rune)/2
	}
	n := 1
	for _, sub := range re.Sub {
		n += ranges(sub)
	}
	if re.Op == syntax.OpRepeat {
		n *= max(re.Min, re.Max, 1)
	}
	return n
}

// hurry makes a pattern fast.
func (p *pattern) hurry(re *syntax.Regexp) {
	if p.runs = newRuns(re); p.runs != nil {
		p.once, p.weight = len(p.runs)/runsPerStep, 1
		return
	}
	var effort int
	p.automaton, effort = newAutomaton(re)
	if p.effort += effort; p.automaton != nil {
		p.once, p.weight = 1, 5
		return
	}
	// For each byte package regexp may visit each of its instructions.
	p.once = 1
	if prog, err := syntax.Compile(re.Simplify()); err == nil { // it has been compiled before
		p.once += len(prog.Inst) / instructionsPerStep
	}
	p.weight = p.once * bytesPerStep
}

// How many runs are tried for a step, and how many instructions visited.
const (
	runsPerStep         = 3
	instructionsPerStep = 2
)

// match reports whether the pattern is found in the text.
func (p *pattern) match(text []byte) bool {
	switch {
	case p.runs != nil:
		return matchRuns(p.runs, text)
	case p.automaton != nil:
		return p.automaton.match(text)
	}
	return p.Match(text)
}

// cost is the steps that matching a text takes.
func (p *pattern) cost(e *entry) int {
	return p.once + int(e.size)*p.weight/bytesPerStep
}

// posixClass is what other languages have in classes.
var posixClass = regexp.MustCompile(`^\[:\^?[a-z]+:\]`)

// translate writes an ECMA-262 pattern (with its u flag) as RE2.
func translate(pattern string) (string, error) {
	t := translator{rest: pattern}
	for t.rest != "" && t.err == nil {
		t.step()
	}
	if t.err == nil && t.inClass {
		t.err = errors.New("a class is not closed; close it with ], or write \\[ for a bracket")
	}
	if t.err != nil {
		return "", fmt.Errorf("pattern %q: %w", pattern, t.err)
	}
	return t.out.String(), nil
}

type translator struct {
	rest    string
	out     strings.Builder
	inClass bool
	err     error
}

func (t *translator) skip(prefix string) bool {
	rest, ok := strings.CutPrefix(t.rest, prefix)
	if ok {
		t.rest = rest
	}
	return ok
}

func (t *translator) fail(format string, args ...any) { t.err = fmt.Errorf(format, args...) }

// ranges writes ranges of characters, as a class or into the one around them.
// There a dash beside them would join one of their ends to its neighbour.
func (t *translator) ranges(ranges string) {
	before := t.out.String()
	switch {
	case !t.inClass:
		t.out.WriteString("[" + ranges + "]")
	case strings.HasSuffix(before, "-") && !strings.HasSuffix(before, `\-`) && !strings.HasSuffix(before, "[-") && !strings.HasSuffix(before, "[^-"),
		strings.HasPrefix(t.rest, "-") && !strings.HasPrefix(t.rest, "-]"):
		t.fail(`\s and \S are no end of a range; write \- for the character`)
	default:
		t.out.WriteString(ranges)
	}
}

func (t *translator) step() {
	switch {
	case t.skip(`\`):
		t.escape()
	case t.inClass && t.skip("]"):
		t.inClass = false
		t.out.WriteByte(']')
	case t.inClass && posixClass.MatchString(t.rest): // it would mean its letters
		t.fail("%s is no class in ECMA-262; write its members, as a-z", posixClass.FindString(t.rest))
	case t.inClass && t.skip("["): // RE2 would look for [:names:]
		t.out.WriteString(`\[`)
	case t.inClass:
		t.copyRune()
	case t.skip("[^]"):
		t.out.WriteString(`(?s:.)`)
	case t.skip("[]"):
		t.fail("[] matches nothing; write the schema false if that is meant")
	case t.skip("[^"):
		t.inClass = true
		t.out.WriteString("[^")
	case t.skip("["):
		t.inClass = true
		t.out.WriteByte('[')
	case t.skip("."):
		t.out.WriteString("[^" + ecmaNewlines + "]")
	case t.skip("(?:"):
		t.out.WriteString("(?:")
	case t.skip("(?="), t.skip("(?!"), t.skip("(?<="), t.skip("(?<!"):
		t.fail("lookahead and lookbehind are not supported; write several patterns, under allOf or not")
	case t.skip("(?<"):
		t.out.WriteString("(?P<")
	case t.skip("(?"):
		t.fail("after (? only :, <name> are supported; write [aA] for letters of either case")
	default:
		t.copyRune()
	}
}

func (t *translator) copyRune() {
	_, size := utf8.DecodeRuneInString(t.rest)
	t.out.WriteString(t.rest[:size])
	t.rest = t.rest[size:]
}

// escape translates what follows a backslash.
func (t *translator) escape() {
	if t.rest == "" {
		t.fail("ends in a backslash; write it twice for one")
		return
	}
	c := t.rest[0]
	switch {
	case c >= utf8.RuneSelf:
		t.fail("\\ before a character that needs none; leave it out")
		return
	case !isDigit(c) && !('a' <= c|0x20 && c|0x20 <= 'z'): // punctuation stands for itself
		t.out.WriteByte('\\')
		t.copyRune()
		return
	}
	t.rest = t.rest[1:]
	switch c {
	case 'd', 'D', 'w', 'W', 't', 'n', 'v', 'f', 'r':
		t.out.WriteString(`\` + string(c))
	case 's':
		t.ranges(ecmaSpace)
	case 'S':
		t.ranges(ecmaNonSpace)
	case 'b':
		if t.inClass {
			t.out.WriteString(`\x08`)
		} else {
			t.out.WriteString(`\b`)
		}
	case 'B':
		if t.inClass {
			t.fail(`\B cannot stand in a class; write it before or after`)
			return
		}
		t.out.WriteString(`\B`)
	case '0':
		if t.rest != "" && isDigit(t.rest[0]) {
			t.fail(`octal escapes are not supported; write \x and two digits`)
			return
		}
		t.out.WriteString(`\x00`)
	case 'c':
		if t.rest == "" || !('a' <= t.rest[0]|0x20 && t.rest[0]|0x20 <= 'z') {
			t.fail(`\c without a letter; write one after it, or \\ for a backslash`)
			return
		}
		t.rune(rune(t.rest[0] % 32))
		t.rest = t.rest[1:]
	case 'x':
		if r, ok := t.hex(2); ok {
			t.rune(r)
		}
	case 'u':
		t.unicode()
	case 'p', 'P':
		t.property(c)
	default:
		t.fail(`\%c is not supported; leave out the backslash for the character, and write out what a number refers to`, c)
	}
}

func (t *translator) rune(r rune) { fmt.Fprintf(&t.out, `\x{%x}`, r) }

// hex takes n hexadecimal digits.
func (t *translator) hex(n int) (rune, bool) {
	var r rune
	for i := range n {
		if i >= len(t.rest) {
			t.fail(`an escape is cut; write two digits after \x and four after \u`)
			return 0, false
		}
		c := t.rest[i]
		switch {
		case isDigit(c):
			r = r<<4 | rune(c-'0')
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			r = r<<4 | rune(c|0x20-'a'+10)
		default:
			t.fail(`an escape is cut; write two digits after \x and four after \u`)
			return 0, false
		}
	}
	t.rest = t.rest[n:]
	return r, true
}

// unicode takes XXXX, a surrogate pair of two, or {X...}.
func (t *translator) unicode() {
	if t.skip("{") {
		digits, rest, ok := strings.Cut(t.rest, "}")
		if !ok || digits == "" || len(digits) > 6 {
			t.fail(`\u{ is not closed, or has not 1 to 6 digits; write it as \u{1f600}`)
			return
		}
		t.rest = digits
		r, ok := t.hex(len(digits))
		t.rest = rest
		if ok && !utf8.ValidRune(r) {
			t.fail(`\u{%s} is no character; the last one is \u{10ffff}`, digits)
		} else if ok {
			t.rune(r)
		}
		return
	}
	r, ok := t.hex(4)
	if ok && utf16.IsSurrogate(r) {
		low := rune(0)
		if t.skip(`\u`) {
			low, ok = t.hex(4)
		}
		if r = utf16.DecodeRune(r, low); ok && r == utf8.RuneError {
			t.fail(`a surrogate alone is no character; write both, or \u{1f600}`)
			return
		}
	}
	if ok {
		t.rune(r)
	}
}

// property takes {Name} or {Key=Name}.
func (t *translator) property(p byte) {
	if !t.skip("{") {
		t.fail(`\%[1]c without {; write it as \%[1]c{L}`, p)
		return
	}
	name, rest, ok := strings.Cut(t.rest, "}")
	if !ok {
		t.fail(`\%c{ is not closed; write } after the name`, p)
		return
	}
	t.rest = rest
	if key, value, ok := strings.Cut(name, "="); ok {
		switch key {
		case "Script", "sc", "General_Category", "gc":
			name = value
		default:
			t.fail(`\%c{%s=...} is not supported; Script and General_Category are`, p, key)
			return
		}
	}
	if strings.HasPrefix(name, "^") { // RE2's own way to negate
		t.fail(`\%c{^ is not supported; write \P for what \p is not`, p)
		return
	}
	t.out.WriteString(`\` + string(p) + "{" + name + "}")
}
