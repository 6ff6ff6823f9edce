package boltstore

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// Some tests need a process of their own: to kill it, to trace it, or to have
// it run out of space. They run this binary again as one of these children.
var children = map[string]func(path string) error{
	"crash":              childCrash,
	"history":            childHistory,
	"full":               childFull,
	"traced":             childTraced,
	"restore":            childRestore,
	"compact":            childCompact,
	"compact while open": childCompactOpen,
}

const (
	childEnv  = "GATEHOUSE_TEST_CHILD"
	pathEnv   = "GATEHOUSE_TEST_PATH"
	optionEnv = "GATEHOUSE_TEST_OPTION"
)

func TestMain(m *testing.M) {
	run, ok := children[os.Getenv(childEnv)]
	if !ok {
		os.Exit(m.Run())
	}
	if err := run(os.Getenv(pathEnv)); err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// child is the command that runs a child, behind the words of wrap.
func child(t *testing.T, name, path, option string, wrap ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	must(t, err)
	words := append(wrap, exe)
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Env = append(os.Environ(), childEnv+"="+name, pathEnv+"="+path, optionEnv+"="+option)
	return cmd
}

// output runs a child and returns what it has printed.
func output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s%s", cmd.Args, err, out, stderr.Bytes())
	}
	return string(out)
}
