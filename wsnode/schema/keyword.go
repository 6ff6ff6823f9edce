package schema

import (
	"encoding/json"
	"math/big"
	"slices"
	"strings"
)

// written is what the value of a keyword may be.
type written struct {
	is   func(v any) bool
	want string // completes "write ..."
}

var (
	aText      = written{isText, "a string"}
	aFlag      = written{func(v any) bool { _, ok := v.(bool); return ok }, "true or false"}
	aNumber    = written{func(v any) bool { return ratOf(v) != nil }, "a number"}
	aStep      = written{func(v any) bool { n := ratOf(v); return n != nil && n.Sign() > 0 }, "a number above 0"}
	aCount     = written{isCount, "a whole number from 0 to 9007199254740991"}
	anArray    = written{func(v any) bool { _, ok := v.([]any); return ok }, "an array"}
	nameList   = written{areNames, "an array of the names of properties, each once"}
	needList   = written{areNeeds, "an object that has an array of the names of properties, each once, for a property"}
	aType      = written{isType, "array, boolean, integer, null, number, object or string, or an array of some of them, each once"}
	anID       = written{isID, "a URI reference without a fragment, as other.json"}
	aReference = written{isReference, "a URI reference, as #/$defs/name or other.json"}
	anAnchor   = written{isAnchor, "a letter or _, then letters, digits, -, _ and ."}
	schemaList = written{func(v any) bool { list, ok := v.([]any); return ok && len(list) > 0 }, "an array of one schema or more"}
	schemaMap  = written{func(v any) bool { _, ok := v.(map[string]any); return ok }, "an object of schemas"}
)

// writtenAs says it for each keyword but those whose value may be anything.
var writtenAs = map[string]written{
	"$schema": aText, "$id": anID, "$ref": aReference, "$anchor": anAnchor, "$dynamicRef": aReference, "$dynamicAnchor": anAnchor, "$comment": aText,
	"type": aType, "enum": anArray, "multipleOf": aStep, "maximum": aNumber, "exclusiveMaximum": aNumber, "minimum": aNumber, "exclusiveMinimum": aNumber,
	"maxLength": aCount, "minLength": aCount, "pattern": aText, "maxItems": aCount, "minItems": aCount, "uniqueItems": aFlag, "maxContains": aCount, "minContains": aCount,
	"maxProperties": aCount, "minProperties": aCount, "required": nameList, "dependentRequired": needList, "format": aText, "contentEncoding": aText, "contentMediaType": aText,
	"title": aText, "description": aText, "deprecated": aFlag, "readOnly": aFlag, "writeOnly": aFlag, "examples": anArray,
}

// isWritten reports a keyword whose value cannot be one of it.
func (w *walker) isWritten(name string, v any, at string) bool {
	as, ok := writtenAs[name]
	switch keywords[name] {
	case list:
		as, ok = schemaList, true
	case named:
		as, ok = schemaMap, true
	}
	if !ok || as.is(v) {
		return true
	}
	w.problem(at, "%s is %s; write %s", name, shown(v), as.want)
	return false
}

// maxShown is how many bytes of a wrong value an error repeats.
const maxShown = 60

func shown(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return "no JSON"
	}
	if len(text) > maxShown {
		return strings.ToValidUTF8(string(text[:maxShown]), "") + "..."
	}
	return string(text)
}

func isText(v any) bool { _, ok := v.(string); return ok }

func ratOf(v any) *big.Rat {
	n, ok := v.(json.Number)
	if !ok {
		return nil
	}
	out, ok := new(big.Rat).SetString(string(n))
	if !ok {
		return nil
	}
	return out
}

// maxCount is the largest count that every reader of a schema reads alike.
const maxCount = 1<<53 - 1

func isCount(v any) bool {
	n := ratOf(v)
	return n != nil && n.IsInt() && n.Sign() >= 0 && n.Num().Cmp(big.NewInt(maxCount)) <= 0
}

// areNames also wants each once.
func areNames(v any) bool {
	list, ok := v.([]any)
	seen := make(map[string]bool, len(list))
	for _, name := range list {
		text, isText := name.(string)
		ok = ok && isText && !seen[text]
		seen[text] = true
	}
	return ok
}

func areNeeds(v any) bool {
	object, ok := v.(map[string]any)
	for _, names := range object {
		ok = ok && areNames(names)
	}
	return ok
}

var typeNames = []any{"array", "boolean", "integer", "null", "number", "object", "string"}

func isType(v any) bool {
	list, isList := v.([]any)
	if !isList {
		return isText(v) && slices.Contains(typeNames, v)
	}
	ok := len(list) > 0 && areNames(list)
	for _, name := range list {
		ok = ok && isText(name) && slices.Contains(typeNames, name)
	}
	return ok
}

func isID(v any) bool {
	text, ok := v.(string)
	return ok && !strings.Contains(strings.TrimSuffix(text, "#"), "#") && isReference(v)
}

// isReference leaves to its reader whether it can be parsed.
func isReference(v any) bool {
	text, ok := v.(string)
	return ok && !strings.Contains(text, `\`)
}

func isAnchor(v any) bool {
	text, ok := v.(string)
	for i := range len(text) {
		c := text[i]
		ok = ok && (c == '_' || alphanumeric.has(c) || i > 0 && (c == '-' || c == '.')) && (i > 0 || !isDigit(c))
	}
	return ok && text != ""
}
