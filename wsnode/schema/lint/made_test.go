package lint

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/gatehouse-ws/gatehouse/wsnode/schema"
)

// maker makes schemas at random, of keywords that meet one another.
type maker struct{ *rand.Rand }

func (m maker) one(of ...any) any { return of[m.IntN(len(of))] }

func (m maker) schema(depth int) any {
	if m.IntN(20) == 0 {
		return m.IntN(2) == 0
	}
	s := map[string]any{}
	may := func(keyword string, in int, value func() any) {
		if m.IntN(in) == 0 {
			s[keyword] = value()
		}
	}
	number := func() any { return m.IntN(4) }
	may("type", 2, func() any {
		return m.one("string", "array", "object", "integer", "null", []any{"string", "null"}, []any{"array", "object"})
	})
	may("maxLength", 4, number)
	may("minLength", 8, number)
	may("pattern", 10, func() any { return m.one("^a*$", "a", "^[ab]{1,3}$", "^a|b$") })
	may("const", 14, func() any { return m.one("a", 1, nil, []any{}) })
	may("enum", 14, func() any { return m.one([]any{"a", 1}, []any{nil, []any{1}}, []any{"ab"}) })
	may("maximum", 10, number)
	may("minimum", 10, number)
	may("maxItems", 4, number)
	may("minItems", 12, number)
	may("required", 8, func() any { return []any{m.one("k", "a")} })
	may("additionalProperties", 4, func() any { return m.one(false, false, true, map[string]any{"type": "null"}) })
	may("maxProperties", 8, number)
	if depth == 0 {
		return s
	}
	inner := func() any { return m.schema(depth - 1) }
	list := func() any {
		out := []any{inner()}
		for m.IntN(2) == 0 {
			out = append(out, inner())
		}
		return out
	}
	may("$ref", 8, func() any { return m.one("#/$defs/x", "#/$defs/y") })
	may("items", 3, inner)
	may("prefixItems", 12, list)
	may("properties", 3, func() any { return map[string]any{"k": inner(), "a": inner()} })
	may("patternProperties", 14, func() any { return map[string]any{"^k": inner()} })
	may("dependentSchemas", 14, func() any { return map[string]any{"a": inner()} })
	may("allOf", 8, list)
	may("anyOf", 6, list)
	may("oneOf", 6, list)
	may("not", 14, inner)
	may("if", 12, inner)
	may("then", 12, inner)
	may("else", 12, inner)
	may("unevaluatedProperties", 12, func() any { return m.one(false, map[string]any{"type": "null"}) })
	may("unevaluatedItems", 16, func() any { return false })
	return s
}

func (m maker) file(t *testing.T) string {
	t.Helper()
	root, ok := m.schema(3).(map[string]any)
	if !ok {
		root = map[string]any{}
	}
	root["$defs"] = map[string]any{"x": m.schema(1), "y": m.schema(0)}
	if x, ok := root["$defs"].(map[string]any)["x"].(map[string]any); ok && x["$ref"] != nil {
		x["$ref"] = "#/$defs/y"
	}
	text, err := json.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Whoever has mended all that is found as loose has a schema that lets no string
// and no array of any size pass, and no property that nobody thought of; and what
// no value is said to meet, none does.
func TestMadeSchemas(t *testing.T) {
	loose := map[string]string{
		`"` + strings.Repeat("a", 300) + `"`:         "a long string",
		`"` + strings.Repeat("b", 300) + `"`:         "a long string",
		"[" + strings.Repeat("null,", 300) + "null]": "a long array",
		"[" + strings.Repeat(`"a",`, 300) + `"a"]`:   "a long array",
		`{"zzz":1}`:                                                    "an unknown property",
		`{"zzz":{"z":[]},"k":1,"a":1}`:                                 "an unknown property",
		`{"k":"` + strings.Repeat("a", 300) + `"}`:                     "a long string",
		`{"k":null,"a":"` + strings.Repeat("b", 300) + `"}`:            "a long string",
		`["` + strings.Repeat("a", 300) + `"]`:                         "a long string",
		`{"k":[` + strings.Repeat("null,", 300) + `null],"a":null}`:    "a long array",
		`{"k":{"zzz":1}}`:                                              "an unknown property",
		`{"a":"a","k":` + `{"zzz":"` + strings.Repeat("a", 90) + `"}}`: "an unknown property",
	}
	loads, clean, found := 0, 0, map[string]int{}
	for seed := range uint64(200) {
		text := maker{rand.New(rand.NewPCG(seed, 1))}.file(t)
		files := fstest.MapFS{"a.json": {Data: []byte(text)}}
		set, err := schema.CompileOne(files, "a.json", schema.Default())
		if err != nil {
			continue
		}
		loads++
		got, err := Run(Input{Files: files, Names: []string{"a.json"}, Places: []string{"a.json"}})
		if err != nil {
			t.Fatal(err)
		}
		wantHarmless(t, text, got)
		isLoose := false
		for _, f := range got {
			found[f.Rule]++
			isLoose = isLoose || f.Rule == "any-type" || strings.HasPrefix(f.Rule, "open-") || f.Rule == "unbounded-pattern"
		}
		if isLoose {
			continue
		}
		clean++
		for value, what := range loose {
			if _, err := set.Check([]byte(value)); err == nil {
				t.Errorf("seed %d: nothing loose is found, but %s passes, %.40s: %s", seed, what, value, text)
			}
		}
	}
	if loads < 50 || clean < 3 || found["unreachable-branch"] < 3 || found["contradiction"] < 2 {
		t.Errorf("%d schemas load, of which %d are clean; found %s", loads, clean, fmt.Sprint(found))
	}
}
