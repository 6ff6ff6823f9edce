package netloop

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// Queues give back what was added, in its order, whatever is dropped off their
// fronts and cut off their ends, and leave no block behind.
func TestQueues(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(2, seed))
		p := newBlocks(100)
		var queues [5]queue
		var want [5][]byte
		next := byte(0)
		for range 1000 {
			k := r.IntN(len(queues))
			q := &queues[k]
			switch r.IntN(5) {
			case 0, 1:
				b := make([]byte, r.IntN(3*blockBytes))
				for i := range b {
					b[i] = next
					next++
				}
				p.add(q, b)
				want[k] = append(want[k], b...)
			case 2, 3:
				n := r.IntN(len(want[k]) + 1)
				if r.IntN(4) == 0 {
					n -= n % blockBytes
				}
				p.drop(q, n)
				want[k] = want[k][n:]
			case 4:
				n := r.IntN(len(want[k]) + 1)
				p.cut(q, n)
				want[k] = want[k][:n]
			}
			n := r.IntN(len(want[k]) + 1)
			got := bytes.Join(p.front(q, n, make([][]byte, 0, 64)), nil)
			if int(q.bytes) != len(want[k]) || !bytes.Equal(got, want[k][:n]) {
				t.Fatalf("seed %d: %d bytes, want %d; their front is not what was added", seed, q.bytes, len(want[k]))
			}
			if len(want[k]) == 0 && *q != (queue{}) {
				t.Fatalf("seed %d: an empty queue is %+v", seed, *q)
			}
			blocks := 0
			for i := range queues {
				blocks += (len(want[i]) + 2*blockBytes - 1) / blockBytes // at most
			}
			if p.used > blocks || p.room() != max(100-p.used, 0)*blockBytes {
				t.Fatalf("seed %d: %d blocks for what needs at most %d, room for %d", seed, p.used, blocks, p.room())
			}
		}
		for i := range queues {
			p.clear(&queues[i])
		}
		held := 0
		for i := uint32(1); i < p.end; i++ {
			if p.all.at(i).b != nil {
				held++
			}
		}
		if p.used != 0 || held > keepBlocks {
			t.Fatalf("seed %d: %d blocks are used, %d hold memory", seed, p.used, held)
		}
	}
}

func TestFrontIsBounded(t *testing.T) {
	p := newBlocks(100)
	var q queue
	p.add(&q, make([]byte, 10*blockBytes))
	if parts := p.front(&q, 10*blockBytes, make([][]byte, 0, 4)); len(parts) != 4 {
		t.Errorf("%d parts where there is room for 4", len(parts))
	}
}
