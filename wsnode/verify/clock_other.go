//go:build !linux

package verify

import "time"

var started = time.Now()

// boottime is the time since the process's start by the monotonic clock, which
// on some systems stands still while the machine sleeps: there a fence is late
// by as long as the sleep.
func boottime() time.Duration { return time.Since(started) }
