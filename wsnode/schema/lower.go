package schema

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/big"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// maxNodes bounds a program. References by $dynamicRef can make many schemas of
// few.
const maxNodes = 100_000

// lowering turns compiled schemas into a program.
type lowering struct {
	c    *compiler
	p    *program
	done map[lowered]int32
	// scopes say what a $dynamicRef leads to: the schemas of the outermost
	// resource with that anchor among those entered. By number, and by content.
	scopes  []map[string]*jsonschema.Schema
	scopeOf map[string]int32
	entered map[entering]int32 // what enter has found
	where   []place            // of each node
	consts  []any              // of all const and enum, but for their texts
	choices int                // names and texts that chooser may still look at

	full     bool // more nodes are needed than there may be
	problems []error
	failed   map[string]bool // the texts of problems: schemas are lowered once for each scope
}

// entering is a resource and the scope around it.
type entering struct {
	scope int32
	in    resource
}

// lowered is a schema in a scope. Where $dynamicRef plays no part there is one
// scope.
type lowered struct {
	schema *jsonschema.Schema
	scope  int32
}

type place struct{ file, pointer string }

func (p place) String() string { return p.file + "#" + p.pointer }

func (p place) below(name string) place { return place{p.file, child(p.pointer, name)} }

func newLowering(c *compiler) *lowering {
	l := &lowering{c: c, done: map[lowered]int32{}, scopes: []map[string]*jsonschema.Schema{{}}, scopeOf: map[string]int32{"": 0}, entered: map[entering]int32{}, failed: map[string]bool{}, choices: maxChoices, where: make([]place, 1)}
	l.p = &program{
		nodes: []node{{kinds: kindAny}}, values: make([]valueRule, 1), texts: make([]textRule, 1), numbers: make([]numberRule, 1),
		arrays: make([]arrayRule, 1), objects: make([]objectRule, 1), mixes: make([]mixRule, 1), reasons: map[reason]saying{}, copies: map[int32]int32{},
	}
	return l
}

// add lowers a schema and all that it needs, and returns its node.
func (l *lowering) add(s *jsonschema.Schema) int32 { return l.lower(s, 0) }

// finish completes the program. The error holds every problem.
func (l *lowering) finish() (*program, error) {
	if !l.full {
		l.endless()
	}
	if len(l.problems) > 0 {
		return nil, errors.Join(l.problems...)
	}
	if err := l.settleConsts(); err != nil {
		return nil, err
	}
	l.shorten()
	l.p.hurry(!l.c.cfg.Guards.DuplicateNames)
	return l.p, nil
}

// settleConsts puts the values of const and enum onto the program's tape.
func (l *lowering) settleConsts() error {
	text, err := json.Marshal(l.consts)
	if err != nil {
		return fmt.Errorf("const and enum: %w", err)
	}
	tape := &l.p.consts
	if at, why := tape.read(text, &schemaGuards); why != nil {
		return fmt.Errorf("const and enum, at byte %d of all of them: %w", at, why)
	}
	entries := make([]uint32, 0, len(l.consts))
	for i := uint32(1); len(entries) < len(l.consts); i = tape.entries[i].next {
		entries = append(entries, i)
	}
	hashes := run{tape: *tape}
	for _, rule := range l.p.values {
		for i, o := range rule.others {
			at := entries[o.at]
			rule.others[i] = otherValue{hashes.hash(at), at}
		}
		slices.SortFunc(rule.others, func(a, b otherValue) int { return cmp.Compare(a.hash, b.hash) })
	}
	return nil
}

func (l *lowering) fail(at place, format string, args ...any) {
	p := &Problem{at.file, at.pointer, fmt.Errorf(format, args...)}
	if text := p.Error(); !l.failed[text] {
		l.failed[text] = true
		l.problems = append(l.problems, p)
	}
}

// enter returns the scope within a schema's resource.
func (l *lowering) enter(scope int32, s *jsonschema.Schema) int32 {
	e := entering{scope, l.c.resourceOf(s)}
	inner, ok := l.entered[e]
	if !ok {
		anchors, err := l.c.dynamicAnchors(e.in)
		if err != nil {
			l.fail(l.c.placeOf(s), "%w", err)
			return scope
		}
		inner = l.scopeWithin(scope, anchors)
		l.entered[e] = inner
	}
	return inner
}

// scopeWithin returns the scope with these anchors too, where it has none of the
// name.
func (l *lowering) scopeWithin(scope int32, anchors map[string]*jsonschema.Schema) int32 {
	var inner map[string]*jsonschema.Schema
	for name, target := range anchors {
		if _, ok := l.scopes[scope][name]; ok {
			continue
		}
		if inner == nil {
			inner = maps.Clone(l.scopes[scope])
		}
		inner[name] = target
	}
	if inner == nil {
		return scope
	}
	var content strings.Builder
	for _, name := range slices.Sorted(maps.Keys(inner)) {
		fmt.Fprintf(&content, "%s %p\n", name, inner[name])
	}
	if known, ok := l.scopeOf[content.String()]; ok {
		return known
	}
	l.scopes = append(l.scopes, inner)
	l.scopeOf[content.String()] = int32(len(l.scopes) - 1)
	return int32(len(l.scopes) - 1)
}

// newNode makes a node that stands somewhere and allows everything.
func (l *lowering) newNode(at place) int32 {
	if l.full {
		return 0
	}
	if len(l.p.nodes) >= maxNodes {
		l.full = true
		l.fail(at, "with all that it refers to, this is more than %d schemas; leave out what no message needs", maxNodes)
		return 0
	}
	l.p.nodes = append(l.p.nodes, node{kinds: kindAny})
	l.where = append(l.where, at)
	return int32(len(l.p.nodes) - 1)
}

func (l *lowering) lower(s *jsonschema.Schema, scope int32) int32 {
	if s == nil || l.full || s.Bool != nil && *s.Bool {
		return 0
	}
	scope = l.enter(scope, s)
	if n, ok := l.done[lowered{s, scope}]; ok {
		return n
	}
	at := l.c.placeOf(s)
	n := l.newNode(at)
	l.done[lowered{s, scope}] = n
	if s.Bool != nil {
		l.p.nodes[n].kinds = 0
		l.reason(n, kwFalse, "")
		return n
	}
	nd := node{kinds: l.kinds(n, s)}
	var mix mixRule
	nd.value = l.value(n, s, &mix)
	nd.text = l.text(n, s)
	nd.number = l.number(n, s)
	nd.array = l.array(n, s, scope)
	nd.object = l.object(n, s, scope, &mix)
	nd.mixed, nd.unevaluated = l.mix(n, s, scope, &mix)
	l.p.nodes[n] = nd
	return n
}

// reason notes where a keyword stands that can refuse, and what it wants if that
// can be said.
func (l *lowering) reason(n int32, k keyword, want string) {
	at := l.where[n]
	if k != kwFalse {
		at = at.below(keywordNames[k])
	}
	l.p.reasons[reason{node: n, keyword: k}] = saying{at.String(), want}
}

// list lowers the schemas of an array.
func (l *lowering) list(schemas []*jsonschema.Schema, scope int32) []int32 {
	var out []int32
	for _, s := range schemas {
		out = append(out, l.lower(s, scope))
	}
	return out
}

func (l *lowering) kinds(n int32, s *jsonschema.Schema) kinds {
	if s.Types == nil {
		return kindAny
	}
	l.reason(n, kwType, strings.Join(s.Types.ToStrings(), " or "))
	var out kinds
	for _, name := range s.Types.ToStrings() {
		out |= map[string]kinds{
			"null": kindNull, "boolean": kindBool, "integer": kindInteger, "number": kindNumber, "string": kindString, "array": kindArray, "object": kindObject,
		}[name]
	}
	return out
}

// value lowers const and enum; where both are there, one goes into the mix.
func (l *lowering) value(n int32, s *jsonschema.Schema, mix *mixRule) int32 {
	var out int32
	if s.Const != nil {
		l.reason(n, kwConst, "")
		out = l.addValue(n, kwConst, []any{*s.Const})
	}
	if s.Enum == nil {
		return out
	}
	if out != 0 {
		beside := l.newNode(l.where[n])
		mix.all = append(mix.all, beside)
		l.p.nodes[beside].value = out
		l.reason(beside, kwConst, "")
	}
	l.reason(n, kwEnum, "")
	return l.addValue(n, kwEnum, s.Enum.Values)
}

// maxEnum bounds the values of an enum.
const maxEnum = 10_000

func (l *lowering) addValue(n int32, k keyword, values []any) int32 {
	if len(values) > maxEnum {
		l.fail(l.where[n], "enum has %d values, more than %d; use a pattern, or let the application look them up", len(values), maxEnum)
	}
	rule := valueRule{keyword: k}
	var texts []string
	for _, v := range values {
		if text, ok := v.(string); ok {
			texts = append(texts, text)
			continue
		}
		rule.others = append(rule.others, otherValue{at: uint32(len(l.consts))}) // until settleConsts
		l.consts = append(l.consts, v)
	}
	rule.texts = newTextTable(texts)
	l.p.values = append(l.p.values, rule)
	return int32(len(l.p.values) - 1)
}

// text lowers what applies to strings.
func (l *lowering) text(n int32, s *jsonschema.Schema) int32 {
	rule := textRule{max: unbounded}
	if s.MinLength != nil {
		rule.min = int64(*s.MinLength)
		l.reason(n, kwMinLength, "")
	}
	if s.MaxLength != nil {
		rule.max = int64(*s.MaxLength)
		l.reason(n, kwMaxLength, "")
	}
	if s.Pattern != nil {
		rule.pattern = s.Pattern.(*pattern)
		l.reason(n, kwPattern, "")
	}
	if s.Format != nil {
		if rule.format = formats[s.Format.Name]; rule.format == nil {
			l.fail(l.where[n], "format %q is not checked", s.Format.Name)
		}
		rule.once, rule.weight = formatSteps, formatWeight
		if s.Format.Name == "regex" {
			rule.once, rule.weight = regexSteps, regexWeight
		}
		l.reason(n, kwFormat, s.Format.Name)
	}
	if rule.min == 0 && rule.max == unbounded && rule.pattern == nil && rule.format == nil {
		return 0
	}
	l.p.texts = append(l.p.texts, rule)
	return int32(len(l.p.texts) - 1)
}

// array lowers what applies to arrays.
func (l *lowering) array(n int32, s *jsonschema.Schema, scope int32) int32 {
	rule := arrayRule{max: unbounded, minHits: 1, maxHits: unbounded, allItems: s.Items2020 != nil, unique: s.UniqueItems}
	if s.MinItems != nil {
		rule.min = int64(*s.MinItems)
		l.reason(n, kwMinItems, "")
	}
	if s.MaxItems != nil {
		rule.max = int64(*s.MaxItems)
		l.reason(n, kwMaxItems, "")
	}
	if s.UniqueItems {
		l.reason(n, kwUniqueItems, "")
	}
	rule.prefix = l.list(s.PrefixItems, scope)
	rule.items = l.lower(s.Items2020, scope)
	if s.Contains != nil {
		rule.hasContains = true
		rule.contains = l.lower(s.Contains, scope)
		l.reason(n, kwContains, "")
		if s.MinContains != nil {
			rule.minHits = int64(*s.MinContains)
			l.reason(n, kwMinContains, "")
		}
		if s.MaxContains != nil {
			rule.maxHits = int64(*s.MaxContains)
			l.reason(n, kwMaxContains, "")
		}
	}
	if rule.min == 0 && rule.max == unbounded && !rule.unique && len(rule.prefix) == 0 && !rule.allItems && !rule.hasContains {
		return 0
	}
	l.p.arrays = append(l.p.arrays, rule)
	return int32(len(l.p.arrays) - 1)
}

// number lowers what applies to numbers.
func (l *lowering) number(n int32, s *jsonschema.Schema) int32 {
	var rule numberRule
	for i := range rule.scales {
		rule.scales[i] = scaleRule{low: math.MinInt64, high: math.MaxInt64, multiple: 1}
	}
	add := func(k keyword, value *big.Rat, refused [3]bool) {
		if value == nil {
			return
		}
		l.reason(n, k, "")
		rule.bounds = append(rule.bounds, bound{k, l.decimal(n, k, value), refused})
		for scale := range rule.scales {
			rule.scales[scale].bound(new(big.Rat).Mul(value, new(big.Rat).SetInt(powerOfTen(scale))), refused)
		}
	}
	add(kwMinimum, s.Minimum, [3]bool{true, false, false})
	add(kwExclusiveMinimum, s.ExclusiveMinimum, [3]bool{true, true, false})
	add(kwMaximum, s.Maximum, [3]bool{false, false, true})
	add(kwExclusiveMaximum, s.ExclusiveMaximum, [3]bool{false, true, true})
	if s.MultipleOf != nil {
		l.reason(n, kwMultipleOf, "")
		if rule.multiple = l.decimal(n, kwMultipleOf, s.MultipleOf); rule.multiple.text != nil {
			l.fail(l.where[n].below("multipleOf"), "has more than %d digits; write a coarser step", maxDigits)
			return 0
		}
		for scale := range rule.scales {
			// n × 10^-scale is a multiple of p/q if n is one of 10^scale × p/q, and
			// that of its numerator.
			step := new(big.Rat).Mul(s.MultipleOf, new(big.Rat).SetInt(powerOfTen(scale)))
			rule.scales[scale].multiple = saturate(step.Num()) // of which only 0 is one, if it does not fit
		}
	}
	if len(rule.bounds) == 0 && rule.multiple.n == 0 {
		return 0
	}
	l.p.numbers = append(l.p.numbers, rule)
	return int32(len(l.p.numbers) - 1)
}

// bound lowers a bound of the numbers n.
func (r *scaleRule) bound(value *big.Rat, refused [3]bool) {
	whole, isWhole := new(big.Int).Div(value.Num(), value.Denom()), value.IsInt() // rounded down
	one := big.NewInt(1)
	switch {
	case refused[0] && (refused[1] || !isWhole):
		r.low = max(r.low, saturate(whole.Add(whole, one)))
	case refused[0]:
		r.low = max(r.low, saturate(whole))
	case refused[1] && isWhole:
		r.high = min(r.high, saturate(whole.Sub(whole, one)))
	default:
		r.high = min(r.high, saturate(whole))
	}
}

func powerOfTen(n int) *big.Int { return new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(n)), nil) }

// decimal reads a number of a schema as those of messages are read.
func (l *lowering) decimal(n int32, k keyword, value *big.Rat) decimal {
	places := 0
	for d := value.Denom(); !d.IsInt64() || d.Int64() != 1; places++ { // what is JSON has twos and fives there
		d = new(big.Int).Quo(d, new(big.Int).GCD(nil, nil, d, big.NewInt(10)))
	}
	digits := powerOfTen(places)
	digits.Mul(digits, value.Num()).Quo(digits, value.Denom())
	text := digits.String()
	if short := strings.TrimRight(text, "0"); short != "" {
		places -= len(text) - len(short)
		text = short
	}
	var t tape
	guards := Guards{Depth: 1, Names: 1, Tokens: 1, WideNumbers: true}
	if _, why := t.read(fmt.Appendf(nil, "%se%d", text, -places), &guards); why != nil {
		l.fail(l.where[n].below(keywordNames[k]), "has more than %d digits; write a shorter number", maxNumberBytes)
		return decimal{}
	}
	return t.decimal(&t.entries[0])
}

// saturate returns the nearest int64.
func saturate(n *big.Int) int64 {
	switch {
	case n.IsInt64():
		return n.Int64()
	case n.Sign() < 0:
		return math.MinInt64
	}
	return math.MaxInt64
}
