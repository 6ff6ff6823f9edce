//go:build !linux

package main

import "time"

// coreTime needs Linux.
func coreTime(cores) (used time.Duration, ok bool) { return 0, false }
