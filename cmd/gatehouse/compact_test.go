package main

import (
	"testing"

	"google.golang.org/grpc/codes"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// Compact gains 2 KiB; with hang it does not say so.
func (f *fakeAuthority) Compact(_ *pb.CompactRequest, stream pb.MaintenanceService_CompactServer) error {
	for _, m := range []*pb.CompactResponse{
		{Part: &pb.CompactResponse_Progress{Progress: &pb.CompactProgress{Written: 512, AtMost: 3072}}},
		{Part: &pb.CompactResponse_Ended{Ended: &pb.CompactEnded{Before: 3072, After: 1024}}},
	} {
		if m.GetEnded() != nil && f.hangs() {
			return nil
		}
		if err := stream.Send(m); err != nil {
			return err
		}
	}
	return nil
}

func TestCompact(t *testing.T) {
	c := newCaller(t)
	c.check(c.run("", "compact"), exitOK, "compacted: 3.0 KiB before, 1.0 KiB now\n", "")
	c.check(c.run("", "compact", "-ojson"), exitOK, "{\n  \"before\": 3072,\n  \"after\": 1024\n}\n", "")
	c.authority.errs["Compact"] = withReason(codes.PermissionDenied, pb.Reason_REASON_PERMISSION_DENIED, "viewer alice may not call it")
	if got := c.run("", "compact"); got.code != exitDenied {
		t.Errorf("not permitted: %+v", got)
	}
	delete(c.authority.errs, "Compact")
	c.authority.hang = true
	c.check(c.run("", "compact"), exitFailure, "",
		"gatehouse: error: the authority did not say how it ended\ngatehouse: hint: look at the size of its file, and run it again\n")
}
