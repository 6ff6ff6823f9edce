package boltstore

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// claim is the store at a path, kept from every other process, or nothing where
// there is none that any process could open.
type claim struct {
	path   string
	exists bool
	db     *bbolt.DB // nil where the file can't be opened
	why    error     // that is so
	system storage.SystemID
	folder io.Closer // the lock of the folder
}

// take takes the store at path, and the folder from other restores and
// compactions, which take it too: so what these have left is nobody's any more. A
// store that can't be opened needs no lock of its own.
func take(path string) (_ *claim, err error) {
	h := &claim{path: resolved(path)}
	if h.folder, err = lockFolder(filepath.Dir(h.path)); err != nil {
		return nil, err
	}
	if err := h.open(); err != nil {
		return nil, errors.Join(err, h.release())
	}
	if h.folder != nil || h.db != nil {
		for _, name := range leftovers(h.path) {
			_ = os.Remove(name)
		}
	}
	return h, nil
}

// open takes the store itself.
func (h *claim) open() error {
	path := h.path
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	h.exists = true
	switch err := inspect(path); {
	case errors.Is(err, storage.ErrCorrupt), errors.Is(err, storage.ErrNewer):
		h.why = err
		return nil
	case err != nil:
		return err
	}
	db, err := openToWrite(path, &Options{})
	if err != nil {
		return err
	}
	h.db = db.DB
	if err := sameFile(db.file, path); err != nil {
		return err
	}
	return db.View(func(tx *bbolt.Tx) error {
		h.system = systemOf(tx)
		return nil
	})
}

// resolved is where the store at path is: a link to it stays one when it is replaced.
func resolved(path string) string {
	if at, err := filepath.EvalSymlinks(path); err == nil {
		return at
	}
	return path // there is none yet, or opening it tells why
}

// leftovers are files that a restore or a compaction which was killed has left.
func leftovers(path string) (names []string) {
	for _, what := range []string{restoreWord, compactWord} {
		left, _ := filepath.Glob(besidePattern(path, what))
		names = append(names, left...)
	}
	return names
}

// release lets other processes have the store, once.
func (h *claim) release() error {
	var errs []error
	if h.db != nil {
		errs = append(errs, h.db.Close())
	}
	if h.folder != nil {
		errs = append(errs, h.folder.Close())
	}
	h.db, h.folder = nil, nil
	return errors.Join(errs...)
}

const (
	restoreWord = "restore"
	compactWord = "compact"
)

// besidePattern names files in which something to replace the one at path is
// made, for os.CreateTemp and filepath.Glob.
func besidePattern(path, what string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+"."+what+"-*")
}

func createBeside(path, what string) (*os.File, error) {
	return os.CreateTemp(filepath.Dir(path), filepath.Base(besidePattern(path, what)))
}

// replace puts the whole store tmp in the place of what is claimed, in one step:
// whoever looks finds the one or the other. keep, unless empty, is where the old
// one stays.
func (h *claim) replace(tmp, keep string) error {
	like := h.path
	if !h.exists {
		like = filepath.Dir(h.path)
	}
	if err := ownAs(tmp, like); err != nil {
		return err
	}
	if !h.exists {
		if err := os.Link(tmp, h.path); errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%w: %s was made meanwhile; start again", storage.ErrInUse, h.path)
		} else if err == nil {
			return errors.Join(os.Remove(tmp), syncFolder(filepath.Dir(h.path)))
		}
	}
	if runtime.GOOS == "windows" { // where an open file can't be replaced
		if err := h.release(); err != nil {
			return err
		}
	}
	moved := false
	if keep != "" && h.exists {
		// Not every file system has links. Without one there is a moment in which
		// nothing is at the path; an authority does not start on that.
		if err := os.Link(h.path, keep); err != nil {
			if err := os.Rename(h.path, keep); err != nil {
				return err
			}
			moved = true
		}
	}
	if err := os.Rename(tmp, h.path); err != nil {
		if moved {
			err = errors.Join(err, os.Rename(keep, h.path))
		}
		return err
	}
	return syncFolder(filepath.Dir(h.path))
}

// syncFolder makes names that were changed in a folder last.
func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// closeTrimmed closes a file and takes off what bbolt has grown it by for later:
// a store takes room that it finds for room that is written.
func closeTrimmed(db *bbolt.DB) error {
	var used int64
	path := db.Path()
	err := db.View(func(tx *bbolt.Tx) error {
		used = tx.Size()
		return nil
	})
	if err := errors.Join(err, db.Sync(), db.Close()); err != nil {
		return err
	}
	return os.Truncate(path, used)
}

// syncFile makes what other handles wrote to the file at path last, and returns
// its size.
func syncFile(path string) (int64, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	info, err := f.Stat()
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// asFull marks an error that a full disk has caused.
func asFull(err error) error {
	if isFull(err) {
		return fmt.Errorf("%w: %w", storage.ErrFull, err)
	}
	return err
}
