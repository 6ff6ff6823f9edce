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

	droppedEvery = time.Minute // between two lines of the log about that

	// unhurried is how long the ends that an entry of the log has caused may wait
	// to be reported. An entry can hit sockets on every node at once: first the
	// authority hears that it is enforced, and then in few calls which sessions
	// that were.
	unhurried = 250 * time.Millisecond

	// between is the time from the beginning of one report to that of the next:
	// sessions that end one after the other share a report, and one that ends alone is
	// reported at once.
	between = 5 * time.Millisecond
)

// ends is the sessions that have ended and are not reported yet.
type ends struct {
	mu      sync.Mutex
	waiting []*pb.SessionEnd
	busy    bool
	dropped int           // beyond maxEnds, so far
	told    time.Duration // when the log last told of that, by the client's clock
	wake    chan struct{} // of one
	timed   bool          // wake is to be filled when unhurried is over
	idle    chan struct{} // closed, and replaced, when nothing waits
}

func (e *ends) init() { e.wake, e.idle = make(chan struct{}, 1), make(chan struct{}) }

// Ended tells the authority that a session is over. It does not block.
func (c *Client) Ended(session [16]byte, reason pb.Reason, at time.Time) {
	if dropped := c.ends.put(&pb.SessionEnd{SessionId: session[:], Reason: reason, EndedAt: timestamppb.New(at)}, c.clock); dropped > 0 {
		c.log.Error("too many ended sessions wait for the authority: the oldest end there by their time", "waiting", maxEnds, "dropped_so_far", dropped)
	}
}

// put queues an end. It returns how many were dropped so far, if that is to be
// logged now.
func (e *ends) put(end *pb.SessionEnd, clock func() time.Duration) (dropped int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.waiting) >= maxEnds {
		e.waiting = e.waiting[1:]
		e.dropped++
		if now := clock(); e.dropped == 1 || now-e.told >= droppedEvery {
			e.told = now
			dropped = e.dropped
		}
	}
	e.waiting = append(e.waiting, end)
	switch end.GetReason() {
	case pb.Reason_REASON_TOKEN_REVOKED, pb.Reason_REASON_LOCKED:
		if !e.timed {
			e.timed = true
			time.AfterFunc(unhurried, e.hurry)
		}
	default:
		signal(e.wake)
	}
	return dropped
}

// hurry has all that waits reported now.
func (e *ends) hurry() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.timed = false
	if len(e.waiting) > 0 {
		signal(e.wake)
	}
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
	e.hurry()
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
			next := time.After(between)
			call, cancel := context.WithTimeout(ctx, c.cfg.RedeemTimeout)
			_, err := c.api.ReportSessions(call, &pb.ReportSessionsRequest{InstanceId: c.instance[:], Ended: batch})
			cancel()
			if c.unwanted(err) {
				// It would be refused each time, and nothing after it be heard of.
				c.log.Error("authority does not take a report: these sessions end there by their time", "sessions", len(batch), "error", err)
			} else if err != nil {
				c.ends.back(batch)
				return err
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-next:
			}
		}
	}
}

// unwanted reports whether a report was refused for what is in it, as for the
// session of another node. While there is a lease, what is not permitted is the
// report; without one it may be the node itself, whose credential is disabled.
func (c *Client) unwanted(err error) bool {
	switch status.Code(err) {
	case codes.InvalidArgument:
		return true
	case codes.PermissionDenied:
		return c.lease.ready() == nil
	}
	return false
}
