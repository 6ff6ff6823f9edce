package boltstore

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// room grows the file. It writes zeros where the file ends, before bbolt needs
// the space: a sync after a write into space that was never written costs twice
// as much, and a disk that is full is found out before a transaction has begun
// to write, where it is cheap to give up. Reserving space without writing it
// does not help the sync.
type room struct {
	file  *os.File
	grow  func(f *os.File, at int64) error
	ahead int64 // to be ready when the store is idle
	size  int64 // of the file
	used  int64 // of the file, by bbolt
	full  bool  // the last growth found no space
}

const (
	growBytes = 256 << 10
	// reserveBytes are left by all but Sweep, so that a full store can still
	// sweep itself free.
	reserveBytes = 1 << 20
)

var zeros [growBytes]byte

// writeZeros adds growBytes at the file's end.
func writeZeros(f *os.File, at int64) error {
	_, err := f.WriteAt(zeros[:], at)
	return err
}

// measure looks how long the file is: bbolt may have grown it too.
func (r *room) measure() error {
	info, err := r.file.Stat()
	if err != nil {
		return err
	}
	r.size = info.Size()
	return nil
}

// wanting reports whether space should be made ready while nobody waits.
func (r *room) wanting() bool { return !r.full && r.size-r.used < r.ahead }

// fillAhead makes one step ready. A full disk is nobody's error yet.
func (r *room) fillAhead() error {
	err := r.extend(r.used + r.ahead)
	if isFull(err) {
		return nil
	}
	return err
}

// ensure makes room for a transaction that writes that many bytes.
func (r *room) ensure(bytes int64) error {
	for r.size-r.used < bytes {
		if err := r.extend(r.used + bytes); err != nil {
			return err
		}
	}
	return nil
}

// extend grows the file by one step towards size to.
func (r *room) extend(to int64) error {
	if err := r.measure(); err != nil || r.size >= to {
		return err
	}
	if err := r.grow(r.file, r.size); err != nil {
		r.full = isFull(err)
		return err
	}
	if err := r.file.Sync(); err != nil {
		return err
	}
	r.full = false
	return r.measure()
}

// isFull reports whether err is a write that found no space: of the disk, of a
// quota, or of the largest file allowed. A sync that finds none is another
// matter, for what it had to write is lost.
func isFull(err error) bool {
	var p *fs.PathError
	return errors.As(err, &p) && p.Op == "write" &&
		(errors.Is(p.Err, syscall.ENOSPC) || errors.Is(p.Err, syscall.EDQUOT) || errors.Is(p.Err, syscall.EFBIG))
}
