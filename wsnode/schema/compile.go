package schema

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Compile reads the schemas of a route and makes the Set that checks its
// messages. Files are read from files, by the paths that cfg lists, and no
// others: a reference to anything else is an error. The error holds every
// problem, joined, of the first of these that has any: cfg; the files; their
// keywords and references; what schemas say together. Those of a schema name its
// file and the JSON Pointer in it.
func Compile(files fs.FS, cfg Config) (*Set, error) {
	return compile(files, cfg, false)
}

// CompileOne is Compile for whoever knows of no types: the Set holds every JSON
// text against the schema at one place, a file or messages.json#/$defs/chat. What
// cfg says of types and their discriminator plays no part.
func CompileOne(files fs.FS, place string, cfg Config) (*Set, error) {
	cfg.Types = []Type{{Name: "message", Schema: place}}
	return compile(files, cfg, true)
}

func compile(files fs.FS, cfg Config, untyped bool) (*Set, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	var names []string
	for _, t := range cfg.Types {
		file, _, _ := strings.Cut(t.Schema, "#")
		names = append(names, file)
	}
	docs, err := readDocuments(files, append(names, cfg.Shared...))
	if err != nil {
		return nil, err
	}
	c, err := newCompiler(docs, &cfg)
	if err != nil {
		return nil, err
	}
	s := newSet(&cfg, docs)
	s.untyped = untyped
	var problems []error
	l := newLowering(c)
	for i, t := range cfg.Types {
		compiled, err := c.compile(t.Schema)
		if err != nil {
			problems = append(problems, fmt.Errorf("types[%d].schema: %w", i, err))
			continue
		}
		s.nodes = append(s.nodes, l.add(compiled))
	}
	for _, d := range docs {
		if err := d.contradictions(&c.patterns); err != nil {
			problems = append(problems, err)
		}
	}
	if s.program, err = l.finish(); err != nil {
		problems = append(problems, err)
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	if !cfg.Guards.DuplicateNames && !untyped {
		for i, texts := range s.types.textsOf(len(s.nodes)) { // the type has been looked at when they are asked
			s.nodes[i] = s.program.chosen(s.nodes[i], s.types.name, texts)
		}
	}
	return s, nil
}

// readDocuments reads files, each once. The error holds every problem.
func readDocuments(files fs.FS, names []string) ([]*document, error) {
	var docs []*document
	var problems []error
	read, left := map[string]bool{}, maxFileBytes
	for _, name := range names {
		if read[name] {
			continue
		}
		read[name] = true
		text, err := readFile(files, name, left)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		left -= len(text)
		d, err := readDocument(name, fileURL(name), text)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		docs = append(docs, d)
	}
	return docs, errors.Join(problems...)
}

// fileURL is what references between files are relative to.
func fileURL(file string) string { return (&url.URL{Scheme: "schema", Path: "/" + file}).String() }

// told is a URL as whoever wrote a reference knows it: a file by its path.
func told(u *url.URL) string { return strings.TrimPrefix(u.String(), fileURL("")) }

// Problem is what is wrong with a schema, and where it stands.
type Problem struct {
	File, Pointer string
	Err           error
}

func (p *Problem) Error() string { return p.File + "#" + p.Pointer + ": " + p.Err.Error() }

// Unwrap returns what is wrong, without the place.
func (p *Problem) Unwrap() error { return p.Err }

// compiler compiles schemas of a fixed set of documents.
type compiler struct {
	cfg  *Config
	docs []*document
	// Where the resource of a URL is. Only a whole document can be loaded by its
	// $id; a part of one is known under it within the same document alone.
	byURL map[string]resource
	lib   *jsonschema.Compiler

	schemas  int // in docs
	patterns patterns
}

type resource struct {
	doc *document
	at  string
}

// newCompiler walks the documents and checks that their references stay among
// them.
func newCompiler(docs []*document, cfg *Config) (*compiler, error) {
	c := &compiler{cfg: cfg, docs: docs, byURL: map[string]resource{}, lib: jsonschema.NewCompiler(), patterns: newPatterns()}
	var problems []error
	for _, d := range docs {
		d.walk(c)
		problems = append(problems, d.problems...)
		if c.schemas > maxSchemas {
			return nil, fmt.Errorf("with %s the files of this route have more than %d schemas; leave out what no message needs", d.file, maxSchemas)
		}
		for at, pointer := range d.resources {
			if other, ok := c.byURL[at]; ok {
				problems = append(problems, &Problem{d.file, pointer, fmt.Errorf("$id %s is that of %s#%s too; choose another one", strings.TrimPrefix(at, fileURL("")), other.doc.file, other.at)})
				continue
			}
			c.byURL[at] = resource{d, pointer}
		}
	}
	for _, d := range docs {
		for _, ref := range d.refs {
			if _, err := c.resolve(d, ref.target); err != nil {
				problems = append(problems, &Problem{d.file, ref.at, err})
			}
		}
	}
	c.lib.DefaultDraft(jsonschema.Draft2020)
	c.lib.UseLoader(c)
	c.lib.UseRegexpEngine(func(pattern string) (jsonschema.Regexp, error) { return c.patterns.compile(pattern) })
	for name, check := range formats {
		c.lib.RegisterFormat(&jsonschema.Format{Name: name, Validate: func(v any) error {
			if text, ok := v.(string); ok && !check([]byte(text)) {
				return errors.New("not of this format")
			}
			return nil
		}})
	}
	if !cfg.Annotate {
		c.lib.AssertFormat()
	}
	return c, errors.Join(problems...)
}

// resolve finds the schema that a reference of d leads to; it is in no document if
// it is one of the standard's own, which are built in. One that leads into a value
// which is no schema would be taken for one without a single keyword, which allows
// everything: that is an error.
func (c *compiler) resolve(d *document, target *url.URL) (resource, error) {
	to := *target
	to.Fragment, to.RawFragment = "", ""
	if at := to.String(); at == dialect || strings.HasPrefix(at, dialectMeta) {
		return resource{}, nil
	}
	res, ok := c.byURL[to.String()]
	if !ok {
		return resource{}, fmt.Errorf("refers to %s, which is none of the listed files; list it with them, or copy what is needed into $defs", told(&to))
	}
	if res.doc != d && res.at != "" {
		return resource{}, fmt.Errorf("refers to %s, which is a part of %s; refer to it as %s#%s", told(&to), res.doc.file, res.doc.file, res.at)
	}
	if target.Fragment == "" || strings.HasPrefix(target.Fragment, "/") {
		pointer := res.at + target.Fragment
		if _, ok := res.doc.schemas[pointer]; !ok {
			return resource{}, fmt.Errorf("refers to %s#%s, where no schema is; name one, as #/$defs/name", res.doc.file, pointer)
		}
		return resource{res.doc, pointer}, nil
	}
	pointer, ok := res.doc.anchors[to.String()+"#"+target.Fragment]
	if !ok {
		return resource{}, fmt.Errorf("refers to the anchor %s, which %s does not have; add it, or refer to the place, as #/$defs/name", target.Fragment, res.doc.file)
	}
	return resource{res.doc, pointer}, nil
}

// Load gives the library the documents of the set, and nothing else.
func (c *compiler) Load(at string) (any, error) {
	if res, ok := c.byURL[at]; ok && res.at == "" {
		return res.doc.value, nil
	}
	return nil, errors.New("not one of the listed files")
}

// compile compiles the schema at a file, or at a place in one.
func (c *compiler) compile(place string) (*jsonschema.Schema, error) {
	file, fragment, _ := strings.Cut(place, "#")
	target, err := url.Parse(fileURL(file) + "#" + fragment)
	if err != nil {
		return nil, fmt.Errorf("%s is no place in a file; write it as %s#/$defs/name", place, file)
	}
	own := c.byURL[fileURL(file)].doc
	if _, err := c.resolve(own, target); err != nil {
		return nil, err
	}
	compiled, err := c.lib.Compile(target.String())
	if err != nil {
		return nil, c.locate(file, fragment, err)
	}
	return compiled, nil
}

// errCompiler is what the library refuses though nothing was found wrong before,
// in its words. Nothing is known that would be.
var errCompiler = errors.New("the compiler of schemas refuses this")

// locate writes the library's error with the file that was compiled.
func (c *compiler) locate(file, pointer string, err error) error {
	text := err.Error()
	for at, res := range c.byURL {
		if res.at == "" {
			text = strings.ReplaceAll(text, at, res.doc.file)
		}
	}
	return &Problem{file, pointer, fmt.Errorf("%w: %s", errCompiler, text)}
}

// placeOf is where a compiled schema stands.
func (c *compiler) placeOf(s *jsonschema.Schema) place {
	file, pointer := c.place(s.Location)
	return place{file, pointer}
}

// resourceOf is the resource that a schema is part of; it has no document if it is
// one of the standard's own.
func (c *compiler) resourceOf(s *jsonschema.Schema) resource {
	at, fragment, _ := strings.Cut(s.Location, "#")
	if at == dialect || strings.HasPrefix(at, dialectMeta) {
		return resource{at: at}
	}
	doc := c.byURL[at].doc
	return resource{doc, doc.schemas[unescape(fragment)]}
}

// dynamicAnchors are those of a resource. The library knows them, but does not
// tell.
func (c *compiler) dynamicAnchors(in resource) (map[string]*jsonschema.Schema, error) {
	at, anchors := in.at, map[string]string{"meta": ""}
	if in.doc != nil {
		at, anchors = in.doc.url, in.doc.dynamic[in.at]
	}
	out := make(map[string]*jsonschema.Schema, len(anchors))
	for name, pointer := range anchors {
		target, err := c.lib.Compile(at + "#" + (&url.URL{Fragment: pointer}).EscapedFragment())
		if err != nil {
			return nil, err
		}
		out[name] = target
	}
	return out, nil
}

// place turns the URL of a schema into file and JSON Pointer.
func (c *compiler) place(location string) (file, pointer string) {
	at, fragment, _ := strings.Cut(location, "#")
	if res, ok := c.byURL[at]; ok {
		at = res.doc.file
	}
	return at, unescape(fragment)
}

func unescape(fragment string) string {
	if pointer, err := url.PathUnescape(fragment); err == nil {
		return pointer
	}
	return fragment
}
