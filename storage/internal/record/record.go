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
func body(kind string, b []byte) ([]byte, error) {
	if len(b) == 0 {
		return nil, corrupt(kind, "it is empty")
	}
	if b[0] > version {
		return nil, fmt.Errorf("%w: a %s record has version %d, known is %d", storage.ErrNewer, kind, b[0], version)
	}
	if b[0] != version {
		return nil, corrupt(kind, "it has no version")
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

// addrOf reads an address; no bytes are the invalid one.
func addrOf(b []byte) (netip.Addr, bool) {
	if len(b) == 0 {
		return netip.Addr{}, true
	}
	return netip.AddrFromSlice(b)
}

// The wire types of protobuf that records use. A field of another type is
// skipped, as the generated code does.
const (
	typeVarint  = uint64(protowire.VarintType)
	typeFixed64 = uint64(protowire.Fixed64Type)
	typeBytes   = uint64(protowire.BytesType)
)

// fields walks the fields of a message.
type fields struct {
	all  []byte
	at   int
	tag  uint64 // number<<3 | wire type
	num  uint64 // value of a number
	from int    // where the value of a bytes field lies
	to   int
	bad  bool
}

func (f *fields) next() bool {
	if f.at >= len(f.all) {
		return false
	}
	rest := f.all[f.at:]
	num, typ, n := protowire.ConsumeTag(rest)
	if n < 0 {
		f.bad = true
		return false
	}
	f.tag = uint64(num)<<3 | uint64(typ)
	m := 0
	switch uint64(typ) {
	case typeVarint:
		f.num, m = protowire.ConsumeVarint(rest[n:])
	case typeFixed64:
		f.num, m = protowire.ConsumeFixed64(rest[n:])
	case typeBytes:
		var size uint64
		size, m = protowire.ConsumeVarint(rest[n:])
		if m < 0 || size > uint64(len(rest)-n-m) {
			f.bad = true
			return false
		}
		f.from = f.at + n + m
		f.to = f.from + int(size)
		m += int(size)
	default:
		m = protowire.ConsumeFieldValue(num, typ, rest[n:])
	}
	if m < 0 {
		f.bad = true
		return false
	}
	f.at += n + m
	return true
}

func (f *fields) value() []byte { return f.all[f.from:f.to] }

// id reads a 16-byte id; an absent or empty one is zero.
func (f *fields) id(dst *[16]byte) {
	if v := f.value(); len(v) == len(dst) {
		copy(dst[:], v)
	} else {
		f.bad = true
	}
}

func (f *fields) addr(dst *netip.Addr) {
	a, ok := addrOf(f.value())
	*dst = a
	f.bad = f.bad || !ok
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
