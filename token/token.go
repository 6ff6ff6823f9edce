// Package token is the text and binary form of a handshake token, and its tag.
//
// A token is 60 bytes: version 1, edge key id 2, token id 16, secret 32,
// tag 9, all big endian. Its text is "gh1_" and 80 characters of unpadded
// base64url (RFC 4648 section 5). 60 bytes fill 80 characters exactly, so each
// token has one text and each text of that alphabet one token. All characters
// are legal in an HTTP token (RFC 9110 section 5.6.2), hence in the name of a
// WebSocket subprotocol.
package token

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"log/slog"
)

const (
	// Prefix starts every token's text; secret scanners look for it.
	Prefix = "gh1_"
	// Size is the length of a token's binary form in bytes.
	Size = 1 + 2 + IDSize + SecretSize + TagSize
	// TextSize is the length of a token's text in bytes.
	TextSize = len(Prefix) + Size*4/3

	version  = 1
	keyIDAt  = 1
	idAt     = keyIDAt + 2
	secretAt = idAt + IDSize
	tagAt    = secretAt + SecretSize
)

var (
	// ErrMalformed says that a text is not a token's: wrong length, prefix,
	// alphabet or version.
	ErrMalformed = errors.New("malformed token")
	// ErrUnknownKey says that no edge key of the ring has the token's key id.
	ErrUnknownKey = errors.New("token tag made with an unknown edge key")
	// ErrWrongTag says that the tag does not fit the token: it was guessed,
	// cut or edited.
	ErrWrongTag = errors.New("wrong token tag")
)

// Token is a parsed token. It prints as its id; AppendText alone writes the
// secret.
type Token struct {
	KeyID  uint16 // the edge key that made the tag
	ID     ID
	Secret Secret
	Tag    Tag
}

// AppendText appends the token's text to dst: TextSize bytes.
func (t *Token) AppendText(dst []byte) []byte {
	var bin [Size]byte
	t.put(&bin)
	return base64.RawURLEncoding.AppendEncode(append(dst, Prefix...), bin[:])
}

// String names the token without its secret.
func (t Token) String() string { return "token " + t.ID.String() }

// GoString names the token without its secret.
func (t Token) GoString() string { return t.String() }

// LogValue names the token without its secret.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.ID.String()) }

func (t *Token) put(bin *[Size]byte) {
	bin[0] = version
	binary.BigEndian.PutUint16(bin[keyIDAt:], t.KeyID)
	copy(bin[idAt:], t.ID[:])
	copy(bin[secretAt:], t.Secret[:])
	copy(bin[tagAt:], t.Tag[:])
}

// Parse reads token text into t and keeps nothing of text. It checks the form
// only: whether the tag is right is Ring.Verify's to say. It returns nil or
// ErrMalformed, and leaves t undefined after an error. It allocates nothing.
func Parse(text []byte, t *Token) error {
	if len(text) != TextSize || string(text[:len(Prefix)]) != Prefix {
		return ErrMalformed
	}
	var bin [Size]byte
	// The decoder skips line breaks, so a text that has one decodes short.
	n, err := base64.RawURLEncoding.Decode(bin[:], text[len(Prefix):])
	if err != nil || n != Size || bin[0] != version {
		return ErrMalformed
	}
	t.KeyID = binary.BigEndian.Uint16(bin[keyIDAt:])
	copy(t.ID[:], bin[idAt:])
	copy(t.Secret[:], bin[secretAt:])
	copy(t.Tag[:], bin[tagAt:])
	return nil
}
