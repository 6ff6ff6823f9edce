package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gatehouse-ws/gatehouse/cmd/gatehouse/twin"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/wsnode/schema/lint"
)

const schemaBuildHelp = `Make, of the same schema files that a node has, a module for browsers: index.js
checks messages before they are sent as the node will, and index.d.ts has their
types in TypeScript. The module has no dependencies and uses no eval, so it runs
under a strict content security policy.

  import { check, encode } from "./messages/index.js";
  socket.send(encode({ type: "chat", text }));  // throws what check tells

It decides as the node does about all that JSON.stringify writes, within what
the rules of gatehouse schema lint whose names begin with twin- allow: if they
find anything, nothing is made, unless --allow-differences says so. The node's
check stays needed: browsers are in their users' hands.

Types of message are found as by schema check; files that are there for $ref
alone are given by --shared.

This needs Node.js 18 or later with npm (https://nodejs.org, or the packages
nodejs and npm of the system). The first time, npm installs the libraries that
do the work into the user's folder of caches, in the versions that this program
pins. Without a network, --packages names a folder where npm ci has been run.`

func (c *cli) schemaBuildCommand() *cobra.Command {
	var a schemaArgs
	var out, packages string
	var allow bool
	cmd := &cobra.Command{
		Use: "build --out DIR FILE...", Short: "Make a module that checks messages in browsers, with TypeScript types", Long: schemaBuildHelp,
		Example: `  gatehouse schema build --out web/src/messages messages.json
  gatehouse schema build --out web/src/messages 'messages.json#/$defs/chat' --shared common.json`,
		Args: schemaFileArgs, DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if out == "" {
				return usage(cmd.CommandPath()+" --help has examples", "--out is required: the folder for index.js and index.d.ts")
			}
			return c.buildTwin(cmd.Context(), &a, args, out, packages, allow)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&out, "out", "", "the folder to write index.js and index.d.ts to (required)")
	f.BoolVar(&allow, "allow-differences", false, "make it though browser and node will not always decide alike")
	f.StringVar(&packages, "packages", "", "a folder with the libraries in node_modules (default: the user's folder of caches)")
	a.flags(cmd, true)
	for _, flag := range []string{"out", "packages"} {
		if err := cmd.MarkFlagDirname(flag); err != nil {
			panic(err) // the flag's name is mistyped
		}
	}
	cmd.ValidArgsFunction = completeFiles
	return cmd
}

func (c *cli) buildTwin(ctx context.Context, a *schemaArgs, args []string, out, packages string, allow bool) error {
	s, err := a.open(args)
	if err != nil {
		return err
	}
	if _, err := s.compile(a); err != nil {
		return err
	}
	in, err := s.twinInput(a)
	if err != nil {
		return err
	}
	differences, err := c.differences(s, a, allow)
	if err != nil {
		return err
	}
	if err := ours(out); err != nil {
		return err
	}
	if packages, err = c.twinPackages(ctx, packages); err != nil {
		return err
	}
	m, err := twin.Build(ctx, packages, in)
	if err != nil {
		return twinError(ctx, err)
	}
	if err := writeTwin(out, m); err != nil {
		return failed(exitFailure, "", "--out: %w", err)
	}
	types := slices.Sorted(maps.Keys(in.Types))
	if c.format == formatJSON {
		return c.printValue(struct {
			Files       []string `json:"files"`
			Types       []string `json:"types"`
			Differences int      `json:"differences"`
		}{[]string{filepath.Join(out, twinJS), filepath.Join(out, twinTypes)}, types, differences})
	}
	return c.printf("wrote %s and %s: %s\n", filepath.Join(out, twinJS), filepath.Join(out, twinTypes), strings.Join(types, ", "))
}

// twinInput is what the module is made of.
func (s *schemaFiles) twinInput(a *schemaArgs) (twin.Input, error) {
	types, single, err := s.types(a.discriminator)
	if err != nil {
		return twin.Input{}, err
	}
	in := twin.Input{Types: map[string]string{}, Annotate: a.annotate, Header: twinMark + ", version " + pb.Version + ", from " + strings.Join(s.names, ", ") + ".\n// Make it anew instead of editing it."}
	if !single {
		in.Discriminator = &a.discriminator
	}
	for _, t := range types {
		n, err := s.survey.Find(t.Schema)
		if err != nil {
			return in, err
		}
		in.Types[t.Name] = n.InBundle()
	}
	in.Bundle, err = s.survey.Bundle()
	return in, err
}

// differences finds what browser and node would decide differently, and fails
// unless that is allowed.
func (c *cli) differences(s *schemaFiles, a *schemaArgs, allow bool) (int, error) {
	types, _, err := s.types(a.discriminator)
	if err != nil {
		return 0, err
	}
	in := lint.Input{Files: s.files, Names: s.names, Annotate: a.annotate}
	for _, t := range types {
		in.Places = append(in.Places, t.Schema)
	}
	found, err := lint.Run(in)
	if err != nil && !errors.Is(err, lint.ErrTooEntangled) {
		return 0, err
	}
	found = slices.DeleteFunc(found, func(f lint.Finding) bool { return !strings.HasPrefix(f.Rule, "twin-") })
	var lines []error
	for _, f := range found {
		lines = append(lines, fmt.Errorf("%s: %s: %s", f.Place(), f.Rule, f.Why))
	}
	if len(found) == 0 {
		return 0, nil
	}
	if !allow {
		return 0, failed(exitFailure, "gatehouse schema lint --only 'twin-*' says what to write instead; --allow-differences makes the module anyway", "%w", errors.Join(lines...))
	}
	for _, line := range lines {
		c.note("warning: %v", line)
	}
	return len(found), nil
}

// twinPackages returns the folder of the libraries, which npm fills the first time.
func (c *cli) twinPackages(ctx context.Context, given string) (string, error) {
	if given != "" {
		if err := twin.Check(given); err != nil {
			return "", usage("run npm ci in a folder with the package.json and package-lock.json of cmd/gatehouse/twin", "--packages: %w", err)
		}
		return given, nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", usage("--packages names a folder with the libraries", "%w", err)
	}
	folder := twin.Folder(cache)
	if twin.Check(folder) == nil {
		return folder, nil
	}
	if err := os.RemoveAll(folder); err != nil { // what somebody has damaged
		return "", err
	}
	c.note("npm installs what builds the module, once, into %s", folder)
	if err := twin.Install(ctx, folder); err != nil {
		return "", twinError(ctx, err)
	}
	return folder, nil
}

func twinError(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, twin.ErrNoProgram):
		return failed(exitFailure, "install Node.js 18 or later with npm: https://nodejs.org, or the packages nodejs and npm of the system", "%w", err)
	}
	return failed(exitFailure, "", "build the module: %w", err)
}

const (
	twinJS    = "index.js"
	twinTypes = "index.d.ts"
	// twinMark is how files begin that this command has made.
	twinMark = "// Made by gatehouse schema build"
)

// ours refuses to write over what this command has not made.
func ours(out string) error {
	for _, name := range []string{twinJS, twinTypes} {
		path := filepath.Join(out, name)
		text, err := os.ReadFile(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return usagef("--out: %w", err)
		case !bytes.HasPrefix(text, []byte(twinMark)):
			return usage("name another folder, or remove it", "--out: %s is there, and this command has not made it", path)
		}
	}
	return nil
}

func writeTwin(out string, m twin.Module) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	for name, text := range map[string]string{twinJS: m.JS, twinTypes: m.Types} {
		path := filepath.Join(out, name)
		if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
			return err
		}
		if err := os.Rename(path+".new", path); err != nil {
			return err
		}
	}
	return nil
}
