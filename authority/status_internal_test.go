package authority

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
)

// TestEveryErrorHasAReason proves of promise 8 that whatever ends a call has
// one reason from the closed list, but for what the caller ended itself.
func TestEveryErrorHasAReason(t *testing.T) {
	errs := []error{errors.New("anything else"), fmt.Errorf("wrapped: %w", storage.ErrCorrupt)}
	for _, row := range statusTable {
		errs = append(errs, row.err, fmt.Errorf("step: %w", row.err), errors.Join(row.err, errors.New("more")))
	}
	for _, c := range []codes.Code{codes.ResourceExhausted, codes.Internal, codes.Unimplemented, codes.InvalidArgument} {
		errs = append(errs, status.Error(c, "grpc's own"))
	}
	for _, err := range errs {
		v := verdictOf(err)
		s := status.Convert(v.status())
		var infos []*errdetails.ErrorInfo
		for _, d := range s.Details() {
			if i, ok := d.(*errdetails.ErrorInfo); ok {
				infos = append(infos, i)
			}
		}
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			if len(infos) != 0 || v.outcome() == "unspecified" {
				t.Errorf("%v: %v, outcome %s", err, infos, v.outcome())
			}
			continue
		}
		if s.Code() == codes.OK || s.Code() == codes.Unknown || len(infos) != 1 || infos[0].GetDomain() != "gatehouse" || infos[0].GetReason() != v.outcome() {
			t.Errorf("%v: %v %v", err, s, infos)
			continue
		}
		if n, ok := pb.Reason_value["REASON_"+strings.ToUpper(infos[0].GetReason())]; !ok || n == 0 {
			t.Errorf("%v: reason %s is not of the list", err, infos[0].GetReason())
		}
	}
}

// TestGRPCsOwnErrors pins how errors are taken that grpc gives to streams.
func TestGRPCsOwnErrors(t *testing.T) {
	for code, want := range map[codes.Code]string{
		codes.Canceled: "Canceled canceled", codes.Unavailable: "Canceled canceled", codes.DeadlineExceeded: "DeadlineExceeded deadline_exceeded",
		codes.ResourceExhausted: "ResourceExhausted invalid_request", codes.Internal: "Internal invalid_request",
	} {
		v := verdictOf(status.Error(code, "text"))
		if got := v.code.String() + " " + v.outcome(); got != want {
			t.Errorf("%v: %s, want %s", code, got, want)
		}
	}
}

// TestEveryStorageErrorIsKnown proves that no sentinel of storage is forgotten:
// each has its row here or among the refusals, or is meant to be internal.
func TestEveryStorageErrorIsKnown(t *testing.T) {
	text, err := os.ReadFile("../storage/storage.go")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]error{
		"ErrStopped": storage.ErrStopped, "ErrFull": storage.ErrFull, "ErrClosed": storage.ErrClosed, "ErrCorrupt": storage.ErrCorrupt,
		"ErrNewer": storage.ErrNewer, "ErrInUse": storage.ErrInUse, "ErrNotFound": storage.ErrNotFound, "ErrExists": storage.ErrExists,
		"ErrRequestReused": storage.ErrRequestReused, "ErrExpired": storage.ErrExpired, "ErrUsed": storage.ErrUsed, "ErrRevoked": storage.ErrRevoked,
		"ErrLocked": storage.ErrLocked, "ErrSessionEnded": storage.ErrSessionEnded, "ErrSessionTaken": storage.ErrSessionTaken,
		"ErrSessionLimit": storage.ErrSessionLimit, "ErrInstanceUnknown": storage.ErrInstanceUnknown,
	}
	internal := map[string]bool{"ErrCorrupt": true, "ErrNewer": true, "ErrInUse": true} // of opening, or for the log
	found := regexp.MustCompile(`(?m)^	(Err\w+) = errors.New`).FindAllSubmatch(text, -1)
	if len(found) != len(known) {
		t.Errorf("storage has %d errors, this test knows %d", len(found), len(known))
	}
	for _, m := range found {
		name := string(m[1])
		err := known[name]
		if err == nil {
			t.Errorf("%s: not known here", name)
			continue
		}
		reason, rest := refusalOf(fmt.Errorf("wrapped: %w", err))
		if v := verdictOf(err); v.reason == pb.Reason_REASON_INTERNAL && rest != nil && !internal[name] {
			t.Errorf("%s: neither a status nor a refusal", name)
		}
		if (rest == nil) != (reason != 0) {
			t.Errorf("%s: reason %v and error %v", name, reason, rest)
		}
	}
}

// TestTextsAreBounded proves that what quotes a peer is cut, and stays UTF-8.
func TestTextsAreBounded(t *testing.T) {
	for _, s := range []string{strings.Repeat("é", 1000), "x" + strings.Repeat("é", 1000), strings.Repeat("gh1_A ", 1000), "\xff\xfe"} {
		v := verdictOf(invalid("field", "%s", s))
		if len(v.text) > maxText || strings.ToValidUTF8(v.text, "") != v.text || strings.Contains(v.text, "gh1_A") {
			t.Errorf("%.40q gives %q", s, v.text)
		}
	}
}
