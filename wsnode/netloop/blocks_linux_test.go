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
		var frames [5]int // since the queue was empty
		next := byte(0)
		for range 1000 {
			k := r.IntN(len(queues))
			q := &queues[k]
			switch r.IntN(6) {
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
			case 5:
				b := make([]byte, 1+r.IntN(3*blockBytes))
				for i := range b {
					b[i] = next
					next++
				}
				behind := 0
				if q.bytes == 0 {
					behind = r.IntN(len(b))
				}
				p.addFrame(q, NewFrame(b), behind)
				want[k] = append(want[k], b[behind:]...)
				frames[k]++
			}
			if len(want[k]) == 0 {
				frames[k] = 0
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
				// At most: a frame counts whole, and leaves the block before it as it is.
				blocks += (len(want[i])+2*blockBytes-1)/blockBytes + min(frames[i], 1+len(want[i])/leastShared)*4
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
			if p.all.at(i).shared != nil {
				t.Fatalf("seed %d: block %d still holds a frame", seed, i)
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

// Queues share what many are sent, and count it as their own all the same. What
// is shorter than that pays is copied.
func TestQueuesShareFrames(t *testing.T) {
	p := newBlocks(100)
	long, short := NewFrame(bytes.Repeat([]byte("l"), 2*blockBytes+1)), NewFrame([]byte("short"))
	queues := make([]queue, 10)
	for i := range queues {
		q := &queues[i]
		p.addFrame(q, long, 1)
		p.addFrame(q, short, 0)
		p.addFrame(q, long, 0)
		parts := p.front(q, int(q.bytes), make([][]byte, 0, 8))
		if len(parts) != 3 || &parts[0][0] != &long.b[1] || &parts[2][0] != &long.b[0] {
			t.Fatalf("%d parts, which are not the frame's own bytes", len(parts))
		}
		if got, want := bytes.Join(parts, nil), string(long.b[1:])+"short"+string(long.b); string(got) != want {
			t.Fatalf("%d bytes, want %d", len(got), len(want))
		}
		if want := (i + 1) * (3 + 1 + 3); p.used != want {
			t.Fatalf("%d blocks are used, want %d", p.used, want)
		}
	}
	for i := range queues {
		p.drop(&queues[i], int(queues[i].bytes)-1)
		if got := p.front(&queues[i], 10, make([][]byte, 0, 1)); string(got[0]) != "l" {
			t.Errorf("the last byte is %q", got[0])
		}
		p.clear(&queues[i])
	}
	if p.used != 0 {
		t.Errorf("%d blocks are used by no queue", p.used)
	}
}
