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
// three levels, and some whose ids differ in their last half alone, and returns their
// ids.
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
			x.IssuedAt = at.Add(-time.Minute)
			binary.BigEndian.PutUint64(x.ID[:], uint64(at.UnixMilli())<<16|r.Uint64N(1<<16))
			if n == 700 && i%3 == 1 { // a minute of one slot: those of others must not overlap
				copy(x.ID[:8], batch[i-1].ID[:8])
			}
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
// neighbours that are not, in any order and company. It looks into a second slot only
// where a token came so late that the spans of a minute's slots overlap.
func TestDescent(t *testing.T) {
	s := open(t, t.TempDir()+"/gatehouse.db", Options{MapBytes: 64 << 20, AheadBytes: 1, freshBytes: 1000, slotTokens: 4000, noSync: true})
	defer s.Close()
	ids := stock(t, s)
	late := &storage.Token{ID: ids[len(ids)-100], Tenant: "acme", Subject: "ada", MaxUses: 1, IssuedAt: ids[len(ids)-100].Expiry()}
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

	found := func() (all, atOnce int) {
		must(t, s.view(t.Context(), func(tx *bbolt.Tx) error {
			f := finder{slots: s.slots, tokens: tx.Bucket(tokensBucket)}
			for part := range slices.Chunk(asked, 61) {
				want, got, first := make([][]byte, len(part)), make([][]byte, len(part)), make([][]byte, len(part))
				for i, id := range part {
					want[i] = f.find(id)
				}
				findAbreast(s, tx, part, tries, got)
				findAbreast(s, tx, part, 1, first)
				for i := range part {
					if !bytes.Equal(got[i], want[i]) || first[i] != nil && !bytes.Equal(first[i], want[i]) {
						t.Fatalf("token %x has a record of %d bytes, abreast %d, in the likeliest slot %d", part[i], len(want[i]), len(got[i]), len(first[i]))
					}
					if want[i] != nil {
						all++
					}
					if first[i] != nil {
						atOnce++
					}
				}
			}
			return nil
		}))
		return all, atOnce
	}
	if all, atOnce := found(); all != len(ids) || atOnce != all {
		t.Errorf("of %d tokens %d were found, %d of them in the likeliest slot", len(ids), all, atOnce)
	}
	_, err := s.Insert(t.Context(), []*storage.Token{late})
	must(t, err)
	if all, atOnce := found(); all != len(ids)+1 || atOnce == all {
		t.Errorf("of %d tokens %d were found, %d of them in the likeliest slot", len(ids)+1, all, atOnce)
	}
}

// findAbreast is find without bbolt's cursor.
func findAbreast(s *Store, tx *bbolt.Tx, ids []storage.TokenID, tries int, records [][]byte) {
	var where [abreast]slot
	for n := 0; n < tries && s.slots.next(n, ids, records, 0, &where); n++ {
		findTokens(tx, ids, where[:], records)
	}
}

// closed is a stocked store as its file says, and some of its tokens.
type closed struct {
	file     []byte
	pageSize int
	root     uint64 // of the bucket of tokens
	ids      []storage.TokenID
	slots    []slot
}

func stockedFile(t testing.TB) (c closed) {
	path := t.TempDir() + "/gatehouse.db"
	s := open(t, path, Options{MapBytes: 64 << 20, AheadBytes: 1, freshBytes: 1000, noSync: true})
	for i, id := range stock(t, s) {
		if i%150 == 0 {
			c.ids = append(c.ids, id)
		}
	}
	c.ids = c.ids[:min(len(c.ids), abreast)]
	var where [abreast]slot
	s.slots.next(0, c.ids, make([][]byte, len(c.ids)), 0, &where)
	c.slots = where[:]
	must(t, s.view(t.Context(), func(tx *bbolt.Tx) error {
		c.root = uint64(tx.Bucket(tokensBucket).Root())
		return nil
	}))
	c.pageSize = s.pageSize
	must(t, s.Close())
	var err error
	c.file, err = os.ReadFile(path)
	must(t, err)
	return c
}

// find goes down the file as it says.
func (c *closed) find() (d descent, records [][]byte) {
	d = descent{file: c.file, pageSize: c.pageSize, n: len(c.ids)}
	records = make([][]byte, len(c.ids))
	d.tokens(c.root, c.ids, c.slots, records)
	return d, records
}

// What is no token with the whole key is not taken for one, and what goes round ends.
func TestDescentOfDamage(t *testing.T) {
	sound := stockedFile(t)
	d, records := sound.find()
	if i := slices.IndexFunc(records, func(r []byte) bool { return r == nil }); i >= 0 {
		t.Fatalf("token %x is not found in a sound file", sound.ids[i])
	}
	const at = 40 // of the tokens, the one whose page is damaged
	leaf, element, root := d.at[at], d.elements[at]+d.base[at]*leafElement, d.page(sound.root)
	for name, damage := range map[string]func(b []byte){
		"a bucket":           func(b []byte) { binary.NativeEndian.PutUint32(b[element:], bucketFlag) },
		"a shorter key":      func(b []byte) { binary.NativeEndian.PutUint32(b[element+8:], 15) },
		"another key":        func(b []byte) { b[d.from[at]-1]++ },
		"a leaf without any": func(b []byte) { binary.NativeEndian.PutUint16(b[leaf+10:], 0) },
		"a branch of itself": func(b []byte) {
			binary.NativeEndian.PutUint16(b[root+8:], branchFlag)
			binary.NativeEndian.PutUint16(b[root+10:], 1)
			binary.NativeEndian.PutUint64(b[root+pageHeaderSize+8:], sound.root)
		},
	} {
		damaged := sound
		damaged.file = bytes.Clone(sound.file)
		damage(damaged.file)
		if _, records := damaged.find(); records[at] != nil {
			t.Errorf("%s: found as a token", name)
		}
	}
}

// FuzzDescent proves that going down a damaged file ends, and finds nothing outside
// of it. The input says which bytes of a small sound file are changed.
func FuzzDescent(f *testing.F) {
	sound := stockedFile(f)
	root, pages := sound.root, len(sound.file)/sound.pageSize

	f.Add(uint32(root), []byte{})
	f.Add(uint32(root), []byte{8, 0, branchFlag})
	f.Add(uint32(root), []byte{10, 0, 255, 11, 0, 255})
	f.Add(uint32(root), []byte{20, 0, 255, 22, 0, 255})
	f.Add(uint32(root), []byte{24, 0, 7})
	f.Fuzz(func(t *testing.T, page uint32, edits []byte) {
		damaged := sound
		damaged.file = bytes.Clone(sound.file)
		at := int(page) % pages * sound.pageSize
		for ; len(edits) >= 3; edits = edits[3:] {
			damaged.file[at+int(binary.LittleEndian.Uint16(edits))%sound.pageSize] = edits[2]
		}
		defer func() {
			if r := recover(); r != nil {
				if _, ok := r.(interface{ RuntimeError() }); !ok {
					panic(r)
				}
			}
		}()
		d, records := damaged.find()
		for i, record := range records {
			if record != nil && (d.from[i] < 0 || d.to[i] > len(damaged.file)) {
				t.Fatalf("a record from %d to %d", d.from[i], d.to[i])
			}
		}
	})
}
