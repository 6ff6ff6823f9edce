package wsnode

import (
	"sync"
	"testing"
	"unsafe"
)

// Whatever number of loops count, nothing is lost, and no two of the first ones
// write to the same line of the cache.
func TestSharded(t *testing.T) {
	var s sharded
	var wg sync.WaitGroup
	for range 3 * len(s.shards) {
		n := s.shard()
		wg.Go(func() {
			for range 10 {
				n.Add(1)
			}
		})
	}
	wg.Wait()
	if got, want := s.sum(), float64(30*len(s.shards)); got != want {
		t.Errorf("%v are counted, want %v", got, want)
	}
	if n := unsafe.Sizeof(s.shards[0]); n != 64 {
		t.Errorf("a shard has %d bytes, want 64", n)
	}
}
