package authority_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
)

// backupOf is a store's Backup that gives text, a thousand bytes at a time.
func backupOf(text []byte) func(context.Context, io.Writer, func(storage.Backup)) error {
	return func(_ context.Context, w io.Writer, begun func(storage.Backup)) error {
		begun(storage.Backup{System: storage.SystemID{0xab}, Head: storage.Revision{Epoch: 7, Sequence: 3}, TakenAt: start, Bytes: int64(len(text))})
		for rest := text; len(rest) > 0; {
			n := min(1000, len(rest))
			if _, err := w.Write(rest[:n]); err != nil {
				return err
			}
			rest = rest[n:]
		}
		return nil
	}
}

// backUp collects a backup as admin.
func (f *fixture) backUp() (begun *pb.BackupBegun, got []byte, ended *pb.BackupEnded, err error) {
	f.Helper()
	stream, err := pb.NewMaintenanceServiceClient(f.conn("admin")).Backup(f.ctx, &pb.BackupRequest{})
	f.ok(err)
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return begun, got, ended, nil
		}
		if err != nil {
			return begun, got, ended, err
		}
		if m.GetBegun() != nil {
			begun = m.GetBegun()
		}
		if n := len(m.GetChunk()); n > 256<<10 {
			f.Errorf("a chunk has %d bytes", n)
		}
		got = append(got, m.GetChunk()...)
		ended = m.GetEnded()
	}
}

func TestBackup(t *testing.T) {
	text := bytes.Repeat([]byte("0123456789abcdef"), 100_000)
	f := newFixture(t, func(f *fixture) { f.backup = backupOf(text) })
	begun, got, ended, err := f.backUp()
	f.ok(err)
	sum := sha256.Sum256(text)
	if !bytes.Equal(got, text) || !bytes.Equal(ended.GetSha256(), sum[:]) {
		t.Errorf("%d bytes came of %d, with the sum %x", len(got), len(text), ended.GetSha256())
	}
	f.equal("begun", fmt.Sprint(begun.GetSystemId(), " ", begun.GetHead().GetEpoch(), ".", begun.GetHead().GetSequence(), " ", begun.GetBytes(), " ", begun.GetTakenAt().AsTime().Equal(start)),
		"ab000000000000000000000000000000 7.3 1600000 true")
	f.eventually("the stream's line", func() bool { return strings.Contains(f.audit.String(), `"action":"BackupStream"`) })
	f.equal("audit line", f.lastLine("BackupStream"), "bytes=1.6e+06 caller=admin epoch=7 outcome=ok revision=3")
}

func TestBackupFails(t *testing.T) {
	for _, c := range []struct {
		rule   string
		backup func(context.Context, io.Writer, func(storage.Backup)) error
		want   string
	}{
		{"no store that can be backed up", nil, "Unimplemented invalid_request: the store of this authority can't be backed up"},
		{"a store that has to go on", func(ctx context.Context, w io.Writer, begun func(storage.Backup)) error {
			return errors.Join(backupOf(make([]byte, 1<<20))(ctx, w, begun), storage.ErrBackupCut)
		}, "Unavailable store_unavailable: backup ended by the store"},
		{"a damaged store", func(context.Context, io.Writer, func(storage.Backup)) error { return storage.ErrCorrupt }, "Internal internal: internal error"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			f := newFixture(t, func(f *fixture) { f.backup = c.backup })
			_, _, ended, err := f.backUp()
			f.fails(err, c.want)
			if ended != nil {
				t.Error("it was said to be whole")
			}
		})
	}
}

// One backup is made at a time: another waits, or gives up.
func TestBackupsOneByOne(t *testing.T) {
	var under atomic.Int32
	running, goOn := make(chan struct{}, 3), make(chan struct{})
	f := newFixture(t, func(f *fixture) {
		f.backup = func(ctx context.Context, w io.Writer, begun func(storage.Backup)) error {
			if under.Add(1) > 1 {
				t.Error("two are under way")
			}
			defer under.Add(-1)
			running <- struct{}{}
			<-goOn
			return backupOf([]byte("x"))(ctx, w, begun)
		}
	})
	done := make(chan error, 2)
	backUp := func() { _, _, _, err := f.backUp(); done <- err }
	go backUp()
	<-running
	ctx, cancel := context.WithCancel(f.ctx)
	stream, err := pb.NewMaintenanceServiceClient(f.conn("admin")).Backup(ctx, &pb.BackupRequest{})
	f.ok(err)
	go backUp()
	cancel()
	_, err = stream.Recv()
	f.code(err, codes.Canceled)
	if len(running) > 0 {
		t.Error("another has begun")
	}
	close(goOn)
	f.ok(<-done)
	f.ok(<-done)
}
