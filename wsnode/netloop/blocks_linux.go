package netloop

// blockBytes is what one block holds.
const blockBytes = 4096

// block is a piece of memory for what the kernel did not take. The next block
// of its queue, or of the free ones, is a number and no pointer.
type block struct {
	b    *[blockBytes]byte // nil while the block is unused and its memory given back
	next uint32
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
}

// keepBlocks is how many unused blocks keep their memory.
const keepBlocks = 64

// queue is bytes in blocks. The zero queue is empty.
type queue struct {
	head, tail uint32
	from, to   uint16 // where the bytes begin in head, and end in tail
	bytes      uint32
}

func newBlocks(most int) *blocks { return &blocks{max: most, end: 1} }

// room is how many bytes all queues may yet take together.
func (p *blocks) room() int { return max(p.max-p.used, 0) * blockBytes }

func (p *blocks) take() uint32 {
	i := p.free
	switch {
	case i != 0:
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
	if b.next = 0; b.b == nil {
		b.b = new([blockBytes]byte)
	}
	p.used++
	return i
}

func (p *blocks) give(i uint32) {
	b := p.all.at(i)
	p.used--
	if p.kept < keepBlocks {
		b.next, p.free = p.free, i
		p.kept++
		return
	}
	b.b, b.next, p.bare = nil, p.bare, i
}

// add appends to a queue, whatever room there is.
func (p *blocks) add(q *queue, b []byte) {
	q.bytes += uint32(len(b))
	for len(b) > 0 {
		if q.tail == 0 || q.to == blockBytes {
			i := p.take()
			if q.tail == 0 {
				q.head, q.from = i, 0
			} else {
				p.all.at(q.tail).next = i
			}
			q.tail, q.to = i, 0
		}
		n := copy(p.all.at(q.tail).b[q.to:], b)
		q.to += uint16(n)
		b = b[n:]
	}
}

// front is up to n bytes at the front of a queue, as the slices they lie in,
// appended to dst. They are valid until the queue changes.
func (p *blocks) front(q *queue, n int, dst [][]byte) [][]byte {
	from := int(q.from)
	for i := q.head; i != 0 && n > 0 && len(dst) < cap(dst); i = p.all.at(i).next {
		end := blockBytes
		if i == q.tail {
			end = int(q.to)
		}
		b := p.all.at(i).b[from:min(end, from+n)]
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
	for n += int(q.from); n >= blockBytes; n -= blockBytes {
		i := q.head
		q.head = p.all.at(i).next
		p.give(i)
	}
	q.from = uint16(n)
}

// cut leaves the first n bytes of a queue that has at least as many.
func (p *blocks) cut(q *queue, n int) {
	if n == 0 {
		p.clear(q)
		return
	}
	q.bytes = uint32(n)
	i := q.head
	for n += int(q.from); n > blockBytes; n -= blockBytes {
		i = p.all.at(i).next
	}
	rest := p.all.at(i).next
	p.all.at(i).next = 0
	q.tail, q.to = i, uint16(n)
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
