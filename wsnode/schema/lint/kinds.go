package lint

import (
	"encoding/json"
	"math/big"
	"math/bits"
	"strings"

	"github.com/gatehouse-ws/gatehouse/wsnode/schema"
)

// kinds is a set of JSON's types.
type kinds uint8

const (
	null kinds = 1 << iota
	boolean
	number
	text
	array
	object
	items // of arrays: there wherever array is

	anything = items<<1 - 1
	arrays   = array | items
	// growing are those whose values can be of any size, or hold anything.
	growing = text | arrays | object
)

var typeKinds = map[string]kinds{
	"null": null, "boolean": boolean, "number": number, "integer": number, "string": text, "array": arrays, "object": object,
}

// names are those of JSON Schema.
func (k kinds) names() string {
	var out []string
	for _, name := range []string{"null", "boolean", "number", "string", "array", "object"} {
		if k&typeKinds[name] != 0 {
			out = append(out, name)
		}
	}
	return strings.Join(out, " or ")
}

func (k kinds) single() bool { return bits.OnesCount8(uint8(k&^items)) == 1 }

func kindOf(v any) kinds {
	switch v.(type) {
	case nil:
		return null
	case bool:
		return boolean
	case json.Number:
		return number
	case string:
		return text
	case []any:
		return arrays
	}
	return object
}

// verdict is what schemas let through: of which kinds, and which of these are
// bounded.
type verdict struct{ allowed, bounded kinds }

func (v verdict) open() kinds { return v.allowed & growing &^ v.bounded }

// and is what both let through.
func (v verdict) and(w verdict) verdict { return verdict{v.allowed & w.allowed, v.bounded | w.bounded} }

// or is what one of them lets through.
func (v verdict) or(w verdict) verdict {
	allowed, open := v.allowed|w.allowed, v.open()|w.open()
	return verdict{allowed, anything &^ open}
}

// typesOf are the kinds that type, const and enum of a schema allow.
func typesOf(n *schema.Node) kinds {
	if n.Keywords == nil && n.Never {
		return 0
	}
	k := kinds(anything)
	switch t := n.Keywords["type"].(type) {
	case string:
		k = typeKinds[t]
	case []any:
		k = 0
		for _, name := range t {
			if name, ok := name.(string); ok {
				k |= typeKinds[name]
			}
		}
	}
	if v, ok := n.Keywords["const"]; ok {
		k &= kindOf(v)
	}
	if values, ok := n.Keywords["enum"].([]any); ok {
		var of kinds
		for _, v := range values {
			of |= kindOf(v)
		}
		k &= of
	}
	return k
}

// boundedFormats are those of which no text is longer than some hundred bytes.
var boundedFormats = map[string]bool{"date": true, "email": true, "hostname": true, "ipv4": true, "ipv6": true, "uuid": true}

// own is what a schema lets through by its own keywords, but for those that hold
// schemas of the same value.
func (l *linter) own(n *schema.Node) verdict {
	v := verdict{allowed: typesOf(n)}
	has := func(keyword string) bool { _, ok := n.Keywords[keyword]; return ok }
	if has("const") || has("enum") {
		v.bounded = anything
	}
	format, _ := n.Keywords["format"].(string)
	if has("maxLength") || boundedFormats[format] && !l.annotate {
		v.bounded |= text
	}
	if pattern, ok := n.Keywords["pattern"].(string); ok {
		if s, err := schema.ShapeOf(pattern); err == nil && s.From && s.To && s.Longest >= 0 {
			v.bounded |= text
		}
	}
	if has("items") || has("unevaluatedItems") || fewItems(n) {
		v.bounded |= items
	}
	if has("maxItems") || never(n, "items") || never(n, "unevaluatedItems") {
		v.bounded |= array
	}
	if has("maxProperties") && n.Keywords["maxProperties"] == json.Number("0") || named(n) {
		v.bounded |= object
	}
	return v
}

// fewItems reports whether an array has no items but those of prefixItems.
func fewItems(n *schema.Node) bool {
	most, ok := rational(n.Keywords["maxItems"])
	prefix, _ := n.Keywords["prefixItems"].([]any)
	return ok && most.Cmp(big.NewRat(int64(len(prefix)), 1)) <= 0
}

// named reports whether a schema says something of all properties that an object
// may have.
func named(n *schema.Node) bool {
	return says(n, "additionalProperties") || says(n, "unevaluatedProperties")
}

func never(n *schema.Node, keyword string) bool { return n.Keywords[keyword] == false }

// says reports whether the schema under a keyword is there and is not true or {}.
func says(n *schema.Node, keyword string) bool {
	v, ok := n.Keywords[keyword]
	if o, isObject := v.(map[string]any); isObject {
		return len(o) > 0
	}
	return ok && v != true
}

// together are the schemas that apply to a value wherever one of nodes does: these,
// what they refer to, and those of their allOf.
func together(nodes []*schema.Node) []*schema.Node {
	return reached(nodes, func(n *schema.Node) []*schema.Node { return n.Below("allOf") })
}

// reached are nodes, what they refer to, and what below finds in each of these.
func reached(nodes []*schema.Node, below func(*schema.Node) []*schema.Node) []*schema.Node {
	var out []*schema.Node
	seen := map[*schema.Node]bool{}
	var add func(n *schema.Node)
	add = func(n *schema.Node) {
		if n == nil || seen[n] {
			return
		}
		seen[n] = true
		out = append(out, n)
		add(n.Ref)
		for _, c := range below(n) {
			add(c)
		}
	}
	for _, n := range nodes {
		add(n)
	}
	return out
}

// branches are schemas of which one applies, beside the one they are in.
type branches struct {
	keyword string
	nodes   [][]*schema.Node // each applies with all of its nodes; none for whatever there is
}

// branchesOf returns those of a schema.
func branchesOf(n *schema.Node) []branches {
	var out []branches
	for _, keyword := range []string{"anyOf", "oneOf"} {
		if list := n.Below(keyword); len(list) > 0 {
			b := branches{keyword: keyword}
			for _, c := range list {
				b.nodes = append(b.nodes, []*schema.Node{c})
			}
			out = append(out, b)
		}
	}
	if test := n.Below("if"); len(test) > 0 {
		out = append(out, branches{"if", [][]*schema.Node{append(slicesOf(test), n.Below("then")...), n.Below("else")}})
	}
	return out
}

func slicesOf(nodes []*schema.Node) []*schema.Node { return append([]*schema.Node(nil), nodes...) }

// verdict is what schemas let through that apply together.
func (l *linter) verdict(nodes []*schema.Node) verdict {
	v := verdict{allowed: anything}
	for _, n := range together(nodes) {
		w, ok := l.verdicts[n]
		if !ok {
			w = l.own(n)
			for _, b := range branchesOf(n) {
				w = w.and(l.oneOf(b))
			}
			l.verdicts[n] = w
		}
		v = v.and(w)
	}
	return v
}

func (l *linter) oneOf(b branches) verdict {
	var v verdict
	for _, nodes := range b.nodes {
		v = v.or(l.verdict(nodes))
	}
	return v
}
