// Package record says how a durable store encodes what it keeps: one version
// byte, then a message of gatehouse.storage.v1. Tokens, sessions and
// redemptions lie on the path of every handshake and are encoded here by hand,
// at a fifth of the cost of the generated code; the tests hold both against
// each other.
package record

import (
	"fmt"
	"net/netip"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// version is that of all records so far.
const version = 1

// body checks a record's version byte and returns what follows it.
func body[T string | []byte](kind string, b T) (rest T, err error) {
	if len(b) == 0 {
		return rest, corrupt(kind, "it is empty")
	}
	if b[0] > version {
		return rest, fmt.Errorf("%w: a %s record has version %d, known is %d", storage.ErrNewer, kind, b[0], version)
	}
	if b[0] != version {
		return rest, corrupt(kind, "it has no version")
	}
	return b[1:], nil
}

func corrupt(kind string, why any) error {
	return fmt.Errorf("%w: %s record: %v", storage.ErrCorrupt, kind, why)
}

// marshal fails if a text is not UTF-8.
func marshal(m proto.Message) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.MarshalAppend([]byte{version}, m)
}

func unmarshal(kind string, b []byte, m proto.Message) error {
	b, err := body(kind, b)
	if err != nil {
		return err
	}
	if err := proto.Unmarshal(b, m); err != nil {
		return corrupt(kind, err)
	}
	return nil
}

// millis is t as stored: zero stands for the zero time.
func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// Time is t as a record gives it back: in UTC, to the millisecond.
func Time(t time.Time) time.Time { return timeOf(millis(t)) }

func timeOf(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// The wire types of protobuf that records use. A field of another type is
// skipped, as the generated code does.
const (
	typeVarint  = uint64(protowire.VarintType)
	typeFixed64 = uint64(protowire.Fixed64Type)
	typeBytes   = uint64(protowire.BytesType)
)

// fields walks the fields of a message. It reads a string, so that what it
// finds can be kept without copying.
type fields struct {
	text string
	at   int
	tag  uint64 // number<<3 | wire type
	num  uint64 // value of a number
	val  string // value of a bytes field
	bad  bool
}

func (f *fields) next() bool {
	if f.bad || f.at >= len(f.text) {
		return false
	}
	tag := f.varint()
	if f.bad || tag>>3 == 0 || tag>>3 > uint64(protowire.MaxValidNumber) {
		f.bad = true
		return false
	}
	f.tag = tag
	switch tag & 7 {
	case typeVarint:
		f.num = f.varint()
	case typeBytes:
		n := f.varint()
		if f.bad || n > uint64(len(f.text)-f.at) {
			f.bad = true
			return false
		}
		f.val = f.text[f.at : f.at+int(n)]
		f.at += int(n)
	case typeFixed64:
		if len(f.text)-f.at < 8 {
			f.bad = true
			return false
		}
		f.num = 0
		for i := range 8 {
			f.num |= uint64(f.text[f.at+i]) << (8 * i)
		}
		f.at += 8
	default: // nothing that records have; skip it
		n := protowire.ConsumeFieldValue(protowire.Number(tag>>3), protowire.Type(tag&7), []byte(f.text[f.at:]))
		if n < 0 {
			f.bad = true
			return false
		}
		f.at += n
	}
	return !f.bad
}

func (f *fields) varint() (v uint64) {
	for shift := 0; f.at < len(f.text) && shift < 70; shift += 7 {
		b := f.text[f.at]
		f.at++
		if shift == 63 && b > 1 {
			break // more than 64 bits
		}
		v |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return v
		}
	}
	f.bad = true
	return 0
}

// id reads a 16-byte id.
func (f *fields) id(dst *[16]byte) {
	f.bad = f.bad || len(f.val) != len(dst)
	copy(dst[:], f.val)
}

// addr reads an address; no bytes are the invalid one.
func (f *fields) addr(dst *netip.Addr) {
	switch len(f.val) {
	case 0:
		*dst = netip.Addr{}
	case 4:
		*dst = netip.AddrFrom4([4]byte([]byte(f.val)))
	case 16:
		*dst = netip.AddrFrom16([16]byte([]byte(f.val)))
	default:
		f.bad = true
	}
}

func appendVarint(dst []byte, num protowire.Number, v uint64) []byte {
	if v == 0 {
		return dst
	}
	return protowire.AppendVarint(protowire.AppendTag(dst, num, protowire.VarintType), v)
}

func appendBytes[T string | []byte](dst []byte, num protowire.Number, v T) []byte {
	if len(v) == 0 {
		return dst
	}
	return appendItem(dst, num, v)
}

// appendItem writes an element of a repeated field, be it empty.
func appendItem[T string | []byte](dst []byte, num protowire.Number, v T) []byte {
	dst = protowire.AppendVarint(protowire.AppendTag(dst, num, protowire.BytesType), uint64(len(v)))
	return append(dst, v...)
}

func appendAddr(dst []byte, num protowire.Number, a netip.Addr) []byte {
	switch {
	case a.Is4():
		v := a.As4()
		return appendItem(dst, num, v[:])
	case a.Is6():
		v := a.As16()
		return appendItem(dst, num, v[:])
	}
	return dst
}
