package settings

import (
	"fmt"
	"reflect"
)

// Diff lists the keys whose values differ between a and b, in the order of their
// struct: scalars, maps, lists of scalars and lists of another length as a whole.
func Diff[T any](a, b T) []string {
	return appendDiff(nil, "", reflect.ValueOf(a), reflect.ValueOf(b))
}

func appendDiff(keys []string, path string, a, b reflect.Value) []string {
	switch k := kindOf(a.Type()); {
	case k == section:
		for _, f := range fieldsOf(a.Type()) {
			keys = appendDiff(keys, join(path, f.key), a.FieldByIndex(f.index), b.FieldByIndex(f.index))
		}
		return keys
	case k == list && kindOf(a.Type().Elem()) == section && a.Len() == b.Len():
		for i := range a.Len() {
			keys = appendDiff(keys, fmt.Sprintf("%s[%d]", path, i), a.Index(i), b.Index(i))
		}
		return keys
	}
	if !reflect.DeepEqual(a.Interface(), b.Interface()) {
		keys = append(keys, path)
	}
	return keys
}
