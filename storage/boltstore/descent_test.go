package boltstore

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// stock fills a store with minutes of very different numbers of tokens, among them
// some that lie in their slot's own element, in pages of overflow and in trees of
// three levels, and returns their ids.
func stock(t testing.TB, s *Store) (ids []storage.TokenID) {
	r := rand.New(rand.NewPCG(1, 2))
	for minute, n := range []int{1, 2, 40, 0, 700, 3, 5, 9000} {
		batch := make([]*storage.Token, n)
		for i := range batch {
			x := &storage.Token{Tenant: "acme", Subject: fmt.Sprintf("user-%d", i), MaxUses: 1, UserAgent: make([]byte, r.IntN(80))}
			if i%97 == 40 {
				x.UserAgent = bytes.Repeat([]byte("M"), 9000)
			}
			at := time.UnixMilli(1_800_000_000_000 + int64(minute)*msPerMinute + r.Int64N(msPerMinute))
			binary.BigEndian.PutUint64(x.ID[:], uint64(at.UnixMilli())<<16|r.Uint64N(1<<16))
			binary.BigEndian.PutUint64(x.ID[8:], r.Uint64())
			batch[i] = x
			ids = append(ids, x.ID)
		}
		slices.SortFunc(batch, func(a, b *storage.Token) int { return bytes.Compare(a.ID[:], b.ID[:]) })
		for part := range slices.Chunk(batch, 512) {
			_, err := s.Insert(t.Context(), part)
			must(t, err)
		}
	}
	return ids
}

// What goes down abreast finds what bbolt's own cursor finds: what is there, with
// neighbours that are not, in any order and company. It needs that cursor only where
// a token came so late that the spans of a minute's slots overlap.
func TestDescent(t *testing.T) {
	s := open(t, t.TempDir()+"/gatehouse.db", Options{MapBytes: 64 << 20, AheadBytes: 1, freshBytes: 1000, slotTokens: 4000, noSync: true})
	defer s.Close()
	ids := stock(t, s)
	late := &storage.Token{ID: ids[len(ids)-100], Tenant: "acme", Subject: "ada", MaxUses: 1}
	late.ID[15]++
	asked := ids
	for _, id := range ids {
		for _, step := range []int8{-1, 1} {
			near := id
			near[15] += byte(step)
			asked = append(asked, near)
		}
	}
	asked = append(asked, storage.TokenID{}, storage.TokenID(bytes.Repeat([]byte{255}, 16)))
	rand.Shuffle(len(asked), func(i, j int) { asked[i], asked[j] = asked[j], asked[i] })

	found := func() (all, abreast int) {
		must(t, s.view(t.Context(), func(tx *bbolt.Tx) error {
			f := finder{slots: s.slots, tokens: tx.Bucket(tokensBucket)}
			for part := range slices.Chunk(asked, 61) {
				want, got, first := make([][]byte, len(part)), make([][]byte, len(part)), make([][]byte, len(part))
				for i, id := range part {
					want[i] = f.find(id)
				}
				s.find(tx, part, 0, got)
				findFirst(s, tx, part, first)
				for i := range part {
					if !bytes.Equal(got[i], want[i]) || first[i] != nil && !bytes.Equal(first[i], want[i]) {
						t.Fatalf("token %x has a record of %d bytes, by the store %d, abreast %d", part[i], len(want[i]), len(got[i]), len(first[i]))
					}
					if want[i] != nil {
						all++
					}
					if first[i] != nil {
						abreast++
					}
				}
			}
			return nil
		}))
		return all, abreast
	}
	if all, abreast := found(); all != len(ids) || abreast != all {
		t.Errorf("of %d tokens %d were found, %d of them without bbolt's cursor", len(ids), all, abreast)
	}
	_, err := s.Insert(t.Context(), []*storage.Token{late})
	must(t, err)
	if all, abreast := found(); all != len(ids)+1 || abreast == all {
		t.Errorf("of %d tokens %d were found, %d of them without bbolt's cursor", len(ids)+1, all, abreast)
	}
}

// findFirst is find without bbolt's cursor.
func findFirst(s *Store, tx *bbolt.Tx, ids []storage.TokenID, records [][]byte) {
	var where [abreast]slot
	s.slots.likeliest(ids, records, 0, &where)
	findTokens(tx, ids, where[:], records)
}

// FuzzDescent proves that going down a damaged file ends, and finds nothing outside
// of it. The input says which bytes of a small sound file are changed.
func FuzzDescent(f *testing.F) {
	path := f.TempDir() + "/gatehouse.db"
	s := open(f, path, Options{MapBytes: 64 << 20, AheadBytes: 1, freshBytes: 1000, noSync: true})
	var ids []storage.TokenID
	for i, id := range stock(f, s) {
		if i%150 == 0 {
			ids = append(ids, id)
		}
	}
	ids = ids[:min(len(ids), abreast)]
	var where [abreast]slot
	s.slots.likeliest(ids, make([][]byte, len(ids)), 0, &where)
	var root uint64
	must(f, s.view(f.Context(), func(tx *bbolt.Tx) error {
		root = uint64(tx.Bucket(tokensBucket).Root())
		return nil
	}))
	must(f, s.Close())
	whole, err := os.ReadFile(path)
	must(f, err)
	pages := len(whole) / 4096

	f.Add(uint32(root), []byte{})
	f.Add(uint32(root), []byte{8, 0, branchFlag})
	f.Add(uint32(root), []byte{10, 0, 255, 11, 0, 255})
	f.Add(uint32(root), []byte{20, 0, 255, 22, 0, 255})
	f.Add(uint32(root), []byte{24, 0, 7})
	f.Fuzz(func(t *testing.T, page uint32, edits []byte) {
		b := bytes.Clone(whole)
		at := int(page) % pages * 4096
		for ; len(edits) >= 3; edits = edits[3:] {
			b[at+int(binary.LittleEndian.Uint16(edits))%4096] = edits[2]
		}
		defer func() {
			if r := recover(); r != nil {
				if _, ok := r.(interface{ RuntimeError() }); !ok {
					panic(r)
				}
			}
		}()
		d := descent{file: b, pageSize: 4096, n: len(ids)}
		records := make([][]byte, len(ids))
		d.tokens(root, ids, where[:], records)
		for i, record := range records {
			if record != nil && (d.from[i] < 0 || d.to[i] > len(b)) {
				t.Fatalf("a record from %d to %d", d.from[i], d.to[i])
			}
		}
	})
}
