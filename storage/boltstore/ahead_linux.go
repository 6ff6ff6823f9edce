package boltstore

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// readAhead has the system read a file, in the order of the disk, until stop is
// called. Who reads its pages one by one, as trees of them go, would else wait
// for each: where none is in memory, a hundred times as long.
func readAhead(f *os.File, size int64) (stop func()) {
	const step = 128 << 10 // the system reads no more at once, whatever it is asked
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil || uint64(size) > uint64(info.Totalram)*uint64(info.Unit)/2 {
		return func() {} // what is read ahead would be gone before it is wanted
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for at := int64(0); at < size; at += step {
			select {
			case <-done:
				return
			default:
			}
			if unix.Fadvise(int(f.Fd()), at, step, unix.FADV_WILLNEED) != nil {
				return // then it is slow, no more
			}
		}
	})
	return func() {
		close(done)
		wg.Wait()
	}
}
