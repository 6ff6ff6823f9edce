package token

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"sync"
	"time"
)

const (
	// TagSize is the length of a Tag in bytes.
	TagSize = 9
	// EdgeKeySize is the length of an edge key's secret in bytes.
	EdgeKeySize = 32
)

// Tag is the first TagSize bytes of HMAC-SHA256 under an edge key of all the
// token's bytes before it (RFC 2104). It lets a node throw forgeries away
// alone; it grants nothing, since the authority still decides.
type Tag [TagSize]byte

// EdgeKey makes and checks tags. The authority draws edge keys and hands them
// to the nodes.
type EdgeKey struct {
	ID  uint16
	Key [EdgeKeySize]byte
}

// String names the key without its secret.
func (EdgeKey) String() string { return "[edge key]" }

// GoString names the key without its secret.
func (EdgeKey) GoString() string { return "[edge key]" }

// LogValue hides the key from slog.
func (EdgeKey) LogValue() slog.Value { return slog.StringValue("[edge key]") }

// MarshalText hides the key from encoders.
func (EdgeKey) MarshalText() ([]byte, error) { return []byte("[edge key]"), nil }

// Ring is a fixed set of edge keys, safe for concurrent use. Build a new one
// when keys change.
type Ring struct {
	macs map[uint16]*sync.Pool // of *mac: their hash states are costly to make
}

// NewRing makes a ring of keys; of keys with the same id the last one counts.
func NewRing(keys []EdgeKey) *Ring {
	r := &Ring{macs: make(map[uint16]*sync.Pool, len(keys))}
	for _, k := range keys {
		r.macs[k.ID] = &sync.Pool{New: func() any { return newMAC(&k) }}
	}
	return r
}

// Mint draws a token that expires at expiry and tags it with the ring's key
// keyID; without that key it returns ErrUnknownKey.
func (r *Ring) Mint(keyID uint16, expiry time.Time, random io.Reader) (Token, error) {
	pool := r.macs[keyID]
	if pool == nil {
		return Token{}, ErrUnknownKey
	}
	id, err := NewID(expiry, random)
	if err != nil {
		return Token{}, err
	}
	t := Token{KeyID: keyID, ID: id}
	if _, err := io.ReadFull(random, t.Secret[:]); err != nil {
		return Token{}, fmt.Errorf("draw token secret: %w", err)
	}
	m := pool.Get().(*mac)
	t.Tag = m.sum(&t)
	pool.Put(m)
	return t, nil
}

// Verify reports whether t carries the tag that its edge key makes, comparing
// in constant time. It returns nil, ErrUnknownKey or ErrWrongTag, and
// allocates nothing once warm.
func (r *Ring) Verify(t *Token) error {
	pool := r.macs[t.KeyID]
	if pool == nil {
		return ErrUnknownKey
	}
	m := pool.Get().(*mac)
	want := m.sum(t)
	pool.Put(m)
	if subtle.ConstantTimeCompare(want[:], t.Tag[:]) != 1 {
		return ErrWrongTag
	}
	return nil
}

// mac is a keyed HMAC state with the buffers it works in; they live here since
// what passes through hash.Hash would escape from a stack.
type mac struct {
	hash hash.Hash
	bin  [Size]byte
	out  [sha256.Size]byte
}

func newMAC(k *EdgeKey) *mac { return &mac{hash: hmac.New(sha256.New, k.Key[:])} }

func (m *mac) sum(t *Token) (tag Tag) {
	t.put(&m.bin)
	m.hash.Reset()
	m.hash.Write(m.bin[:tagAt]) // a hash.Hash never returns an error
	copy(tag[:], m.hash.Sum(m.out[:0]))
	clear(m.bin[secretAt:tagAt])
	return tag
}
