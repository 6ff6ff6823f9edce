package verify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"sync"
	"time"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/token"
)

const (
	maxBatch = 256 // items in one request
	window   = 4   // requests under way at once
)

// queue is the attempts that wait to be sent, oldest first, bounded.
type queue struct {
	mu      sync.Mutex
	waiting []*Attempt
	sent    int           // taken and not answered; they count for the bound
	max     int           //
	stopped bool          // guarded by mu
	wake    chan struct{} // of one: there is something to take
}

func (q *queue) init(limit int) { q.max, q.wake = limit, make(chan struct{}, 1) }

// Redeem asks the authority for a session. Done is called with its answer, or
// with a refusal when there is none in time.
func (c *Client) Redeem(a *Attempt) {
	a.deadline = boottime() + c.cfg.RedeemTimeout
	if err := c.lease.ready(); err != nil {
		a.Done(Outcome{Reason: pb.Reason_REASON_FENCED, RetryAfter: retryAfter})
		return
	}
	if reason := c.queue.put(a); reason != 0 {
		a.Done(Outcome{Reason: reason, RetryAfter: retryAfter})
	}
}

func (q *queue) put(a *Attempt) pb.Reason {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stopped {
		return pb.Reason_REASON_STOPPING
	}
	if len(q.waiting)+q.sent >= q.max {
		return pb.Reason_REASON_OVERLOADED
	}
	q.waiting = append(q.waiting, a)
	q.signal()
	return 0
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take removes up to maxBatch attempts. What waits while a request is under
// way rides in the next one: there is no timer.
func (q *queue) take() []*Attempt {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := min(len(q.waiting), maxBatch)
	batch := slices.Clone(q.waiting[:n])
	q.waiting = slices.Delete(q.waiting, 0, n)
	q.sent += n
	return batch
}

// answered takes attempts out of the count.
func (q *queue) answered(n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.sent -= n
}

// back puts attempts that got no answer at the front: asking again is safe.
func (q *queue) back(batch []*Attempt) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.sent -= len(batch)
	q.waiting = slices.Insert(q.waiting, 0, batch...)
	if len(batch) > 0 {
		q.signal()
	}
}

// expire refuses what has waited past its deadline.
func (q *queue) expire(now time.Duration) {
	q.mu.Lock()
	var late []*Attempt
	q.waiting = slices.DeleteFunc(q.waiting, func(a *Attempt) bool {
		if now < a.deadline {
			return false
		}
		late = append(late, a)
		return true
	})
	q.mu.Unlock()
	for _, a := range late {
		a.Done(Outcome{Reason: pb.Reason_REASON_AUTHORITY_UNAVAILABLE, RetryAfter: retryAfter})
	}
}

// fail answers all that wait and all that come.
func (q *queue) fail(o Outcome) {
	q.mu.Lock()
	q.stopped = true
	waiting := q.waiting
	q.waiting = nil
	q.mu.Unlock()
	for _, a := range waiting {
		a.Done(o)
	}
}

// redeem keeps one Redeem stream busy until it ends. Attempts without an
// answer go back to the queue.
func (c *Client) redeem(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if err := c.lease.waitAttached(ctx); err != nil {
		return err
	}
	stream, err := c.openRedeem(ctx)
	if err != nil {
		return err
	}
	under := make(chan []*Attempt, window) // requests under way, oldest first
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(under)
		for {
			select {
			case <-ctx.Done():
				return
			case <-c.queue.wake:
			}
			for batch := c.queue.take(); len(batch) > 0; batch = c.queue.take() {
				select {
				case under <- batch:
				case <-ctx.Done():
					c.queue.back(batch)
					return
				}
				if err := stream.Send(requestOf(batch)); err != nil {
					cancel(err)
					return
				}
			}
		}
	})
	err = c.answers(ctx, stream, under)
	cancel(err)
	wg.Wait()
	for batch := range under {
		c.queue.back(batch)
	}
	return err
}

func (c *Client) openRedeem(ctx context.Context) (pb.NodeService_RedeemClient, error) {
	stream, err := c.api.Redeem(ctx)
	if err != nil {
		return nil, err
	}
	if err := stream.Send(&pb.RedeemRequest{Hello: &pb.RedeemHello{
		Hello: &pb.Hello{Version: pb.Version}, InstanceId: c.instance[:],
	}}); err != nil {
		_, err = stream.Recv() // the cause
		return nil, err
	}
	if _, err := stream.Recv(); err != nil {
		return nil, err
	}
	return stream, nil
}

// answers takes responses, each of which answers the oldest request under way.
func (c *Client) answers(ctx context.Context, stream pb.NodeService_RedeemClient, under <-chan []*Attempt) error {
	for {
		resp, err := stream.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("authority ended the stream")
			}
			return err
		}
		var batch []*Attempt
		select {
		case batch = <-under:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if len(resp.GetResults()) != len(batch) {
			c.queue.back(batch)
			return fmt.Errorf("authority answered %d items with %d results", len(batch), len(resp.GetResults()))
		}
		c.queue.answered(len(batch))
		for i, r := range resp.GetResults() {
			batch[i].Done(outcomeOf(batch[i], r))
		}
	}
}

func requestOf(batch []*Attempt) *pb.RedeemRequest {
	req := &pb.RedeemRequest{Items: make([]*pb.RedeemItem, len(batch))}
	for i, a := range batch {
		req.Items[i] = &pb.RedeemItem{
			TokenId: a.Token[:], Digest: a.Digest[:], SessionId: a.Session[:], Audience: a.Audience,
			Observed: &pb.Observation{Ip: a.ClientIP.AsSlice(), UserAgent: a.UserAgent, Origin: a.Origin},
		}
	}
	return req
}

func outcomeOf(a *Attempt, r *pb.RedeemResult) Outcome {
	g := r.GetGrant()
	if g == nil {
		reason := r.GetRefusal().GetReason()
		if reason == 0 { // neither: fail closed
			reason = pb.Reason_REASON_INTERNAL
		}
		return Outcome{Reason: reason, RetryAfter: r.GetRefusal().GetRetryAfter().AsDuration()}
	}
	ip, _ := netip.AddrFromSlice(g.GetClientIp())
	return Outcome{Grant: &Grant{
		Identity: Identity{
			Session: a.Session, Token: token.ID(a.Token), Tenant: g.GetTenant(), Subject: g.GetSubject(), Issuer: g.GetIssuer(),
			TokenIP: ip, ClientIP: a.ClientIP, Issued: revisionFrom(g.GetIssuedRevision()),
		},
		Scopes: g.GetScopes(), Attributes: g.GetAttributes(),
		Limits:    Limits{MessageBytes: g.GetLimits().GetMessageBytes(), MessagesPerSecond: g.GetLimits().GetMessagesPerSecond()},
		ExpiresAt: g.GetSessionExpiresAt().AsTime(),
		AsOf:      revisionFrom(g.GetAsOf()),
	}}
}
