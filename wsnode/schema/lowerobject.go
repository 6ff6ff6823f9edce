package schema

import (
	"maps"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// object lowers what applies to objects. Where it names more properties than
// there are bits, others go into the mix.
func (l *lowering) object(n int32, s *jsonschema.Schema, scope int32, mix *mixRule) int32 {
	b := l.newObject(n)
	if s.MinProperties != nil {
		b.rule.min = int64(*s.MinProperties)
		l.reason(n, kwMinProperties, "")
	}
	if s.MaxProperties != nil {
		b.rule.max = int64(*s.MaxProperties)
		l.reason(n, kwMaxProperties, "")
	}
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		p := b.prop(name)
		p.declared, p.node = true, l.lower(s.Properties[name], scope)
	}
	for _, re := range slices.SortedFunc(maps.Keys(s.PatternProperties), func(a, b jsonschema.Regexp) int { return strings.Compare(a.String(), b.String()) }) {
		b.rule.patterns = append(b.rule.patterns, patternRule{re.(*pattern), l.lower(s.PatternProperties[re], scope)})
	}
	switch additional := s.AdditionalProperties.(type) {
	case bool:
		b.rule.allProps, b.rule.closed = true, !additional
		l.reason(n, kwAdditionalProperties, "")
	case *jsonschema.Schema:
		b.rule.allProps, b.rule.additional = true, l.lower(additional, scope)
	}
	b.rule.nameNode = l.lower(s.PropertyNames, scope)

	current := b
	// for all that follows, a rule that has bits for these
	room := func(names ...string) *objectBuilder {
		if !current.fits(names) {
			beside := l.newNode(l.where[n])
			mix.all = append(mix.all, beside)
			if current != b {
				current.add()
			}
			current = l.newObject(beside)
		}
		return current
	}
	for _, name := range s.Required {
		o := room(name)
		l.reason(o.node, kwRequired, "")
		o.rule.required |= o.bit(name)
	}
	for _, name := range slices.Sorted(maps.Keys(s.DependentRequired)) {
		for names := range slices.Chunk(s.DependentRequired[name], maxBits-1) {
			o := room(append([]string{name}, names...)...)
			d := need{keyword: kwDependentRequired, number: int32(len(o.rule.needs)), when: o.bit(name)}
			for _, other := range names {
				d.props |= o.bit(other)
			}
			o.rule.needs = append(o.rule.needs, d)
			l.p.reasons[reason{o.node, kwDependentRequired, d.number}] = saying{keyword: l.where[o.node].below("dependentRequired").below(name).String()}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.DependentSchemas)) {
		o := room(name)
		o.rule.needs = append(o.rule.needs, need{when: o.bit(name), node: l.lower(s.DependentSchemas[name], scope)})
	}
	if current != b {
		current.add()
	}
	return b.row()
}

// maxBits is how many properties of a rule can have a bit.
const maxBits = 64

// objectBuilder makes an objectRule.
type objectBuilder struct {
	l     *lowering
	node  int32
	rule  objectRule
	index map[string]int // of props
	bits  int
}

func (l *lowering) newObject(n int32) *objectBuilder {
	return &objectBuilder{l: l, node: n, rule: objectRule{max: unbounded}, index: map[string]int{}}
}

// prop returns the row of a property.
func (b *objectBuilder) prop(name string) *propRule {
	i, ok := b.index[name]
	if !ok {
		i = len(b.rule.props)
		b.index[name] = i
		b.rule.props = append(b.rule.props, propRule{name: name})
	}
	return &b.rule.props[i]
}

// bit returns the bit of a property; fits has said that there is one.
func (b *objectBuilder) bit(name string) uint64 {
	p := b.prop(name)
	if p.bit == 0 {
		p.bit = 1 << b.bits
		b.bits++
	}
	return p.bit
}

func (b *objectBuilder) fits(names []string) bool {
	more := 0
	for _, name := range names {
		if i, ok := b.index[name]; !ok || b.rule.props[i].bit == 0 {
			more++
		}
	}
	return b.bits+more <= maxBits
}

// row puts the rule into the program, unless it says nothing.
func (b *objectBuilder) row() int32 {
	r := &b.rule
	if r.min == 0 && r.max == unbounded && len(r.props) == 0 && len(r.patterns) == 0 && !r.allProps && r.nameNode == 0 {
		return 0
	}
	names := make([]string, len(r.props))
	for i, p := range r.props {
		names[i] = p.name
	}
	r.names = newTextTable(names)
	for _, d := range r.needs {
		r.whens |= d.when
	}
	b.l.p.objects = append(b.l.p.objects, *r)
	return int32(len(b.l.p.objects) - 1)
}

// add gives the rule to its node.
func (b *objectBuilder) add() { b.l.p.nodes[b.node].object = b.row() }
