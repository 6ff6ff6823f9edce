package boltstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// tree makes a small bbolt file of small pages with every kind of page in it:
// branches, leaves, overflow, inline and nested buckets, and a list of free
// pages where freelist says so.
func tree(t testing.TB, freelist bool) []byte {
	path := filepath.Join(t.TempDir(), "tree.db")
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{PageSize: 1024, NoFreelistSync: !freelist})
	must(t, err)
	for round := range 3 { // the later ones free pages of the earlier
		must(t, db.Update(func(tx *bbolt.Tx) error {
			big, err := tx.CreateBucketIfNotExists([]byte("big"))
			if err != nil {
				return err
			}
			for i := range 30 {
				if err := big.Put(fmt.Appendf(nil, "key %d %d", i, round), bytes.Repeat([]byte("v"), 80)); err != nil {
					return err
				}
			}
			inner, err := big.CreateBucketIfNotExists([]byte("inner"))
			if err != nil {
				return err
			}
			if err := inner.Put([]byte("large"), bytes.Repeat([]byte("w"), 2500)); err != nil {
				return err
			}
			inline, err := inner.CreateBucketIfNotExists([]byte("inline"))
			if err != nil {
				return err
			}
			if _, err := inner.CreateBucketIfNotExists([]byte("empty")); err != nil {
				return err
			}
			return inline.Put([]byte("k"), []byte("v"))
		}))
	}
	must(t, db.Close())
	b, err := os.ReadFile(path)
	must(t, err)
	return b
}

func TestVerifyAcceptsWhatIsSound(t *testing.T) {
	for _, freelist := range []bool{false, true} {
		b := tree(t, freelist)
		must(t, verify(bytes.NewReader(b), int64(len(b)), 1024))
	}
	b, err := os.ReadFile(filled(t))
	must(t, err)
	must(t, verify(bytes.NewReader(b), int64(len(b)), 4096))
}

// FuzzVerify proves that verify neither panics nor hangs on a damaged file, and
// that bbolt opens and checks what verify accepts without a crash. The input
// says which bytes of a small sound file are changed.
func FuzzVerify(f *testing.F) {
	whole := map[bool][]byte{false: tree(f, false), true: tree(f, true)}
	f.Add(false, []byte{})
	f.Add(true, []byte{})
	for at := range len(whole[false]) / 1024 {
		f.Add(false, []byte{byte(at * 4), 8, 0xff})  // its kind
		f.Add(true, []byte{byte(at * 4), 10, 0xff})  // its count
		f.Add(false, []byte{byte(at * 4), 12, 0xff}) // its overflow
		f.Add(true, []byte{byte(at * 4), 21, 0xff})  // where its first element lies
		f.Add(false, []byte{byte(at * 4), 24, 1})    // what its first element points to
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, freelist bool, edits []byte) {
		b := bytes.Clone(whole[freelist])
		for ; len(edits) >= 3; edits = edits[3:] {
			at := (int(edits[0])<<8 | int(edits[1])) % len(b)
			if at < 2*1024 && at%1024 < pageHeaderSize {
				continue // bbolt checks the heads of meta pages, but does not depend on them
			}
			b[at] = edits[2]
		}
		if verify(bytes.NewReader(b), int64(len(b)), 1024) != nil {
			return
		}
		path := filepath.Join(dir, "fuzz.db")
		must(t, os.WriteFile(path, b, 0o600))
		var db *bbolt.DB
		err := guard(func() (err error) {
			db, err = bbolt.Open(path, 0o600, &bbolt.Options{NoFreelistSync: true, NoSync: true})
			return err
		})
		if err != nil {
			return // refused, without a crash
		}
		defer db.Close()
		must(t, db.View(func(tx *bbolt.Tx) error {
			var errs []error
			for err := range tx.Check() {
				errs = append(errs, err)
			}
			if len(errs) > 0 && !freelist { // verify does not look which pages a list leaves out
				return errors.Join(errs...)
			}
			return nil
		}))
	})
}

// A store's file that verify accepts but bbolt does not is refused, not crashed
// on: here one whose list of free pages names a page in use.
func TestFreePageInUse(t *testing.T) {
	b := tree(t, true)
	for at := 0; at < len(b); at += 1024 {
		if u16(b[at+8:]) == freelistFlag {
			b[at+pageHeaderSize] = 3
		}
	}
	path := filepath.Join(t.TempDir(), "gatehouse.db")
	must(t, os.WriteFile(path, b, 0o600))
	if _, err := Open(path, small); !errors.Is(err, storage.ErrCorrupt) {
		t.Fatalf("error %v, want %v", err, storage.ErrCorrupt)
	}
}

// A page that is both free and in use would be written over, and is refused, as is
// one that is free twice.
func TestVerifyRefusesFreePagesInUse(t *testing.T) {
	whole := tree(t, true)
	v := verifier{f: bytes.NewReader(whole), pageSize: 1024}
	m, err := v.meta()
	must(t, err)
	at := m.freelist * 1024
	n := u16(whole[at+10:])
	if n < 2 {
		t.Fatalf("%d pages are free", n)
	}
	put := func(i int, page uint64) []byte {
		b := bytes.Clone(whole)
		binary.NativeEndian.PutUint64(b[at+pageHeaderSize+uint64(8*i):], page)
		return b
	}
	for what, b := range map[string][]byte{
		"the root":          put(0, m.root),
		"the list itself":   put(0, m.freelist),
		"another free page": put(0, u64(whole[at+pageHeaderSize+8:])),
	} {
		if err := verify(bytes.NewReader(b), int64(len(b)), 1024); err == nil {
			t.Errorf("%s is free, and it is accepted", what)
		}
	}
}
