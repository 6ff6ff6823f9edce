package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// testdata/deps.txt lists every package that the node links on Linux, beside
// the standard library, so that a new one is seen when a change is read.
func TestDependencies(t *testing.T) {
	list := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".")
	list.Env = append(os.Environ(), "GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=0", "GOFLAGS=")
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, heart := range []string{"github.com/gatehouse-ws/gatehouse/storage", "github.com/gatehouse-ws/gatehouse/authority", "go.etcd.io/bbolt"} {
		if strings.Contains(string(out), heart+"\n") || strings.Contains(string(out), heart+"/") {
			t.Errorf("the node links %s: a stolen node must hold nothing worth stealing", heart)
		}
	}
	const path = "testdata/deps.txt"
	if *update {
		if err := os.WriteFile(path, out, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	listed, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(listed) != string(out) {
		t.Errorf("%s is out of date: read what go test ./cmd/gatehouse-node -update changes there, and whether the node should need it", path)
	}
}
