package ledger

import (
	"encoding/binary"
	"hash/maphash"
)

// key stands for a tenant or a subject in a tally: 128 bits, of hashes whose
// seeds nobody outside can know. Two names that share one are as unlikely as a
// failure of memory, and a map of millions of keys holds no pointer and fetches
// no text.
type key [16]byte

type hasher [2]maphash.Seed

func newHasher() hasher { return hasher{maphash.MakeSeed(), maphash.MakeSeed()} }

func (h *hasher) key(tenant, subject string) (k key) {
	for i, seed := range h {
		binary.NativeEndian.PutUint64(k[8*i:], maphash.String(seed, tenant)*0x9e3779b97f4a7c15+maphash.String(seed, subject))
	}
	return k
}
