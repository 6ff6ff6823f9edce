//go:build !unix

package netloop

// Capacity is how many connections this process has descriptors for beside
// reserve others, or 0 if that is not known.
func Capacity(reserve int) int { return 0 }
