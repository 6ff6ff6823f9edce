package schema

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

const (
	dialect     = "https://json-schema.org/draft/2020-12/schema"
	dialectMeta = "https://json-schema.org/draft/2020-12/meta/"
)

// Bounds of the schema files of a route, which the node's operator has written: no
// mistake in them keeps a start busy, or a reload beside open sockets.
const (
	maxFileBytes    = 8 << 20 // of all of them
	maxSchemas      = 20_000  // in all of them; the library looks each up among all
	maxPointerBytes = 4096
)

// schemaGuards bound what a file says.
var schemaGuards = Guards{Depth: 200, Names: 1 << 20, Tokens: 1 << 22, MaxInteger: math.MaxUint64, HazardousNames: true}

// document is a schema file: what is in it, and where.
type document struct {
	file  string
	url   string // under which references find it
	value any
	sum   [sha256.Size]byte // of its text

	// found by walk
	schemas   map[string]string            // the JSON Pointers at which schemas stand -> that of their resource
	resources map[string]string            // absolute $id, without fragment -> JSON Pointer
	anchors   map[string]string            // absolute URL with fragment -> JSON Pointer
	dynamic   map[string]map[string]string // JSON Pointer of a resource -> $dynamicAnchor -> JSON Pointer
	refs      []reference
	placed    []placed        // the schemas, each before those within it
	names     map[string]bool // properties that schemas declare
	problems  []error
}

// reference is a $ref or $dynamicRef.
type reference struct {
	at     string   // its JSON Pointer
	target *url.URL // absolute
}

// readFile reads a schema file of so many bytes at most.
func readFile(files fs.FS, name string, most int) ([]byte, error) {
	info, err := fs.Stat(files, name)
	if err != nil {
		return nil, fmt.Errorf("schema file: %w", err)
	}
	if !info.Mode().IsRegular() { // a pipe would wait for somebody to write
		return nil, fmt.Errorf("schema file: %s is no regular file", name)
	}
	f, err := files.Open(name)
	if err != nil {
		return nil, fmt.Errorf("schema file: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, int64(most)+1))
	if err != nil {
		return nil, fmt.Errorf("schema file: %w", err)
	}
	if len(text) > most {
		return nil, fmt.Errorf("schema file: with %s the files of this route have more than %d bytes; leave out what no message needs", name, maxFileBytes)
	}
	return text, nil
}

// byteOrderMarks begin files as some editors write them: UTF-8 and both UTF-16.
var byteOrderMarks = []string{"\xef\xbb\xbf", "\xfe\xff", "\xff\xfe"}

// readDocument parses a schema file.
func readDocument(file, at string, text []byte) (*document, error) {
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, fmt.Errorf("%s: is empty; write a schema, or false, which allows nothing", file)
	}
	for _, mark := range byteOrderMarks {
		if bytes.HasPrefix(text, []byte(mark)) {
			return nil, fmt.Errorf("%s: begins with a byte order mark; save it as UTF-8 without one", file)
		}
	}
	v, err := parse(text, schemaGuards)
	if e := (*Error)(nil); errors.As(err, &e) {
		line := bytes.Count(text[:e.Offset], []byte("\n")) + 1
		column := e.Offset - bytes.LastIndexByte(text[:e.Offset], '\n')
		return nil, fmt.Errorf("%s:%d:%d: %w", file, line, column, e.Err)
	}
	return &document{
		file: file, url: at, value: v, sum: sha256.Sum256(text),
		schemas: map[string]string{}, resources: map[string]string{}, anchors: map[string]string{}, dynamic: map[string]map[string]string{}, names: map[string]bool{},
	}, nil
}

// holds says what a keyword's value holds.
type holds uint8

const (
	plain  holds = iota + 1 // no schema
	schema                  // a schema
	list                    // an array of schemas
	named                   // an object whose members are schemas
	advice                  // no schema; checks nothing unless annotations are made to
)

// keywords are those of draft 2020-12's vocabularies. What is not here is an
// error: a keyword that checks nothing would let pass what its author meant to
// keep out.
var keywords = map[string]holds{
	// Core. $vocabulary is for dialects, of which there is one here.
	"$schema": plain, "$id": plain, "$ref": plain, "$anchor": plain, "$dynamicRef": plain, "$dynamicAnchor": plain,
	"$comment": plain, "$defs": named,
	// Applicator.
	"prefixItems": list, "items": schema, "contains": schema,
	"properties": named, "patternProperties": named, "additionalProperties": schema, "propertyNames": schema, "dependentSchemas": named,
	"if": schema, "then": schema, "else": schema, "allOf": list, "anyOf": list, "oneOf": list, "not": schema,
	// Unevaluated.
	"unevaluatedItems": schema, "unevaluatedProperties": schema,
	// Validation.
	"type": plain, "enum": plain, "const": plain,
	"multipleOf": plain, "maximum": plain, "exclusiveMaximum": plain, "minimum": plain, "exclusiveMinimum": plain,
	"maxLength": plain, "minLength": plain, "pattern": plain,
	"maxItems": plain, "minItems": plain, "uniqueItems": plain, "maxContains": plain, "minContains": plain,
	"maxProperties": plain, "minProperties": plain, "required": plain, "dependentRequired": plain,
	// Format: checked unless annotations are asked for.
	"format": plain,
	// Content: annotations.
	"contentEncoding": advice, "contentMediaType": advice, "contentSchema": schema,
	// Meta-data: annotations which nobody takes for checks.
	"title": plain, "description": plain, "default": plain, "deprecated": plain, "readOnly": plain, "writeOnly": plain, "examples": plain,
}

// formerly says what to write for a keyword of an older draft.
var formerly = map[string]string{
	"definitions": "$defs", "dependencies": "dependentRequired or dependentSchemas", "additionalItems": "items after prefixItems",
	"id": "$id", "$recursiveRef": "$dynamicRef", "$recursiveAnchor": "$dynamicAnchor", "divisibleBy": "multipleOf", "disallow": "not", "extends": "allOf",
}

// walker notes what stands where in a document, and what is wrong with it.
type walker struct {
	*document
	c *compiler
}

func (d *document) walk(c *compiler) {
	w := walker{d, c}
	base, err := url.Parse(d.url)
	if err != nil {
		w.problem("", "%v", err)
		return
	}
	d.resources[d.url] = ""
	w.schema(d.value, "", "", base)
}

func (w *walker) problem(at, format string, args ...any) {
	w.problems = append(w.problems, &Problem{w.file, at, fmt.Errorf(format, args...)})
}

var pointerEscapes = strings.NewReplacer("~", "~0", "/", "~1")

// child is the JSON Pointer of a member (RFC 6901 section 3).
func child(at, name string) string { return at + "/" + pointerEscapes.Replace(name) }

// schema notes a schema at a JSON Pointer, part of the resource at another one;
// base is what its references are relative to.
func (w *walker) schema(v any, at, resource string, base *url.URL) {
	if w.c.schemas++; w.c.schemas > maxSchemas {
		return // which newCompiler reports
	}
	if len(at) > maxPointerBytes {
		w.problem(at[:64]+"...", "the place of a schema takes more than %d bytes to write; shorten names, or nest less", maxPointerBytes)
		return
	}
	object, ok := v.(map[string]any)
	switch _, isBool := v.(bool); {
	case ok:
		resource, base = w.identify(object, at, resource, base)
	case !isBool && strings.HasSuffix(at, "/items"):
		w.problem(at, "is %s; write an object, true or false, and schemas for items by their places in prefixItems", shown(v))
	case !isBool:
		w.problem(at, "is %s; a schema is an object, true or false", shown(v))
	}
	w.schemas[at] = resource
	w.placed = append(w.placed, placed{at, v, object})
	for _, name := range slices.Sorted(maps.Keys(object)) {
		value, here := object[name], child(at, name)
		if !w.isWritten(name, value, here) {
			continue
		}
		what := keywords[name]
		switch what {
		case 0:
			if instead, ok := formerly[name]; ok {
				w.problem(here, "%s is no keyword of draft 2020-12; write %s", name, instead)
			} else {
				w.problem(here, "%s is no keyword of draft 2020-12, or not supported; correct its spelling, or say it in $comment", name)
			}
		case schema:
			w.schema(value, here, resource, base)
		case list:
			items, _ := value.([]any)
			for i, item := range items {
				w.schema(item, child(here, strconv.Itoa(i)), resource, base)
			}
		case named:
			members, _ := value.(map[string]any)
			for _, member := range slices.Sorted(maps.Keys(members)) {
				w.schema(members[member], child(here, member), resource, base)
			}
		}
		if (what == advice || name == "contentSchema") && !w.c.cfg.Annotate {
			w.problem(here, "%s is not checked; remove it, or set annotate: true", name)
		}
		w.keyword(name, value, here, base)
	}
}

// identify notes a schema's $id and anchors, and returns its resource and base.
func (w *walker) identify(object map[string]any, at, resource string, base *url.URL) (string, *url.URL) {
	if id, ok := object["$id"].(string); ok {
		ref, err := url.Parse(id)
		if err != nil {
			w.problem(child(at, "$id"), "$id is %s, which is no URI reference; write one, as other.json", shown(id))
			return resource, base
		}
		base = base.ResolveReference(ref)
		base.Fragment, base.RawFragment = "", ""
		if other, ok := w.resources[base.String()]; ok && other != at {
			w.problem(child(at, "$id"), "%s is the $id of %s#%s too; choose another one", told(base), w.file, other)
		}
		w.resources[base.String()] = at
		resource = at
	}
	for _, keyword := range []string{"$anchor", "$dynamicAnchor"} {
		if anchor, ok := object[keyword].(string); ok {
			name := base.String() + "#" + anchor
			if other, ok := w.anchors[name]; ok && other != at {
				w.problem(child(at, keyword), "%s is the anchor of %s#%s too; choose another name for one of them", anchor, w.file, other)
			}
			w.anchors[name] = at
		}
	}
	if anchor, ok := object["$dynamicAnchor"].(string); ok {
		if w.dynamic[resource] == nil {
			w.dynamic[resource] = map[string]string{}
		}
		w.dynamic[resource][anchor] = at
	}
	return resource, base
}

// keyword checks what the compiler does not, or would report without its place.
func (w *walker) keyword(name string, value any, at string, base *url.URL) {
	text, isText := value.(string)
	switch {
	case name == "$schema" && isText && strings.TrimSuffix(text, "#") != dialect:
		w.problem(at, "%s is not supported; schemas are written in %s", text, dialect)
	case (name == "$ref" || name == "$dynamicRef") && isText:
		ref, err := url.Parse(text)
		if err != nil {
			w.problem(at, "%s is %s, which is no URI reference; write one, as #/$defs/name or other.json", name, shown(text))
			return
		}
		w.refs = append(w.refs, reference{at, base.ResolveReference(ref)})
	case name == "pattern" && isText:
		if _, err := w.c.patterns.compile(text); err != nil {
			w.problem(at, "%w", err)
		}
	case name == "patternProperties":
		members, _ := value.(map[string]any)
		for _, pattern := range slices.Sorted(maps.Keys(members)) {
			if _, err := w.c.patterns.compile(pattern); err != nil {
				w.problem(at, "%w", err)
			}
		}
	case name == "format" && isText && !w.c.cfg.Annotate && formats[text] == nil:
		w.problem(at, "format %q is not checked; remove it, or set annotate: true", text)
	case name == "properties":
		members, _ := value.(map[string]any)
		for _, property := range slices.Sorted(maps.Keys(members)) {
			w.declare(property, at)
		}
	case name == "required":
		members, _ := value.([]any)
		for _, property := range members {
			if property, ok := property.(string); ok {
				w.declare(property, at)
			}
		}
	}
}

func (w *walker) declare(property, at string) {
	w.names[property] = true
	if hazardous(property) && !w.c.cfg.Guards.HazardousNames {
		w.problem(at, "every message with a property %q is refused; choose another name, or set guards.hazardous_names: true", property)
	}
}
