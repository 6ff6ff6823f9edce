package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// appendMessage encodes m for scripts. outputHelp states the rules.
//
// It is not protojson, whose counts are strings, so that jq's .tokens > 5 is
// always true, whose User-Agents are base64, and whose enums repeat their type.
func appendMessage(dst []byte, m protoreflect.Message) []byte {
	fields := m.Descriptor().Fields()
	dst = append(dst, '{')
	for i := range fields.Len() {
		fd := fields.Get(i)
		if fd.ContainingOneof() != nil && !m.Has(fd) {
			continue
		}
		if dst[len(dst)-1] != '{' {
			dst = append(dst, ", "...)
		}
		dst = appendJSONValue(dst, string(fd.Name()))
		dst = append(dst, ": "...)
		dst = appendField(dst, fd, m)
	}
	return append(dst, '}')
}

func appendField(dst []byte, fd protoreflect.FieldDescriptor, m protoreflect.Message) []byte {
	v := m.Get(fd)
	switch {
	case fd.IsList():
		dst = append(dst, '[')
		for i := range v.List().Len() {
			if i > 0 {
				dst = append(dst, ", "...)
			}
			dst = appendSingular(dst, fd, v.List().Get(i))
		}
		return append(dst, ']')
	case fd.IsMap():
		entries := map[string]protoreflect.Value{}
		v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
			entries[k.String()] = v
			return true
		})
		dst = append(dst, '{')
		for i, k := range slices.Sorted(maps.Keys(entries)) {
			if i > 0 {
				dst = append(dst, ", "...)
			}
			dst = append(appendJSONValue(dst, k), ": "...)
			dst = appendSingular(dst, fd.MapValue(), entries[k])
		}
		return append(dst, '}')
	case fd.Message() != nil && !m.Has(fd):
		return append(dst, "null"...)
	}
	return appendSingular(dst, fd, v)
}

func appendSingular(dst []byte, fd protoreflect.FieldDescriptor, v protoreflect.Value) []byte {
	switch fd.Kind() {
	case protoreflect.MessageKind:
		switch m := v.Message().Interface().(type) {
		case *timestamppb.Timestamp:
			return appendJSONValue(dst, m.AsTime().Format(time.RFC3339Nano))
		case *durationpb.Duration:
			return appendJSONValue(dst, secondsText(m.AsDuration()))
		case *pb.Revision:
			return appendJSONValue(dst, revisionText(m))
		}
		return appendMessage(dst, v.Message())
	case protoreflect.EnumKind:
		return appendJSONValue(dst, enumLabel(fd.Enum(), v.Enum()))
	case protoreflect.BytesKind:
		if strings.HasSuffix(string(fd.Name()), "_sha256") {
			return appendJSONValue(dst, base64.RawURLEncoding.EncodeToString(v.Bytes()))
		}
		// What peers sent as text.
		return appendJSONValue(dst, string(v.Bytes())) // json.Marshal mends what is not UTF-8
	}
	return appendJSONValue(dst, v.Interface())
}

// secondsText is d in seconds, to the nanosecond that a float would round.
func secondsText(d time.Duration) string {
	sign := ""
	if d < 0 {
		sign = "-"
	}
	text := fmt.Sprintf("%s%d.%09d", sign, (d / time.Second).Abs(), (d % time.Second).Abs())
	return strings.TrimSuffix(strings.TrimRight(text, "0"), ".") + "s"
}

// appendJSONValue encodes v without the escapes that only HTML needs, but with
// those that keep a terminal from hiding or forging text.
func appendJSONValue(dst []byte, v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(fmt.Sprintf("encode %T: %v", v, err)) // its fields are plain
	}
	for _, r := range strings.TrimSuffix(b.String(), "\n") {
		switch {
		case !hidden(r):
			dst = utf8.AppendRune(dst, r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			dst = fmt.Appendf(dst, `\u%04x\u%04x`, high, low)
		default: // within a string, since JSON's own text is printable
			dst = fmt.Appendf(dst, `\u%04x`, r)
		}
	}
	return dst
}

// enumLabel is an enum's value without its type's name, as in not_yet_active.
func enumLabel(ed protoreflect.EnumDescriptor, n protoreflect.EnumNumber) string {
	vd := ed.Values().ByNumber(n)
	if vd == nil {
		return strconv.Itoa(int(n))
	}
	return strings.ToLower(strings.TrimPrefix(string(vd.Name()), enumPrefix(ed)))
}

// enumPrefix is what all names of an enum begin with.
func enumPrefix(ed protoreflect.EnumDescriptor) string {
	return strings.TrimSuffix(string(ed.Values().ByNumber(0).Name()), "UNSPECIFIED")
}

// label is an enum's value as people and scripts see it.
func label(e protoreflect.Enum) string { return enumLabel(e.Descriptor(), e.Number()) }

// enumFlag is a flag that takes the labels of an enum.
type enumFlag[E protoreflect.Enum] struct{ value *E }

// String, Set and Type implement pflag.Value.
func (f enumFlag[E]) String() string {
	if f.value == nil || (*f.value).Number() == 0 {
		return ""
	}
	return label(*f.value)
}

// Set takes a label; dashes may stand for underscores.
func (f enumFlag[E]) Set(v string) error {
	ed := (*f.value).Descriptor()
	name := enumPrefix(ed) + strings.ToUpper(strings.ReplaceAll(v, "-", "_"))
	vd := ed.Values().ByName(protoreflect.Name(name))
	if vd == nil || vd.Number() == 0 {
		return fmt.Errorf("want one of %s", strings.Join(f.labels(), ", "))
	}
	*f.value = (*f.value).Type().New(vd.Number()).(E)
	return nil
}

// Type names what the flag takes.
func (f enumFlag[E]) Type() string { return strings.Join(f.labels(), "|") }

func (f enumFlag[E]) labels() []string {
	ed := (*f.value).Descriptor()
	var labels []string
	for i := 1; i < ed.Values().Len(); i++ { // 0 is unspecified
		labels = append(labels, enumLabel(ed, ed.Values().Get(i).Number()))
	}
	return labels
}

// rawMessage is m as a part of a struct that printValue writes; null for nil.
func rawMessage[M interface {
	proto.Message
	comparable
}](m M) json.RawMessage {
	var none M
	if m == none {
		return json.RawMessage("null")
	}
	return appendMessage(nil, m.ProtoReflect())
}

// revisionText names a revision as revocation show takes it.
func revisionText(r *pb.Revision) string {
	return strconv.FormatUint(r.GetEpoch(), 10) + "." + strconv.FormatUint(r.GetSequence(), 10)
}

// parseRevision takes a sequence alone too, as the audit trail has it: the
// authority knows its epoch.
func parseRevision(v string) (*pb.Revision, error) {
	epoch, sequence, whole := strings.Cut(v, ".")
	if !whole {
		epoch, sequence = "0", v
	}
	e, err1 := strconv.ParseUint(epoch, 10, 64)
	s, err2 := strconv.ParseUint(sequence, 10, 64)
	if err1 != nil || err2 != nil {
		return nil, usage("gatehouse revocation list shows revisions", "%q is not a revision: want EPOCH.SEQUENCE as a revocation printed it, or SEQUENCE alone", v)
	}
	return &pb.Revision{Epoch: e, Sequence: s}, nil
}
