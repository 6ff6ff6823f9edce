package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// TestScripts runs the program as users do: as a process, with its
// environment, files and pipes. The command exits CODE PROGRAM ARGS... checks
// the exit code.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"), RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			f := startAuthority(t)
			f.tokens = []*pb.Token{listedToken(1, pb.TokenState_TOKEN_STATE_ACTIVE)}
			f.tokens[0].ExpiresAt = timestamppb.New(time.Now().Add(time.Hour))
			f.ca.writeCredential(t, env.WorkDir, "alice")
			id, text := testToken(1)
			for name, value := range map[string]string{
				"AUTHORITY": f.addr, "ID": id.String(), "TEXT": text, "HOME": env.WorkDir,
				"XDG_CONFIG_HOME": filepath.Join(env.WorkDir, "config"), "XDG_STATE_HOME": filepath.Join(env.WorkDir, "state"),
			} {
				env.Setenv(name, value)
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "expand": expand},
	})
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGS...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	var exit *exec.ExitError
	got := 0
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// expand replaces $NAMES in files.
func expand(ts *testscript.TestScript, neg bool, args []string) {
	for _, file := range args {
		text := os.Expand(ts.ReadFile(file), ts.Getenv)
		ts.Check(os.WriteFile(ts.MkAbs(file), []byte(text), 0o600))
	}
}
