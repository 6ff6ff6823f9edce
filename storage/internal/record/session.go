package record

import (
	"encoding/binary"
	"hash/crc32"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// SessionTail is the most that AppendAsOf appends.
const SessionTail = 26

// AppendSession appends s's record, but for its as-of revision, which only the
// commit knows: AppendAsOf completes it.
func AppendSession(dst []byte, s *storage.Session) []byte {
	dst = append(dst, version)
	dst = appendItem(dst, 1, s.Token[:])
	dst = appendBytes(dst, 2, s.Tenant)
	dst = appendBytes(dst, 3, s.Subject)
	dst = appendBytes(dst, 4, s.Audience)
	dst = appendBytes(dst, 5, s.Issuer)
	dst = appendAddr(dst, 6, s.TokenIP)
	dst = appendVarint(dst, 7, s.IssuedRevision.Epoch)
	dst = appendVarint(dst, 8, s.IssuedRevision.Sequence)
	dst = appendBytes(dst, 9, s.Node)
	dst = appendItem(dst, 10, s.Instance[:])
	dst = appendAddr(dst, 11, s.ClientIP)
	dst = appendBytes(dst, 12, s.UserAgent)
	dst = appendBytes(dst, 13, s.Origin)
	dst = appendVarint(dst, 14, uint64(millis(s.StartedAt)))
	dst = appendVarint(dst, 15, uint64(millis(s.ExpiresAt)))
	return dst
}

// AppendAsOf completes a session's record.
func AppendAsOf(dst []byte, r storage.Revision) []byte {
	dst = appendVarint(dst, 16, r.Epoch)
	return appendVarint(dst, 17, r.Sequence)
}

// Session reads the record of the session with this id into s, which must be
// zero. It keeps nothing of b.
func Session(id storage.SessionID, b []byte, s *storage.Session) error {
	b, err := body("session", b)
	if err != nil {
		return err
	}
	s.ID = id
	f := fields{text: string(b)}
	for f.next() {
		switch f.tag {
		case 1<<3 | typeBytes:
			f.id((*[16]byte)(&s.Token))
		case 2<<3 | typeBytes:
			s.Tenant = f.val
		case 3<<3 | typeBytes:
			s.Subject = f.val
		case 4<<3 | typeBytes:
			s.Audience = f.val
		case 5<<3 | typeBytes:
			s.Issuer = f.val
		case 6<<3 | typeBytes:
			f.addr(&s.TokenIP)
		case 7<<3 | typeVarint:
			s.IssuedRevision.Epoch = f.num
		case 8<<3 | typeVarint:
			s.IssuedRevision.Sequence = f.num
		case 9<<3 | typeBytes:
			s.Node = f.val
		case 10<<3 | typeBytes:
			f.id((*[16]byte)(&s.Instance))
		case 11<<3 | typeBytes:
			f.addr(&s.ClientIP)
		case 12<<3 | typeBytes:
			s.UserAgent = []byte(f.val)
		case 13<<3 | typeBytes:
			s.Origin = []byte(f.val)
		case 14<<3 | typeVarint:
			s.StartedAt = timeOf(int64(f.num))
		case 15<<3 | typeVarint:
			s.ExpiresAt = timeOf(int64(f.num))
		case 16<<3 | typeVarint:
			s.AsOf.Epoch = f.num
		case 17<<3 | typeVarint:
			s.AsOf.Sequence = f.num
		}
	}
	if f.bad {
		return corrupt("session", "its fields are cut or malformed")
	}
	return nil
}

// SessionToken reads which token opened a session from its record.
func SessionToken(b []byte) (id storage.TokenID, err error) {
	if b, err = body("session", b); err != nil {
		return id, err
	}
	f := fields{text: string(b)}
	for f.next() {
		if f.tag == 1<<3|typeBytes {
			f.id((*[16]byte)(&id))
			break
		}
	}
	if f.bad {
		return id, corrupt("session", "its fields are cut or malformed")
	}
	return id, nil
}

// Redemption is one use of a token.
type Redemption struct {
	Token       storage.TokenID
	Session     storage.SessionID
	Observation uint64
}

const redemptionSize = 18 + 18 + 9

// AppendRedemptions appends one record of all these uses.
func AppendRedemptions(dst []byte, uses []Redemption) []byte {
	dst = append(dst, version)
	for i := range uses {
		u := &uses[i]
		dst = protowire.AppendVarint(protowire.AppendTag(dst, 1, protowire.BytesType), redemptionSize)
		dst = appendItem(dst, 1, u.Token[:])
		dst = appendItem(dst, 2, u.Session[:])
		dst = protowire.AppendFixed64(protowire.AppendTag(dst, 3, protowire.Fixed64Type), u.Observation)
	}
	return dst
}

// Redemptions calls each for every use of a record, in order.
func Redemptions(b []byte, each func(Redemption)) error {
	b, err := body("redemption", b)
	if err != nil {
		return err
	}
	f := fields{text: string(b)}
	for f.next() {
		if f.tag != 1<<3|typeBytes {
			continue
		}
		var u Redemption
		in := fields{text: f.val}
		for in.next() {
			switch in.tag {
			case 1<<3 | typeBytes:
				in.id((*[16]byte)(&u.Token))
			case 2<<3 | typeBytes:
				in.id((*[16]byte)(&u.Session))
			case 3<<3 | typeFixed64:
				u.Observation = in.num
			}
		}
		if in.bad {
			f.bad = true
			break
		}
		each(u)
	}
	if f.bad {
		return corrupt("redemption", "its fields are cut or malformed")
	}
	return nil
}

// Ended is a session that has ended before its time. With the token it names
// one session even if its id is drawn again when nobody knows it any more.
type Ended struct {
	Key   storage.SessionKey
	Token storage.TokenID
}

// AppendEnded appends one record of all these sessions.
func AppendEnded(dst []byte, ended []Ended) []byte {
	dst = append(dst, version)
	var item [48]byte
	for i := range ended {
		e := &ended[i]
		b := appendVarint(item[:0], 1, uint64(millis(e.Key.ExpiresAt)))
		b = appendItem(b, 2, e.Key.ID[:])
		b = appendItem(b, 3, e.Token[:])
		dst = appendItem(dst, 1, b)
	}
	return dst
}

// EndedSessions calls each for every session of a record, in order.
func EndedSessions(b []byte, each func(Ended)) error {
	b, err := body("ended session", b)
	if err != nil {
		return err
	}
	f := fields{text: string(b)}
	for f.next() {
		if f.tag != 1<<3|typeBytes {
			continue
		}
		var e Ended
		in := fields{text: f.val}
		for in.next() {
			switch in.tag {
			case 1<<3 | typeVarint:
				e.Key.ExpiresAt = timeOf(int64(in.num))
			case 2<<3 | typeBytes:
				in.id((*[16]byte)(&e.Key.ID))
			case 3<<3 | typeBytes:
				in.id((*[16]byte)(&e.Token))
			}
		}
		if in.bad {
			f.bad = true
			break
		}
		each(e)
	}
	if f.bad {
		return corrupt("ended session", "its fields are cut or malformed")
	}
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Observation is a checksum of what tells a retry from another request: the
// node instance and what it observed of the client. It need not resist a node
// that looks for collisions: all one wins is another error for a session that
// is gone.
func Observation(s *storage.Session) uint64 {
	h := uint64(crc32.Checksum(s.UserAgent, castagnoli))<<32 | uint64(crc32.Checksum(s.Origin, castagnoli))
	h = mix(h, uint64(len(s.UserAgent))<<32|uint64(uint32(len(s.Origin))))
	h = mix(h, binary.BigEndian.Uint64(s.Instance[:8]))
	h = mix(h, binary.BigEndian.Uint64(s.Instance[8:]))
	if s.ClientIP.IsValid() {
		ip := s.ClientIP.As16()
		h = mix(h, binary.BigEndian.Uint64(ip[:8]))
		h = mix(h, binary.BigEndian.Uint64(ip[8:]))
		h = mix(h, uint64(s.ClientIP.BitLen()))
	}
	return h
}

// mix is stored in what it makes: never change it.
func mix(h, v uint64) uint64 {
	h = (h ^ v) * 0x9e3779b97f4a7c15
	return h ^ h>>32
}
