//go:build unix

package netloop

import "golang.org/x/sys/unix"

// Capacity is how many connections this process has descriptors for beside
// reserve others, at least one, or 0 if that is not known. Go raises the soft
// limit to the hard one at start.
func Capacity(reserve int) int {
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) != nil {
		return 0
	}
	have := int(min(uint64(l.Cur), 1<<30))
	return max(have-reserve, 1)
}
