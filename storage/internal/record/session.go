package record

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"net/netip"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// SessionsTail is the most that AppendAsOf appends.
const SessionsTail = 22

// AppendSessions appends one record of sessions that end in the same
// millisecond, but for their as-of revision, which only the commit knows:
// AppendAsOf completes it. The sessions of a batch have most in common. Of each
// only what differs from the one before is written, and where its User-Agent is
// that of an earlier one, which one's that is.
func AppendSessions(dst []byte, sessions []storage.Session) []byte {
	dst = append(dst, version)
	var none storage.Session
	for i := range sessions {
		before := &none
		if i > 0 {
			before = &sessions[i-1]
		}
		dst = appendRow(dst, sessions[:i], before, &sessions[i])
	}
	return dst
}

// appendRow appends s, which comes after before, the last of earlier.
func appendRow(dst []byte, earlier []storage.Session, before, s *storage.Session) []byte {
	dst = protowire.AppendTag(dst, 1, protowire.BytesType)
	at := len(dst)
	dst = append(dst, 0) // the length, where one byte will do
	dst = appendItem(dst, 1, s.Token[:])
	dst = appendOther(dst, 2, before.Tenant, s.Tenant)
	dst = appendOther(dst, 3, before.Subject, s.Subject)
	dst = appendOther(dst, 4, before.Audience, s.Audience)
	dst = appendOther(dst, 5, before.Issuer, s.Issuer)
	dst = appendOtherAddr(dst, 6, before.TokenIP, s.TokenIP)
	dst = appendOtherVarint(dst, 7, before.IssuedRevision.Epoch, s.IssuedRevision.Epoch)
	dst = appendOtherVarint(dst, 8, before.IssuedRevision.Sequence, s.IssuedRevision.Sequence)
	dst = appendOther(dst, 9, before.Node, s.Node)
	if before.Instance != s.Instance {
		dst = appendItem(dst, 10, s.Instance[:])
	}
	dst = appendOtherAddr(dst, 11, before.ClientIP, s.ClientIP)
	agent := agentOf(earlier, s.UserAgent)
	if agent == 0 && !bytes.Equal(before.UserAgent, s.UserAgent) {
		dst = appendItem(dst, 12, s.UserAgent)
	}
	if !bytes.Equal(before.Origin, s.Origin) {
		dst = appendItem(dst, 13, s.Origin)
	}
	dst = appendOtherVarint(dst, 14, uint64(millis(before.StartedAt)), uint64(millis(s.StartedAt)))
	dst = appendOtherVarint(dst, 15, uint64(millis(before.ExpiresAt)), uint64(millis(s.ExpiresAt)))
	dst = appendItem(dst, 18, s.ID[:])
	if agent < len(earlier) {
		dst = appendVarint(dst, 19, uint64(agent))
	}
	if !bytes.Equal(before.Certificate, s.Certificate) {
		dst = appendItem(dst, 20, s.Certificate)
	}
	n := len(dst) - at - 1
	if more := protowire.SizeVarint(uint64(n)) - 1; more > 0 {
		dst = append(dst, make([]byte, more)...)
		copy(dst[at+1+more:], dst[at+1:])
	}
	protowire.AppendVarint(dst[:at], uint64(n))
	return dst
}

// agentOf is which of the sessions has this User-Agent, from 1, the last before
// others; 0 for none.
func agentOf(sessions []storage.Session, agent []byte) int {
	i := len(sessions)
	for i > 0 && !bytes.Equal(sessions[i-1].UserAgent, agent) {
		i--
	}
	return i
}

func appendOther(dst []byte, num protowire.Number, before, v string) []byte {
	if v == before {
		return dst
	}
	return appendItem(dst, num, v)
}

func appendOtherVarint(dst []byte, num protowire.Number, before, v uint64) []byte {
	if v == before {
		return dst
	}
	return protowire.AppendVarint(protowire.AppendTag(dst, num, protowire.VarintType), v)
}

func appendOtherAddr(dst []byte, num protowire.Number, before, a netip.Addr) []byte {
	if a == before {
		return dst
	}
	if !a.IsValid() {
		return appendItem(dst, num, "")
	}
	return appendAddr(dst, num, a)
}

// AppendAsOf completes a record of sessions.
func AppendAsOf(dst []byte, r storage.Revision) []byte {
	dst = appendVarint(dst, 2, r.Epoch)
	return appendVarint(dst, 3, r.Sequence)
}

// Sessions calls each for every session of a record, in order, until it returns
// false. It lends each the session for the call; what that points to is of a
// copy of b, which the sessions share and nobody may change.
func Sessions(b []byte, each func(*storage.Session) bool) error {
	b, err := body("session", b)
	if err != nil {
		return err
	}
	r := rows{text: string(b), bytes: bytes.Clone(b)}
	f := fields{text: r.text}
	for f.next() { // the as-of revision is behind them all
		switch f.tag {
		case 2<<3 | typeVarint:
			r.session.AsOf.Epoch = f.num
		case 3<<3 | typeVarint:
			r.session.AsOf.Sequence = f.num
		}
	}
	bad := f.bad
	for f = (fields{text: r.text}); !bad && f.next(); {
		if f.tag != 1<<3|typeBytes {
			continue
		}
		if bad = !r.read(f.at-len(f.val), len(f.val)); !bad && !each(&r.session) {
			return nil
		}
	}
	if bad {
		return corrupt("session", "its fields are cut or malformed")
	}
	return nil
}

// Session reads the record of a single session, as stores of format 1 have them
// under its id. What it returns is of a copy of b.
func Session(id storage.SessionID, b []byte) (*storage.Session, error) {
	b, err := body("session", b)
	if err != nil {
		return nil, err
	}
	r := rows{text: string(b), bytes: bytes.Clone(b)}
	r.session.ID = id
	if !r.read(0, len(b)) {
		return nil, corrupt("session", "its fields are cut or malformed")
	}
	return &r.session, nil
}

// rows reads sessions one after the other, each into the last.
type rows struct {
	text    string
	bytes   []byte // the same
	session storage.Session
	agents  [][]byte // of all so far
}

// read reads the row of size bytes at at.
func (r *rows) read(at, size int) bool {
	s := &r.session
	f := fields{text: r.text[:at+size], at: at}
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
			s.UserAgent = r.slice(&f)
		case 13<<3 | typeBytes:
			s.Origin = r.slice(&f)
		case 14<<3 | typeVarint:
			s.StartedAt = timeOf(int64(f.num))
		case 15<<3 | typeVarint:
			s.ExpiresAt = timeOf(int64(f.num))
		case 16<<3 | typeVarint: // of a single one
			s.AsOf.Epoch = f.num
		case 17<<3 | typeVarint:
			s.AsOf.Sequence = f.num
		case 18<<3 | typeBytes:
			f.id((*[16]byte)(&s.ID))
		case 19<<3 | typeVarint:
			if f.num == 0 || f.num > uint64(len(r.agents)) {
				return false
			}
			s.UserAgent = r.agents[f.num-1]
		case 20<<3 | typeBytes:
			s.Certificate = r.slice(&f)
		}
	}
	r.agents = append(r.agents, s.UserAgent)
	return !f.bad
}

// slice is the value of a field as bytes.
func (r *rows) slice(f *fields) []byte { return r.bytes[f.at-len(f.val) : f.at : f.at] }

// Redemption is one use of a token.
type Redemption struct {
	Token       storage.TokenID
	Session     storage.SessionID
	Observation uint64
	// Minute is for a store to note where it puts the record; no part of it.
	Minute uint64
}

const redemptionSize = 18 + 18 + 9

// RedemptionsSize is how many bytes the record of n uses takes.
func RedemptionsSize(n int) int { return 1 + n*(2+redemptionSize) }

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
	if len(s.Certificate) > 0 {
		h = mix(h, uint64(crc32.Checksum(s.Certificate, castagnoli)))
	}
	return h
}

// mix is stored in what it makes: never change it.
func mix(h, v uint64) uint64 {
	h = (h ^ v) * 0x9e3779b97f4a7c15
	return h ^ h>>32
}
