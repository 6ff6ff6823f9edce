package boltstore

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"time"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// Backup writes what is committed now to w, while the store goes on working:
// what is committed meanwhile is not in it. begun is called once, before the
// first byte. All pages are read and verified first, so that a damaged store is
// found out while it can still be looked at.
//
// The pages of the backup's moment are kept until it has ended: what is written
// meanwhile makes the file grow. A file that is about to outgrow
// Options.MapBytes has to wait for its readers; the backup then gives way, with
// ErrBackupCut.
func (s *Store) Backup(ctx context.Context, w io.Writer, begun func(storage.Backup)) error {
	s.copying.RLock() // the pages are read past bbolt, from the file as it is now
	defer s.copying.RUnlock()
	err := s.view(ctx, func(tx *bbolt.Tx) error {
		if err := s.sound(ctx, tx); err != nil {
			return err
		}
		h := header{
			pageSize: s.pageSize, system: s.system, takenAt: time.Now(), pages: tx.Size(),
			head: storage.Revision{Epoch: s.epoch, Sequence: tx.Bucket(logBucket).Sequence()},
		}
		begun(h.backup())
		out := &backupWriter{ctx: ctx, store: s, w: w, sum: sha256.New(), began: h.pages, most: mostUsed(h.pages, int64(s.opts.MapBytes))}
		if _, err := out.Write(appendHeader(nil, &h)); err != nil {
			return err
		}
		if _, err := tx.WriteTo(out); err != nil {
			if out.err != nil { // which bbolt may have lost
				return out.err
			}
			return err
		}
		_, err := w.Write(out.sum.Sum(nil))
		return err
	})
	if err != nil {
		return fmt.Errorf("back up %s: %w", s.path, err)
	}
	return nil
}

// sound reads all that tx sees past bbolt, and reports the first page that is not
// sound. copying is held: the file stays.
func (s *Store) sound(ctx context.Context, tx *bbolt.Tx) error {
	err := verifyTx(&reader{ctx, s.db().file}, tx, s.pageSize)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return describe(s.path, err)
}

// reader is a file to be read while ctx lasts.
type reader struct {
	ctx context.Context
	io.ReaderAt
}

func (r *reader) ReadAt(b []byte, at int64) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.ReaderAt.ReadAt(b, at)
}

// backupWriter sums what goes through it, and ends when it must.
type backupWriter struct {
	ctx         context.Context
	store       *Store
	w           io.Writer
	sum         hash.Hash
	began, most int64 // bytes in use: when the backup began, and beyond which it gives way
	err         error
}

func (b *backupWriter) Write(p []byte) (n int, err error) {
	used := b.store.used.Load()
	switch {
	case b.ctx.Err() != nil:
		err = b.ctx.Err()
	case used > b.began && used > b.most:
		err = fmt.Errorf("%w: its file is about to outgrow its address space, which waits for readers; try again in a moment", storage.ErrBackupCut)
	default:
		_, _ = b.sum.Write(p)
		n, err = b.w.Write(p)
	}
	b.err = err
	return n, err
}

// mostUsed is how much of the file may be in use before bbolt is about to map it
// anew, less what a few groups take.
func mostUsed(used, mapBytes int64) int64 {
	const step = 1 << 30 // of bbolt's, above as much
	mapped := max(used, mapBytes)
	if mapped > step {
		mapped = (mapped + step - 1) / step * step
	} else {
		size := int64(1 << 15)
		for size < mapped {
			size *= 2
		}
		mapped = size
	}
	return mapped - min(mapped/16, 64<<20)
}

// ensureSystem gives an installation's id to a file of before there were any. A
// full disk leaves it without.
func (s *Store) ensureSystem() error {
	if s.system != (storage.SystemID{}) {
		return nil
	}
	var id int
	var system storage.SystemID
	err := guard(func() error {
		return s.db().Update(func(tx *bbolt.Tx) error {
			id = tx.ID()
			err := putSystem(tx.Bucket(metaBucket))
			system = systemOf(tx)
			return err
		})
	})
	if isFull(err) {
		return nil
	}
	if err != nil {
		return describe(s.path, err)
	}
	s.system = system
	s.db().visible.Store(uint64(id))
	return nil
}

func putSystem(meta *bbolt.Bucket) error {
	var id storage.SystemID
	if _, err := rand.Read(id[:]); err != nil {
		return err
	}
	return meta.Put(systemKey, id[:])
}

// systemOf is the installation's id, or zero in a file without.
func systemOf(tx *bbolt.Tx) (id storage.SystemID) {
	copy(id[:], tx.Bucket(metaBucket).Get(systemKey))
	return id
}

// System is the id of the installation whose store this is.
func (s *Store) System() storage.SystemID { return s.system }
