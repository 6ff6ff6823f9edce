//go:build unix

package boltstore

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// lockFolder keeps a folder from whoever else locks it, until it is closed or the
// process ends. It is nil where folders can't be locked.
func lockFolder(dir string) (io.Closer, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	switch err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case err == nil:
		return d, nil
	case errors.Is(err, unix.EWOULDBLOCK):
		return nil, errors.Join(fmt.Errorf("%w: a restore or a compaction is under way in %s", storage.ErrInUse, dir), d.Close())
	default: // not every file system has such locks
		return nil, d.Close()
	}
}
