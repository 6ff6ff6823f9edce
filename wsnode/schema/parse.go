package schema

import (
	"encoding/json"
	"strconv"
	"unicode/utf8"
)

// maxNumberBytes bounds the text of a number: a double needs 25 characters at
// most, and comparing numbers costs the square of their length.
const maxNumberBytes = 128

// zero stands for a zero however it was written: the exponent of 0e999999999
// would keep arithmetic on it busy.
const zero = json.Number("0")

// parse reads a whole JSON text into the values that jsonschema takes: maps,
// slices, strings, json.Number, bool and nil. It refuses what RFC 8259 does not
// allow, and what g does not. encoding/json would let invalid UTF-8, lone
// surrogates and duplicate names pass. It keeps nothing of in.
func parse(in []byte, g Guards) (any, error) {
	if !utf8.Valid(in) {
		return nil, &Error{Err: ErrNotJSON, Offset: validPrefix(in)}
	}
	p := parser{in: in, guards: g}
	p.space()
	v := p.value(0)
	p.space()
	if p.err == nil && p.at < len(p.in) {
		p.fail(ErrNotJSON)
	}
	if p.err != nil {
		return nil, &Error{Err: p.err, Offset: min(p.at, len(in))}
	}
	return v, nil
}

// validPrefix is the length of what is valid UTF-8.
func validPrefix(in []byte) int {
	at := 0
	for at < len(in) {
		r, size := utf8.DecodeRune(in[at:])
		if r == utf8.RuneError && size == 1 {
			break
		}
		at += size
	}
	return at
}

// parser walks over a text. After an error it stands where that was found, and
// every step does nothing.
type parser struct {
	in     []byte
	at     int
	tokens int
	guards Guards
	err    error
}

func (p *parser) fail(err error) {
	if p.err == nil {
		p.err = err
	}
}

// peek is the next byte, or 0 at the end: no token begins with a NUL.
func (p *parser) peek() byte {
	if p.err == nil && p.at < len(p.in) {
		return p.in[p.at]
	}
	return 0
}

// take steps over the next byte if it is c.
func (p *parser) take(c byte) bool {
	if p.peek() != c {
		return false
	}
	p.at++
	return true
}

func (p *parser) space() {
	for {
		switch p.peek() {
		case ' ', '\t', '\n', '\r':
			p.at++
		default:
			return
		}
	}
}

func (p *parser) token() {
	if p.tokens++; p.tokens > p.guards.Tokens {
		p.fail(ErrTooManyTokens)
	}
}

// value reads one value; depth counts the arrays and objects around it.
func (p *parser) value(depth int) any {
	p.token()
	switch c := p.peek(); {
	case c == '{' || c == '[':
		if depth >= p.guards.Depth {
			p.fail(ErrTooDeep)
			return nil
		}
		p.at++
		if c == '{' {
			return p.object(depth + 1)
		}
		return p.array(depth + 1)
	case c == '"':
		return p.text()
	case c == '-' || isDigit(c):
		return p.number()
	case c == 't':
		p.literal("true")
		return true
	case c == 'f':
		p.literal("false")
		return false
	default:
		p.literal("null")
		return nil
	}
}

func (p *parser) literal(want string) {
	for i := range len(want) {
		if !p.take(want[i]) {
			p.fail(ErrNotJSON)
			return
		}
	}
}

func (p *parser) array(depth int) any {
	out := []any{}
	if p.space(); p.take(']') {
		return out
	}
	for p.err == nil {
		p.space()
		out = append(out, p.value(depth))
		p.space()
		if p.take(']') {
			return out
		}
		if !p.take(',') {
			p.fail(ErrNotJSON)
		}
	}
	return nil
}

func (p *parser) object(depth int) any {
	out := map[string]any{}
	if p.space(); p.take('}') {
		return out
	}
	for p.err == nil {
		p.space()
		name := p.name(out)
		p.space()
		if !p.take(':') {
			p.fail(ErrNotJSON)
		}
		if p.err != nil {
			return nil
		}
		p.space()
		out[name] = p.value(depth)
		p.space()
		if p.take('}') {
			return out
		}
		if !p.take(',') {
			p.fail(ErrNotJSON)
		}
	}
	return nil
}

// name reads a property's name; object holds those before it.
func (p *parser) name(object map[string]any) string {
	p.token()
	if p.peek() != '"' {
		p.fail(ErrNotJSON)
		return ""
	}
	start := p.at
	name := p.text()
	if p.err != nil {
		return ""
	}
	if _, ok := object[name]; ok {
		p.fail(ErrDuplicateName)
	}
	if len(object) >= p.guards.Names {
		p.fail(ErrTooManyNames)
	}
	if !p.guards.HazardousNames && hazardous(name) {
		p.fail(ErrHazardousName)
	}
	if p.err != nil {
		p.at = start
	}
	return name
}

// hazardous reports a name under which JavaScript finds what every object
// inherits: merging such an object into another one changes them all.
func hazardous(name string) bool {
	return name == "__proto__" || name == "constructor" || name == "prototype"
}

// text reads a string, at its opening quote.
func (p *parser) text() string {
	p.at++
	start := p.at
	for p.at < len(p.in) { // mostly there is no escape
		switch c := p.in[p.at]; {
		case c == '"':
			p.at++
			return string(p.in[start : p.at-1])
		case c == '\\':
			return p.escaped(append([]byte(nil), p.in[start:p.at]...))
		case c < 0x20:
			p.fail(ErrNotJSON)
			return ""
		}
		p.at++
	}
	p.fail(ErrNotJSON)
	return ""
}

// escaped reads the rest of a string from its first escape; out is what comes
// before.
func (p *parser) escaped(out []byte) string {
	for p.at < len(p.in) {
		c := p.in[p.at]
		p.at++
		switch {
		case c == '"':
			return string(out)
		case c < 0x20:
			p.at--
			p.fail(ErrNotJSON)
			return ""
		case c != '\\':
			out = append(out, c)
			continue
		}
		switch c := p.peek(); c {
		case '"', '\\', '/':
			out = append(out, c)
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			out = utf8.AppendRune(out, p.unicode())
		default:
			p.fail(ErrNotJSON)
		}
		if p.err != nil {
			return ""
		}
		p.at++
	}
	p.fail(ErrNotJSON)
	return ""
}

// unicode reads uXXXX, and where that is the first half of a surrogate pair the
// second half too. It stops at the last digit.
func (p *parser) unicode() rune {
	r := p.hex()
	switch {
	case p.err != nil || r < 0xd800 || r > 0xdfff:
		return r
	case r >= 0xdc00:
		p.fail(ErrLoneSurrogate)
		return 0
	}
	for _, want := range []byte{'\\', 'u'} {
		p.at++
		if p.at == len(p.in) {
			p.fail(ErrNotJSON) // the string is not closed either
			return 0
		}
		if p.in[p.at] != want {
			p.fail(ErrLoneSurrogate)
			return 0
		}
	}
	low := p.hex()
	if p.err == nil && (low < 0xdc00 || low > 0xdfff) {
		p.fail(ErrLoneSurrogate)
	}
	return 0x10000 + (r-0xd800)<<10 + (low - 0xdc00)
}

// hex reads the four digits after a u, and stops at the last one.
func (p *parser) hex() rune {
	var r rune
	for range 4 {
		p.at++
		c := p.peek()
		switch {
		case isDigit(c):
			r = r<<4 | rune(c-'0')
		case 'a' <= c && c <= 'f':
			r = r<<4 | rune(c-'a'+10)
		case 'A' <= c && c <= 'F':
			r = r<<4 | rune(c-'A'+10)
		default:
			p.fail(ErrNotJSON)
			return 0
		}
	}
	return r
}

// number reads a number and checks that every decoder reads the same one: an
// integer is within MaxInteger, and whatever has a point or an exponent is a
// finite double, and no zero unless its digits are.
func (p *parser) number() any {
	start := p.at
	p.take('-')
	digits := p.at
	if !p.take('0') {
		p.digits()
	}
	integer := p.in[digits:p.at]
	if p.take('.') {
		integer = nil
		p.digits()
	}
	mantissa := p.in[start:p.at]
	if p.take('e') || p.take('E') {
		integer = nil
		if !p.take('+') {
			p.take('-')
		}
		p.digits()
	}
	if p.err != nil {
		return nil
	}
	text := p.in[start:p.at]
	switch {
	case len(text) > maxNumberBytes:
	case isZero(mantissa):
		return zero
	case integer != nil:
		if n, err := strconv.ParseUint(string(integer), 10, 64); err == nil && n <= p.guards.MaxInteger {
			return json.Number(text)
		}
	default:
		if f, err := strconv.ParseFloat(string(text), 64); err == nil && f != 0 {
			return json.Number(text)
		}
	}
	p.at = start
	p.fail(ErrNumberRange)
	return nil
}

// digits steps over one digit or more.
func (p *parser) digits() {
	if !isDigit(p.peek()) {
		p.fail(ErrNotJSON)
		return
	}
	for isDigit(p.peek()) {
		p.at++
	}
}

func isZero(mantissa []byte) bool {
	for _, c := range mantissa {
		if '1' <= c && c <= '9' {
			return false
		}
	}
	return true
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
