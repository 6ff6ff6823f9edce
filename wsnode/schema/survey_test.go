package schema

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
)

func mustRead(t testing.TB, names []string, pairs ...string) *Survey {
	t.Helper()
	s, err := Read(folder(pairs...), names)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRead(t *testing.T) {
	s := mustRead(t, []string{"b.json", "sub/a.json"},
		"b.json", `{"properties": {"x/y~": {"$ref": "sub/a.json#/$defs/z"}, "b": false}, "allOf": [true, {"$ref": "#here"}, {"$ref": "nowhere"}], "$defs": {"h": {"$anchor": "here"}}}`,
		"sub/a.json", `{"$defs": {"z": {"items": {"minLength": 5}}}}`)
	if len(s.Roots) != 2 || s.Roots[0].File != "b.json" || s.Roots[1].File != "sub/a.json" || s.Roots[1].Parent != nil {
		t.Fatalf("%+v", s.Roots)
	}
	x := s.Roots[0].Below("properties")[1]
	if x.Under != "properties" || x.Name != "x/y~" || x.Pointer != "/properties/x~1y~0" || x.Parent != s.Roots[0] || x.Place() != "b.json#/properties/x~1y~0" || x.At("$ref") != x.Pointer+"/$ref" {
		t.Errorf("%+v", x)
	}
	if z := s.Roots[1].Below("$defs")[0]; x.Ref != z || z.Children[0].Keywords["minLength"] != json.Number("5") || z.Children[0].Name != "" {
		t.Errorf("%+v leads to %+v", x, x.Ref)
	}
	if b := s.Roots[0].Below("properties")[0]; !b.Never || b.Keywords != nil {
		t.Errorf("%+v", b)
	}
	all := s.Roots[0].Below("allOf")
	if len(all) != 3 || all[0].Never || all[1].Ref != s.Roots[0].Below("$defs")[0] || all[2].Ref != nil || all[2].Name != "2" {
		t.Errorf("%+v", all)
	}
	for place, want := range map[string]string{
		"b.json": "b.json#", "b.json#/$defs/h": "b.json#/$defs/h", "b.json#here": "b.json#/$defs/h",
		"b.json#/properties/x~1y~0": "b.json#/properties/x~1y~0", "sub/a.json#/%24defs/z": "sub/a.json#/$defs/z",
	} {
		if n, err := s.Find(place); err != nil || n.Place() != want {
			t.Errorf("%s: %v, %v", place, n, err)
		}
	}
	for _, place := range []string{"c.json", "b.json#/nowhere", "b.json#nowhere", "b.json#/$defs"} {
		if n, err := s.Find(place); err == nil {
			t.Errorf("%s: %v", place, n)
		}
	}
	if _, err := Read(folder("a.json", "{"), []string{"a.json"}); err == nil || err.Error() != "a.json:1:2: not JSON" {
		t.Error(err)
	}
	if _, err := Read(folder("a.json", `{"anyOf": [true`+strings.Repeat(",true", maxSchemas)+`]}`), []string{"a.json"}); err == nil || !strings.Contains(err.Error(), "more than 20000 schemas") {
		t.Error(err)
	}
}

func TestTypesOfAFile(t *testing.T) {
	const typed = `{"properties": {"type": {"const": "chat/1"}}, "required": ["type"]}`
	for text, want := range map[string][]Type{
		`{"$schema": "` + dialect + `", "title": "", "$defs": {"a b": ` + typed + `, "name": {"type": "string"}, "c": {"properties": {"type": {"const": "c"}}}}}`: {{Name: "chat/1", Schema: "a.json#/$defs/a%20b"}},
		`{"type": "object", "$defs": {"a": ` + typed + `}}`: nil,
		typed: nil,
		`{"$defs": {"a": {"properties": {"type": {"const": 5}}, "required": ["type"]}, "b": true}}`: nil,
	} {
		if got := mustRead(t, []string{"a.json"}, "a.json", text).Roots[0].Types("type"); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v", text, got)
		}
	}
}

// A bundle decides as the files do.
func TestBundle(t *testing.T) {
	files := folder("a.json", `{"$schema": "`+dialect+`", "$id": "https://example.com/x", "$comment": "c", "properties": {
			"one": {"$ref": "sub/b"}, "two": {"$ref": "sub/b#/$defs/n"}, "three": {"$ref": "#here"}, "const": {"const": {"$ref": "as it is", "$id": 5}},
			"list": {"prefixItems": [{"$ref": "#/$defs/e%25~1~0"}], "items": false}, "inner": {"$ref": "inner"}},
			"$defs": {"h": {"$anchor": "here", "type": "null"}, "e%/~": {"type": "boolean"}, "i": {"$id": "inner", "$ref": "#/$defs/j", "$defs": {"j": {"minimum": 5}}}}}`,
		"sub/b.json", `{"$id": "https://example.com/sub/b", "type": "object", "$defs": {"n": {"type": "integer", "not": {"const": 7}}}}`)
	s, err := Read(files, []string{"a.json", "sub/b.json"})
	if err != nil {
		t.Fatal(err)
	}
	text, err := s.Bundle()
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"example.com", "$anchor", "$schema", "$comment"} {
		if strings.Contains(string(text), word) {
			t.Errorf("%s is left in %s", word, text)
		}
	}
	cfg := Default()
	cfg.Shared = []string{"sub/b.json"}
	apart, err := CompileOne(files, "a.json", cfg)
	if err != nil {
		t.Fatal(err)
	}
	bundled, err := CompileOne(folder("bundle.json", string(text)), "bundle.json#/$defs/a.json", Default())
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	allowed := 0
	for _, name := range []string{"one", "two", "three", "const", "list", "inner"} {
		for _, value := range []string{"null", "4", "5", "7", "true", "{}", `[true]`, `[null]`, `[true,1]`, `{"$ref":"as it is","$id":5}`} {
			message := []byte(`{"` + name + `":` + value + `}`)
			_, why := apart.Check(message)
			if _, also := bundled.Check(message); (why == nil) != (also == nil) {
				t.Errorf("%s: %v, bundled %v", message, why, also)
			}
			if why == nil {
				allowed++
			}
		}
	}
	if allowed < 10 || allowed > 30 {
		t.Errorf("%d were allowed", allowed)
	}
}

func TestCompileOne(t *testing.T) {
	s, err := CompileOne(folder("a.json", `{"$defs": {"n": {"type": ["integer", "null"], "maximum": 5}}}`), "a.json#/$defs/n", Default())
	if err != nil {
		t.Fatal(err)
	}
	for message, want := range map[string]string{
		"5": "", " null ": "", "6": "message not allowed by its schema: the whole message by a.json#/$defs/n/maximum", `{"type":"n"}`: "message not allowed by its schema: the whole message by a.json#/$defs/n/type, which wants null or integer",
		"{": "not JSON at byte 1", `{"a":1,"a":1}`: "duplicate property name at byte 7",
	} {
		typ, err := s.Check([]byte(message))
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != want || typ != "" {
			t.Errorf("%s: type %q, %s, want %s", message, typ, got, want)
		}
	}
	if _, err := CompileOne(folder("a.json", `{}`), "a.json#/$defs/n", Default()); err == nil {
		t.Error("there is no such place")
	}
}

func TestCheckNames(t *testing.T) {
	text := `{"$defs": {"empty": ` + typed("") + `, "long": ` + typed(strings.Repeat("x", maxTypeBytes+1)) + `, "control": ` + typed(`\u0000`) + `, "fine": ` + typed(strings.Repeat("x", maxTypeBytes)) + `, "again": ` + typed("a") + `, "once": ` + typed("a") + `}}`
	s, err := Read(folder("a.json", text), []string{"a.json"})
	if err != nil {
		t.Fatal(err)
	}
	err = s.CheckNames(s.Roots[0].Types("kind"), "kind")
	for _, want := range []string{
		`a.json#/$defs/empty/properties/kind/const: "", the type's name, is not 1 to 128 bytes`, `a.json#/$defs/long/properties/kind/const: "xxx`, `a.json#/$defs/control/properties/kind/const: "\x00", the`,
		`a.json#/$defs/once/properties/kind/const: "a" is the type of a.json#/$defs/again too`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nlacks %q", err, want)
		}
	}
	if n := strings.Count(err.Error(), "\n") + 1; n != 4 {
		t.Errorf("%d problems: %v", n, err)
	}
}

// typed is a schema of messages whose kind is the type.
func typed(name string) string {
	return `{"required": ["kind"], "properties": {"kind": {"const": "` + name + `"}}}`
}

// Parse says of a message what Check says before it looks at the type.
func TestParse(t *testing.T) {
	s := mustCompile(t, folder("chat.json", `false`), oneType(nil))
	for message, want := range map[string]error{
		`{"type":"chat"}`: nil, `5`: nil, `{`: ErrNotJSON, `{"a":1,"a":2}`: ErrDuplicateName, `{"__proto__":1}`: ErrHazardousName, strings.Repeat("[", 40): ErrTooDeep,
	} {
		if err := s.Parse([]byte(message)); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", message, err, want)
		}
	}
}

func TestContradiction(t *testing.T) {
	if keyword, why := Contradiction(map[string]any{"minLength": json.Number("3"), "maxLength": json.Number("2")}); keyword != "minLength" || why != "3 is above maxLength 2, so no string is allowed" {
		t.Error(keyword, why)
	}
	if keyword, why := Contradiction(map[string]any{"minLength": json.Number("2"), "maxLength": json.Number("2")}); keyword != "" || why != "" {
		t.Error(keyword, why)
	}
}

func TestShapeOf(t *testing.T) {
	for pattern, want := range map[string]Shape{
		"": {Portable: true}, "abc": {Longest: 3, Portable: true}, "^a": {From: true, Longest: 1, Portable: true}, "a$": {To: true, Longest: 1, Portable: true},
		`^[a-z]{2,5}\d?$`: {true, true, 6, true}, `^a*$`: {true, true, -1, true}, `^a|b$`: {Longest: 1, Portable: true}, `^(?:a|bcd)$`: {true, true, 3, true}, `(^a$)|^b$`: {true, true, 1, true},
		`\b^a$\b`: {true, true, 1, true}, `^(a{30}){30}$`: {true, true, 900, true}, `(?:^a)*$`: {To: true, Longest: -1, Portable: true}, `(?:^a){2}`: {From: true, Longest: 2, Portable: true},
		`^(?:$)*$`: {true, true, 0, true}, `^a?b$`: {true, true, 2, true}, `a?^b$`: {To: true, Longest: 2, Portable: true}, `^\-$`: {true, true, 1, false}, `^a{$`: {true, true, 2, false}, `^.$`: {true, true, 1, true},
	} {
		if got, err := ShapeOf(pattern); err != nil || got != want {
			t.Errorf("%q: %+v, %v, want %+v", pattern, got, err, want)
		}
	}
	if _, err := ShapeOf("("); err == nil {
		t.Error("( is no pattern")
	}
}
