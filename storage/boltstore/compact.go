package boltstore

import (
	"errors"
	"fmt"
	"os"
	"time"

	"go.etcd.io/bbolt"
)

// Compacted is what Compact has done.
type Compacted struct{ Before, After int64 } // bytes of the file

// compactTx bounds the bytes that one transaction of Compact writes.
const compactTx = 4 << 20

// Compact writes the store at path, which no process may have open, anew and in
// order, without the room that it no longer uses, and puts that in its place. It
// changes nothing else, and whatever happens on the way leaves the one or the
// other. progress, unless nil, is told how many bytes are written, of at most
// how many.
func Compact(path string, progress func(done, total int64)) (Compacted, error) {
	return compact(path, progress, func(string) {})
}

func compact(path string, progress func(done, total int64), step func(string)) (out Compacted, err error) {
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
	f, err := createBeside(path, compactWord)
	if err != nil {
		return out, err
	}
	tmp := f.Name()
	defer os.Remove(tmp) // it is gone already once all went well
	if err := f.Close(); err != nil {
		return out, err
	}
	if err := copyTo(tmp, old.db, int(out.Before), progress, step); err != nil {
		return out, err
	}
	step("copied")
	if out.After, err = syncFile(tmp); err != nil {
		return out, err
	}
	if err := inspect(tmp); err != nil {
		return out, err
	}
	step("written")
	if err := old.replace(tmp, ""); err != nil {
		return out, err
	}
	step("replaced")
	return out, nil
}

// copyTo copies what a store holds to an empty file, in order.
func copyTo(tmp string, from *bbolt.DB, mapBytes int, progress func(done, total int64), step func(string)) error {
	to, err := bbolt.Open(tmp, 0o600, &bbolt.Options{
		NoFreelistSync: true, FreelistType: bbolt.FreelistMapType, NoSync: true, PageSize: from.Info().PageSize, InitialMmapSize: mapBytes,
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
	step("copying")
	err = guard(func() error { return bbolt.Compact(to, from, compactTx) })
	close(stop)
	<-done
	if err != nil {
		return errors.Join(err, to.Close())
	}
	return closeTrimmed(to)
}
