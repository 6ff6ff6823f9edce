package settings

import (
	"encoding"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// field is one key of a section.
type field struct {
	key    string       // such as message_bytes
	path   string       // from the section that was asked about
	index  []int        // from that section's struct, for FieldByIndex
	typ    reflect.Type // of the Go field
	help   string
	secret bool
	isPath bool
}

// env and flag are meant for fields whose path starts at the top.
func (f field) env() string  { return envPrefix + strings.ToUpper(strings.ReplaceAll(f.path, ".", "_")) }
func (f field) flag() string { return strings.NewReplacer(".", "-", "_", "-").Replace(f.path) }

type kind int

const (
	scalar kind = iota
	section
	list
	table // a map from text
)

var (
	durationType    = reflect.TypeFor[time.Duration]()
	textMarshaler   = reflect.TypeFor[encoding.TextMarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
)

func hasText(t reflect.Type) bool { return reflect.PointerTo(t).Implements(textUnmarshaler) }

func kindOf(t reflect.Type) kind {
	if hasText(t) {
		if !reflect.PointerTo(t).Implements(textMarshaler) {
			panic(fmt.Sprintf("settings: %v has UnmarshalText but not MarshalText", t))
		}
		return scalar
	}
	switch t.Kind() {
	case reflect.Bool, reflect.String, reflect.Float32, reflect.Float64,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return scalar
	case reflect.Struct:
		return section
	case reflect.Slice:
		return list
	case reflect.Map:
		if t.Key().Kind() == reflect.String {
			return table
		}
	}
	panic(fmt.Sprintf("settings: a %v cannot be configured", t))
}

// fieldsOf lists the keys of one section in the order of its struct.
func fieldsOf(t reflect.Type) []field {
	var fields []field
	for i := range t.NumField() {
		sf := t.Field(i)
		key, inline := strings.CutSuffix(sf.Tag.Get("yaml"), ",inline")
		switch {
		case key == "-" || !sf.IsExported() && !sf.Anonymous:
		case inline && key == "" && sf.Type.Kind() == reflect.Struct:
			for _, f := range fieldsOf(sf.Type) {
				f.index = append([]int{i}, f.index...)
				fields = append(fields, f)
			}
		case !isKey(key):
			panic(fmt.Sprintf("settings: %v.%s: the yaml tag must name a key of a-z, 0-9 and _, or be \"-\"", t, sf.Name))
		default:
			fields = append(fields, field{
				key: key, path: key, index: []int{i}, typ: sf.Type,
				help: sf.Tag.Get("help"), secret: sf.Tag.Get("secret") == "true", isPath: sf.Tag.Get("path") == "true",
			})
		}
	}
	return fields
}

func isKey(s string) bool {
	return s != "" && 'a' <= s[0] && s[0] <= 'z' && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789_") == ""
}

// leavesOf lists the scalars that a variable or flag can set. It panics when a
// field anywhere in t cannot be configured, or two would share a name.
func leavesOf(t reflect.Type) []field {
	checkType(t, "", nil)
	leaves := appendLeaves(nil, t, field{})
	names := map[string]string{configFlag: "the flag for the file"}
	for _, f := range leaves {
		if other := names[f.flag()]; other != "" {
			panic(fmt.Sprintf("settings: %s and %s would share the flag --%s", other, f.path, f.flag()))
		}
		names[f.flag()] = f.path
	}
	return leaves
}

func appendLeaves(leaves []field, t reflect.Type, above field) []field {
	for _, f := range fieldsOf(t) {
		f = f.under(above)
		switch kindOf(f.typ) {
		case scalar:
			leaves = append(leaves, f)
		case section:
			leaves = appendLeaves(leaves, f.typ, f)
		}
	}
	return leaves
}

func (f field) under(above field) field {
	f.path = join(above.path, f.key)
	f.index = slices.Concat(above.index, f.index)
	f.secret = f.secret || above.secret
	return f
}

// checkType walks all of t, so that a struct which cannot be loaded fails in
// its first test and not on the first file that has the key.
func checkType(t reflect.Type, path string, above []reflect.Type) {
	if slices.Contains(above, t) {
		panic(fmt.Sprintf("settings: %s: %v contains itself", path, t))
	}
	above = append(slices.Clone(above), t)
	switch kindOf(t) {
	case list:
		checkType(t.Elem(), path+"[]", above)
	case table:
		checkType(t.Elem(), path+"[]", above)
	case section:
		keys := make(map[string]bool)
		for _, f := range fieldsOf(t) {
			if keys[f.key] {
				panic(fmt.Sprintf("settings: %v has two fields for %s", t, join(path, f.key)))
			}
			keys[f.key] = true
			if f.isPath && f.typ.Kind() != reflect.String {
				panic(fmt.Sprintf("settings: %v is no path", f.typ))
			}
			checkType(f.typ, join(path, f.key), above)
		}
	}
}

// paths lists every key of t that stands in sections, whatever its kind.
func paths(t reflect.Type, above string) []string {
	var all []string
	for _, f := range fieldsOf(t) {
		p := join(above, f.key)
		all = append(all, p)
		if kindOf(f.typ) == section {
			all = append(all, paths(f.typ, p)...)
		}
	}
	return all
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// entry names what a map has under key.
func entry(path, key string) string { return path + "[" + key + "]" }

// newElem makes an element for a list or map.
func newElem(t reflect.Type) reflect.Value {
	p := reflect.New(t)
	if d, ok := p.Interface().(interface{ SetDefaults() }); ok {
		d.SetDefaults()
	}
	return p.Elem()
}
