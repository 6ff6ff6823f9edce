package schema

import (
	"math"
	"regexp/syntax"
	stdutf8 "unicode/utf8"
)

// classRun is so many bytes of a class. Most patterns are some of these in a row,
// from the beginning of a text to its end, and each ends where the next begins.
type classRun struct {
	min, max int
	of       byteSet
}

// matchRuns reports whether a text is these runs and nothing else.
func matchRuns(runs []classRun, text []byte) bool {
	for k := range runs {
		run := &runs[k]
		part := text
		if run.max < len(part) {
			part = part[:run.max]
		}
		n := run.of.span(part)
		if n < run.min {
			return false
		}
		text = text[n:]
	}
	return len(text) == 0
}

// newRuns returns the runs that a pattern is, or nil if it is something else.
func newRuns(re *syntax.Regexp) []classRun {
	parts := []*syntax.Regexp{re}
	if re.Op == syntax.OpConcat {
		parts = re.Sub
	}
	last := len(parts) - 1
	if last < 1 || parts[0].Op != syntax.OpBeginText || parts[last].Op != syntax.OpEndText {
		return nil
	}
	runs := make([]classRun, 0, len(parts))
	for _, part := range parts[1:last] {
		var ok bool
		if runs, ok = appendRuns(runs, part, 1, 1); !ok || len(runs) > 32 {
			return nil
		}
	}
	for i := range runs {
		if runs[i].min == runs[i].max {
			continue
		}
		for j := i + 1; j < len(runs); j++ { // whose characters it must leave alone
			if runs[i].of.meets(&runs[j].of) {
				return nil
			}
			if runs[j].min > 0 {
				break
			}
		}
	}
	return runs
}

// appendRuns appends one part of a pattern, so many times.
func appendRuns(runs []classRun, re *syntax.Regexp, least, most int) ([]classRun, bool) {
	once := least == 1 && most == 1
	switch {
	case re.Op == syntax.OpRepeat && once:
		most := re.Max
		if most < 0 {
			most = math.MaxInt
		}
		return appendRuns(runs, re.Sub[0], re.Min, most)
	case re.Op == syntax.OpPlus && once:
		return appendRuns(runs, re.Sub[0], 1, math.MaxInt)
	case re.Op == syntax.OpStar && once:
		return appendRuns(runs, re.Sub[0], 0, math.MaxInt)
	case re.Op == syntax.OpQuest && once:
		return appendRuns(runs, re.Sub[0], 0, 1)
	case re.Flags&syntax.FoldCase != 0:
		return nil, false
	case re.Op == syntax.OpLiteral && (once || len(re.Rune) == 1):
		for _, r := range re.Rune {
			if r >= stdutf8.RuneSelf {
				return nil, false
			}
			run := classRun{min: least, max: most}
			run.of.add(byte(r), byte(r))
			runs = append(runs, run)
		}
		return runs, true
	case re.Op != syntax.OpCharClass:
		return nil, false
	}
	run := classRun{min: least, max: most}
	for i := 0; i < len(re.Rune); i += 2 {
		from, to := re.Rune[i], re.Rune[i+1]
		switch {
		case to < stdutf8.RuneSelf:
		case from <= stdutf8.RuneSelf && to == stdutf8.MaxRune && least <= 1 && most == math.MaxInt:
			to = 255 // all bytes of all the characters beyond ASCII, however many
		default:
			return nil, false
		}
		run.of.add(byte(from), byte(to))
	}
	return append(runs, run), true
}
