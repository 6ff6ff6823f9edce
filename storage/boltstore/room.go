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
	file   *os.File
	direct *os.File // the same, past the page cache: at a fifth of the CPU. nil where that can't be had
	grow   func(f *os.File, at int64) error
	zeros  []byte
	ahead  int64 // to be ready when the store is idle
	size   int64 // of the file
	used   int64 // of the file, by bbolt
	full   bool  // the last growth found no space
}

const (
	growBytes = 1 << 20
	// reserveBytes are left by all but Sweep, so that a full store can still
	// sweep itself free.
	reserveBytes = 1 << 20
	// alignBytes is what direct writes must be aligned to.
	alignBytes = 4096
)

// newRoom is of the open file at path. Its bounds are yet to be set.
func newRoom(file *os.File, path string, opts *Options) room {
	return room{file: file, direct: openDirect(path), grow: opts.grow, ahead: opts.AheadBytes}
}

// writeZeros adds growBytes at the file's end.
func (r *room) writeZeros(at int64) error {
	if r.grow != nil {
		return r.grow(r.file, at)
	}
	if r.zeros == nil {
		r.zeros = make([]byte, growBytes)
	}
	if r.direct != nil {
		_, err := r.direct.WriteAt(r.zeros, at)
		if !errors.Is(err, syscall.EINVAL) {
			return err
		}
		r.close() // a file system, or an alignment, that direct writes can't do with
	}
	_, err := r.file.WriteAt(r.zeros, at)
	return err
}

func (r *room) close() {
	if r.direct != nil {
		_ = r.direct.Close() // it was synced through file
		r.direct = nil
	}
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
		had := r.size
		if err := r.extend(r.used + bytes); err != nil || r.size == had {
			return err // bbolt can still grow the file as it needs
		}
	}
	return nil
}

// extend grows the file by one step towards size to.
func (r *room) extend(to int64) error {
	if err := r.measure(); err != nil || r.size >= to {
		return err
	}
	at := (r.size + alignBytes - 1) &^ (alignBytes - 1)
	if err := r.writeZeros(at); err != nil {
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
