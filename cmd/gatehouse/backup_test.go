package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/grpc/codes"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

const fakeBackup = "all that is committed"

// Backup sends fakeBackup; with hang it does not end.
func (f *fakeAuthority) Backup(_ *pb.BackupRequest, stream pb.MaintenanceService_BackupServer) error {
	sum := sha256.Sum256([]byte(fakeBackup))
	for _, m := range []*pb.BackupResponse{
		{Part: &pb.BackupResponse_Begun{Begun: &pb.BackupBegun{
			SystemId: "0123456789abcdef0123456789abcdef", Head: &pb.Revision{Epoch: testEpoch, Sequence: 3}, TakenAt: ago(0), Bytes: uint64(len(fakeBackup)),
		}}},
		{Part: &pb.BackupResponse_Chunk{Chunk: []byte(fakeBackup[:10])}},
		{Part: &pb.BackupResponse_Chunk{Chunk: []byte(fakeBackup[10:])}},
		{Part: &pb.BackupResponse_Ended{Ended: &pb.BackupEnded{Sha256: sum[:]}}},
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

func TestBackup(t *testing.T) {
	c := newCaller(t)
	path := filepath.Join(c.dir, "monday.backup")
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte(fakeBackup)))
	c.check(c.run("", "backup", "--out", path), exitOK,
		"DIR/monday.backup: 21 B, of revision 7.3, taken 2026-11-23 13:00:00 CET (now)\nsystem 0123456789abcdef0123456789abcdef\nsha256 "+sum+"\n", "")
	if got, err := os.ReadFile(path); string(got) != fakeBackup || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	c.check(c.run("", "backup", "--out", path), exitUsage, "",
		"gatehouse: error: --out: DIR/monday.backup exists already\ngatehouse: hint: name another file: a backup replaces none\n")
	c.check(c.run("", "backup"), exitUsage, "",
		"gatehouse: error: say where the backup goes with --out\ngatehouse: hint: --out gatehouse.backup, for example\n")
	c.check(c.run("", "backup", "--out", path+"2", "-ojson"), exitOK, `{
  "path": "DIR/monday.backup2",
  "system_id": "0123456789abcdef0123456789abcdef",
  "revision": "7.3",
  "taken_at": "2026-11-23T12:00:00Z",
  "bytes": 21,
  "sha256": "`+sum+`"
}
`, "")
	missing := filepath.Join(c.dir, "none", "x")
	c.check(c.run("", "backup", "--out", missing), exitFailure, "",
		"gatehouse: error: --out: make a file in DIR/none: no such file or directory\ngatehouse: hint: make the folder, or name another\n")
	c.authority.errs["Backup"] = withReason(codes.PermissionDenied, pb.Reason_REASON_PERMISSION_DENIED, "viewer alice may not call it")
	if got := c.run("", "backup", "--out", path+"3"); got.code != exitDenied {
		t.Errorf("not permitted: %+v", got)
	}
	delete(c.authority.errs, "Backup")
	c.authority.hang = true
	c.check(c.run("", "backup", "--out", path+"3"), exitFailure, "",
		"gatehouse: error: the backup came broken; nothing is kept of it: it ends before its end\ngatehouse: hint: run it again\n")
	if _, err := os.Stat(path + "3"); err == nil {
		t.Error("a broken backup is kept")
	}
}
