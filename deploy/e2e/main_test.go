//go:build e2e

// Package e2e drives the real programs: over real TLS and sockets, with clients
// that others wrote, with signals and kills.
package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

var (
	programs  string // folder of the built programs
	artifacts string // folder of everything they print
)

func bin(name string) string { return filepath.Join(programs, name) }

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "gatehouse-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	programs, artifacts = filepath.Join(dir, "bin"), filepath.Join(dir, "artifacts")
	if err := os.Mkdir(artifacts, 0o700); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	build := exec.Command("go", "build", "-o", programs+"/",
		"github.com/gatehouse-ws/gatehouse/cmd/gatehouse", "github.com/gatehouse-ws/gatehouse/cmd/gatehouse-authority", "github.com/gatehouse-ws/gatehouse/cmd/gatehouse-node")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		return 1
	}
	code := m.Run()
	if secrets.count() == 0 {
		return code
	}
	files, err := secrets.missing(artifacts)
	if err != nil {
		fmt.Fprintln(os.Stderr, "FAIL: secrets:", err)
		return 1
	}
	if code == 0 {
		fmt.Printf("secrets: none of %d tokens in %d files of logs, metrics, errors and audit\n", secrets.count(), files)
	}
	return code
}
