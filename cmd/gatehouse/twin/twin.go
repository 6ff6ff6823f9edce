// Package twin makes, of the schemas of a node, a module for browsers that decides
// as the node does: JavaScript without eval, for pages with a strict content
// security policy, and its types in TypeScript. The work is done under Node.js by
// libraries whose versions a lock file pins.
package twin

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

var (
	//go:embed build.mjs
	builder []byte
	//go:embed runtime.js
	runtime string
	//go:embed package.json
	manifest []byte
	//go:embed package-lock.json
	lock []byte
)

// Input is what a module is made of.
type Input struct {
	Bundle json.RawMessage `json:"bundle"`
	// Types are the JSON Pointers, in the bundle, of the schemas of messages.
	Types map[string]string `json:"types"`
	// Discriminator is the property that names a message's type; nil where there is
	// one schema for all.
	Discriminator *string `json:"discriminator"`
	Annotate      bool    `json:"annotate"`
	Header        string  `json:"header"` // comment lines that both files begin with

	Runtime string `json:"runtime"` // set by Build
}

// Module is what is made.
type Module struct {
	JS    string `json:"js"`
	Types string `json:"types"` // in TypeScript
}

// ErrNoProgram says that a program is not there which is needed.
var ErrNoProgram = errors.New("not found in PATH")

// buildTimeout and installTimeout end what hangs.
const (
	buildTimeout   = 5 * time.Minute
	installTimeout = 15 * time.Minute
)

// Build makes a module with the packages in a folder that Install, or npm ci,
// has filled.
func Build(ctx context.Context, packages string, in Input) (Module, error) {
	var m Module
	in.Runtime = runtime
	text, err := json.Marshal(in)
	if err != nil {
		return m, fmt.Errorf("schemas: %w", err)
	}
	dir, err := os.MkdirTemp("", "gatehouse-twin-")
	if err != nil {
		return m, err
	}
	defer os.RemoveAll(dir) // a leftover in the folder for temporary files
	if packages, err = filepath.Abs(packages); err != nil {
		return m, err
	}
	script, input := filepath.Join(dir, "build.mjs"), filepath.Join(dir, "input.json")
	if err := errors.Join(os.WriteFile(script, builder, 0o600), os.WriteFile(input, text, 0o600)); err != nil {
		return m, err
	}
	out, err := run(ctx, buildTimeout, dir, "node", script, packages, input)
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(out, &m); err != nil {
		return m, fmt.Errorf("node wrote what is no module: %w", err)
	}
	return m, nil
}

// Check reports what a folder of packages lacks of those that are pinned.
func Check(packages string) error {
	var want struct{ Dependencies map[string]string }
	if err := json.Unmarshal(manifest, &want); err != nil {
		return err
	}
	for name, version := range want.Dependencies {
		var got struct{ Version string }
		text, err := os.ReadFile(filepath.Join(packages, "node_modules", filepath.FromSlash(name), "package.json"))
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is not in the folder node_modules of %s", name, packages)
		}
		if err != nil {
			return err
		}
		if err := json.Unmarshal(text, &got); err != nil || got.Version != version {
			return fmt.Errorf("%s in %s has the version %q, want %s", name, packages, got.Version, version)
		}
	}
	return nil
}

// Folder is where Install puts the packages, in the user's folder of caches: one
// for each lock file.
func Folder(cache string) string {
	sum := sha256.Sum256(lock)
	return filepath.Join(cache, "gatehouse", "twin-"+hex.EncodeToString(sum[:6]))
}

// Install has npm install the packages that the lock file pins into a folder, which
// is whole or not there. Their scripts are not run.
func Install(ctx context.Context, folder string) error {
	if err := os.MkdirAll(filepath.Dir(folder), 0o700); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(filepath.Dir(folder), "installing-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) // what is left if it failed
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "package.json"), manifest, 0o600), os.WriteFile(filepath.Join(dir, "package-lock.json"), lock, 0o600)); err != nil {
		return err
	}
	if _, err := run(ctx, installTimeout, dir, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"); err != nil {
		return err
	}
	if err := os.Rename(dir, folder); err != nil && Check(folder) != nil { // else another one was faster
		return err
	}
	return nil
}

// run runs a program and returns what it writes. What it complains of goes into the
// error, in brief.
func run(ctx context.Context, most time.Duration, dir, name string, args ...string) ([]byte, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, ErrNoProgram)
	}
	inner, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(inner, path, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &stdout, &stderr
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if inner.Err() != nil {
			return nil, fmt.Errorf("%s took longer than %v", name, most)
		}
		return nil, fmt.Errorf("%s: %w: %s", name, err, complaint(stderr.String()))
	}
	return stdout.Bytes(), nil
}

// complaint is what a program says that is of use: of Node.js the line with the
// error, else the first few.
func complaint(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if _, after, ok := strings.Cut(line, "Error: "); ok {
			return after
		}
		if line != "" {
			lines = append(lines, line)
		}
	}
	text = strings.Join(lines[:min(len(lines), 5)], "; ")
	return text[:min(len(text), 500)]
}
