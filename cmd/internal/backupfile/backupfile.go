// Package backupfile takes a backup from an authority and puts it into a file.
package backupfile

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// Errors of Save that are not of the call.
var (
	// ErrExists says that there is a file already: a backup replaces none.
	ErrExists = errors.New("exists already")
	// ErrBroken says that what came is not what the authority sent.
	ErrBroken = errors.New("the backup came broken; nothing is kept of it")
)

// Saved is a backup in a file.
type Saved struct {
	Path   string
	Begun  *pb.BackupBegun
	SHA256 [sha256.Size]byte
}

// Save writes a backup to a new file at path, which nobody else may read. The
// file is there only once it is whole and on disk. progress, unless nil, is told
// how many bytes of all have come.
func Save(ctx context.Context, api pb.MaintenanceServiceClient, path string, progress func(done, total uint64)) (_ *Saved, err error) {
	if _, err := os.Lstat(path); err == nil {
		return nil, fmt.Errorf("%s %w", path, ErrExists)
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".part-*") // mode 0600
	if at := (*fs.PathError)(nil); errors.As(err, &at) {
		err = at.Err // without the hidden name
	}
	if err != nil {
		return nil, fmt.Errorf("make a file in %s: %w", filepath.Dir(path), err)
	}
	defer func() {
		_ = f.Close() // it was synced, or is of no use
		_ = os.Remove(f.Name())
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := api.Backup(ctx, &pb.BackupRequest{})
	if err != nil {
		return nil, err
	}
	if progress == nil {
		progress = func(uint64, uint64) {}
	}
	in := &incoming{w: f, sum: sha256.New(), progress: progress}
	for in.ended == nil {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%w: it ends before its end", ErrBroken)
		}
		if err != nil {
			return nil, err
		}
		if err := in.take(m); err != nil {
			return nil, err
		}
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	if err := place(f.Name(), path, syncFolder); err != nil {
		return nil, err
	}
	return &Saved{Path: path, Begun: in.begun, SHA256: [sha256.Size]byte(in.sum.Sum(nil))}, nil
}

// incoming is a backup that is coming.
type incoming struct {
	w        io.Writer
	sum      hash.Hash
	progress func(done, total uint64)
	begun    *pb.BackupBegun
	done     uint64
	ended    *pb.BackupEnded
}

func (in *incoming) take(m *pb.BackupResponse) error {
	switch part := m.GetPart().(type) {
	case *pb.BackupResponse_Begun:
		if in.begun != nil {
			return fmt.Errorf("%w: it begins twice", ErrBroken)
		}
		in.begun = part.Begun
	case *pb.BackupResponse_Chunk:
		if n := uint64(len(part.Chunk)); in.begun == nil || n > in.begun.GetBytes()-in.done {
			return fmt.Errorf("%w: there is more of it than was said", ErrBroken)
		}
		_, _ = in.sum.Write(part.Chunk)
		if _, err := in.w.Write(part.Chunk); err != nil {
			return err
		}
		in.done += uint64(len(part.Chunk))
		in.progress(in.done, in.begun.GetBytes())
	case *pb.BackupResponse_Ended:
		if in.begun == nil || in.done != in.begun.GetBytes() || !bytes.Equal(part.Ended.GetSha256(), in.sum.Sum(nil)) {
			return fmt.Errorf("%w: %d bytes have another sum, or are fewer, than was said", ErrBroken, in.done)
		}
		in.ended = part.Ended
	default:
		return fmt.Errorf("%w: it has a part that this version does not know", ErrBroken)
	}
	return nil
}

// place gives a whole file its name, replacing none, and has the folder synced.
// That a folder can't be is not the file's failure.
func place(tmp, path string, sync func(dir string) error) error {
	err := os.Link(tmp, path)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s %w", path, ErrExists)
	}
	if err != nil { // not every file system has links
		if _, err := os.Lstat(path); err == nil {
			return fmt.Errorf("%s %w", path, ErrExists)
		}
		if err := os.Rename(tmp, path); err != nil {
			return err
		}
	}
	err = sync(filepath.Dir(path))
	for _, cannot := range []error{fs.ErrPermission, syscall.EINVAL, errors.ErrUnsupported} { // not readable; a file system without it
		if errors.Is(err, cannot) {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("%s is whole, but its name may be lost in a power cut: %w", path, err)
	}
	return nil
}

// syncFolder makes names that were changed in a folder last.
func syncFolder(dir string) error {
	if runtime.GOOS == "windows" { // has no sync of folders
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Meter tells how far something has come, and how fast it goes.
type Meter struct {
	Now   func() time.Time
	began time.Time
}

// Text is "1.5 GiB of 3.0 GiB, 210.0 MiB/s".
func (m *Meter) Text(done, total uint64) string {
	now := m.Now()
	if m.began.IsZero() {
		m.began = now
	}
	text := Size(done) + " of " + Size(total)
	if took := now.Sub(m.began); took >= time.Second {
		text += ", " + Size(uint64(float64(done)/took.Seconds())) + "/s"
	}
	return text
}

// Size is n bytes for people.
func Size(n uint64) string {
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n)/(1<<10), 0
	for ; value >= 1<<10 && unit < 4; unit++ {
		value /= 1 << 10
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTP"[unit])
}
