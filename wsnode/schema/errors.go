package schema

import (
	"errors"
	"strconv"
	"strings"
)

// Why a message is refused.
var (
	// ErrNotJSON says that the message is no JSON text in UTF-8 (RFC 8259).
	ErrNotJSON = errors.New("not JSON")

	// The next ones say that the message is JSON, but that decoders read it
	// differently, or that it would cost too much.

	// ErrLoneSurrogate says that an escape is half of a character.
	ErrLoneSurrogate = errors.New("lone surrogate in an escape")
	// ErrDuplicateName says that an object has a property twice.
	ErrDuplicateName = errors.New("duplicate property name")
	// ErrHazardousName says that a property is called as JavaScript calls what
	// every object inherits.
	ErrHazardousName = errors.New("hazardous property name")
	// ErrNumberRange says that a number has no double near it, or that it is an
	// integer whose neighbours as doubles are not exact.
	ErrNumberRange = errors.New("number out of range")
	// ErrTooDeep says that arrays and objects are nested too deeply.
	ErrTooDeep = errors.New("nested too deeply")
	// ErrTooManyNames says that an object has too many properties.
	ErrTooManyNames = errors.New("too many properties in an object")
	// ErrTooManyTokens says that there are too many names and values.
	ErrTooManyTokens = errors.New("too many names and values")

	// ErrTypeMissing says that the message is no object with the discriminator
	// property, or that this is no string.
	ErrTypeMissing = errors.New("message type missing")
	// ErrTypeUnknown says that no schema is configured for the message's type.
	ErrTypeUnknown = errors.New("message type unknown")
	// ErrTooComplex says that to hold the message against its schema takes more
	// effort than a message of its length may cost.
	ErrTooComplex = errors.New("message too complex for its schema")
	// ErrNotAllowed says that the message's schema does not allow it.
	ErrNotAllowed = errors.New("message not allowed by its schema")
)

// Error is what Check returns: one of this package's errors, and where. It holds
// places and names that the schemas have, and nothing that the peer has written,
// so it can be logged.
type Error struct {
	Err error
	// Offset is the byte at which reading stopped; -1 where the message was read
	// to its end.
	Offset int
	// Pointer is the place in the message that its schema does not allow (RFC
	// 6901). A name that no schema of the set declares is written as "*", and so
	// is each step to an object whose names are at fault.
	Pointer string
	// Keyword is the schema's keyword that does not allow it: file and JSON
	// Pointer.
	Keyword string
	// Want says, for some keywords, what the schema asks for.
	Want string
}

// Unwrap returns the sentinel.
func (e *Error) Unwrap() error { return e.Err }

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Err.Error())
	if e.Offset >= 0 {
		b.WriteString(" at byte ")
		b.WriteString(strconv.Itoa(e.Offset))
	}
	if e.Keyword != "" {
		b.WriteString(": ")
		if e.Pointer == "" {
			b.WriteString("the whole message")
		} else {
			b.WriteString(e.Pointer)
		}
		b.WriteString(" by ")
		b.WriteString(e.Keyword)
	}
	if e.Want != "" {
		b.WriteString(", which wants ")
		b.WriteString(e.Want)
	}
	return b.String()
}
