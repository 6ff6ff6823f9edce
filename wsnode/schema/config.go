// Package schema decides which messages a route passes: JSON that every decoder
// reads alike, within bounds, of a type that the route knows, and allowed by the
// JSON Schema (draft 2020-12) of that type.
package schema

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Config says which messages a route passes.
type Config struct {
	Discriminator string   `yaml:"discriminator" help:"property of every message that names its type"`
	Types         []Type   `yaml:"types" help:"the types of message that may be sent"`
	Shared        []string `yaml:"shared" help:"further schema files, for $ref to refer to"`
	OnRefusal     Policy   `yaml:"on_refusal" help:"what a refused message does: close the socket, error_frame (say why, and go on), or drop (go on)"`
	Strikes       int      `yaml:"strikes" help:"messages of a socket that error_frame and drop forgive; the next one closes it"`
	Annotate      bool     `yaml:"annotate" help:"let format and content* be annotations, as the draft has it, that refuse nothing"`
	Guards        Guards   `yaml:"guards" help:"what no message may exceed, whatever its schema says"`
}

// Type is one type of message.
type Type struct {
	Name   string `yaml:"name" help:"value of the discriminator; the scope that a token needs"`
	Schema string `yaml:"schema" help:"its schema: a file, or a place in one, as messages.json#/$defs/chat"`
	// Whoever checks messages holds sockets to these two.
	PerSecond uint32 `yaml:"per_second" help:"messages of this type a second from one socket; 0 for no limit but that of all messages"`
	Burst     uint32 `yaml:"burst" help:"messages of this type that may come at once"`
	// OnRefusal counts once the type is known.
	OnRefusal Policy `yaml:"on_refusal" help:"as messages.on_refusal, for messages of this type; as that where empty"`
}

// Policy is what a message that is refused does to its socket.
type Policy string

// The policies.
const (
	Close      Policy = "close"
	ErrorFrame Policy = "error_frame"
	Drop       Policy = "drop"
)

func (p Policy) known() bool { return p == Close || p == ErrorFrame || p == Drop }

// Policy is that of a type, or that of messages whose type is not known.
func (c *Config) Policy(typ string) Policy {
	for i := range c.Types {
		if t := &c.Types[i]; t.Name == typ && t.OnRefusal != "" {
			return t.OnRefusal
		}
	}
	return c.OnRefusal
}

// Guards bound a message before its schema is asked.
type Guards struct {
	Depth          int    `yaml:"depth" help:"arrays and objects within one another"`
	Names          int    `yaml:"names" help:"properties of one object"`
	Tokens         int    `yaml:"tokens" help:"property names and values of one message"`
	Effort         int    `yaml:"effort" help:"how many times as much as reading a message it may cost to hold it against its schema; beyond, it is too complex"`
	MaxInteger     uint64 `yaml:"max_integer" help:"largest integer, up or down; beyond 2^53-1 JavaScript rounds"`
	HazardousNames bool   `yaml:"hazardous_names" help:"allow properties called __proto__, constructor or prototype"`
	DuplicateNames bool   `yaml:"duplicate_names" help:"allow an object to have a property twice; decoders differ in which one they take"`
	LoneSurrogates bool   `yaml:"lone_surrogates" help:"allow an escape to be half of a character; decoders differ in what they make of it"`
	WideNumbers    bool   `yaml:"wide_numbers" help:"allow integers beyond max_integer, and numbers that a double takes for infinite or zero"`
	TrailingBytes  bool   `yaml:"trailing_bytes" help:"allow anything to follow the message's JSON; nothing looks at it, and it is passed on"`
}

const (
	maxDepth       = 1000 // checking recurses
	maxTypeBytes   = 128  // of a type's name, as of a scope
	maxStrikes     = 10_000
	maxPerSecond   = 1_000_000_000 // above it, a message costs less than a nanosecond
	maxEffortGuard = 1_000_000
)

// Default returns the configuration of a route that knows no types yet. Zero
// guards are errors, not switches.
func Default() Config {
	return Config{
		Discriminator: "type",
		OnRefusal:     Close,
		Strikes:       10,
		Guards:        Guards{Depth: 32, Names: 256, Tokens: 10_000, Effort: 20, MaxInteger: 1<<53 - 1},
	}
}

// Validate returns every problem of the configuration that shows without its
// files, joined: each names the field, its value, the bound and what to do.
func (c *Config) Validate() error {
	var problems []error
	bad := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if c.Discriminator == "" {
		bad("discriminator: is empty; name the property that holds a message's type")
	}
	if !c.Guards.HazardousNames && hazardous(c.Discriminator) {
		bad("discriminator: %q is refused as a property's name; choose another one", c.Discriminator)
	}
	if !c.OnRefusal.known() {
		bad("on_refusal: %q is none of close, error_frame, drop", c.OnRefusal)
	}
	if c.Strikes < 1 || c.Strikes > maxStrikes {
		bad("strikes: %d is not between 1 and %d; for none, set on_refusal: close", c.Strikes, maxStrikes)
	}
	if len(c.Types) == 0 {
		bad("types: is empty, so no message would pass; list the types, or set unchecked: true for the route")
	}
	names := make(map[string]int, len(c.Types))
	for i, t := range c.Types {
		if first, ok := names[t.Name]; ok {
			bad("types[%d].name: %q is the name of types[%d] too; give each type one schema", i, t.Name, first)
		} else {
			names[t.Name] = i
		}
		if !isTypeName(t.Name) {
			bad("types[%d].name: %q is not %s", i, t.Name, typeNameWant)
		}
		switch {
		case t.PerSecond > maxPerSecond:
			bad("types[%d].per_second: %d is above %d; set less, or 0 for no limit of its own", i, t.PerSecond, maxPerSecond)
		case t.PerSecond > 0 && t.Burst < 1:
			bad("types[%d].burst: 0 lets no message through; set at least 1", i)
		}
		if t.OnRefusal != "" && !t.OnRefusal.known() {
			bad("types[%d].on_refusal: %q is none of close, error_frame, drop", i, t.OnRefusal)
		}
		if file, _, _ := strings.Cut(t.Schema, "#"); !fs.ValidPath(file) || file == "." {
			bad("types[%d].schema: %q is not a path within the folder of schemas; write it with / and without a leading / or ..", i, t.Schema)
		}
	}
	for i, file := range c.Shared {
		if !fs.ValidPath(file) || file == "." {
			bad("shared[%d]: %q is not a path within the folder of schemas; write it with / and without a leading / or ..", i, file)
		}
	}
	g := c.Guards
	if g.Depth < 1 || g.Depth > maxDepth {
		bad("guards.depth: %d is not between 1 and %d", g.Depth, maxDepth)
	}
	if g.Names < 1 {
		bad("guards.names: %d is below 1; set at least 1, for the discriminator", g.Names)
	}
	if g.Tokens < 3 {
		bad("guards.tokens: %d is below 3, those of the smallest message: an object, a name, a value", g.Tokens)
	}
	if g.Effort < 1 || g.Effort > maxEffortGuard {
		bad("guards.effort: %d is not between 1 and %d", g.Effort, maxEffortGuard)
	}
	if g.MaxInteger < 1 {
		bad("guards.max_integer: 0 is below 1; 9007199254740991 (2^53-1) is what every decoder reads exactly")
	}
	return errors.Join(problems...)
}

// typeNameWant is what isTypeName asks for.
var typeNameWant = fmt.Sprintf("1 to %d bytes of UTF-8 without control characters", maxTypeBytes)

func isTypeName(name string) bool {
	return name != "" && len(name) <= maxTypeBytes && utf8.ValidString(name) && !strings.ContainsFunc(name, unicode.IsControl)
}
