package lint

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/gatehouse-ws/gatehouse/wsnode/schema"
)

// found lints files, given as pairs of name and text, of which the first one's own
// schema is that of messages.
func found(t *testing.T, annotate bool, files ...string) []Finding {
	t.Helper()
	in := Input{Files: fstest.MapFS{}, Places: files[:1], Annotate: annotate}
	for i := 0; i < len(files); i += 2 {
		in.Files.(fstest.MapFS)[files[i]] = &fstest.MapFile{Data: []byte(files[i+1])}
		in.Names = append(in.Names, files[i])
	}
	out, err := Run(in)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// brief writes findings as rule and place.
func brief(found []Finding) string {
	var out []string
	for _, f := range found {
		out = append(out, f.Rule+" "+f.Pointer)
	}
	return strings.Join(out, ", ")
}

func TestEachRuleFindsItsOwnAndNothingElse(t *testing.T) {
	var names []string
	for _, r := range Rules() {
		t.Run(r.Name, func(t *testing.T) {
			bad := found(t, false, "a.json", r.Bad)
			if len(bad) != 1 || bad[0].Rule != r.Name || bad[0].File != "a.json" || bad[0].Why == "" || bad[0].Fix == "" {
				t.Errorf("%s: %+v", r.Bad, bad)
			}
			if left := found(t, false, "a.json", r.Mended); len(left) > 0 {
				t.Errorf("%s: %+v", r.Mended, left)
			}
		})
		if r.Finds == "" || r.Why == "" || slices.Contains(names, r.Name) {
			t.Errorf("%+v", r)
		}
		names = append(names, r.Name)
	}
}

func TestRules(t *testing.T) {
	const closed = `"additionalProperties": false`
	for _, test := range []struct {
		rule, schema string
		want         string // of brief
	}{
		// What several schemas say of one value counts together.
		{"a bound in what is referred to", `{"type": "string", "$ref": "#/$defs/a", "$defs": {"a": {"maxLength": 5}}}`, ""},
		{"a bound in allOf", `{"type": "string", "allOf": [{"minLength": 1}, {"maxLength": 5}]}`, ""},
		{"a bound beside anyOf", `{"maxLength": 5, "anyOf": [{"type": "string", "minLength": 1}, {"type": "null"}]}`, ""},
		{"a bound in each branch", `{"type": "string", "oneOf": [{"maxLength": 5}, {"const": "whatever"}]}`, ""},
		{"a bound in one branch", `{"oneOf": [{"type": "string", "maxLength": 5}, {"type": "string", "pattern": "^a*$"}]}`, "unbounded-pattern /oneOf/1/pattern"},
		{"a bound in then alone", `{"type": "string", "if": {"pattern": "a"}, "then": {"maxLength": 5}}`, "open-string "},
		{"a bound in then and else", `{"type": "string", "if": {"pattern": "a"}, "then": {"maxLength": 5}, "else": {"maxLength": 9}}`, ""},
		{"the place of what is loose is where its type is", `{"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"type": ["null", "string"]}}}`, "open-string /$defs/b"},
		{"what is loose at several places is told once", `{"type": "object", ` + closed + `, "properties": {"x": {"$ref": "#/$defs/a"}, "y": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"type": "string"}}}`, "open-string /$defs/a"},
		{"a property that two schemas name", `{"type": "object", ` + closed + `, "properties": {"x": {"type": "string"}}, "allOf": [{"properties": {"x": {"maxLength": 5}}}]}`, ""},
		{"a property that a branch bounds, and one it does not", `{"type": "object", ` + closed + `, "properties": {"x": {"type": "string", "maxLength": 5}, "y": {"type": "string", "maxLength": 5}}, "anyOf": [{"properties": {"x": {"minLength": 1}}, "required": ["x"]}, {"required": ["y"]}]}`, ""},
		{"a property of a branch alone", `{"type": "object", "unevaluatedProperties": false, "anyOf": [{"properties": {"x": {"type": "string"}}}, {"properties": {"y": {"type": "array", "maxItems": 1, "items": {}}}}]}`,
			"open-string /anyOf/0/properties/x, any-type /anyOf/1/properties/y/items"},
		{"a property that another schema forbids", `{"type": "object", "properties": {"x": false}, "allOf": [{"properties": {"x": {"type": "string"}}, ` + closed + `}]}`, ""},
		{"a schema that comes back to itself further in", `{"type": "object", ` + closed + `, "properties": {"next": {"$ref": "#"}, "all": {"type": "array", "maxItems": 3, "items": {"$ref": "#"}}}}`, ""},
		{"an item beyond prefixItems", `{"type": "array", "maxItems": 9, "prefixItems": [{"type": "string"}], "items": {"type": "string"}}`, "open-string /items, open-string /prefixItems/0"},
		{"no item beyond prefixItems", `{"type": "array", "prefixItems": [{"type": "null"}], "items": false}`, ""},
		{"properties by pattern", `{"type": "object", ` + closed + `, "maxProperties": 9, "patternProperties": {"^x-": {"type": "string"}}}`, "unanchored-pattern /patternProperties, open-string /patternProperties/^x-"},
		{"properties that a property brings about", `{"type": "object", "unevaluatedProperties": false, "dependentSchemas": {"a": {"properties": {"b": {"type": "string"}}}}}`, "open-string /dependentSchemas/a/properties/b, twin-unevaluated /unevaluatedProperties"},

		{"formats that bound", `{"type": "string", "anyOf": [{"format": "uuid"}, {"format": "ipv6"}, {"format": "date"}, {"format": "email"}, {"format": "hostname"}]}`, ""},
		{"a format that does not", `{"type": "string", "format": "uri"}`, "open-string "},
		{"const and enum", `{"enum": ["a", {"b": []}]}`, ""},
		{"a pattern that begins in each of its branches", `{"type": "string", "pattern": "^(?:a|b)$|^c$"}`, ""},
		{"a pattern that one of its branches begins", `{"type": "string", "maxLength": 5, "pattern": "^a|b$"}`, "unanchored-pattern /pattern"},
		{"patterns of what is not allowed", `{"type": "string", "maxLength": 5, "not": {"pattern": "<"}}`, ""},

		{"a pattern that costs too much in longer texts, and short ones", `{"type": "string", "maxLength": 3, "pattern": "^[ab]*a[ab]{14}$"}`, ""},
		{"and texts that it bounds itself", `{"type": "string", "pattern": "^(?:[ab]{0,2}a[ab]{1,2}\\.?)$"}`, ""},
		{"and texts of any length", `{"type": "object", ` + closed + `, "properties": {"x": {"type": "string", "maxLength": 50, "not": {"pattern": "a[ab]{14}$"}}}}`, "slow-pattern /properties/x/not/pattern"},

		{"an object that a reference closes", `{"$ref": "#/$defs/a", "properties": {"x": true}, "$defs": {"a": {"type": "object", "unevaluatedProperties": false, "properties": {"x": {"type": "null"}}}}}`, ""},
		{"additionalProperties that allow anything", `{"type": "object", "additionalProperties": {}}`, "open-object , any-type /additionalProperties"},
		{"a type in words of another", `{"properties": {"x": {"type": "null"}}, ` + closed + `}`, "any-type "},
		{"a type and a value beyond it", `{"type": "string", "enum": ["a", 1]}`, "unreachable-branch /enum/1"},
		{"a length, a pattern and values beyond them", `{"type": "string", "maxLength": 3, "pattern": "^[a-z]*$", "enum": ["abcd", "a", "A"]}`, "unreachable-branch /enum/0, unreachable-branch /enum/2"},
		{"bounds of another schema and a value beyond them", `{"type": "integer", "const": 5, "allOf": [{"maximum": 4}]}`, "contradiction "},
		{"keywords of several types", `{"type": ["array", "null"], "minItems": 1, "required": ["x"], "maxItems": 2, "items": {"type": "null"}}`, "idle-keyword /required"},
		{"if alone", `{"type": "null", "if": {"const": null}}`, "idle-keyword /if"},
		{"then and else alone", `{"type": "null", "then": {"const": null}, "else": {"const": null}}`, "idle-keyword /else, idle-keyword /then"},
		{"minContains alone", `{"type": "array", "maxItems": 2, "items": {"type": "null"}, "minContains": 1}`, "idle-keyword /minContains"},

		{"types that meet", `{"type": "string", "allOf": [{"type": "object"}]}`, "contradiction "},
		{"numbers that meet", `{"type": "integer", "minimum": 5, "allOf": [{"maximum": 3}]}`, "contradiction "},
		{"a contradiction about one type of two", `{"type": ["integer", "null"], "minimum": 5, "allOf": [{"maximum": 3}]}`, ""},
		{"two consts", `{"$ref": "#/$defs/a", "const": 1, "$defs": {"a": {"const": 2}}}`, "contradiction "},
		{"two consts of one property", `{"type": "object", ` + closed + `, "required": ["k"], "properties": {"k": {"const": 1}}, "allOf": [{"properties": {"k": {"const": 2}}}]}`, "contradiction , contradiction /properties/k"},
		{"a branch of another type", `{"type": "object", ` + closed + `, "anyOf": [{"required": []}, {"type": "array"}]}`, "unreachable-branch /anyOf/1"},
		{"a branch twice in oneOf", `{"oneOf": [{"type": "null"}, {"type": "integer"}, {"type": "null"}]}`, "unreachable-branch /oneOf/2"},
		{"a branch beside one for everything", `{"type": "null", "anyOf": [{"const": null}, true]}`, "unreachable-branch /anyOf/0"},
		{"a branch of false", `{"type": "null", "anyOf": [{"const": null}, false]}`, "unreachable-branch /anyOf/1"},
		{"a branch for another value", `{"type": "object", ` + closed + `, "required": ["k"], "properties": {"k": {"const": "a"}}, "anyOf": [{"properties": {"k": {"enum": ["a", "b"]}}}, {"properties": {"k": {"const": "c"}}}]}`, "unreachable-branch /anyOf/1"},
		{"a branch out of bounds", `{"type": "integer", "maximum": 5, "oneOf": [{"minimum": 6}, {"minimum": 1}]}`, "unreachable-branch /oneOf/0"},
		{"branches that are there for what they evaluate", `{"type": "array", "maxItems": 3, "unevaluatedItems": false, "anyOf": [{"prefixItems": [{"type": "null"}]}, {}]}`, ""},
		{"an else that never is", `{"type": "null", "if": true, "then": {"const": null}, "else": {"const": null}}`, "unreachable-branch /else"},
		{"a then that never is", `{"type": "null", "if": false, "then": {"const": null}}`, "unreachable-branch /then"},

		{"a definition within one that is not used", `{"$ref": "#/$defs/a/$defs/b", "$defs": {"a": {"$defs": {"b": {"type": "null"}, "c": {"type": "null"}}}}}`, "unused-definition /$defs/a/$defs/c"},
		{"a definition that uses itself", `{"type": "null", "$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}}`, "unused-definition /$defs/a"},

		{"numbers that doubles hold", `{"type": "number", "enum": [0.1, 1e3, 9007199254740991, 123456789012345, 1.7976931348623157e308]}`, ""},
		{"numbers that they don't", `{"enum": [[9007199254740993], {"a": 0.30000000000000000001}]}`, "twin-number /enum, twin-number /enum"},
		{"steps of one", `{"type": "integer", "multipleOf": 1.0}`, ""},
		{"steps without bounds", `{"anyOf": [{"type": "integer", "multipleOf": 2, "maximum": 9}, {"type": "integer", "multipleOf": 2, "minimum": -1e20, "maximum": 9}, {"type": "number", "multipleOf": 2, "exclusiveMinimum": 0, "exclusiveMaximum": 9007199254740991}]}`,
			"twin-multiple /anyOf/0/multipleOf, twin-multiple /anyOf/1/multipleOf"},
		{"patterns that browsers have", `{"type": "string", "maxLength": 9, "pattern": "^\\\\p\\{\\.[\\-a]$"}`, ""},
		{"patterns that they don't", `{"type": "string", "maxLength": 9, "pattern": "^a{$"}`, "twin-pattern /pattern"},
		{"classes of Unicode", `{"type": "object", ` + closed + `, "maxProperties": 3, "patternProperties": {"^\\p{L}$": {"type": "null"}}}`, "twin-pattern /patternProperties"},
		{"what if has evaluated, by a reference", `{"$ref": "#/$defs/a", "unevaluatedItems": false, "type": "array", "maxItems": 3, "$defs": {"a": {"anyOf": [{"if": {"maxItems": 1}, "then": {"minItems": 1}}]}}}`, "twin-unevaluated /unevaluatedItems"},
		{"the standard's own schema", `{"type": "object", ` + closed + `, "properties": {"x": {"$ref": "https://json-schema.org/draft/2020-12/schema"}}}`, "any-type /properties/x, twin-reference /properties/x/$ref"},
	} {
		found := found(t, false, "a.json", test.schema)
		wantHarmless(t, test.schema, found)
		if got := brief(found); got != test.want {
			t.Errorf("%s: %s\n got %s\nwant %s", test.rule, test.schema, got, test.want)
		}
	}
}

func TestAnnotate(t *testing.T) {
	const schema = `{"type": "string", "format": "uuid"}`
	if got := brief(found(t, false, "a.json", schema)); got != "" {
		t.Error(got)
	}
	if got := brief(found(t, true, "a.json", schema)); got != "open-string , unasserted-format /format" {
		t.Error(got)
	}
	if got := brief(found(t, true, "a.json", `{"type": "string", "maxLength": 4, "contentEncoding": "base64"}`)); got != "unasserted-format /contentEncoding" {
		t.Error(got)
	}
}

func TestSeveralFiles(t *testing.T) {
	got := found(t, false, "b.json", `{"$ref": "sub/a.json#/$defs/x"}`, "sub/a.json", `{"$defs": {"x": {"type": "string"}, "y": {"type": "null"}}}`)
	if len(got) != 2 || got[0].Place() != "sub/a.json#/$defs/x" || got[1].Rule != "unused-definition" || got[1].Place() != "sub/a.json#/$defs/y" {
		t.Errorf("%+v", got)
	}
}

// What keeps a node from loading is told with its places, and what is about formats
// alone does not hide the rest.
func TestDoesNotLoad(t *testing.T) {
	got := found(t, false, "a.json", `{"foo": 1, "$ref": "#/nowhere", "properties": {"x": {"minLength": 3, "maxLength": 2}}}`)
	if brief(got) != "does-not-load /$ref, does-not-load /foo" || !strings.HasPrefix(got[1].Why, "foo is no keyword of draft 2020-12") {
		t.Errorf("%+v", got)
	}
	if got := brief(found(t, false, "a.json", `{"anyOf": [{"$ref": "#"}, {"type": "string"}]}`)); got != "does-not-load " {
		t.Error(got)
	}
	if got := brief(found(t, false, "a.json", `{"type": "string", "format": "phone"}`)); got != "open-string , unasserted-format /format" {
		t.Error(got)
	}
	one := `{"required": ["k"], "properties": {"k": {"const": "x", "type": "string"}}, "type": "object", "additionalProperties": false}`
	files := fstest.MapFS{"a.json": {Data: []byte(`{"$defs": {"a": ` + one + `, "b/c": ` + one + `}}`)}, "b.json": {Data: []byte(one)}}
	got, err := Run(Input{Files: files, Names: []string{"a.json", "b.json"}, Places: []string{"b.json", "a.json#/$defs/a", "a.json#/$defs/b~1c", "a.json#/$defs/a"}, Discriminator: "k"})
	if err != nil || brief(got) != "does-not-load /$defs/b~1c/properties/k/const" || got[0].Why != `"x" is the type of a.json#/$defs/a too; give each type one schema` { // but another route may have it
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := Run(Input{Files: fstest.MapFS{"a.json": {Data: []byte(`{"type": }`)}}, Names: []string{"a.json"}, Places: []string{"a.json"}}); err == nil || err.Error() != "a.json:1:10: not JSON" {
		t.Error(err)
	}
}

// Schemas that meet in more ways than can be looked at end the search, and what is
// found until then is told.
func TestTooEntangled(t *testing.T) {
	var defs strings.Builder
	for i := range 200 {
		fmt.Fprintf(&defs, `,"d%d":{"anyOf":[{"$ref":"#/$defs/d%d"},{"allOf":[{"$ref":"#/$defs/d%d"}],"minProperties":%d}]}`, i, i+1, i+1, i%7)
	}
	schema := `{"$ref":"#/$defs/d0","$defs":{"d200":{"type":"object","properties":{"x":{"type":"string"}}}` + defs.String() + `}}`
	got, err := Run(Input{Files: fstest.MapFS{"a.json": {Data: []byte(schema)}}, Names: []string{"a.json"}, Places: []string{"a.json"}})
	if !errors.Is(err, ErrTooEntangled) || brief(got) != "open-object /$defs/d200, open-string /$defs/d200/properties/x" {
		t.Errorf("%v: %s", err, brief(got))
	}
}

// samples are values of every kind, to find out what schemas allow.
var samples = strings.Fields(`null true 0 1 -1 1.5 3 5 6 100 "" "a" "ab" "abcdef" "c" [] [null] [1] ["a"] [1,2] [1,1] [true,"a",1] {} {"a":1} {"a":"a"} {"b":null} {"k":"a"} {"k":"c"} {"a":1,"b":2} {"foo":1} {"a":{"a":1}} {"a":[]}`)

// wantHarmless checks what is said of schemas that no value meets: they may as well
// be false.
func wantHarmless(t *testing.T, text string, found []Finding) {
	t.Helper()
	allows := func(text string) (out string) {
		s, err := schema.CompileOne(fstest.MapFS{"a.json": {Data: []byte(text)}}, "a.json", schema.Default())
		if err != nil {
			return "" // false may be one contradiction more
		}
		for _, v := range samples {
			if _, err := s.Check([]byte(v)); err == nil {
				out += v + " "
			}
		}
		return out + "."
	}
	for _, f := range found {
		switch {
		case f.Rule == "contradiction" && f.Pointer == "":
			if got := allows(text); got != "." && got != "" {
				t.Errorf("%s: %s, but it allows %s", text, f.Why, got)
			}
		case f.Rule == "unreachable-branch" && !strings.Contains(f.Pointer, "/enum/") && !strings.Contains(f.Why, "so neither") && !strings.Contains(f.Why, "allows everything"):
			d := json.NewDecoder(strings.NewReader(text))
			d.UseNumber()
			var root any
			if err := d.Decode(&root); err != nil {
				continue // a duplicate name, which the parser of schemas would not take either
			}
			without, err := json.Marshal(falsified(root, strings.Split(f.Pointer, "/")[1:]))
			if err != nil {
				t.Fatal(err)
			}
			if is, was := allows(string(without)), allows(text); is != was && is != "" && was != "" {
				t.Errorf("%s: %s: %s, but without it there is\n%s instead of\n%s", text, f.Pointer, f.Why, is, was)
			}
		}
	}
}

// falsified is v with false at a place.
func falsified(v any, steps []string) any {
	if len(steps) == 0 {
		return false
	}
	step := strings.NewReplacer("~1", "/", "~0", "~").Replace(steps[0])
	switch v := v.(type) {
	case map[string]any:
		v[step] = falsified(v[step], steps[1:])
	case []any:
		i, _ := strconv.Atoi(step)
		v[i] = falsified(v[i], steps[1:])
	}
	return v
}

// Whatever a file says, each finding is of a rule and has a place, and is found
// again; and what no value is said to meet, none does.
func FuzzRun(f *testing.F) {
	for _, seed := range []string{
		`{"type":"object","required":["k"],"properties":{"k":{"const":"a"}},"patternProperties":{"^k":{"type":"string"}},"anyOf":[{"properties":{"k":{"const":"c"}}},{"required":["a"]}]}`,
		`{"allOf":[{"type":["integer","null"],"minimum":2},{"maximum":1}],"oneOf":[{"type":"null"},{"enum":[1,"a"]}]}`,
		`{"if":{"minLength":2},"then":{"maxLength":1},"else":{"const":"a"},"dependentSchemas":{"a":{"maxProperties":1}}}`,
		`{"$ref":"#/$defs/a","anyOf":[{"$ref":"#/$defs/a"},{"minItems":2,"contains":{"const":1}}],"$defs":{"a":{"maxItems":1}}}`,
	} {
		f.Add(seed)
	}
	for _, r := range Rules() {
		f.Add(r.Bad)
		f.Add(r.Mended)
	}
	f.Fuzz(func(t *testing.T, text string) {
		in := Input{Files: fstest.MapFS{"a.json": {Data: []byte(text)}}, Names: []string{"a.json"}, Places: []string{"a.json"}}
		found, err := Run(in)
		if err != nil {
			return
		}
		for _, f := range found {
			if !slices.ContainsFunc(Rules(), func(r Rule) bool { return r.Name == f.Rule }) || f.Why == "" || f.Fix == "" {
				t.Errorf("%+v", f)
			}
			if f.File != "a.json" && f.Rule != "does-not-load" || f.Pointer != "" && f.Pointer[0] != '/' {
				t.Errorf("%+v", f)
			}
		}
		wantHarmless(t, text, found)
		again, _ := Run(in)
		if !slices.Equal(found, again) {
			t.Errorf("once %+v\nthen %+v", found, again)
		}
	})
}

// Twice as many branches, or names, take twice as much. Allocations are what can
// be counted.
func TestRunIsLinear(t *testing.T) {
	listed := func(n int, format string) string {
		all := make([]string, n)
		for i := range all {
			all[i] = fmt.Sprintf(format, i)
		}
		return strings.Join(all, ",")
	}
	once := func(n int) float64 {
		return testing.AllocsPerRun(1, func() {
			found(t, false, "a.json", `{"required":[`+listed(n, `"n%d"`)+`],"oneOf":[`+listed(n, `{"required":["k"],"properties":{"k":{"const":"v%d"}}}`)+`]}`)
		})
	}
	if few, many := once(100), once(400); many > 5*few {
		t.Errorf("%v allocations for 100, %v for 400", few, many)
	}
}
