package settings

import (
	"errors"
	"reflect"
	"strings"
)

// unknownKey explains a key that the section does not have.
func unknownKey(key string, fields []field, top reflect.Type) string {
	var here, elsewhere []string
	for _, f := range fields {
		here = append(here, f.key)
	}
	if near := closest(key, here); near != "" {
		return "unknown key; did you mean " + near + "?"
	}
	for _, p := range paths(top, "") {
		if strings.HasSuffix(p, "."+key) || p == key {
			elsewhere = append(elsewhere, p)
		}
	}
	switch {
	case len(elsewhere) > 0:
		return "unknown key here; did you mean " + strings.Join(elsewhere, " or ") + "?"
	case len(here) > 0 && len(here) <= 12:
		return "unknown key; known here: " + strings.Join(here, ", ")
	}
	return "unknown key"
}

// isUnknownKey reports whether err is a Problem that unknownKey has explained.
func isUnknownKey(err error) bool {
	p := (*Problem)(nil)
	return errors.As(err, &p) && strings.HasPrefix(p.Text, "unknown key")
}

// unknownEnv explains a variable that sets nothing.
func unknownEnv(name string, top reflect.Type, leaves []field) string {
	var names []string
	for _, f := range leaves {
		names = append(names, strings.TrimPrefix(f.env(), envPrefix))
	}
	short := strings.TrimPrefix(name, envPrefix)
	for _, p := range paths(top, "") {
		if (field{path: p}).env() == name {
			return p + " is a section, list or map: only the file can set it"
		}
	}
	if near := closest(short, names); near != "" {
		return "unknown variable; did you mean " + envPrefix + near + "?"
	}
	return "unknown variable; variables are named " + envPrefix + "<SECTION>_<KEY>"
}

// closest finds the known word nearest to word, if any is near enough to be
// what was meant; of equally near ones the first.
func closest(word string, known []string) string {
	best, bestAt := "", min(4, max(1, len(word)/3))+1
	for _, k := range known {
		if d := distance(strings.ToLower(word), strings.ToLower(k), bestAt); d < bestAt {
			best, bestAt = k, d
		}
	}
	return best
}

// distance counts the edits between a and b: a letter added, dropped, changed,
// or swapped with the next. It gives up, returning limit, where lengths alone
// make it that far.
func distance(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	before, last := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row := make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			change := last[j]
			if a[i] != b[j] {
				change++
			}
			row[j+1] = min(change, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
