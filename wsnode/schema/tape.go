package schema

import "encoding/binary"

// kinds is what an entry of a tape holds: one bit each, so that the types that a
// schema allows are a mask.
type kinds uint8

const (
	kindNull kinds = 1 << iota
	kindBool
	kindInteger  // also 1.0 and 1e3
	kindFraction // a number that is no integer
	kindString
	kindArray
	kindObject
	kindName // of a property; its value follows

	kindNumber = kindInteger | kindFraction
	kindAny    = kindName - 1
)

// Flags of an entry.
const (
	unescaped = 1 << iota // a text that had escapes: it lies in tape.text
	notASCII              // a text with characters beyond ASCII
	long                  // a number of more than 18 digits: n does not hold it
)

// entry is one value or name of a message, of fixed size and without pointers.
type entry struct {
	kind  kinds
	flags uint8
	// scale of a number: it is n × 10^-scale, in lowest terms, unless it is long.
	// That of an integer is 0 where n can hold it.
	scale int16
	// at and size are where the text of a string or a name is, without its quotes;
	// of other values, where they are in the message.
	at, size uint32
	// next is the index of the entry past this value and all within it.
	next uint32
	// n is a number's value, true as 1, the elements of an array or the properties
	// of an object, the key of a name, and that of a string or unknownKey.
	n int64
}

// set makes a value or a name that is read as it stands there, but for next.
func (e *entry) set(k kinds, at, size int, n int64) {
	e.kind, e.flags, e.scale, e.at, e.size, e.n = k, 0, 0, uint32(at), uint32(size), n
}

// tape is a message as a list of entries: a value, then all within it. An
// object's are name, value, name, value. It is reused from message to message.
type tape struct {
	in      []byte  // the message, borrowed until the next one
	text    []byte  // what strings with escapes say
	entries []entry // in use: all that the root's next bounds
	stack   []opened
	set     set

	duplicateNames bool // may be there
}

// opened is an array or object whose end has not come, while one within it is
// read.
type opened struct {
	entry uint32
	count uint32 // of the items or properties so far
	// seen has a bit for each name so far; two names may share one.
	seen  uint64
	depth int32
	comma byte // that another item or property follows
	end   byte // that closes it
}

// key returns that of a string or a name.
func (t *tape) key(e *entry) int64 {
	if e.n >= 0 || e.kind == kindName {
		return e.n
	}
	return keyOf(t.bytes(e))
}

// bytes returns the text of a string or a name, or that of a number. It is
// borrowed from the message or the tape.
func (t *tape) bytes(e *entry) []byte {
	from := t.in
	if e.flags&unescaped != 0 {
		from = t.text
	}
	return from[e.at:][:e.size]
}

// find returns the entry of the value of an object's property.
func (t *tape) find(object uint32, name string, key int64) (value uint32, ok bool) {
	for i, end := object+1, t.entries[object].next; i < end; i = t.entries[i+1].next {
		if e := &t.entries[i]; e.n == key && (key >= 0 || string(t.bytes(e)) == name) {
			return i + 1, true
		}
	}
	return 0, false
}

// again reports whether the name of a value stands in its object once more, after
// it.
func (t *tape) again(object, value uint32) bool {
	name := &t.entries[value-1]
	for i, end := t.entries[value].next, t.entries[object].next; i < end; i = t.entries[i+1].next {
		if e := &t.entries[i]; e.n == name.n && (e.n >= 0 || string(t.bytes(e)) == string(t.bytes(name))) {
			return true
		}
	}
	return false
}

// keyOf condenses a text so that most texts differ in their keys. Texts of less
// than eight bytes have keys that are not negative, and no two of them the same.
func keyOf(text []byte) int64 {
	n := len(text)
	switch {
	case n >= 8:
		return longKey(text)
	case n >= 4:
		first, last := uint64(binary.LittleEndian.Uint32(text)), uint64(binary.LittleEndian.Uint32(text[n-4:]))
		return int64(first | last<<(8*(n-4)) | uint64(n)<<56)
	case n >= 2:
		first, last := uint64(binary.LittleEndian.Uint16(text)), uint64(binary.LittleEndian.Uint16(text[n-2:]))
		return int64(first | last<<(8*(n-2)) | uint64(n)<<56)
	case n == 1:
		return int64(text[0]) | 1<<56
	}
	return 0
}

// longKey is keyOf for a text of eight bytes or more.
func longKey(text []byte) int64 {
	n := len(text)
	first, last := binary.LittleEndian.Uint64(text), binary.LittleEndian.Uint64(text[n-8:])
	return int64((first^uint64(n))*scramble^last) | -1<<63
}

// shortKey is keyOf for a text of less than eight bytes, which are those of a word.
func shortKey(word uint64, n int) int64 { return int64(word | uint64(n)<<56) }

// unknownKey is that of a longer text whose key nobody has asked for.
const unknownKey = -1

// scramble is an odd number without pattern: multiplying by it spreads the low
// bits of a key over its high ones.
const scramble = 0x9e3779b97f4a7c15

// spread turns a key into a number of as many bits as shift leaves of 64.
func spread(key int64, shift uint8) uint64 { return uint64(key) * scramble >> (shift & 63) }
