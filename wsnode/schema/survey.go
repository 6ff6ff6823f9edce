package schema

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"slices"
	"strings"
)

// Survey is what schema files say, for those who judge schemas rather than
// messages. It is read only, and nothing is checked: Compile says what is wrong
// with the files.
type Survey struct {
	// Roots are the files' own schemas, in the order of their names as given.
	Roots []*Node

	nodes    map[resource]*Node
	compiler *compiler
}

// Node is a schema in a file.
type Node struct {
	File, Pointer string
	// Keywords are what it says, with numbers as json.Number; nil where it is true,
	// false, or no schema.
	Keywords map[string]any
	// Never says that it is false.
	Never bool

	// Under is the keyword of Parent that it stands under, and Name the member or
	// the index there; both are empty for a file's own schema, and Name also under
	// keywords that hold a single schema.
	Under, Name string
	Parent      *Node
	Children    []*Node // in the order of their places
	// Ref is what its $ref leads to: nil where it has none, where that leads
	// nowhere, and where it leads to one of the standard's own schemas.
	Ref *Node
}

// Place is file#pointer.
func (n *Node) Place() string { return n.File + "#" + n.Pointer }

// Reference is its place as a route's types and a $ref name it.
func (n *Node) Reference() string {
	return n.File + "#" + (&url.URL{Fragment: n.Pointer}).EscapedFragment()
}

// At is the JSON Pointer of one of its keywords.
func (n *Node) At(keyword string) string { return child(n.Pointer, keyword) }

// Below returns the schemas under one of a node's keywords.
func (n *Node) Below(keyword string) []*Node {
	var out []*Node
	for _, c := range n.Children {
		if c.Under == keyword {
			out = append(out, c)
		}
	}
	return out
}

// Read walks schema files as Compile does, and tells what stands where. It fails
// where a file is no JSON; what is wrong with its schemas is for Compile to say.
func Read(files fs.FS, names []string) (*Survey, error) {
	docs, err := readDocuments(files, names)
	if err != nil {
		return nil, err
	}
	cfg := Default()
	c, err := newCompiler(docs, &cfg)
	if c == nil { // too many to look at
		return nil, err
	}
	s := &Survey{nodes: map[resource]*Node{}, compiler: c}
	for _, d := range docs {
		s.add(d)
	}
	for _, d := range docs {
		for _, ref := range d.refs {
			pointer, isRef := strings.CutSuffix(ref.at, "/$ref")
			to, err := c.resolve(d, ref.target)
			if from := s.nodes[resource{d, pointer}]; isRef && err == nil && from != nil {
				from.Ref = s.nodes[to]
			}
		}
	}
	return s, nil
}

// IsFormat reports whether texts are held against a format of this name.
func IsFormat(name string) bool { return formats[name] != nil }

// add makes the nodes of a document, of which each stands before those in it.
func (s *Survey) add(d *document) {
	var open []*Node // around the next one
	for _, p := range d.placed {
		n := &Node{File: d.file, Pointer: p.at, Keywords: p.object, Never: p.value == false}
		s.nodes[resource{d, p.at}] = n
		for len(open) > 0 && !strings.HasPrefix(p.at, open[len(open)-1].Pointer+"/") {
			open = open[:len(open)-1]
		}
		if len(open) == 0 {
			s.Roots = append(s.Roots, n)
		} else {
			n.Parent = open[len(open)-1]
			n.Parent.Children = append(n.Parent.Children, n)
			n.Under, n.Name, _ = strings.Cut(p.at[len(n.Parent.Pointer)+1:], "/")
			n.Name = pointerUnescapes.Replace(n.Name)
		}
		open = append(open, n)
	}
}

var pointerUnescapes = strings.NewReplacer("~0", "~", "~1", "/")

// Find returns the schema at a place, a file or messages.json#/$defs/chat.
func (s *Survey) Find(place string) (*Node, error) {
	file, fragment, _ := strings.Cut(place, "#")
	res, ok := s.compiler.byURL[fileURL(file)]
	if !ok {
		return nil, fs.ErrNotExist
	}
	target, err := url.Parse(fileURL(file) + "#" + fragment)
	if err != nil {
		return nil, err
	}
	to, err := s.compiler.resolve(res.doc, target)
	if err != nil {
		return nil, err
	}
	return s.nodes[to], nil
}

// Types returns the types of message that the $defs of a file are: all those that
// have a TypeName, which is the type's. There are none where the file's own schema says more than $defs.
func (n *Node) Types(discriminator string) []Type {
	if !n.OnlyDefs() {
		return nil
	}
	var out []Type
	for _, d := range n.Below("$defs") {
		if name, ok := d.TypeName(discriminator); ok {
			out = append(out, Type{Name: name, Schema: d.Reference()})
		}
	}
	return out
}

// TypeName is the type of the messages that a schema allows: a text that it asks for
// in the property discriminator, by required and const.
func (n *Node) TypeName(discriminator string) (string, bool) {
	properties, _ := n.Keywords["properties"].(map[string]any)
	property, _ := properties[discriminator].(map[string]any)
	required, _ := n.Keywords["required"].([]any)
	name, ok := property["const"].(string)
	return name, ok && slices.Contains(required, any(discriminator))
}

// CheckNames reports what a node refuses of the names of a route's types, as Problems
// at the consts that they are taken from. Those of another origin are not looked at.
func (s *Survey) CheckNames(types []Type, discriminator string) error {
	var problems []error
	first := map[string]*Node{}
	for _, t := range types {
		n, err := s.Find(t.Schema)
		if err != nil || n == nil {
			continue // which Compile reports
		}
		name, ok := n.TypeName(discriminator)
		if !ok {
			continue
		}
		bad := func(format string, args ...any) {
			at := child(child(n.At("properties"), discriminator), "const")
			problems = append(problems, &Problem{n.File, at, fmt.Errorf(format, args...)})
		}
		if !isTypeName(name) {
			bad("%q, the type's name, is not %s", name, typeNameWant)
		}
		if other := first[name]; other == nil {
			first[name] = n
		} else if other != n {
			bad("%q is the type of %s too; give each type one schema", name, other.Place())
		}
	}
	return errors.Join(problems...)
}

// OnlyDefs reports whether a schema is there for those in its $defs alone: by
// itself it allows everything.
func (n *Node) OnlyDefs() bool {
	for keyword := range n.Keywords {
		switch keyword {
		case "$defs", "$schema", "$id", "$comment", "title", "description":
		default:
			return false
		}
	}
	return n.Keywords["$defs"] != nil
}

// Bundle writes the files as one JSON text that says the same wherever it is read:
// an object with the files' schemas under $defs, by the names of the files, whose
// references are JSON Pointers within it and which has no $id, $anchor, $schema
// and $comment. $dynamicRef, and references to the standard's own schemas, it
// leaves as they are.
func (s *Survey) Bundle() ([]byte, error) {
	defs := map[string]any{}
	for _, root := range s.Roots {
		defs[root.File] = s.bundle(root)
	}
	return json.Marshal(map[string]any{"$defs": defs})
}

// InBundle is the JSON Pointer of a schema in what Bundle writes.
func (n *Node) InBundle() string { return child("/$defs", n.File) + n.Pointer }

func (s *Survey) bundle(n *Node) any {
	if n.Keywords == nil {
		return !n.Never
	}
	out := make(map[string]any, len(n.Keywords))
	for keyword, value := range n.Keywords {
		switch keyword {
		case "$id", "$anchor", "$schema", "$comment":
			continue
		case "$ref":
			if n.Ref != nil {
				value = "#" + (&url.URL{Fragment: n.Ref.InBundle()}).EscapedFragment()
			}
		}
		switch keywords[keyword] {
		case list:
			items := make([]any, 0, len(n.Children))
			for _, c := range n.Below(keyword) {
				items = append(items, s.bundle(c))
			}
			value = items
		case named:
			members := map[string]any{}
			for _, c := range n.Below(keyword) {
				members[c.Name] = s.bundle(c)
			}
			value = members
		case schema:
			for _, c := range n.Below(keyword) {
				value = s.bundle(c)
			}
		}
		out[keyword] = value
	}
	return out
}
