package boltstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"

	"go.etcd.io/bbolt"
)

// verify reads every page in use of a bbolt file and reports the first that is
// not sound. bbolt does not look before it leaps: opened for writing, it walks
// through all pages in a goroutine of its own, and a damaged one can crash the
// process. What verify accepts it can walk through.
//
// The layout, in the byte order of the machine: a page is id 8, flags 2,
// count 2, overflow 4, then count elements, each of which points to its key and
// value from where it lies itself. A leaf's element is flags 4, position 4, key
// size 4, value size 4; a branch's is position 4, key size 4, page id 8. A value
// that is a bucket is root page 8, sequence 8, and its only page itself where
// the root is 0.
func verify(f io.ReaderAt, size int64, pageSize int) error {
	v := verifier{f: f, pageSize: pageSize}
	m, err := v.meta()
	if err != nil {
		return err
	}
	v.high = m.high
	if v.high < 2 || v.high > uint64(size)/uint64(pageSize) {
		return fmt.Errorf("it has %d bytes of %d", size, v.high*uint64(pageSize))
	}
	v.seen = make([]bool, v.high)
	if m.freelist != noFreelist {
		if err := v.freelist(m.freelist); err != nil {
			return err
		}
	}
	return v.page(m.root, bounds{}, 0, true)
}

// verifyTx is verify of what a transaction sees of the file.
func verifyTx(f io.ReaderAt, tx *bbolt.Tx, pageSize int) error {
	v := verifier{f: f, pageSize: pageSize, high: uint64(tx.Size()) / uint64(pageSize)}
	v.seen = make([]bool, v.high)
	return v.page(uint64(tx.Cursor().Bucket().Root()), bounds{}, 0, true)
}

const (
	pageHeaderSize = 16
	leafElement    = 16
	branchElement  = 16
	bucketHeader   = 16
	metaSize       = 64

	branchFlag   = 0x01
	leafFlag     = 0x02
	freelistFlag = 0x10
	bucketFlag   = 0x01 // of a leaf's element

	boltMagic   = 0xED0CDAED
	boltVersion = 2
	noFreelist  = ^uint64(0)

	// maxDepth is far above the depth of any tree.
	maxDepth = 64
)

type verifier struct {
	f        io.ReaderAt
	pageSize int
	high     uint64               // pages from here on are not in use
	seen     []bool               // pages met
	buffers  [maxDepth + 2][]byte // by depth: a page is needed until those below it are verified
}

type meta struct{ root, freelist, high, tx uint64 }

// meta finds the younger of the two meta pages that are whole.
func (v *verifier) meta() (meta, error) {
	var found meta
	ok := false
	for n := range 2 {
		b := make([]byte, pageHeaderSize+metaSize)
		if _, err := v.f.ReadAt(b, int64(n)*int64(v.pageSize)); err != nil {
			continue
		}
		b = b[pageHeaderSize:]
		sum := fnv.New64a()
		_, _ = sum.Write(b[:metaSize-8])
		if u32(b) != boltMagic || u32(b[4:]) != boltVersion || u64(b[56:]) != sum.Sum64() {
			continue
		}
		if size := u32(b[8:]); uint64(size) != uint64(v.pageSize) { // bbolt would go by it
			return meta{}, fmt.Errorf("meta page %d is of pages of %d bytes, not %d", n, size, v.pageSize)
		}
		m := meta{root: u64(b[16:]), freelist: u64(b[32:]), high: u64(b[40:]), tx: u64(b[48:])}
		if !ok || m.tx > found.tx {
			found, ok = m, true
		}
	}
	if !ok {
		return meta{}, errors.New("both its meta pages are damaged")
	}
	return found, nil
}

// read reads a page with its overflow, and marks both as met. It lives until the
// next one of its depth is read.
func (v *verifier) read(id uint64, depth int) (p []byte, err error) {
	if id < 2 || id >= v.high {
		return nil, fmt.Errorf("page %d is none of its %d", id, v.high)
	}
	p = v.buffer(depth, v.pageSize)
	if _, err := v.f.ReadAt(p, int64(id)*int64(v.pageSize)); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	if u64(p) != id {
		return nil, fmt.Errorf("page %d says it is page %d", id, u64(p))
	}
	overflow := uint64(u32(p[12:]))
	if overflow >= v.high-id {
		return nil, fmt.Errorf("page %d runs over the end", id)
	}
	if overflow > 0 {
		p = v.buffer(depth, int(overflow+1)*v.pageSize)
		if _, err := v.f.ReadAt(p, int64(id)*int64(v.pageSize)); err != nil {
			return nil, fmt.Errorf("page %d: %w", id, err)
		}
	}
	for n := id; n <= id+overflow; n++ {
		if v.seen[n] {
			return nil, fmt.Errorf("page %d is used twice", n)
		}
		v.seen[n] = true
	}
	return p, nil
}

func (v *verifier) buffer(depth, size int) []byte {
	if cap(v.buffers[depth]) < size {
		v.buffers[depth] = make([]byte, size)
	}
	return v.buffers[depth][:size]
}

func (v *verifier) freelist(id uint64) error {
	p, err := v.read(id, 0)
	if err != nil {
		return err
	}
	n, from := uint64(u16(p[10:])), uint64(pageHeaderSize)
	if n == 0xffff {
		n, from = u64(p[from:]), from+8
	}
	if u16(p[8:]) != freelistFlag || n > (uint64(len(p))-from)/8 {
		return fmt.Errorf("page %d is no list of free pages", id)
	}
	for i := range n {
		if free := u64(p[from+8*i:]); free < 2 || free >= v.high {
			return fmt.Errorf("page %d: free page %d is none of its %d", id, free, v.high)
		} else if v.seen[free] {
			return fmt.Errorf("page %d: free page %d is free twice, or holds the list", id, free)
		} else {
			v.seen[free] = true // so that no tree can have it
		}
	}
	return nil
}

// bounds are what the keys of a page lie between: from low on, below high. nil
// is no bound.
type bounds struct{ low, high []byte }

// page verifies the tree below a page. The root of a tree may be empty.
func (v *verifier) page(id uint64, in bounds, depth int, root bool) error {
	if depth > maxDepth {
		return fmt.Errorf("page %d lies too deep", id)
	}
	p, err := v.read(id, depth)
	if err != nil {
		return err
	}
	switch u16(p[8:]) {
	case branchFlag:
		return v.branch(id, p, in, depth)
	case leafFlag:
		if u16(p[10:]) == 0 && !root {
			return fmt.Errorf("page %d is empty", id)
		}
		if err := v.leaf(p, in, depth, false); err != nil {
			return fmt.Errorf("page %d: %w", id, err)
		}
		return nil
	}
	return fmt.Errorf("page %d is of no known kind", id)
}

func (v *verifier) branch(id uint64, p []byte, in bounds, depth int) error {
	n := int(u16(p[10:]))
	if n == 0 || n > (len(p)-pageHeaderSize)/branchElement {
		return fmt.Errorf("page %d has %d branches", id, n)
	}
	keys := make([][]byte, n+1)
	keys[n] = in.high
	for i := range n {
		at := pageHeaderSize + i*branchElement
		k, _, err := item(p, at, u32(p[at:]), u32(p[at+4:]), 0)
		if err != nil {
			return fmt.Errorf("page %d: %w", id, err)
		}
		keys[i] = k
	}
	for i := range n {
		if !follows(keys[i], in.low, i == 0) || in.high != nil && bytes.Compare(keys[i], in.high) >= 0 {
			return fmt.Errorf("page %d: keys out of order", id)
		}
		in.low = keys[i]
		child := u64(p[pageHeaderSize+i*branchElement+8:])
		if err := v.page(child, bounds{keys[i], keys[i+1]}, depth+1, false); err != nil {
			return err
		}
	}
	return nil
}

// leaf verifies the elements of a leaf, which is a whole page or lies inline in
// the value of a bucket, where no bucket can be.
func (v *verifier) leaf(p []byte, in bounds, depth int, inline bool) error {
	n := int(u16(p[10:]))
	if n > (len(p)-pageHeaderSize)/leafElement {
		return fmt.Errorf("it has %d elements", n)
	}
	for i := range n {
		at := pageHeaderSize + i*leafElement
		k, val, err := item(p, at, u32(p[at+4:]), u32(p[at+8:]), u32(p[at+12:]))
		if err != nil {
			return err
		}
		if !follows(k, in.low, i == 0) || in.high != nil && bytes.Compare(k, in.high) >= 0 {
			return errors.New("keys out of order")
		}
		in.low = k
		switch flags := u32(p[at:]); {
		case flags == 0:
		case flags != bucketFlag || inline:
			return fmt.Errorf("element %d is of no known kind", i)
		default:
			if err := v.bucket(val, depth); err != nil {
				return err
			}
		}
	}
	return nil
}

func (v *verifier) bucket(val []byte, depth int) error {
	if len(val) < bucketHeader {
		return errors.New("a bucket is cut")
	}
	if root := u64(val); root != 0 {
		return v.page(root, bounds{}, depth+1, true)
	}
	p := val[bucketHeader:]
	if len(p) < pageHeaderSize || u16(p[8:]) != leafFlag || u32(p[12:]) != 0 {
		return errors.New("a bucket's page is cut")
	}
	return v.leaf(p, bounds{}, depth, true)
}

// follows reports whether k may come after the key before it, or, as a page's
// first, after the page's lower bound, which it may equal.
func follows(k, low []byte, first bool) bool {
	if low == nil {
		return true
	}
	c := bytes.Compare(k, low)
	return c > 0 || first && c == 0
}

// item finds the key and value of the element at at.
func item(p []byte, at int, pos, keySize, valueSize uint32) (k, val []byte, err error) {
	from := uint64(at) + uint64(pos)
	to := from + uint64(keySize) + uint64(valueSize)
	if keySize == 0 || to > uint64(len(p)) {
		return nil, nil, errors.New("an element lies outside it")
	}
	return p[from : from+uint64(keySize)], p[from+uint64(keySize) : to], nil
}

func u16(b []byte) uint16 { return binary.NativeEndian.Uint16(b) }
func u32(b []byte) uint32 { return binary.NativeEndian.Uint32(b) }
func u64(b []byte) uint64 { return binary.NativeEndian.Uint64(b) }
