package main

import (
	"errors"
	"path"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gatehouse-ws/gatehouse/wsnode/schema/lint"
)

const schemaLintHelp = `Find what is loose in schemas: strings and arrays of any length, properties that
no schema names, patterns that are looked for anywhere; what does nothing, as
branches that no message takes; what keeps a node from loading them; and what a
browser decides otherwise (rules that begin with twin-).

Each finding is told with its place, why it matters, and what to write instead.
gatehouse schema rules lists the rules.

Name all files that refer to one another. A file whose own schema is there for
its $defs alone is taken for a route's types of message: all of its definitions
with a const of their own in the property "type". FILE#/POINTER names one place.

The exit code is 1 if anything is found.`

func (c *cli) schemaLintCommand() *cobra.Command {
	var a schemaArgs
	var only, except []string
	cmd := &cobra.Command{
		Use: "lint FILE...", Short: "Find what is loose in schemas, with what to write instead", Long: schemaLintHelp,
		Example: `  gatehouse schema lint messages.json
  gatehouse schema lint messages.json shared/*.json --except 'twin-*'
  gatehouse schema lint 'messages.json#/$defs/chat' --only open-string,open-object
  gatehouse schema lint messages.json -o json | jq -r '.findings[].rule' | sort | uniq -c`,
		Args: schemaFileArgs, DisableFlagsInUseLine: true,
		RunE: func(_ *cobra.Command, args []string) error {
			chosen, err := chooseRules(only, except)
			if err != nil {
				return err
			}
			return c.lintSchemas(&a, args, chosen)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	listFlag(f, &only, "only", "the rules to judge by; * stands for any letters")
	listFlag(f, &except, "except", "the rules to leave out")
	a.flags(cmd, false)
	var names []string
	for _, r := range lint.Rules() {
		names = append(names, r.Name)
	}
	completeWith(cmd, "only", names...)
	completeWith(cmd, "except", names...)
	cmd.ValidArgsFunction = completeFiles
	return cmd
}

// chooseRules returns which rules to judge by.
func chooseRules(only, except []string) (map[string]bool, error) {
	chosen := map[string]bool{}
	for _, r := range lint.Rules() {
		chosen[r.Name] = len(only) == 0
	}
	set := func(flag string, patterns []string, to bool) error {
		for _, pattern := range patterns {
			hit := false
			for _, r := range lint.Rules() {
				if ok, err := path.Match(pattern, r.Name); err == nil && ok {
					chosen[r.Name], hit = to, true
				}
			}
			if !hit {
				return usage("gatehouse schema rules lists them", "--%s: no rule is called %q", flag, pattern)
			}
		}
		return nil
	}
	if err := set("only", only, true); err != nil {
		return nil, err
	}
	return chosen, set("except", except, false)
}

func (c *cli) lintSchemas(a *schemaArgs, args []string, chosen map[string]bool) error {
	s, err := a.open(args)
	if err != nil {
		return err
	}
	found, err := lint.Run(lint.Input{Files: s.files, Names: s.names, Places: s.lintPlaces(a.discriminator), Discriminator: a.discriminator, Annotate: a.annotate})
	if err != nil && !errors.Is(err, lint.ErrTooEntangled) {
		return schemaError(err)
	}
	found = slices.DeleteFunc(found, func(f lint.Finding) bool { return !chosen[f.Rule] })
	if c.format == formatJSON {
		if found == nil {
			found = []lint.Finding{}
		}
		if err := c.printValue(struct {
			Findings []lint.Finding `json:"findings"`
			Files    []string       `json:"files"`
			Complete bool           `json:"complete"`
		}{found, s.names, err == nil}); err != nil {
			return err
		}
	} else {
		for _, f := range found {
			place := f.Place()
			if place != "" {
				place += ": "
			}
			if err := c.printf("%s%s: %s\n    fix: %s\n", plain(place), f.Rule, plain(f.Why), plain(f.Fix)); err != nil {
				return err
			}
		}
	}
	switch {
	case len(found) > 0:
		return failed(exitFailure, "docs/lint.md has each rule with an example; --except leaves rules out", "%s in %s", count(len(found), "finding"), count(len(s.names), "file"))
	case err != nil:
		return failed(exitFailure, "", "%w", err)
	case c.format == formatTable:
		return c.printf("ok: nothing is loose in %s\n", count(len(s.names), "file"))
	}
	return nil
}

// lintPlaces are the schemas of messages. Of files that are there for $defs alone,
// and of which none is a message's, they are all of them, unless the other files
// have some.
func (s *schemaFiles) lintPlaces(discriminator string) []string {
	var places, rest []string
	for _, place := range s.places {
		name, _, hasPlace := strings.Cut(place, "#")
		root := s.root(name)
		if hasPlace || !root.OnlyDefs() {
			places = append(places, place)
			continue
		}
		for _, t := range root.Types(discriminator) {
			places = append(places, t.Schema)
		}
		for _, d := range root.Below("$defs") {
			rest = append(rest, d.Reference())
		}
	}
	if len(places) > 0 {
		return places
	}
	return rest
}

func (c *cli) schemaRulesCommand() *cobra.Command {
	return &cobra.Command{
		Use: "rules", Short: "List the rules of lint",
		Example: "  gatehouse schema rules\n  gatehouse schema rules -o json | jq -r '.rules[].name'",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			if c.format == formatJSON {
				type rule struct {
					Name   string `json:"name"`
					Finds  string `json:"finds"`
					Why    string `json:"why"`
					Bad    string `json:"bad"`
					Mended string `json:"mended"`
				}
				rules := []rule{}
				for _, r := range lint.Rules() {
					rules = append(rules, rule(r))
				}
				return c.printValue(map[string]any{"rules": rules})
			}
			tab := c.newTable()
			tab.row("RULE", "FINDS")
			for _, r := range lint.Rules() {
				tab.row(r.Name, r.Finds)
			}
			return tab.Flush()
		},
	}
}
