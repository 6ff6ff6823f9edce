package schema

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"
)

const chatSchema = `{
	"type": "object",
	"required": ["type", "text"],
	"additionalProperties": false,
	"properties": {
		"type": true,
		"room": {"type": "string", "pattern": "^[a-z]+$"},
		"text": {"type": "string", "minLength": 1, "maxLength": 5},
		"to": {"type": "array", "items": {"$ref": "common.json#/$defs/user"}, "uniqueItems": true, "maxItems": 3},
		"reply": {"anyOf": [{"type": "null"}, {"type": "integer", "minimum": 1}]},
		"map": {"type": "object", "additionalProperties": {"type": "number"}, "propertyNames": {"maxLength": 8}},
		"not": {"not": {"const": "x"}},
		"never": false
	},
	"dependentRequired": {"to": ["room"]}
}`

const commonSchema = `{"$id": "https://example.com/common", "$defs": {"user": {"type": "object", "required": ["id"], "properties": {"id": {"type": "integer", "maximum": 99}}}}}`

func chatSet(t testing.TB) *Set {
	return mustCompile(t, folder("s/chat.json", strings.Replace(chatSchema, "common.json", "https://example.com/common", 1), "common.json", commonSchema, "ping.json", "{}"), oneType(func(c *Config) {
		c.Types = []Type{{Name: "chat", Schema: "s/chat.json"}, {Name: "ping", Schema: "ping.json"}}
		c.Shared = []string{"common.json"}
	}))
}

func TestCheck(t *testing.T) {
	s := chatSet(t)
	for _, test := range []struct {
		rule, in string
		typ      string
		want     error
	}{
		{"a message that its schema allows", `{"type":"chat","text":"hello"}`, "chat", nil},
		{"the type may come last", `{"text":"hello","type":"chat"}`, "chat", nil},
		{"the type may be escaped", `{"text":"hello","\u0074ype":"c\u0068at"}`, "chat", nil},
		{"each type has its schema", `{"type":"ping","anything":[1]}`, "ping", nil},
		{"a message that its schema does not allow", `{"type":"chat","text":""}`, "chat", ErrNotAllowed},
		{"an unknown type", `{"type":"admin"}`, "", ErrTypeUnknown},
		{"a type in other case", `{"type":"Chat","text":"a"}`, "", ErrTypeUnknown},
		{"an empty type", `{"type":""}`, "", ErrTypeUnknown},
		{"no type", `{"text":"hello"}`, "", ErrTypeMissing},
		{"the discriminator in other case", `{"Type":"chat","text":"a"}`, "", ErrTypeMissing},
		{"a type inside", `{"message":{"type":"chat"}}`, "", ErrTypeMissing},
		{"a type that is null", `{"type":null}`, "", ErrTypeMissing},
		{"a type that is a number", `{"type":1}`, "", ErrTypeMissing},
		{"a type in an array", `{"type":["chat"]}`, "", ErrTypeMissing},
		{"an array", `[{"type":"chat"}]`, "", ErrTypeMissing},
		{"a string", `"chat"`, "", ErrTypeMissing},
		{"null", `null`, "", ErrTypeMissing},
		{"two types", `{"type":"ping","type":"chat"}`, "", ErrDuplicateName},
		{"guards come before the type", `{"type":"admin","a":"\ud800"}`, "", ErrLoneSurrogate},
		{"no JSON", `{"type":"chat"`, "", ErrNotJSON},
		{"length counts characters, not bytes", `{"type":"chat","text":"äöü😀ß"}`, "chat", nil},
		{"an integer may be written with a fraction", `{"type":"chat","text":"a","reply":1.0}`, "chat", nil},
		{"a number is compared as written", `{"type":"chat","text":"a","reply":0.99999999999999999999}`, "chat", ErrNotAllowed},
		{"objects are equal in any order", `{"type":"chat","text":"a","room":"r","to":[{"id":1,"x":2},{"x":2.0,"id":1}]}`, "chat", ErrNotAllowed},
	} {
		t.Run(test.rule, func(t *testing.T) {
			typ, err := s.Check([]byte(test.in))
			if typ != test.typ || !errors.Is(err, test.want) {
				t.Errorf("%q, %v; want %q, %v", typ, err, test.typ, test.want)
			}
			var e *Error
			if err != nil && !errors.As(err, &e) {
				t.Errorf("%T, want *Error", err)
			}
		})
	}
}

// A schema that is picked by a property is still held against all of it.
func TestChoicesAskTheRest(t *testing.T) {
	s := mustCompile(t, folder("chat.json", `{"oneOf": [
		{"$ref": "#/$defs/a", "properties": {"k": {"const": "b"}}}, {"required": ["k", "v"], "properties": {"k": {"enum": ["c", "d"]}, "v": {"type": "string"}}}
	], "$defs": {"a": {"required": ["k"], "properties": {"k": {"const": "a"}}}}}`), oneType(nil))
	for in, want := range map[string]string{
		`{"type":"chat","k":"a"}`:         "/k by chat.json#/oneOf/0/properties/k/const",
		`{"type":"chat","k":"b"}`:         "the whole message by chat.json#/oneOf",
		`{"type":"chat","k":"c","v":"x"}`: "",
		`{"type":"chat","k":"d","v":1}`:   "/v by chat.json#/oneOf/1/properties/v/type",
		`{"type":"chat","k":"c"}`:         "the whole message by chat.json#/oneOf/1/required, which wants v",
		`{"type":"chat","k":1}`:           "the whole message by chat.json#/oneOf",
		`{"type":"chat"}`:                 "the whole message by chat.json#/oneOf",
	} {
		_, err := s.Check([]byte(in))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", in, err, want)
		}
	}
}

// Where properties may be there twice, each is held against the schema, and the
// type still is there once.
func TestDuplicateNamesAreAllChecked(t *testing.T) {
	s := mustCompile(t, folder("chat.json", `{"properties": {"type": {"const": "chat"}, "a": {"maximum": 5}, "b": {"oneOf": [
		{"required": ["k"], "properties": {"k": {"const": "x"}}}, {"required": ["k"], "properties": {"k": {"const": "y"}}}]},
		"const": {"const": {"x": 1, "long name": 2}}, "enum": {"enum": [{"x": 1, "y": 2}]}, "not": {"not": {"const": {"x": 1, "y": 2}}},
		"least": {"minProperties": 2}, "most": {"maxProperties": 2}, "unique": {"uniqueItems": true}}}`), oneType(func(c *Config) {
		c.Guards.DuplicateNames = true
		c.Types = append(c.Types, Type{Name: "ping", Schema: "chat.json"})
	}))
	for in, want := range map[string]error{
		`{"type":"chat","a":1,"a":2}`:              nil,
		`{"type":"chat","a":1,"a":9}`:              ErrNotAllowed,
		`{"type":"chat","a":9,"a":1}`:              ErrNotAllowed,
		`{"type":"chat","b":{"k":"x"}}`:            nil,
		`{"type":"chat","b":{"k":"x","k":"y"}}`:    ErrNotAllowed,
		`{"type":"chat","a":1,"\u0074ype":"ping"}`: ErrDuplicateName,
		`{"type":"ping","a":1,"type":"chat"}`:      ErrDuplicateName,
		`{"type":"ping"}`:                          ErrNotAllowed,

		`{"type":"chat","const":{"long name":2,"x":1}}`:                                      nil,
		`{"type":"chat","const":{"x":1,"x":1}}`:                                              ErrNotAllowed,
		`{"type":"chat","const":{"long name":2,"long name":2}}`:                              ErrNotAllowed,
		`{"type":"chat","const":{"x":1,"long name":2,"x":1}}`:                                ErrNotAllowed,
		`{"type":"chat","enum":{"y":2,"x":1}}`:                                               nil,
		`{"type":"chat","enum":{"y":2,"y":2}}`:                                               ErrNotAllowed,
		`{"type":"chat","not":{"y":2,"x":1}}`:                                                ErrNotAllowed,
		`{"type":"chat","not":{"y":2,"y":2}}`:                                                nil,
		`{"type":"chat","least":{"x":1,"y":1,"x":1}}`:                                        nil,
		`{"type":"chat","least":{"x":1,"\u0078":1}}`:                                         ErrNotAllowed,
		`{"type":"chat","most":{"x":1,"y":1,"x":1}}`:                                         nil,
		`{"type":"chat","most":{"x":1,"y":1,"z":1}}`:                                         ErrNotAllowed,
		`{"type":"chat","unique":[{"x":1,"y":2},{"x":1,"x":1}]}`:                             nil,
		`{"type":"chat","unique":[{"x":1,"x":1},{"x":1,"y":2}]}`:                             nil,
		`{"type":"chat","unique":[{"x":1,"y":2,"y":2},{"x":1,"x":1,"y":2}]}`:                 nil,
		`{"type":"chat","unique":[{"x":1,"x":2},{"x":1,"x":2}]}`:                             ErrNotAllowed,
		`{"type":"chat","unique":[{"x":1,"y":0,"x":2},{"x":1,"x":2,"y":0}]}`:                 ErrNotAllowed,
		`{"type":"chat","unique":[1,2,3,4,5,6,7,8,{"x":1,"y":2},{"x":1,"x":1}]}`:             nil,
		`{"type":"chat","unique":[1,2,3,4,5,6,7,8,{"x":1,"x":1,"y":2},{"x":1,"y":2,"x":1}]}`: ErrNotAllowed,
	} {
		if _, err := s.Check([]byte(in)); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", in, err, want)
		}
	}
}

func TestErrorsNameThePlace(t *testing.T) {
	s := chatSet(t)
	for _, test := range []struct {
		in, pointer, keyword, want string
	}{
		{`{"type":"chat","text":"123456"}`, "/text", "s/chat.json#/properties/text/maxLength", ""},
		{`{"type":"chat","text":1}`, "/text", "s/chat.json#/properties/text/type", "string"},
		{`{"type":"chat"}`, "", "s/chat.json#/required", "text"},
		{`{"type":"chat","text":"a","room":"A"}`, "/room", "s/chat.json#/properties/room/pattern", ""},
		{`{"type":"chat","text":"a","room":"r","to":[{"id":1},{"id":100}]}`, "/to/1/id", "common.json#/$defs/user/properties/id/maximum", ""},
		{`{"type":"chat","text":"a","room":"r","to":[{"id":1},{}]}`, "/to/1", "common.json#/$defs/user/required", "id"},
		{`{"type":"chat","text":"a","room":"r","to":[{"id":1},{"id":1}]}`, "/to", "s/chat.json#/properties/to/uniqueItems", ""},
		{`{"type":"chat","text":"a","to":[]}`, "", "s/chat.json#/dependentRequired/to", "room"},
		{`{"type":"chat","text":"a","reply":0}`, "/reply", "s/chat.json#/properties/reply/anyOf", ""},
		{`{"type":"chat","text":"a","not":"x"}`, "/not", "s/chat.json#/properties/not/not", ""},
		{`{"type":"chat","text":"a","never":1}`, "/never", "s/chat.json#/properties/never", ""},
		{`{"type":"chat","text":"a","secret":1}`, "", "s/chat.json#/additionalProperties", ""},
		{`{"type":"chat","text":"a","map":{"secret":"x"}}`, "/map/*", "s/chat.json#/properties/map/additionalProperties/type", "number"},
		{`{"type":"chat","text":"a","map":{"4111111111111111":1}}`, "/map", "s/chat.json#/properties/map/propertyNames/maxLength", ""},
		{`{"type":"chat","text":"a","map":{"room":"x"}}`, "/map/room", "s/chat.json#/properties/map/additionalProperties/type", "number"},
		{`{"type":"chat","room":"A","text":"","never":1}`, "/room", "s/chat.json#/properties/room/pattern", ""}, // the first of three
	} {
		for range 2 { // the second time by a run that knows the message
			_, err := s.Check([]byte(test.in))
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("%s: %v", test.in, err)
			}
			if e.Err != ErrNotAllowed || e.Pointer != test.pointer || e.Keyword != test.keyword || e.Want != test.want || e.Offset != -1 {
				t.Fatalf("%s: %+v", test.in, e)
			}
		}
	}
}

func TestErrorText(t *testing.T) {
	s := chatSet(t)
	for in, want := range map[string]string{
		`{"type":"chat","text":5}`:    "message not allowed by its schema: /text by s/chat.json#/properties/text/type, which wants string",
		`{"type":"chat"}`:             "message not allowed by its schema: the whole message by s/chat.json#/required, which wants text",
		`{"type":"chat","text":"\u"}`: "not JSON at byte 25",
		`{"type":"x"}`:                "message type unknown",
		`{"type":"chat","a":1,"a":2}`: "duplicate property name at byte 21",
	} {
		if _, err := s.Check([]byte(in)); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %q", in, err, want)
		}
	}
}

// Promise 1: whatever a peer writes, its words do not reach a log by way of an
// error.
func TestErrorsHoldNothingOfTheMessage(t *testing.T) {
	const canary = "gh1_CANARY"
	s := mustCompile(t, folder("chat.json", `{
		"properties": {
			"a": {"const": 1}, "b": {"enum": [1, "x"]}, "c": {"pattern": "^x$"}, "d": {"format": "uuid"}, "e": {"propertyNames": {"pattern": "^x$"}},
			"f": {"additionalProperties": false}, "g": {"additionalProperties": {"type": "null"}}, "h": {"patternProperties": {"^gh1": {"required": ["z"]}}},
			"i": {"unevaluatedProperties": false}, "j": {"contains": {"const": 1}}, "k": {"oneOf": [{"const": 1}, {"const": 2}]}, "l": {"not": {"type": "string"}},
			"m": {"maxProperties": 0}, "n": {"uniqueItems": true}, "o": {"items": {"additionalProperties": {"items": {"type": "null"}}}}, "p": {"type": "number"},
			"q": {"if": {"type": "string"}, "then": {"maxLength": 1}}, "r": {"dependentRequired": {"gh1_CANARY0": ["z"]}}, "s": {"dependentSchemas": {"x": false}},
			"t": {"allOf": [{"additionalProperties": {"maxLength": 1}}]}
		}
	}`), oneType(nil))
	messages := []string{canary, `{"type":"` + canary + `"}`, `{"` + canary + `":1,"` + canary + `":2}`, `{"type":"chat","` + canary + `":"\ud800"}`}
	for name := range s.names {
		for _, value := range []string{
			`"` + canary + `"`, `{"` + canary + `":1}`, `{"` + canary + `":{"` + canary + `":["` + canary + `"]}}`, `["` + canary + `","` + canary + `"]`,
			`[{"` + canary + `":["` + canary + `"]}]`, `{"` + canary + `":"` + canary + `"}`, `{"x":"` + canary + `"}`,
		} {
			messages = append(messages, fmt.Sprintf(`{"type":"chat",%q:%s}`, name, value))
		}
	}
	refused := 0
	for _, message := range messages {
		_, err := s.Check([]byte(message))
		if err == nil {
			continue
		}
		refused++
		if text := fmt.Sprintf("%v %+v %#v", err, err, err); strings.Contains(text, canary) && !strings.Contains(text, "CANARY0") {
			t.Errorf("%s: %s", message, text)
		}
	}
	if refused < 30 {
		t.Errorf("%d messages refused: the test tests little", refused)
	}
}

func TestCheckAllocs(t *testing.T) {
	if raceEnabled {
		t.Skip("a sync.Pool drops items then")
	}
	s := chatSet(t)
	all := mustCompile(t, folder("chat.json", chatSchema, "common.json", commonSchema, "all.json", everyKeyword), oneType(func(c *Config) {
		c.Types = []Type{{Name: "chat", Schema: "all.json"}}
	}))
	many := "[0" + strings.Repeat(",1", 3000) + "]"
	for _, test := range []struct {
		rule, in string
		set      *Set
		most     float64
	}{
		{"allowed", `{"type":"chat","text":"hello","room":"r","to":[{"id":1},{"id":2}],"reply":null,"map":{"a":1.5e3}}`, s, 0},
		{"allowed, with escapes", `{"\u0074ype":"chat","text":"\n\ud83d\ude00","map":{"\u00e9\t":0.1}}`, s, 0},
		{"allowed, beyond ASCII", `{"type":"chat","text":"äöü😀ß"}`, s, 0},
		{"allowed, by every keyword", everyKeywordAllows, all, 0},
		{"allowed, and large", `{"type":"ping","x":` + many + `}`, s, 0},
		{"not JSON", `{"type":"chat","text":}`, s, 2},
		{"not UTF-8", "{\"type\":\"chat\",\"text\":\"\xff\"}", s, 2},
		{"a lone surrogate", `{"type":"chat","text":"\ud83d"}`, s, 2},
		{"a duplicate name", `{"type":"chat","type":"chat"}`, s, 2},
		{"a number out of range", `{"type":"chat","x":1e309}`, s, 2},
		{"too deep", strings.Repeat("[", 100), s, 2},
		{"no type", `{}`, s, 2},
		{"an unknown type", `{"type":"x"}`, s, 2},
		{"not allowed", `{"type":"chat","text":"a","room":"r","to":[{"id":1},{"id":100}]}`, s, 2},
		{"not allowed, a property missing", `{"type":"chat"}`, s, 2},
		{"not allowed, at a place that no schema knows", `{"type":"chat","text":"a","map":{"secret":"x"}}`, s, 2},
		{"not allowed, a wrong number", `{"type":"chat","text":"a","reply":0}`, s, 2},
	} {
		in := []byte(test.in)
		_, err := test.set.Check(in)
		if (err == nil) != (test.most == 0) {
			t.Errorf("%s: %v", test.rule, err)
		}
		if got := testing.AllocsPerRun(200, func() { test.set.Check(in) }); got > test.most {
			t.Errorf("%s: %v allocations, want at most %v", test.rule, got, test.most)
		}
	}
}

// everyKeyword has each keyword that can refuse a message, and the message that
// it allows meets them all.
const everyKeyword = `{
	"type": "object", "minProperties": 1, "maxProperties": 40, "required": ["type"], "dependentRequired": {"a": ["type"]}, "dependentSchemas": {"a": {"required": ["b"]}},
	"propertyNames": {"pattern": "^[a-z]", "maxLength": 10},
	"properties": {
		"a": {"enum": ["x", 1, null, {"k": [1, 2.50]}, 2, 3, 4, 5, 6, 7, 8]}, "b": {"const": {"k": [1, 2.5], "l": "text"}},
		"c": {"minLength": 2, "maxLength": 40, "pattern": "(a|b)+é", "format": "email"}, "d": {"minimum": -1, "exclusiveMaximum": 1e3, "multipleOf": 0.05}, "e": {"maximum": 12345678901234567890.5, "exclusiveMinimum": 0, "multipleOf": 1e-20},
		"f": {"minItems": 1, "maxItems": 20, "uniqueItems": true, "prefixItems": [{"type": "integer"}, {"type": ["array", "null"]}], "items": {"type": ["number", "object", "string"]}, "contains": {"const": 7}, "minContains": 1, "maxContains": 2},
		"g": {"oneOf": [{"required": ["k"], "properties": {"k": {"const": "one"}}}, {"required": ["k"], "properties": {"k": {"const": "two"}}}]},
		"h": {"anyOf": [{"type": "string"}, {"not": {"type": "number"}}]}, "i": {"if": {"type": "array"}, "then": {"unevaluatedItems": false, "prefixItems": [true], "anyOf": [{"minItems": 9}, {"contains": {"const": 3}}]}, "else": false},
		"j": {"$ref": "#/$defs/tree"}, "k": {"items": {"anyOf": [{"format": "date-time"}, {"format": "uri"}, {"format": "ipv6"}, {"format": "regex"}, {"format": "hostname"}, {"format": "duration"}, {"format": "json-pointer"}]}}, "l": {"pattern": "^(?:a|b)*a(?:a|b){14}"}
	},
	"patternProperties": {"^x": {"type": "string"}, "y$": {"maxLength": 5}}, "unevaluatedProperties": false, "allOf": [{"properties": {"type": true}}, {"oneOf": [{"minProperties": 30}, {"properties": {"m": true}}]}],
	"$defs": {"tree": {"$dynamicAnchor": "node", "type": "array", "items": {"$dynamicRef": "#node"}}}
}`

const everyKeywordAllows = `{
	"type": "chat", "a": {"k": [1.0, 25e-1]}, "b": {"l": "te\u0078t", "k": [1, 2.5]}, "d": 19.95, "e": 1234567890123456789.012345678901234567,
	"f": [7, [], 1, 1.5, "1", {"a": 1, "b": 2}, {"a": 2, "b": 1}, 12345678901234567890.5, "x", "y", "z", {"c": [1e300]}], "g": {"v": 1, "k": "two"}, "h": null, "i": [1, 3], "j": [[], [[]]],
	"k": ["2026-11-24T09:30:15Z", "https://example.com/", "::1", "(?<n>a)\\k<n>", "example.com", "P1D", "/a~0b"], "l": "babbbbbbbbbbbbbbbb", "m": 1, "xy": "short"
}`

func TestCheckConcurrently(t *testing.T) {
	s := chatSet(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 200 {
				in := fmt.Sprintf(`{"type":"chat","text":"%s"}`, strings.Repeat("x", i%8))
				_, err := s.Check([]byte(in))
				if ok := i%8 >= 1 && i%8 <= 5; ok != (err == nil) {
					t.Errorf("%s: %v", in, err)
				}
			}
		})
	}
	wg.Wait()
}

// FuzzCheck proves that Check never panics, passes nothing that encoding/json
// would not read, names only configured types and returns only its own errors.
func FuzzCheck(f *testing.F) {
	for _, seed := range []string{
		`{"type":"chat","text":"hello","room":"r","to":[{"id":1}],"reply":null,"map":{"a":1.5e3}}`, `{"type":"chat","text":"\ud83d\ude00"}`, `{"type":"ping","x":1e308,"y":5e-324,"z":-0}`,
		`{"type":"chat","text":"a","map":{"a":1e-308}}`, `{"type":"chat","type":"ping"}`, `{"type":"chat","text":"a","reply":123456789012345}`, "\xff", "",
	} {
		f.Add([]byte(seed))
	}
	s := chatSet(f)
	f.Fuzz(func(t *testing.T, in []byte) {
		typ, err := s.Check(in)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || (e.Err == ErrNotAllowed) != (typ != "") {
				t.Fatalf("%q: %q, %#v", in, typ, err)
			}
			return
		}
		if !json.Valid(in) || !utf8.Valid(in) {
			t.Fatalf("%q passed", in)
		}
		var got map[string]any
		if err := json.Unmarshal(in, &got); err != nil || got["type"] != typ {
			t.Fatalf("%q passed as %q, but is %v, %v", in, typ, got, err)
		}
		if text, _ := got["text"].(string); typ == "chat" && (text == "" || utf8.RuneCountInString(text) > 5) {
			t.Fatalf("%q passed", in)
		}
	})
}

func BenchmarkCheck(b *testing.B) {
	s := chatSet(b)
	for name, in := range map[string]string{
		"allowed":       `{"type":"chat","text":"hello","room":"lobby","to":[{"id":1},{"id":2}],"reply":17}`,
		"not allowed":   `{"type":"chat","text":"hello","room":"lobby","to":[{"id":1},{"id":2}],"reply":0}`,
		"not JSON":      `{"type":"chat","text":"hello","room":"lobby","to":[{"id":1},{"id":2}],"reply":17`,
		"too deep":      strings.Repeat("[", 64<<10),
		"name flood":    `{"type":"chat"` + strings.Repeat(`,"a":1`, 10_000) + "}",
		"alike names":   `{"type":"ping","x":[` + strings.Repeat("{"+listedAll(200, func(i int) string { return fmt.Sprintf(`"0123456%03d89abcdef":1`, i) })+"},", 4) + "1]}",
		"1 MB of text":  `{"type":"ping","text":"` + strings.Repeat("x", 1<<20) + `"}`,
		"deep but fine": `{"type":"ping","x":` + strings.Repeat("[", 31) + strings.Repeat("]", 31) + "}",
	} {
		b.Run(name, func(b *testing.B) {
			payload := []byte(in)
			b.SetBytes(int64(len(in)))
			b.ReportAllocs()
			for b.Loop() {
				s.Check(payload)
			}
		})
	}
}
