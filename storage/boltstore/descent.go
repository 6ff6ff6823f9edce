package boltstore

import (
	"encoding/binary"
	"math/bits"
	"unsafe"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// descent looks keys up in the trees of a bbolt file, of which verify tells the
// layout, many abreast: a step of each, then the next of each. In a file larger
// than the processor's caches a look-up is a chain of some twenty fetches from
// memory, each of which says where the next is. Those of other keys wait for none
// of them, and the processor has a dozen under way at a time.
//
// All keys of a tree must have one size, of 8 or 16 bytes. Damaged pages can have it
// panic, or miss a key, and never read what is not of the file.
type descent struct {
	file     []byte // as it is mapped
	pageSize int
	n        int // keys abreast
	key      [abreast]wide
	at       [abreast]int // the page that a key has come to; 0: it is not looked up
	from, to [abreast]int // then its value; 0: there is none

	// Of the search within a page, which goes on among left elements from base on,
	// and looks at probe next.
	elements, keys, base, left, probe [abreast]int

	fetched byte // of no use but that fetch is not optimized away
}

// abreast is how many keys go down at once: more than the processor has fetches
// under way, and few enough that its nearest caches keep what they have fetched.
const abreast = 64

// wide is a key as a number, in whose order keys are.
type wide struct{ hi, lo uint64 }

// findTokens sets records[i], which live as long as tx, for the ids that the slot
// beside them holds, unless that is noSlot. There are abreast ids at most.
func findTokens(tx *bbolt.Tx, ids []storage.TokenID, slots []slot, records [][]byte) {
	d := descent{file: mapped(tx), pageSize: tx.DB().Info().PageSize, n: len(ids)}
	d.tokens(uint64(tx.Bucket(tokensBucket).Root()), ids, slots, records)
}

func (d *descent) tokens(bucket uint64, ids []storage.TokenID, slots []slot, records [][]byte) {
	root := d.page(bucket)
	for i, s := range slots[:len(ids)] {
		if s != noSlot {
			d.key[i], d.at[i] = wide{hi: uint64(s)}, root
		}
	}
	d.down(8, bucketFlag)
	for i := range ids {
		d.key[i] = wide{binary.BigEndian.Uint64(ids[i][:8]), binary.BigEndian.Uint64(ids[i][8:])}
		d.at[i] = 0
		if from := d.from[i]; from != 0 {
			d.at[i] = d.page(u64(d.file[from:]))
			if d.at[i] == 0 {
				d.at[i] = from + bucketHeader
			}
		}
	}
	d.down(16, 0)
	for i := range ids {
		if from, to := d.from[i], d.to[i]; from != 0 {
			records[i] = d.file[from:to:to]
		}
	}
}

// mapped is the file as tx sees it. Of where it lies bbolt tells the number alone;
// it stays there while tx lasts.
func mapped(tx *bbolt.Tx) []byte {
	info := tx.DB().Info()
	return unsafe.Slice(*(**byte)(unsafe.Pointer(&info.Data)), tx.Size())
}

func (d *descent) page(id uint64) int { return int(id) * d.pageSize }

// down looks up the keys, which have size bytes, each in the tree whose root it is
// at. It finds elements of these flags.
func (d *descent) down(size int, flags uint32) {
	for range maxDepth {
		if !d.branches(size) {
			break
		}
	}
	d.leaves(size, flags)
}

// branches takes the keys that are at a branch a page further, and reports whether
// any were. The keys of a branch lie one behind the other: it need not ask the
// elements where.
func (d *descent) branches(size int) bool {
	most := d.begin(branchFlag)
	if most == 0 {
		return false
	}
	for ; most > 1; most -= most / 2 {
		for i := range d.n {
			d.probe[i] = d.keys[i] + (d.base[i]+d.left[i]/2)*size
		}
		d.halve(size)
	}
	for i := range d.n {
		d.probe[i] = d.elements[i] + d.base[i]*branchElement
	}
	d.fetch(d.probe[:d.n])
	for i, e := range d.probe[:d.n] {
		if d.left[i] != 0 {
			d.at[i] = d.page(u64(d.file[e+8:]))
		}
	}
	return true
}

// leaves finds the values of the keys that are at a leaf.
func (d *descent) leaves(size int, flags uint32) {
	for most := d.begin(leafFlag); most > 1; most -= most / 2 {
		for i := range d.n {
			d.probe[i] = d.elements[i] + (d.base[i]+d.left[i]/2)*leafElement
		}
		d.fetch(d.probe[:d.n])
		for i, e := range d.probe[:d.n] {
			d.probe[i] = e + int(u32(d.file[e+4:]))
		}
		d.halve(size)
	}
	for i := range d.n {
		d.from[i], d.to[i] = 0, 0
		at := d.elements[i] + d.base[i]*leafElement
		e := d.file[at : at+leafElement]
		k := at + int(u32(e[4:]))
		if d.left[i] != 0 && u32(e) == flags && int(u32(e[8:])) == size && d.wide(k, size) == d.key[i] {
			d.from[i] = k + size
			d.to[i] = d.from[i] + int(u32(e[12:]))
		}
	}
}

// begin begins a search in the pages of a kind, and returns how many elements the
// one with the most has. Keys that are at no such page take part with none left and
// at the file's beginning, so that no step has to ask.
func (d *descent) begin(kind uint16) (most int) {
	d.fetch(d.at[:d.n])
	for i := range d.n {
		d.elements[i], d.keys[i], d.base[i], d.left[i] = 0, 0, 0, 0
		at := d.at[i]
		if at == 0 || u16(d.file[at+8:]) != kind {
			continue
		}
		if n := int(u16(d.file[at+10:])); n != 0 {
			d.elements[i], d.left[i] = at+pageHeaderSize, n
			d.keys[i] = d.elements[i] + n*branchElement
			most = max(most, n)
		}
	}
	return most
}

// halve goes on with the half of each search that its probe tells.
func (d *descent) halve(size int) {
	d.fetch(d.probe[:d.n])
	for i := range d.n {
		half := d.left[i] / 2
		d.base[i] += half & d.reaches(i, d.probe[i], size)
		d.left[i] -= half
	}
}

// fetch has the processor fetch what lies at these places all at once. In a loop
// that does more for each it looks only a few of them ahead.
func (d *descent) fetch(places []int) {
	var sum byte
	for _, at := range places {
		sum += d.file[at]
	}
	d.fetched = sum
}

// reaches is all ones where the key at k is not above the i-th of those abreast,
// and 0 where it is. To jump would be to guess, half the time wrong, and to begin
// with the others only then.
func (d *descent) reaches(i, k, size int) int {
	at := d.wide(k, size)
	_, below := bits.Sub64(d.key[i].lo, at.lo, 0)
	_, below = bits.Sub64(d.key[i].hi, at.hi, below)
	return int(below) - 1
}

// wide reads the key at k.
func (d *descent) wide(k, size int) wide {
	b := d.file[k : k+size]
	w := wide{hi: binary.BigEndian.Uint64(b)}
	if size == 16 {
		w.lo = binary.BigEndian.Uint64(b[8:])
	}
	return w
}
