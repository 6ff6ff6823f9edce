package schema

import (
	"encoding/json"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
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

// suiteRefused are the schemas of the suite that are refused at load, and what
// the error says. Whatever else is refused fails the test, and so does one of
// these that is accepted: they are written in dialects of their own, by a
// $schema with a $vocabulary, and here there is one dialect.
var suiteRefused = map[string]string{
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

	remotes := suiteRemotes(t, filepath.Join(folder, "remotes"), &cfg)
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
			check, err := suiteCompile(group.Schema, remotes, &cfg)
			why, expected := suiteRefused[name]
			switch {
			case err != nil && !expected:
				t.Errorf("%s: %v", name, err)
				continue
			case err != nil:
				if !strings.Contains(err.Error(), why) {
					t.Errorf("%s: %v, want %q", name, err, why)
				}
				continue
			case expected:
				t.Errorf("%s: accepted, but known as refused", name)
			}
			for _, test := range group.Tests {
				if got := check(test.Data) == nil; got != test.Valid {
					t.Errorf("%s: %s: valid is %v, want %v", name, test.Description, got, test.Valid)
					continue
				}
				passed++
			}
		}
	}
	t.Logf("%d of %d cases pass", passed, cases)
	if cases != 1299 {
		t.Errorf("%d cases, want the 1299 mandatory ones", cases)
	}
}

// suiteRemotes reads what the cases expect under http://localhost:1234/. It
// leaves out what cannot be listed, by itself: the metaschemas of other dialects.
func suiteRemotes(t *testing.T, root string, cfg *Config) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	left := 0
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		d, err := readDocument(name, "http://localhost:1234/"+filepath.ToSlash(name), text)
		if err != nil {
			return err
		}
		if d.walk(cfg); len(d.problems) == 0 {
			out[filepath.ToSlash(name)] = text
		} else if left++; !strings.Contains(errors.Join(d.problems...).Error(), "$vocabulary") {
			t.Errorf("remote %s: %v", name, errors.Join(d.problems...))
		}
		return nil
	})
	if err != nil || len(out) == 0 {
		t.Fatalf("%d remotes, %v", len(out), err)
	}
	t.Logf("%d remotes, %d left out", len(out), left)
	return out
}

// suiteCompile makes the check of one schema of the suite, beside the remotes
// that it may refer to.
func suiteCompile(text []byte, remotes map[string][]byte, cfg *Config) (func([]byte) error, error) {
	d, err := readDocument("test.json", fileURL("test.json"), text)
	if err != nil {
		return nil, err
	}
	docs := []*document{d}
	for name, text := range remotes {
		d, err := readDocument(name, "http://localhost:1234/"+name, text)
		if err != nil {
			return nil, err
		}
		docs = append(docs, d)
	}
	c, err := newCompiler(docs, cfg)
	if err != nil {
		return nil, err
	}
	compiled, err := c.compile("test.json")
	if err != nil {
		return nil, err
	}
	return func(data []byte) error {
		v, err := parse(data, cfg.Guards)
		if err != nil {
			return err
		}
		return compiled.Validate(v)
	}, nil
}
