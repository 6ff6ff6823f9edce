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
	if step, ok := n.Keywords["multipleOf"].(json.Number); ok {
		if r, ok := new(big.Rat).SetString(string(step)); ok && !r.IsInt() {
			l.find("twin-multiple", n, n.At("multipleOf"), "a browser divides doubles, and finds that 19.99 is no multiple of 0.01",
				`count in the smallest unit, as integers: {"type": "integer"}`)
		}
	}
	if pattern, ok := n.Keywords["pattern"].(string); ok {
		l.twinPattern(n, "pattern", pattern)
	}
	if members, ok := n.Keywords["patternProperties"].(map[string]any); ok {
		for _, pattern := range slices.Sorted(maps.Keys(members)) {
			l.twinPattern(n, "patternProperties", pattern)
		}
	}
	if n.Keywords["format"] == "regex" {
		l.twinFormat(n)
	}
	if _, ok := n.Keywords["$dynamicRef"]; ok {
		l.find("twin-reference", n, n.At("$dynamicRef"), "what it leads to depends on the schemas around it, and the module has none of it", `write "$ref"`)
	}
	if ref, ok := n.Keywords["$ref"].(string); ok && n.Ref == nil && strings.HasPrefix(ref, standard) {
		l.find("twin-reference", n, n.At("$ref"), quoted(ref)+" is not in the files, so the module does not have it", "copy what is needed of it into one of the files")
	}
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

func (l *linter) twinFormat(n *schema.Node) {
	l.find("twin-format", n, n.At("format"), "a browser takes for a pattern whatever its own version of ECMA-262 does", `write a "maxLength" instead, and have the application try the pattern`)
}
