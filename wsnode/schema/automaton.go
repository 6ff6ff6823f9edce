package schema

import (
	"regexp/syntax"
	"slices"
	"sort"
	stdutf8 "unicode/utf8"
)

// automaton is a pattern as a table: a state and a class of characters lead to
// the next state, so that each character costs the same.
type automaton struct {
	next    []uint16 // state<<shift | class -> state
	shift   int
	ascii   [stdutf8.RuneSelf]uint8 // class of a character
	twoByte [0x800]uint8            // of one below U+0800
	from    []rune                  // where a class begins, beyond ASCII as well
	class   []uint8                 // of those from there on
	atEnd   []bool                  // which states match where the text ends
	running uint16                  // the state to begin in
}

// The first states of every automaton: no text can match any more, or all do.
const (
	stateLost uint16 = iota
	stateWon
	stateFirst
)

// Bounds of an automaton; patterns beyond are left to package regexp.
const (
	maxStates  = 2_000
	maxClasses = 200
	maxEntries = 1 << 17   // of the table, each of two bytes
	maxEffort  = 2_000_000 // instructions looked at while it is built
)

// match reports whether the pattern is found in the text.
func (a *automaton) match(text []byte) bool {
	state := a.running
	for i := 0; i < len(text); {
		class, size := uint8(0), 1
		switch c := text[i]; {
		case c < stdutf8.RuneSelf:
			class = a.ascii[c]
		case c < 0xe0 && i+1 < len(text): // it is valid UTF-8
			class, size = a.twoByte[(int(c)&0x1f)<<6|int(text[i+1])&0x3f], 2
		default:
			var r rune
			r, size = stdutf8.DecodeRune(text[i:])
			class = a.classOf(r)
		}
		if state = a.next[int(state)<<a.shift|int(class)]; state < stateFirst {
			return state == stateWon
		}
		i += size
	}
	return a.atEnd[state]
}

func (a *automaton) classOf(r rune) uint8 {
	i, ok := slices.BinarySearch(a.from, r)
	if !ok {
		i--
	}
	return a.class[i]
}

// newAutomaton makes the automaton of a pattern, or nil if that would be too
// large, and says how many instructions it has looked at.
func newAutomaton(re *syntax.Regexp) (*automaton, int) {
	prog, err := syntax.Compile(re.Simplify())
	if err != nil {
		return nil, 0
	}
	b := builder{prog: prog, states: map[string]uint16{}}
	if !b.classes() {
		return nil, b.effort
	}
	b.step = make([]bool, len(prog.Inst))
	start, ok := b.state([]uint32{uint32(prog.Start)}, before{begin: true})
	if !ok {
		return nil, b.effort
	}
	b.a.running = start
	for state := stateFirst; int(state) < len(b.sets); state++ {
		if !b.transitions(state) {
			return nil, b.effort
		}
	}
	b.prune()
	return &b.a, b.effort
}

// builder makes an automaton of the states that a text can lead to.
type builder struct {
	a      automaton
	prog   *syntax.Prog
	sample []rune // one of each class
	states map[string]uint16
	sets   []stateSet
	effort int
	step   []bool // instructions seen on the way from one state
}

// stateSet is what a state stands for: where in the program a match may be, and
// what came before.
type stateSet struct {
	at []uint32 // sorted
	before
}

// before is what assertions know of the character before.
type before struct{ begin, word bool }

// classes divides characters into those that no instruction tells apart.
func (b *builder) classes() bool {
	cuts := []rune{0, stdutf8.RuneSelf, '0', '9' + 1, 'A', 'Z' + 1, '_', '_' + 1, 'a', 'z' + 1} // \b knows words
	for i := range b.prog.Inst {
		for at, r := range runesOf(&b.prog.Inst[i]) {
			if at%2 == 1 {
				r++
			}
			cuts = append(cuts, r)
		}
	}
	slices.Sort(cuts)
	known := map[string]uint8{}
	for _, from := range slices.Compact(cuts) {
		if from > stdutf8.MaxRune {
			break
		}
		if b.effort > maxEffort {
			return false
		}
		signature := make([]byte, 0, len(b.prog.Inst)/8+2)
		bits, used := byte(0), 0
		for i := range b.prog.Inst {
			b.effort++
			if in := &b.prog.Inst[i]; consumes(in) {
				if in.MatchRune(from) {
					bits |= 1 << used
				}
				if used++; used == 8 {
					signature, bits, used = append(signature, bits), 0, 0
				}
			}
		}
		signature = append(signature, bits)
		if syntax.IsWordChar(from) {
			signature = append(signature, 1)
		}
		class, ok := known[string(signature)]
		if !ok {
			if len(known) == maxClasses {
				return false
			}
			class = uint8(len(known))
			known[string(signature)] = class
			b.sample = append(b.sample, from)
		}
		b.a.from, b.a.class = append(b.a.from, from), append(b.a.class, class)
	}
	for c := range b.a.twoByte {
		b.a.twoByte[c] = b.a.classOf(rune(c))
	}
	copy(b.a.ascii[:], b.a.twoByte[:])
	for 1<<b.a.shift < len(b.sample) {
		b.a.shift++
	}
	won := make([]uint16, 2<<b.a.shift)
	for i := 1 << b.a.shift; i < len(won); i++ {
		won[i] = stateWon
	}
	b.a.next, b.a.atEnd, b.sets = won, []bool{false, true}, make([]stateSet, 2)
	return true
}

func consumes(in *syntax.Inst) bool {
	switch in.Op {
	case syntax.InstRune, syntax.InstRune1, syntax.InstRuneAny, syntax.InstRuneAnyNotNL:
		return true
	}
	return false
}

// runesOf returns the ranges of characters that an instruction takes.
func runesOf(in *syntax.Inst) []rune {
	switch {
	case in.Op == syntax.InstRuneAnyNotNL:
		return []rune{'\n', '\n'}
	case !consumes(in):
		return nil
	case len(in.Rune) == 1:
		return []rune{in.Rune[0], in.Rune[0]}
	}
	return in.Rune
}

// state returns the number of a state, with room for its transitions.
func (b *builder) state(at []uint32, prior before) (uint16, bool) {
	slices.Sort(at)
	at = slices.Compact(at)
	key := make([]byte, 0, 4*len(at)+1)
	for _, pc := range at {
		key = append(key, byte(pc), byte(pc>>8), byte(pc>>16))
	}
	switch {
	case prior.begin:
		key = append(key, 'b')
	case prior.word:
		key = append(key, 'w')
	}
	if s, ok := b.states[string(key)]; ok {
		return s, true
	}
	if len(b.sets) == maxStates || len(b.a.next) >= maxEntries {
		return 0, false
	}
	s := uint16(len(b.sets))
	b.states[string(key)] = s
	b.sets = append(b.sets, stateSet{at, prior})
	b.a.next = append(b.a.next, make([]uint16, 1<<b.a.shift)...)
	_, won := b.follow(s, syntax.EmptyEndText|syntax.EmptyEndLine, false)
	b.a.atEnd = append(b.a.atEnd, won)
	return s, true
}

// transitions fills in a state's row.
func (b *builder) transitions(s uint16) bool {
	var reached [2][]uint32 // before a character of a word, and before another
	var won [2]bool
	for i, word := range []bool{true, false} {
		reached[i], won[i] = b.follow(s, 0, word)
	}
	for class, r := range b.sample {
		i := 1
		if syntax.IsWordChar(r) {
			i = 0
		}
		next := stateWon
		if !won[i] {
			at := []uint32{uint32(b.prog.Start)} // a match may begin anywhere
			for _, pc := range reached[i] {
				if in := &b.prog.Inst[pc]; in.MatchRune(r) {
					at = append(at, in.Out)
				}
			}
			if b.effort += len(reached[i]); b.effort > maxEffort {
				return false
			}
			var ok bool
			if next, ok = b.state(at, before{word: i == 0}); !ok {
				return false
			}
		}
		b.a.next[int(s)<<b.a.shift|class] = next
	}
	return true
}

// follow goes on from a state as far as no character is needed: to the
// instructions that take one, or to a match. flags are assertions that hold, and
// word says whether the character to come is one of a word.
func (b *builder) follow(s uint16, flags syntax.EmptyOp, word bool) (at []uint32, won bool) {
	set := &b.sets[s]
	if set.begin {
		flags |= syntax.EmptyBeginText | syntax.EmptyBeginLine
	}
	if set.word != word {
		flags |= syntax.EmptyWordBoundary
	} else {
		flags |= syntax.EmptyNoWordBoundary
	}
	clear(b.step)
	todo := slices.Clone(set.at)
	for len(todo) > 0 {
		pc := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if b.step[pc] {
			continue
		}
		b.step[pc] = true
		b.effort++
		switch in := &b.prog.Inst[pc]; in.Op {
		case syntax.InstAlt, syntax.InstAltMatch:
			todo = append(todo, in.Out, in.Arg)
		case syntax.InstCapture, syntax.InstNop:
			todo = append(todo, in.Out)
		case syntax.InstEmptyWidth:
			if syntax.EmptyOp(in.Arg)&^flags == 0 {
				todo = append(todo, in.Out)
			}
		case syntax.InstMatch:
			return nil, true
		case syntax.InstFail:
		default:
			at = append(at, pc)
		}
	}
	sort.Slice(at, func(i, j int) bool { return at[i] < at[j] })
	return at, false
}

// prune makes stateLost of all states from which no text matches.
func (b *builder) prune() {
	from := make([][]uint16, len(b.sets)) // the states that lead to one
	for s := stateFirst; int(s) < len(b.sets); s++ {
		for class := range b.sample {
			next := b.a.next[int(s)<<b.a.shift|class]
			if n := len(from[next]); n == 0 || from[next][n-1] != s {
				from[next] = append(from[next], s)
			}
		}
	}
	alive := make([]bool, len(b.sets))
	todo := []uint16{stateWon}
	for s, ends := range b.a.atEnd {
		if ends {
			todo = append(todo, uint16(s))
		}
	}
	for len(todo) > 0 {
		s := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if !alive[s] {
			alive[s] = true
			todo = append(todo, from[s]...)
		}
	}
	for i, next := range b.a.next {
		if !alive[next] {
			b.a.next[i] = stateLost
		}
	}
}
