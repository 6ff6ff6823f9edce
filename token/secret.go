package token

import (
	"crypto/sha256"
	"crypto/subtle"
	"log/slog"
)

// SecretSize is the length of a Secret in bytes: 256 random bits.
const SecretSize = 32

// Secret is what only a token's bearer knows. It prints and logs as
// "[secret]"; only token text carries it.
type Secret [SecretSize]byte

// String hides the secret.
func (Secret) String() string { return "[secret]" }

// GoString hides the secret from %#v.
func (Secret) GoString() string { return "[secret]" }

// LogValue hides the secret from slog.
func (Secret) LogValue() slog.Value { return slog.StringValue("[secret]") }

// MarshalText hides the secret from encoders.
func (Secret) MarshalText() ([]byte, error) { return []byte("[secret]"), nil }

// Digest is the SHA-256 of a Secret: all that a node sends to the authority.
func (s *Secret) Digest() Digest { return sha256.Sum256(s[:]) }

// Digest proves to the authority that a node was shown the secret. It redeems
// a token, so it is kept out of logs as the secret is.
type Digest [sha256.Size]byte

// String hides the digest.
func (Digest) String() string { return "[digest]" }

// GoString hides the digest from %#v.
func (Digest) GoString() string { return "[digest]" }

// LogValue hides the digest from slog.
func (Digest) LogValue() slog.Value { return slog.StringValue("[digest]") }

// MarshalText hides the digest from encoders.
func (Digest) MarshalText() ([]byte, error) { return []byte("[digest]"), nil }

// Hash is the SHA-256 of the digest: all that is stored, so that a stolen
// store redeems nothing.
func (d *Digest) Hash() SecretHash { return sha256.Sum256(d[:]) }

// SecretHash is a stored hash of a Digest.
type SecretHash [sha256.Size]byte

// Matches reports, in constant time, whether h is the hash of d.
func (h *SecretHash) Matches(d *Digest) bool {
	got := d.Hash()
	return subtle.ConstantTimeCompare(h[:], got[:]) == 1
}
