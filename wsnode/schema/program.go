package schema

import (
	"maps"
	"math"
	"math/bits"
	"slices"
)

// program is the schemas of a set as tables that refer to one another by index.
// In each the first row is none: a link of 0 leads nowhere, and the node 0 is the
// schema that allows everything.
type program struct {
	nodes   []node
	values  []valueRule
	texts   []textRule
	numbers []numberRule
	arrays  []arrayRule
	objects []objectRule
	mixes   []mixRule
	// consts holds what const and enum name, as one array.
	consts tape
	// reasons say where each keyword stands that can refuse.
	reasons map[reason]saying
	// copies have the reasons of the nodes that they are made from.
	copies map[int32]int32
}

// saying is what to say of a reason: the keyword's place, and for some what it
// wants.
type saying struct{ keyword, want string }

// node is a schema. All that it has to say about a value of one kind is in one
// row, so that a value meets only keywords that are about it.
type node struct {
	kinds       kinds // that are allowed
	glance      glance
	single      bool // a value meets its kind's row and nothing else
	unevaluated bool // the mix has an unevaluated* of some kind
	// choice is a mix that is a oneChoice and nothing else, where the node is
	// nothing else either.
	choice                                    int32
	value, text, number, array, object, mixed int32
}

// glance is what a look at a value can tell: that a schema allows it.
type glance struct {
	kinds kinds // of which nothing is asked
	// Nor is it of a string of so many bytes, both included.
	from, to uint32
}

func (g *glance) allows(e *entry) bool {
	return e.kind&g.kinds != 0 || e.kind == kindString && g.from <= e.size && e.size <= g.to
}

// valueRule is const or enum.
type valueRule struct {
	keyword keyword
	texts   textTable
	others  []otherValue // sorted
}

// otherValue is one that is no text.
type otherValue struct {
	hash uint64
	at   uint32 // in consts
}

// textRule is what applies to strings.
type textRule struct {
	min, max int64 // in characters
	pattern  *pattern
	format   func(text []byte) bool
	// Steps of the format for any text, and for bytesPerStep bytes of it.
	once, weight int
}

// numberRule is what applies to numbers.
type numberRule struct {
	// What it comes to for numbers of each of the smallest scales, as most are.
	scales [maxScale + 1]scaleRule
	// And for all others.
	bounds   []bound
	multiple decimal // 0 where there is none
}

// maxScale is the largest scale that has a scaleRule.
const maxScale = 6

// scaleRule is a numberRule for short numbers of one scale: n is right if it lies
// here and is a multiple.
type scaleRule struct{ low, high, multiple int64 }

// bound is minimum, maximum or one of the exclusive ones.
type bound struct {
	keyword keyword
	value   decimal
	// refused are the outcomes of comparing a number with it.
	refused [3]bool // -1, 0, 1
}

// arrayRule is what applies to arrays.
type arrayRule struct {
	min, max         int64
	prefix           []int32
	items            int32
	allItems         bool // items stands there, so it evaluates what follows prefix
	unique           bool
	hasContains      bool
	contains         int32
	minHits, maxHits int64
}

// objectRule is what applies to objects.
type objectRule struct {
	min, max   int64
	names      textTable  // of props
	props      []propRule // named by properties, required and dependent*
	others     propRule   // for all that props do not name
	patterns   []patternRule
	additional int32
	allProps   bool // additionalProperties stands there
	closed     bool // and is false
	nameNode   int32
	namesOnly  bool   // neither names nor patterns matter, beyond props
	required   uint64 // bits of props
	needs      []need
	whens      uint64 // the bits by which needs come about
}

// propRule is a property that the schema names.
type propRule struct {
	name     string
	node     int32 // that of additionalProperties, where it is not declared
	glance   glance
	declared bool   // by properties
	refused  bool   // by additionalProperties
	bit      uint64 // in required and needs, or 0
}

type patternRule struct {
	pattern *pattern
	node    int32
}

// need is an entry of dependentRequired or dependentSchemas.
type need struct {
	keyword keyword
	number  int32  // among those of the node, for reasons
	when    uint64 // bit of the property that brings it about
	props   uint64 // bits of those that must be there
	node    int32
}

// mixRule holds the schemas that apply to the same value as the one they are in.
type mixRule struct {
	all           []int32 // allOf, $ref, $dynamicRef
	any, one      []int32
	anyChoice     *choice
	oneChoice     *choice
	hasNot, hasIf bool
	not           int32
	test, yes, no int32
	restProps     int32
	hasRestProps  bool
	restItems     int32
	hasRestItems  bool
}

// choice picks the only schema of an anyOf or oneOf that can allow an object: all
// of them ask for the same property, each for other texts in it.
type choice struct {
	name  string
	key   int64
	texts textTable
	which []int32 // text -> index of the schema
}

// textsOf returns the texts by which each of n schemas is chosen.
func (c *choice) textsOf(n int) [][]string {
	out := make([][]string, n)
	for _, s := range c.texts.slots {
		if s.index != 0 {
			i := c.which[s.index-1]
			out[i] = append(out[i], s.text)
		}
	}
	for _, text := range slices.Sorted(maps.Keys(c.texts.crowd)) {
		i := c.which[c.texts.crowd[text]]
		out[i] = append(out[i], text)
	}
	return out
}

// unbounded is no upper bound.
const unbounded = math.MaxInt64

// keyword names what refuses a message.
type keyword uint8

const (
	kwFalse keyword = iota
	kwType
	kwConst
	kwEnum
	kwMinLength
	kwMaxLength
	kwPattern
	kwFormat
	kwNumber // one of those that follow: which one is found out when it is asked for
	kwMinimum
	kwMaximum
	kwExclusiveMinimum
	kwExclusiveMaximum
	kwMultipleOf
	kwMinItems
	kwMaxItems
	kwUniqueItems
	kwContains
	kwMinContains
	kwMaxContains
	kwMinProperties
	kwMaxProperties
	kwRequired
	kwAdditionalProperties
	kwDependentRequired
	kwAnyOf
	kwOneOf
	kwNot
)

var keywordNames = [...]string{
	kwType: "type", kwConst: "const", kwEnum: "enum", kwMinLength: "minLength", kwMaxLength: "maxLength", kwPattern: "pattern", kwFormat: "format",
	kwMinimum: "minimum", kwMaximum: "maximum", kwExclusiveMinimum: "exclusiveMinimum", kwExclusiveMaximum: "exclusiveMaximum", kwMultipleOf: "multipleOf",
	kwMinItems: "minItems", kwMaxItems: "maxItems", kwUniqueItems: "uniqueItems", kwContains: "contains", kwMinContains: "minContains", kwMaxContains: "maxContains",
	kwMinProperties: "minProperties", kwMaxProperties: "maxProperties", kwRequired: "required", kwAdditionalProperties: "additionalProperties",
	kwDependentRequired: "dependentRequired", kwAnyOf: "anyOf", kwOneOf: "oneOf", kwNot: "not",
}

// reason is a keyword of a node; number tells apart what stands under it.
type reason struct {
	node    int32
	keyword keyword
	number  int32
}

// textTable finds an index by a text. It holds no more than a third as many as it
// has slots.
type textTable struct {
	slots []textSlot
	shift uint8 // 64 less the bits of an index of slots
	// crowd has the texts in place of slots where many share a key: a key knows
	// nothing of a long text's middle, and peers may send what takes longest.
	crowd map[string]int32
}

// A look-up passes so many slots at most, where one with the same key, whose text
// has to be compared, counts for several.
const (
	mostPassed  = 32
	sameKeyCost = 8
)

type textSlot struct {
	key   int64
	text  string
	index int32 // plus one; 0 in an empty slot
}

// newTextTable numbers texts in order. Of equal ones the first counts.
func newTextTable(texts []string) textTable {
	var t textTable
	if len(texts) == 0 {
		return t
	}
	size := 4
	for size < 3*len(texts) {
		size *= 2
	}
	t.slots = make([]textSlot, size)
	t.shift = uint8(64 - bits.TrailingZeros(uint(size)))
	for i, text := range texts {
		key := keyOf([]byte(text))
		at := spread(key, t.shift)
		for passed := 0; t.slots[at].index != 0; at = (at + 1) & uint64(len(t.slots)-1) {
			if passed++; t.slots[at].key == key {
				passed += sameKeyCost - 1
			}
			if passed > mostPassed {
				return crowded(texts)
			}
		}
		t.slots[at] = textSlot{key, text, int32(i) + 1}
	}
	return t
}

// crowded is newTextTable for texts whose keys say too little.
func crowded(texts []string) textTable {
	t := textTable{crowd: make(map[string]int32, len(texts))}
	for i, text := range texts {
		if _, ok := t.crowd[text]; !ok {
			t.crowd[text] = int32(i)
		}
	}
	return t
}

// crowdSteps is what finding a text takes by all of its bytes.
const crowdSteps = 2

// cost is the steps that finding the text of an entry takes, beyond a look.
func (t *textTable) cost(e *entry) int {
	steps := int(e.size) / comparedPerStep
	if t.crowd != nil {
		steps += crowdSteps
	}
	return steps
}

// find returns the index of the text of an entry, or -1.
func (t *textTable) find(in *tape, e *entry, key int64) int32 {
	if len(t.slots) == 0 {
		if i, ok := t.crowd[string(in.bytes(e))]; ok {
			return i
		}
		return -1
	}
	mask := uint64(len(t.slots) - 1)
	for at := spread(key, t.shift); ; at++ {
		s := &t.slots[at&mask]
		if s.key == key && (key >= 0 || s.text == string(in.bytes(e))) || s.index == 0 {
			return s.index - 1
		}
	}
}

func (t *textTable) has(text string) bool {
	if len(t.slots) == 0 {
		_, ok := t.crowd[text]
		return ok
	}
	mask := uint64(len(t.slots) - 1)
	for at := spread(keyOf([]byte(text)), t.shift); ; at++ {
		if s := &t.slots[at&mask]; s.index == 0 || s.text == text {
			return s.index != 0
		}
	}
}
