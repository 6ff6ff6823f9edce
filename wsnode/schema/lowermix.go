package schema

import (
	"maps"
	"math"
	"slices"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// mix lowers what applies schemas to the value itself.
func (l *lowering) mix(n int32, s *jsonschema.Schema, scope int32, mix *mixRule) (row int32, unevaluated bool) {
	if s.Ref != nil {
		mix.all = append(mix.all, l.lower(s.Ref, scope))
	}
	if s.DynamicRef != nil {
		target := s.DynamicRef.Ref
		if anchor := s.DynamicRef.Anchor; anchor != "" && target.DynamicAnchor == anchor {
			if outer, ok := l.scopes[l.enter(scope, s)][anchor]; ok {
				target = outer
			}
		}
		mix.all = append(mix.all, l.lower(target, scope))
	}
	mix.all = append(mix.all, l.list(s.AllOf, scope)...)
	mix.all = slices.DeleteFunc(mix.all, func(n int32) bool { return n == 0 })
	if len(s.AnyOf) > 0 {
		mix.any, mix.anyChoice = l.list(s.AnyOf, scope), l.chooser(s.AnyOf)
		l.reason(n, kwAnyOf, "")
	}
	if len(s.OneOf) > 0 {
		mix.one, mix.oneChoice = l.list(s.OneOf, scope), l.chooser(s.OneOf)
		l.reason(n, kwOneOf, "")
	}
	if s.Not != nil {
		mix.hasNot, mix.not = true, l.lower(s.Not, scope)
		l.reason(n, kwNot, "")
	}
	if s.If != nil {
		mix.hasIf, mix.test, mix.yes, mix.no = true, l.lower(s.If, scope), l.lower(s.Then, scope), l.lower(s.Else, scope)
	}
	if s.UnevaluatedProperties != nil {
		mix.hasRestProps, mix.restProps = true, l.lower(s.UnevaluatedProperties, scope)
	}
	if s.UnevaluatedItems != nil {
		mix.hasRestItems, mix.restItems = true, l.lower(s.UnevaluatedItems, scope)
	}
	unevaluated = mix.hasRestProps || mix.hasRestItems
	if len(mix.all) == 0 && len(mix.any) == 0 && len(mix.one) == 0 && !mix.hasNot && !mix.hasIf && !unevaluated {
		return 0, false
	}
	l.p.mixes = append(l.p.mixes, *mix)
	return int32(len(l.p.mixes) - 1), unevaluated
}

// maxChoices bounds what all choosers look at together. Schemas that are referred
// to are looked at each time.
const maxChoices = 1_000_000

// chooser finds a property by whose text at most one of several schemas can allow
// an object, or returns nil.
func (l *lowering) chooser(schemas []*jsonschema.Schema) *choice {
	if len(schemas) < 2 {
		return nil
	}
	wanted := make([]map[string][]string, len(schemas))
	for i, s := range schemas {
		wanted[i] = map[string][]string{}
		l.fixedTexts(s, wanted[i], 8)
	}
	if l.choices < 0 { // what was found may lack something
		return nil
	}
names:
	for _, name := range slices.Sorted(maps.Keys(wanted[0])) {
		var texts []string
		var which []int32
		taken := map[string]bool{}
		for i := range schemas {
			own, ok := wanted[i][name]
			if !ok {
				continue names
			}
			for _, text := range own {
				if taken[text] {
					continue names
				}
				taken[text] = true
				texts, which = append(texts, text), append(which, int32(i))
			}
		}
		return &choice{name: name, key: keyOf([]byte(name)), texts: newTextTable(texts), which: which}
	}
	return nil
}

// fixedTexts finds the properties without which a schema allows no object, and
// that it allows certain texts alone. It follows so many references.
func (l *lowering) fixedTexts(s *jsonschema.Schema, to map[string][]string, references int) {
	if l.choices -= 1 + len(s.Required); references == 0 || l.choices < 0 {
		return
	}
	if s.Ref != nil {
		l.fixedTexts(s.Ref, to, references-1)
	}
	for _, name := range s.Required {
		p := s.Properties[name]
		if p == nil {
			continue
		}
		values := []any{}
		switch {
		case p.Const != nil:
			values = append(values, *p.Const)
		case p.Enum != nil:
			values = p.Enum.Values
		}
		if l.choices -= len(values); l.choices < 0 {
			return
		}
		var texts []string
		for _, v := range values {
			text, ok := v.(string)
			if !ok {
				texts = nil
				break
			}
			texts = append(texts, text)
		}
		if len(texts) > 0 {
			slices.Sort(texts)
			to[name] = slices.Compact(texts)
		}
	}
}

// endless looks for schemas that apply themselves to the same value again.
func (l *lowering) endless() {
	const unseen, open, closed = 0, 1, 2
	state := make([]uint8, len(l.p.nodes))
	var visit func(n int32) bool
	visit = func(n int32) bool {
		switch state[n] {
		case open:
			l.fail(l.where[n], "refers back to itself without going into the message, which would never end; let it refer to itself from within properties or items")
			return false
		case closed:
			return true
		}
		state[n] = open
		for _, next := range l.p.beside(n) {
			if next != 0 && !visit(next) {
				return false
			}
		}
		state[n] = closed
		return true
	}
	for n := 1; n < len(l.p.nodes); n++ {
		if state[n] == unseen && !visit(int32(n)) {
			return
		}
	}
}

// beside returns the nodes that apply to the same value as n.
func (p *program) beside(n int32) []int32 {
	m := &p.mixes[p.nodes[n].mixed]
	out := slices.Concat(m.all, m.any, m.one, []int32{m.not, m.test, m.yes, m.no})
	for _, d := range p.objects[p.nodes[n].object].needs {
		out = append(out, d.node)
	}
	return out
}

// shorten links past schemas that only refer to another one, or say nothing.
func (l *lowering) shorten() {
	p := l.p
	target := func(n *int32) {
		for {
			nd := &p.nodes[*n]
			if nd.kinds != kindAny || nd.value|nd.text|nd.number|nd.array|nd.object != 0 {
				return
			}
			m := &p.mixes[nd.mixed]
			switch {
			case nd.mixed == 0:
				*n = 0
				return
			case len(m.all) != 1 || len(m.any)+len(m.one) > 0 || m.hasNot || m.hasIf || nd.unevaluated:
				return
			}
			*n = m.all[0]
		}
	}
	for i := range p.arrays {
		a := &p.arrays[i]
		target(&a.items)
		target(&a.contains)
		for j := range a.prefix {
			target(&a.prefix[j])
		}
	}
	for i := range p.objects {
		o := &p.objects[i]
		target(&o.additional)
		target(&o.nameNode)
		for j := range o.props {
			target(&o.props[j].node)
		}
		for j := range o.patterns {
			target(&o.patterns[j].node)
		}
		for j := range o.needs {
			target(&o.needs[j].node)
		}
	}
	for i := range p.mixes {
		m := &p.mixes[i]
		for _, list := range [][]int32{m.all, m.any, m.one} {
			for j := range list {
				target(&list[j])
			}
		}
		for _, n := range []*int32{&m.not, &m.test, &m.yes, &m.no, &m.restProps, &m.restItems} {
			target(n)
		}
	}
}

// hurry notes what can be skipped. Where a name can be there twice, the second one
// has to be looked at as well.
func (p *program) hurry(namesDiffer bool) {
	for i := range p.objects {
		o := &p.objects[i]
		o.namesOnly = o.nameNode == 0 && len(o.patterns) == 0
	}
	for i := range p.mixes {
		for _, c := range []struct {
			choice *choice
			nodes  []int32
		}{{p.mixes[i].anyChoice, p.mixes[i].any}, {p.mixes[i].oneChoice, p.mixes[i].one}} {
			if c.choice == nil || !namesDiffer {
				continue
			}
			for j, texts := range c.choice.textsOf(len(c.nodes)) {
				c.nodes[j] = p.chosen(c.nodes[j], c.choice.name, texts)
			}
		}
	}
	for i := range p.nodes {
		nd := &p.nodes[i]
		nd.glance.from = 1 // to 0
		m := &p.mixes[nd.mixed]
		if m.oneChoice != nil && len(m.all) == 0 && len(m.any) == 0 && !m.hasNot && !m.hasIf && !nd.unevaluated && nd.kinds&kindObject != 0 && nd.value == 0 && nd.object == 0 {
			nd.choice = nd.mixed
		}
		if nd.single = nd.value == 0 && nd.mixed == 0; !nd.single {
			continue
		}
		nd.glance.kinds = nd.kinds & (kindNull | kindBool)
		for row, kinds := range map[*int32]kinds{&nd.text: kindString, &nd.number: kindNumber, &nd.array: kindArray, &nd.object: kindObject} {
			if *row == 0 {
				nd.glance.kinds |= nd.kinds & kinds
			}
		}
		if rule := p.texts[nd.text]; nd.text != 0 && nd.kinds&kindString != 0 && rule.pattern == nil && rule.format == nil && rule.min <= 1 {
			nd.glance.from, nd.glance.to = uint32(rule.min), uint32(min(rule.max, math.MaxUint32)) // no text has more characters than bytes
		}
	}
	for i := range p.objects {
		p.objects[i].settle(p.nodes)
	}
}

// settle notes with each property what its node, or that of additionalProperties,
// says of it.
func (o *objectRule) settle(nodes []node) {
	o.others = propRule{node: o.additional, glance: nodes[o.additional].glance, refused: o.closed}
	for i := range o.props {
		p := &o.props[i]
		if !p.declared {
			p.node, p.refused = o.others.node, o.others.refused
		}
		p.glance = nodes[p.node].glance
	}
}

// chosen returns a node to be used in the place of one that was chosen by the texts
// of a property: it does not look at that again.
func (p *program) chosen(n int32, name string, texts []string) int32 {
	nd := p.nodes[n]
	if nd.object == 0 {
		return n
	}
	rule := p.objects[nd.object]
	i := slices.IndexFunc(rule.props, func(o propRule) bool { return o.name == name })
	if i < 0 || !rule.props[i].declared || !p.allowsTexts(rule.props[i].node, texts) {
		return n
	}
	rule.props = slices.Clone(rule.props)
	rule.props[i].node, rule.props[i].glance = 0, glance{kinds: kindAny}
	p.objects = append(p.objects, rule)
	nd.object = int32(len(p.objects) - 1)
	p.nodes = append(p.nodes, nd)
	other := int32(len(p.nodes) - 1)
	p.copies[other] = n
	if original, ok := p.copies[n]; ok {
		p.copies[other] = original
	}
	return other
}

// allowsTexts reports whether a node allows all of the texts.
func (p *program) allowsTexts(n int32, texts []string) bool {
	nd := &p.nodes[n]
	if nd.kinds&kindString == 0 || nd.value == 0 || nd.text != 0 || nd.mixed != 0 {
		return false
	}
	for _, text := range texts {
		if !p.values[nd.value].texts.has(text) {
			return false
		}
	}
	return true
}
