package backupfile

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// fake is an authority that sends these parts.
type fake struct {
	pb.MaintenanceServiceClient // nil
	grpc.ClientStream
	parts []*pb.BackupResponse
	err   error // in the end
}

func (f *fake) Backup(context.Context, *pb.BackupRequest, ...grpc.CallOption) (pb.MaintenanceService_BackupClient, error) {
	return f, nil
}

func (f *fake) Recv() (*pb.BackupResponse, error) {
	if len(f.parts) == 0 {
		return nil, f.err
	}
	m := f.parts[0]
	f.parts = f.parts[1:]
	return m, nil
}

func begun(n uint64) *pb.BackupResponse {
	return &pb.BackupResponse{Part: &pb.BackupResponse_Begun{Begun: &pb.BackupBegun{Bytes: n}}}
}

func chunk(text string) *pb.BackupResponse {
	return &pb.BackupResponse{Part: &pb.BackupResponse_Chunk{Chunk: []byte(text)}}
}

func ended(text string) *pb.BackupResponse {
	sum := sha256.Sum256([]byte(text))
	return &pb.BackupResponse{Part: &pb.BackupResponse_Ended{Ended: &pb.BackupEnded{Sha256: sum[:]}}}
}

func TestSave(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.backup")
	var told []uint64
	saved, err := Save(t.Context(), &fake{parts: []*pb.BackupResponse{begun(6), chunk("abc"), chunk("def"), ended("abcdef")}, err: io.EOF}, path,
		func(done, total uint64) { told = append(told, done, total) })
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if string(got) != "abcdef" || err != nil || saved.SHA256 != sha256.Sum256(got) || saved.Begun.GetBytes() != 6 {
		t.Errorf("%q, %v: %+v", got, err, saved)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v: want it readable for nobody else", info.Mode(), err)
	}
	if len(told) != 4 || told[2] != 6 || told[3] != 6 {
		t.Errorf("progress %v", told)
	}
	if _, err := Save(t.Context(), &fake{}, path, nil); !errors.Is(err, ErrExists) {
		t.Errorf("over a file: %v, want ErrExists", err)
	}
}

func TestSaveKeepsNothingBroken(t *testing.T) {
	lost := errors.New("connection lost")
	for _, c := range []struct {
		rule  string
		parts []*pb.BackupResponse
		end   error
		want  error
	}{
		{"nothing", nil, io.EOF, ErrBroken},
		{"it is not whole", []*pb.BackupResponse{begun(6), chunk("abc"), ended("abc")}, io.EOF, ErrBroken},
		{"it ends without an end", []*pb.BackupResponse{begun(3), chunk("abc")}, io.EOF, ErrBroken},
		{"it ends before it begins", []*pb.BackupResponse{ended("")}, io.EOF, ErrBroken},
		{"the connection is lost", []*pb.BackupResponse{begun(6), chunk("abc")}, lost, lost},
		{"there is more than was said", []*pb.BackupResponse{begun(2), chunk("abc"), ended("abc")}, io.EOF, ErrBroken},
		{"it does not say how much there is", []*pb.BackupResponse{chunk("abc"), ended("abc")}, io.EOF, ErrBroken},
		{"a byte has changed", []*pb.BackupResponse{begun(3), chunk("abd"), ended("abc")}, io.EOF, ErrBroken},
		{"it begins twice", []*pb.BackupResponse{begun(3), chunk("abc"), begun(3), ended("abc")}, io.EOF, ErrBroken},
		{"a part of a newer version", []*pb.BackupResponse{begun(0), {}, ended("")}, io.EOF, ErrBroken},
	} {
		dir := t.TempDir()
		_, err := Save(t.Context(), &fake{parts: c.parts, err: c.end}, filepath.Join(dir, "a.backup"), nil)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.rule, err, c.want)
		}
		if left, err := os.ReadDir(dir); len(left) > 0 || err != nil {
			t.Errorf("%s: it left %v, %v", c.rule, left, err)
		}
	}
	if _, err := Save(t.Context(), &fake{}, filepath.Join(t.TempDir(), "none", "a.backup"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("in no folder: %v", err)
	}
}

// What another process has put there meanwhile is not replaced.
func TestSaveReplacesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.backup")
	f := &fake{parts: []*pb.BackupResponse{begun(1), chunk("a"), ended("a")}, err: io.EOF}
	_, err := Save(t.Context(), f, path, func(uint64, uint64) {
		if err := os.WriteFile(path, []byte("other"), 0o600); err != nil {
			t.Error(err)
		}
	})
	if got, _ := os.ReadFile(path); !errors.Is(err, ErrExists) || string(got) != "other" {
		t.Errorf("%v, and %q", err, got)
	}
}

func TestMeter(t *testing.T) {
	now := time.Now()
	m := Meter{Now: func() time.Time { return now }}
	var texts []string
	for _, done := range []uint64{0, 3 << 19, 1 << 30} {
		texts = append(texts, m.Text(done, 3<<29))
		now = now.Add(2 * time.Second)
	}
	if got, want := strings.Join(texts, "; "), "0 B of 1.5 GiB; 1.5 MiB of 1.5 GiB, 768.0 KiB/s; 1.0 GiB of 1.5 GiB, 256.0 MiB/s"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	for n, want := range map[uint64]string{1023: "1023 B", 1024: "1.0 KiB", 1 << 62: "4096.0 PiB"} {
		if got := Size(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

// A whole file is a backup though its folder can't be synced; that a sync has
// failed is told, with where the file is.
func TestPlace(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string // in the error; empty for none
	}{
		{nil, ""},
		{&os.PathError{Op: "open", Path: "x", Err: syscall.EACCES}, ""},
		{&os.PathError{Op: "sync", Path: "x", Err: syscall.EINVAL}, ""},
		{&os.PathError{Op: "sync", Path: "x", Err: syscall.ENOTSUP}, ""},
		{&os.PathError{Op: "sync", Path: "x", Err: syscall.EIO}, "a.backup is whole, but"},
	} {
		dir := t.TempDir()
		tmp, path := filepath.Join(dir, "part"), filepath.Join(dir, "a.backup")
		if err := os.WriteFile(tmp, []byte("all of it"), 0o600); err != nil {
			t.Fatal(err)
		}
		err := place(tmp, path, func(string) error { return c.err })
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || !errors.Is(err, syscall.EIO)) {
			t.Errorf("%v: %v, want %q", c.err, err, c.want)
		}
		if text, err := os.ReadFile(path); string(text) != "all of it" {
			t.Errorf("%v: the file has %q, %v", c.err, text, err)
		}
	}
}
