//go:build unix

package netloop

import "golang.org/x/sys/unix"

// spareDescriptors are left to listeners, logs, files and the way to the
// authority.
const spareDescriptors = 100

// Capacity is how many connections this process has descriptors for, or 0 if
// that is not known. Go raises the soft limit to the hard one at start.
func Capacity() int {
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) != nil {
		return 0
	}
	return int(min(max(uint64(l.Cur), spareDescriptors+1)-spareDescriptors, 1<<30))
}
