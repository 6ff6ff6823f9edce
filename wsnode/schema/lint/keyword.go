package lint

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/gatehouse-ws/gatehouse/wsnode/schema"
)

// assertsOn are the keywords that say something about one kind of value, and
// nothing about others.
var assertsOn = map[string]kinds{
	"minLength": text, "maxLength": text, "pattern": text, "format": text, "contentEncoding": text, "contentMediaType": text, "contentSchema": text,
	"minimum": number, "maximum": number, "exclusiveMinimum": number, "exclusiveMaximum": number, "multipleOf": number,
	"items": arrays, "prefixItems": arrays, "contains": arrays, "minContains": arrays, "maxContains": arrays,
	"minItems": arrays, "maxItems": arrays, "uniqueItems": arrays, "unevaluatedItems": arrays,
	"properties": object, "patternProperties": object, "additionalProperties": object, "propertyNames": object, "required": object,
	"dependentRequired": object, "dependentSchemas": object, "minProperties": object, "maxProperties": object, "unevaluatedProperties": object,
}

// needs are keywords that do nothing without one of others.
var needs = map[string][]string{
	"then": {"if"}, "else": {"if"}, "if": {"then", "else"}, "minContains": {"contains"}, "maxContains": {"contains"},
}

// look judges the keywords of a schema that is reached.
func (l *linter) look(n *schema.Node, how reach) {
	l.idle(n)
	l.values(n)
	l.formats(n)
	l.twin(n)
	look := func(keyword, pattern string) {
		l.slow(n, keyword, pattern)
		if how == asserted {
			l.unanchored(n, keyword, pattern)
		}
	}
	if pattern, ok := n.Keywords["pattern"].(string); ok {
		look("pattern", pattern)
	}
	if members, ok := n.Keywords["patternProperties"].(map[string]any); ok {
		for _, pattern := range slices.Sorted(maps.Keys(members)) {
			look("patternProperties", pattern)
		}
	}
}

// idle finds keywords that do nothing where they stand.
func (l *linter) idle(n *schema.Node) {
	types := typesOf(n)
	for _, keyword := range slices.Sorted(maps.Keys(n.Keywords)) {
		if k := assertsOn[keyword]; k != 0 && types&k == 0 && types != 0 {
			l.find("idle-keyword", n, n.At(keyword), fmt.Sprintf("%s says nothing about %s", keyword, types.names()), `remove it, or correct "type"`)
		}
		others, ok := needs[keyword]
		if !ok || keyword == "if" && l.evaluated || slices.ContainsFunc(others, func(other string) bool { _, ok := n.Keywords[other]; return ok }) {
			continue
		}
		l.find("idle-keyword", n, n.At(keyword), fmt.Sprintf("%s does nothing without %s", keyword, others[0]), fmt.Sprintf("add %q, or remove it", others[0]))
	}
}

// values finds values of an enum that what stands beside it refuses.
func (l *linter) values(n *schema.Node) {
	if by := schema.Refusals(n.Keywords); slices.Contains(by, "") { // else it does not load
		for i, by := range by {
			if by != "" {
				l.find("unreachable-branch", n, n.At("enum")+"/"+strconv.Itoa(i), "a value of it is refused by "+by+", so no message has it", "remove the value, or correct what refuses it")
			}
		}
	}
}

// formats finds what a node reads as an annotation.
func (l *linter) formats(n *schema.Node) {
	for _, keyword := range []string{"contentEncoding", "contentMediaType", "contentSchema"} {
		if _, ok := n.Keywords[keyword]; ok {
			l.find("unasserted-format", n, n.At(keyword), "nothing is held against "+keyword, "remove it, and have the application check")
		}
	}
	format, ok := n.Keywords["format"].(string)
	switch {
	case ok && !schema.IsFormat(format):
		l.find("unasserted-format", n, n.At("format"), "nothing is held against the format "+quoted(format), `write a "pattern" and a "maxLength" instead`)
	case ok && l.annotate:
		l.find("unasserted-format", n, n.At("format"), "with annotate: true nothing is held against the format "+quoted(format), "set annotate: false for the route")
	}
}

// unanchored finds patterns that stand for more than they say.
func (l *linter) unanchored(n *schema.Node, keyword, pattern string) {
	s, err := schema.ShapeOf(pattern)
	if err != nil || s.From && s.To {
		return
	}
	which := "before and after it"
	switch {
	case s.From:
		which = "after it"
	case s.To:
		which = "before it"
	}
	l.find("unanchored-pattern", n, n.At(keyword), quoted(pattern)+" is looked for anywhere: whatever stands "+which+" passes", "begin it with ^ and end it with $, around (?:...) where it has a |")
}

// slow finds patterns that longer texts can't be held against.
func (l *linter) slow(n *schema.Node, keyword, pattern string) {
	if !l.loads { // what is made of all patterns is bounded by the node alone
		return
	}
	most, known := l.mostBytes[pattern]
	if !known {
		var err error
		if most, err = schema.MostBytes(pattern); err != nil {
			return
		}
		l.mostBytes[pattern] = most
	}
	if most < 0 || keyword == "pattern" && short(n, pattern, most) {
		return
	}
	which := fmt.Sprintf("of more than about %d bytes", most)
	if most == 0 {
		which = "of any length"
	}
	l.find("slow-pattern", n, n.At(keyword), quoted(pattern)+" costs so much that texts "+which+" are refused as too complex",
		"repeat by + or * what now is repeated by large numbers, beside a maxLength, or shorten the repetitions")
}

// short reports whether a schema with a pattern allows no text of more than so many
// characters.
func short(n *schema.Node, pattern string, most int) bool {
	if s, err := schema.ShapeOf(pattern); err == nil && s.From && s.To && 0 <= s.Longest && s.Longest <= most {
		return true
	}
	bound, ok := n.Keywords["maxLength"].(json.Number)
	return ok && !less(json.Number(strconv.Itoa(most)), bound)
}

func quoted(s string) string {
	if len(s) > 60 {
		s = s[:60] + "..."
	}
	return strconv.Quote(s)
}
