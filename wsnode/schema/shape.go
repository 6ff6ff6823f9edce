package schema

import "regexp/syntax"

// Shape is what can be told of the texts that a pattern is found in.
type Shape struct {
	// From and To say whether it holds from the text's beginning, and to its end.
	From, To bool
	// Longest is how many characters it takes at most; -1 for any number. Where
	// From and To are true no longer text has it.
	Longest int
	// Portable says that it is one of ECMA-262 with the flag u too, as browsers
	// have it. Node and browser may still know another Unicode.
	Portable bool
}

// ShapeOf looks at a pattern as schemas have it.
func ShapeOf(pattern string) (Shape, error) {
	translated, err := translate(pattern)
	if err != nil {
		return Shape{}, err
	}
	re, err := syntax.Parse(translated, syntax.Perl)
	if err != nil {
		return Shape{}, patternError(pattern, err)
	}
	return Shape{anchored(re, syntax.OpBeginText), anchored(re, syntax.OpEndText), longest(re), isRegex([]byte(pattern))}, nil
}

// MostBytes is how many bytes of a text a pattern can be held against, by the guards
// of a route that sets none, in a message that is little else: beyond, the message is
// too complex. It is -1 for any number, as of most patterns.
func MostBytes(pattern string) (int, error) {
	p, err := compilePattern(pattern, maxPatternEffort)
	if err != nil {
		return 0, err
	}
	const entries = 5 // an object with two properties
	guards := Default().Guards
	if per := guards.steps(entries, 60*bytesPerStep) - guards.steps(entries, 0); p.weight*60 <= per {
		return -1, nil
	}
	size := 0
	for p.cost(&entry{size: uint32(size + 1)}) < guards.steps(entries, size+1) {
		size++
	}
	return size, nil
}

// anchored reports whether whatever re matches begins, or ends, where the text
// does.
func anchored(re *syntax.Regexp, at syntax.Op) bool {
	switch re.Op {
	case at:
		return true
	case syntax.OpCapture, syntax.OpPlus:
		return anchored(re.Sub[0], at)
	case syntax.OpRepeat:
		return re.Min > 0 && anchored(re.Sub[0], at)
	case syntax.OpAlternate:
		for _, sub := range re.Sub {
			if !anchored(sub, at) {
				return false
			}
		}
		return true
	case syntax.OpConcat:
		for i := range re.Sub {
			sub := re.Sub[i]
			if at == syntax.OpEndText {
				sub = re.Sub[len(re.Sub)-1-i]
			}
			if anchored(sub, at) {
				return true
			}
			if longest(sub) != 0 {
				return false
			}
		}
	}
	return false
}

// mostCharacters is as good as any number of them.
const mostCharacters = 1 << 30

// longest returns how many characters re takes at most, or -1.
func longest(re *syntax.Regexp) int {
	switch re.Op {
	case syntax.OpLiteral:
		return len(re.Rune)
	case syntax.OpCharClass, syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return 1
	case syntax.OpCapture, syntax.OpQuest:
		return longest(re.Sub[0])
	case syntax.OpStar, syntax.OpPlus:
		return times(longest(re.Sub[0]), -1)
	case syntax.OpRepeat:
		return times(longest(re.Sub[0]), re.Max)
	case syntax.OpConcat, syntax.OpAlternate:
		all := 0
		for _, sub := range re.Sub {
			n := longest(sub)
			switch {
			case n < 0 || all+n > mostCharacters:
				return -1
			case re.Op == syntax.OpConcat:
				all += n
			default:
				all = max(all, n)
			}
		}
		return all
	}
	return 0
}

func times(n, most int) int {
	switch {
	case n == 0 || most == 0:
		return 0
	case n < 0 || most < 0 || n > mostCharacters/most:
		return -1
	}
	return n * most
}
