// Package callerr says what the error of a call to an authority means to who
// typed the command: an exit code, the authority's reason, and what to do. All
// programs that call say it alike.
package callerr

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// Exit codes. gatehouse help exit-codes documents the list.
const (
	OK          = 0
	Failure     = 1
	Usage       = 2
	NotFound    = 3
	Denied      = 4
	Unconfirmed = 6
	Unavailable = 7
	Interrupted = 130
)

// StatusExits says how a call's status ends the process. Codes without a row
// are failures.
var StatusExits = map[codes.Code]int{
	codes.InvalidArgument:  Usage,
	codes.OutOfRange:       Usage,
	codes.NotFound:         NotFound,
	codes.Unauthenticated:  Denied,
	codes.PermissionDenied: Denied,
	codes.Unavailable:      Unavailable,
	codes.DeadlineExceeded: Unavailable,
}

// ReasonHints says what can be done about a reason of the authority.
var ReasonHints = map[pb.Reason]string{
	pb.Reason_REASON_CREDENTIAL_DISABLED: "an admin may enable it: gatehouse credential enable NAME --reason WHY",
	pb.Reason_REASON_QUOTA_EXCEEDED:      "issue fewer tokens a second, or let an admin raise the credential's tokens_per_second",
	pb.Reason_REASON_LOCKED:              "gatehouse locks lists what is denied, gatehouse unlock lifts a lock",
	pb.Reason_REASON_STORE_UNAVAILABLE:   "nothing was done; the authority's log says what its store lacks",
	pb.Reason_REASON_STOPPING:            "the authority is stopping or restarting; try again in a moment",
	pb.Reason_REASON_INSTANCE_ALIVE:      "gatehouse node list tells who is attached; one that is silent is released in its time",
	pb.Reason_REASON_CA_ROTATION:         "gatehouse-authority ca list tells which CAs are trusted, and who depends on them",
	pb.Reason_REASON_INTERNAL:            "the authority's log has the cause",
}

// Call is what is known of a call that failed.
type Call struct {
	Address string // of the authority
	Shown   string // the credential, in words
	CAFile  string
	Another string // how another credential is named
	Silent  string // what to look at when nothing answers
}

// Explained is an error of a call.
type Explained struct {
	Exit   int
	Reason string // the authority's, from its closed list; may be empty
	Hint   string // what to do about it; may be empty
	Err    error
}

// Explain tells what err, which is not nil, means.
func (c *Call) Explain(err error) *Explained {
	s := status.Convert(err)
	if own := (interface{ GRPCStatus() *status.Status })(nil); errors.As(err, &own) {
		s = own.GRPCStatus() // without the words around it
	}
	e := &Explained{Exit: Failure, Err: statusError{s}}
	if exit, ok := StatusExits[s.Code()]; ok {
		e.Exit = exit
	}
	answered := false
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == pb.Domain {
			e.Reason, answered = info.GetReason(), true
			e.Hint = ReasonHints[pb.Reason(pb.Reason_value["REASON_"+strings.ToUpper(info.GetReason())])]
		}
	}
	switch {
	case e.Exit == Denied && e.Hint == "":
		e.Hint = "the call showed " + c.Shown + "; another can be named with " + c.Another
	case answered:
	case s.Code() == codes.Unavailable:
		c.explainUnreachable(e, s.Message())
	case s.Code() == codes.DeadlineExceeded:
		e.Err = fmt.Errorf("the authority at %s did not answer in time", c.Address)
		e.Hint = c.Silent
	case s.Code() == codes.Unimplemented:
		e.Hint = "the authority is older or newer than this program, " + pb.Version
	}
	return e
}

// statusError is a status that reads as its message.
type statusError struct{ s *status.Status }

func (e statusError) Error() string              { return e.s.Message() }
func (e statusError) GRPCStatus() *status.Status { return e.s }

// unreachable tells apart why no connection came about, by what grpc and
// crypto/tls say. The first match wins; the last row is the default.
var unreachable = []struct {
	part string // of the message
	exit int
	text string // before the cause
	hint string
}{
	{"protocol version", Unavailable, "what answers does not speak TLS 1.3", "something else than the authority listens at {address}"},
	{"remote error: tls:", Denied, "the authority refused the connection", "it was shown {shown}: it may be of another CA, or over"},
	{"certificate signed by unknown authority", Unavailable, "what answers is not this authority", "its certificate is not of the CA in {ca}; copy ca.crt from the authority, or correct the address"},
	{"certificate is valid for", Unavailable, "what answers has another name", "--server-name may give the name in its certificate"},
	{"certificate is not valid for any names", Unavailable, "what answers has another name", "--server-name may give the name in its certificate"},
	{"doesn't contain any IP SANs", Unavailable, "what answers has another name", "--server-name may give the name in its certificate"},
	{"certificate has expired or is not yet valid", Unavailable, "what answers has a certificate of another time", "compare this machine's clock with the authority's"},
	{"first record does not look like a TLS handshake", Unavailable, "what answers does not speak TLS", "something else than the authority listens at {address}"},
	{"", Unavailable, "cannot reach the authority at {address}", ""},
}

func (c *Call) explainUnreachable(e *Explained, message string) {
	for _, row := range unreachable {
		if !strings.Contains(message, row.part) {
			continue
		}
		fill := func(format string) string {
			return strings.NewReplacer("{address}", c.Address, "{shown}", c.Shown, "{ca}", c.CAFile).Replace(format)
		}
		e.Exit, e.Err = row.exit, fmt.Errorf("%s: %s", fill(row.text), dialCause(message))
		if e.Hint = fill(row.hint); e.Hint == "" {
			e.Hint = c.Silent
		}
		return
	}
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
