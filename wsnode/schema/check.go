package schema

import (
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
)

// Set checks the messages of a route. Safe for concurrent use.
type Set struct {
	discriminator string
	guards        Guards
	types         map[string]messageType
	names         map[string]bool   // properties that schemas declare
	files         map[string]string // URL of a document -> file
}

type messageType struct {
	name   string
	schema *jsonschema.Schema
}

// Check decides whether a message may pass: it returns nil, or an *Error with
// one of this package's errors. typ is the message's type, as configured, as soon
// as it is known, also with ErrNotAllowed; it is empty before. Whether the
// session may send messages of this type is for the caller to say.
//
// payload is borrowed for the call and not written to.
func (s *Set) Check(payload []byte) (typ string, err error) {
	v, err := parse(payload, s.guards)
	if err != nil {
		return "", err
	}
	object, _ := v.(map[string]any)
	name, ok := object[s.discriminator].(string)
	if !ok {
		return "", &Error{Err: ErrTypeMissing, Offset: -1}
	}
	t, ok := s.types[name]
	if !ok {
		return "", &Error{Err: ErrTypeUnknown, Offset: -1}
	}
	if err := t.schema.Validate(v); err != nil {
		return t.name, s.explain(err, v)
	}
	return t.name, nil
}

// explain picks one of the reasons why a schema did not allow a message. The
// library finds them in random order: the first by place is always the same.
func (s *Set) explain(err error, message any) *Error {
	out := &Error{Err: ErrNotAllowed, Offset: -1}
	var first *jsonschema.ValidationError
	var visit func(e *jsonschema.ValidationError)
	visit = func(e *jsonschema.ValidationError) {
		switch e.ErrorKind.(type) {
		case *kind.Schema, *kind.Group, *kind.AllOf, *kind.Reference:
			for _, cause := range e.Causes {
				visit(cause)
			}
		case nil:
		default: // below anyOf, oneOf and the like are alternatives, not reasons
			if first == nil || before(e, first) {
				first = e
			}
		}
	}
	if top, ok := err.(*jsonschema.ValidationError); ok {
		visit(top)
	}
	if first != nil {
		out.Pointer, out.Keyword, out.Want = s.pointer(location(first), message), s.keyword(first), want(first.ErrorKind)
	}
	return out
}

func before(a, b *jsonschema.ValidationError) bool {
	if c := slices.Compare(location(a), location(b)); c != 0 {
		return c < 0
	}
	if a.SchemaURL != b.SchemaURL {
		return a.SchemaURL < b.SchemaURL
	}
	return slices.Compare(a.ErrorKind.KeywordPath(), b.ErrorKind.KeywordPath()) < 0
}

// location is where in the message a reason is. That of propertyNames the
// library writes over: only its length stays right.
func location(e *jsonschema.ValidationError) []string {
	if _, ok := e.ErrorKind.(*kind.PropertyNames); ok {
		return make([]string, len(e.InstanceLocation))
	}
	return e.InstanceLocation
}

// pointer writes the place of a value in the message. The names in it are the
// peer's words, which may be anything: only those are shown that the schemas
// have too.
func (s *Set) pointer(location []string, in any) string {
	var b strings.Builder
	for _, name := range location {
		shown := "*"
		switch v := in.(type) {
		case map[string]any:
			in = v[name]
			if s.names[name] {
				shown = name
			}
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil || i < 0 || i >= len(v) {
				in = nil
				break
			}
			in, shown = v[i], strconv.Itoa(i)
		}
		b.WriteString(child("", shown))
	}
	return b.String()
}

// keyword writes the place of the keyword that did not allow the message.
func (s *Set) keyword(e *jsonschema.ValidationError) string {
	at, fragment, _ := strings.Cut(e.SchemaURL, "#")
	if file, ok := s.files[at]; ok {
		at = file
	}
	pointer := unescape(fragment)
	path := e.ErrorKind.KeywordPath()
	switch e.ErrorKind.(type) { // which the library writes unlike the others
	case *kind.Not:
		path = []string{"not"}
	case *kind.PropertyNames:
		path = nil
	}
	for _, name := range path {
		pointer = child(pointer, name)
	}
	return at + "#" + pointer
}

// want says what some keywords ask for, in the schema's words alone.
func want(k jsonschema.ErrorKind) string {
	switch k := k.(type) {
	case *kind.Type:
		return strings.Join(k.Want, " or ")
	case *kind.Required:
		return strings.Join(slices.Sorted(slices.Values(k.Missing)), " and ")
	case *kind.DependentRequired:
		return strings.Join(slices.Sorted(slices.Values(k.Missing)), " and ")
	case *kind.Format:
		return k.Want
	}
	return ""
}
