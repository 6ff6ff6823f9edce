package boltstore

import (
	"os"
	"syscall"
)

// openDirect opens the file at path for writing past the page cache, or returns
// nil.
func openDirect(path string) *os.File {
	f, err := os.OpenFile(path, os.O_WRONLY|syscall.O_DIRECT, 0)
	if err != nil {
		return nil
	}
	return f
}
