package authority

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
)

const (
	// backupChunk is how many bytes of a backup go into one message.
	backupChunk = 256 << 10
	// backupStall is how long a caller may take nothing of a backup, for which the
	// store keeps what it would else write over.
	backupStall = 30 * time.Second
)

// Backup implements MaintenanceService.
func (s *Service) Backup(_ *pb.BackupRequest, stream pb.MaintenanceService_BackupServer) error {
	return s.sendBackup(stream, backupStall)
}

func (s *Service) sendBackup(stream pb.MaintenanceService_BackupServer, stall time.Duration) error {
	if s.backup == nil {
		return status.Error(codes.Unimplemented, "the store of this authority can't be backed up")
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	select {
	case s.maintains <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	out := &backupStream{stream: stream, sum: sha256.New(), sent: make(chan struct{}, 1)}
	done := make(chan error, 1)
	s.streams.Go(func() { // ends when the stream does: Send fails then
		defer func() { <-s.maintains }()
		var err error
		defer func() { done <- err }()
		defer s.recoverPanic(ctx, pb.MaintenanceService_Backup_FullMethodName, &err)
		err = s.backUp(ctx, out)
	})
	var stalled <-chan time.Time // nil while the store looks at its pages
	for {
		select {
		case err := <-done:
			return err
		case <-out.sent:
			stalled = time.After(stall)
		case <-stalled:
			err := fmt.Errorf("the caller took nothing of the backup for %v (%w)", stall, context.DeadlineExceeded)
			cancel(err)
			return err
		}
	}
}

// backUp has the store write a backup to a stream.
func (s *Service) backUp(ctx context.Context, out *backupStream) error {
	w := bufio.NewWriterSize(out, backupChunk)
	var beginErr error
	err := s.backup(ctx, w, func(b storage.Backup) {
		note(ctx, append(revisionAttrs(b.Head), slog.Int64("bytes", b.Bytes))...)
		s.log.Info("backup begun", "bytes", b.Bytes, "caller", callerFrom(ctx).Name)
		beginErr = out.send(&pb.BackupResponse{Part: &pb.BackupResponse_Begun{Begun: &pb.BackupBegun{
			SystemId: b.System.String(), Head: revisionOf(b.Head), TakenAt: timestamppb.New(b.TakenAt), Bytes: uint64(b.Bytes),
		}}})
	})
	if err == nil {
		err = beginErr
	}
	if err == nil {
		err = w.Flush()
	}
	if err != nil {
		return err
	}
	return out.send(&pb.BackupResponse{Part: &pb.BackupResponse_Ended{Ended: &pb.BackupEnded{Sha256: out.sum.Sum(nil)}}})
}

// backupStream sends what is written to it.
type backupStream struct {
	stream pb.MaintenanceService_BackupServer
	sum    hash.Hash
	sent   chan struct{} // of one: something was
}

var _ io.Writer = (*backupStream)(nil)

func (b *backupStream) Write(p []byte) (int, error) {
	_, _ = b.sum.Write(p)
	chunk := bytes.Clone(p) // grpc may look at a message after Send has returned
	if err := b.send(&pb.BackupResponse{Part: &pb.BackupResponse_Chunk{Chunk: chunk}}); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (b *backupStream) send(m *pb.BackupResponse) error {
	err := b.stream.Send(m)
	select {
	case b.sent <- struct{}{}:
	default:
	}
	return err
}
