package schema

import (
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
)

// folder makes files of pairs of name and text.
func folder(pairs ...string) fs.FS {
	out := fstest.MapFS{}
	for i := 0; i < len(pairs); i += 2 {
		out[pairs[i]] = &fstest.MapFile{Data: []byte(pairs[i+1])}
	}
	return out
}

// oneType is a route with the type chat, whose schema is chat.json.
func oneType(edit func(*Config)) Config {
	c := Default()
	c.Types = []Type{{Name: "chat", Schema: "chat.json"}}
	if edit != nil {
		edit(&c)
	}
	return c
}

func mustCompile(t testing.TB, files fs.FS, cfg Config) *Set {
	t.Helper()
	s, err := Compile(files, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestCompileRefuses(t *testing.T) {
	shared := func(c *Config) { c.Shared = []string{"common.json"} }
	for _, test := range []struct {
		rule   string
		schema string // chat.json
		common string // common.json, listed if not empty
		want   string
	}{
		{"an unknown keyword", `{"properties":{"text":{"maxLenght":5}}}`, "", "chat.json#/properties/text/maxLenght: maxLenght is no keyword of draft 2020-12"},
		{"an unknown keyword in a subschema of every kind", `{"allOf":[{"not":{"items":{"$defs":{"a/b~c":{"foo":1}}}}}]}`, "", "chat.json#/allOf/0/not/items/$defs/a~1b~0c/foo: foo is no keyword"},
		{"an unknown keyword that no message reaches", `{"$defs":{"unused":{"foo":1}}}`, "", "chat.json#/$defs/unused/foo: foo is no keyword"},
		{"an unknown keyword of a shared file", `{}`, `{"foo":1}`, "common.json#/foo: foo is no keyword"},
		{"an older draft's definitions", `{"definitions":{}}`, "", "chat.json#/definitions: definitions is no keyword of draft 2020-12; write $defs"},
		{"an older draft's dependencies", `{"dependencies":{}}`, "", "write dependentRequired or dependentSchemas"},
		{"an older draft's additionalItems", `{"additionalItems":false}`, "", "write items after prefixItems"},
		{"an older draft's items", `{"items":[{"type":"string"}]}`, "", `chat.json#/items: is [{"type":"string"}]; write an object, true or false, and schemas for items by their places in prefixItems`},
		{"an older draft's id", `{"id":"x"}`, "", "write $id"},
		{"an older draft", `{"$schema":"http://json-schema.org/draft-07/schema#"}`, "", "chat.json#/$schema: http://json-schema.org/draft-07/schema# is not supported; schemas are written in https://json-schema.org/draft/2020-12/schema"},
		{"an older draft inside", `{"$defs":{"a":{"$id":"a","$schema":"https://json-schema.org/draft/2019-09/schema"}}}`, "", "chat.json#/$defs/a/$schema: https://json-schema.org/draft/2019-09/schema is not supported"},
		{"the latest draft, whichever", `{"$schema":"https://json-schema.org/schema"}`, "", "is not supported"},
		{"a dialect of one's own", `{"$schema":"https://example.com/dialect"}`, "", "is not supported"},
		{"$vocabulary", `{"$vocabulary":{}}`, "", "chat.json#/$vocabulary: $vocabulary is no keyword"},

		{"a schema on the web", `{"$ref":"https://example.com/a.json"}`, "", "chat.json#/$ref: refers to https://example.com/a.json, which is none of the listed files"},
		{"a schema on the web, dynamically", `{"$dynamicRef":"https://example.com/a.json#x"}`, "", "chat.json#/$dynamicRef: refers to https://example.com/a.json, which is none"},
		{"a file of the system", `{"$ref":"file:///etc/passwd"}`, "", "refers to file:///etc/passwd, which is none"},
		{"a file that is there but not listed", `{"$ref":"unlisted.json"}`, "", "refers to unlisted.json, which is none"},
		{"a file outside", `{"$ref":"../unlisted.json"}`, "", "refers to unlisted.json, which is none"},
		{"another draft's own schema", `{"$ref":"http://json-schema.org/draft-07/schema"}`, "", "refers to http://json-schema.org/draft-07/schema, which is none"},
		{"a reference made remote by $id", `{"$id":"https://example.com/chat.json","$ref":"common.json"}`, `{}`, "refers to https://example.com/common.json, which is none"},
		{"a part of another file by its $id", `{"$ref":"https://example.com/part"}`, `{"$defs":{"part":{"$id":"https://example.com/part"}}}`, "refers to https://example.com/part, which is a part of common.json; refer to it as common.json#/$defs/part"},
		{"a reference to nothing", `{"$ref":"#/$defs/missing"}`, "", "chat.json#/$ref: refers to chat.json#/$defs/missing, where no schema is"},
		{"a reference to what is no schema", `{"$ref":"#/properties","properties":{"text":{"type":"string"}}}`, "", "refers to chat.json#/properties, where no schema is"},
		{"a reference into an annotation", `{"$ref":"#/examples/0","examples":[{}]}`, "", "refers to chat.json#/examples/0, where no schema is"},
		{"a reference into a const", `{"$ref":"#/const","const":{}}`, "", "refers to chat.json#/const, where no schema is"},
		{"a reference beside a part's root", `{"$defs":{"a":{"$id":"a","$ref":"#/$defs/b"},"b":{}}}`, "", "refers to chat.json#/$defs/a/$defs/b, where no schema is"},
		{"an anchor that is not there", `{"$ref":"#nowhere"}`, "", "refers to the anchor nowhere, which chat.json does not have"},
		{"an anchor of another file that is not there", `{"$ref":"common.json#nowhere"}`, `{"$anchor":"here"}`, "refers to the anchor nowhere, which common.json does not have"},
		{"a reference that is no URL", `{"$ref":"http://[::1"}`, "", `chat.json#/$ref: $ref is "http://[::1", which is no URI reference; write one, as #/$defs/name or other.json`},
		{"one $id twice in a file", `{"$defs":{"a":{"$id":"x"},"b":{"$id":"x"}}}`, "", "chat.json#/$defs/b/$id: x is the $id of chat.json#/$defs/a too"},
		{"one $id in two files", `{"$id":"https://example.com/x"}`, `{"$id":"https://example.com/x"}`, "$id https://example.com/x is that of"},
		{"the place of another file as $id", `{"$id":"common.json"}`, `{}`, "$id common.json is that of"},
		{"one anchor twice", `{"$defs":{"a":{"$anchor":"x"},"b":{"$anchor":"x"}}}`, "", "chat.json#/$defs/b/$anchor: x is the anchor of chat.json#/$defs/a too; choose another name"},

		{"a pattern with a lookahead", `{"properties":{"text":{"pattern":"^(?!a)"}}}`, "", `chat.json#/properties/text/pattern: pattern "^(?!a)": lookahead`},
		{"a pattern that is none", `{"pattern":"("}`, "", `chat.json#/pattern: pattern "(": a group is not closed; close it with ), or write \( for a parenthesis`},
		{"a pattern property that is none", `{"patternProperties":{"[":{}}}`, "", `chat.json#/patternProperties: pattern "[":`},
		{"a format that is not checked", `{"properties":{"x":{"format":"currency"}}}`, "", `chat.json#/properties/x/format: format "currency" is not checked; remove it, or set annotate: true`},
		{"a format that changes with Unicode", `{"format":"idn-hostname"}`, "", `format "idn-hostname" is not checked`},
		{"another one", `{"items":{"format":"iri"}}`, "", `chat.json#/items/format: format "iri" is not checked`},
		{"a schema that is itself", `{"$ref":"#"}`, "", "chat.json#: refers back to itself without going into the message"},
		{"schemas that are one another", `{"$ref":"#/$defs/a","$defs":{"a":{"anyOf":[{"minLength":1},{"not":{"$ref":"#/$defs/b"}}]},"b":{"if":true,"then":{"$ref":"#/$defs/a"}}}}`, "", "refers back to itself"},
		{"schemas that are one another by a property", `{"dependentSchemas":{"a":{"$ref":"#"}}}`, "", "chat.json#: refers back to itself"},
		{"a schema that is itself by an anchor", `{"$dynamicAnchor":"x","allOf":[{"$dynamicRef":"#x"}]}`, "", "chat.json#: refers back to itself"},
		{"more schemas than there may be", `{"anyOf":[true` + strings.Repeat(",true", maxSchemas) + `]}`, "", "with chat.json the files of this route have more than 20000 schemas"},
		{"more schemas than there may be, in two files", `{"anyOf":[true` + strings.Repeat(",true", maxSchemas/2) + `]}`, `{"anyOf":[true` + strings.Repeat(",true", maxSchemas/2) + `]}`, "with common.json the files of this route have more than 20000 schemas"},
		{"files that are larger than they may be", `{}` + strings.Repeat(" ", maxFileBytes), "", "with chat.json the files of this route have more than 8388608 bytes"},
		{"files that are larger than they may be together", `{}` + strings.Repeat(" ", maxFileBytes/2), `{}` + strings.Repeat(" ", maxFileBytes/2), "with common.json the files of this route have more than 8388608 bytes"},
		{"a schema whose place is too long", `{"properties":{"` + strings.Repeat("x", maxPointerBytes) + `":{}}}`, "", "...: the place of a schema takes more than 4096 bytes"},
		{"a pattern too large", `{"pattern":"^(?:` + strings.Repeat(`\\p{L}{1000}`, 20) + `)$"}`, "", "with those before it, it is too large; shorten repetitions such as {1000}"},
		{"patterns too large together", `{"anyOf":[` + listedAll(200, func(i int) string { return fmt.Sprintf(`{"pattern":"^\\p{L}{%d}$"}`, 300+i) }) + `]}`, "", "with those before it, it is too large"},
		{"more values than an enum may have", `{"enum":[0` + strings.Repeat(",0", maxEnum) + `]}`, "", "chat.json#: enum has 10001 values, more than 10000"},
		{"a step too fine", `{"multipleOf":0.1234567890123456789}`, "", "chat.json#/multipleOf: has more than 18 digits"},
		{"contentEncoding", `{"contentEncoding":"base64"}`, "", "chat.json#/contentEncoding: contentEncoding is not checked; remove it, or set annotate: true"},
		{"contentSchema", `{"contentSchema":{}}`, "", "chat.json#/contentSchema: contentSchema is not checked"},
		{"a property that no message may have", `{"properties":{"__proto__":{}}}`, "", `chat.json#/properties: every message with a property "__proto__" is refused`},
		{"a required property that no message may have", `{"required":["constructor"]}`, "", `chat.json#/required: every message with a property "constructor" is refused`},

		{"texts that are longer than they may be", `{"properties":{"x":{"minLength":5,"maxLength":3}}}`, "", "chat.json#/properties/x/minLength: 5 is above maxLength 3, so no string is allowed; write false if that is meant"},
		{"more items than there may be", `{"minItems":5,"maxItems":3}`, "", "chat.json#/minItems: 5 is above maxItems 3, so no array"},
		{"more properties than there may be", `{"minProperties":2,"maxProperties":1}`, "", "chat.json#/minProperties: 2 is above maxProperties 1, so no object"},
		{"more hits than there may be", `{"contains":{},"minContains":2,"maxContains":1}`, "", "chat.json#/minContains: 2 is above maxContains 1"},
		{"no number between its bounds", `{"minimum":1.50,"maximum":1.25}`, "", "chat.json#/minimum: 1.50 is above maximum 1.25, so no number"},
		{"no number between bounds that touch", `{"minimum":2,"exclusiveMaximum":2.0}`, "", "chat.json#/minimum: 2 and exclusiveMaximum 2.0 leave no number between them"},
		{"no number between bounds that touch, outside", `{"exclusiveMinimum":1e1,"exclusiveMaximum":10}`, "", "chat.json#/exclusiveMinimum: 1e1 and exclusiveMaximum 10 leave"},
		{"no integer between its bounds", `{"type":"integer","minimum":0.2,"maximum":0.8}`, "", "chat.json#/minimum: 0.2 and maximum 0.8 leave no integer between them; write false if that is meant"},
		{"no integer at its bound", `{"type":["integer","null"],"minimum":-0.5,"maximum":-0.50}`, "", "chat.json#/minimum: -0.5 and maximum -0.50 leave no integer"},
		{"no integer between neighbours", `{"type":"integer","exclusiveMinimum":-1,"exclusiveMaximum":0}`, "", "chat.json#/exclusiveMinimum: -1 and exclusiveMaximum 0 leave no integer"},
		{"a const of another type", `{"type":"string","const":5}`, "", `chat.json#/const: is refused by type "string" beside it, so nothing is allowed; write false if that is meant`},
		{"a const that is no integer", `{"type":["integer","null"],"const":5.5}`, "", `chat.json#/const: is refused by type ["integer","null"] beside it`},
		{"a const that is too short", `{"minLength":2,"const":"é"}`, "", "chat.json#/const: is refused by minLength 2 beside it"},
		{"a const that is too long", `{"properties":{"x":{"maxLength":2,"const":"abc"}}}`, "", "chat.json#/properties/x/const: is refused by maxLength 2 beside it"},
		{"a const that its pattern does not match", `{"pattern":"^[a-z]+$","const":"A"}`, "", `chat.json#/const: is refused by pattern "^[a-z]+$" beside it`},
		{"a const that is too small", `{"exclusiveMinimum":5,"const":5.0}`, "", "chat.json#/const: is refused by exclusiveMinimum 5 beside it"},
		{"a const between the steps", `{"multipleOf":0.01,"const":0.005}`, "", "chat.json#/const: is refused by multipleOf 0.01 beside it"},
		{"a const with too many items", `{"maxItems":1,"const":[1,2]}`, "", "chat.json#/const: is refused by maxItems 1 beside it"},
		{"a const without what is required", `{"required":["a","b"],"const":{"a":1}}`, "", `chat.json#/const: is refused by required ["a","b"] beside it`},
		{"an enum of which nothing is left", `{"maxLength":3,"minimum":1,"enum":["long",0,"longer"]}`, "", "chat.json#/enum: has no value that is not refused by maxLength 3 or minimum 1 beside it"},
		{"a const that is none of its enum", `{"enum":[1,{"a":[2]}],"const":{"a":[3]}}`, "", "chat.json#/const: is none of the enum"},
		{"an enum of another type", `{"type":"object","enum":["a",1,null,[]]}`, "", `chat.json#/enum: has no value that is not refused by type "object" beside it`},
		{"an enum of nothing", `{"enum":[]}`, "", "chat.json#/enum: is empty"},
		{"a required property that is false", `{"required":["a"],"properties":{"a":false}}`, "", `chat.json#/required: "a" is required and its schema is false`},
		{"a required property that is forbidden", `{"required":["txet"],"properties":{"text":{}},"patternProperties":{"^x":{}},"additionalProperties":false}`, "", `chat.json#/required: "txet" is required, but not among properties`},
		{"more required than there may be", `{"required":["a","b"],"maxProperties":1}`, "", "chat.json#/maxProperties: 1 is below the 2 that are required"},
		{"more properties than there can be", `{"minProperties":2,"properties":{"a":{}},"additionalProperties":false}`, "", "chat.json#/minProperties: 2 is above the 1 of properties"},
		{"more items to be found than there can be", `{"contains":{},"minContains":2,"maxItems":1}`, "", "chat.json#/minContains: 2 is above maxItems 1, so no array is allowed"},
		{"more items than there can be", `{"minItems":2,"prefixItems":[{}],"items":false}`, "", "chat.json#/minItems: 2 is above the 1 of prefixItems"},
		{"a contradiction in a shared file", `{"$ref":"common.json"}`, `{"$defs":{"a":{"minLength":1,"maxLength":0}}}`, "common.json#/$defs/a/minLength: 1 is above maxLength 0"},

		{"a keyword's value of the wrong type", `{"properties":{"text":{"maxLength":"5"}}}`, "", `chat.json#/properties/text/maxLength: maxLength is "5"; write a whole number from 0 to 9007199254740991`},
		{"a negative length", `{"$defs":{"a":{"minLength":-1}},"$ref":"#/$defs/a"}`, "", "chat.json#/$defs/a/minLength: minLength is -1; write a whole number"},
		{"a type that is none", `{"type":"text"}`, "", "chat.json#/type:"},
		{"a broken shared file", `{"$ref":"common.json"}`, `{"minLength":-1}`, "common.json#/minLength: minLength is -1; write a whole number"},
		{"a schema that is none", `[]`, "", "chat.json#: is []; a schema is an object, true or false"},

		{"a file that is no JSON", "{\n  \"type\": \"object\",\n}", "", "chat.json:3:1: not JSON"},
		{"a file with a comment", "{ // chat\n}", "", "chat.json:1:3: not JSON"},
		{"a keyword twice", `{"maxLength":5,"maxLength":5000}`, "", "chat.json:1:16: duplicate property name"},
		{"an empty file", "", "", "chat.json: is empty; write a schema"},
		{"a file of spaces", " \n", "", "chat.json: is empty"},
		{"a byte order mark", "\ufeff{}", "", "chat.json: begins with a byte order mark; save it as UTF-8 without one"},
		{"UTF-16, little end first", "\xff\xfe{\x00}\x00", "", "chat.json: begins with a byte order mark"},
		{"UTF-16, big end first", "\xfe\xff\x00{\x00}", "", "chat.json: begins with a byte order mark"},
	} {
		t.Run(test.rule, func(t *testing.T) {
			files := []string{"chat.json", test.schema, "unlisted.json", "{}"}
			edit := func(*Config) {}
			if test.common != "" {
				files, edit = append(files, "common.json", test.common), shared
			}
			s, err := Compile(folder(files...), oneType(edit))
			if err == nil || s != nil {
				t.Fatalf("%v, %v; want %q", s, err, test.want)
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("%q\nwant %q", err, test.want)
			}
		})
	}
}

// What a keyword's value has to be is said in one way for all of them, with all that
// are wrong.
func TestCompileRefusesValuesOfKeywords(t *testing.T) {
	wrong := map[string][]string{
		"$schema": {`1`}, "$id": {`1`, `"a#b"`, `"%"`, `"a\\b"`}, "$ref": {`1`, `"%"`, `"#\\"`}, "$anchor": {`1`, `""`, `"1a"`, `"é"`, `"a b"`}, "$dynamicRef": {`null`}, "$dynamicAnchor": {`"#a"`}, "$comment": {`{}`},
		"$defs": {`[]`, `{"a":1}`}, "properties": {`true`, `{"a":"b"}`}, "patternProperties": {`1`, `{"a":[]}`}, "dependentSchemas": {`[]`, `{"a":null}`},
		"prefixItems": {`{}`, `[]`, `[1]`}, "allOf": {`{}`, `[]`, `[null]`}, "anyOf": {`true`, `[]`, `["a"]`}, "oneOf": {`1`, `[]`},
		"items": {`1`, `[{}]`}, "contains": {`[]`}, "additionalProperties": {`"no"`}, "propertyNames": {`1`}, "if": {`1`}, "then": {`1`}, "else": {`1`}, "not": {`null`}, "unevaluatedItems": {`0`}, "unevaluatedProperties": {`""`},
		"type": {`1`, `"text"`, `[]`, `["null","null"]`, `["string",1]`, `[["null"]]`}, "enum": {`{}`, `"a"`},
		"multipleOf": {`0`, `-1`, `"2"`}, "maximum": {`"5"`}, "exclusiveMaximum": {`true`}, "minimum": {`null`}, "exclusiveMinimum": {`false`},
		"maxLength": {`"5"`, `1.5`, `-1`, `1e30`, `9007199254740992`}, "minLength": {`-1`}, "maxItems": {`[]`}, "minItems": {`0.1`}, "uniqueItems": {`1`}, "maxContains": {`-1`}, "minContains": {`{}`}, "maxProperties": {`1e-1`}, "minProperties": {`null`},
		"pattern": {`1`, `{}`}, "required": {`"a"`, `[1]`, `["a","a"]`, `{}`}, "dependentRequired": {`[]`, `{"a":"b"}`, `{"a":["b","b"]}`}, "format": {`1`},
		"contentEncoding": {`1`}, "contentMediaType": {`1`}, "contentSchema": {`1`}, "title": {`1`}, "description": {`[]`}, "deprecated": {`"yes"`}, "readOnly": {`1`}, "writeOnly": {`0`}, "examples": {`{}`},
	}
	right := map[string]string{"maxLength": `5.0`, "minItems": `9007199254740991`, "type": `["integer","null"]`, "$id": `"a#"`, "$anchor": `"_a-1.b"`, "required": `[]`, "examples": `[]`, "multipleOf": `1e-300`}
	for keyword := range keywords {
		if wrong[keyword] == nil && keyword != "const" && keyword != "default" { // which may be anything
			t.Errorf("no wrong value of %s", keyword)
		}
		for _, value := range wrong[keyword] {
			_, err := Compile(folder("chat.json", fmt.Sprintf(`{"properties":{"x":{%q:%s}}}`, keyword, value)), oneType(func(c *Config) { c.Annotate = true }))
			var p *Problem
			if !errors.As(err, &p) || errors.Is(err, errCompiler) {
				t.Errorf("%s: %s: %v", keyword, value, err)
				continue
			}
			if !strings.HasPrefix(p.Pointer, "/properties/x/"+keyword) || !strings.Contains(p.Error(), "; ") && !strings.Contains(p.Error(), "supported") {
				t.Errorf("%s: %s: %v, want its place and what to do", keyword, value, err)
			}
		}
	}
	for keyword, value := range right {
		if _, err := Compile(folder("chat.json", fmt.Sprintf(`{"properties":{"x":{%q:%s}}}`, keyword, value)), oneType(nil)); err != nil {
			t.Errorf("%s: %s: %v", keyword, value, err)
		}
	}
	_, err := Compile(folder("chat.json", `{"maxLength":"5","enum":"`+strings.Repeat("long ", 1000)+`"}`), oneType(nil))
	if err == nil || len(err.Error()) > 300 || !strings.Contains(err.Error(), "#/maxLength: ") || !strings.Contains(err.Error(), "#/enum: ") {
		t.Errorf("%v", err)
	}
}

// Whatever a pattern is refused for, it is said what to do.
func TestCompileRefusesPatterns(t *testing.T) {
	for pattern, want := range map[string]string{
		`[a`: "a class is not closed", `(a`: "close it with )", `a)`: `write \) for`, `*a`: "repeats nothing", `a**`: "between (?: and )", `a{2,1}`: "from more to less", `a{1001}`: "1000 times", `[z-a]`: "lower end first", `\p{Nothing}`: "categories and scripts",
		`(?<a b>c)`: "letters, digits and _", `(?i)a`: "only :, <name> are supported", `a\`: "ends in a backslash", `(a)\1`: `\1 is not supported`, `(?=a)`: "lookahead",
		strings.Repeat("(", 1100) + strings.Repeat(")", 1100): "nested too deeply", `((a{100}){100}){100}`: "1000 times",
	} {
		_, err := Compile(folder("chat.json", fmt.Sprintf(`{"pattern":%q}`, pattern)), oneType(nil))
		if err == nil || !strings.Contains(err.Error(), "chat.json#/pattern: pattern ") || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "; ") || len(err.Error()) > 400 {
			t.Errorf("%.40s: %.500v, want %q", pattern, err, want)
		}
	}
}

func TestCompileNamesEveryProblem(t *testing.T) {
	cfg := oneType(func(c *Config) {
		c.Types = append(c.Types, Type{Name: "order", Schema: "order.json"}, Type{Name: "gone", Schema: "gone.json"})
		c.Shared = []string{"also-gone.json"}
	})
	_, err := Compile(folder("chat.json", `{`, "order.json", `[1,]`), cfg)
	for _, want := range []string{"chat.json:1:2: not JSON", "order.json:1:4: not JSON", "gone.json: file does not exist", "also-gone.json: file does not exist"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nlacks %q", err, want)
		}
	}
	if !errors.Is(err, fs.ErrNotExist) {
		t.Error("the cause is lost")
	}
	_, err = Compile(folder("chat.json", `{"foo":1,"bar":{},"$ref":"#/x"}`, "order.json", `{"baz":1}`, "gone.json", `{}`, "also-gone.json", `{}`), cfg)
	for _, want := range []string{"chat.json#/foo", "chat.json#/bar", "chat.json#/$ref", "order.json#/baz"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nlacks %q", err, want)
		}
	}
	_, err = Compile(folder("chat.json", `{"properties":{"a":{"enum":[0`+strings.Repeat(",0", maxEnum)+`]},"b":{"enum":[0`+strings.Repeat(",0", maxEnum+1)+`]},"c":{"minLength":2,"maxLength":1},"d":{"$ref":"#/properties/d"}}}`), oneType(func(c *Config) {
		c.Types = append(c.Types, Type{Name: "gone", Schema: "chat.json#/gone"})
	}))
	for _, want := range []string{"chat.json#/properties/a: enum has 10001 values", "chat.json#/properties/b: enum has 10002 values", "chat.json#/properties/c/minLength: 2 is above", "chat.json#/properties/d: refers back to itself", "types[1].schema: refers to chat.json#/gone"} {
		if err == nil || strings.Count(err.Error(), want) != 1 {
			t.Errorf("%v\nhas not once %q", err, want)
		}
	}
}

// What waits for somebody to write would keep a start, or a reload, from ending.
func TestCompileReadsRegularFiles(t *testing.T) {
	for _, mode := range []fs.FileMode{fs.ModeNamedPipe, fs.ModeDevice | fs.ModeCharDevice, fs.ModeSocket, fs.ModeDir} {
		files := fstest.MapFS{"chat.json": {Data: []byte("{}"), Mode: mode}}
		if _, err := Compile(files, oneType(nil)); err == nil || !strings.Contains(err.Error(), "schema file: chat.json is no regular file") {
			t.Errorf("%v: %v", mode, err)
		}
	}
}

// Twice as much to read takes twice as much, whatever refers to what. Allocations
// are what can be counted.
func TestCompileIsLinear(t *testing.T) {
	for name, schema := range map[string]func(n int) string{
		"dynamic anchors": func(n int) string {
			return `{"$defs":{` + listedAll(n, func(i int) string { return fmt.Sprintf(`"d%d":{"$dynamicAnchor":"a%d"}`, i, i) }) + `},"anyOf":[` + listedAll(n, func(i int) string { return fmt.Sprintf(`{"$dynamicRef":"#a%d"}`, i) }) + `]}`
		},
		"required names beside patterns": func(n int) string {
			return `{"required":[` + listedAll(n, func(i int) string { return fmt.Sprintf(`"x%d"`, i) }) + `],"additionalProperties":false,"patternProperties":{"x":true,` + listedAll(n, func(i int) string { return fmt.Sprintf(`"y%d":true`, i) }) + `}}`
		},
	} {
		once := func(n int) float64 {
			files := folder("chat.json", schema(n))
			return testing.AllocsPerRun(1, func() { mustCompile(t, files, oneType(nil)) })
		}
		if few, many := once(100), once(400); many > 5*few {
			t.Errorf("%s: %v allocations for 100, %v for 400", name, few, many)
		}
	}
}

// Alternatives that share a large enum are not told apart by it, and those of many
// texts are.
func TestChoicesOfManyTexts(t *testing.T) {
	texts := func(prefix string, n int) string {
		return listedAll(n, func(i int) string { return fmt.Sprintf(`"%s%d"`, prefix, i%(n-1)) }) // one of them twice
	}
	s := mustCompile(t, folder("chat.json", `{"properties":{
		"apart": {"oneOf":[{"required":["k"],"properties":{"k":{"enum":[`+texts("a", 5000)+`]}}},{"required":["k"],"properties":{"k":{"enum":[`+texts("b", 5000)+`]}}}]},
		"same": {"anyOf":[`+listedAll(300, func(int) string { return `{"$ref":"#/$defs/many"}` })+`]},
		"later": {"anyOf":[{"required":["k"],"properties":{"k":{"const":"a"}}},{"required":["k"],"properties":{"k":{"const":"b"}}}]}
	},"$defs":{"many":{"required":["k"],"properties":{"k":{"enum":[`+texts("a", 5000)+`]}}}}}`), oneType(nil))
	for in, want := range map[string]error{
		`{"type":"chat","apart":{"k":"a4998"}}`: nil, `{"type":"chat","apart":{"k":"b0"}}`: nil, `{"type":"chat","apart":{"k":"c"}}`: ErrNotAllowed,
		`{"type":"chat","same":{"k":"a7"}}`: nil, `{"type":"chat","same":{"k":"b7"}}`: ErrTooComplex,
		`{"type":"chat","later":{"k":"b"}}`: nil, `{"type":"chat","later":{"k":"c"}}`: ErrNotAllowed,
	} {
		if _, err := s.Check([]byte(in)); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", in, err, want)
		}
	}
}

func TestCompileAccepts(t *testing.T) {
	for _, test := range []struct {
		rule     string
		cfg      Config
		files    fs.FS
		ok, fail string
	}{
		{
			rule:  "a place in a file",
			cfg:   oneType(func(c *Config) { c.Types[0].Schema = "all.json#/$defs/chat%20room" }),
			files: folder("all.json", `{"$defs":{"chat room":{"required":["text"]}}}`),
			ok:    `{"type":"chat","text":1}`, fail: `{"type":"chat"}`,
		}, {
			rule:  "an anchor in a file",
			cfg:   oneType(func(c *Config) { c.Types[0].Schema = "all.json#chat" }),
			files: folder("all.json", `{"$defs":{"x":{"$anchor":"chat","required":["text"]}}}`),
			ok:    `{"type":"chat","text":1}`, fail: `{"type":"chat"}`,
		}, {
			rule:  "references between listed files, in folders",
			cfg:   oneType(func(c *Config) { c.Types[0].Schema = "v1/chat.json"; c.Shared = []string{"common/text.json"} }),
			files: folder("v1/chat.json", `{"properties":{"text":{"$ref":"../common/text.json#/$defs/short"}}}`, "common/text.json", `{"$defs":{"short":{"maxLength":3}}}`),
			ok:    `{"type":"chat","text":"abc"}`, fail: `{"type":"chat","text":"abcd"}`,
		}, {
			rule:  "references by $id between listed files",
			cfg:   oneType(func(c *Config) { c.Shared = []string{"common.json"} }),
			files: folder("chat.json", `{"$id":"https://example.com/s/chat","properties":{"text":{"$ref":"common#/$defs/short"}}}`, "common.json", `{"$id":"https://example.com/s/common","$defs":{"short":{"maxLength":3}}}`),
			ok:    `{"type":"chat","text":"abc"}`, fail: `{"type":"chat","text":"abcd"}`,
		}, {
			rule:  "references by $id within a file",
			cfg:   oneType(nil),
			files: folder("chat.json", `{"properties":{"text":{"$ref":"https://example.com/short"}},"$defs":{"s":{"$id":"https://example.com/short","maxLength":3}}}`),
			ok:    `{"type":"chat","text":"abc"}`, fail: `{"type":"chat","text":"abcd"}`,
		}, {
			rule:  "files that refer to one another",
			cfg:   oneType(func(c *Config) { c.Shared = []string{"tree.json"} }),
			files: folder("chat.json", `{"properties":{"tree":{"$ref":"tree.json"}}}`, "tree.json", `{"type":"array","items":{"$ref":"chat.json#/properties/tree"}}`),
			ok:    `{"type":"chat","tree":[[],[[]]]}`, fail: `{"type":"chat","tree":[[],[1]]}`,
		}, {
			rule:  "the standard's own schema",
			cfg:   oneType(nil),
			files: folder("chat.json", `{"$schema":"https://json-schema.org/draft/2020-12/schema","properties":{"schema":{"$ref":"https://json-schema.org/draft/2020-12/schema"}}}`),
			ok:    `{"type":"chat","schema":{"minLength":1}}`, fail: `{"type":"chat","schema":{"minLength":-1}}`,
		}, {
			rule:  "formats are checked",
			cfg:   oneType(nil),
			files: folder("chat.json", `{"properties":{"at":{"format":"date-time"}}}`),
			ok:    `{"type":"chat","at":"2026-11-23T12:00:00Z"}`, fail: `{"type":"chat","at":"today"}`,
		}, {
			rule:  "patterns are ECMA-262's",
			cfg:   oneType(nil),
			files: folder("chat.json", `{"patternProperties":{"^x\\s$":{"pattern":"^.$"}}}`),
			ok:    `{"type":"chat","x\u00a0":"a"}`, fail: `{"type":"chat","x\u00a0":"\u2028"}`,
		}, {
			rule:  "another discriminator",
			cfg:   oneType(func(c *Config) { c.Discriminator = "kind" }),
			files: folder("chat.json", `{"properties":{"kind":{"const":"chat"},"type":{"type":"number"}}}`),
			ok:    `{"kind":"chat","type":1}`, fail: `{"kind":"chat","type":"chat"}`,
		}, {
			rule:  "hazardous names, if asked for",
			cfg:   oneType(func(c *Config) { c.Guards.HazardousNames = true }),
			files: folder("chat.json", `{"properties":{"constructor":{"type":"string"}}}`),
			ok:    `{"type":"chat","constructor":"Ferrari"}`, fail: `{"type":"chat","constructor":1}`,
		}, {
			rule:  "bounds that are one value, and others that look like contradictions",
			cfg:   oneType(nil),
			files: folder("chat.json", `{"minProperties":2,"maxProperties":2,"required":["type","x1"],"patternProperties":{"^x":{"minimum":2,"maximum":2.0,"type":"integer","enum":["no",2,3],"const":2.0}},"properties":{"type":{"enum":["chat"],"const":"chat","type":"string"}},"additionalProperties":false}`),
			ok:    `{"type":"chat","x1":2}`, fail: `{"type":"chat","x1":3}`,
		}, {
			rule:  "bounds with an integer between them, or numbers",
			cfg:   oneType(nil),
			files: folder("chat.json", `{"properties":{"a":{"type":"integer","exclusiveMinimum":-1,"maximum":0},"b":{"type":"integer","minimum":-1.5,"exclusiveMaximum":-0.5},"c":{"type":"integer","exclusiveMinimum":-1.5,"exclusiveMaximum":0},"d":{"type":["integer","number"],"minimum":0.2,"maximum":0.8},"e":{"minimum":0.2,"maximum":0.8}}}`),
			ok:    `{"type":"chat","a":0,"b":-1,"c":-1.0,"d":0.5,"e":0.5}`, fail: `{"type":"chat","a":-1}`,
		}, {
			rule:  "one file for several types, $id and all",
			cfg:   oneType(func(c *Config) { c.Types = append(c.Types, Type{Name: "order", Schema: "chat.json"}) }),
			files: folder("chat.json", `{"$id":"https://example.com/any","required":["text"]}`),
			ok:    `{"type":"order","text":1}`, fail: `{"type":"order"}`,
		},
	} {
		t.Run(test.rule, func(t *testing.T) {
			s := mustCompile(t, test.files, test.cfg)
			if _, err := s.Check([]byte(test.ok)); err != nil {
				t.Errorf("%s: %v", test.ok, err)
			}
			if _, err := s.Check([]byte(test.fail)); !errors.Is(err, ErrNotAllowed) {
				t.Errorf("%s: %v, want %v", test.fail, err, ErrNotAllowed)
			}
		})
	}
}

func TestAnnotationsCheckNothingIfAskedFor(t *testing.T) {
	s := mustCompile(t, folder("chat.json", `{"properties":{"a":{"format":"date-time"},"b":{"format":"currency"},"c":{"contentEncoding":"base64","contentMediaType":"application/json","contentSchema":{"type":"object"}}}}`),
		oneType(func(c *Config) { c.Annotate = true }))
	if _, err := s.Check([]byte(`{"type":"chat","a":"today","b":"?","c":"*"}`)); err != nil {
		t.Error(err)
	}
}

func TestConfigProblems(t *testing.T) {
	for _, test := range []struct {
		edit func(c *Config)
		want string
	}{
		{func(c *Config) { c.Discriminator = "" }, "discriminator: is empty"},
		{func(c *Config) { c.Discriminator = "__proto__" }, `discriminator: "__proto__" is refused`},
		{func(c *Config) { c.Types = nil }, "types: is empty, so no message would pass; list the types, or set unchecked: true"},
		{func(c *Config) { c.OnRefusal = "" }, `on_refusal: "" is none of close, error_frame, drop`},
		{func(c *Config) { c.Types[0].OnRefusal = "ban" }, `types[0].on_refusal: "ban" is none of close`},
		{func(c *Config) { c.Types[0].PerSecond = 5 }, "types[0].burst: 0 lets no message through; set at least 1"},
		{func(c *Config) { c.Types[0].PerSecond = 1 << 31 }, "types[0].per_second: 2147483648 is above 1000000000"},
		{func(c *Config) { c.Strikes = 0 }, "strikes: 0 is not between 1 and 10000; for none, set on_refusal: close"},
		{func(c *Config) { c.Types = append(c.Types, c.Types[0]) }, `types[1].name: "chat" is the name of types[0] too`},
		{func(c *Config) { c.Types[0].Name = "" }, `types[0].name: "" is not 1 to 128 bytes`},
		{func(c *Config) { c.Types[0].Name = strings.Repeat("x", 129) }, "types[0].name:"},
		{func(c *Config) { c.Types[0].Name = "a\nb" }, "types[0].name:"},
		{func(c *Config) { c.Types[0].Schema = "" }, `types[0].schema: "" is not a path`},
		{func(c *Config) { c.Types[0].Schema = "#/$defs/chat" }, `types[0].schema: "#/$defs/chat" is not a path`},
		{func(c *Config) { c.Types[0].Schema = "/etc/chat.json" }, "types[0].schema:"},
		{func(c *Config) { c.Types[0].Schema = "../chat.json" }, "types[0].schema:"},
		{func(c *Config) { c.Types[0].Schema = "chat.json#/nowhere" }, "types[0].schema: refers to chat.json#/nowhere, where no schema is"},
		{func(c *Config) { c.Types[0].Schema = "chat.json#%zz" }, "types[0].schema: chat.json#%zz is no place in a file; write it as chat.json#/$defs/name"},
		{func(c *Config) { c.Shared = []string{"./a.json"} }, `shared[0]: "./a.json" is not a path`},
		{func(c *Config) { c.Guards.Depth = 0 }, "guards.depth: 0 is not between 1 and 1000"},
		{func(c *Config) { c.Guards.Depth = 1001 }, "guards.depth: 1001"},
		{func(c *Config) { c.Guards.Names = 0 }, "guards.names: 0 is below 1"},
		{func(c *Config) { c.Guards.Tokens = 2 }, "guards.tokens: 2 is below 3"},
		{func(c *Config) { c.Guards.Effort = 0 }, "guards.effort: 0 is not between 1 and 1000000"},
		{func(c *Config) { c.Guards.MaxInteger = 0 }, "guards.max_integer: 0 is below 1"},
	} {
		if _, err := Compile(folder("chat.json", "{}"), oneType(test.edit)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v, want %q", err, test.want)
		}
	}
	c := oneType(func(c *Config) { c.Discriminator, c.Guards = "", Guards{} })
	if err := c.Validate(); err == nil || strings.Count(err.Error(), "\n") != 5 {
		t.Errorf("%v, want six problems", err)
	}
}

// FuzzCompile proves that no schema file makes Compile panic, that what is wrong with
// one is found before the library says so in its words, and that what it accepts can
// check.
func FuzzCompile(f *testing.F) {
	for _, seed := range []string{
		`{"properties":{"a":{"$ref":"#/$defs/b"}},"$defs":{"b":{"pattern":"^a$"}}}`, `true`, `{"$ref":"#"}`, `{"$dynamicRef":"#a","$dynamicAnchor":"a"}`,
		`{"$id":"x","$anchor":"y","$ref":"x#y"}`, `{"enum":[1,1.0,"1"],"multipleOf":0.01}`, `{"items":{"$ref":"../x"}}`, `{"$id":"%","$ref":"#%"}`, `{"$id":":"}`,
		`{"unevaluatedProperties":false,"anyOf":[{"properties":{"type":true}}]}`, `{"$defs":{"":{}},"$ref":"#/$defs/"}`, `{"multipleOf":1e-300}`, `{"type":[],"maxLength":1e99,"required":["a","a"],"$anchor":"1"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, schema []byte) {
		s, err := Compile(folder("chat.json", string(schema)), oneType(nil))
		if errors.Is(err, errCompiler) {
			t.Fatalf("%s: %v", schema, err)
		}
		if err != nil {
			return
		}
		for _, message := range []string{`{"type":"chat"}`, `{"type":"chat","a":[1,{"b":"c"}],"x":1.5e300}`} {
			if _, err := s.Check([]byte(message)); err != nil && !errors.Is(err, ErrNotAllowed) {
				t.Fatalf("%s: %v", message, err)
			}
		}
	})
}

func TestPolicyOfATypeCounts(t *testing.T) {
	c := oneType(func(c *Config) {
		c.OnRefusal = ErrorFrame
		c.Types = append(c.Types, Type{Name: "ping", Schema: "chat.json", OnRefusal: Drop})
	})
	for typ, want := range map[string]Policy{"": ErrorFrame, "chat": ErrorFrame, "ping": Drop, "other": ErrorFrame} {
		if got := c.Policy(typ); got != want {
			t.Errorf("%q: %s, want %s", typ, got, want)
		}
	}
}

func TestEveryFieldHasKeyAndHelp(t *testing.T) {
	for _, typ := range []reflect.Type{reflect.TypeFor[Config](), reflect.TypeFor[Type](), reflect.TypeFor[Guards]()} {
		for i := range typ.NumField() {
			if f := typ.Field(i); f.Tag.Get("yaml") == "" || f.Tag.Get("help") == "" {
				t.Errorf("%s.%s lacks its yaml key or help", typ.Name(), f.Name)
			}
		}
	}
}
