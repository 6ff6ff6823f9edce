package boltstore

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// advice is what to do about a file that cannot be read.
const advice = "restore it from a backup, or move it away to begin anew (then every token, revocation and lock is lost)"

func (s *Store) open() error {
	if _, err := os.Lstat(s.path); errors.Is(err, fs.ErrNotExist) {
		if err := create(s.path, &s.opts); err != nil {
			return fmt.Errorf("create store %s: %w", s.path, err)
		}
	}
	if err := inspect(s.path); err != nil {
		return err
	}
	db, err := openToWrite(s.path, &s.opts)
	if err != nil {
		return err
	}
	s.file.Store(db)
	s.room = newRoom(db.file, s.path, &s.opts)
	err = sameFile(db.file, s.path)
	if err == nil {
		err = s.rebuild()
	}
	if err == nil {
		err = s.ensureSystem()
	}
	if err == nil {
		err = s.upgrade()
	}
	if err == nil {
		err = s.room.measure()
	}
	if err != nil {
		s.room.close()
		_ = db.Close()
		return err
	}
	return nil
}

// boltFile is a bbolt file that is open.
type boltFile struct {
	*bbolt.DB
	file    *os.File
	visible atomic.Uint64 // the last of its transactions that is committed
}

// openToWrite opens a file that there is. It leaves no lock where it fails.
func openToWrite(path string, opts *Options) (*boltFile, error) {
	b := new(boltFile)
	var err error
	b.DB, err = openFile(path, &bbolt.Options{
		Timeout:         lockTimeout,
		NoFreelistSync:  true,
		FreelistType:    bbolt.FreelistMapType,
		InitialMmapSize: opts.MapBytes,
		NoSync:          opts.noSync,
		OpenFile: func(name string, flag int, mode os.FileMode) (f *os.File, err error) {
			b.file, err = os.OpenFile(name, flag&^os.O_CREATE, mode)
			return b.file, err
		},
	})
	if err != nil {
		if b.file != nil {
			_ = b.file.Close() // and with it the lock that bbolt may hold still
		}
		return nil, err
	}
	return b, nil
}

// create makes an empty store under another name first, so that a file at path
// is always a whole one: an empty file there was damaged, and is not taken for
// a new store.
func create(path string, opts *Options) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".new-*")
	if err != nil {
		return err
	}
	tmp := f.Name()
	defer os.Remove(tmp)
	if err := f.Close(); err != nil {
		return err
	}
	db, err := bbolt.Open(tmp, 0o600, &bbolt.Options{NoFreelistSync: true, FreelistType: bbolt.FreelistMapType, NoSync: opts.noSync})
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range slices.Concat(allBuckets, laterBuckets) {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		epoch, err := newEpoch()
		if err != nil {
			return err
		}
		meta := tx.Bucket(metaBucket)
		return errors.Join(
			putSystem(meta),
			meta.Put(formatKey, number(format)),
			meta.Put(epochKey, number(epoch)),
			meta.Put(createdKey, number(uint64(time.Now().UnixMilli()))),
			meta.Put(sweptKey, number(0)),
		)
	})
	if err = errors.Join(err, db.Close()); err != nil {
		return err
	}
	// A link, unlike a rename, never replaces what another process has just
	// created. Not every file system has links.
	if err := os.Link(tmp, path); err != nil && !errors.Is(err, fs.ErrExist) {
		if err := os.Rename(tmp, path); err != nil {
			return err
		}
	}
	return syncFolder(dir)
}

// newEpoch draws the name of a new history.
func newEpoch() (uint64, error) {
	var b [8]byte
	for binary.BigEndian.Uint64(b[:]) == 0 {
		if _, err := rand.Read(b[:]); err != nil {
			return 0, err
		}
	}
	return binary.BigEndian.Uint64(b[:]), nil
}

// sameFile reports a file that was put in the place of f while that was waited
// for: a restore or a compaction has ended.
func sameFile(f *os.File, path string) error {
	has, err := f.Stat()
	if err != nil {
		return describe(path, err)
	}
	now, err := os.Stat(path)
	if err != nil {
		return describe(path, err)
	}
	if !os.SameFile(has, now) {
		return fmt.Errorf("%w: %s was replaced meanwhile; start again", storage.ErrInUse, path)
	}
	return nil
}

// upgrade makes a file of before one of this format, with all its buckets.
func (s *Store) upgrade() error {
	older := false
	err := s.db().View(func(tx *bbolt.Tx) error {
		f, _ := numberOf(tx.Bucket(metaBucket).Get(formatKey))
		older = f < format
		for _, name := range laterBuckets {
			older = older || tx.Bucket(name) == nil
		}
		return nil
	})
	if err != nil || !older {
		return describe(s.path, err)
	}
	return describe(s.path, s.db().Update(func(tx *bbolt.Tx) error {
		for _, name := range laterBuckets {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		if err := tx.Bucket(metaBucket).Put(formatKey, number(format)); err != nil {
			return err
		}
		s.db().visible.Store(uint64(tx.ID()))
		s.room.used = tx.Size()
		return nil
	}))
}

// inspect reads all of the file without changing it.
func inspect(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return describe(path, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return describe(path, err)
	}
	if info.Mode().IsRegular() && info.Size() == 0 {
		return describe(path, errors.New("it is empty"))
	}
	db, err := openFile(path, &bbolt.Options{Timeout: lockTimeout, ReadOnly: true})
	if err != nil {
		return err
	}
	defer db.Close()
	if info, err = f.Stat(); err != nil { // it may have grown before it was locked
		return describe(path, err)
	}
	defer readAhead(f, info.Size())()
	return describe(path, guard(func() error {
		if err := verify(f, info.Size(), db.Info().PageSize); err != nil {
			return err
		}
		return db.View(checkFormat)
	}))
}

// checkFormat reports what a bbolt file is, if it is not a store of this format.
func checkFormat(tx *bbolt.Tx) error {
	meta := tx.Bucket(metaBucket)
	if meta == nil {
		return errors.New("it is not a Gatehouse store")
	}
	f, ok := numberOf(meta.Get(formatKey))
	switch {
	case !ok || f == 0:
		return errors.New("it is not a Gatehouse store")
	case f > format:
		return fmt.Errorf("%w: its format is %d, known is %d; use that newer version of Gatehouse", storage.ErrNewer, f, format)
	}
	if e, ok := numberOf(meta.Get(epochKey)); !ok || e == 0 {
		return errors.New("it has no epoch")
	}
	if swept, ok := numberOf(meta.Get(sweptKey)); !ok || int64(swept) < 0 {
		return errors.New("it does not say what was swept")
	}
	for _, name := range allBuckets {
		if tx.Bucket(name) == nil {
			return fmt.Errorf("bucket %s is missing", name)
		}
	}
	return nil
}

func openFile(path string, opts *bbolt.Options) (*bbolt.DB, error) {
	var db *bbolt.DB
	err := guard(func() (err error) {
		db, err = bbolt.Open(path, 0o600, opts)
		return err
	})
	return db, describe(path, err)
}

// guard turns panics and faults of fn into errors.
func guard(fn func() error) (err error) {
	defer catchFaults()()
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r)
		}
	}()
	return fn()
}

// describe says what is wrong with the file at path.
func describe(path string, err error) error {
	var pathErr *fs.PathError
	var errno syscall.Errno
	switch {
	case err == nil:
		return nil
	case errors.Is(err, bolterrors.ErrTimeout):
		return fmt.Errorf("%w: %s", storage.ErrInUse, path)
	case errors.Is(err, storage.ErrNewer), errors.Is(err, storage.ErrCorrupt):
		return fmt.Errorf("store %s: %w", path, err)
	case errors.As(err, &pathErr), errors.As(err, &errno):
		return fmt.Errorf("open store %s: %w", path, err)
	}
	return fmt.Errorf("%w: %s: %w; %s", storage.ErrCorrupt, path, err, advice)
}
