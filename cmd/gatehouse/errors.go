package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// exitCode is how the process ends; exitCodesHelp documents the list.
type exitCode int

const (
	exitOK          exitCode = 0
	exitFailure     exitCode = 1
	exitUsage       exitCode = 2
	exitNotFound    exitCode = 3
	exitDenied      exitCode = 4
	exitUnconfirmed exitCode = 6
	exitUnavailable exitCode = 7
	exitInterrupted exitCode = 130
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

// statusExits says how a call's status ends the process. Codes without a row
// are failures.
var statusExits = map[codes.Code]exitCode{
	codes.InvalidArgument:  exitUsage,
	codes.OutOfRange:       exitUsage,
	codes.NotFound:         exitNotFound,
	codes.Unauthenticated:  exitDenied,
	codes.PermissionDenied: exitDenied,
	codes.Unavailable:      exitUnavailable,
	codes.DeadlineExceeded: exitUnavailable,
}

// reasonHints says what can be done about a reason of the authority.
var reasonHints = map[pb.Reason]string{
	pb.Reason_REASON_CREDENTIAL_DISABLED: "an admin may enable it: gatehouse credential enable NAME --reason WHY",
	pb.Reason_REASON_QUOTA_EXCEEDED:      "issue fewer tokens a second, or let an admin raise the credential's tokens_per_second",
	pb.Reason_REASON_LOCKED:              "gatehouse locks lists what is denied, gatehouse unlock lifts a lock",
	pb.Reason_REASON_STORE_UNAVAILABLE:   "nothing was done; the authority's log says what its store lacks",
	pb.Reason_REASON_STOPPING:            "the authority is stopping or restarting; try again in a moment",
	pb.Reason_REASON_INTERNAL:            "the authority's log has the cause",
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
	s := status.Convert(err)
	f := &failure{exit: exitFailure, err: statusError{s}}
	if exit, ok := statusExits[s.Code()]; ok {
		f.exit = exit
	}
	answered := false
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == pb.Domain {
			f.reason, answered = info.GetReason(), true
			f.hint = reasonHints[pb.Reason(pb.Reason_value["REASON_"+strings.ToUpper(info.GetReason())])]
		}
	}
	switch {
	case f.exit == exitDenied && f.hint == "":
		f.hint = "the call showed " + cl.identity() + "; another can be named with --cert-file and --key-file, or --api-key-file"
	case answered:
	case s.Code() == codes.Unavailable:
		cl.explainUnreachable(f, s.Message())
	case s.Code() == codes.DeadlineExceeded:
		f.err = fmt.Errorf("the authority at %s did not answer in time", cl.settings.Address)
		f.hint = cl.reachHint() + "; --call-timeout, and --timeout of a dry run, wait longer"
	case s.Code() == codes.Unimplemented:
		f.hint = "the authority is older or newer than this gatehouse " + pb.Version
	}
	return f
}

// statusError is a status that reads as its message.
type statusError struct{ s *status.Status }

func (e statusError) Error() string              { return e.s.Message() }
func (e statusError) GRPCStatus() *status.Status { return e.s }

// unreachable tells apart why no connection came about, by what grpc and
// crypto/tls say. The first match wins; the last row is the default.
var unreachable = []struct {
	part string // of the message
	exit exitCode
	text string // before the cause
	hint string
}{
	{"protocol version", exitUnavailable, "what answers does not speak TLS 1.3", "something else than the authority listens at {address}"},
	{"remote error: tls:", exitDenied, "the authority refused the connection", "it was shown {shown}: it may be of another CA, or over"},
	{"certificate signed by unknown authority", exitUnavailable, "what answers is not this authority", "its certificate is not of the CA in {ca}; copy ca.crt from the authority, or correct the address"},
	{"certificate is valid for", exitUnavailable, "what answers has another name", "--server-name may give the name in its certificate"},
	{"certificate is not valid for any names", exitUnavailable, "what answers has another name", "--server-name may give the name in its certificate"},
	{"doesn't contain any IP SANs", exitUnavailable, "what answers has another name", "--server-name may give the name in its certificate"},
	{"certificate has expired or is not yet valid", exitUnavailable, "what answers has a certificate of another time", "compare this machine's clock with the authority's"},
	{"first record does not look like a TLS handshake", exitUnavailable, "what answers does not speak TLS", "something else than the authority listens at {address}"},
	{"", exitUnavailable, "cannot reach the authority at {address}", ""},
}

func (cl *client) explainUnreachable(f *failure, message string) {
	for _, row := range unreachable {
		if !strings.Contains(message, row.part) {
			continue
		}
		fill := func(format string) string {
			return strings.NewReplacer("{address}", cl.settings.Address, "{shown}", cl.identity(), "{ca}", cl.settings.CAFile).Replace(format)
		}
		f.exit, f.err = row.exit, fmt.Errorf("%s: %s", fill(row.text), dialCause(message))
		if f.hint = fill(row.hint); f.hint == "" {
			f.hint = cl.reachHint()
		}
		return
	}
}

// reachHint says what to look at when nothing answers.
func (cl *client) reachHint() string {
	if cl.fromDev != "" {
		return fmt.Sprintf("is gatehouse dev still running? its address comes from %s", cl.fromDev)
	}
	return fmt.Sprintf("is the authority running at %s? gatehouse dev starts one to try things with", cl.settings.Address)
}

// dialCause cuts what grpc puts around the cause of a failed connection.
func dialCause(message string) string {
	if _, rest, ok := strings.Cut(message, "desc = "); ok {
		if desc, err := strconv.Unquote(rest); err == nil {
			message = desc
		}
	}
	for _, prefix := range []string{"transport: ", "Error while dialing: ", "authentication handshake failed: ", "error reading server preface: ", "failed to write client preface: ", "failed to write initial settings frame: "} {
		message = strings.TrimPrefix(message, prefix)
	}
	return message
}
