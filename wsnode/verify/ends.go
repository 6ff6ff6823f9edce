package verify

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

const (
	maxReport = 1024    // sessions in one report
	maxEnds   = 100_000 // ended sessions that wait; beyond, the oldest is left to end by its time
)

// ends is the sessions that have ended and are not reported yet.
type ends struct {
	mu      sync.Mutex
	waiting []*pb.SessionEnd
	busy    bool
	wake    chan struct{} // of one
	idle    chan struct{} // closed, and replaced, when nothing waits
}

func (e *ends) init() { e.wake, e.idle = make(chan struct{}, 1), make(chan struct{}) }

// Ended tells the authority that a session is over. It does not block.
func (c *Client) Ended(session [16]byte, reason pb.Reason, at time.Time) {
	e := &c.ends
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.waiting) >= maxEnds {
		e.waiting = e.waiting[1:]
	}
	e.waiting = append(e.waiting, &pb.SessionEnd{SessionId: session[:], Reason: reason, EndedAt: timestamppb.New(at)})
	signal(e.wake)
}

func (e *ends) take() []*pb.SessionEnd {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := min(len(e.waiting), maxReport)
	batch := e.waiting[:n:n]
	e.waiting = e.waiting[n:]
	e.busy = n > 0
	if n == 0 {
		close(e.idle)
		e.idle = make(chan struct{})
	}
	return batch
}

func (e *ends) back(batch []*pb.SessionEnd) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.waiting = append(batch, e.waiting...)
	e.busy = false
	signal(e.wake)
}

// flushed waits until nothing waits to be reported.
func (e *ends) flushed(ctx context.Context) error {
	for {
		e.mu.Lock()
		done, idle := len(e.waiting) == 0 && !e.busy, e.idle
		e.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-idle:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// report sends what has ended until a call fails.
func (c *Client) report(ctx context.Context) error {
	if err := c.lease.waitAttached(ctx); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.ends.wake:
		}
		for batch := c.ends.take(); len(batch) > 0; batch = c.ends.take() {
			call, cancel := context.WithTimeout(ctx, c.cfg.RedeemTimeout)
			_, err := c.api.ReportSessions(call, &pb.ReportSessionsRequest{InstanceId: c.instance[:], Ended: batch})
			cancel()
			if status.Code(err) == codes.InvalidArgument {
				// It would be refused each time, and nothing after it be heard of.
				c.log.Error("authority does not take a report: these sessions end there by their time", "sessions", len(batch), "error", err)
				continue
			}
			if err != nil {
				c.ends.back(batch)
				return err
			}
		}
	}
}
