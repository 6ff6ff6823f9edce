package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What is wrong is said before Node.js is started, and that it is not there.
func TestSchemaBuildRefuses(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := file("good.json", `{"type": "string", "maxLength": 5}`)
	other := file("other.json", `{"type": "string", "maxLength": 6}`)
	twin := file("twin.json", `{"type": "number", "multipleOf": 0.01}`)
	bad := file("bad.json", `{"maxLenght": 5}`)
	typed := `{"type": "object", "required": ["type"], "properties": {"type": {"const": "a"}}, "additionalProperties": false}`
	one, two := file("one.json", typed), file("two.json", typed)
	taken := filepath.Join(dir, "taken")
	if err := os.Mkdir(taken, 0o700); err != nil {
		t.Fatal(err)
	}
	file("taken/index.d.ts", "export {};\n")
	t.Setenv("PATH", filepath.Join(dir, "nothing"))
	t.Setenv("HOME", dir)
	t.Setenv("XDG_CACHE_HOME", filepath.Join(dir, "cache"))
	out := filepath.Join(dir, "out")
	c := &caller{t: t}
	for name, tc := range map[string]struct {
		args []string
		code exitCode
		want string
	}{
		"no folder":                      {[]string{good}, exitUsage, "--out is required"},
		"no file":                        {[]string{"--out", out}, exitUsage, "needs a schema file"},
		"what does not load":             {[]string{"--out", out, bad}, exitUsage, "maxLenght is no keyword"},
		"what a browser would not do":    {[]string{"--out", out, twin}, exitFailure, "twin.json#/multipleOf: twin-multiple: "},
		"a folder with somebody's files": {[]string{"--out", taken, good}, exitUsage, "index.d.ts is there, and this command has not made it"},
		"two schemas without a type":     {[]string{"--out", out, good, other}, exitUsage, "good.json: its messages have no type"},
		"one type twice":                 {[]string{"--out", out, one, two}, exitUsage, `two.json#/properties/type/const: "a" is the type of one.json# too`},
		"packages that are none":         {[]string{"--out", out, "--packages", dir, good}, exitUsage, "is not in the folder node_modules"},
		"no npm":                         {[]string{"--out", out, good}, exitFailure, "hint: install Node.js 18 or later with npm: https://nodejs.org"},
		"no npm, with a difference":      {[]string{"--out", out, "--allow-differences", twin}, exitFailure, "warning: "},
	} {
		got := c.run("", append([]string{"schema", "build"}, tc.args...)...)
		if got.code != tc.code || !strings.Contains(got.stderr, tc.want) || got.stdout != "" {
			t.Errorf("%s: %+v, want %s", name, got, tc.want)
		}
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("the folder was made though nothing was built")
	}
}
