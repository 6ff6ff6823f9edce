package schema

// needsPerStep is how many entries of dependentRequired and dependentSchemas are
// looked at for a step.
const needsPerStep = 4

// evalObject checks what applies to objects.
func (r *run) evalObject(n, row int32, e *entry, at uint32, marks int) bool {
	rule := &r.p.objects[row]
	count := e.n
	if r.duplicateNames && (rule.min > 0 || count > rule.max) {
		count = r.distinctNames(at)
	}
	switch {
	case count < rule.min:
		return r.fail(n, kwMinProperties, at)
	case count > rule.max:
		return r.fail(n, kwMaxProperties, at)
	}
	r.steps -= int(e.n)
	var seen uint64
	var ok bool
	if rule.namesOnly && marks == unmarked {
		seen, ok = r.evalProps(n, rule, e, at)
	} else {
		seen, ok = r.evalMarked(n, rule, e, at, marks)
	}
	if !ok {
		return false
	}
	if missing := rule.required &^ seen; missing != 0 {
		r.fail(n, kwRequired, at)
		r.failed.want = rule.nameOf(missing)
		return false
	}
	if rule.whens&seen == 0 {
		return r.steps >= 0
	}
	if r.steps -= len(rule.needs) / needsPerStep; r.steps < 0 {
		return false
	}
	for j := range rule.needs {
		d := &rule.needs[j]
		if d.when&seen == 0 {
			continue
		}
		if missing := d.props &^ seen; missing != 0 {
			r.fail(n, d.keyword, at)
			r.failed.number, r.failed.want = d.number, rule.nameOf(missing)
			return false
		}
		if d.node != 0 && !r.eval(d.node, at, marks) {
			return false
		}
	}
	return r.steps >= 0
}

// evalProps checks the properties of an object by their names, and returns the
// bits of those there are.
func (r *run) evalProps(n int32, rule *objectRule, e *entry, at uint32) (seen uint64, ok bool) {
	entries, slots := r.entries[:e.next], rule.names.slots
	for name := uint(at) + 1; name < uint(len(entries)); {
		ne, value := &entries[name], &entries[name+1]
		found, key := int32(-1), ne.n
		if key < 0 {
			r.steps -= rule.names.cost(ne)
		}
		if len(slots) > 0 {
			// Mostly the first slot is the one.
			s := &slots[spread(key, rule.names.shift)&uint64(len(slots)-1)]
			if found = s.index - 1; s.key != key || key < 0 && s.text != string(r.bytes(ne)) {
				found = rule.names.find(&r.tape, ne, key)
			}
		} else if rule.names.crowd != nil {
			found = rule.names.find(&r.tape, ne, key)
		}
		p := &rule.others
		if found >= 0 {
			p = &rule.props[found]
		}
		seen |= p.bit
		if p.refused {
			return 0, r.fail(n, kwAdditionalProperties, at)
		}
		if !p.glance.allows(value) && !r.eval(p.node, uint32(name+1), unmarked) {
			return 0, false
		}
		name = uint(value.next)
	}
	return seen, true
}

// evalMarked is evalProps for an object whose names must match something, or
// whose properties are to be marked.
func (r *run) evalMarked(n int32, rule *objectRule, e *entry, at uint32, marks int) (seen uint64, ok bool) {
	i := 0
	for name, end := at+1, e.next; name < end; i++ {
		ne := &r.entries[name]
		value := name + 1
		known := false
		if ne.n < 0 {
			r.steps -= rule.names.cost(ne)
		}
		if found := rule.names.find(&r.tape, ne, ne.n); found >= 0 {
			p := &rule.props[found]
			seen |= p.bit
			if p.declared {
				known = true
				if p.node != 0 && !r.eval(p.node, value, unmarked) {
					return 0, false
				}
			}
		}
		if rule.nameNode != 0 && !r.evalName(rule.nameNode, name) {
			return 0, false
		}
		for j := range rule.patterns {
			p := &rule.patterns[j]
			if r.steps -= 1 + p.pattern.cost(ne); r.steps < 0 {
				return 0, false
			}
			if p.pattern.match(r.bytes(ne)) {
				known = true
				if p.node != 0 && !r.eval(p.node, value, unmarked) {
					return 0, false
				}
			}
		}
		if !known {
			if rule.closed {
				return 0, r.fail(n, kwAdditionalProperties, at)
			}
			if rule.additional != 0 && !r.eval(rule.additional, value, unmarked) {
				return 0, false
			}
		}
		if known || rule.allProps {
			r.mark(marks, i)
		}
		name = r.entries[value].next
	}
	return seen, true
}

// nameOf returns the first property, by name, that has one of these bits.
func (o *objectRule) nameOf(bits uint64) string {
	first := ""
	for _, p := range o.props {
		if p.bit&bits != 0 && (first == "" || p.name < first) {
			first = p.name
		}
	}
	return first
}

// evalName checks a property's name, which is a string for so long.
func (r *run) evalName(n int32, name uint32) bool {
	e := &r.entries[name]
	e.kind = kindString
	ok := r.eval(n, name, unmarked)
	e.kind = kindName
	return ok
}
