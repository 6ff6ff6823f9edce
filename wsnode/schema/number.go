package schema

import (
	"bytes"
	"cmp"
	"math/bits"
	"strconv"
)

const (
	maxNumberBytes = 128 // a double needs 25 characters at most
	maxDigits      = 18  // that n holds, whatever they are
	maxExponent    = 9999
)

// number reads a number at i, and checks that every decoder reads the same one:
// an integer is within MaxInteger, and whatever has a point or an exponent is a
// finite double, and no zero unless its digits are. It leaves e.next to its
// caller.
func number(e *entry, in []byte, i int, g *Guards) (int, error) {
	start := i
	if in[i] == '-' {
		i++
	}
	first := i
	var n int64
	for i < len(in) && isDigit(in[i]) {
		n = n*10 + int64(in[i]-'0')
		i++
	}
	if i < len(in) && in[i] == '.' {
		if end, ok := shortFraction(e, in, start, first, i, n); ok {
			return end, nil
		}
	}
	digits := i - first
	if digits == 0 || digits > 1 && in[first] == '0' {
		return min(first+min(digits, 1), len(in)), ErrNotJSON
	}
	if digits > maxDigits || i < len(in) && (in[i] == '.' || in[i]|0x20 == 'e') {
		return fraction(e, in, start, first, i, g)
	}
	if uint64(n) > g.MaxInteger && !g.WideNumbers {
		return start, ErrNumberRange
	}
	if first != start {
		n = -n
	}
	e.kind, e.flags, e.scale, e.at, e.size, e.n = kindInteger, 0, 0, uint32(start), uint32(i-start), n
	return i, nil
}

// shortInteger reads a number that is nothing but up to 18 digits, and returns where
// it ends; i if it is something else.
func shortInteger(in []byte, i int) (n int64, end int) {
	end = i
	for end < len(in) && isDigit(in[end]) {
		n = n*10 + int64(in[end]-'0')
		end++
	}
	if end-i > maxDigits || end < len(in) && (in[end] == '.' || in[end]|0x20 == 'e') || in[i] == '0' && end > i+1 {
		return 0, i
	}
	return n, end
}

// shortFraction reads what most numbers with a point are: up to 18 digits and no
// exponent. n is what stands before the point, between first and i.
func shortFraction(e *entry, in []byte, start, first, i int, n int64) (end int, ok bool) {
	if i == first || in[first] == '0' && i-first > 1 {
		return 0, false
	}
	point := i
	for i++; i < len(in) && isDigit(in[i]); i++ {
		n = n*10 + int64(in[i]-'0')
	}
	scale := i - point - 1
	if scale == 0 || i-first-1 > maxDigits || i < len(in) && in[i]|0x20 == 'e' {
		return 0, false
	}
	for scale > 0 && n%10 == 0 {
		n, scale = n/10, scale-1
	}
	k := kindFraction
	if scale == 0 {
		k = kindInteger
	}
	if first != start {
		n = -n
	}
	e.kind, e.flags, e.scale, e.at, e.size, e.n = k, 0, int16(scale), uint32(start), uint32(i-start), n
	return i, true
}

// fraction reads a number that may be anything but a short integer: its digits
// begin at first, and the integer's end at i.
func fraction(e *entry, in []byte, start, first, i int, g *Guards) (int, error) {
	isInteger, scale, ok := true, 0, true
	if i < len(in) && in[i] == '.' {
		isInteger = false
		point := i
		if i, ok = someDigits(in, i+1); !ok {
			return i, ErrNotJSON
		}
		scale = i - point - 1
	}
	mantissa := in[first:i]
	if i < len(in) && in[i]|0x20 == 'e' {
		isInteger = false
		i++
		negative := i < len(in) && in[i] == '-'
		if negative || i < len(in) && in[i] == '+' {
			i++
		}
		from := i
		if i, ok = someDigits(in, i); !ok {
			return i, ErrNotJSON
		}
		exponent := 0
		for _, c := range in[from:i] {
			exponent = min(exponent*10+int(c-'0'), 1<<20)
		}
		if negative {
			exponent = -exponent
		}
		scale -= exponent
	}
	e.kind, e.flags, e.scale, e.at, e.size, e.n = kindInteger, 0, 0, uint32(start), uint32(i-start), 0

	digits, scale := lowestTerms(mantissa, scale)
	switch text := in[start:i]; {
	case len(digits) == 0 && len(text) <= maxNumberBytes: // a zero, however it is written
		return i, nil
	case len(text) > maxNumberBytes, scale > maxExponent, scale < -maxExponent:
		return start, ErrNumberRange
	case g.WideNumbers:
	case isInteger:
		if !atMost(mantissa, g.MaxInteger) {
			return start, ErrNumberRange
		}
	case !isDouble(digits, scale):
		return start, ErrNumberRange
	}
	if scale > 0 {
		e.kind = kindFraction
	}
	e.scale = int16(scale)
	if significant(digits) > maxDigits {
		e.flags = long
		return i, nil
	}
	for _, c := range digits {
		if c != '.' {
			e.n = e.n*10 + int64(c-'0')
		}
	}
	for e.scale < 0 && e.n < 1e17 { // as few powers of ten as may be
		e.n, e.scale = e.n*10, e.scale+1
	}
	if e.scale < 0 { // or none
		for e.n%10 == 0 {
			e.n, e.scale = e.n/10, e.scale-1
		}
	}
	if in[start] == '-' {
		e.n = -e.n
	}
	return i, nil
}

// someDigits steps over one digit or more.
func someDigits(in []byte, i int) (end int, ok bool) {
	from := i
	for i < len(in) && isDigit(in[i]) {
		i++
	}
	return i, i > from
}

// lowestTerms takes the zeros off both ends of digits that may have a point in
// them, and returns the scale of what is left, as an integer. Zero has no digits.
func lowestTerms(mantissa []byte, scale int) ([]byte, int) {
	for len(mantissa) > 0 && (mantissa[0] == '0' || mantissa[0] == '.') {
		mantissa = mantissa[1:]
	}
	for len(mantissa) > 0 {
		switch mantissa[len(mantissa)-1] {
		case '0':
			scale--
		case '.':
		default:
			return mantissa, scale
		}
		mantissa = mantissa[:len(mantissa)-1]
	}
	return nil, 0
}

// significant counts digits that may have a point in them.
func significant(digits []byte) int {
	if bytes.IndexByte(digits, '.') >= 0 {
		return len(digits) - 1
	}
	return len(digits)
}

// atMost reports whether an integer of any length is at most bound.
func atMost(digits []byte, bound uint64) bool {
	var n uint64
	for _, c := range digits {
		high, low := bits.Mul64(n, 10)
		low, carry := bits.Add64(low, uint64(c-'0'), 0)
		if n = low; high+carry != 0 || n > bound {
			return false
		}
	}
	return true
}

// Halfway from the largest double to what would be the next one, 0.1797... ×
// 10^309, and from zero to the smallest one, 0.247... × 10^-323. What lies just
// there becomes infinite, or zero. Both have more digits, but no number has.
const (
	halfToInfinity     = "1797693134862315807937289714053034150799341327100378269361737789804449682927647509466490179775872070963302864166928879109465555478"
	halfToInfinityIsAt = 309
	halfToSmallest     = "2470328229206232720882843964341106861825299013071623822127928412503377536351043759326499181808179961898982823477228588654633283551"
	halfToSmallestIsAt = -323
	_                  = uint(len(halfToInfinity) - maxNumberBytes) // else this does not compile
	_                  = uint(len(halfToSmallest) - maxNumberBytes)
)

// isDouble reports whether a number that is not zero has a finite double near it
// that is not zero either.
func isDouble(digits []byte, scale int) bool {
	switch magnitude := significant(digits) - scale; { // 0.ddd × 10^magnitude
	case magnitude == halfToInfinityIsAt:
		return compareDigits(digits, halfToInfinity) < 0
	case magnitude == halfToSmallestIsAt:
		return compareDigits(digits, halfToSmallest) > 0
	default:
		return halfToSmallestIsAt < magnitude && magnitude < halfToInfinityIsAt
	}
}

// compareDigits compares fractions by the digits after the point; those of a may
// have a point in them.
func compareDigits(a []byte, b string) int {
	i := 0
	for _, c := range a {
		switch {
		case c == '.':
			continue
		case i == len(b) || c > b[i]:
			return 1
		case c < b[i]:
			return -1
		}
		i++
	}
	if i < len(b) {
		return -1
	}
	return 0
}

// decimal is a number of a schema, or of a message beside one: an entry, and the
// text from which the digits of a long one come.
type decimal struct {
	n     int64
	scale int
	text  []byte // of a long number, else nil
}

func (t *tape) decimal(e *entry) decimal {
	d := decimal{n: e.n, scale: int(e.scale)}
	if e.flags&long != 0 {
		d.text = t.bytes(e)
	}
	return d
}

// compare returns -1, 0 or 1, exactly.
func (a decimal) compare(b decimal) int {
	if a.scale == b.scale && a.text == nil && b.text == nil {
		return cmp.Compare(a.n, b.n)
	}
	signA, signB := a.sign(), b.sign()
	if signA != signB || signA == 0 {
		return cmp.Compare(signA, signB)
	}
	var order int
	if d := b.scale - a.scale; a.text == nil && b.text == nil && -maxDigits <= d && d <= maxDigits {
		order = compareScaled(magnitude(a.n), magnitude(b.n), d)
	} else {
		order = a.compareLong(b)
	}
	return signA * order
}

func (a decimal) sign() int {
	switch {
	case a.text != nil && a.text[0] == '-' || a.n < 0:
		return -1
	case a.text != nil || a.n > 0:
		return 1
	}
	return 0
}

func magnitude(n int64) uint64 {
	if n < 0 {
		return -uint64(n)
	}
	return uint64(n)
}

// compareScaled compares a × 10^d with b.
func compareScaled(a, b uint64, d int) int {
	if d < 0 {
		return -compareScaled(b, a, -d)
	}
	high, low := bits.Mul64(a, tenTo[d])
	switch {
	case high == 0 && low < b:
		return -1
	case high == 0 && low == b:
		return 0
	}
	return 1
}

var tenTo = func() (t [maxDigits + 1]uint64) {
	t[0] = 1
	for i := range maxDigits {
		t[i+1] = t[i] * 10
	}
	return t
}()

// compareLong compares two magnitudes digit by digit. Neither is zero.
func (a decimal) compareLong(b decimal) int {
	var bufA, bufB [maxNumberBytes]byte
	digitsA, digitsB := a.digits(bufA[:0]), b.digits(bufB[:0])
	if m, n := len(digitsA)-a.scale, len(digitsB)-b.scale; m != n {
		return cmp.Compare(m, n)
	}
	return bytes.Compare(digitsA, digitsB) // neither ends in zeros unless both are short
}

// digits appends the digits of the magnitude, without zeros at its ends.
func (a decimal) digits(to []byte) []byte {
	if a.text == nil {
		to = strconv.AppendUint(to, magnitude(a.n), 10)
		return to
	}
	text := a.text
	if text[0] == '-' {
		text = text[1:]
	}
	for i, c := range text {
		if c|0x20 == 'e' {
			text = text[:i]
			break
		}
	}
	text, _ = lowestTerms(text, 0)
	for _, c := range text {
		if c != '.' {
			to = append(to, c)
		}
	}
	return to
}

// multipleOf reports whether a is a whole multiple of b, which is above zero and
// not long.
func (a decimal) multipleOf(b decimal) bool {
	if a.sign() == 0 {
		return true
	}
	d := b.scale - a.scale // a/b is a.n × 10^d / b.n
	if a.text == nil && 0 <= d && d <= maxDigits {
		high, low := bits.Mul64(magnitude(a.n), tenTo[d])
		return bits.Rem64(high, low, uint64(b.n)) == 0
	}
	var buf [maxNumberBytes]byte
	digits := a.digits(buf[:0])
	if d < 0 {
		// b.n would have to divide a.n with so many tens to spare.
		if a.text != nil || -d > maxDigits {
			return false // its digits end in no zero
		}
		high, low := bits.Mul64(uint64(b.n), tenTo[-d])
		return high == 0 && magnitude(a.n)%low == 0
	}
	var rest uint64 // below b.n, so that ten of it fit
	for _, c := range digits {
		rest = (rest*10 + uint64(c-'0')) % uint64(b.n)
	}
	for power := 10 % uint64(b.n); d > 0 && rest != 0; d >>= 1 { // times 10^d, by squares
		if d&1 != 0 {
			rest = mulMod(rest, power, uint64(b.n))
		}
		power = mulMod(power, power, uint64(b.n))
	}
	return rest == 0
}

func mulMod(a, b, m uint64) uint64 {
	high, low := bits.Mul64(a, b)
	return bits.Rem64(high, low, m)
}
