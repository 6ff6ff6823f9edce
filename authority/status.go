package authority

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/gatehouse-ws/gatehouse/authority/pki"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
	"github.com/gatehouse-ws/gatehouse/token"
)

// Errors of the authority itself. Those whose row in statusTable has no text
// are wrapped with one that is fit for the caller.
var (
	errInvalidRequest  = errors.New("invalid request")
	errUnauthenticated = errors.New("no credential: call with a client certificate or an API key")
	errUnknown         = errors.New("unknown credential")
	errDepended        = errors.New("whoever depends on it could not call any more")
	errDenied          = errors.New("permission denied")
	errDisabled        = errors.New("credential disabled")
	errQuota           = errors.New("quota exceeded")
	errVersion         = errors.New("incompatible version")
	errAlive           = errors.New("the instance is not lost")
	errNotAttached     = errors.New("node instance is not attached: call Attach first")
	errReplaced        = errors.New("replaced by a newer Attach of this instance")
	errCut             = errors.New("acknowledgements of this node instance can't be kept: attach again, and tell them again")
	errDropped         = errors.New("dropped from the log before this node was told of it: attach again")
	errStopping        = errors.New("authority is stopping")
)

// statusTable is the only place that turns errors into status codes and
// reasons. The first match wins; an error without a row is internal, and its
// cause goes to the log, never to the caller. An empty text is the error's own.
var statusTable = []struct {
	err    error
	code   codes.Code
	reason pb.Reason
	text   string
	retry  time.Duration // zero: asking again does not help
}{
	{errInvalidRequest, codes.InvalidArgument, pb.Reason_REASON_INVALID_REQUEST, "", 0},
	{errUnauthenticated, codes.Unauthenticated, pb.Reason_REASON_UNAUTHENTICATED, "", 0},
	{errUnknown, codes.Unauthenticated, pb.Reason_REASON_UNAUTHENTICATED, "", 0},
	{pki.ErrRotating, codes.FailedPrecondition, pb.Reason_REASON_CA_ROTATION, "", 0},
	{pki.ErrNoElder, codes.FailedPrecondition, pb.Reason_REASON_CA_ROTATION, "", 0},
	{errDepended, codes.FailedPrecondition, pb.Reason_REASON_CA_ROTATION, "", 0},
	{errAlive, codes.FailedPrecondition, pb.Reason_REASON_INSTANCE_ALIVE, "", 0},
	{errDisabled, codes.PermissionDenied, pb.Reason_REASON_CREDENTIAL_DISABLED, "", 0},
	{errDenied, codes.PermissionDenied, pb.Reason_REASON_PERMISSION_DENIED, "", 0},
	{errQuota, codes.ResourceExhausted, pb.Reason_REASON_QUOTA_EXCEEDED, "", time.Second},
	{errVersion, codes.FailedPrecondition, pb.Reason_REASON_INCOMPATIBLE_VERSION, "", 0},
	{errNotAttached, codes.FailedPrecondition, pb.Reason_REASON_NOT_ATTACHED, "", 0},
	{storage.ErrInstanceUnknown, codes.FailedPrecondition, pb.Reason_REASON_NOT_ATTACHED, errNotAttached.Error(), 0},
	{errReplaced, codes.Aborted, pb.Reason_REASON_NOT_ATTACHED, "", 0},
	{errCut, codes.Aborted, pb.Reason_REASON_NOT_ATTACHED, "", 0},
	{errDropped, codes.Aborted, pb.Reason_REASON_NOT_ATTACHED, "", 0},
	{errStopping, codes.Unavailable, pb.Reason_REASON_STOPPING, "", time.Second},
	{storage.ErrNotFound, codes.NotFound, pb.Reason_REASON_NOT_FOUND, "", 0},
	{storage.ErrExists, codes.AlreadyExists, pb.Reason_REASON_ALREADY_EXISTS, "", 0},
	{storage.ErrExpired, codes.Unavailable, pb.Reason_REASON_STORE_UNAVAILABLE, "the token would expire before others that are forgotten already: the authority's clock is behind, or was ahead", 30 * time.Second},
	{storage.ErrRequestReused, codes.InvalidArgument, pb.Reason_REASON_INVALID_REQUEST, "request_id: it was used for another request; draw a new one", 0},
	{storage.ErrLocked, codes.FailedPrecondition, pb.Reason_REASON_LOCKED, "a lock denies this subject, tenant, address or issuer", 0},
	{storage.ErrFull, codes.Unavailable, pb.Reason_REASON_STORE_UNAVAILABLE, "the store's disk is full; nothing was done", 5 * time.Second},
	{storage.ErrBusy, codes.Unavailable, pb.Reason_REASON_STORE_UNAVAILABLE, "", 5 * time.Second},
	{storage.ErrInUse, codes.Unavailable, pb.Reason_REASON_STORE_UNAVAILABLE, "a restore or a compaction works on the store's folder", 5 * time.Second},
	{storage.ErrBackupCut, codes.Unavailable, pb.Reason_REASON_STORE_UNAVAILABLE, "", 30 * time.Second},
	{storage.ErrStopped, codes.Unavailable, pb.Reason_REASON_STORE_UNAVAILABLE, "the store can't write", 5 * time.Second},
	{storage.ErrClosed, codes.Unavailable, pb.Reason_REASON_STOPPING, errStopping.Error(), time.Second},
	{context.Canceled, codes.Canceled, pb.Reason_REASON_UNSPECIFIED, "canceled", 0},
	{context.DeadlineExceeded, codes.DeadlineExceeded, pb.Reason_REASON_UNSPECIFIED, "deadline exceeded", 0},
}

// Failure is how a call fails for a reason.
type Failure struct {
	Reason pb.Reason
	Code   codes.Code
	// Again says that the same call may succeed later; its RetryInfo says when.
	Again bool
}

// Failures lists how calls fail, in the order of statusTable.
func Failures() []Failure {
	var out []Failure
	for _, row := range statusTable {
		f := Failure{row.reason, row.code, row.retry > 0}
		if row.reason != pb.Reason_REASON_UNSPECIFIED && !slices.Contains(out, f) {
			out = append(out, f)
		}
	}
	return append(out, Failure{pb.Reason_REASON_INTERNAL, codes.Internal, false})
}

// verdict is what a caller learns of an error.
type verdict struct {
	code   codes.Code
	reason pb.Reason
	text   string
	retry  time.Duration
}

// verdictOf finds the row of err, which is not nil.
func verdictOf(err error) verdict {
	for _, row := range statusTable {
		if !errors.Is(err, row.err) {
			continue
		}
		text := row.text
		if text == "" {
			text = presentable(err.Error())
		}
		return verdict{row.code, row.reason, text, row.retry}
	}
	if s, ok := status.FromError(err); ok { // grpc's own, from a stream
		switch s.Code() {
		case codes.Canceled, codes.Unavailable: // the peer has gone
			return verdict{code: codes.Canceled, text: "canceled"}
		case codes.DeadlineExceeded:
			return verdict{code: codes.DeadlineExceeded, text: "deadline exceeded"}
		}
		return verdict{s.Code(), pb.Reason_REASON_INVALID_REQUEST, presentable(s.Message()), 0}
	}
	return verdict{codes.Internal, pb.Reason_REASON_INTERNAL, "internal error", 0}
}

const maxText = 1024 // bytes of a text that tells a caller what is wrong

// presentable makes a text fit to be sent or logged: it may quote a peer.
func presentable(text string) string {
	scrubbed := token.Scrub([]byte(text))
	return strings.ToValidUTF8(string(scrubbed[:min(len(scrubbed), maxText)]), "")
}

// outcome is how metrics and the audit trail call the verdict.
func (v verdict) outcome() string {
	switch v.code {
	case codes.Canceled:
		return "canceled"
	case codes.DeadlineExceeded:
		return "deadline_exceeded"
	}
	return v.reason.Label()
}

// status is what goes over the wire. A call that its caller gave up has no
// reason of ours.
func (v verdict) status() error {
	s := status.New(v.code, v.text)
	var details []protoadapt.MessageV1
	if v.reason != pb.Reason_REASON_UNSPECIFIED {
		details = append(details, &errdetails.ErrorInfo{Reason: v.reason.Label(), Domain: pb.Domain})
	}
	if v.retry > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(v.retry)})
	}
	if d, err := s.WithDetails(details...); err == nil {
		s = d
	}
	return s.Err()
}

// invalid names a field of the request, what is wrong with it and the fix.
func invalid(field, format string, args ...any) error {
	return fmt.Errorf("%s: %s (%w)", field, fmt.Sprintf(format, args...), errInvalidRequest)
}

// denied says what the caller may not do.
func denied(format string, args ...any) error {
	return fmt.Errorf("%s (%w)", fmt.Sprintf(format, args...), errDenied)
}

// notFound says what there is not.
func notFound(format string, args ...any) error {
	return fmt.Errorf("%s (%w)", fmt.Sprintf(format, args...), storage.ErrNotFound)
}
