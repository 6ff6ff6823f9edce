package boltstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// compactTx bounds the bytes that one transaction of Compact writes.
const compactTx = 4 << 20

// Compact writes the store at path, which no process may have open, anew and in
// order, without the room that it no longer uses, and puts that in its place. It
// changes nothing else, and whatever happens on the way leaves the one or the
// other. progress, unless nil, is told how many bytes are written, of at most
// how many.
func Compact(path string, progress func(done, total int64)) (storage.Compacted, error) {
	return compact(path, progress, func(string) {})
}

func compact(path string, progress func(done, total int64), step func(string)) (out storage.Compacted, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("compact %s: %w", path, asFull(err))
		}
	}()
	info, err := os.Stat(path)
	if err != nil {
		return out, err
	}
	out.Before = info.Size()
	old, err := take(path)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, old.release()) }()
	if old.db == nil {
		return out, old.why
	}
	tmp, size, err := writeCompact(context.Background(), old.path, old.db, out.Before, progress, step)
	if err != nil {
		return out, err
	}
	defer os.Remove(tmp) // it is gone already once all went well
	out.After = size
	step("written")
	if err := old.replace(tmp, ""); err != nil {
		return out, err
	}
	step("replaced")
	return out, nil
}

// Compact does to the open store what the function does to one that is closed. Calls
// that write wait until it has ended, those that read do not. Where ctx ends before
// the new file is in its place, nothing has changed. It returns ErrBusy while a
// backup is under way or another Compact, and errors.ErrUnsupported where an open
// file can't be replaced.
func (s *Store) Compact(ctx context.Context, progress func(done, total int64)) (storage.Compacted, error) {
	return s.compact(ctx, progress, func(string) {})
}

func (s *Store) compact(ctx context.Context, progress func(done, total int64), step func(string)) (out storage.Compacted, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("compact %s: %w", s.path, asFull(err))
		}
	}()
	if runtime.GOOS == "windows" {
		return out, fmt.Errorf("a file that is open: %w", errors.ErrUnsupported)
	}
	if !s.copying.TryLock() {
		return out, storage.ErrBusy
	}
	defer s.copying.Unlock()
	// Before writers wait: a copy is sound though what it was copied from is not, and
	// lacks what that has lost.
	if err := s.view(ctx, func(tx *bbolt.Tx) error { return s.sound(ctx, tx) }); err != nil {
		return out, err
	}
	c := &call{done: make(chan struct{}), alone: func() (err error) {
		out, err = s.compactOpen(ctx, progress, step)
		return err
	}}
	if err := s.enqueue(ctx, c); err != nil {
		return out, err
	}
	<-c.done
	return out, c.err
}

// compactOpen runs in the committer.
func (s *Store) compactOpen(ctx context.Context, progress func(done, total int64), step func(string)) (out storage.Compacted, err error) {
	if err := ctx.Err(); err != nil {
		return out, err // it has ended in the queue
	}
	old := claim{path: s.path, exists: true}
	if old.folder, err = lockFolder(filepath.Dir(s.path)); err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, old.release()) }()
	for _, name := range leftovers(s.path) {
		_ = os.Remove(name)
	}
	if err := s.room.measure(); err != nil {
		return out, err
	}
	out.Before = s.room.size
	tmp, size, err := writeCompact(ctx, s.path, s.db().DB, out.Before, progress, step)
	if err != nil {
		return out, err
	}
	defer os.Remove(tmp)
	out.After = size
	if err := ctx.Err(); err != nil {
		return out, err
	}
	to, err := openToWrite(tmp, &s.opts)
	if err != nil {
		return out, err
	}
	step("written")
	err = old.replace(tmp, "")
	if err != nil && sameFile(s.db().file, s.path) == nil { // the old one is still there
		return out, errors.Join(err, to.Close())
	}
	s.moveTo(to)
	if err != nil { // whether this file or the old one is found after a power cut, nobody knows
		s.fail(err)
		return out, s.Err()
	}
	step("replaced")
	return out, nil
}

// moveTo goes on with a file that holds what the store does. The old one is closed
// once its readers have ended.
func (s *Store) moveTo(to *boltFile) {
	old := s.db()
	s.room.close()
	s.room = newRoom(to.file, s.path, &s.opts)
	err := to.View(func(tx *bbolt.Tx) error {
		to.visible.Store(uint64(tx.ID()))
		s.room.used = tx.Size()
		s.used.Store(tx.Size())
		return nil
	})
	if err = errors.Join(err, s.room.measure()); err != nil {
		s.fail(err)
	}
	s.moving.Lock()
	s.file.Store(to)
	s.moving.Unlock()
	s.leaving.Go(func() {
		for old.Stats().OpenTxN > 0 { // Close holds up who ends reading until the last has
			time.Sleep(rest)
		}
		_ = old.Close() // nothing of it is wanted any more
	})
}

// writeCompact writes the store at path, which is open as from, to a file tmp beside
// it, which it verifies and the caller removes, and of which after is the size.
func writeCompact(ctx context.Context, path string, from *bbolt.DB, size int64, progress func(done, total int64), step func(string)) (tmp string, after int64, err error) {
	f, err := createBeside(path, compactWord)
	if err != nil {
		return "", 0, err
	}
	tmp = f.Name()
	defer func() {
		if err != nil {
			_ = os.Remove(tmp)
		}
	}()
	if err := f.Close(); err != nil {
		return tmp, 0, err
	}
	if err := copyTo(ctx, tmp, from, int(size), progress, step); err != nil {
		return tmp, 0, err
	}
	step("copied")
	if after, err = syncFile(tmp); err != nil {
		return tmp, 0, err
	}
	return tmp, after, inspect(tmp)
}

// copyTo copies what a store holds to an empty file, in order, while ctx lasts.
func copyTo(ctx context.Context, tmp string, from *bbolt.DB, mapBytes int, progress func(done, total int64), step func(string)) error {
	var file *os.File
	to, err := bbolt.Open(tmp, 0o600, &bbolt.Options{
		OpenFile: func(name string, flag int, mode os.FileMode) (_ *os.File, err error) {
			file, err = os.OpenFile(name, flag, mode)
			return file, err
		},
		NoFreelistSync: true, FreelistType: bbolt.FreelistMapType, PageSize: from.Info().PageSize, InitialMmapSize: mapBytes,
		NoSync: true, NoGrowSync: true, // it is synced in the end
	})
	if err != nil {
		return err
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() { // ends by stop
		defer close(done)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			if info, err := os.Stat(tmp); err == nil && progress != nil {
				progress(info.Size(), int64(mapBytes))
			}
		}
	}()
	closed := make(chan struct{})
	goOn := context.AfterFunc(ctx, func() { // what is written next fails
		_ = file.Close()
		close(closed)
	})
	step("copying")
	err = guard(func() error { return bbolt.Compact(to, from, compactTx) })
	close(stop)
	<-done
	if !goOn() {
		<-closed
		_ = to.Close() // as far as it can be
		return ctx.Err()
	}
	if err != nil {
		return errors.Join(err, to.Close())
	}
	return closeTrimmed(to)
}
