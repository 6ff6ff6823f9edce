package record

import (
	"math"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// TokenTail is the most that AppendIssued appends.
const TokenTail = 24

// AppendToken appends t's record, but for its issued revision, which only the
// commit knows: AppendIssued completes it.
func AppendToken(dst []byte, t *storage.Token) []byte {
	dst = append(dst, version)
	dst = appendItem(dst, 1, t.SecretHash[:])
	dst = appendBytes(dst, 2, t.Tenant)
	dst = appendBytes(dst, 3, t.Subject)
	dst = appendBytes(dst, 4, t.Audience)
	dst = appendAddr(dst, 5, t.ClientIP)
	dst = appendBytes(dst, 6, t.UserAgent)
	dst = appendBytes(dst, 7, t.Browser)
	dst = appendBytes(dst, 8, t.OS)
	dst = appendBytes(dst, 9, t.Origin)
	dst = appendVarint(dst, 10, uint64(t.IPBinding))
	dst = appendVarint(dst, 11, uint64(t.UserAgentBinding))
	if len(t.Attributes) > 0 {
		names := make([]string, 0, 8)
		for name := range t.Attributes {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			dst = appendItem(dst, 12, name)
			dst = appendItem(dst, 12, t.Attributes[name])
		}
	}
	for _, s := range t.Scopes {
		dst = appendItem(dst, 13, s)
	}
	dst = appendVarint(dst, 14, uint64(t.Limits.MessageBytes))
	dst = appendVarint(dst, 15, uint64(t.Limits.MessagesPerSecond))
	dst = appendVarint(dst, 16, uint64(t.Limits.SessionsPerSubject))
	dst = appendVarint(dst, 17, uint64(t.MaxUses))
	dst = appendVarint(dst, 18, uint64(millis(t.IssuedAt)))
	dst = appendVarint(dst, 19, uint64(millis(t.NotBefore)))
	dst = appendVarint(dst, 20, uint64(t.SessionTTL.Milliseconds()))
	dst = appendBytes(dst, 21, t.Issuer)
	return appendBytes(dst, 24, t.Certificate)
}

// AppendIssued completes a token's record.
func AppendIssued(dst []byte, r storage.Revision) []byte {
	dst = appendVarint(dst, 22, r.Epoch)
	return appendVarint(dst, 23, r.Sequence)
}

// Token reads the record of the token with this id into t, which must be zero.
// It keeps nothing of b.
func Token(id storage.TokenID, b []byte, t *storage.Token) error {
	_, err := token(id, string(b), t, nil)
	return err
}

// Tokens reads the records of many tokens at once, which costs few allocations:
// out[i] is the token ids[i], or stays nil where records[i] is. It keeps nothing
// of records. The tokens share their memory.
func Tokens(ids []storage.TokenID, records [][]byte, out []*storage.Token) error {
	size, n := 0, 0
	for _, b := range records {
		if b != nil {
			size += len(b)
			n++
		}
	}
	var all strings.Builder
	all.Grow(size)
	for _, b := range records {
		all.Write(b)
	}
	text, agents := all.String(), make([]byte, 0, 128*n)
	tokens := make([]storage.Token, n)
	for i, b := range records {
		if b == nil {
			continue
		}
		t := &tokens[0]
		tokens = tokens[1:]
		var err error
		if agents, err = token(ids[i], text[:len(b)], t, agents); err != nil {
			return err
		}
		text = text[len(b):]
		out[i] = t
	}
	return nil
}

// token reads a record into t. The User-Agent, which is not text, is appended
// to agents.
func token(id storage.TokenID, text string, t *storage.Token, agents []byte) ([]byte, error) {
	text, err := body("token", text)
	if err != nil {
		return agents, err
	}
	t.ID = id
	name, named := "", false
	f := fields{text: text}
	for f.next() {
		switch f.tag {
		case 1<<3 | typeBytes:
			f.bad = len(f.val) != len(t.SecretHash)
			copy(t.SecretHash[:], f.val)
		case 2<<3 | typeBytes:
			t.Tenant = f.val
		case 3<<3 | typeBytes:
			t.Subject = f.val
		case 4<<3 | typeBytes:
			t.Audience = f.val
		case 5<<3 | typeBytes:
			f.addr(&t.ClientIP)
		case 6<<3 | typeBytes:
			from := len(agents)
			agents = append(agents, f.val...)
			t.UserAgent = agents[from:len(agents):len(agents)]
		case 7<<3 | typeBytes:
			t.Browser = f.val
		case 8<<3 | typeBytes:
			t.OS = f.val
		case 9<<3 | typeBytes:
			t.Origin = f.val
		case 10<<3 | typeVarint:
			t.IPBinding = storage.IPBinding(f.num)
		case 11<<3 | typeVarint:
			t.UserAgentBinding = storage.UserAgentBinding(f.num)
		case 12<<3 | typeBytes:
			if !named {
				name, named = f.val, true
				break
			}
			if t.Attributes == nil {
				t.Attributes = make(map[string]string, 4)
			}
			t.Attributes[name], named = f.val, false
		case 13<<3 | typeBytes:
			t.Scopes = append(t.Scopes, f.val)
		case 14<<3 | typeVarint:
			t.Limits.MessageBytes = uint32(f.num)
		case 15<<3 | typeVarint:
			t.Limits.MessagesPerSecond = uint32(f.num)
		case 16<<3 | typeVarint:
			t.Limits.SessionsPerSubject = uint32(f.num)
		case 17<<3 | typeVarint:
			t.MaxUses = uint32(f.num)
		case 18<<3 | typeVarint:
			t.IssuedAt = timeOf(int64(f.num))
		case 19<<3 | typeVarint:
			t.NotBefore = timeOf(int64(f.num))
		case 20<<3 | typeVarint:
			f.bad = f.num > uint64(math.MaxInt64/time.Millisecond)
			t.SessionTTL = time.Duration(f.num) * time.Millisecond
		case 21<<3 | typeBytes:
			t.Issuer = f.val
		case 22<<3 | typeVarint:
			t.IssuedRevision.Epoch = f.num
		case 23<<3 | typeVarint:
			t.IssuedRevision.Sequence = f.num
		case 24<<3 | typeBytes:
			t.Certificate = f.val
		}
	}
	if f.bad || named {
		return agents, corrupt("token", "its fields are cut or malformed")
	}
	return agents, nil
}
