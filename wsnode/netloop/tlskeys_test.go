package netloop

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net"
	"strings"
	"testing"
)

// sealer makes a client's records of TLS 1.3 by hand (RFC 8446 section 5.2): those
// that crypto/tls sends nobody.
type sealer struct {
	t      testing.TB
	secret []byte
	aead   cipher.AEAD
	iv     []byte
	seq    uint64
}

// Types of records, and a message that changes keys.
const (
	kindHandshake = 22
	kindData      = 23
	keyUpdate     = 24
)

// byHand shakes hands, and gives the hands for what comes after.
func (s *served) byHand(c net.Conn) (*tls.Conn, *sealer) {
	s.t.Helper()
	var keys bytes.Buffer
	nc := s.secureWith(c, func(c *tls.Config) { c.MinVersion, c.KeyLogWriter = tls.VersionTLS13, &keys })
	if nc.ConnectionState().CipherSuite != tls.TLS_AES_128_GCM_SHA256 {
		s.t.Skip("there is no AES in this processor")
	}
	for line := range strings.Lines(keys.String()) {
		if f := strings.Fields(line); f[0] == "CLIENT_TRAFFIC_SECRET_0" {
			secret, err := hex.DecodeString(f[2])
			if err != nil {
				s.t.Fatal(err)
			}
			k := &sealer{t: s.t}
			k.use(secret)
			return nc, k
		}
	}
	s.t.Fatal("no keys are known")
	return nil, nil
}

// expand is HKDF-Expand-Label (section 7.1).
func (k *sealer) expand(label string, length int) []byte {
	label = "tls13 " + label
	info := string(binary.BigEndian.AppendUint16(nil, uint16(length))) + string(rune(len(label))) + label + "\x00"
	out, err := hkdf.Expand(sha256.New, k.secret, info, length)
	if err != nil {
		k.t.Fatal(err)
	}
	return out
}

func (k *sealer) use(secret []byte) {
	k.secret, k.seq = secret, 0
	block, err := aes.NewCipher(k.expand("key", 16))
	if err == nil {
		k.aead, err = cipher.NewGCM(block)
	}
	if err != nil {
		k.t.Fatal(err)
	}
	k.iv = k.expand("iv", 12)
}

// update is what keys are after a message that changes them (section 7.2).
func (k *sealer) update() { k.use(k.expand("traffic upd", sha256.Size)) }

func (k *sealer) seal(kind byte, payload string) []byte {
	nonce := bytes.Clone(k.iv)
	binary.BigEndian.PutUint64(nonce[4:], binary.BigEndian.Uint64(nonce[4:])^k.seq)
	k.seq++
	n := len(payload) + 1 + k.aead.Overhead()
	head := []byte{kindData, 3, 3, byte(n >> 8), byte(n)}
	return k.aead.Seal(head, nonce, append([]byte(payload), kind), head)
}

// A client may change keys, and ask for the same, also in a message in two pieces.
func TestTLSKeyUpdate(t *testing.T) {
	overEachTLS(t, func(t *testing.T, over func(testing.TB, Config) *served) {
		s := over(t, testConfig)
		s.next()
		c := s.dialTCP()
		nc, hand := s.byHand(c)
		send := func(b ...[]byte) {
			t.Helper()
			for _, b := range b {
				if _, err := c.Write(b); err != nil {
					t.Fatal(err)
				}
			}
		}
		send(hand.seal(kindData, "before"))
		want(t, nc, "before")
		send(hand.seal(kindHandshake, string([]byte{keyUpdate, 0, 0, 1, 1})))
		hand.update()
		send(hand.seal(kindData, "after"))
		want(t, nc, "after")
		send(hand.seal(kindHandshake, string([]byte{keyUpdate, 0})))
		send(hand.seal(kindHandshake, string([]byte{0, 1, 0})))
		hand.update()
		for range 100 {
			send(hand.seal(kindData, "and on"))
			want(t, nc, "and on")
		}
		send(hand.seal(kindHandshake, string([]byte{keyUpdate, 0, 0, 1, 2}))) // there is no such wish
		if n, err := nc.Read(make([]byte, 1)); n != 0 || err == nil || err == io.EOF {
			t.Errorf("%d bytes and %v, want an alert", n, err)
		}
	})
}
