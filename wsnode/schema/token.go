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
	in = in[:len(in):len(in)] // with one bound to check
	t.in, t.text, t.duplicateNames = in, t.text[:0], g.DuplicateNames
	t.set.clear()
	if len(t.stack) <= g.Depth {
		t.stack = make([]opened, g.Depth+1)
	}
	var (
		n       uint // entries so far
		entries = t.entries
		o       = &t.stack[0]                    // the innermost that is open, or none
		few     = uint32(min(fewNames, g.Names)) // from which on each name is looked up
		c       byte
		i       int
	)
	*o = opened{comma: ' '} // which next does not return

	for { // one value, or one property
		if o.end == '}' {
			if c, i = next(in, i); c != '"' {
				return i, ErrNotJSON
			}
			if n >= uint(len(entries)) {
				if entries = t.grow(g); n >= uint(len(entries)) {
					return i, ErrTooManyTokens
				}
			}
			start, e := i, &entries[n]
			var key int64
			end, last := plainText(in, i+1)
			if uint(end) < uint(len(in)) && in[end] == '"' {
				size := end - i - 1
				if key = shortKey(last, size); size >= 8 {
					key = longKey(in[i+1 : end])
					if !g.HazardousNames && hazardous(in[i+1:end]) { // none is shorter
						return start, ErrHazardousName
					}
				}
				e.set(kindName, i+1, size, key)
				i = end + 1
			} else {
				if i, why = t.name(e, i, end, g); why != nil {
					return i, why
				}
				key = e.n
			}
			bit := spread(key, 64-6)
			// A name whose bit is new is new. Beyond a few names the bits are used up.
			if o.seen&(1<<bit) != 0 || o.count >= few {
				if !g.DuplicateNames && t.seenBefore(o.entry, o.count, uint32(n)) {
					return start, ErrDuplicateName
				}
				if o.count >= uint32(g.Names) {
					return start, ErrTooManyNames
				}
			}
			o.seen |= 1 << bit
			n++
			if c, i = next(in, i); c != ':' {
				return i, ErrNotJSON
			}
			i++
		}

		c, i = next(in, i)
		if n >= uint(len(entries)) {
			if entries = t.grow(g); n >= uint(len(entries)) {
				return i, ErrTooManyTokens
			}
		}
		e := &entries[n]
		n++
		e.next = uint32(n)
		o.count++
		switch {
		case c == '"':
			end, last := plainText(in, i+1)
			if uint(end) < uint(len(in)) && in[end] == '"' {
				size := end - i - 1
				key := shortKey(last, size)
				if size >= 8 {
					key = unknownKey
				}
				e.set(kindString, i+1, size, key)
				i = end + 1
				break
			}
			if i, why = t.string(e, i, end, g); why != nil {
				return i, why
			}
			e.kind, e.n = kindString, unknownKey
		case isDigit(c) || c == '-':
			if n, end := shortInteger(in, i); end > i && uint64(n) <= g.MaxInteger {
				e.set(kindInteger, i, end-i, n)
				i = end
				break
			}
			if i, why = number(e, in, i, g); why != nil {
				return i, why
			}
		case c == '{' || c == '[':
			depth := o.depth + 1
			if int(depth) > g.Depth {
				return i, ErrTooDeep
			}
			o = &t.stack[depth]
			*o = opened{entry: uint32(n - 1), depth: depth, comma: ',', end: c + 2} // ']' and '}' are two after '[' and '{'
			k := kindArray
			if c == '{' {
				k = kindObject
			}
			e.set(k, i, 0, 0)
			if c, i = next(in, i+1); c != o.end {
				continue
			}
		default:
			k, value, size := literal(in[i:])
			if size == 0 {
				return badLiteral(in, i), ErrNotJSON
			}
			e.set(k, i, size, value)
			i += size
		}

		for { // what ends here
			if c, i = next(in, i); c == o.comma {
				i++
				break
			}
			if o.depth == 0 {
				if i < len(in) && !g.TrailingBytes {
					return i, ErrNotJSON
				}
				return i, nil
			}
			if c != o.end {
				return i, ErrNotJSON
			}
			i++
			e := &entries[o.entry]
			e.next, e.n, e.size = uint32(n), int64(o.count), uint32(i)-e.at
			o = &t.stack[o.depth-1]
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

// next returns the first byte from i on that is no white space, or 0, and where it
// is.
func next(in []byte, i int) (c byte, at int) {
	if uint(i) < uint(len(in)) && in[i] > ' ' {
		return in[i], i
	}
	return afterSpace(in, i)
}

func afterSpace(in []byte, i int) (c byte, at int) {
	for ; i < len(in); i++ {
		if c := in[i]; c != ' ' && c != '\n' && c != '\r' && c != '\t' {
			return c, i
		}
	}
	return 0, i
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
	slashes = '\\' * ones
)

// stops has the top bit of a byte set where a text stops being plain ASCII: at a
// quote, a backslash, a control character, or beyond ASCII. Only the lowest counts:
// bytes above it may be wrong.
func stops(w uint64) uint64 {
	// With its second bit turned, '"' is below 0x21 too, as what is below ' ' stays.
	return ((w ^ 2*ones) - 0x21*ones | ((w ^ slashes) - ones) | w) & tops
}

// plainText returns where a text stops being plain ASCII, and the bytes before that
// in its last word. Near the end of in it stops before.
func plainText(in []byte, i int) (end int, last uint64) {
	for ; i+8 <= len(in); i += 8 {
		w := binary.LittleEndian.Uint64(in[i : i+8])
		if stop := stops(w); stop != 0 {
			return i + bits.TrailingZeros64(stop)>>3, w & ((stop ^ (stop - 1)) >> 8)
		}
	}
	return i, 0
}

// plainEnd returns where a text stops being plain: at a quote, a backslash, a
// control character or its end. high is not 0 if it is not all ASCII.
func plainEnd(in []byte, i int) (end int, high uint64) {
	for ; i < len(in); i += 8 {
		w := wordAt(in, i)
		if stop := stops(w) &^ w; stop != 0 {
			return i + bits.TrailingZeros64(stop)>>3, high | w&tops&(stop^(stop-1))
		}
		high |= w & tops
	}
	return len(in), high
}

// wordAt returns the eight bytes at i; beyond the end there are zeros.
func wordAt(in []byte, i int) uint64 {
	switch {
	case i+8 <= len(in):
		return binary.LittleEndian.Uint64(in[i : i+8])
	case len(in) >= 8:
		return binary.LittleEndian.Uint64(in[len(in)-8:]) >> (8 * (i + 8 - len(in)) & 63)
	}
	var w uint64
	for j, c := range in[i:] {
		w |= uint64(c) << (8 * j)
	}
	return w
}

// string reads a string that has its opening quote at i and is plain ASCII up to
// from, and returns where it ends. It leaves the entry's kind and links to its caller.
func (t *tape) string(e *entry, i, from int, g *Guards) (int, error) {
	start := i + 1
	end, high := plainEnd(t.in, from)
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

// name is string for a name.
func (t *tape) name(e *entry, i, from int, g *Guards) (int, error) {
	end, why := t.string(e, i, from, g)
	if why != nil {
		return end, why
	}
	name := t.bytes(e)
	e.kind, e.n = kindName, keyOf(name)
	if !g.HazardousNames && hazardous(name) {
		return i, ErrHazardousName
	}
	return end, nil
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
