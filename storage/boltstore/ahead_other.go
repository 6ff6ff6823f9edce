//go:build !linux

package boltstore

import "os"

// readAhead does nothing: here it is left to the system.
func readAhead(*os.File, int64) (stop func()) { return func() {} }
