package schema

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"unicode/utf8"
)

// placed is a schema, and where it stands.
type placed struct {
	at     string
	value  any
	object map[string]any // value; nil where it is true or false
}

// contradictions reports schemas of the document that allow no value of a kind,
// whatever it is, by what stands side by side in them. Whoever means that writes
// false.
func (d *document) contradictions(known *patterns) error {
	var problems []error
	for _, s := range d.placed {
		s.contradict(known, func(keyword, format string, args ...any) {
			problems = append(problems, &Problem{d.file, child(s.at, keyword), fmt.Errorf("%s; write false if that is meant", fmt.Sprintf(format, args...))})
		})
	}
	return errors.Join(problems...)
}

// Contradiction says why keywords that stand side by side allow no value of a
// kind, whatever it is, and which of them; both are empty where they do not
// contradict one another.
func Contradiction(keywords map[string]any) (keyword, why string) {
	known := newPatterns()
	placed{object: keywords}.contradict(&known, func(name, format string, args ...any) {
		if keyword == "" {
			keyword, why = name, fmt.Sprintf(format, args...)
		}
	})
	return keyword, why
}

// opposites are pairs of bounds, what they bound, and whether a value may be both.
var opposites = []struct {
	low, high, what string
	bothIncluded    bool
}{
	{"minLength", "maxLength", "string", true}, {"minItems", "maxItems", "array", true}, {"minProperties", "maxProperties", "object", true}, {"minContains", "maxContains", "array", true}, {"minContains", "maxItems", "array", true},
	{"minimum", "maximum", "number", true}, {"minimum", "exclusiveMaximum", "number", false}, {"exclusiveMinimum", "maximum", "number", false}, {"exclusiveMinimum", "exclusiveMaximum", "number", false},
}

// noInteger reports whether there is none between two bounds, each of which may be
// included.
func noInteger(low, high *big.Rat, withLow, withHigh bool) bool {
	first, last := new(big.Int).Div(low.Num(), low.Denom()), new(big.Int).Div(high.Num(), high.Denom()) // rounded down
	if !withLow || !low.IsInt() {
		first.Add(first, big.NewInt(1))
	}
	if !withHigh && high.IsInt() {
		last.Sub(last, big.NewInt(1))
	}
	return first.Cmp(last) > 0
}

func (s placed) contradict(known *patterns, bad func(keyword, format string, args ...any)) {
	types := s.types()
	integers := types["integer"] && !types["number"]
	for _, o := range opposites {
		low, high := s.number(o.low), s.number(o.high)
		if low == nil || high == nil || o.low == "minContains" && s.object["contains"] == nil {
			continue
		}
		switch c := low.Cmp(high); {
		case c > 0:
			bad(o.low, "%s is above %s %s, so no %s is allowed", s.object[o.low], o.high, s.object[o.high], o.what)
		case c == 0 && !o.bothIncluded:
			bad(o.low, "%s and %s %s leave no %s between them", s.object[o.low], o.high, s.object[o.high], o.what)
		case o.what == "number" && integers && noInteger(low, high, o.low == "minimum", o.high == "maximum"):
			bad(o.low, "%s and %s %s leave no integer between them", s.object[o.low], o.high, s.object[o.high])
		}
	}
	s.contradictValues(known, bad)
	s.contradictProperties(known, bad)
	if prefix, ok := s.object["prefixItems"].([]any); ok && s.object["items"] == false {
		if least := s.number("minItems"); least != nil && least.Cmp(big.NewRat(int64(len(prefix)), 1)) > 0 {
			bad("minItems", "%s is above the %d of prefixItems, and items is false, so no array is allowed", s.object["minItems"], len(prefix))
		}
	}
}

// contradictValues looks at const and enum.
func (s placed) contradictValues(known *patterns, bad func(keyword, format string, args ...any)) {
	values, isEnum := s.object["enum"].([]any)
	if only, ok := s.object["const"]; ok {
		if by := s.refuses(only, known); by != "" {
			bad("const", "is refused by %s beside it, so nothing is allowed", by)
		}
		if isEnum && !contains(values, only) {
			bad("const", "is none of the enum, so nothing is allowed")
		}
	}
	if !isEnum {
		return
	}
	if len(values) == 0 {
		bad("enum", "is empty, so nothing is allowed")
		return
	}
	by := s.refusals(known)
	if slices.Contains(by, "") {
		return
	}
	slices.Sort(by)
	bad("enum", "has no value that is not refused by %s beside it, so nothing is allowed", strings.Join(slices.Compact(by), " or "))
}

// Refusals says of each value of an enum which keyword beside it refuses it, with
// what that says; nothing of those that are allowed.
func Refusals(keywords map[string]any) []string {
	known := newPatterns()
	return placed{object: keywords}.refusals(&known)
}

func (s placed) refusals(known *patterns) []string {
	values, _ := s.object["enum"].([]any)
	by := make([]string, len(values))
	for i, v := range values {
		by[i] = s.refuses(v, known)
	}
	return by
}

// refuses returns a keyword that refuses a value by itself, with what it says, or
// nothing. Formats may be annotations, so they are left out.
func (s placed) refuses(v any, known *patterns) string {
	by := s.refusing(v, known)
	if by == "" {
		return ""
	}
	says, _ := json.Marshal(s.object[by])
	return fmt.Sprintf("%s %.100s", by, says)
}

func (s placed) refusing(v any, known *patterns) string {
	if !isOfType(v, s.types()) {
		return "type"
	}
	switch v := v.(type) {
	case string:
		if text, ok := s.object["pattern"].(string); ok {
			if p, err := known.compile(text); err == nil && !p.match([]byte(v)) {
				return "pattern"
			}
		}
		return s.outside("minLength", "maxLength", int64(utf8.RuneCountInString(v)))
	case []any:
		return s.outside("minItems", "maxItems", int64(len(v)))
	case map[string]any:
		required, _ := s.object["required"].([]any)
		for _, name := range required {
			if name, isText := name.(string); isText {
				if _, ok := v[name]; !ok {
					return "required"
				}
			}
		}
		return s.outside("minProperties", "maxProperties", int64(len(v)))
	case json.Number:
		return s.refusingNumber(ratOf(v))
	}
	return ""
}

// outside returns which of two keywords that bound a count refuses it.
func (s placed) outside(least, most string, count int64) string {
	n := big.NewRat(count, 1)
	if low := s.number(least); low != nil && n.Cmp(low) < 0 {
		return least
	}
	if high := s.number(most); high != nil && n.Cmp(high) > 0 {
		return most
	}
	return ""
}

func (s placed) refusingNumber(n *big.Rat) string {
	if n == nil {
		return ""
	}
	for _, b := range []struct {
		keyword string
		refused [3]bool // what is below, at and above it
	}{
		{"minimum", [3]bool{true, false, false}}, {"exclusiveMinimum", [3]bool{true, true, false}},
		{"maximum", [3]bool{false, false, true}}, {"exclusiveMaximum", [3]bool{false, true, true}},
	} {
		if bound := s.number(b.keyword); bound != nil && b.refused[1+n.Cmp(bound)] {
			return b.keyword
		}
	}
	if step := s.number("multipleOf"); step != nil && step.Sign() > 0 && !new(big.Rat).Quo(n, step).IsInt() {
		return "multipleOf"
	}
	return ""
}

// types are the names that type has.
func (s placed) types() map[string]bool {
	types := map[string]bool{}
	switch t := s.object["type"].(type) {
	case string:
		types[t] = true
	case []any:
		for _, name := range t {
			if name, ok := name.(string); ok {
				types[name] = true
			}
		}
	}
	return types
}

// mostMatches bounds the look for contradictions that takes every name with every
// pattern.
const mostMatches = 100_000

// contradictProperties looks at required.
func (s placed) contradictProperties(known *patterns, bad func(keyword, format string, args ...any)) {
	required, _ := s.object["required"].([]any)
	if most := s.number("maxProperties"); most != nil && most.Cmp(big.NewRat(int64(len(required)), 1)) < 0 {
		bad("maxProperties", "%s is below the %d that are required, so no object is allowed", s.object["maxProperties"], len(required))
	}
	properties, _ := s.object["properties"].(map[string]any)
	patterns, _ := s.object["patternProperties"].(map[string]any)
	closed := s.object["additionalProperties"] == false && len(required)*len(patterns) <= mostMatches
	if least := s.number("minProperties"); closed && len(patterns) == 0 && least != nil && least.Cmp(big.NewRat(int64(len(properties)), 1)) > 0 {
		bad("minProperties", "%s is above the %d of properties, and additionalProperties is false, so no object is allowed", s.object["minProperties"], len(properties))
	}
	for _, name := range required {
		name, ok := name.(string)
		if !ok {
			continue
		}
		declared, isDeclared := properties[name]
		matches := func(text string) bool {
			p, err := known.compile(text)
			return err != nil || p.MatchString(name)
		}
		switch {
		case declared == false:
			bad("required", "%q is required and its schema is false, so no object is allowed", name)
		case closed && !isDeclared && !slices.ContainsFunc(slices.Collect(maps.Keys(patterns)), matches):
			bad("required", "%q is required, but not among properties, and additionalProperties is false, so no object is allowed", name)
		}
	}
}

// number is the value of a keyword that has a number, or nil.
func (s placed) number(keyword string) *big.Rat {
	return ratOf(s.object[keyword])
}

// isOfType reports whether a value has one of the types, or there are none.
func isOfType(v any, types map[string]bool) bool {
	if len(types) == 0 {
		return true
	}
	switch v := v.(type) {
	case nil:
		return types["null"]
	case bool:
		return types["boolean"]
	case string:
		return types["string"]
	case []any:
		return types["array"]
	case map[string]any:
		return types["object"]
	case json.Number:
		n := ratOf(v)
		return types["number"] || types["integer"] && n != nil && n.IsInt()
	}
	return false
}

// contains reports whether one of the values is v, as JSON Schema has it.
func contains(values []any, v any) bool {
	text, err := json.Marshal([]any{v, values})
	if err != nil {
		return true // which the compiler will report
	}
	var r run
	if _, why := r.read(text, &schemaGuards); why != nil {
		return true
	}
	r.steps = len(text) * 10
	list := r.entries[1].next
	for i := list + 1; i < r.entries[list].next; i = r.entries[i].next {
		if r.equal(1, &r.tape, i) {
			return true
		}
	}
	return false
}
