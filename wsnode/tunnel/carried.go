package tunnel

import (
	"bytes"
	"encoding/binary"
	"math/bits"
)

// What is looked at of a message: its beginning, and the beginnings of strings
// in its first bytes.
const (
	windowBytes = 4096
	// startBytes is what is decoded of a string or message, in base64 in groups of
	// three.
	startBytes = 258
	// maxDecoded is how many strings of a message are decoded.
	maxDecoded = 16
)

// first says what a byte can be the first one of.
type first uint8

const (
	asItIs first = 1 << iota
	inBase64
	inHex
	escaped
)

// firsts are of the bytes that mayBegin takes, and of data:...;base64,
var firsts = [256]first{
	0x00: asItIs, 0x03: asItIs, 0x04: asItIs, 0x05: asItIs, 0x16: asItIs, '2': asItIs,
	'0': inHex, '1': inHex, '3': inHex, '4': inHex, '5': inHex,
	'A': inBase64, 'B': inBase64, 'F': inBase64, 'M': inBase64, 'Q': inBase64, 'V': inBase64,
	'C': asItIs, 'D': asItIs, 'E': asItIs, 'G': asItIs, 'H': asItIs, 'O': asItIs, 'P': asItIs,
	'R': asItIs | inBase64, 'S': asItIs | inBase64, 'T': asItIs | inBase64, 'U': asItIs | inBase64,
	'\\': escaped, 'd': inBase64,
}

// look finds what a message shows. inside says that strings are looked at too;
// suspect is what was seen before, whose next step is looked for too.
func look(payload []byte, binary, inside bool, suspect Finding) sighting {
	if len(payload) == 0 {
		return sighting{}
	}
	c := payload[0]
	if suspect.Carriage == Raw && next(suspect.Signature, payload, false) {
		return sighting{suspect, step}
	}
	if firsts[c]&asItIs != 0 {
		if sig, s := match(payload, false); sig != None {
			return sighting{Finding{sig, Raw}, s}
		}
	}
	if !binary && (firsts[c]&asItIs != 0 || suspect.Signature != None) {
		if seen := lookLatin1(payload, suspect); seen.Signature != None {
			return seen
		}
	}
	if suspect.Signature != None || firsts[c] != 0 && worth(firsts[c]&^asItIs, payload) {
		if seen := lookEncoded(payload, false, suspect); seen.Signature != None {
			return seen
		}
	}
	if !inside || !likeJSON(payload) {
		return sighting{}
	}
	return lookStrings(payload[:min(len(payload), windowBytes)], payload, suspect)
}

// lookLatin1 looks at a text that has a character for each byte, which scripts
// send that read bytes into strings.
func lookLatin1(text []byte, suspect Finding) sighting {
	if suspect.Signature == None && (len(text) < 3 || !mayBegin(text[0], text[1], text[2])) {
		return sighting{}
	}
	var buf [startBytes]byte
	b := buf[:0]
	for len(text) > 0 && len(b) < len(buf) {
		c, width := latin1(text)
		b, text = append(b, c), text[width:]
	}
	return judge(b, len(text) > 0, Raw, suspect)
}

// latin1 is the first byte of a text, or the character up to U+00FF that it
// begins with.
func latin1(text []byte) (c byte, width int) {
	if c = text[0]; (c == 0xc2 || c == 0xc3) && len(text) > 1 {
		return c<<6 | text[1]&0x3f, 2
	}
	return c, 1
}

// likeJSON reports whether a message begins as JSON that has strings does, or as
// that of socket.io, which has packet type, attachments, namespace and
// acknowledgement before it: 42[, 451-/chat,7[.
func likeJSON(payload []byte) bool {
	head := payload[:min(len(payload), packetBytes)]
	rest := afterNumber(head)
	if len(rest) < len(head) {
		if begins(rest, "-") {
			rest = afterNumber(rest[1:])
		}
		if comma := bytes.IndexByte(rest, ','); comma > 0 && rest[0] == '/' {
			rest = afterNumber(rest[comma+1:])
		}
	}
	return len(rest) > 0 && (rest[0] == '{' || rest[0] == '[' || rest[0] == '"')
}

// packetBytes is how much of a message is looked at for the packet it may be.
const packetBytes = 128

// afterNumber is what follows digits, and white space around them.
func afterNumber(text []byte) []byte {
	for i, c := range text {
		if c > ' ' && (c < '0' || c > '9') {
			return text[i:]
		}
	}
	return nil
}

// lookStrings looks at whatever follows a quotation mark in window: a string of
// JSON, or what comes behind one, which begins like nothing of interest. That
// is seen by its first byte, for most.
func lookStrings(window, payload []byte, suspect Finding) sighting {
	any, left := suspect.Signature != None, maxDecoded
	for base := 0; base < len(window); base += 8 {
		var eight uint64
		if rest := window[base:]; len(rest) >= 8 {
			eight = binary.LittleEndian.Uint64(rest)
		} else {
			eight = lastEight(rest)
		}
		for quotes := quotationMarks(eight); quotes != 0; quotes &= quotes - 1 {
			at := base + bits.TrailingZeros64(quotes)/8 + 1
			if at >= len(window) || firsts[window[at]] == 0 && !any {
				continue
			}
			if window[at-1] != '"' || at > 1 && window[at-2] == '\\' || !any && !worth(firsts[window[at]], payload[at:]) {
				continue
			}
			if left == 0 {
				return sighting{}
			}
			left--
			if seen := lookString(payload[at:], suspect); seen.Signature != None {
				return seen
			}
		}
	}
	return sighting{}
}

// lastEight is what is left of a text, fewer than eight bytes, and zeros.
func lastEight(rest []byte) uint64 {
	var b [8]byte
	copy(b[:], rest)
	return binary.LittleEndian.Uint64(b[:])
}

// quotationMarks has the highest bit of each byte set that is a quotation mark.
// It may have that of a byte set too whose lower neighbour is one.
func quotationMarks(eight uint64) uint64 {
	const each = 0x0101010101010101
	eight ^= each * '"'
	return (eight - each) &^ eight & (each << 7)
}

// worth reports whether a text begins like something of interest, in one of the
// ways that its first byte can. It looks at a few bytes.
func worth(kind first, text []byte) bool {
	if len(text) < 4 {
		return false
	}
	if kind&asItIs != 0 && mayBegin(text[0], text[1], text[2]) || kind&escaped != 0 && begins(text, `\u00`) {
		return true
	}
	if kind&inBase64 != 0 {
		if text[0] == 'd' {
			data := dataOf(text)
			return data != nil && data[0] != 'd' && worth(inBase64, data)
		}
		if v := sextets(text); v >= 0 && mayBegin(byte(v>>16), byte(v>>8), byte(v)) {
			return true
		}
	}
	if kind&inHex != 0 && len(text) >= 6 {
		a, b, c := octet(text), octet(text[2:]), octet(text[4:])
		return a|b|c >= 0 && mayBegin(byte(a), byte(b), byte(c))
	}
	return false
}

// lookString looks at a string of JSON whose first byte is text's.
func lookString(text []byte, suspect Finding) sighting {
	var buf [startBytes]byte
	b, more, ok := unescape(buf[:], text)
	if !ok {
		return sighting{}
	}
	if seen := judge(b, more, String, suspect); seen.Signature != None {
		return seen
	}
	return lookEncoded(text, true, suspect)
}

// lookEncoded looks at what is encoded in a text: all of it, or up to the
// quotation mark that ends a string.
func lookEncoded(text []byte, quoted bool, suspect Finding) sighting {
	var buf [startBytes]byte
	base, hex := Base64, Hex
	if quoted {
		base, hex = StringBase64, StringHex
	}
	if b, more, ok := decodeHex(buf[:], text, quoted); ok {
		if seen := judge(b, more, hex, suspect); seen.Signature != None {
			return seen
		}
	}
	if data := dataOf(text); data != nil {
		text = data
	}
	if b, more, ok := decodeBase64(buf[:], text, quoted); ok {
		return judge(b, more, base, suspect)
	}
	return sighting{}
}

// dataOf is what a data URL has behind its comma, or nil.
func dataOf(text []byte) []byte {
	if !begins(text, "data:") {
		return nil
	}
	comma := bytes.IndexByte(text[:min(len(text), 128)], ',')
	if comma < 0 || comma+1 == len(text) {
		return nil
	}
	return text[comma+1:]
}

// judge finds what decoded bytes show: a beginning, or the next step of what is
// suspected in the same carriage.
func judge(b []byte, more bool, carried Carriage, suspect Finding) sighting {
	if sig, s := match(b, more); sig != None {
		return sighting{Finding{sig, carried}, s}
	}
	if suspect.Carriage == carried && next(suspect.Signature, b, more) {
		return sighting{suspect, step}
	}
	return sighting{}
}

// unescape reads a string of JSON into buf up to its end, or as much as buf
// holds. A character up to U+00FF counts as a byte, as programs have it that
// carry bytes in text; others stay in UTF-8. ok is false where nothing of JSON's
// follows the string.
func unescape(buf, text []byte) (b []byte, more, ok bool) {
	b = buf[:0]
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case c == '"':
			return b, false, i+1 == len(text) || bytes.IndexByte([]byte(",:}] \t\r\n"), text[i+1]) >= 0
		case len(b) == len(buf):
			return b, true, true
		case c == '\\':
			if i++; i >= len(text) {
				return b, true, true
			}
			switch c = text[i]; c {
			case 'n':
				c = '\n'
			case 'r':
				c = '\r'
			case 't':
				c = '\t'
			case 'b':
				c = '\b'
			case 'f':
				c = '\f'
			case 'u':
				if len(text)-i < 5 || octet(text[i+1:]) != 0 || octet(text[i+3:]) < 0 {
					return b, true, true
				}
				c = byte(octet(text[i+3:]))
				i += 4
			}
		default:
			var width int
			c, width = latin1(text[i:])
			i += width - 1
		}
		b = append(b, c)
	}
	return b, true, true
}

// ends reports whether text ends what is decoded.
func ends(text []byte, quoted bool) bool {
	if quoted {
		text = nextLine(text, true)
		return len(text) > 0 && text[0] == '"'
	}
	return len(text) < 4 && len(bytes.TrimRight(text, " \r\n")) == 0
}

// nextLine is what follows a line break that text begins with, or text. Encoders
// break lines, some after each 60 to 76 digits and some at the end. In a string of
// JSON the break is escaped.
func nextLine(text []byte, quoted bool) []byte {
	r, n := "\r", "\n"
	if quoted {
		r, n = `\r`, `\n`
	}
	rest := text
	if begins(rest, r) {
		rest = rest[len(r):]
	}
	if begins(rest, n) {
		return rest[len(n):]
	}
	return text
}

// decodeHex decodes as much as buf holds. ok is false where there is something
// else before the end.
func decodeHex(buf, text []byte, quoted bool) (b []byte, more, ok bool) {
	b = buf[:0]
	for len(b) < len(buf) {
		if len(text) < 2 || octet(text) < 0 {
			return b, false, len(b) > 0 && ends(text, quoted)
		}
		b = append(b, byte(octet(text)))
		if text = text[2:]; octet(text) < 0 {
			text = nextLine(text, quoted)
		}
	}
	return b, !ends(text, quoted), true
}

// octet is what two hexadecimal digits are worth, or -1.
func octet(text []byte) int {
	if len(text) < 2 {
		return -1
	}
	high, low := digits[text[0]], digits[text[1]]
	if high|low > 15 {
		return -1
	}
	return int(high)<<4 | int(low)
}

// decodeBase64 decodes either alphabet as decodeHex does hex.
func decodeBase64(buf, text []byte, quoted bool) (b []byte, more, ok bool) {
	b = buf[:0]
	for len(b)+3 <= len(buf) {
		v, size := sextets(text), 4
		if v < 0 && quoted {
			v, size = escapedSextets(text)
		}
		if v < 0 {
			return lastBase64(b, text, quoted)
		}
		b = append(b, byte(v>>16), byte(v>>8), byte(v))
		if text = text[size:]; len(text) > 0 && sixes[text[0]] > 63 {
			text = nextLine(text, quoted)
		}
	}
	return b, !ends(text, quoted), true
}

// lastBase64 decodes the last two or three digits, with padding or without.
func lastBase64(b, text []byte, quoted bool) (_ []byte, more, ok bool) {
	n, v, rest := 0, 0, text
	for n < 3 {
		if quoted {
			rest = plainSlash(rest)
		}
		if len(rest) == 0 || sixes[rest[0]] > 63 {
			break
		}
		v = v<<6 | int(sixes[rest[0]])
		rest = rest[1:]
		n++
	}
	for i := n; i < 4 && n > 1 && len(rest) > 0 && rest[0] == '='; i++ {
		rest = rest[1:]
	}
	switch n {
	case 2:
		b = append(b, byte(v>>4))
	case 3:
		b = append(b, byte(v>>10), byte(v>>2))
	}
	return b, false, n != 1 && len(b) > 0 && ends(rest, quoted)
}

// sextets is what four digits of base64 are worth, or negative.
func sextets(text []byte) int {
	if len(text) < 4 {
		return -1
	}
	a, b, c, d := sixes[text[0]], sixes[text[1]], sixes[text[2]], sixes[text[3]]
	if a|b|c|d > 63 {
		return -1
	}
	return int(a)<<18 | int(b)<<12 | int(c)<<6 | int(d)
}

// escapedSextets is sextets of a string of JSON, and how much of text that is: some
// encoders put a backslash before each slash.
func escapedSextets(text []byte) (v, size int) {
	rest := text
	for range 4 {
		rest = plainSlash(rest)
		if len(rest) == 0 || sixes[rest[0]] > 63 {
			return -1, 0
		}
		v = v<<6 | int(sixes[rest[0]])
		rest = rest[1:]
	}
	return v, len(text) - len(rest)
}

// plainSlash is text without the backslash before a slash that it begins with.
func plainSlash(text []byte) []byte {
	if begins(text, `\/`) {
		return text[1:]
	}
	return text
}

// The values of digits; 0xff of what is none.
var (
	digits = values("0123456789abcdef", "0123456789ABCDEF")
	sixes  = values("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
)

func values(alphabets ...string) (v [256]byte) {
	for i := range v {
		v[i] = 0xff
	}
	for _, alphabet := range alphabets {
		for i := range len(alphabet) {
			v[alphabet[i]] = byte(i)
		}
	}
	return v
}
