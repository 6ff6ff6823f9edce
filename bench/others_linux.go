package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"
)

// coreTime is the CPU time that was used on the cores of the run since the
// machine's start, by anyone: this run, other programs, the kernel, and the
// host of a virtual machine. ok is false where it cannot be told.
func coreTime(c cores) (used time.Duration, ok bool) {
	if !c.pinned {
		return 0, false
	}
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, false
	}
	found := 0
	for line := range bytes.Lines(text) {
		fields := bytes.Fields(line)
		if len(fields) < 9 {
			continue
		}
		name := string(fields[0])
		if name != fmt.Sprint("cpu", c.server) && name != fmt.Sprint("cpu", c.load) {
			continue
		}
		found++
		// user, nice, system, idle, iowait, irq, softirq, steal, in hundredths of a second (proc_stat(5))
		for _, i := range []int{1, 2, 3, 6, 7, 8} {
			ticks, err := strconv.ParseInt(string(fields[i]), 10, 64)
			if err != nil {
				return 0, false
			}
			used += time.Duration(ticks) * 10 * time.Millisecond
		}
	}
	return used, found == 2
}
