package settings

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// maxFileBytes bounds a configuration file.
const maxFileBytes = 1 << 20

func (l *loader) readFile(v reflect.Value) {
	path, namedBy := l.src.File()
	if path == "" {
		return
	}
	text, err := readBounded(path)
	if errors.Is(err, os.ErrNotExist) && namedBy == "" {
		return
	}
	if err != nil {
		if namedBy != "" {
			err = fmt.Errorf("%w (named by %s)", err, namedBy)
		}
		l.report(Problem{Source: shown(path), Text: err.Error()})
		return
	}
	d := decoder{l: l, name: shown(path), top: v.Type()}
	before := len(l.problems)
	d.document(text, v)
	if namedBy == configEnv && slices.ContainsFunc(l.problems[before:], isUnknownKey) {
		l.report(Problem{Source: d.name, Text: "named by " + configEnv + ", which every program of Gatehouse reads; if it is another program's, name this one's by --" + configFlag})
	}
	resolvePaths(v, filepath.Dir(path))
}

// resolvePaths makes the paths that v has by now relative to dir instead of to
// wherever the program was started.
func resolvePaths(v reflect.Value, dir string) {
	switch kindOf(v.Type()) {
	case section:
		for _, f := range fieldsOf(v.Type()) {
			fv := v.FieldByIndex(f.index)
			if !f.isPath {
				resolvePaths(fv, dir)
			} else if path := fv.String(); path != "" && !filepath.IsAbs(path) {
				fv.SetString(filepath.Join(dir, path))
			}
		}
	case list:
		for i := range v.Len() {
			resolvePaths(v.Index(i), dir)
		}
	case table:
		for _, key := range v.MapKeys() {
			elem := reflect.New(v.Type().Elem()).Elem()
			elem.Set(v.MapIndex(key))
			resolvePaths(elem, dir)
			v.SetMapIndex(key, elem)
		}
	}
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, cause(err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, cause(err)
	}
	if len(text) > maxFileBytes {
		return nil, errors.New("is larger than 1 MiB, which no configuration is")
	}
	return text, nil
}

// cause drops the path that a Problem names already.
func cause(err error) error {
	if pe := (*os.PathError)(nil); errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// decoder walks the nodes of one file.
type decoder struct {
	l    *loader
	name string
	top  reflect.Type
}

func (d *decoder) report(at *yaml.Node, key, format string, args ...any) {
	d.l.report(Problem{Source: d.name, Line: at.Line, Column: at.Column, Key: key, Text: fmt.Sprintf(format, args...)})
}

func (d *decoder) document(text []byte, v reflect.Value) {
	if line, what := unreadable(text); what != "" {
		d.l.report(Problem{Source: d.name, Line: line, Text: what})
		return
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc, second yaml.Node
	switch err := dec.Decode(&doc); {
	case err == io.EOF: // nothing but comments
		return
	case err != nil:
		d.syntax(err, text)
		return
	}
	if err := dec.Decode(&second); err == nil {
		d.report(&second, "", "a second document begins here; a configuration is one")
	} else if err != io.EOF {
		d.syntax(err, text)
	}
	for _, n := range doc.Content {
		d.value(n, n, v, "", false)
	}
}

// unreadable finds the first place that is not UTF-8, or a character that YAML
// does not allow; the YAML library would not say where.
func unreadable(text []byte) (line int, what string) {
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRune(text[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			what = "is not UTF-8"
		case r < ' ' && r != '\t' && r != '\n' && r != '\r', r >= 0x7f && r < 0xa0 && r != 0x85, r == 0xfffe, r == 0xffff:
			what = fmt.Sprintf("holds the control character %U", r)
		}
		if what != "" {
			return 1 + bytes.Count(text[:i], []byte("\n")), what
		}
		i += size
	}
	return 0, ""
}

// syntax turns the YAML library's "yaml: line 3: text" into a Problem.
func (d *decoder) syntax(err error, file []byte) {
	line, text := 0, strings.TrimPrefix(err.Error(), "yaml: ")
	if rest, ok := strings.CutPrefix(text, "line "); ok {
		number, after, _ := strings.Cut(rest, ": ")
		if n, err := strconv.Atoi(number); err == nil {
			line, text = n, after
		}
	}
	// The library counts from 0 in its parser, from 1 in its scanner, and leaves
	// 0 out. An end that came too soon is in the line behind the last.
	if line == 0 || slices.Contains(parserProblems, text) {
		line++
	}
	line = min(line, 1+bytes.Count(bytes.TrimSuffix(file, []byte("\n")), []byte("\n")))
	p := Problem{Source: d.name, Line: line, Text: "not YAML: " + text}
	// This one has no line, and repeats what may be an unquoted secret.
	if rest, ok := strings.CutPrefix(text, "unknown anchor '"); ok {
		before, _, _ := bytes.Cut(file, []byte("*"+strings.TrimSuffix(rest, "' referenced")))
		p.Line, p.Text = 1+bytes.Count(before, []byte("\n")), noAlias
	}
	d.l.report(p)
}

var parserProblems = []string{
	"did not find expected key", "did not find expected node content", "did not find expected '-' indicator",
	"did not find expected ',' or ']'", "did not find expected ',' or '}'", "did not find expected <document start>",
}

const noAlias = `anchors and aliases are not supported; write the value out, and quote one that begins with & or *`

// value fills v from n. Problems are placed at at, which is the key of n or,
// in a list, n itself.
func (d *decoder) value(n, at *yaml.Node, v reflect.Value, path string, secret bool) {
	want := kindOf(v.Type())
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		d.report(at, path, noAlias)
		return
	case n.Style&yaml.TaggedStyle != 0:
		d.report(at, path, "type tags are not supported; quote a value that begins with !")
		return
	case n.Tag == "!!null" && want == section: // a section whose keys are all commented out
		return
	case n.Tag == "!!null":
		d.report(at, path, "has no value; %s", emptyHint[want])
		return
	case secret && n.Kind == yaml.ScalarNode && n.Value == masked:
		d.report(at, path, "holds the mask of a printed configuration; write the secret itself")
		return
	case n.Kind != nodeKind[want]:
		d.report(at, path, "is %s; %s", nodeName[n.Kind], wantHint[want])
		return
	}
	switch want {
	case scalar:
		if err := setText(v, n.Value, secret); err != nil {
			d.report(at, path, "%s", err)
			return
		}
	case section:
		d.section(n, v, path, secret)
		return
	case list:
		d.list(n, v, path, secret)
	case table:
		d.table(n, v, path, secret)
	}
	d.l.origins[path] = d.at(at)
}

func (d *decoder) at(n *yaml.Node) string { return d.name + ":" + strconv.Itoa(n.Line) }

var (
	nodeKind  = map[kind]yaml.Kind{scalar: yaml.ScalarNode, section: yaml.MappingNode, list: yaml.SequenceNode, table: yaml.MappingNode}
	nodeName  = map[yaml.Kind]string{yaml.ScalarNode: "a single value", yaml.MappingNode: "a section of keys", yaml.SequenceNode: "a list"}
	wantHint  = map[kind]string{scalar: "write a single value", section: "write keys below it", list: "write a list, as [a, b]", table: "write keys and values below it"}
	emptyHint = map[kind]string{scalar: `write one, or "" for empty text, or remove the key`, list: "write [] for none, or remove the key", table: "write {} for none, or remove the key"}
)

func (d *decoder) section(n *yaml.Node, v reflect.Value, path string, secret bool) {
	fields := fieldsOf(v.Type())
	d.keys(n, path, join, func(key, at string, k, val *yaml.Node) {
		for _, f := range fields {
			if f.key == key {
				d.value(val, k, v.FieldByIndex(f.index), at, secret || f.secret)
				return
			}
		}
		d.report(k, at, "%s", unknownKey(key, fields, d.top))
	})
}

func (d *decoder) list(n *yaml.Node, v reflect.Value, path string, secret bool) {
	v.SetZero() // an empty list is nil
	for i, item := range n.Content {
		elem, at := newElem(v.Type().Elem()), path+"["+strconv.Itoa(i)+"]"
		d.l.origins[at] = d.at(item)
		d.value(item, item, elem, at, secret)
		v.Set(reflect.Append(v, elem))
	}
}

func (d *decoder) table(n *yaml.Node, v reflect.Value, path string, secret bool) {
	v.SetZero()
	if len(n.Content) > 0 {
		v.Set(reflect.MakeMap(v.Type()))
	}
	d.keys(n, path, entry, func(key, at string, k, val *yaml.Node) {
		elem := newElem(v.Type().Elem())
		d.l.origins[at] = d.at(k)
		d.value(val, k, elem, at, secret)
		v.SetMapIndex(reflect.ValueOf(key).Convert(v.Type().Key()), elem)
	})
}

// keys calls found for each key of a mapping that may be used, with its path
// as name makes it.
func (d *decoder) keys(n *yaml.Node, path string, name func(path, key string) string, found func(key, at string, k, val *yaml.Node)) {
	first := make(map[string]int)
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		switch line, twice := first[k.Value]; {
		case k.Kind != yaml.ScalarNode || k.Anchor != "" || k.Style&yaml.TaggedStyle != 0 || k.Tag == "!!null":
			d.report(k, path, "a key must be plain text")
		case k.Tag == "!!merge":
			d.report(k, path, "merge keys are not supported; write the values out")
		case twice:
			d.report(k, name(path, shown(k.Value)), "set twice; first in line %d", line)
		default:
			first[k.Value] = k.Line
			found(k.Value, name(path, shown(k.Value)), k, n.Content[i+1])
		}
	}
}
