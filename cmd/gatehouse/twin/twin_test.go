package twin

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fake puts a program of this name, and nothing else, into PATH.
func fake(t *testing.T, name, script string) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	if name == "" {
		return
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
}

func TestWithoutNode(t *testing.T) {
	fake(t, "", "")
	if _, err := Build(context.Background(), t.TempDir(), Input{}); !errors.Is(err, ErrNoProgram) || err.Error() != "node: not found in PATH" {
		t.Error(err)
	}
	if err := Install(context.Background(), filepath.Join(t.TempDir(), "x")); !errors.Is(err, ErrNoProgram) || err.Error() != "npm: not found in PATH" {
		t.Error(err)
	}
}

func TestBuildTellsWhatNodeComplainsOf(t *testing.T) {
	for script, want := range map[string]string{
		"echo '    at x' >&2; echo 'TypeError: no such thing' >&2; exit 3": "node: exit status 3: no such thing",
		"echo strange >&2; echo words >&2; exit 1":                         "node: exit status 1: strange; words",
		"echo no JSON": "node wrote what is no module: invalid character 'o' in literal null (expecting 'u')",
	} {
		fake(t, "node", script)
		if _, err := Build(context.Background(), t.TempDir(), Input{}); err == nil || err.Error() != want {
			t.Errorf("%s: %v", script, err)
		}
	}
	fake(t, "node", `printf '{"js": "a", "types": "b"}'`)
	if m, err := Build(context.Background(), t.TempDir(), Input{}); err != nil || m != (Module{"a", "b"}) {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestInterrupted(t *testing.T) {
	fake(t, "node", "exit 1")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Build(ctx, t.TempDir(), Input{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// A folder of packages has the pinned versions, or says which it lacks.
func TestCheck(t *testing.T) {
	dir := t.TempDir()
	if err := Check(dir); err == nil || !strings.Contains(err.Error(), "is not in the folder node_modules of "+dir) {
		t.Error(err)
	}
	for _, name := range []string{"ajv", "json-schema-to-typescript"} {
		if err := os.MkdirAll(filepath.Join(dir, "node_modules", name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "node_modules", name, "package.json"), []byte(`{"version": "0.0.1"}`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := Check(dir); err == nil || !strings.Contains(err.Error(), `has the version "0.0.1", want `) {
		t.Error(err)
	}
}

// A folder is filled as a whole, once, and the lock file is what npm gets.
func TestInstall(t *testing.T) {
	cache := t.TempDir()
	folder := Folder(cache)
	t.Setenv("HOME", cache)
	fake(t, "npm", `[ "$1" = ci ] && [ -f package-lock.json ] && [ -f package.json ] && : > done`)
	if err := Install(context.Background(), folder); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(folder, "done")); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(filepath.Dir(folder)); err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}
	fake(t, "npm", "echo 'npm error network' >&2; exit 1")
	other := filepath.Join(cache, "other", "x")
	if err := Install(context.Background(), other); err == nil || err.Error() != "npm: exit status 1: npm error network" {
		t.Error(err)
	}
	if left, err := os.ReadDir(filepath.Dir(other)); err != nil || len(left) != 0 {
		t.Errorf("%v, %v", left, err)
	}
}

// What is pinned is pinned exactly, with hashes.
func TestLock(t *testing.T) {
	if n := strings.Count(string(lock), `"integrity": "sha512-`); n < 10 || n != strings.Count(string(lock), `"node_modules/`) {
		t.Errorf("%d packages of the lock file have hashes", n)
	}
	if strings.Contains(string(manifest), "^") || strings.Contains(string(manifest), "~") {
		t.Errorf("%s", manifest)
	}
}
