package schema

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// The library that compiles the schemas also runs them, slowly: what it says of a
// message is what the program has to say.

// pair is a schema for both.
type pair struct {
	library *jsonschema.Schema
	program *program
	root    int32
	run     run
	guards  Guards
}

// newPair compiles a schema, or returns nil if it is refused.
func newPair(schema string) (*pair, error) {
	cfg := Default()
	cfg.Guards.HazardousNames = true
	d, err := readDocument("test.json", fileURL("test.json"), []byte(schema))
	if err != nil {
		return nil, err
	}
	c, err := newCompiler([]*document{d}, &cfg)
	if err != nil {
		return nil, err
	}
	p := &pair{guards: cfg.Guards}
	if p.library, err = c.compile("test.json"); err != nil {
		return nil, err
	}
	l := newLowering(c)
	p.root = l.add(p.library)
	if p.program, err = l.finish(); err != nil {
		return nil, err
	}
	p.run.p = p.program
	for of := range l.done { // in the library regex means whatever our patterns may be
		if f := of.schema.Format; f != nil && f.Name == "regex" {
			of.schema.Format = &jsonschema.Format{Name: "regex", Validate: func(v any) error {
				if text, ok := v.(string); ok && !isRegex([]byte(text)) {
					return errors.New("no regex")
				}
				return nil
			}}
		}
	}
	return p, nil
}

// check holds both against each other, and says what they said, and whether the
// message would have been too complex.
func (p *pair) check(t testing.TB, schema, message string) (allowed, tooComplex bool) {
	t.Helper()
	v, err := parse([]byte(message), p.guards)
	if err != nil {
		t.Fatalf("%s: %v", message, err)
	}
	why := p.library.Validate(v)
	p.run.read([]byte(message), &p.guards)
	p.run.marks, p.run.steps = p.run.marks[:0], math.MaxInt
	allowed = p.run.eval(p.root, 0, unmarked)
	if allowed != (why == nil) {
		t.Fatalf("schema %s\nmessage %s\nallowed: %v, the library says %v", schema, message, allowed, why)
	}
	if !allowed && p.program.reasons[p.run.reason()].keyword == "" {
		t.Fatalf("schema %s\nmessage %s\nrefused for %+v, which has no reason", schema, message, p.run.failed)
	}
	p.run.read([]byte(message), &p.guards)
	p.run.marks, p.run.steps = p.run.marks[:0], p.guards.steps(int(p.run.entries[0].next), len(message))
	again := p.run.eval(p.root, 0, unmarked)
	if tooComplex = p.run.steps < 0; !tooComplex && again != allowed {
		t.Fatalf("schema %s\nmessage %s\nallowed: %v with all the steps there are, %v with enough of them", schema, message, allowed, again)
	}
	return allowed, tooComplex
}

// maker makes schemas and messages of choices.
type maker struct {
	choices []byte
	refs    bool // to others in $defs
}

// choose returns a number below n. When there are no more choices it is 0, which
// is always the simplest.
func (m *maker) choose(n int) int {
	if len(m.choices) == 0 {
		return 0
	}
	c := int(m.choices[0])
	m.choices = m.choices[1:]
	return c % n
}

func (m *maker) pick(list []string) string { return list[m.choose(len(list))] }

var (
	makerNames = []string{"a", "b", "c", "ab", "", "longer name 1", "longer name 2", "longer nAme 2", "é", "a/b~c", "12345678"}
	makerTexts = []string{
		`""`, `"a"`, `"b"`, `"ab"`, `"abc"`, `"aé"`, `"\u00e9"`, `"bcbc"`, `"12"`, `"a\nb"`, `"2026-11-24"`, `"2026-11-24T09:30:15Z"`, `"10.0.0.1"`, `"::1"`, `"a@b.c"`, `"https://a/b"`, `"longer text 1"`, `"longer text 2"`, `"\ud83d\ude00"`,
	}
	makerNumbers = []string{
		"0", "1", "-1", "2", "3", "10", "1.0", "1.5", "-1.5", "0.1", "0.3", "2.50", "1e2", "100", "1e-2", "0.010", "12345678901234.5", "9007199254740991", "1e20", "100000000000000000000.0", "123456789012345678901234567890e-10", "0.30000000000000004", "1e300", "-0.0",
	}
	makerSteps    = []string{"1", "2", "3", "0.1", "0.5", "0.01", "1e-8", "1.5", "100", "1e20", "0.3", "7e-3"}
	makerPatterns = []string{"^a", "b$", "^[a-z]+$", "a.c", "\\\\d{2}", "^(a|bc)*$", "é", "\\\\bab\\\\b", "^[^a]{1,3}$", "^$", "^[^b]*$", "^a?b?c?$", "^.$", "(a|b)*abb?", "^longer", "[12]$", "^\\\\S+$", "\\\\B"}
	makerFormats  = []string{"date", "date-time", "ipv4", "ipv6", "email", "uri", "uuid", "regex", "json-pointer"}
	makerTypes    = []string{`"object"`, `"array"`, `"string"`, `"number"`, `"integer"`, `"boolean"`, `"null"`, `["string","null"]`, `["integer","array"]`, `["object","boolean","number"]`}
)

// value makes a message.
func (m *maker) value(depth int) string {
	kind := m.choose(12)
	if depth <= 0 && kind > 7 {
		kind -= 6
	}
	switch kind {
	case 0:
		return "null"
	case 1:
		return "true"
	case 2:
		return "false"
	case 3, 4:
		return m.pick(makerNumbers)
	case 5, 6, 7:
		return m.pick(makerTexts)
	case 8, 9:
		items := make([]string, m.choose(6)*m.choose(3))
		for i := range items {
			items[i] = m.value(depth - 1)
		}
		return "[" + strings.Join(items, ",") + "]"
	}
	var members []string
	taken := map[string]bool{}
	for range m.choose(8) {
		if name := m.pick(makerNames); !taken[name] {
			taken[name] = true
			members = append(members, fmt.Sprintf("%q:%s", name, m.value(depth-1)))
		}
	}
	return "{" + strings.Join(members, ",") + "}"
}

// schema makes a schema of a few keywords.
func (m *maker) schema(depth int) string {
	switch m.choose(16) {
	case 0:
		return "true"
	case 1:
		return "false"
	}
	members := map[string]string{}
	for range 1 + m.choose(4) {
		m.keyword(members, depth-1)
	}
	return join(members)
}

func join(members map[string]string) string {
	var out []string
	for name, value := range members {
		out = append(out, fmt.Sprintf("%q:%s", name, value))
	}
	return "{" + strings.Join(out, ",") + "}"
}

func (m *maker) list(depth int) string {
	out := make([]string, 1+m.choose(3))
	for i := range out {
		out[i] = m.schema(depth)
	}
	return "[" + strings.Join(out, ",") + "]"
}

func (m *maker) named(depth int, names []string) string {
	out := map[string]string{}
	for range 1 + m.choose(4) {
		out[m.pick(names)] = m.schema(depth)
	}
	return join(out)
}

func (m *maker) nameList() string {
	seen := map[string]bool{}
	var out []string
	for range m.choose(3) {
		if name := m.pick(makerNames); !seen[name] {
			seen[name] = true
			out = append(out, fmt.Sprintf("%q", name))
		}
	}
	return "[" + strings.Join(out, ",") + "]"
}

// keyword adds one keyword, or some that belong together.
func (m *maker) keyword(to map[string]string, depth int) {
	count := func() string { return fmt.Sprint(m.choose(4)) }
	simple := []func(){
		func() { to["type"] = m.pick(makerTypes) },
		func() { to["const"] = m.value(2) },
		func() { to["enum"] = "[" + m.value(2) + "," + m.value(1) + "," + m.pick(makerTexts) + "]" },
		func() { to["minimum"] = m.pick(makerNumbers) },
		func() { to["maximum"] = m.pick(makerNumbers) },
		func() { to["exclusiveMinimum"] = m.pick(makerNumbers) },
		func() { to["exclusiveMaximum"] = m.pick(makerNumbers) },
		func() { to["multipleOf"] = m.pick(makerSteps) },
		func() { to["minLength"] = count() },
		func() { to["maxLength"] = count() },
		func() { to["pattern"] = `"` + m.pick(makerPatterns) + `"` },
		func() { to["format"] = `"` + m.pick(makerFormats) + `"` },
		func() { to["minItems"] = count() },
		func() { to["maxItems"] = count() },
		func() { to["uniqueItems"] = "true" },
		func() { to["minProperties"] = count() },
		func() { to["maxProperties"] = count() },
		func() { to["required"] = m.nameList() },
		func() {
			to["dependentRequired"] = fmt.Sprintf("{%q:%s}", m.pick(makerNames), m.nameList())
		},
	}
	nested := []func(){
		func() { to["properties"] = m.named(depth, makerNames) },
		func() { to["properties"] = m.named(depth, makerNames) },
		func() { to["patternProperties"] = m.named(depth, makerPatterns) },
		func() { to["additionalProperties"] = m.schema(depth) },
		func() { to["propertyNames"] = m.schema(min(depth, 1)) },
		func() { to["items"] = m.schema(depth) },
		func() { to["prefixItems"] = m.list(depth) },
		func() { to["contains"] = m.schema(depth) },
		func() { to["contains"], to["minContains"] = m.schema(depth), count() },
		func() { to["contains"], to["maxContains"] = m.schema(depth), count() },
		func() { to["unevaluatedProperties"] = m.schema(depth) },
		func() { to["unevaluatedItems"] = m.schema(depth) },
		func() { to["unevaluatedProperties"], to["allOf"] = "false", m.list(depth) },
		func() { to["unevaluatedItems"], to["anyOf"] = "false", m.list(depth) },
		func() { to["dependentSchemas"] = m.named(depth, makerNames) },
		func() { to["allOf"] = m.list(depth) },
		func() { to["anyOf"] = m.list(depth) },
		func() { to["oneOf"] = m.list(depth) },
		func() { to["oneOf"] = m.choice(depth) },
		func() { to["anyOf"] = m.choice(depth) },
		func() { to["not"] = m.schema(depth) },
		func() { to["if"], to["then"], to["else"] = m.schema(depth), m.schema(depth), m.schema(depth) },
		func() { to["if"], to["then"] = m.schema(depth), m.schema(depth) },
		func() {
			if m.refs {
				to["$ref"] = m.pick([]string{`"#/$defs/a"`, `"#/$defs/b"`, `"#"`, `"inner"`})
			}
		},
		func() {
			if m.refs {
				to["$dynamicRef"] = m.pick([]string{`"#node"`, `"inner#node"`, `"#/$defs/b"`})
			}
		},
	}
	if k := m.choose(len(simple) + len(nested)); k < len(simple) || depth <= 0 {
		simple[k%len(simple)]()
	} else {
		nested[k-len(simple)]()
	}
}

// choice makes schemas that a property tells apart.
func (m *maker) choice(depth int) string {
	var out []string
	name := m.pick(makerNames)
	texts := []string{`"a"`, `"b"`, `"longer text 1"`, `"longer text 2"`}
	for _, text := range texts[:2+m.choose(3)] {
		is := fmt.Sprintf(`{"const":%s}`, text)
		if m.choose(8) == 1 {
			is = fmt.Sprintf(`{"enum":[%s,"ab"]}`, text)
		}
		out = append(out, fmt.Sprintf(`{"required":[%q],"properties":{%q:%s,"c":%s},"additionalProperties":%s}`, name, name, is, m.schema(depth), m.schema(depth)))
	}
	return "[" + strings.Join(out, ",") + "]"
}

// whole makes a schema with some that it can refer to. Without choices left, it
// refers to nothing.
func (m *maker) whole() string {
	m.refs = m.choose(3) == 1
	members := map[string]string{}
	for range 1 + m.choose(4) {
		m.keyword(members, 3)
	}
	if m.refs {
		members["$dynamicAnchor"] = `"node"`
		members["$defs"] = fmt.Sprintf(`{"a":%s,"b":%s,"inner":{"$id":"inner","$dynamicAnchor":"node","$defs":{"b":true,"a":true},"items":%s,"additionalProperties":{"$dynamicRef":"#node"}}}`, m.schema(2), m.schema(2), m.pick([]string{`{"$dynamicRef":"#node"}`, `{"type":"string"}`}))
	}
	return join(members)
}

// differ holds one made schema against made messages.
func differ(t testing.TB, choices []byte, messages int) (compiled bool, allowed, refused, tooComplex int) {
	m := &maker{choices: choices}
	schema := m.whole()
	p, err := newPair(schema)
	if err != nil {
		return false, 0, 0, 0
	}
	for range messages {
		ok, over := p.check(t, schema, m.value(3))
		switch {
		case ok:
			allowed++
		default:
			refused++
		}
		if over {
			tooComplex++
		}
	}
	return true, allowed, refused, tooComplex
}

func TestProgramSaysWhatTheLibrarySays(t *testing.T) {
	random := rand.New(rand.NewPCG(2026, 11))
	var schemas, refusedSchemas, allowed, refused, tooComplex int
	rounds := 3_000
	if raceEnabled {
		rounds = 100
	}
	for range rounds {
		choices := make([]byte, 600)
		for i := range choices {
			choices[i] = byte(random.Uint32())
		}
		ok, a, r, c := differ(t, choices, 20)
		if !ok {
			refusedSchemas++
			continue
		}
		schemas, allowed, refused, tooComplex = schemas+1, allowed+a, refused+r, tooComplex+c
	}
	t.Logf("%d schemas, %d refused at load; %d messages allowed, %d refused, %d too complex", schemas, refusedSchemas, allowed, refused, tooComplex)
	if refusedSchemas > schemas/4 || min(allowed, refused) < 5*rounds {
		t.Error("the test tests little")
	}
	if tooComplex > (allowed+refused)/200 { // of messages that are mostly tiny, for schemas that are anything but
		t.Error("too many are too complex")
	}
}

// FuzzGenerated is the same for whatever the fuzzer chooses.
func FuzzGenerated(f *testing.F) {
	random := rand.New(rand.NewPCG(7, 7))
	for range 20 {
		choices := make([]byte, 200)
		for i := range choices {
			choices[i] = byte(random.Uint32())
		}
		f.Add(choices)
	}
	f.Fuzz(func(t *testing.T, choices []byte) {
		if len(choices) <= 4096 {
			differ(t, choices, 8)
		}
	})
}

// FuzzMessages mutates messages, and the schemas too.
func FuzzMessages(f *testing.F) {
	for _, schema := range []string{
		chatSchemaAlone, `{"$ref":"https://json-schema.org/draft/2020-12/schema"}`,
		`{"type":"object","properties":{"a":{"type":"array","uniqueItems":true,"items":{"$ref":"#/$defs/x"}}},"unevaluatedProperties":false,"$defs":{"x":{"oneOf":[{"required":["k"],"properties":{"k":{"const":"one"}}},{"required":["k"],"properties":{"k":{"const":"two"},"v":{"multipleOf":0.01}}}]}}}`,
		`{"patternProperties":{"^x":{"format":"date-time"}},"propertyNames":{"maxLength":4},"minProperties":1}`,
	} {
		for _, message := range []string{
			`{"type":"chat","text":"hello","room":"r","to":[{"id":1},{"id":2}],"reply":null,"map":{"a":1.5e3}}`, `{"a":[{"k":"one"},{"k":"two","v":19.99},{"v":19.990,"k":"two"}]}`,
			`{"x1":"2026-11-24T09:30:15Z"}`, `{"type":["array","object"],"minLength":1,"properties":{"a":{"pattern":"a"}}}`, `[1,1.0,"1",[1],{"a":1}]`, `"\ud83d\ude00"`, `1e300`,
		} {
			f.Add([]byte(schema), []byte(message))
		}
	}
	f.Fuzz(func(t *testing.T, schema, message []byte) {
		if len(schema)+len(message) > 4096 {
			return
		}
		cfg := Default()
		if _, err := parse(message, cfg.Guards); err != nil {
			return
		}
		if p, err := newPair(string(schema)); err == nil {
			p.check(t, string(schema), string(message))
		}
	})
}

const chatSchemaAlone = `{
	"type": "object", "required": ["type", "text"], "additionalProperties": false,
	"properties": {
		"type": {"enum": ["chat", "ping"]}, "room": {"type": "string", "pattern": "^[a-z]+$"}, "text": {"type": "string", "minLength": 1, "maxLength": 5},
		"to": {"type": "array", "items": {"type": "object", "required": ["id"], "properties": {"id": {"type": "integer", "maximum": 99}}}, "uniqueItems": true, "maxItems": 3},
		"reply": {"anyOf": [{"type": "null"}, {"type": "integer", "minimum": 1}]}, "map": {"type": "object", "additionalProperties": {"type": "number"}, "propertyNames": {"maxLength": 8}}
	},
	"dependentRequired": {"to": ["room"]}
}`
