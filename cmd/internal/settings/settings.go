// Package settings loads a binary's configuration: one Go struct filled from
// defaults, then a YAML file, then the environment, then flags.
//
// A field's tag yaml:"message_bytes" names its key, help:"..." describes it in
// a line, and secret:"true" keeps its value out of errors, listings and flags.
// Structs are sections; yaml:",inline" lifts a struct's fields into the section
// around it; yaml:"-" hides a field. Every scalar in a section can also be set
// by GATEHOUSE_<SECTION>_<KEY> and, secrets excepted, by --section-key. Lists
// and maps are set by the file alone, and replace the default as a whole. The
// elements of a list or map start as zero, or as their type's method
// SetDefaults() leaves them.
//
// One parser reads a value wherever it stands, so quotes in the file do not
// matter. Anchors, aliases, merge keys, explicit tags and second documents are
// refused: each line says what it sets.
//
// The package works on YAML nodes itself instead of going through knadh/koanf.
// Problems must name their line, so the walk that finds them has to know every
// key and its type: it is already the decoder. What koanf would still do, bring
// variables and flags to their keys, is as long as the code that would fit
// koanf to it; it would add ten packages to every binary; and with the weak
// typing that text from variables needs, its decoder reads a timeout of 5 as
// five nanoseconds and 300 for a uint8 as 44.
package settings

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

const (
	// envPrefix starts the name of every environment variable of Gatehouse.
	envPrefix = "GATEHOUSE_"
	// configEnv and configFlag name the file.
	configEnv  = envPrefix + "CONFIG"
	configFlag = "config"
	// masked stands for a secret that is set, and is refused as a value.
	masked = "[secret]"
)

// Source says where Load looks.
type Source struct {
	// Path is the file to read when neither --config nor GATEHOUSE_CONFIG names
	// another. It may be missing; a file that was named may not. An empty name
	// stands for no file.
	Path string
	// Environ is the environment as os.Environ gives it.
	Environ []string
	// Flags were declared by BindFlags and then parsed; nil for none.
	Flags *pflag.FlagSet
	// Ignore lists variables that belong to other programs although their names
	// start with GATEHOUSE_. A trailing * stands for any ending.
	Ignore []string
}

// Load reads src over defaults. It reports every problem at once, each a
// Problem, joined; the configuration then holds what could be read, and must
// not be run. It checks the form of values only: whether they make sense is
// for the configuration's own Validate, and Origins.Locate tells where the
// offending ones were set.
//
// Load panics when T has fields that cannot be configured.
func Load[T any](defaults T, src Source) (T, Origins, error) {
	cfg := defaults
	v := reflect.ValueOf(&cfg).Elem()
	l := loader{src: src, leaves: leavesOf(v.Type()), origins: Origins{}}
	l.readFile(v)
	l.readEnviron(v)
	l.readFlags(v)
	return cfg, l.origins, errors.Join(l.problems...)
}

// File tells which file Load reads, and what named it: "--config",
// "GATEHOUSE_CONFIG", or nothing for Source.Path.
func (s Source) File() (path, namedBy string) {
	path = s.Path
	for _, kv := range s.Environ {
		if value, ok := strings.CutPrefix(kv, configEnv+"="); ok {
			path, namedBy = value, configEnv
		}
	}
	if s.Flags != nil {
		if f := s.Flags.Lookup(configFlag); f != nil && f.Changed {
			path, namedBy = f.Value.String(), "--"+configFlag
		}
	}
	return path, namedBy
}

// Problem is one thing wrong with a configuration.
type Problem struct {
	Source string // the file, the variable or the --flag
	Line   int    // in the file, from 1; 0 where there is none
	Column int
	Key    string // such as limits.message_bytes or routes[2].path; empty for none
	Text   string // never holds the value of a secret
}

func (p *Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.Source)
	if p.Line > 0 {
		b.WriteString(":" + strconv.Itoa(p.Line))
	}
	if p.Key != "" {
		b.WriteString(": " + p.Key)
	}
	return b.String() + ": " + p.Text
}

// Origins tells for each key that is not at its default where it was set, as
// "gatehouse-node.yaml:12", "GATEHOUSE_LOG_LEVEL" or "--log-level".
type Origins map[string]string

// Locate puts in front of each problem of a Validate where its key was set. A
// problem starts with its key and a colon; a key that is missing from an
// element of a list is found where the element begins.
func (o Origins) Locate(err error) error {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var located []error
		for _, e := range joined.Unwrap() {
			located = append(located, o.Locate(e))
		}
		return errors.Join(located...)
	}
	key, _, _ := strings.Cut(err.Error(), ": ")
	for key != "" {
		if where := o[key]; where != "" {
			return fmt.Errorf("%s: %w", where, err)
		}
		key = key[:max(0, strings.LastIndexAny(key, ".["))]
	}
	return err
}

// Beside adds what looks at a configuration have found, one after the other, to
// what Load found, and locates it. Where the file could not be read, its values
// mean nothing; a key that an earlier look found wrong is not said to be wrong
// again.
func (o Origins) Beside(form error, looks ...error) error {
	var told []string
	for _, err := range parts(form) {
		p := (*Problem)(nil)
		switch {
		case !errors.As(err, &p):
		case p.Key != "":
			told = append(told, p.Key)
		case !strings.HasPrefix(p.Source, envPrefix) && !strings.HasPrefix(p.Source, "--"):
			return form
		}
	}
	within := func(key, other string) bool {
		return key == other || strings.HasPrefix(key, other+".") || strings.HasPrefix(key, other+"[")
	}
	problems := parts(form)
	for _, found := range looks {
		var keys []string
		for _, err := range parts(found) {
			key, _, _ := strings.Cut(err.Error(), ": ")
			if !slices.ContainsFunc(told, func(t string) bool { return within(key, t) || within(t, key) }) {
				problems, keys = append(problems, o.Locate(err)), append(keys, key)
			}
		}
		told = append(told, keys...)
	}
	return errors.Join(problems...)
}

// parts are the errors that are joined in err, at any depth.
func parts(err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	switch {
	case err == nil:
		return nil
	case !ok:
		return []error{err}
	}
	var all []error
	for _, e := range joined.Unwrap() {
		all = append(all, parts(e)...)
	}
	return all
}

// loader gathers what one Load finds.
type loader struct {
	src      Source
	leaves   []field
	origins  Origins
	problems []error
}

func (l *loader) report(p Problem) { l.problems = append(l.problems, &p) }

func (l *loader) readEnviron(v reflect.Value) {
	env := make(map[string]string)
	for _, kv := range l.src.Environ {
		if name, value, ok := strings.Cut(kv, "="); ok && strings.HasPrefix(name, envPrefix) {
			env[name] = value
		}
	}
	delete(env, configEnv)
	for _, f := range l.leaves {
		if text, ok := env[f.env()]; ok {
			delete(env, f.env())
			l.set(v, f, f.env(), text)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		if !l.ignored(name) && !isServiceLink(name, env[name]) {
			l.report(Problem{Source: shown(name), Text: unknownEnv(name, v.Type(), l.leaves)})
		}
	}
}

func (l *loader) ignored(name string) bool {
	return slices.ContainsFunc(l.src.Ignore, func(pattern string) bool {
		prefix, open := strings.CutSuffix(pattern, "*")
		return name == pattern || open && strings.HasPrefix(name, prefix)
	})
}

// isServiceLink recognises what Kubernetes and Docker put into the environment
// of every container for a service called gatehouse-something.
func isServiceLink(name, value string) bool {
	return strings.HasSuffix(name, "_SERVICE_HOST") || strings.Contains(name, "_SERVICE_PORT") ||
		strings.HasSuffix(name, "_PORT") && strings.Contains(value, "://") ||
		strings.Contains(name, "_PORT_") && (strings.Contains(name, "_TCP") || strings.Contains(name, "_UDP") || strings.Contains(name, "_SCTP"))
}

func (l *loader) readFlags(v reflect.Value) {
	if l.src.Flags == nil {
		return
	}
	for _, f := range l.leaves {
		if flag := l.src.Flags.Lookup(f.flag()); flag != nil && flag.Changed && !f.secret {
			l.set(v, f, "--"+f.flag(), flag.Value.String())
		}
	}
}

// set fills one scalar from a variable or a flag.
func (l *loader) set(v reflect.Value, f field, source, text string) {
	if err := setText(v.FieldByIndex(f.index), text, f.secret); err != nil {
		l.report(Problem{Source: source, Text: err.Error()})
		return
	}
	l.origins[f.path] = source
}

// EnvNames lists the environment variables that Load reads for cfg, so that a
// program which shares a host with another can be told to ignore them.
func EnvNames(cfg any) []string {
	names := []string{configEnv}
	for _, f := range leavesOf(reflect.TypeOf(cfg)) {
		names = append(names, f.env())
	}
	return names
}

// BindFlags declares --config and a flag for every scalar of defaults but the
// secret ones, which a process listing would show. A flag takes any text when
// it is parsed: Load then reports the bad ones together with all other
// problems.
func (s Source) BindFlags(defaults any) {
	s.Flags.String(configFlag, s.Path, "the configuration file ("+configEnv+")")
	v := reflect.ValueOf(defaults)
	for _, f := range leavesOf(v.Type()) {
		if f.secret {
			continue
		}
		text, err := textOf(v.FieldByIndex(f.index))
		if err != nil {
			panic(fmt.Sprintf("settings: the default of %s has no text: %v", f.path, err))
		}
		flag := s.Flags.VarPF(&flagValue{text, kindName(f.typ)}, f.flag(), "", f.help)
		if f.typ.Kind() == reflect.Bool {
			flag.NoOptDefVal = "true"
		}
	}
}

// flagValue keeps a flag's text for Load.
type flagValue struct{ text, kind string }

func (f *flagValue) String() string { return f.text }

func (f *flagValue) Set(text string) error {
	f.text = text
	return nil
}

func (f *flagValue) Type() string { return f.kind }
