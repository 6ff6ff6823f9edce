package token

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// IDSize is the length of an ID in bytes.
const IDSize = 16

// idTextSize is the length of an ID's text: 128 bits in 5-bit characters.
const idTextSize = 26

// MaxExpiry is the latest instant an ID can name: 48 bits of Unix milliseconds.
var MaxExpiry = time.UnixMilli(1<<48 - 1)

// ErrMalformedID says that a text is not a token id.
var ErrMalformedID = errors.New("not a token id: want 26 characters of Crockford base32, as in 01JD8Z0Q4M3T5V7X9ZABCDEFGH")

// ID is the public name of a token: a ULID whose time is the instant at which
// the token stops opening sockets. It may be logged and shown.
//
// Layout: 48 bits of Unix milliseconds, big endian, then 80 random bits; so
// the bytes of IDs order by expiry.
type ID [IDSize]byte

// NewID draws an ID that expires at expiry, cut to the millisecond.
func NewID(expiry time.Time, random io.Reader) (ID, error) {
	ms := expiry.UnixMilli()
	if ms < 0 || ms > MaxExpiry.UnixMilli() {
		return ID{}, fmt.Errorf("token expiry %v: outside 1970 to %d", expiry, MaxExpiry.Year())
	}
	var id ID
	if _, err := io.ReadFull(random, id[6:]); err != nil {
		return ID{}, fmt.Errorf("draw token id: %w", err)
	}
	binary.BigEndian.PutUint16(id[0:], uint16(ms>>32))
	binary.BigEndian.PutUint32(id[2:], uint32(ms))
	return id, nil
}

// Expiry is the instant from which the token is inactive.
func (id ID) Expiry() time.Time {
	return time.UnixMilli(int64(binary.BigEndian.Uint16(id[0:]))<<32 | int64(binary.BigEndian.Uint32(id[2:])))
}

// IsZero reports whether id names no token.
func (id ID) IsZero() bool { return id == ID{} }

const crockford = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

// String gives the 26 characters of the ULID's text.
func (id ID) String() string {
	var text [idTextSize]byte
	return string(id.AppendTo(text[:0]))
}

// AppendTo appends what String gives.
func (id ID) AppendTo(b []byte) []byte {
	var text [idTextSize]byte
	hi, lo := binary.BigEndian.Uint64(id[:8]), binary.BigEndian.Uint64(id[8:])
	for i := idTextSize - 1; i >= 0; i-- {
		text[i] = crockford[lo&31]
		lo = lo>>5 | hi<<59
		hi >>= 5
	}
	return append(b, text[:]...)
}

// ParseID reads what String wrote, in upper or lower case. It returns
// ErrMalformedID for any other text.
func ParseID(text string) (ID, error) {
	if len(text) != idTextSize || text[0] > '7' { // 26*5 bits: the first character carries three
		return ID{}, ErrMalformedID
	}
	var hi, lo uint64
	for i := range len(text) {
		v := crockfordValue(text[i])
		if v < 0 {
			return ID{}, ErrMalformedID
		}
		hi = hi<<5 | lo>>59
		lo = lo<<5 | uint64(v)
	}
	var id ID
	binary.BigEndian.PutUint64(id[:8], hi)
	binary.BigEndian.PutUint64(id[8:], lo)
	return id, nil
}

// crockfordValue is the value of one character, or -1. The look-alikes that
// Crockford maps (I, L, O) are refused: an ID has one spelling but for case.
func crockfordValue(c byte) int {
	if 'a' <= c && c <= 'z' {
		c -= 'a' - 'A'
	}
	for i := range len(crockford) {
		if crockford[i] == c {
			return i
		}
	}
	return -1
}
