//go:build !unix

package netloop

// Capacity is how many connections this process has descriptors for, or 0 if
// that is not known.
func Capacity() int { return 0 }
