package authority_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
)

// compactAll reads all that Compact says.
func (f *fixture) compactAll(ctx context.Context) (last *pb.CompactProgress, ended *pb.CompactEnded, err error) {
	stream, err := pb.NewMaintenanceServiceClient(f.conn("admin")).Compact(ctx, &pb.CompactRequest{})
	f.ok(err)
	for {
		m, err := stream.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return last, ended, err
		}
		if p := m.GetProgress(); p != nil {
			last = p
		}
		if e := m.GetEnded(); e != nil {
			ended = e
		}
	}
}

func TestCompact(t *testing.T) {
	f := newFixture(t, func(f *fixture) {
		f.compact = func(_ context.Context, progress func(written, atMost int64)) (storage.Compacted, error) {
			progress(1, 10)
			progress(7, 10)
			time.Sleep(600 * time.Millisecond) // so that it is told
			return storage.Compacted{Before: 10, After: 8}, nil
		}
	})
	last, ended, err := f.compactAll(f.ctx)
	f.ok(err)
	if last.GetWritten() != 7 || last.GetAtMost() != 10 || ended.GetBefore() != 10 || ended.GetAfter() != 8 {
		t.Errorf("progress %v, ended %v", last, ended)
	}
	f.eventually("the stream's line", func() bool { return strings.Contains(f.audit.String(), `"action":"CompactStream"`) })
	f.equal("audit line", f.lastLine("CompactStream"), "after=8 before=10 caller=admin outcome=ok")
}

func TestCompactFails(t *testing.T) {
	for _, row := range []struct {
		name    string
		compact func(context.Context, func(int64, int64)) (storage.Compacted, error)
		want    codes.Code
	}{
		{"a store without a file", nil, codes.Unimplemented},
		{"a system that can't", func(context.Context, func(int64, int64)) (storage.Compacted, error) {
			return storage.Compacted{}, errors.ErrUnsupported
		}, codes.Unimplemented},
		{"a disk without room", func(context.Context, func(int64, int64)) (storage.Compacted, error) {
			return storage.Compacted{}, storage.ErrFull
		}, codes.Unavailable},
		{"a folder in use", func(context.Context, func(int64, int64)) (storage.Compacted, error) {
			return storage.Compacted{}, storage.ErrInUse
		}, codes.Unavailable},
		{"a panic", func(context.Context, func(int64, int64)) (storage.Compacted, error) { panic("oh") }, codes.Internal},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := newFixture(t, func(f *fixture) { f.compact = row.compact })
			_, ended, err := f.compactAll(f.ctx)
			f.code(err, row.want)
			if ended != nil {
				t.Error("it was said to have ended")
			}
		})
	}
}

// The store is told that the caller has gone, and no other begins before it has
// given up.
func TestCompactWithoutItsCaller(t *testing.T) {
	began, gone, goOn := make(chan struct{}), make(chan struct{}), make(chan struct{})
	first := true
	f := newFixture(t, func(f *fixture) {
		f.compact = func(ctx context.Context, _ func(int64, int64)) (storage.Compacted, error) {
			if !first {
				return storage.Compacted{Before: 2, After: 1}, nil
			}
			first = false
			close(began)
			<-ctx.Done()
			close(gone)
			<-goOn
			return storage.Compacted{}, ctx.Err()
		}
	})
	ctx, cancel := context.WithCancel(f.ctx)
	done := make(chan error, 1)
	go func() {
		_, _, err := f.compactAll(ctx)
		done <- err
	}()
	<-began
	cancel()
	f.code(<-done, codes.Canceled)
	<-gone
	go func() {
		_, ended, err := f.compactAll(f.ctx)
		if ended.GetAfter() != 1 {
			err = errors.Join(err, errors.New("the second did not end"))
		}
		done <- err
	}()
	select {
	case err := <-done:
		t.Errorf("the second ended beside the first: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(goOn)
	f.ok(<-done)
}
