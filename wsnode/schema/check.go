package schema

import (
	"crypto/sha256"
	"slices"
	"sync"
	"sync/atomic"
)

// Set checks the messages of a route. Safe for concurrent use.
type Set struct {
	discriminator string
	key           int64 // of the discriminator
	guards        Guards
	types         choice
	typeNames     []string
	untyped       bool            // there is one type, whatever messages say
	nodes         []int32         // of the types
	names         map[string]bool // properties that schemas declare
	files         map[string][sha256.Size]byte
	program       *program
	spare         atomic.Pointer[run]
	runs          sync.Pool // of *run, when there are several at once
}

func newSet(cfg *Config, docs []*document) *Set {
	s := &Set{
		discriminator: cfg.Discriminator,
		key:           keyOf([]byte(cfg.Discriminator)),
		guards:        cfg.Guards,
		names:         map[string]bool{cfg.Discriminator: true},
		files:         make(map[string][sha256.Size]byte, len(docs)),
	}
	for i, t := range cfg.Types {
		s.typeNames = append(s.typeNames, t.Name)
		s.types.which = append(s.types.which, int32(i))
	}
	s.types.name, s.types.key, s.types.texts = s.discriminator, s.key, newTextTable(s.typeNames)
	for _, d := range docs {
		s.files[d.file] = d.sum
		for name := range d.names {
			s.names[name] = true
		}
	}
	s.runs.New = func() any { return &run{p: s.program} }
	return s
}

// Changed returns the schema files of a Set whose text is another one than in the
// Set before, by name. Both may be nil.
func (s *Set) Changed(before *Set) []string {
	if s == nil || before == nil {
		return nil
	}
	var out []string
	for file, sum := range s.files {
		if before.files[file] != sum {
			out = append(out, file)
		}
	}
	slices.Sort(out)
	return out
}

// keepBytes is how large the memory of a run may be to be kept.
const keepBytes = 1 << 20

// Check decides whether a message may pass: it returns nil, or an *Error with
// one of this package's errors. typ is the message's type, as configured, as soon
// as it is known, also with ErrNotAllowed; it is empty before, and where
// there are no types. Whether the session may send messages of this type is for the
// caller to say.
//
// payload is borrowed for the call and not written to. A message that passes
// costs no allocation, one that does not at most two.
func (s *Set) Check(payload []byte) (typ string, err error) {
	r := s.borrow()
	typ, err = s.check(r, payload)
	s.giveBack(r)
	return typ, err
}

func (s *Set) borrow() *run {
	if r := s.spare.Swap(nil); r != nil { // cheaper than the pool, and enough for a loop
		return r
	}
	return s.runs.Get().(*run)
}

func (s *Set) giveBack(r *run) {
	r.in = nil
	if r.size() <= keepBytes && !s.spare.CompareAndSwap(nil, r) {
		s.runs.Put(r)
	}
}

// Parse is the part of Check that reads the message and looks at its guards: what
// there is to compare the whole with.
func (s *Set) Parse(payload []byte) error {
	r := s.borrow()
	defer s.giveBack(r)
	if at, why := r.read(payload, &s.guards); why != nil {
		return &Error{Err: why, Offset: at}
	}
	return nil
}

func (s *Set) check(r *run, payload []byte) (string, error) {
	if at, why := r.read(payload, &s.guards); why != nil {
		return "", &Error{Err: why, Offset: at}
	}
	if s.untyped {
		return "", s.hold(r, 0, len(payload))
	}
	root := &r.entries[0]
	if root.kind != kindObject {
		return "", &Error{Err: ErrTypeMissing, Offset: -1}
	}
	at, ok := r.find(0, s.discriminator, s.key)
	if !ok || r.entries[at].kind != kindString {
		return "", &Error{Err: ErrTypeMissing, Offset: -1}
	}
	if s.guards.DuplicateNames && r.again(0, at) {
		return "", &Error{Err: ErrDuplicateName, Offset: int(r.entries[at].at)}
	}
	i := s.types.texts.find(&r.tape, &r.entries[at], r.key(&r.entries[at]))
	if i < 0 {
		return "", &Error{Err: ErrTypeUnknown, Offset: -1}
	}
	return s.typeNames[i], s.hold(r, i, len(payload))
}

// hold holds a message that was read against the schema of a type.
func (s *Set) hold(r *run, i int32, size int) error {
	r.marks = r.marks[:0]
	r.steps = s.guards.steps(int(r.entries[0].next), size)
	ok := r.eval(s.nodes[i], 0, unmarked)
	switch {
	case r.steps < 0:
		return &Error{Err: ErrTooComplex, Offset: -1}
	case !ok:
		return s.explain(r)
	}
	return nil
}
