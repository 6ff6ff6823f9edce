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
		{"so does --version", []string{"--version"}, nil, 0, "gatehouse-node 0."},
		{"an unknown command is a usage error", []string{"strat"}, nil, 2, `has no command "strat"`},
		{"and so is one below another", []string{"config", "chekc"}, nil, 2, `gatehouse-node config has no command "chekc"`},
		{"a command that does nothing by itself says so", []string{"config"}, nil, 2, "gatehouse-node config needs a command"},
		{"an unknown shell is a usage error", []string{"completion", "nope"}, nil, 2, `gatehouse-node completion has no command "nope"`},
		{"a known shell is not", []string{"completion", "bash"}, nil, 0, "gatehouse-node"},
		{"an argument too many is a usage error", []string{"config", "check", "x"}, nil, 2, `takes no argument, but got "x"`},
		{"an unknown flag is a usage error", []string{"--lsiten", "x"}, nil, 2, "unknown flag"},
		{"an unknown variable is a usage error with a suggestion", []string{"config", "check"}, []string{"GATEHOUSE_LOG_LEVLE=info"}, 2, "GATEHOUSE_LOG_LEVEL"},
		{"a file that was named must be there", []string{"config", "check", "--config", "/nowhere.yaml"}, nil, 2, "/nowhere.yaml"},
		{"the sample file is right", []string{"config", "check", "--config", "../../deploy/samples/node.yaml"}, nil, 0, "ok"},
		{"a bad value names its flag and what is wanted", []string{"config", "check", "--log-level", "loud"}, nil, 2, `--log-level: "loud" is not accepted: want debug, info, warn or error`},
		{"and the hint is at the settings", []string{"config", "check", "--log-level", "loud"}, nil, 2, "hint: gatehouse-node config reference lists the settings"},
	} {
		var out bytes.Buffer
		code := run(context.Background(), c.args, c.env, &out, &out)
		if code != c.code || !strings.Contains(out.String(), c.want) {
			t.Errorf("%s: exit code %d, want %d; %s", c.rule, code, c.code, out.String())
		}
	}
}
