package lint

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/gatehouse-ws/gatehouse/wsnode/schema"
)

// twin finds what a browser decides otherwise than a node, with the module that
// gatehouse schema build makes of the same files. Without it, both decide alike on
// whatever JSON.stringify writes.
func (l *linter) twin(n *schema.Node) {
	for _, keyword := range slices.Sorted(maps.Keys(bounds)) {
		l.twinNumber(n, keyword, n.Keywords[keyword])
	}
	l.twinNumber(n, "const", n.Keywords["const"])
	l.twinNumber(n, "enum", n.Keywords["enum"])
	l.twinMultiple(n)
	if pattern, ok := n.Keywords["pattern"].(string); ok {
		l.twinPattern(n, "pattern", pattern)
	}
	if members, ok := n.Keywords["patternProperties"].(map[string]any); ok {
		for _, pattern := range slices.Sorted(maps.Keys(members)) {
			l.twinPattern(n, "patternProperties", pattern)
		}
	}
	if n.Keywords["format"] == "regex" {
		l.find("twin-format", n, n.At("format"), "a browser takes for a pattern whatever its own version of ECMA-262 does", `write a "maxLength" instead, and have the application try the pattern`)
	}
	l.twinUnevaluated(n, "unevaluatedProperties", "if", "dependentSchemas")
	l.twinUnevaluated(n, "unevaluatedItems", "if", "contains", "items")
	if _, ok := n.Keywords["$dynamicRef"]; ok {
		l.find("twin-reference", n, n.At("$dynamicRef"), "what it leads to depends on the schemas around it, and the module has none of it", `write "$ref"`)
	}
	if ref, ok := n.Keywords["$ref"].(string); ok && n.Ref == nil && strings.HasPrefix(ref, standard) {
		l.find("twin-reference", n, n.At("$ref"), quoted(ref)+" is not in the files, so the module does not have it", "copy what is needed of it into one of the files")
	}
}

// twinMultiple finds steps between numbers that a browser can't divide exactly.
func (l *linter) twinMultiple(n *schema.Node) {
	step, ok := rational(n.Keywords["multipleOf"])
	switch {
	case !ok || step.Cmp(big.NewRat(1, 1)) == 0:
	case !step.IsInt():
		l.find("twin-multiple", n, n.At("multipleOf"), "a browser divides doubles, and finds that 19.99 is no multiple of 0.01",
			`count in the smallest unit, as integers: {"type": "integer"}`)
	case !exact(n, "minimum", "exclusiveMinimum") || !exact(n, "maximum", "exclusiveMaximum"):
		l.find("twin-multiple", n, n.At("multipleOf"), "a browser divides doubles, of which those beyond 2^53 are multiples of anything", `add "minimum" and "maximum", of at most 9007199254740991`)
	}
}

// exact reports whether one of two keywords keeps numbers to where doubles have all
// integers.
func exact(n *schema.Node, keyword, other string) bool {
	for _, k := range []string{keyword, other} {
		if r, ok := rational(n.Keywords[k]); ok && new(big.Rat).Abs(r).Cmp(big.NewRat(1<<53, 1)) <= 0 {
			return true
		}
	}
	return false
}

func rational(v any) (*big.Rat, bool) {
	number, ok := v.(json.Number)
	if !ok {
		return nil, false
	}
	return new(big.Rat).SetString(string(number))
}

// twinNumber finds numbers that a browser reads as another one.
func (l *linter) twinNumber(n *schema.Node, keyword string, v any) {
	switch v := v.(type) {
	case json.Number:
		exact, ok := new(big.Rat).SetString(string(v))
		double, err := strconv.ParseFloat(string(v), 64)
		if !ok || err != nil {
			return // of which there is no double at all
		}
		shortest, ok := new(big.Rat).SetString(strconv.FormatFloat(double, 'g', -1, 64))
		if !ok || exact.Cmp(shortest) != 0 {
			l.find("twin-number", n, n.At(keyword), fmt.Sprintf("a browser reads %s as %s", v, strconv.FormatFloat(double, 'g', -1, 64)), "write a number of at most 15 digits, or a string")
		}
	case []any:
		for _, item := range v {
			l.twinNumber(n, keyword, item)
		}
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			l.twinNumber(n, keyword, v[name])
		}
	}
}

func (l *linter) twinPattern(n *schema.Node, keyword, pattern string) {
	s, err := schema.ShapeOf(pattern)
	switch {
	case err != nil:
	case !s.Portable:
		l.find("twin-pattern", n, n.At(keyword), quoted(pattern)+" is no pattern to a browser, which takes them with the flag u", `write \ before { } [ ] ( ) ^ $ . * + ? | / and itself where they stand for themselves, and before nothing else`)
	case asksUnicode(pattern):
		l.find("twin-pattern", n, n.At(keyword), quoted(pattern)+" asks for what characters are, of which a browser may know another version of Unicode", "name the ranges of characters, as [a-zà-öø-ÿ]")
	}
}

// asksUnicode reports whether a pattern has a \p{...}.
func asksUnicode(pattern string) bool {
	for i := 0; i+1 < len(pattern); i++ {
		if pattern[i] == '\\' {
			if i++; pattern[i]|0x20 == 'p' {
				return true
			}
		}
	}
	return false
}

// standard is what the URLs of the draft's own schemas begin with.
const standard = "https://json-schema.org/draft/2020-12/"

// twinUnevaluated finds unevaluated* for whose sake the module would have to know
// what some other keyword has evaluated, and does not.
func (l *linter) twinUnevaluated(n *schema.Node, keyword string, others ...string) {
	if _, ok := n.Keywords[keyword]; !ok {
		return
	}
	for _, s := range inPlace(n) {
		for _, other := range others {
			if _, ok := s.Keywords[other]; ok {
				l.find("twin-unevaluated", n, n.At(keyword), fmt.Sprintf("the module does not know what %s of %s has evaluated", other, s.Place()),
					`close by "additionalProperties" or "items" instead, in each of the branches`)
			}
		}
	}
}

// inPlace are the schemas that apply, or may apply, to the same value as one does.
func inPlace(n *schema.Node) []*schema.Node {
	return reached([]*schema.Node{n}, func(n *schema.Node) (out []*schema.Node) {
		for _, c := range n.Children {
			switch c.Under {
			case "allOf", "anyOf", "oneOf", "if", "then", "else", "dependentSchemas":
				out = append(out, c)
			}
		}
		return out
	})
}
