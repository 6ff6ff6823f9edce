package schema

import (
	"bytes"
	stdutf8 "unicode/utf8"
)

// isRegex: ECMA-262 section 22.2.1, a pattern with the flag u. What patterns of
// messages mean is nobody's business here, so none is compiled.
func isRegex(text []byte) bool {
	s := regexScan{in: text}
	return s.pattern()
}

// Patterns that are nested more deeply, or have more names, are taken for none.
const (
	maxRegexDepth = 256
	maxRegexNames = 32
)

// regexScan walks over a pattern once.
type regexScan struct {
	in     []byte
	at     int
	groups int // that capture
	// The largest number that a \1 refers to, and the names that groups have and
	// that a \k refers to.
	refers                int
	named, wanted         [maxRegexNames][]byte
	namedCount, wantCount int
}

func (s *regexScan) peek() byte {
	if s.at < len(s.in) {
		return s.in[s.at]
	}
	return 0
}

func (s *regexScan) take(prefix string) bool {
	if len(s.in)-s.at < len(prefix) || string(s.in[s.at:s.at+len(prefix)]) != prefix {
		return false
	}
	s.at += len(prefix)
	return true
}

func (s *regexScan) pattern() bool {
	var looks [maxRegexDepth]bool // which open groups look ahead or behind
	depth := 0
	for s.at < len(s.in) {
		ok, repeatable := true, true
		switch c := s.in[s.at]; c {
		case '(':
			if depth == maxRegexDepth {
				return false
			}
			if s.at++; s.peek() == '?' {
				if looks[depth], ok = s.open(); !ok {
					return false
				}
			} else {
				looks[depth] = false
				s.groups++
			}
			depth++
			continue
		case ')':
			if depth == 0 {
				return false
			}
			s.at++
			depth--
			repeatable = !looks[depth]
		case '|':
			s.at++
			continue
		case '^', '$':
			s.at++
			repeatable = false
		case '[':
			ok = s.class()
		case '\\':
			repeatable, ok = s.escape()
		case '*', '+', '?', '{', '}', ']':
			return false
		default:
			s.rune()
		}
		if !ok || s.at < len(s.in) && quantifies.has(s.in[s.at]) && !s.quantifier(repeatable) {
			return false
		}
	}
	return depth == 0 && s.refers <= s.groups && s.namesKnown()
}

// open takes what follows the parenthesis of a group that does not only capture,
// and says whether it looks ahead or behind.
func (s *regexScan) open() (looks, ok bool) {
	switch {
	case s.take("?:"):
		return false, true
	case s.take("?="), s.take("?!"), s.take("?<="), s.take("?<!"):
		return true, true
	case s.take("?<"):
		name, ok := s.name()
		if !ok || s.namedCount == maxRegexNames {
			return false, false
		}
		for _, other := range s.named[:s.namedCount] {
			if bytes.Equal(name, other) {
				return false, false
			}
		}
		s.named[s.namedCount] = name
		s.namedCount++
	default:
		return false, false
	}
	s.groups++
	return false, true
}

// name takes a group's name and the > after it.
func (s *regexScan) name() ([]byte, bool) {
	from := s.at
	for s.at < len(s.in) {
		switch c := s.in[s.at]; {
		case c == '>':
			s.at++
			return s.in[from : s.at-1], s.at-1 > from
		case c == '$' || c == '_' || c >= stdutf8.RuneSelf || alphanumeric.has(c) && (s.at > from || !isDigit(c)):
			s.at++
		default:
			return nil, false
		}
	}
	return nil, false
}

func (s *regexScan) namesKnown() bool {
	for _, wanted := range s.wanted[:s.wantCount] {
		known := false
		for _, name := range s.named[:s.namedCount] {
			known = known || bytes.Equal(wanted, name)
		}
		if !known {
			return false
		}
	}
	return true
}

// quantifies are the bytes that a quantifier begins with.
var quantifies = newByteSet("", "*+?{")

// quantifier takes one, if it is there.
func (s *regexScan) quantifier(allowed bool) bool {
	switch s.peek() {
	case '*', '+', '?':
		s.at++
	case '{':
		s.at++
		least, ok := s.decimal()
		if !ok {
			return false
		}
		if s.take(",") && s.peek() != '}' {
			if most, ok := s.decimal(); !ok || most < least {
				return false
			}
		}
		if !s.take("}") {
			return false
		}
	default:
		return true
	}
	s.take("?")
	return allowed
}

// decimal takes a number; one beyond what fits is as good as infinite.
func (s *regexScan) decimal() (n int, ok bool) {
	for isDigit(s.peek()) {
		n, ok = min(n*10+int(s.in[s.at]-'0'), 1<<28), true
		s.at++
	}
	return n, ok
}

// escape takes an escape outside a class, and says whether it can be repeated.
func (s *regexScan) escape() (repeatable, ok bool) {
	switch {
	case s.take(`\b`), s.take(`\B`):
		return false, true
	case s.take(`\k<`):
		name, ok := s.name()
		if !ok || s.wantCount == maxRegexNames {
			return false, false
		}
		s.wanted[s.wantCount] = name
		s.wantCount++
		return true, true
	case s.at+1 < len(s.in) && '1' <= s.in[s.at+1] && s.in[s.at+1] <= '9':
		s.at++
		n, _ := s.decimal()
		s.refers = max(s.refers, n)
		return true, true
	}
	_, _, ok = s.character()
	return true, ok
}

// class takes a class, from its bracket on.
func (s *regexScan) class() bool {
	s.at++
	s.take("^")
	for s.at < len(s.in) {
		if s.in[s.at] == ']' {
			s.at++
			return true
		}
		from, single, ok := s.classAtom()
		if !ok {
			return false
		}
		if s.peek() != '-' || s.at+1 < len(s.in) && s.in[s.at+1] == ']' {
			continue
		}
		s.at++
		if s.at == len(s.in) {
			return false
		}
		to, alsoSingle, ok := s.classAtom()
		if !ok || !single || !alsoSingle || to < from {
			return false
		}
	}
	return false
}

// classAtom takes one member of a class, and says whether it is a single
// character, and which.
func (s *regexScan) classAtom() (r rune, single, ok bool) {
	if s.peek() == '\\' {
		switch {
		case s.take(`\b`):
			return '\b', true, true
		case s.take(`\-`):
			return '-', true, true
		}
		return s.character()
	}
	return s.rune(), true, true
}

// rune takes a character that stands for itself.
func (s *regexScan) rune() rune {
	if c := s.in[s.at]; c < stdutf8.RuneSelf {
		s.at++
		return rune(c)
	}
	r, size := stdutf8.DecodeRune(s.in[s.at:])
	s.at += size
	return r
}

// character takes an escape that may stand inside a class and outside.
func (s *regexScan) character() (r rune, single, ok bool) {
	s.at++
	c := s.peek()
	s.at++
	switch c {
	case 'd', 'D', 's', 'S', 'w', 'W':
		return 0, false, true
	case 'p', 'P':
		end := bytes.IndexByte(s.in[min(s.at, len(s.in)):], '}')
		if s.peek() != '{' || end < 2 {
			return 0, false, false
		}
		name, value, pair := bytes.Cut(s.in[s.at+1:s.at+end], []byte("="))
		s.at += end + 1
		return 0, false, propertyName.all(name) && propertyName.all(value) && len(name) > 0 && pair == (len(value) > 0)
	case 't':
		return '\t', true, true
	case 'n':
		return '\n', true, true
	case 'v':
		return '\v', true, true
	case 'f':
		return '\f', true, true
	case 'r':
		return '\r', true, true
	case 'c':
		letter := s.peek()
		s.at++
		return rune(letter % 32), true, 'a' <= letter|0x20 && letter|0x20 <= 'z'
	case '0':
		return 0, true, !isDigit(s.peek())
	case 'x':
		r, ok = s.hex(2)
		return r, true, ok
	case 'u':
		r, ok = s.unicode()
		return r, true, ok
	}
	return rune(c), true, c != 0 && bytes.IndexByte([]byte(`^$\.*+?()[]{}|/`), c) >= 0
}

var propertyName = newByteSet("azAZ09", "_")

// hex takes n hexadecimal digits.
func (s *regexScan) hex(n int) (r rune, ok bool) {
	for range n {
		c := s.peek()
		switch {
		case isDigit(c):
			r = r<<4 | rune(c-'0')
		case hexadecimal.has(c):
			r = r<<4 | rune(c|0x20-'a'+10)
		default:
			return 0, false
		}
		s.at++
	}
	return r, true
}

// unicode takes XXXX, two of them as a surrogate pair, or {X...}.
func (s *regexScan) unicode() (r rune, ok bool) {
	if s.take("{") {
		n := 0
		for hexadecimal.has(s.peek()) && r <= stdutf8.MaxRune {
			digit, _ := s.hex(1)
			r, n = r<<4|digit, n+1
		}
		return r, n > 0 && r <= stdutf8.MaxRune && s.take("}")
	}
	if r, ok = s.hex(4); !ok || r < 0xd800 || r > 0xdbff {
		return r, ok
	}
	back := s.at
	if s.take(`\u`) {
		if low, ok := s.hex(4); ok && 0xdc00 <= low && low <= 0xdfff {
			return 0x10000 + (r-0xd800)<<10 + (low - 0xdc00), true
		}
	}
	s.at = back
	return r, true
}
