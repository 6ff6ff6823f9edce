// Package lint finds what is loose in schemas: what they let through that their
// authors hardly mean, what in them does nothing, and what a browser that checks
// by the same schemas would decide otherwise.
package lint

import (
	"cmp"
	"errors"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/gatehouse-ws/gatehouse/wsnode/schema"
)

// Finding is one thing that a rule found.
type Finding struct {
	Rule    string `json:"rule"`
	File    string `json:"file"`
	Pointer string `json:"pointer"` // JSON Pointer in the file
	Why     string `json:"why"`
	Fix     string `json:"fix"`
}

// Place is file#pointer.
func (f *Finding) Place() string {
	if f.File == "" {
		return ""
	}
	return f.File + "#" + f.Pointer
}

// Input is what is looked at.
type Input struct {
	Files fs.FS
	Names []string // of schema files
	// Places are where the schemas of messages are: files, or places in them as
	// messages.json#/$defs/chat. All else is there for these to refer to.
	Places []string
	// As the route has them.
	Discriminator string
	Annotate      bool
}

// Run returns what is found, in the order of the files and of the places in them.
// It fails where a file can't be read or is no JSON, and with ErrTooEntangled, beside
// what is found.
func Run(in Input) ([]Finding, error) {
	s, err := schema.Read(in.Files, in.Names)
	if err != nil {
		return nil, err
	}
	l := linter{
		annotate: in.Annotate, seen: map[Finding]bool{}, reached: map[*schema.Node]reach{},
		verdicts: map[*schema.Node]verdict{}, sites: map[string]bool{}, blamed: map[blame]bool{}, taken: map[*schema.Node]bool{}, untaken: map[*schema.Node]string{}, mostBytes: map[string]int{}, left: maxWork,
	}
	if err := l.load(&in); err != nil {
		l.broken(err)
	}
	if err := checkNames(s, &in); err != nil {
		l.broken(err)
	}
	for _, root := range s.Roots {
		l.evaluated = l.evaluated || asksEvaluated(root)
	}
	for _, place := range in.Places {
		if n, err := s.Find(place); err == nil && n != nil {
			if l.loads {
				l.site([]*schema.Node{n})
			}
			l.reach(n, asserted)
		}
	}
	l.dead()
	for _, root := range s.Roots {
		l.unused(root)
	}
	l.found = slices.DeleteFunc(l.found, func(f Finding) bool { // said by a rule of its own
		return f.Rule == "does-not-load" && slices.ContainsFunc(l.found, func(g Finding) bool {
			return g.Rule == "unasserted-format" && f.Place() == g.Place()
		})
	})
	order := map[string]int{}
	for i, name := range in.Names {
		order[name] = i
	}
	slices.SortStableFunc(l.found, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(order[a.File], order[b.File]), cmp.Compare(a.Pointer, b.Pointer), cmp.Compare(a.Rule, b.Rule))
	})
	if l.left < 0 {
		return l.found, ErrTooEntangled
	}
	return l.found, nil
}

// ErrTooEntangled says that the schemas meet in so many ways, by anyOf within anyOf,
// that not all of these were looked at.
var ErrTooEntangled = errors.New("the schemas apply together in too many ways for all of them to be looked at; have branches refer to fewer others")

// maxWork bounds how many schemas are looked at, each once for all with which it
// applies to a value.
const maxWork = 50_000

type linter struct {
	annotate bool
	loads    bool // a node would take the files
	// Some schema asks what others have evaluated, so that these may do something by
	// being tried alone.
	evaluated bool
	found     []Finding
	seen      map[Finding]bool
	reached   map[*schema.Node]reach
	verdicts  map[*schema.Node]verdict
	sites     map[string]bool
	blamed    map[blame]bool
	taken     map[*schema.Node]bool   // branches that some value may take
	untaken   map[*schema.Node]string // and those that none takes somewhere, and why
	mostBytes map[string]int          // of patterns
	left      int                     // of maxWork
}

func (l *linter) find(rule string, at *schema.Node, pointer, why, fix string) {
	f := Finding{rule, at.File, pointer, why, fix}
	if !l.seen[f] {
		l.seen[f] = true
		l.found = append(l.found, f)
	}
}

// load compiles the schemas of messages as a node does.
func (l *linter) load(in *Input) error {
	cfg := schema.Default()
	cfg.Shared, cfg.Annotate = in.Names, in.Annotate
	for i, place := range in.Places {
		cfg.Types = append(cfg.Types, schema.Type{Name: strconv.Itoa(i), Schema: place})
	}
	_, err := schema.Compile(in.Files, cfg)
	if l.loads = err == nil; !l.loads { // but for its formats it may be whole
		cfg.Annotate = true
		_, err := schema.Compile(in.Files, cfg)
		l.loads = err == nil
	}
	return err
}

// checkNames looks at the names of the types of message, of which those in one file
// are a route's.
func checkNames(s *schema.Survey, in *Input) error {
	types := map[string][]schema.Type{}
	for _, place := range in.Places {
		file, _, _ := strings.Cut(place, "#")
		types[file] = append(types[file], schema.Type{Schema: place})
	}
	var problems []error
	for _, file := range in.Names {
		problems = append(problems, s.CheckNames(types[file], in.Discriminator))
	}
	return errors.Join(problems...)
}

// broken tells why a node would not load the files.
func (l *linter) broken(err error) {
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range many.Unwrap() {
			l.broken(e)
		}
		return
	}
	f := Finding{Rule: "does-not-load", Why: err.Error(), Fix: "a node refuses to start, or to reload, until it is mended"}
	if at := (*schema.Problem)(nil); errors.As(err, &at) {
		f.File, f.Pointer, f.Why = at.File, at.Pointer, at.Err.Error()
	}
	if !l.seen[f] {
		l.seen[f] = true
		l.found = append(l.found, f)
	}
}

// reach is in which way a schema is reached from those of messages.
type reach uint8

const (
	asserted reach = 1 << iota // a value that it does not allow is refused
	asked                      // it decides something else: not, if, contains
)

// reach looks at a schema and at all that it uses.
func (l *linter) reach(n *schema.Node, how reach) {
	if n == nil || l.reached[n]&how != 0 {
		return
	}
	l.reached[n] |= how
	l.look(n, how)
	l.reach(n.Ref, how)
	for _, c := range n.Children {
		switch c.Under {
		case "$defs", "contentSchema":
		case "not", "if", "contains":
			l.reach(c, asked)
		default:
			l.reach(c, how)
		}
	}
}

func asksEvaluated(n *schema.Node) bool {
	return n.Keywords["unevaluatedItems"] != nil || n.Keywords["unevaluatedProperties"] != nil || slices.ContainsFunc(n.Children, asksEvaluated)
}

// unused finds definitions that no message's schema needs.
func (l *linter) unused(n *schema.Node) {
	for _, c := range n.Children {
		switch {
		case l.reached[c] != 0 || c.Under != "$defs":
			l.unused(c)
		case !l.usesWithin(c):
			l.find("unused-definition", c, c.Pointer, "no message's schema refers to it", "remove it, or give its type of message a place to be used")
		default:
			l.unused(c)
		}
	}
}

// usesWithin reports whether anything within a schema is reached.
func (l *linter) usesWithin(n *schema.Node) bool {
	return slices.ContainsFunc(n.Children, func(c *schema.Node) bool { return l.reached[c] != 0 || l.usesWithin(c) })
}
