package schema

import (
	"encoding/binary"
	"math/bits"
	stdutf8 "unicode/utf8"

	"github.com/segmentio/asm/utf8"
)

// read makes the tape of a JSON text. It refuses what RFC 8259 does not allow
// and what g does not, and then returns why and at which byte. It keeps in until
// the next call and does not write to it.
func (t *tape) read(in []byte, g *Guards) (at int, why error) {
	t.in, t.text = in, t.text[:0]
	t.set.clear()
	if len(t.stack) < g.Depth {
		t.stack = make([]opened, g.Depth)
	}
	var (
		n        uint32 // entries so far
		depth    int
		inObject bool
		// What opened says, of the innermost of depth.
		open, count uint32
		seen        uint64
		entries     = t.entries
	)
	i := skipSpace(in, 0)
	for { // one value, or one property
		if inObject {
			start := i
			if i >= len(in) || in[i] != '"' {
				return i, ErrNotJSON
			}
			if n >= uint32(len(entries)) {
				if entries = t.grow(g); n >= uint32(len(entries)) {
					return i, ErrTooManyTokens
				}
			}
			e := &entries[n]
			key, size := int64(0), -1
			if i+9 <= len(in) {
				key, size = shortText(binary.LittleEndian.Uint64(in[i+1:]))
			}
			if size >= 0 {
				e.kind, e.flags, e.scale, e.at, e.size, e.next, e.n = kindName, 0, 0, uint32(i+1), uint32(size), n+1, key
				i += size + 2
			} else {
				if i, why = t.string(e, i, g); why != nil {
					return i, why
				}
				name := t.bytes(e)
				key = keyOf(name)
				e.kind, e.n, e.next = kindName, key, n+1
				if !g.HazardousNames && hazardous(name) {
					return start, ErrHazardousName
				}
			}
			bit := uint64(1) << spread(key, 64-6)
			// A name whose bit is new is new. Beyond a few names the bits are used up.
			if (seen&bit != 0 || count >= fewNames) && !g.DuplicateNames && t.seenBefore(open, count, n) {
				return start, ErrDuplicateName
			}
			seen |= bit
			if count++; count > uint32(g.Names) {
				return start, ErrTooManyNames
			}
			n++
			if i = skipSpace(in, i); i >= len(in) || in[i] != ':' {
				return i, ErrNotJSON
			}
			i = skipSpace(in, i+1)
		} else {
			count++
		}

		if i >= len(in) {
			return i, ErrNotJSON
		}
		if n >= uint32(len(entries)) {
			if entries = t.grow(g); n >= uint32(len(entries)) {
				return i, ErrTooManyTokens
			}
		}
		e := &entries[n]
		switch c := in[i]; {
		case c == '"':
			if i+9 <= len(in) {
				if key, size := shortText(binary.LittleEndian.Uint64(in[i+1:])); size >= 0 {
					e.kind, e.flags, e.scale, e.at, e.size, e.next, e.n = kindString, 0, 0, uint32(i+1), uint32(size), n+1, key
					i += size + 2
					break
				}
			}
			if end, high := plainEnd(in, i+1); end < len(in) && in[end] == '"' && high == 0 {
				e.kind, e.flags, e.scale, e.at, e.size, e.next, e.n = kindString, 0, 0, uint32(i+1), uint32(end-i-1), n+1, unknownKey
				i = end + 1
				break
			}
			if i, why = t.string(e, i, g); why != nil {
				return i, why
			}
			e.kind, e.next, e.n = kindString, n+1, unknownKey
		case isDigit(c) || c == '-':
			if i, why = number(e, in, i, g); why != nil {
				return i, why
			}
			e.next = n + 1
		case c == '{' || c == '[':
			if depth >= g.Depth {
				return i, ErrTooDeep
			}
			e.kind, e.flags, e.scale, e.at = kindArray, 0, 0, uint32(i)
			if inObject = c == '{'; inObject {
				e.kind = kindObject
			}
			o := &t.stack[depth]
			o.entry, o.count, o.seen = open, count, seen
			depth++
			open, count, seen = n, 0, 0
			n++
			i = skipSpace(in, i+1)
			if i >= len(in) || in[i] != c+2 { // ']' and '}' are two after '[' and '{'
				continue
			}
			n-- // the end that follows counts it
		default:
			k, value, size := literal(in[i:])
			if size == 0 {
				return badLiteral(in, i), ErrNotJSON
			}
			e.kind, e.flags, e.scale, e.at, e.size, e.next, e.n = k, 0, 0, uint32(i), uint32(size), n+1, value
			i += size
		}
		n++

		for { // what ends here
			if depth == 0 {
				if i = skipSpace(in, i); i < len(in) && !g.TrailingBytes {
					return i, ErrNotJSON
				}
				return i, nil
			}
			if i = skipSpace(in, i); i >= len(in) {
				return i, ErrNotJSON
			}
			c := in[i]
			if c == ',' {
				i = skipSpace(in, i+1)
				break
			}
			if inObject && c != '}' || !inObject && c != ']' {
				return i, ErrNotJSON
			}
			i++
			e := &entries[open]
			e.next, e.n, e.size = n, int64(count), uint32(i)-e.at
			depth--
			o := &t.stack[depth]
			open, count, seen = o.entry, o.count, o.seen
			inObject = depth > 0 && entries[open].kind == kindObject
		}
	}
}

// grow makes room for more entries, up to what the guard allows.
func (t *tape) grow(g *Guards) []entry {
	more := make([]entry, max(len(t.entries), min(g.Tokens, max(64, 2*len(t.entries)))))
	copy(more, t.entries)
	t.entries = more
	return more
}

func skipSpace(in []byte, i int) int {
	for i < len(in) && in[i] <= ' ' && (in[i] == ' ' || in[i] == '\n' || in[i] == '\r' || in[i] == '\t') {
		i++
	}
	return i
}

// literal reads true, false or null; size is 0 for anything else.
func literal(in []byte) (k kinds, n int64, size int) {
	if len(in) < 4 {
		return 0, 0, 0
	}
	switch binary.LittleEndian.Uint32(in) {
	case 't' | 'r'<<8 | 'u'<<16 | 'e'<<24:
		return kindBool, 1, 4
	case 'n' | 'u'<<8 | 'l'<<16 | 'l'<<24:
		return kindNull, 0, 4
	case 'f' | 'a'<<8 | 'l'<<16 | 's'<<24:
		if len(in) >= 5 && in[4] == 'e' {
			return kindBool, 0, 5
		}
	}
	return 0, 0, 0
}

// badLiteral is where a text at i stops being one of the literals.
func badLiteral(in []byte, i int) int {
	at := i
	for _, want := range []string{"true", "false", "null"} {
		for j := range len(want) {
			if i+j >= len(in) || in[i+j] != want[j] {
				at = max(at, i+j)
				break
			}
		}
	}
	return at
}

// Eight bytes at once: a word of the same byte in each place.
const (
	ones    = 0x0101010101010101
	tops    = 0x80 * ones
	quotes  = '"' * ones
	slashes = '\\' * ones
	blanks  = ' ' * ones
)

// shortText looks at eight bytes for a text that is shorter, plain and all ASCII,
// and its closing quote. It returns the text's key and size, or a size below zero
// if it has not found one.
func shortText(w uint64) (key int64, size int) {
	quote := ((w ^ quotes) - ones) & ^w & tops
	other := (((w ^ slashes) - ones) | (w - blanks) | w) & tops
	if quote &= -quote; quote == 0 || other&(quote-1) != 0 {
		return 0, -1
	}
	shift := bits.TrailingZeros64(quote) &^ 7 // eight times the size
	return int64(w&(1<<(shift&63)-1) | uint64(shift)<<(56-3)), shift >> 3
}

// plainEnd returns where a text stops being plain: at a quote, a backslash, a
// control character or its end. high is not 0 if it is not all ASCII.
func plainEnd(in []byte, i int) (end int, high uint64) {
	for ; i+8 <= len(in); i += 8 {
		w := binary.LittleEndian.Uint64(in[i:])
		// In each term a byte's top bit is set if it is what the term looks for.
		// Bytes above that may be wrong, so only the lowest counts.
		if stop := (((w ^ quotes) - ones) | ((w ^ slashes) - ones) | (w - blanks)) & ^w & tops; stop != 0 {
			n := bits.TrailingZeros64(stop)
			return i + n/8, high | w&tops&(1<<n-1)
		}
		high |= w & tops
	}
	for ; i < len(in); i++ {
		c := in[i]
		if c == '"' || c == '\\' || c < ' ' {
			break
		}
		high |= uint64(c & 0x80)
	}
	return i, high
}

// string reads a string, from its opening quote on, and returns where it ends.
// It leaves the entry's kind and links to its caller.
func (t *tape) string(e *entry, i int, g *Guards) (int, error) {
	start := i + 1
	end, high := plainEnd(t.in, start)
	if end >= len(t.in) || t.in[end] < ' ' {
		return end, ErrNotJSON
	}
	if t.in[end] == '\\' {
		return t.escaped(e, start, end, g)
	}
	e.flags, e.at, e.size = 0, uint32(start), uint32(end-start)
	if high != 0 {
		e.flags = notASCII
		if text := t.in[start:end]; !utf8.Valid(text) {
			return start + validPrefix(text), ErrNotJSON
		}
	}
	return end + 1, nil
}

// escaped reads a string that begins at start and has its first escape at i.
func (t *tape) escaped(e *entry, start, i int, g *Guards) (int, error) {
	in, from := t.in, len(t.text)
	for {
		if text := in[start:i]; !utf8.Valid(text) {
			return start + validPrefix(text), ErrNotJSON
		}
		t.text = append(t.text, in[start:i]...)
		switch {
		case i >= len(in) || in[i] < ' ':
			return i, ErrNotJSON
		case in[i] == '"':
			e.flags, e.at, e.size = unescaped, uint32(from), uint32(len(t.text)-from)
			for _, c := range t.text[from:] {
				if c >= stdutf8.RuneSelf {
					e.flags |= notASCII
					break
				}
			}
			return i + 1, nil
		}
		if i++; i >= len(in) {
			return i, ErrNotJSON
		}
		c := escapes[in[i]]
		switch {
		case c != 0:
			t.text = append(t.text, c)
			i++
		case in[i] == 'u':
			r, at, err := unicodeEscape(in, i+1, g)
			if err != nil {
				return at, err
			}
			t.text = stdutf8.AppendRune(t.text, r)
			i = at
		default:
			return i, ErrNotJSON
		}
		start = i
		i, _ = plainEnd(in, i)
	}
}

// escapes are the letters after a backslash and what they stand for.
var escapes = [256]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

// unicodeEscape reads XXXX at i, and \uXXXX after it where both are a surrogate
// pair.
func unicodeEscape(in []byte, i int, g *Guards) (r rune, end int, err error) {
	r, i, ok := hexDigits(in, i)
	switch {
	case !ok:
		return 0, i, ErrNotJSON
	case r < 0xd800 || r > 0xdfff:
		return r, i, nil
	}
	end = i // of the half
	if r < 0xdc00 {
		low := rune(0)
		switch {
		case i >= len(in) || in[i] == '\\' && i+1 >= len(in):
			return 0, len(in), ErrNotJSON // the string is not closed either
		case in[i] == '\\' && in[i+1] == 'u':
			if low, i, ok = hexDigits(in, i+2); !ok {
				return 0, i, ErrNotJSON
			}
		}
		if 0xdc00 <= low && low <= 0xdfff {
			return 0x10000 + (r-0xd800)<<10 + (low - 0xdc00), i, nil
		}
	}
	if !g.LoneSurrogates {
		return 0, end, ErrLoneSurrogate
	}
	return stdutf8.RuneError, end, nil
}

// hexDigits reads four digits, and returns where they end or go wrong.
func hexDigits(in []byte, i int) (r rune, end int, ok bool) {
	for range 4 {
		if i >= len(in) {
			return 0, i, false
		}
		switch c := in[i]; {
		case isDigit(c):
			r = r<<4 | rune(c-'0')
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			r = r<<4 | rune(c|0x20-'a'+10)
		default:
			return 0, i, false
		}
		i++
	}
	return r, i, true
}

// validPrefix is the length of what is valid UTF-8.
func validPrefix(in []byte) int {
	at := 0
	for at < len(in) {
		r, size := stdutf8.DecodeRune(in[at:])
		if r == stdutf8.RuneError && size == 1 {
			break
		}
		at += size
	}
	return at
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// hazardous reports a name under which JavaScript finds what every object
// inherits: merging such an object into another one changes them all.
func hazardous[T string | []byte](name T) bool {
	return string(name) == "__proto__" || string(name) == "constructor" || string(name) == "prototype"
}
