package storage

import (
	"math"
	"slices"
	"sort"
)

// Distribution tells how the values of something lie since the start, for
// metrics. It is not safe for concurrent use.
type Distribution struct {
	Bounds []float64 // inclusive and rising; never changed
	Counts []uint64  // of the values up to each bound and above the one before it; the last are above all
	Sum    float64
}

// NewDistribution is an empty one with these bounds.
func NewDistribution(bounds []float64) Distribution {
	return Distribution{Bounds: bounds, Counts: make([]uint64, len(bounds)+1)}
}

// Observe adds a value.
func (d *Distribution) Observe(v float64) {
	d.Counts[sort.SearchFloat64s(d.Bounds, v)]++
	d.Sum += v
}

// Clone is a copy that stays as it is.
func (d *Distribution) Clone() Distribution {
	return Distribution{d.Bounds, slices.Clone(d.Counts), d.Sum}
}

// PowersOfTwo are the bounds 2^from to 2^to: each is also one of Prometheus's
// native histograms, of every resolution.
func PowersOfTwo(from, to int) []float64 {
	bounds := make([]float64, 0, to-from+1)
	for e := from; e <= to; e++ {
		bounds = append(bounds, math.Ldexp(1, e))
	}
	return bounds
}

// CommitBounds are those of Stats: seconds from 122 µs to 16 s, and calls that
// share a commit.
var CommitBounds = struct{ Seconds, Calls []float64 }{PowersOfTwo(-13, 4), PowersOfTwo(0, 11)}
