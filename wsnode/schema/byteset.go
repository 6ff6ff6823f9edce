package schema

// byteSet holds 1 for each byte that is in it.
type byteSet [256]byte

// newByteSet takes ranges in pairs, and single characters.
func newByteSet(ranges, single string) *byteSet {
	var s byteSet
	for i := 0; i < len(ranges); i += 2 {
		s.add(ranges[i], ranges[i+1])
	}
	for i := range len(single) {
		s.add(single[i], single[i])
	}
	return &s
}

func union(sets ...*byteSet) *byteSet {
	var out byteSet
	for _, s := range sets {
		for c := range s {
			out[c] |= s[c]
		}
	}
	return &out
}

// add adds a range, both ends included.
func (s *byteSet) add(from, to byte) {
	for c := int(from); c <= int(to); c++ {
		s[c] = 1
	}
}

func (s *byteSet) has(c byte) bool { return s[c] != 0 }

func (s *byteSet) all(b []byte) bool { return s.span(b) == len(b) }

// span returns how many bytes at the beginning of b are in the set.
func (s *byteSet) span(b []byte) int {
	n := 0
	for ; n+4 <= len(b); n += 4 {
		if w := b[n : n+4 : n+4]; s[w[0]]&s[w[1]]&s[w[2]]&s[w[3]] == 0 {
			break
		}
	}
	for n < len(b) && s[b[n]] != 0 {
		n++
	}
	return n
}

// meets reports whether there is a byte in both.
func (s *byteSet) meets(other *byteSet) bool {
	for c := range s {
		if s[c]&other[c] != 0 {
			return true
		}
	}
	return false
}
