package schema

import (
	"encoding/json"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// suiteFolder is the JSON Schema Test Suite, or empty where it is not at hand.
func suiteFolder() string {
	for _, folder := range []string{os.Getenv("JSON_SCHEMA_SUITE"), "../../../shared/json-schema-suite"} {
		if folder == "" {
			continue
		}
		if _, err := os.Stat(filepath.Join(folder, "tests", "draft2020-12")); err == nil {
			return folder
		}
	}
	return ""
}

// suiteDialects are the schemas of the suite that Compile would refuse, and what
// it says. They are written in dialects of their own, by a $schema with a
// $vocabulary, and it knows one dialect. The program can run them all the same.
var suiteDialects = map[string]string{
	"vocabulary.json: schema that uses custom metaschema with with no validation vocabulary": "$schema: http://localhost:1234/draft2020-12/metaschema-no-validation.json is not supported",
	"vocabulary.json: ignore unrecognized optional vocabulary":                               "$schema: http://localhost:1234/draft2020-12/metaschema-optional-vocabulary.json is not supported",
}

func TestSuite(t *testing.T) {
	folder := suiteFolder()
	if folder == "" {
		t.Skip("no JSON Schema Test Suite at ../../../shared/json-schema-suite or in JSON_SCHEMA_SUITE")
	}
	cfg := Default()
	cfg.Annotate = true
	cfg.Guards = Guards{Depth: maxDepth, Names: 1 << 20, Tokens: 1 << 20, MaxInteger: math.MaxInt64, HazardousNames: true}

	remotes := suiteRemotes(t, filepath.Join(folder, "remotes"))
	files, err := filepath.Glob(filepath.Join(folder, "tests", "draft2020-12", "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	cases, passed := 0, 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var groups []struct {
			Description string
			Schema      json.RawMessage
			Tests       []struct {
				Description string
				Data        json.RawMessage
				Valid       bool
			}
		}
		if err := json.Unmarshal(text, &groups); err != nil {
			t.Fatal(err)
		}
		for _, group := range groups {
			name := filepath.Base(file) + ": " + group.Description
			cases += len(group.Tests)
			check, refused, err := suiteCompile(group.Schema, remotes, &cfg)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if why, expected := suiteDialects[name]; expected != (refused != nil) || expected && !strings.Contains(refused.Error(), why) {
				t.Errorf("%s: refused because of %v, want %q", name, refused, why)
			}
			for _, test := range group.Tests {
				if got := check(t, test.Data); got != test.Valid {
					t.Errorf("%s: %s: valid is %v, want %v", name, test.Description, got, test.Valid)
					continue
				}
				passed++
			}
		}
	}
	t.Logf("%d of %d cases pass", passed, cases)
	if cases != 1299 || passed != cases {
		t.Errorf("%d of %d cases pass, want all of the 1299 mandatory ones", passed, cases)
	}
}

// suiteRemotes reads what the cases expect under http://localhost:1234/.
func suiteRemotes(t *testing.T, root string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		out[filepath.ToSlash(name)], err = os.ReadFile(path)
		return err
	})
	if err != nil || len(out) == 0 {
		t.Fatalf("%d remotes, %v", len(out), err)
	}
	return out
}

// suiteCompile makes the check of one schema of the suite, beside the remotes
// that it may refer to. refused is why Compile would have none of it.
func suiteCompile(text []byte, remotes map[string][]byte, cfg *Config) (check func(*testing.T, []byte) bool, refused, err error) {
	d, err := readDocument("test.json", fileURL("test.json"), text)
	if err != nil {
		return nil, nil, err
	}
	docs := []*document{d}
	var dialects []*document // whose own schemas would be refused, too
	for name, text := range remotes {
		d, err := readDocument(name, "http://localhost:1234/"+name, text)
		if err != nil {
			return nil, nil, err
		}
		if _, ok := d.value.(map[string]any)["$vocabulary"]; ok {
			dialects = append(dialects, d)
		} else {
			docs = append(docs, d)
		}
	}
	c, refused := newCompiler(docs, cfg)
	if refused != nil {
		c, _ = newCompiler(slices.Concat(docs, dialects), cfg)
	}
	compiled, err := c.compile("test.json")
	if err != nil {
		return nil, refused, err
	}
	l := newLowering(c)
	root := l.add(compiled)
	program, err := l.finish()
	if err != nil {
		return nil, refused, err
	}
	return func(t *testing.T, data []byte) bool {
		r := run{p: program, steps: math.MaxInt}
		if at, why := r.read(data, &cfg.Guards); why != nil {
			t.Fatalf("%s: %v at byte %d", data, why, at)
		}
		return r.eval(root, 0, unmarked)
	}, refused, nil
}
