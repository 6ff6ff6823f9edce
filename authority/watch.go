package authority

import (
	"context"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
)

// watchPace is how long rows are gathered for a watcher, so that nodes which
// acknowledge one right after the other share a message. The last never waits.
const watchPace = 10 * time.Millisecond

// watcher is told which rows of a receipt change. What that costs does not
// depend on how many there are.
type watcher struct {
	news chan struct{} // of one: changed is not empty
	over chan struct{} // closed when the receipt is complete, or no longer kept

	changed map[storage.InstanceID]struct{} // since it asked last; guarded by receipts.mu
}

// tell tells watchers of a row; mu is held.
func (rc *receipt) tell(id storage.InstanceID) {
	for _, w := range rc.watchers {
		w.changed[id] = struct{}{}
		select {
		case w.news <- struct{}{}:
		default:
		}
	}
	if rc.waiting == 0 {
		rc.dismiss()
	}
}

// dismiss ends all watching; mu is held.
func (rc *receipt) dismiss() {
	for _, w := range rc.watchers {
		close(w.over)
	}
	rc.watchers = nil
}

// watch begins to watch a receipt: it is returned as it is now, and nil where it
// is not kept. End with unwatch.
func (r *receipts) watch(e *storage.Entry) (*pb.Receipt, *watcher) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at, ok := r.find(e.Revision.Sequence)
	if !ok {
		return nil, nil
	}
	rc := r.kept[at]
	w := &watcher{news: make(chan struct{}, 1), over: make(chan struct{}), changed: map[storage.InstanceID]struct{}{}}
	if rc.waiting > 0 {
		rc.watchers = append(rc.watchers, w)
	}
	return r.message(e, rc.rows), w
}

func (r *receipts) unwatch(e *storage.Entry, w *watcher) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at, ok := r.find(e.Revision.Sequence); ok {
		rc := r.kept[at]
		rc.watchers = slices.DeleteFunc(rc.watchers, func(o *watcher) bool { return o == w })
	}
}

// latest is the rows that have changed since w asked last; nil of a receipt that
// is no longer kept.
func (r *receipts) latest(e *storage.Entry, w *watcher) *pb.Receipt {
	r.mu.Lock()
	defer r.mu.Unlock()
	at, ok := r.find(e.Revision.Sequence)
	if !ok {
		return nil
	}
	rc := r.kept[at]
	rows := make(map[storage.InstanceID]*receiptRow, len(w.changed))
	for id := range w.changed {
		rows[id] = rc.rows[id]
	}
	clear(w.changed)
	out := r.message(e, rows)
	out.Complete = rc.waiting == 0
	return out
}

// WatchReceipt implements RevocationService.
func (s *Service) WatchReceipt(req *pb.WatchReceiptRequest, stream pb.RevocationService_WatchReceiptServer) error {
	ctx := stream.Context()
	e, err := s.entry(ctx, req.GetRevision())
	if err != nil {
		return err
	}
	t := &telling{stream: stream, told: map[string]*pb.ReceiptRow{}}
	for {
		if rc, w := s.receipts.watch(&e); w != nil {
			err := s.tellKept(ctx, &e, rc, w, t)
			s.receipts.unwatch(&e, w)
			if err != nil || t.complete {
				return err
			}
		}
		rc, changed, err := s.receipt(ctx, &e)
		if err == nil {
			err = t.tell(rc)
		}
		if err != nil || t.complete {
			return err
		}
		told := time.Now()
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		// Any node's progress is a change, of which the store has to be asked.
		if err := gather(ctx, nil, watchPace-time.Since(told)); err != nil {
			return err
		}
	}
}

// tellKept tells of a receipt until it is complete or no longer kept.
func (s *Service) tellKept(ctx context.Context, e *storage.Entry, rc *pb.Receipt, w *watcher, t *telling) error {
	for rc != nil {
		if err := t.tell(rc); err != nil || t.complete {
			return err
		}
		told := time.Now()
		select {
		case <-w.news:
		case <-w.over:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := gather(ctx, w.over, watchPace-time.Since(told)); err != nil {
			return err
		}
		rc = s.receipts.latest(e, w)
	}
	return nil
}

// gather waits for a time, or until nothing more is to come.
func gather(ctx context.Context, over <-chan struct{}, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	enough := time.NewTimer(d)
	defer enough.Stop()
	select {
	case <-enough.C:
	case <-over:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// telling is a WatchReceipt stream, and what it has told.
type telling struct {
	stream   pb.RevocationService_WatchReceiptServer
	told     map[string]*pb.ReceiptRow // by instance id
	begun    bool
	complete bool
}

// tell sends what of a receipt was not told yet.
func (t *telling) tell(rc *pb.Receipt) error {
	rc.Rows = slices.DeleteFunc(rc.Rows, func(row *pb.ReceiptRow) bool {
		same := proto.Equal(t.told[row.GetInstanceId()], row)
		t.told[row.GetInstanceId()] = row
		return same
	})
	t.complete = rc.GetComplete()
	if t.begun && len(rc.GetRows()) == 0 && !t.complete {
		return nil
	}
	t.begun = true
	return t.stream.Send(&pb.WatchReceiptResponse{Receipt: rc})
}
