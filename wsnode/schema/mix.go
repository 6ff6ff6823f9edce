package schema

// evalMix checks the schemas that apply to the value itself.
func (r *run) evalMix(n, row int32, e *entry, at uint32, marks int) bool {
	r.steps--
	m := &r.p.mixes[row]
	for _, child := range m.all {
		if !r.eval(child, at, marks) {
			return false
		}
	}
	if m.hasNot && r.eval(m.not, at, unmarked) {
		return r.fail(n, kwNot, at)
	}
	if len(m.any) > 0 && !r.evalAny(n, m, e, at, marks) || len(m.one) > 0 && !r.evalOne(n, m, e, at, marks) {
		return false
	}
	if m.hasIf {
		then := m.yes
		if !r.try(m.test, at, marks) {
			then = m.no
		}
		if then != 0 && !r.eval(then, at, marks) {
			return false
		}
	}
	return r.steps >= 0
}

func (r *run) evalAny(n int32, m *mixRule, e *entry, at uint32, marks int) bool {
	if m.anyChoice != nil && e.kind == kindObject {
		which := r.choose(m.anyChoice, at)
		if which < 0 {
			return r.fail(n, kwAnyOf, at)
		}
		return r.eval(m.any[which], at, marks)
	}
	matched := false
	for _, child := range m.any {
		if r.try(child, at, marks) {
			if matched = true; marks == unmarked {
				return true
			}
		}
		if r.steps < 0 {
			return false
		}
	}
	return matched || r.fail(n, kwAnyOf, at)
}

func (r *run) evalOne(n int32, m *mixRule, e *entry, at uint32, marks int) bool {
	if m.oneChoice != nil && e.kind == kindObject {
		which := r.choose(m.oneChoice, at)
		if which < 0 {
			return r.fail(n, kwOneOf, at)
		}
		return r.eval(m.one[which], at, marks)
	}
	matched := false
	for _, child := range m.one {
		if r.try(child, at, marks) {
			if matched {
				return r.fail(n, kwOneOf, at)
			}
			matched = true
		}
		if r.steps < 0 {
			return false
		}
	}
	return matched || r.fail(n, kwOneOf, at)
}

// choose returns the index of the only schema that can allow the object, or -1.
func (r *run) choose(c *choice, at uint32) int32 {
	for i, end := at+1, r.entries[at].next; i < end; i = r.entries[i+1].next {
		r.steps--
		if e := &r.entries[i]; e.n != c.key || e.n < 0 && string(r.bytes(e)) != c.name {
			continue
		}
		value := &r.entries[i+1]
		if value.kind != kindString {
			return -1
		}
		r.steps -= int(r.entries[i].size)/comparedPerStep + c.texts.cost(value)
		key := value.n
		if key < 0 {
			key = r.key(value)
		}
		if found := c.texts.find(&r.tape, value, key); found >= 0 {
			return c.which[found]
		}
		return -1
	}
	return -1
}

// try is eval that leaves marks as they were where the schema does not allow the
// value.
func (r *run) try(n int32, at uint32, marks int) bool {
	if marks == unmarked {
		return r.eval(n, at, unmarked)
	}
	kept := r.push(r.entries[at].n)
	words := len(r.marks) - kept
	copy(r.marks[kept:], r.marks[marks:marks+words])
	ok := r.eval(n, at, marks)
	if !ok {
		copy(r.marks[marks:marks+words], r.marks[kept:])
	}
	r.marks = r.marks[:kept]
	return ok
}

// begin returns marks of its own for a schema with unevaluatedProperties or
// unevaluatedItems that is asked about an object or an array, else outer. They
// stay until whoever pushed something before, or the message, is done.
func (r *run) begin(nd *node, e *entry, outer int) int {
	m := &r.p.mixes[nd.mixed]
	if e.kind == kindObject && m.hasRestProps || e.kind == kindArray && m.hasRestItems {
		return r.push(e.n)
	}
	return outer
}

// evalRest holds what is not marked in own against unevaluatedProperties or
// unevaluatedItems. All of the value is evaluated then.
func (r *run) evalRest(nd *node, e *entry, at uint32, own, outer int) bool {
	m := &r.p.mixes[nd.mixed]
	rest := m.restItems
	if e.kind == kindObject {
		rest = m.restProps
	}
	if rest != 0 {
		if r.steps -= int(e.n) / itemsPerStep; r.steps < 0 {
			return false
		}
		i := 0
		for part := at + 1; part < e.next; i++ {
			if e.kind == kindObject { // from the name to the value
				part++
			}
			if r.marks[own+i/64]>>(i%64)&1 == 0 && !r.eval(rest, part, unmarked) {
				return false
			}
			part = r.entries[part].next
		}
	}
	r.marks = r.marks[:own]
	if outer != unmarked {
		r.markAll(outer, e.n)
	}
	return r.steps >= 0
}

// push makes room for n marks, none of them set, and returns where they begin.
func (r *run) push(n int64) int {
	at := len(r.marks)
	words := int(n+63) / 64
	r.steps -= words
	for range words {
		r.marks = append(r.marks, 0)
	}
	return at
}

func (r *run) mark(marks, i int) {
	if marks != unmarked {
		r.marks[marks+i/64] |= 1 << (i % 64)
	}
}

func (r *run) markAll(marks int, n int64) {
	for i := range int(n+63) / 64 {
		r.marks[marks+i] = ^uint64(0)
	}
}
