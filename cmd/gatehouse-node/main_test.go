package main

import (
	"bytes"
	"context"
	"flag"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/node.md and testdata/deps.txt anew")

// docs/node.md is what the program itself says of its settings.
func TestReferencePage(t *testing.T) {
	var page, stderr bytes.Buffer
	if code := run(context.Background(), []string{"config", "reference"}, nil, &page, &stderr); code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr.String())
	}
	const path = "../../docs/node.md"
	if *update {
		if err := os.WriteFile(path, page.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	written, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(written, page.Bytes()) {
		t.Errorf("%s is out of date: go test ./cmd/gatehouse-node -update", path)
	}
}

func TestCommandLine(t *testing.T) {
	for _, c := range []struct {
		rule string
		args []string
		env  []string
		code int
		want string
	}{
		{"version says what runs", []string{"version"}, nil, 0, "gatehouse-node 0."},
		{"help shows examples", []string{"--help"}, nil, 0, "Examples:"},
		{"an unknown command is a usage error", []string{"strat"}, nil, 2, "unknown command"},
		{"an unknown flag is a usage error", []string{"--lsiten", "x"}, nil, 2, "unknown flag"},
		{"an unknown variable is a usage error with a suggestion", []string{"config", "check"}, []string{"GATEHOUSE_LOG_LEVLE=info"}, 2, "GATEHOUSE_LOG_LEVEL"},
		{"a file that was named must be there", []string{"config", "check", "--config", "/nowhere.yaml"}, nil, 2, "/nowhere.yaml"},
		{"the sample file is right", []string{"config", "check", "--config", "../../deploy/samples/node.yaml"}, nil, 0, "ok"},
		{"a bad value names its flag", []string{"config", "check", "--log-level", "loud"}, nil, 2, "--log-level"},
	} {
		var out bytes.Buffer
		code := run(context.Background(), c.args, c.env, &out, &out)
		if code != c.code || !strings.Contains(out.String(), c.want) {
			t.Errorf("%s: exit code %d, want %d; %s", c.rule, code, c.code, out.String())
		}
	}
}
