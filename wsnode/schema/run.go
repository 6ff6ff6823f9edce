package schema

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"slices"
	stdutf8 "unicode/utf8"
)

// run is one message on its way through a program. It is reused, so that neither
// its tape nor what it notes is allocated again.
type run struct {
	tape
	p *program
	// steps is what is left of the effort that the message may cost. Below zero
	// the verdict is void.
	steps int
	// failed is what refused the value last.
	failed failure
	// marks are bits of properties and items that are evaluated, for unevaluated*;
	// a stack.
	marks []uint64
}

// bytesPerStep is how many bytes of a text are looked at for a step, and
// comparedPerStep how many where they are compared or hashed as a whole.
const (
	bytesPerStep    = 16
	comparedPerStep = 64
)

// itemsPerStep is how many items are passed for a step where nothing but a look at
// each is needed.
const itemsPerStep = 2

// Steps for numbers that have no scaleRule: short ones, and those of many digits,
// which are compared and divided one by one.
const (
	slowNumber = 8
	longNumber = 100
)

// steps are what a message of so many entries and bytes may cost. A step takes up
// to 7 ns, the reading of an entry at least 3.5, that of a long text 0.13 a byte.
func (g *Guards) steps(entries, size int) int {
	return g.Effort * (170 + 30*entries + size) / 60
}

// size is the memory that the run keeps.
func (r *run) size() int {
	return cap(r.text) + cap(r.entries)*24 + cap(r.set.slots)*16 + cap(r.marks)*8
}

// failure is a keyword that refuses, and what it refuses.
type failure struct {
	reason
	at   uint32 // the value's entry, or a name's
	want string
}

func (r *run) fail(n int32, k keyword, at uint32) bool {
	r.failed = failure{reason: reason{node: n, keyword: k}, at: at}
	return false
}

// unmarked stands for a value whose evaluated parts nobody asks for.
const unmarked = -1

// eval reports whether a schema allows a value. If marks is not unmarked, what the
// schema evaluates of the value is marked there; if it does not allow the value,
// marks are undefined.
func (r *run) eval(n int32, at uint32, marks int) bool {
	if r.steps--; r.steps < 0 {
		return false
	}
	nd, e := &r.p.nodes[n], &r.entries[at]
	if !nd.single || e.kind&nd.kinds == 0 {
		return r.evalWhole(n, e, at, marks)
	}
	switch { // nothing has to be kept meanwhile
	case e.kind == kindString && nd.text != 0:
		return r.evalText(n, nd.text, e, at)
	case e.kind == kindObject && nd.object != 0:
		return r.evalObject(n, nd.object, e, at, marks)
	case e.kind == kindArray && nd.array != 0:
		return r.evalArray(n, nd.array, e, at, marks)
	case e.kind&kindNumber != 0 && nd.number != 0:
		return r.evalNumber(n, nd.number, e, at)
	}
	return true
}

// evalWhole is eval for schemas that are not single, and for types that they refuse.
func (r *run) evalWhole(n int32, e *entry, at uint32, marks int) bool {
	nd := &r.p.nodes[n]
	if nd.choice != 0 && e.kind == kindObject {
		m := &r.p.mixes[nd.choice]
		which := r.choose(m.oneChoice, at)
		if which < 0 {
			return r.fail(n, kwOneOf, at)
		}
		return r.eval(m.one[which], at, marks)
	}
	if e.kind&nd.kinds == 0 {
		if nd.kinds == 0 {
			return r.fail(n, kwFalse, at)
		}
		return r.fail(n, kwType, at)
	}
	own := marks
	if nd.unevaluated {
		own = r.begin(nd, e, marks)
	}
	if nd.value != 0 && !r.evalValue(n, nd.value, e, at) {
		return false
	}
	switch e.kind {
	case kindString:
		if nd.text != 0 && !r.evalText(n, nd.text, e, at) {
			return false
		}
	case kindInteger, kindFraction:
		if nd.number != 0 && !r.evalNumber(n, nd.number, e, at) {
			return false
		}
	case kindArray:
		if nd.array != 0 && !r.evalArray(n, nd.array, e, at, own) {
			return false
		}
	case kindObject:
		if nd.object != 0 && !r.evalObject(n, nd.object, e, at, own) {
			return false
		}
	}
	if nd.mixed == 0 {
		return true
	}
	return r.evalMix(n, nd.mixed, e, at, own) && (!nd.unevaluated || own == marks || r.evalRest(nd, e, at, own, marks))
}

// evalValue checks const and enum.
func (r *run) evalValue(n, row int32, e *entry, at uint32) bool {
	rule := &r.p.values[row]
	if e.kind == kindString {
		r.steps -= 1 + rule.texts.cost(e)
		return rule.texts.find(&r.tape, e, r.key(e)) >= 0 || r.fail(n, rule.keyword, at)
	}
	others := rule.others
	if len(others) > fewItems { // which are sorted
		r.steps -= bits.Len(uint(len(others))) / 2
		hash := r.hash(at)
		from, _ := slices.BinarySearchFunc(others, hash, func(o otherValue, hash uint64) int { return cmp.Compare(o.hash, hash) })
		others = others[from:]
		end := 0
		for end < len(others) && others[end].hash == hash {
			end++
		}
		others = others[:end]
	}
	for _, other := range others {
		if r.steps--; r.steps < 0 {
			return false
		}
		if r.equal(at, &r.p.consts, other.at) {
			return true
		}
	}
	return r.fail(n, rule.keyword, at)
}

// characters counts those of a valid text, by bytes that do not continue one.
func characters(text []byte) int64 {
	n := len(text)
	for ; len(text) >= 8; text = text[8:] {
		w := binary.LittleEndian.Uint64(text)
		n -= bits.OnesCount64(w & ^(w << 1) & tops)
	}
	for _, c := range text {
		if !stdutf8.RuneStart(c) {
			n--
		}
	}
	return int64(n)
}

// evalText checks what applies to strings.
func (r *run) evalText(n, row int32, e *entry, at uint32) bool {
	rule := &r.p.texts[row]
	text := r.bytes(e)
	if size := int64(len(text)); size > rule.max || rule.min > 0 {
		if e.flags&notASCII != 0 {
			r.steps -= len(text) / bytesPerStep
			size = characters(text)
		}
		switch {
		case size < rule.min:
			return r.fail(n, kwMinLength, at)
		case size > rule.max:
			return r.fail(n, kwMaxLength, at)
		}
	}
	if rule.pattern != nil {
		if r.steps -= rule.pattern.cost(e); r.steps < 0 {
			return false
		}
		if !rule.pattern.match(text) {
			return r.fail(n, kwPattern, at)
		}
	}
	if rule.format != nil {
		if r.steps -= rule.once + len(text)*rule.weight/bytesPerStep; r.steps < 0 {
			return false
		}
		if !rule.format(text) {
			return r.fail(n, kwFormat, at)
		}
	}
	return true
}

// evalNumber checks what applies to numbers.
func (r *run) evalNumber(n, row int32, e *entry, at uint32) bool {
	rule := &r.p.numbers[row]
	if uint16(e.scale) <= maxScale && e.flags&long == 0 {
		s := &rule.scales[e.scale]
		return s.low <= e.n && e.n <= s.high && (s.multiple == 1 || e.n%s.multiple == 0) || r.fail(n, kwNumber, at)
	}
	if r.steps -= slowNumber; e.flags&long != 0 {
		r.steps -= longNumber
	}
	if r.steps < 0 {
		return false
	}
	return rule.refusal(r.decimal(e)) == kwNumber || r.fail(n, kwNumber, at)
}

// refusal returns the keyword that refuses a number, or kwNumber.
func (rule *numberRule) refusal(d decimal) keyword {
	for i := range rule.bounds {
		if b := &rule.bounds[i]; b.refused[1+d.compare(b.value)] {
			return b.keyword
		}
	}
	if rule.multiple.n != 0 && !d.multipleOf(rule.multiple) {
		return kwMultipleOf
	}
	return kwNumber
}

// evalArray checks what applies to arrays.
func (r *run) evalArray(n, row int32, e *entry, at uint32, marks int) bool {
	rule := &r.p.arrays[row]
	switch {
	case e.n < rule.min:
		return r.fail(n, kwMinItems, at)
	case e.n > rule.max:
		return r.fail(n, kwMaxItems, at)
	}
	if rule.allItems && marks != unmarked {
		r.markAll(marks, e.n)
	}
	if rule.items != 0 || len(rule.prefix) > 0 {
		if r.steps -= int(e.n+1) / itemsPerStep; r.steps < 0 {
			return false
		}
	}
	item := at + 1
	for i, child := range rule.prefix {
		if item >= e.next {
			break
		}
		if child != 0 && !r.eval(child, item, unmarked) {
			return false
		}
		r.mark(marks, i)
		item = r.entries[item].next
	}
	if rule.items != 0 {
		glance := &r.p.nodes[rule.items].glance
		for item < e.next {
			value := &r.entries[item]
			if !glance.allows(value) && !r.eval(rule.items, item, unmarked) {
				return false
			}
			item = value.next
		}
	}
	if rule.hasContains && !r.evalContains(n, rule, e, at, marks) {
		return false
	}
	if rule.unique && e.n > 1 {
		if r.duplicates(at) {
			return r.fail(n, kwUniqueItems, at)
		}
		return r.steps >= 0
	}
	return true
}

func (r *run) evalContains(n int32, rule *arrayRule, e *entry, at uint32, marks int) bool {
	var hits int64
	i := 0
	for item := at + 1; item < e.next; item = r.entries[item].next {
		if r.eval(rule.contains, item, unmarked) {
			hits++
			r.mark(marks, i)
			if hits > rule.maxHits {
				return r.fail(n, kwMaxContains, at)
			}
			if marks == unmarked && hits >= rule.minHits && rule.maxHits == unbounded {
				break
			}
		}
		if r.steps < 0 {
			return false
		}
		i++
	}
	switch {
	case hits >= rule.minHits:
		return true
	case hits == 0:
		return r.fail(n, kwContains, at)
	}
	return r.fail(n, kwMinContains, at)
}
