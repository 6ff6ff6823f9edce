//go:build !linux

package boltstore

import "os"

// openDirect returns nil: there are no direct writes here.
func openDirect(string) *os.File { return nil }
