package netloop

import "sync/atomic"

// blockBytes is what one block holds.
const blockBytes = 4096

// block is a piece of memory for what the kernel did not take, or stands for a
// frame that other queues have too. The next block of its queue, or of the free
// ones, is a number and no pointer.
type block struct {
	b      *[blockBytes]byte // nil while the block is unused and its memory given back, or stands for a frame
	shared *Frame
	next   uint32
	end    uint32 // where its bytes end
}

// bytes are those that the block holds.
func (b *block) bytes() []byte {
	if b.shared != nil {
		return b.shared.b[:b.end]
	}
	return b.b[:b.end]
}

// takes is how many blocks it counts as: a frame as many as its copy would take.
func (b *block) takes() int {
	if b.shared != nil {
		return (len(b.shared.b) + blockBytes - 1) / blockBytes
	}
	return 1
}

// blocks are what all queues of a loop are made of, bounded.
type blocks struct {
	all  table[block]
	used int
	max  int
	free uint32 // list of those with memory
	bare uint32 // list of those without
	kept int    // length of free
	end  uint32 // first number that was never used

	held atomic.Int64 // used, for whoever counts from elsewhere
}

// keepBlocks is how many unused blocks keep their memory.
const keepBlocks = 64

// queue is bytes in blocks. The zero queue is empty.
type queue struct {
	head, tail uint32
	from       uint32 // where the bytes begin in head
	bytes      uint32
}

func newBlocks(most int) *blocks { return &blocks{max: most, end: 1} }

// room is how many bytes all queues may yet take together.
func (p *blocks) room() int { return max(p.max-p.used, 0) * blockBytes }

// take is a block for a frame, or with memory for bytes.
func (p *blocks) take(f *Frame) uint32 {
	i := p.free
	switch {
	case i != 0 && f == nil:
		p.free = p.all.at(i).next
		p.kept--
	case p.bare != 0:
		i = p.bare
		p.bare = p.all.at(i).next
	default:
		if int(p.end) >= len(p.all.chunks)*chunkSize {
			p.all.grow()
		}
		i = p.end
		p.end++
	}
	b := p.all.at(i)
	b.next, b.end, b.shared = 0, 0, f
	if b.b == nil && f == nil {
		b.b = new([blockBytes]byte)
	}
	p.used += b.takes()
	p.held.Store(int64(p.used))
	return i
}

func (p *blocks) give(i uint32) {
	b := p.all.at(i)
	p.used -= b.takes()
	p.held.Store(int64(p.used))
	if b.shared == nil && p.kept < keepBlocks {
		b.next, p.free = p.free, i
		p.kept++
		return
	}
	b.b, b.shared, b.next, p.bare = nil, nil, p.bare, i
}

// append makes a block the last of a queue.
func (p *blocks) append(q *queue, i uint32) {
	if q.tail == 0 {
		q.head, q.from = i, 0
	} else {
		p.all.at(q.tail).next = i
	}
	q.tail = i
}

// add appends to a queue, whatever room there is.
func (p *blocks) add(q *queue, b []byte) {
	q.bytes += uint32(len(b))
	for len(b) > 0 {
		if q.tail == 0 || p.all.at(q.tail).shared != nil || p.all.at(q.tail).end == blockBytes {
			p.append(q, p.take(nil))
		}
		last := p.all.at(q.tail)
		n := copy(last.b[last.end:], b)
		last.end += uint32(n)
		b = b[n:]
	}
}

// leastShared is how long a frame is at least for queues to share it: a shorter
// one takes less memory as a copy than a block counts for.
const leastShared = blockBytes / 2

// addFrame appends what a frame has behind its first bytes, of which an empty
// queue alone may do without some.
func (p *blocks) addFrame(q *queue, f *Frame, behind int) {
	if len(f.b) < leastShared {
		p.add(q, f.b[behind:])
		return
	}
	i := p.take(f)
	p.all.at(i).end = uint32(len(f.b))
	if p.append(q, i); behind > 0 {
		q.from = uint32(behind)
	}
	q.bytes += uint32(len(f.b) - behind)
}

// front is up to n bytes at the front of a queue, as the slices they lie in,
// appended to dst. They are valid until the queue changes.
func (p *blocks) front(q *queue, n int, dst [][]byte) [][]byte {
	from := int(q.from)
	for i := q.head; i != 0 && n > 0 && len(dst) < cap(dst); i = p.all.at(i).next {
		b := p.all.at(i).bytes()
		b = b[from:min(len(b), from+n)]
		n -= len(b)
		dst = append(dst, b)
		from = 0
	}
	return dst
}

// drop takes n bytes off the front of a queue that has as many.
func (p *blocks) drop(q *queue, n int) {
	q.bytes -= uint32(n)
	if q.bytes == 0 {
		p.clear(q)
		return
	}
	q.from += uint32(n)
	for end := p.all.at(q.head).end; q.from >= end; end = p.all.at(q.head).end {
		q.from -= end
		i := q.head
		q.head = p.all.at(i).next
		p.give(i)
	}
}

// cut leaves the first n bytes of a queue that has at least as many.
func (p *blocks) cut(q *queue, n int) {
	if n == 0 {
		p.clear(q)
		return
	}
	q.bytes = uint32(n)
	i, left := q.head, q.from+uint32(n)
	for ; left > p.all.at(i).end; i = p.all.at(i).next {
		left -= p.all.at(i).end
	}
	last := p.all.at(i)
	rest := last.next
	last.next, last.end = 0, left
	q.tail = i
	p.giveAll(rest)
}

// clear empties a queue.
func (p *blocks) clear(q *queue) {
	p.giveAll(q.head)
	*q = queue{}
}

func (p *blocks) giveAll(i uint32) {
	for i != 0 {
		next := p.all.at(i).next
		p.give(i)
		i = next
	}
}
