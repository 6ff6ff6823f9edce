// Command gatehouse is the command line of admins and issuers: it issues
// tokens, shows who is connected, and revokes with a receipt. It talks to the
// authority over gRPC as everybody else does.
package main

import (
	"context"
	"crypto/rand"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/gatehouse-ws/gatehouse/cmd/internal/settings"
)

func main() {
	// The first signal ends work gracefully, the second ends the process.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is the whole program: it returns the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	c := &cli{
		stdin: stdin, stdout: stdout, stderr: stderr, environ: os.Environ(),
		stderrTerminal: isTerminal(stderr), stderrWidth: func() int { return widthOf(stderr) }, now: time.Now, zone: time.Local, random: rand.Reader,
	}
	c.terminal = isTerminal(stdin) && c.stderrTerminal
	return int(c.run(ctx, args))
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// widthOf is how many columns a terminal has now; 0 for what is none.
func widthOf(stream any) int {
	f, ok := stream.(*os.File)
	if !ok {
		return 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return width
}

// cli is one invocation.
type cli struct {
	// Set at construction.
	stdin          io.Reader
	stdout         io.Writer
	stderr         io.Writer
	environ        []string
	terminal       bool // a person types stdin and reads stderr
	stderrTerminal bool
	stderrWidth    func() int // in columns, 0 if unknown
	now            func() time.Time
	zone           *time.Location // of times in tables
	random         io.Reader

	// Set by flags.
	format format
	source settings.Source
}

// run executes the command line. All that goes to stderr is scrubbed of tokens
// and API keys, whoever wrote it.
func (c *cli) run(ctx context.Context, args []string) exitCode {
	out := &checkedWriter{w: c.stdout}
	c.stdout, c.stderr = out, scrubbingWriter{c.stderr}
	c.format = formatAsked(args)
	err := refuseSecrets(args)
	if err == nil {
		root := c.rootCommand()
		root.SetArgs(append([]string{}, args...)) // cobra takes nil for os.Args
		err = root.ExecuteContext(ctx)
	}
	if err == nil && out.err != nil {
		err = failed(exitFailure, "", "write the output: %w", out.err)
	}
	if err == nil {
		return exitOK
	}
	return c.report(ctx, err)
}

// refuseSecrets turns down token text and API keys among the arguments, where
// other users and the shell's history see them.
func refuseSecrets(args []string) error {
	for i, arg := range args {
		if holdsSecret(arg) {
			return failed(exitUsage,
				"arguments show in ps and stay in the shell's history: pass tokens on standard input "+
					"(gatehouse token show -, gatehouse revoke --token-stdin), and revoke this one",
				"argument %d holds the text of a token or an API key", i+1)
		}
	}
	return nil
}

// formatAsked finds the output format before flags are parsed, so that errors
// of the parsing come out in it.
func formatAsked(args []string) format {
	for i, arg := range args {
		switch {
		case arg == "--":
			return formatTable
		case (arg == "-o" || arg == "--output") && i+1 < len(args) && args[i+1] == string(formatJSON),
			arg == "-ojson", arg == "-o=json", arg == "--output=json":
			return formatJSON
		}
	}
	return formatTable
}

// checkedWriter remembers the first error, so that no verb needs to check each
// write: a full disk must not end in success.
type checkedWriter struct {
	w   io.Writer
	err error
}

func (c *checkedWriter) Write(b []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.w.Write(b)
	c.err = err
	return n, err
}

// text is s without the spaces around it that pasting and editors leave.
func text(s []byte) string { return strings.TrimSpace(string(s)) }
