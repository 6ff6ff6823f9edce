//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

type object = map[string]any

// schemaMaker makes schemas, and values for them, out of few names and scalars: so
// that what a keyword says of one part of a value often meets what others say of it.
type schemaMaker struct{ *rand.Rand }

var (
	madeNames   = []string{"a", "b", "toString", "valueOf", "__defineGetter__"}
	madeScalars = []any{0, 1, "1", "", "a", "__proto__", "toString", true, false, nil}
	ofLists     = []string{"prefixItems", "prefixItems", "items", "contains", "uniqueItems", "unevaluatedItems", "minItems"}
	ofObjects   = []string{"properties", "patternProperties", "additionalProperties", "propertyNames", "required", "dependentRequired", "dependentSchemas", "unevaluatedProperties"}
	ofAll       = []string{"allOf", "anyOf", "oneOf", "not", "if", "enum", "$ref"}
	madeTypes   = []string{"integer", "string", "boolean", "null", "object", "array"}
)

func pick[T any](m schemaMaker, of []T) T { return of[m.IntN(len(of))] }

func (m schemaMaker) value(depth int) any {
	switch n := m.IntN(4); {
	case depth > 0 && n == 0:
		list := []any{}
		for range m.IntN(4) {
			list = append(list, m.value(depth-1))
		}
		return list
	case depth > 0 && n == 1:
		of := object{}
		for range m.IntN(3) {
			of[pick(m, madeNames)] = m.value(depth - 1)
		}
		return of
	}
	return pick(m, madeScalars)
}

func (m schemaMaker) schema(depth int) any {
	if depth == 0 || m.IntN(6) == 0 {
		return pick(m, []any{true, true, false, object{"type": pick(m, madeTypes)}, object{"type": []string{"object", "array"}}, object{"const": m.value(1)}})
	}
	s, keywords := object{}, slices.Concat(pick(m, [][]string{ofLists, ofObjects}), ofAll)
	for range 1 + m.IntN(4) {
		m.add(s, pick(m, keywords), depth-1)
	}
	return s
}

func (m schemaMaker) schemas(depth int) []any {
	var list []any
	for range 1 + m.IntN(3) {
		list = append(list, m.schema(depth))
	}
	return list
}

// add adds a keyword to a schema.
func (m schemaMaker) add(s object, keyword string, depth int) {
	switch keyword {
	case "prefixItems", "allOf", "anyOf", "oneOf":
		s[keyword] = m.schemas(depth)
	case "contains":
		s[keyword], s["minContains"] = m.schema(depth), m.IntN(2)
		if m.IntN(2) == 0 {
			s["maxContains"] = 1 + m.IntN(2)
		}
	case "not":
		s[keyword] = object{"allOf": m.schemas(depth)}
	case "if":
		s["if"], s["then"], s["else"] = m.schema(depth), m.schema(depth), m.schema(depth)
	case "uniqueItems":
		s[keyword] = true
	case "minItems":
		s[keyword] = m.IntN(3)
	case "properties", "dependentSchemas":
		s[keyword] = object{pick(m, madeNames): m.schema(depth), pick(m, madeNames): m.schema(depth)}
	case "patternProperties":
		s[keyword] = object{pick(m, []string{"^a", "O", "^__"}): m.schema(depth)}
	case "required":
		s[keyword] = []string{pick(m, madeNames)}
	case "dependentRequired":
		s[keyword] = object{pick(m, madeNames): []string{pick(m, madeNames)}}
	case "enum":
		s[keyword] = []any{[]any{"list"}, m.value(1), pick(m, madeNames)}
	case "$ref":
		s[keyword] = "#/$defs/other"
	default:
		s[keyword] = m.schema(depth)
	}
}

// Node and module decide alike by schemas that nobody would write.
func TestTwinOfMadeSchemas(t *testing.T) {
	needs(t, "node")
	m := schemaMaker{rand.New(rand.NewPCG(2, 2))}
	var cases schemaCases
	for i := range 300 {
		s := object{"allOf": []any{m.schema(3)}, "$defs": object{"other": m.schema(1)}}
		text, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var data []any
		for range 60 {
			data = append(data, m.value(3))
		}
		cases.add(t, fmt.Sprintf("made-%d", i), text, data)
	}
	cases.compare(t)
}

// What ajv by itself decides otherwise than a node, or throws at.
func TestTwinWhereAjvIsMended(t *testing.T) {
	needs(t, "node")
	var cases schemaCases
	for i, c := range []struct{ schema, values string }{
		{`{"type":"array","prefixItems":[{"const":1}],"contains":{"const":2}}`, `[[], [1], [1,2]]`},
		{`{"type":"array","prefixItems":[true,true,{"const":1}],"uniqueItems":true}`, `[[1,1], [1,2], [1,2,1], [2,3,1]]`},
		{`{"type":"array","contains":{"type":"array","prefixItems":[{"const":1}],"minItems":0,"uniqueItems":true}}`, `[[[2],[]], [[2]], [[2],[1,3,3]]]`},
		{`{"type":"array","items":{"type":"string"},"uniqueItems":true}`, `[["__proto__","__proto__"], ["__proto__","toString"], ["a","a"]]`},
		{`{"type":"array","uniqueItems":true}`, `[[1,"1",true,null,[],{},"null","[]","{}"], [0,-0.0], [{"a":1,"b":[2]},{"b":[2],"a":1}], [{"a":1},{"a":"1"}], [[1,2],["1,2"]], [[[1]],[1]]]`},
		{`{"type":"array","prefixItems":[{"type":"object"},{"type":"object"}],"items":{"type":"integer"},"uniqueItems":true}`, `[[{"a":1},{"a":1}], [{"a":1},{"a":2},1,2], [{},{"a":1},1,1]]`},
		{`{"type":"object","anyOf":[{"required":["a"],"properties":{"a":true}},{"required":["b"],"properties":{"b":true}}],"unevaluatedProperties":false}`,
			`[{"a":1}, {"a":1,"b":1}, {"b":1,"c":1}, {"a":1,"toString":1}, {"a":1,"valueOf":1}, {"a":1,"hasOwnProperty":1}, {"b":1,"__defineGetter__":1}]`},
		{`{"type":"object","anyOf":[{"required":["a"],"properties":{"a":true}},{"required":["b"]}],"patternProperties":{"^x":{"type":"integer"}}}`, `[{"b":1,"x":1}, {"a":1,"x":1}, {"b":1,"x":""}]`},
		{`{"type":"object","anyOf":[{"required":["a"],"additionalProperties":{"type":"integer"}},{"required":["b"]}],"patternProperties":{"^x":{"type":"integer"}},"unevaluatedProperties":false}`,
			`[{"a":1,"x":1,"c":1}, {"b":1,"x":1}, {"a":"","b":1}]`},
		{`{"type":"array","anyOf":[{"prefixItems":[{"const":1}]},{"maxItems":2}],"unevaluatedItems":false}`, `[[], [1], [2], [1,2]]`},
		{`{"type":"array","anyOf":[{"unevaluatedItems":{"type":"integer"}},{"maxItems":2}],"unevaluatedItems":false}`, `[[1,2,3], [""]]`},
	} {
		var values []any
		if err := json.Unmarshal([]byte(c.values), &values); err != nil {
			t.Fatal(err)
		}
		cases.add(t, fmt.Sprintf("case-%d", i), []byte(c.schema), values)
		if len(cases.types) != i+1 {
			t.Fatalf("no module is made of %s", c.schema)
		}
	}
	cases.compare(t)
}
