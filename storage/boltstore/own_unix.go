//go:build unix

package boltstore

import (
	"fmt"
	"os"
	"syscall"
)

// ownAs gives the file at path the owner of another, so that an authority can
// open what root has restored.
func ownAs(path, like string) error {
	has, err := os.Stat(path)
	if err != nil {
		return err
	}
	want, err := os.Stat(like)
	if err != nil {
		return err
	}
	h, ok1 := has.Sys().(*syscall.Stat_t)
	w, ok2 := want.Sys().(*syscall.Stat_t)
	if !ok1 || !ok2 || h.Uid == w.Uid && h.Gid == w.Gid {
		return nil
	}
	if err := os.Chown(path, int(w.Uid), int(w.Gid)); err != nil {
		return fmt.Errorf("give it the owner of %s: %w; run this as that user, or as root", like, err)
	}
	return nil
}
