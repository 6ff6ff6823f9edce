package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gatehouse-ws/gatehouse/cmd/internal/callerr"
	"github.com/gatehouse-ws/gatehouse/cmd/internal/shell"
)

// exitCode is how the process ends; exitCodesHelp documents the list.
type exitCode int

const (
	exitOK          exitCode = callerr.OK
	exitFailure     exitCode = callerr.Failure
	exitUsage       exitCode = callerr.Usage
	exitNotFound    exitCode = callerr.NotFound
	exitDenied      exitCode = callerr.Denied
	exitUnconfirmed exitCode = callerr.Unconfirmed
	exitUnavailable exitCode = callerr.Unavailable
	exitInterrupted exitCode = callerr.Interrupted
)

// name is the exit code in JSON.
func (e exitCode) name() string {
	switch e {
	case exitOK:
		return "ok"
	case exitUsage:
		return "usage"
	case exitNotFound:
		return "not_found"
	case exitDenied:
		return "denied"
	case exitUnconfirmed:
		return "unconfirmed"
	case exitUnavailable:
		return "unavailable"
	case exitInterrupted:
		return "interrupted"
	}
	return "failure"
}

// failure is an error as the user gets it.
type failure struct {
	exit   exitCode
	reason string // the authority's, from its closed list; may be empty
	hint   string // what to do about it; may be empty
	err    error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// errInterrupted ends what the user, or the system, asked to end.
var errInterrupted = &failure{exit: exitInterrupted, err: errors.New("interrupted")}

func failed(exit exitCode, hint, format string, args ...any) error {
	return &failure{exit: exit, hint: hint, err: fmt.Errorf(format, args...)}
}

// usagef is a mistake in the command line or the configuration.
func usagef(format string, args ...any) error { return failed(exitUsage, "", format, args...) }

// usage is such a mistake with a hint.
func usage(hint, format string, args ...any) error {
	return failed(exitUsage, hint, format, args...)
}

// report writes err, one line for each that is joined in it, and returns the
// exit code.
func (c *cli) report(ctx context.Context, err error) exitCode {
	f := &failure{exit: exitFailure, err: err}
	if !errors.As(err, &f) && ctx.Err() != nil && errors.Is(err, context.Canceled) {
		f = errInterrupted
	}
	if c.format == formatJSON {
		c.reportJSON(f)
		return f.exit
	}
	for line := range strings.Lines(f.Error()) {
		fmt.Fprintf(c.stderr, "gatehouse: error: %s\n", plain(strings.TrimSuffix(line, "\n")))
	}
	if f.hint != "" {
		fmt.Fprintf(c.stderr, "gatehouse: hint: %s\n", plain(f.hint))
	}
	return f.exit
}

func (c *cli) reportJSON(f *failure) {
	type body struct {
		Code     string `json:"code"`
		ExitCode int    `json:"exit_code"`
		Reason   string `json:"reason"`
		Message  string `json:"message"`
		Hint     string `json:"hint"`
	}
	line := appendJSONValue(nil, struct {
		Error body `json:"error"`
	}{body{f.exit.name(), int(f.exit), f.reason, f.Error(), f.hint}})
	c.stderr.Write(append(line, '\n')) // there is nowhere left to say that this failed
}

// explain turns the error of a call into a failure. parent is the context that
// the verb works in, without the call's own deadline.
func (cl *client) explain(parent context.Context, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(parent.Err(), context.Canceled) {
		return errInterrupted
	}
	call := callerr.Call{
		Address: cl.settings.Address, Shown: cl.identity(), CAFile: cl.settings.CAFile,
		Another: "--cert-file and --key-file, or --api-key-file", Silent: cl.reachHint(),
	}
	if cl.fromDev != "" { // which anything named by itself would put out of sight
		call.Another = fmt.Sprintf("--config, or beside --address %s and --ca-file %s with --cert-file and --key-file, or --api-key-file", call.Address, shell.Word(call.CAFile))
	}
	if status.Code(err) == codes.DeadlineExceeded {
		call.Silent += "; --call-timeout, and --timeout of a dry run, wait longer"
	}
	e := call.Explain(err)
	return &failure{exit: exitCode(e.Exit), reason: e.Reason, hint: e.Hint, err: e.Err}
}

// reachHint says what to look at when nothing answers.
func (cl *client) reachHint() string {
	if cl.fromDev != "" {
		return fmt.Sprintf("is gatehouse dev still running? its address comes from %s", cl.fromDev)
	}
	return fmt.Sprintf("is the authority running at %s? gatehouse dev starts one to try things with", cl.settings.Address)
}
