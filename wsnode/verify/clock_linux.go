package verify

import (
	"time"

	"golang.org/x/sys/unix"
)

// boottime is the time since the machine's start, sleep included, so that a
// node that was suspended knows it. What a paused virtual machine hides from
// its guest it hides here too.
func boottime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("CLOCK_BOOTTIME: " + err.Error()) // Linux 2.6.39 and later have it
	}
	return time.Duration(ts.Nano())
}
