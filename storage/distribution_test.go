package storage_test

import (
	"fmt"
	"testing"

	"github.com/gatehouse-ws/gatehouse/storage"
)

func TestDistribution(t *testing.T) {
	d := storage.NewDistribution(storage.PowersOfTwo(-1, 2))
	for _, v := range []float64{0, 0.5, 0.6, 1, 3, 4, 5, 1000} {
		d.Observe(v)
	}
	kept := d.Clone()
	d.Observe(1)
	if got, want := fmt.Sprint(kept), "{[0.5 1 2 4] [2 2 0 2 2] 1014.1}"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if d.Counts[1] != 3 || d.Sum != 1015.1 {
		t.Errorf("after another value: %v", d)
	}
}
