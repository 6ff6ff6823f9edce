package lint

import (
	"encoding/json"
	"fmt"
	"math/big"
	"slices"

	"github.com/gatehouse-ws/gatehouse/wsnode/schema"
)

// branches looks at the branches of a schema, which apply beside all, and at the
// values within those that a value can take.
func (l *linter) branches(all []*schema.Node, of *schema.Node, b branches) {
	allowed := kinds(anything)
	for _, n := range all {
		allowed &= typesOf(n)
	}
	said := map[string]*schema.Node{} // the first branch that says so
	for i, nodes := range b.nodes {
		if b.keyword == "if" {
			l.condition(of, i, nodes)
			l.branch(all, nodes)
			continue
		}
		text := textOf(nodes[0])
		why := l.unreachable(all, allowed, b, i, said[text])
		if said[text] == nil {
			said[text] = nodes[0]
		}
		switch {
		case allowed == 0: // nothing comes here
		case why == "":
			l.taken[nodes[0]] = true
			l.branch(all, nodes)
		case l.untaken[nodes[0]] == "":
			l.untaken[nodes[0]] = why
		}
	}
}

// dead tells of the branches that no value takes wherever their schema applies.
func (l *linter) dead() {
	for n, why := range l.untaken {
		if !l.taken[n] && l.reached[n]&asked == 0 {
			l.find("unreachable-branch", n, n.Pointer, why, "remove it, or correct what keeps it from being taken")
		}
	}
}

// condition looks at a then or else.
func (l *linter) condition(of *schema.Node, i int, _ []*schema.Node) {
	test := of.Below("if")[0]
	branch := of.Below([]string{"then", "else"}[i])
	never, always := test.Never, test.Keywords == nil && !test.Never || test.Keywords != nil && len(test.Keywords) == 0
	if len(branch) == 1 && (i == 0 && never || i == 1 && always) {
		l.find("unreachable-branch", branch[0], branch[0].Pointer, fmt.Sprintf("if is %t for every value", always), "remove it, or say in if which values it is for")
	}
}

// textOf is what a schema says, the same for two that say the same.
func textOf(n *schema.Node) string {
	text, err := json.Marshal(n.Keywords)
	if err != nil { // but it was read from JSON
		panic(err)
	}
	return fmt.Sprint(n.Never, string(text))
}

// unreachable says why no value takes a branch of an anyOf or oneOf; it is empty
// where one does. same is an earlier branch that says what this one does.
func (l *linter) unreachable(all []*schema.Node, allowed kinds, b branches, i int, same *schema.Node) string {
	branch := b.nodes[i][0]
	v := l.verdict(b.nodes[i])
	switch {
	case branch.Never:
		return "it is false"
	case v.allowed == 0:
		return "no value meets all that it asks for"
	case v.allowed&allowed == 0:
		return "it asks for " + v.allowed.names() + " where only " + allowed.names() + " is allowed"
	}
	if b.keyword == "anyOf" && l.evaluated {
		return ""
	}
	if same != nil {
		why := "it is the same as " + same.Pointer
		if b.keyword == "oneOf" {
			why += ", so neither is the only one that allows a value"
		}
		return why
	}
	if b.keyword == "anyOf" {
		for j, other := range b.nodes {
			if o := other[0]; j != i && !o.Never && len(o.Keywords) == 0 {
				return o.Pointer + " allows everything"
			}
		}
	}
	beside := append(slicesOf(all), together(b.nodes[i])...)
	if why := contradiction(beside, v.allowed&allowed); why != "" {
		return why
	}
	return disjoint(beside)
}

// bounds are the keywords of which, of several schemas that apply together, the
// strictest counts: the largest, or the smallest.
var bounds = map[string]bool{
	"minLength": true, "minItems": true, "minProperties": true, "minimum": true, "exclusiveMinimum": true,
	"maxLength": false, "maxItems": false, "maxProperties": false, "maximum": false, "exclusiveMaximum": false,
}

// contradiction says why schemas that apply together allow none of some kinds of
// value. What one of them says by itself is not looked at: a node refuses to load
// what is contradictory there.
func contradiction(all []*schema.Node, allowed kinds) string {
	merged := map[string]any{}
	var required []any
	listed := map[any]bool{} // in required
	for _, n := range all {
		for keyword, largest := range bounds {
			value, ok := n.Keywords[keyword].(json.Number)
			if before, again := merged[keyword].(json.Number); ok && (!again || less(before, value) == largest) {
				merged[keyword] = value
			}
		}
		names, _ := n.Keywords["required"].([]any)
		for _, name := range names {
			if _, isText := name.(string); isText && !listed[name] {
				listed[name] = true
				required = append(required, name)
			}
		}
		if v, ok := n.Keywords["const"]; ok {
			if first, again := merged["const"]; again && !same(first, v) {
				return "const is not the same in all of the schemas that meet here, so nothing is allowed"
			}
			merged["const"] = v
		}
		if v, ok := n.Keywords["enum"]; ok && merged["enum"] == nil {
			merged["enum"] = v
		}
	}
	if required != nil {
		merged["required"] = required
	}
	keyword, why := schema.Contradiction(merged)
	if keyword == "" || assertsOn[keyword] != 0 && allowed&^assertsOn[keyword] != 0 {
		return ""
	}
	return keyword + " " + why
}

func less(a, b json.Number) bool {
	x, ok := new(big.Rat).SetString(string(a))
	y, also := new(big.Rat).SetString(string(b))
	return ok && also && x.Cmp(y) < 0
}

// disjoint says which property that must be there can have no value, because
// schemas that apply together want others in it.
func disjoint(all []*schema.Node) string {
	for _, n := range all {
		required, _ := n.Keywords["required"].([]any)
		for _, name := range required {
			name, _ := name.(string)
			var first any
			seen := false
			for _, c := range together(propertySchemas(all, name)) {
				only, ok := c.Keywords["const"]
				if ok && seen && !same(first, only) {
					return fmt.Sprintf("%q must be there, and no value of it is allowed by all", name)
				}
				if ok {
					first, seen = only, true
				}
			}
			for _, c := range together(propertySchemas(all, name)) {
				if values, ok := c.Keywords["enum"].([]any); ok && seen && !slices.ContainsFunc(values, func(v any) bool { return same(v, first) }) {
					return fmt.Sprintf("%q must be there, and no value of it is allowed by all", name)
				}
			}
		}
	}
	return ""
}

// same compares values of const and enum.
func same(a, b any) bool {
	_, why := schema.Contradiction(map[string]any{"const": a, "enum": []any{b}})
	return why == ""
}

// impossible tells of schemas that allow no value together. A single false is
// meant.
func (l *linter) impossible(nodes, all []*schema.Node) {
	if len(all) == 1 && nodes[0].Never {
		return
	}
	l.find("contradiction", nodes[0], nodes[0].Pointer, "no type is left that all of the schemas that meet here allow, so no value passes", "correct one of them, or write false if that is meant")
}
