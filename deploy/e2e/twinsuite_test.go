//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/gatehouse-ws/gatehouse/cmd/gatehouse/twin"
	"github.com/gatehouse-ws/gatehouse/wsnode/schema"
	"github.com/gatehouse-ws/gatehouse/wsnode/schema/lint"
)

// The mandatory tests of draft 2020-12, as far as a node loads their schemas and
// the linter's rules for twins find nothing in them: node and module decide alike.
func TestTwinOfTheSuite(t *testing.T) {
	needs(t, "node")
	folder := os.Getenv("JSON_SCHEMA_SUITE")
	if folder == "" {
		folder = "../../../shared/json-schema-suite"
	}
	files, err := filepath.Glob(filepath.Join(folder, "tests", "draft2020-12", "*.json"))
	if err != nil || len(files) == 0 {
		t.Skipf("no JSON Schema Test Suite in %s, %v", folder, err)
	}
	var cases schemaCases
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var groups []struct {
			Schema json.RawMessage
			Tests  []struct{ Data any }
		}
		if err := json.Unmarshal(text, &groups); err != nil {
			t.Fatal(err)
		}
		for i, g := range groups {
			name := fmt.Sprintf("%s-%d", strings.TrimSuffix(filepath.Base(file), ".json"), i)
			var values []any
			for _, c := range g.Tests {
				values = append(values, c.Data)
			}
			cases.add(t, name, g.Schema, values)
		}
	}
	if len(cases.types) < 250 || len(cases.lines) < 800 {
		t.Fatalf("only %d cases of %d schemas", len(cases.lines), len(cases.types))
	}
	cases.compare(t)
}

// schemaCases are messages of many schemas, each wrapped with its schema's name as
// its type, and what a node says of them.
type schemaCases struct {
	types map[string]string
	defs  map[string]any
	lines []string
	node  []byte
}

// add holds values against a schema, if it is one that node and browser decide
// alike by.
func (c *schemaCases) add(t *testing.T, name string, text []byte, values []any) {
	t.Helper()
	set, bundle := sharedSchema(t, name+".json", text)
	if set == nil {
		return
	}
	if c.types == nil {
		c.types, c.defs = map[string]string{}, map[string]any{}
	}
	c.types[name] = "/$defs/" + name
	c.defs[name+".json"] = bundle
	c.defs[name] = map[string]any{
		"type": "object", "required": []string{"type", "value"},
		"properties": map[string]any{"type": map[string]any{"const": name}, "value": map[string]any{"$ref": "#/$defs/" + name + ".json"}},
	}
	for _, value := range values {
		line, err := json.Marshal(map[string]any{"type": name, "value": value})
		if err != nil {
			t.Fatal(err)
		}
		written, err := json.Marshal(value) // as JavaScript does
		if err != nil {
			t.Fatal(err)
		}
		mark := byte('.')
		if _, err := set.Check(written); errors.Is(err, schema.ErrDuplicateName) {
			mark = '?'
		} else if err != nil {
			mark = 'x'
		}
		c.lines, c.node = append(c.lines, string(line)), append(c.node, mark)
	}
}

// compare makes one module of all schemas, and holds it against the node.
func (c *schemaCases) compare(t *testing.T) {
	t.Helper()
	bundle, err := json.Marshal(map[string]any{"$defs": c.defs})
	if err != nil {
		t.Fatal(err)
	}
	discriminator := "type"
	m, err := twin.Build(context.Background(), twinPackages, twin.Input{Bundle: bundle, Types: c.types, Discriminator: &discriminator, Header: "// cases"})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "index.js"), m.JS)
	write(t, filepath.Join(dir, "package.json"), `{"type": "module"}`)
	compare(t, c.lines, c.node, "Node.js", underNode(t, dir, c.lines))
	t.Logf("%d cases of %d schemas, of which %d pass", len(c.lines), len(c.types), strings.Count(string(c.node), "."))
}

// sharedSchema compiles a schema, if it is one that node and browser decide alike
// by, and bundles it.
func sharedSchema(t *testing.T, name string, text []byte) (*schema.Set, any) {
	t.Helper()
	files := fstest.MapFS{name: {Data: text}}
	set, err := schema.CompileOne(files, name, schema.Default())
	if err != nil {
		return nil, nil
	}
	found, err := lint.Run(lint.Input{Files: files, Names: []string{name}, Places: []string{name}})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		if strings.HasPrefix(f.Rule, "twin-") {
			return nil, nil
		}
	}
	s, err := schema.Read(files, []string{name})
	if err != nil {
		t.Fatal(err)
	}
	bundled, err := s.Bundle()
	if err != nil {
		t.Fatal(err)
	}
	var parsed struct {
		Defs map[string]json.RawMessage `json:"$defs"`
	}
	if err := json.Unmarshal(bundled, &parsed); err != nil {
		t.Fatal(err)
	}
	return set, parsed.Defs[name]
}
