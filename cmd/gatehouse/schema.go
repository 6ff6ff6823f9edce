package main

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/gatehouse-ws/gatehouse/wsnode/schema"
)

func (c *cli) schemaCommand() *cobra.Command {
	cmd := verbs("schema", "Judge schemas, and hold messages against them, as a node does")
	cmd.AddCommand(c.schemaLintCommand(), c.schemaCheckCommand(), c.schemaBenchCommand(), c.schemaBuildCommand(), c.schemaRulesCommand())
	return cmd
}

// schemaArgs are the arguments and flags that name schemas.
type schemaArgs struct {
	folder        string
	discriminator string
	shared        []string
	annotate      bool
}

func (a *schemaArgs) flags(cmd *cobra.Command, withShared bool) {
	f := cmd.Flags()
	f.SortFlags = false
	if withShared {
		f.StringArrayVar(&a.shared, "shared", nil, "a further schema file, for $ref to refer to; may be repeated")
	}
	f.StringVar(&a.discriminator, "discriminator", schema.Default().Discriminator, "property of every message that names its type")
	f.BoolVar(&a.annotate, "annotate", false, "let format and content* be annotations, as a route with annotate: true has it")
	f.StringVar(&a.folder, "schemas", "", "the node's folder of schemas, where a $ref begins with / (default: the files' own)")
	if err := cmd.MarkFlagDirname("schemas"); err != nil {
		panic(err) // the flag's name is mistyped
	}
}

// schemaFiles are schema files as the node's program takes them.
type schemaFiles struct {
	files  fs.FS
	names  []string // each once
	places []string // the arguments: a name, with # and a place in the file where one was given
	survey *schema.Survey
}

// open finds the files of the arguments, each FILE or FILE#/POINTER, and reads them.
func (a *schemaArgs) open(args []string) (*schemaFiles, error) {
	cfg := schema.Default()
	cfg.Discriminator, cfg.Types = a.discriminator, []schema.Type{{Name: "any", Schema: "any"}}
	if err := cfg.Validate(); err != nil { // which calls the flag by its name
		return nil, usagef("--%w", err)
	}
	paths := make([]string, 0, len(args)+len(a.shared))
	var fragments []string
	for _, arg := range append(slices.Clone(args), a.shared...) {
		file, fragment, _ := strings.Cut(arg, "#")
		if file == "" {
			return nil, usagef("%q names no file", arg)
		}
		paths, fragments = append(paths, file), append(fragments, fragment)
	}
	folder, names, err := within(a.folder, paths)
	if err != nil {
		return nil, err
	}
	s := &schemaFiles{files: os.DirFS(folder)}
	for i, name := range names {
		if !slices.Contains(s.names, name) {
			s.names = append(s.names, name)
		}
		if fragments[i] != "" {
			name += "#" + fragments[i]
		}
		if i < len(args) {
			s.places = append(s.places, name)
		}
	}
	if s.survey, err = schema.Read(s.files, s.names); err != nil {
		return nil, schemaError(err)
	}
	for i, place := range s.places {
		if fragments[i] == "" {
			continue
		}
		if n, err := s.survey.Find(place); err != nil || n == nil {
			return nil, usage("write it as a JSON Pointer: messages.json#/$defs/chat", "%s: no schema is there", place)
		}
	}
	return s, nil
}

// within returns the paths as names in folder or, if that is empty, in one that
// they are all in: the working folder if they are, so that names are as they were
// typed.
func within(folder string, paths []string) (string, []string, error) {
	if folder == "" {
		folder = "."
		if slices.ContainsFunc(paths, func(p string) bool { return !filepath.IsLocal(p) }) {
			var err error
			if folder, err = commonFolder(paths); err != nil {
				return "", nil, err
			}
		}
	}
	root, err := filepath.Abs(folder)
	if err != nil {
		return "", nil, err
	}
	names := make([]string, len(paths))
	for i, p := range paths {
		full, err := filepath.Abs(p)
		if err != nil {
			return "", nil, err
		}
		name, err := filepath.Rel(root, full)
		if err != nil || !filepath.IsLocal(name) {
			return "", nil, usage("a node reads no file outside its folder of schemas", "%s is not in the folder %s", p, folder)
		}
		names[i] = filepath.ToSlash(name)
	}
	return root, names, nil
}

func commonFolder(paths []string) (string, error) {
	var common string
	for i, p := range paths {
		full, err := filepath.Abs(p)
		if err != nil {
			return "", err
		}
		if folder := filepath.Dir(full); i == 0 {
			common = folder
		}
		for rel, err := filepath.Rel(common, full); err != nil || !filepath.IsLocal(rel); rel, err = filepath.Rel(common, full) {
			up := filepath.Dir(common)
			if up == common {
				return "", usage("--schemas names the folder that all are in", "%s and %s are in no folder together", paths[0], p)
			}
			common = up
		}
	}
	return common, nil
}

// root is the own schema of a file.
func (s *schemaFiles) root(name string) *schema.Node {
	return s.survey.Roots[slices.Index(s.names, name)]
}

// types are those of messages that the arguments name: where a file's own schema
// is there for its $defs alone, those of them that are types. single tells that
// there is one schema, for all messages, which is called by its place.
func (s *schemaFiles) types(discriminator string) (types []schema.Type, single bool, err error) {
	for _, place := range s.places {
		name, fragment, hasPlace := strings.Cut(place, "#")
		root := s.root(name)
		if hasPlace || !root.OnlyDefs() {
			n, err := s.survey.Find(place)
			if err != nil {
				return nil, false, err
			}
			typ, known := n.TypeName(discriminator)
			switch {
			case !known && len(s.places) > 1:
				return nil, false, usage("give it one, or name it alone; files that others refer to are given by --shared",
					"%s: its messages have no type: a %q that is required and a const", place, discriminator)
			case !known && hasPlace:
				typ = path.Base(fragment)
			case !known:
				typ = strings.TrimSuffix(path.Base(name), path.Ext(name))
			}
			types, single = append(types, schema.Type{Name: typ, Schema: place}), !known
			continue
		}
		found := root.Types(discriminator)
		if len(found) == 0 {
			var places []string
			for _, d := range root.Below("$defs") {
				places = append(places, d.Place())
			}
			return nil, false, usage("name one of them: "+strings.Join(places[:min(len(places), 5)], ", "),
				"%s: the file's own schema has only $defs and so allows everything, and none of these has a type: a %q that is required and a const", name, discriminator)
		}
		types = append(types, found...)
	}
	return types, single, nil
}

// compile makes the node's program of the one argument.
func (s *schemaFiles) compile(a *schemaArgs) (*schema.Set, error) {
	types, single, err := s.types(a.discriminator)
	if err != nil {
		return nil, err
	}
	if err := s.survey.CheckNames(types, a.discriminator); err != nil {
		return nil, schemaError(err)
	}
	cfg := schema.Default()
	cfg.Types, cfg.Shared, cfg.Discriminator, cfg.Annotate = types, s.names, a.discriminator, a.annotate
	var set *schema.Set
	if single {
		set, err = schema.CompileOne(s.files, s.places[0], cfg)
	} else {
		set, err = schema.Compile(s.files, cfg)
	}
	if err != nil {
		return nil, schemaError(err)
	}
	return set, nil
}

// schemaError is what keeps a node from loading schemas, one problem a line.
func schemaError(err error) error {
	var lines []error
	var add func(err error)
	add = func(err error) {
		if many, ok := err.(interface{ Unwrap() []error }); ok {
			for _, e := range many.Unwrap() {
				add(e)
			}
			return
		}
		if at := (*schema.Problem)(nil); errors.As(err, &at) { // without which of our types it is
			err = at
		}
		lines = append(lines, err)
	}
	add(err)
	return usage("docs/messages.md says what schemas can say", "%w", errors.Join(lines...))
}

// schemaFileArgs wants at least one file.
func schemaFileArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usage(cmd.CommandPath()+" --help shows how", "%s needs a schema file", cmd.CommandPath())
	}
	return nil
}

func listFlag(f *pflag.FlagSet, to *[]string, name, help string) {
	f.StringSliceVar(to, name, nil, help)
}
