package netloop

// table is an array that grows in chunks, so that growing copies nothing and
// what at returns stays where it is. An index of 0 means none.
type table[T any] struct{ chunks []*[chunkSize]T }

// chunkSize leaves room for the 8 bytes that the runtime puts before pointers:
// with one machine more a chunk takes a fifth more memory.
const chunkSize = 255

func (t *table[T]) at(i uint32) *T { return &t.chunks[i/chunkSize][i%chunkSize] }

// grow makes room for one more chunk and returns the first index beyond it.
func (t *table[T]) grow() uint32 {
	t.chunks = append(t.chunks, new([chunkSize]T))
	return uint32(len(t.chunks) * chunkSize)
}
