package wsconn

import "sync"

// Buffers above the largest class are left to the garbage collector, so that
// a few big messages do not stay in the pools. The largest has room for a
// message of 64 KiB and a control frame in its midst.
var (
	bufferSizes = [...]int{4 << 10, 8 << 10, 16 << 10, 32 << 10, 72 << 10}
	bufferPools [len(bufferSizes)]sync.Pool
)

// buffer holds what has arrived in part. It grows as bytes arrive, never by
// what a peer declares.
type buffer struct{ b []byte }

// newBuffer gives an empty buffer with room for n bytes.
func newBuffer(n int) *buffer {
	for i, size := range bufferSizes {
		if n > size {
			continue
		}
		if buf, ok := bufferPools[i].Get().(*buffer); ok {
			return buf
		}
		return &buffer{b: make([]byte, 0, size)}
	}
	return &buffer{b: make([]byte, 0, n)}
}

// add appends p to buf, which may be nil, and returns the buffer to use from
// now on.
func (buf *buffer) add(p []byte) *buffer {
	if buf == nil {
		buf = newBuffer(len(p))
	}
	if need := len(buf.b) + len(p); need > cap(buf.b) {
		larger := newBuffer(max(need, 2*cap(buf.b)))
		larger.b = append(larger.b, buf.b...)
		buf.release()
		buf = larger
	}
	buf.b = append(buf.b, p...)
	return buf
}

// release gives buf, which may be nil, back. Heads hold tokens, so nothing is
// left in it.
func (buf *buffer) release() {
	if buf == nil {
		return
	}
	clear(buf.b)
	for i, size := range bufferSizes {
		if cap(buf.b) == size {
			buf.b = buf.b[:0]
			bufferPools[i].Put(buf)
			return
		}
	}
}
