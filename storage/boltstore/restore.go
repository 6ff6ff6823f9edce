package boltstore

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/storage/internal/record"
)

// RestoreOptions say what Restore accepts.
type RestoreOptions struct {
	// System is of whom the backup must be, where the store at the path can't
	// tell; zero is anyone.
	System storage.SystemID
	// Foreign accepts the backup of another system. The store keeps being this
	// system's.
	Foreign bool
	// Progress, unless nil, is told how many bytes of all are read.
	Progress func(done, total int64)

	step func(name string) // for tests: may end the process
}

// Restored is what Restore has done.
type Restored struct {
	Backup storage.Backup
	Head   storage.Revision // at which the new history begins
	Kept   string           // where the store of before is; empty where there was none
}

// Restore puts the backup r in the place of the store at path, which no process
// may have open. The backup is verified whole, and the new store made beside the
// old one, before that is touched; whatever happens on the way leaves the one or
// the other.
//
// The store begins a new epoch: every token in it is revoked, no session is
// live, and the log of revocations is empty. Registered are the node instances
// that may have sockets of before; see storage.AfterRestore.
// Locks, credentials and edge keys are those of the backup. That tokens live on
// can't be asked for: what was redeemed since the backup would be redeemed
// again, and what was revoked would not be.
func Restore(path string, r io.Reader, opts RestoreOptions) (_ Restored, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("restore %s: %w", path, asFull(err))
		}
	}()
	if opts.step == nil {
		opts.step = func(string) {}
	}
	first := make([]byte, headerSize)
	n, err := io.ReadFull(r, first)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return Restored{}, err
	}
	h, err := parseHeader(first[:n])
	if err != nil {
		return Restored{}, err
	}
	old, err := take(path)
	if err != nil {
		return Restored{}, err
	}
	defer func() { err = errors.Join(err, old.release()) }()
	system := opts.System
	if old.system != (storage.SystemID{}) {
		system = old.system
	}
	if system == (storage.SystemID{}) {
		system = h.system
	}
	if h.system != system && !opts.Foreign {
		return Restored{}, fmt.Errorf("%w: it is of %s, and this is %s", storage.ErrForeign, h.system, system)
	}

	tmp, err := receive(path, r, first, &h, &opts)
	if tmp != "" {
		defer os.Remove(tmp) // it is gone already once all went well
	}
	if err != nil {
		return Restored{}, err
	}
	opts.step("received")
	out := Restored{Backup: h.backup(), Head: storage.Revision{Sequence: h.head.Sequence}}
	if out.Head.Epoch, err = newEpoch(); err != nil {
		return Restored{}, err
	}
	if err := begin(tmp, &h, out.Head.Epoch, system, old.registered()); err != nil {
		return Restored{}, err
	}
	opts.step("begun")
	if err := tryOpen(tmp); err != nil {
		return Restored{}, err
	}
	if _, err := syncFile(tmp); err != nil {
		return Restored{}, err
	}
	opts.step("written")
	if old.exists {
		out.Kept = path + ".before-restore-" + time.Now().UTC().Format("20060102T150405.000Z")
	}
	if err := old.replace(tmp, out.Kept); err != nil {
		return Restored{}, err
	}
	opts.step("replaced")
	return out, nil
}

// receive writes the pages of a backup to a file beside path, whose name it
// returns even with an error, and holds them against their sum.
func receive(path string, r io.Reader, first []byte, h *header, opts *RestoreOptions) (tmp string, err error) {
	f, err := createBeside(path, restoreWord)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sum := sha256.New()
	_, _ = sum.Write(first)
	buf := make([]byte, 1<<20)
	total := headerSize + h.pages + trailerSize
	for left := h.pages; left > 0; {
		part := buf[:min(int64(len(buf)), left)]
		if _, err := io.ReadFull(r, part); err != nil {
			return f.Name(), cutShort(err, total)
		}
		_, _ = sum.Write(part)
		if _, err := f.Write(part); err != nil {
			return f.Name(), err
		}
		if left -= int64(len(part)); opts.Progress != nil {
			opts.Progress(total-trailerSize-left, total)
		}
		opts.step("reading")
	}
	trailer := buf[:trailerSize]
	if _, err := io.ReadFull(r, trailer); err != nil {
		return f.Name(), cutShort(err, total)
	}
	if !bytes.Equal(trailer, sum.Sum(nil)) {
		return f.Name(), fmt.Errorf("it has another sum than it says (%w)", errDamaged)
	}
	if n, err := r.Read(buf[:1]); n > 0 || err == nil {
		return f.Name(), fmt.Errorf("it goes on after its end of %d bytes (%w)", total, errDamaged)
	} else if !errors.Is(err, io.EOF) {
		return f.Name(), err
	}
	if err := f.Sync(); err != nil {
		return f.Name(), err
	}
	return f.Name(), verifyBackup(f, h)
}

func cutShort(err error, total int64) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("it ends before its %d bytes (%w)", total, errDamaged)
	}
	return err
}

// verifyBackup verifies pages that are what was backed up: they may come from
// someone who can make sums.
func verifyBackup(f *os.File, h *header) error {
	if err := verify(f, h.pages, h.pageSize); err != nil {
		return fmt.Errorf("its pages are not sound: %w (%w)", err, errDamaged)
	}
	return nil
}

// registered is what the claimed store knows of the fleet; nil where it can't be
// read.
func (h *claim) registered() *storage.Registered {
	if h.db == nil {
		return nil
	}
	var out storage.Registered
	err := guard(func() error {
		return h.db.View(func(tx *bbolt.Tx) (err error) {
			out, err = registered(tx)
			return err
		})
	})
	if err != nil {
		return nil
	}
	return &out
}

func registered(tx *bbolt.Tx) (out storage.Registered, err error) {
	out.Head.Epoch, _ = numberOf(tx.Bucket(metaBucket).Get(epochKey))
	out.Head.Sequence = tx.Bucket(logBucket).Sequence()
	out.Instances, err = instancesOf(tx)
	return out, err
}

// begin begins a new history in the file of a backup.
func begin(path string, h *header, epoch uint64, system storage.SystemID, replaced *storage.Registered) error {
	db, err := openFile(path, &bbolt.Options{
		Timeout: lockTimeout, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType, InitialMmapSize: int(h.pages + h.pages/8),
	})
	if err != nil {
		return err
	}
	err = guard(func() error {
		return db.Update(func(tx *bbolt.Tx) error {
			if err := checkFormat(tx); err != nil {
				return err
			}
			backup, err := registered(tx)
			if err != nil {
				return err
			}
			if was := backup.Head; was != h.head {
				return fmt.Errorf("it ends at revision %d.%d, and its header says %d.%d (%w)", was.Epoch, was.Sequence, h.head.Epoch, h.head.Sequence, errDamaged)
			}
			for _, name := range ofHistory {
				if err := tx.DeleteBucket(name); err != nil && !errors.Is(err, bolterrors.ErrBucketNotFound) { // one of laterBuckets
					return err
				}
				if _, err := tx.CreateBucket(name); err != nil {
					return err
				}
			}
			for _, i := range storage.AfterRestore(backup, replaced, time.Now()) {
				v, err := record.EncodeInstance(&i)
				if err != nil {
					return err
				}
				if err := tx.Bucket(instancesBucket).Put(i.ID[:], v); err != nil {
					return err
				}
			}
			// Sequences go on, so that those of locks stay below the head.
			meta := tx.Bucket(metaBucket)
			return errors.Join(
				tx.Bucket(logBucket).SetSequence(h.head.Sequence),
				meta.Put(epochKey, number(epoch)),
				meta.Put(systemKey, system[:]),
			)
		})
	})
	if err != nil {
		return errors.Join(err, db.Close())
	}
	return closeTrimmed(db)
}

// tryOpen opens a store as an authority will, so that it does not find out that
// it can't.
func tryOpen(path string) error {
	s, err := Open(path, Options{AheadBytes: -1})
	if err != nil {
		return fmt.Errorf("what the backup holds: %w", err)
	}
	return s.Close()
}
