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
	discriminator := "type"
	in := twin.Input{Types: map[string]string{}, Discriminator: &discriminator, Header: "// the suite"}
	defs := map[string]any{}
	var lines []string
	var node []byte
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var groups []struct {
			Schema json.RawMessage
			Tests  []struct{ Data json.RawMessage }
		}
		if err := json.Unmarshal(text, &groups); err != nil {
			t.Fatal(err)
		}
		for i, g := range groups {
			name := fmt.Sprintf("%s-%d", strings.TrimSuffix(filepath.Base(file), ".json"), i)
			set, bundle := sharedSchema(t, name+".json", g.Schema)
			if set == nil {
				continue
			}
			defs[name+".json"] = bundle
			defs[name] = map[string]any{
				"type": "object", "required": []string{"type", "value"},
				"properties": map[string]any{"type": map[string]any{"const": name}, "value": map[string]any{"$ref": "#/$defs/" + name + ".json"}},
			}
			in.Types[name] = "/$defs/" + name
			for _, c := range g.Tests {
				var value any
				if err := json.Unmarshal(c.Data, &value); err != nil {
					t.Fatal(err)
				}
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
				lines, node = append(lines, string(line)), append(node, mark)
			}
		}
	}
	if len(in.Types) < 250 || len(lines) < 800 {
		t.Fatalf("only %d cases of %d schemas", len(lines), len(in.Types))
	}
	if in.Bundle, err = json.Marshal(map[string]any{"$defs": defs}); err != nil {
		t.Fatal(err)
	}
	m, err := twin.Build(context.Background(), twinPackages, in)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "index.js"), m.JS)
	write(t, filepath.Join(dir, "package.json"), `{"type": "module"}`)
	compare(t, lines, node, "Node.js", underNode(t, dir, lines))
	t.Logf("%d cases of %d schemas", len(lines), len(in.Types))
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
