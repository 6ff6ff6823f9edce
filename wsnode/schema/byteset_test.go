package schema

import (
	"bytes"
	"testing"
)

func TestSpanOfEveryLength(t *testing.T) {
	set := newByteSet("az", "-")
	for size := range 20 {
		for stop := range size + 1 {
			b := bytes.Repeat([]byte("a-z"), 7)[:size]
			if stop < size {
				b[stop] = '_'
			}
			if n := set.span(b); n != stop {
				t.Errorf("span(%q) = %d, want %d", b, n, stop)
			}
		}
	}
}
