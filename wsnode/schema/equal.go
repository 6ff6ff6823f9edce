package schema

import (
	"bytes"
	"hash/maphash"
	"math/bits"
)

// fewItems is how many items of an array are compared one by one.
const fewItems = 8

// duplicates reports whether two items of an array are equal. If it runs out of
// steps its answer is void.
func (r *run) duplicates(array uint32) bool {
	end := r.entries[array].next
	if r.entries[array].n <= fewItems {
		for i := r.entries[array+1].next; i < end; i = r.entries[i].next {
			for j := array + 1; j < i; j = r.entries[j].next {
				if r.steps--; r.steps < 0 || r.equal(j, &r.tape, i) {
					return true
				}
			}
		}
		return false
	}
	r.set.clear()
	for i := array + 1; i < end; i = r.entries[i].next {
		hash := r.hash(i)
		if r.steps--; r.steps < 0 || r.set.add(hash, i, func(other uint32) bool { return r.equal(other, &r.tape, i) }) {
			return true
		}
	}
	return false
}

// hash is the same for equal values. Peers cannot choose values whose hashes
// collide.
func (r *run) hash(at uint32) uint64 {
	r.steps--
	e := &r.entries[at]
	switch e.kind {
	case kindString:
		return r.hashText(e)
	case kindInteger, kindFraction:
		return r.hashNumber(e)
	case kindArray:
		sum := uint64(e.kind)
		for i := at + 1; i < e.next; i = r.entries[i].next {
			sum = mixed(sum, r.hash(i))
		}
		return sum
	case kindObject:
		sum := uint64(e.kind)
		for i := at + 1; i < e.next; i = r.entries[i+1].next { // in any order
			sum += mixed(r.hashText(&r.entries[i]), r.hash(i+1))
		}
		return mixed(sum, uint64(e.n))
	}
	return mixed(uint64(e.kind), uint64(e.n))
}

func (r *run) hashText(e *entry) uint64 {
	r.steps -= int(e.size) / bytesPerStep
	return maphash.Bytes(seed, r.bytes(e))
}

// hashNumber takes no account of how the number is written.
func (r *run) hashNumber(e *entry) uint64 {
	if e.flags&long == 0 {
		return mixed(mixed(uint64(e.kind), uint64(e.n)), uint64(e.scale))
	}
	r.steps -= longNumber
	var buf [maxNumberBytes]byte
	d := r.decimal(e)
	return mixed(maphash.Bytes(seed, d.digits(buf[:0])), uint64(d.scale)+uint64(d.sign()))
}

// keys keep peers from choosing numbers that collide.
var keys = [2]uint64{maphash.String(seed, "first"), maphash.String(seed, "second")}

// mixed depends on both and on their order.
func mixed(a, b uint64) uint64 {
	high, low := bits.Mul64(a^keys[0], b^keys[1])
	return high ^ low
}

// equal reports whether a value is that of another tape, as JSON Schema has it:
// numbers by what they are, objects in any order.
func (r *run) equal(at uint32, other *tape, to uint32) bool {
	a, b := &r.entries[at], &other.entries[to]
	if a.kind != b.kind {
		return false
	}
	switch a.kind {
	case kindNull:
		return true
	case kindBool:
		return a.n == b.n
	case kindString:
		if a.size != b.size {
			return false
		}
		r.steps -= int(a.size) / bytesPerStep
		return bytes.Equal(r.bytes(a), other.bytes(b))
	case kindInteger, kindFraction:
		if (a.flags|b.flags)&long == 0 {
			return a.n == b.n && a.scale == b.scale
		}
		r.steps -= longNumber
		return r.decimal(a).compare(other.decimal(b)) == 0
	}
	if a.n != b.n {
		return false
	}
	if a.kind == kindObject {
		return r.equalObjects(at, other, to)
	}
	i, j := at+1, to+1
	for ; i < a.next; i, j = r.entries[i].next, other.entries[j].next {
		if r.steps--; r.steps < 0 || !r.equal(i, other, j) {
			return false
		}
	}
	return true
}

// same reports whether two long texts are equal.
func (r *run) same(a, b []byte) bool {
	r.steps -= len(a) / comparedPerStep
	return bytes.Equal(a, b)
}

// equalObjects compares objects of as many properties. That each one of the other's
// is found is enough where none is there twice, as in a schema; two of a message
// that are equal need the same ones as often.
func (r *run) equalObjects(at uint32, other *tape, to uint32) bool {
	end, otherEnd := r.entries[at].next, other.entries[to].next
	i := at + 1 // mostly the order is the same
	for j := to + 1; j < otherEnd; j = other.entries[j+1].next {
		name := &other.entries[j]
		text := other.bytes(name)
		for tries := r.entries[at].n; ; tries-- {
			if r.steps--; r.steps < 0 || tries == 0 {
				return false
			}
			if i >= end {
				i = at + 1
			}
			if o := &r.entries[i]; o.n == name.n && (name.n >= 0 || r.same(r.bytes(o), text)) {
				if r.equal(i+1, other, j+1) {
					break
				}
				if !r.duplicateNames {
					return false
				}
			}
			i = r.entries[i+1].next
		}
		i = r.entries[i+1].next
	}
	return other != &r.tape || !r.duplicateNames || r.steps >= 0 && r.hash(at) == r.hash(to)
}

// distinctNames counts the names of an object that may have some of them twice.
func (r *run) distinctNames(object uint32) int64 {
	var count int64
	r.set.clear()
	for i, end := object+1, r.entries[object].next; i < end; i = r.entries[i+1].next {
		e := &r.entries[i]
		r.steps -= 1 + int(e.size)/comparedPerStep
		if !r.set.add(r.hashText(e), i, func(other uint32) bool { return bytes.Equal(r.bytes(&r.entries[other]), r.bytes(e)) }) {
			count++
		}
	}
	return count
}
