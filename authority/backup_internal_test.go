package authority

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"
	"time"

	"google.golang.org/grpc"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
)

// deafStream is a stream whose caller takes one message and no more.
type deafStream struct {
	grpc.ServerStream
	ctx  context.Context
	took bool
}

func (d *deafStream) Context() context.Context { return d.ctx }

func (d *deafStream) Send(*pb.BackupResponse) error {
	if !d.took {
		d.took = true
		return nil
	}
	<-d.ctx.Done()
	return d.ctx.Err()
}

// A caller who takes nothing of a backup is cut off: the store keeps for it what
// it would else write over.
func TestDeafBackup(t *testing.T) {
	ctx, cancel := context.WithCancel(context.WithValue(t.Context(), callKey{}, &call{caller: &caller{Credential: &storage.Credential{Name: "admin"}}}))
	s := &Service{log: slog.New(slog.DiscardHandler), maintains: make(chan struct{}, 1)}
	s.backup = func(_ context.Context, w io.Writer, begun func(storage.Backup)) error {
		begun(storage.Backup{Bytes: 1 << 30})
		_, err := w.Write(make([]byte, 1<<20))
		return err
	}
	if err := s.sendBackup(&deafStream{ctx: ctx}, 10*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want DeadlineExceeded", err)
	}
	cancel() // as grpc does once the handler has returned
	s.streams.Wait()
	select {
	case s.maintains <- struct{}{}:
	default:
		t.Error("the next backup would wait for ever")
	}
}
