package schema

import "encoding/json"

// zero stands for a zero however it was written: the exponent of 0e999999999
// would keep arithmetic on it busy.
const zero = json.Number("0")

// parse reads a JSON text into the values that the jsonschema library takes:
// maps, slices, strings, json.Number, bool and nil. It keeps nothing of in.
func parse(in []byte, g Guards) (any, error) {
	var t tape
	if at, why := t.read(in, &g); why != nil {
		return nil, &Error{Err: why, Offset: at}
	}
	v, _ := t.value(0)
	return v, nil
}

// value makes a value of the entry at i, and says where the next one is.
func (t *tape) value(i uint32) (v any, next uint32) {
	e := &t.entries[i]
	switch e.kind {
	case kindNull:
		return nil, e.next
	case kindBool:
		return e.n == 1, e.next
	case kindString:
		return string(t.bytes(e)), e.next
	case kindArray:
		out := make([]any, 0, e.n)
		for i++; i < e.next; {
			var item any
			item, i = t.value(i)
			out = append(out, item)
		}
		return out, e.next
	case kindObject:
		out := make(map[string]any, e.n)
		for i++; i < e.next; {
			name := string(t.bytes(&t.entries[i]))
			out[name], i = t.value(i + 1)
		}
		return out, e.next
	}
	if e.n == 0 && e.flags&long == 0 {
		return zero, e.next
	}
	return json.Number(t.bytes(e)), e.next
}
