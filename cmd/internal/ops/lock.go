package ops

import (
	"errors"
	"fmt"
	"os"
)

// ErrLocked says that another process holds the lock.
var ErrLocked = errors.New("another process holds the lock")

// Lock takes the file for this process, until it is closed or the process ends.
// It does not wait, but returns ErrLocked while another has it.
func Lock(f *os.File) error {
	switch err := lock(f); {
	case err == nil:
		return nil
	case errors.Is(err, errHeld):
		return fmt.Errorf("%w: %s", ErrLocked, f.Name())
	default: // not every file system has such locks
		return fmt.Errorf("lock %s: %w", f.Name(), err)
	}
}
