package verify

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/token"
)

const (
	// window is how many requests may be under way at once.
	window = 4
	// maxAsks is how often a grant that turned out too old is asked for.
	maxAsks = 3
)

// errStalled says that requests were left without an answer for so long that
// nobody waits for one.
var errStalled = errors.New("authority does not answer what it is asked")

// Redeem asks the authority for a session. Done is called with its answer, or
// with a refusal when there is none in time.
//
// An Attempt whose grant's Standing is Unknown may be given to Redeem again,
// instead of being told to Ended: it is asked again, with the same session id
// and within the same time, a few times at most.
func (c *Client) Redeem(a *Attempt) {
	now := c.clock()
	if a.asks == 0 {
		a.deadline = now + c.cfg.RedeemTimeout
	}
	a.asks++
	if a.asks > maxAsks || c.lease.readyAt(now) != nil {
		c.refuse(a, pb.Reason_REASON_FENCED)
		return
	}
	if reason := c.queue.put(a); reason != 0 {
		c.refuse(a, reason)
	}
}

// refuse finishes an attempt to which no answer will come. If the authority was
// asked, it may have granted a session that nobody will use.
func (c *Client) refuse(a *Attempt, reason pb.Reason) {
	if a.asked > 0 {
		c.Ended(a.Session, reason, time.Now())
	}
	a.Done(Outcome{Reason: reason, RetryAfter: c.RetryAfter()})
}

// answer finishes an attempt with what the authority said. Where there may be
// a session that nobody will use, that is ended.
func (c *Client) answer(a *Attempt, r *pb.RedeemResult) {
	granted := r.GetGrant() != nil || a.asked > 1 // now, or in an answer that was lost or too old
	if a.refused {
		if granted {
			c.Ended(a.Session, pb.Reason_REASON_AUTHORITY_UNAVAILABLE, time.Now())
		}
		return
	}
	o := outcomeOf(a, r)
	if o.Grant == nil && granted {
		c.Ended(a.Session, o.Reason, time.Now())
	}
	a.Done(o)
}

// expire refuses what has waited too long, sent or not.
func (c *Client) expire() {
	waited, flying := c.queue.expire(c.clock())
	for _, a := range waited {
		c.refuse(a, pb.Reason_REASON_AUTHORITY_UNAVAILABLE)
	}
	for _, a := range flying { // whether there is a session to end is not known yet
		a.Done(Outcome{Reason: pb.Reason_REASON_AUTHORITY_UNAVAILABLE, RetryAfter: c.RetryAfter()})
	}
}

// stop refuses all that waits and all that comes.
func (c *Client) stop() {
	for _, a := range c.queue.stop() {
		c.refuse(a, pb.Reason_REASON_STOPPING)
	}
}

// ground ends what was under way on a stream that is gone.
func (c *Client) ground() {
	over := c.queue.ground()
	for _, a := range over {
		if a.refused {
			c.Ended(a.Session, pb.Reason_REASON_AUTHORITY_UNAVAILABLE, time.Now())
		} else {
			c.refuse(a, pb.Reason_REASON_STOPPING)
		}
	}
	c.queue.finish(len(over))
}

// redeem keeps one Redeem stream busy until it ends.
func (c *Client) redeem(ctx context.Context) error {
	if err := c.lease.waitAttached(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream, err := c.openRedeem(ctx, cancel)
	if err != nil {
		return err
	}
	room := make(chan struct{}, window) // a place for each request under way
	var wg sync.WaitGroup
	wg.Go(func() { c.ask(ctx, stream, room) })
	wg.Go(func() { c.guard(ctx, cancel) })
	err = c.answers(ctx, stream, room)
	cancel(err)
	wg.Wait()
	c.ground()
	return err
}

// openRedeem begins a stream. While the authority does not answer its hello
// nothing is taken from the queue, whose own deadlines rule.
func (c *Client) openRedeem(ctx context.Context, cut context.CancelCauseFunc) (pb.NodeService_RedeemClient, error) {
	defer time.AfterFunc(helloTimeout, func() { cut(errSilent) }).Stop()
	stream, err := c.api.Redeem(ctx)
	if err != nil {
		return nil, err
	}
	sendErr := stream.Send(&pb.RedeemRequest{Hello: &pb.RedeemHello{
		Hello: &pb.Hello{Version: pb.Version}, InstanceId: c.instance[:],
	}})
	resp, err := stream.Recv()
	if err != nil { // the cause of sendErr too
		return nil, causeOf(ctx, err)
	}
	if sendErr != nil {
		return nil, sendErr
	}
	return stream, pb.CheckVersion(resp.GetHello().GetVersion())
}

// ask sends what waits until the stream ends. Of its errors answers hears too.
func (c *Client) ask(ctx context.Context, stream pb.NodeService_RedeemClient, room chan struct{}) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.queue.wake:
		}
		select {
		case <-ctx.Done():
			signal(c.queue.wake) // for the next stream
			return
		case room <- struct{}{}:
		}
		batch := c.queue.take(c.clock())
		if batch == nil {
			<-room
			continue
		}
		if stream.Send(requestOf(batch)) != nil {
			return
		}
	}
}

// guard cuts the stream off when a request has no answer after so long that
// all its attempts have expired, and late answers had their time too.
func (c *Client) guard(ctx context.Context, cut context.CancelCauseFunc) {
	tick := time.NewTicker(c.cfg.RedeemTimeout / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if c.queue.stalled(c.clock() - 2*c.cfg.RedeemTimeout) {
			cut(errStalled)
			return
		}
	}
}

// answers takes responses, each of which answers the oldest request under way.
func (c *Client) answers(ctx context.Context, stream pb.NodeService_RedeemClient, room <-chan struct{}) error {
	for {
		resp, err := stream.Recv()
		if err != nil {
			return causeOf(ctx, err)
		}
		batch, err := c.queue.land(len(resp.GetResults()))
		if err != nil {
			return err
		}
		<-room
		for i, r := range resp.GetResults() {
			c.answer(batch[i], r)
		}
		c.queue.finish(len(batch))
	}
}

// requestOf has the items of a request in one piece of memory. Each by itself would
// be as large as what lives on of a socket, and leave holes beside it.
func requestOf(batch []*Attempt) *pb.RedeemRequest {
	items := make([]struct {
		pb.RedeemItem
		observed pb.Observation
		ip       [16]byte
	}, len(batch))
	req := &pb.RedeemRequest{Items: make([]*pb.RedeemItem, len(batch))}
	for i, a := range batch {
		item := &items[i]
		req.Items[i] = &item.RedeemItem
		item.TokenId, item.Digest, item.SessionId = a.Token[:], a.Digest[:], a.Session[:]
		item.Audience, item.SingleUseOnly, item.Observed = a.Audience, a.SingleUseOnly, &item.observed
		item.observed.Ip, _ = a.ClientIP.WithZone("").AppendBinary(item.ip[:0]) // it never fails
		item.observed.UserAgent, item.observed.Origin, item.observed.ClientCertificateSha256 = a.UserAgent, a.Origin, a.Certificate
		if a.Span != [24]byte{} {
			item.Span = a.Span[:]
		}
		if a.Renews != [16]byte{} {
			item.RenewsSessionId = a.Renews[:]
		}
	}
	return req
}

func outcomeOf(a *Attempt, r *pb.RedeemResult) Outcome {
	g := r.GetGrant()
	switch {
	case g == nil && r.GetRefusal().GetReason() != 0:
		return Outcome{Reason: r.GetRefusal().GetReason(), RetryAfter: min(max(r.GetRefusal().GetRetryAfter().AsDuration(), 0), maxRetry)}
	case g.GetSubject() == "", g.GetTenant() == "", g.GetIssuer() == "", g.GetIssuedRevision() == nil, g.GetAsOf() == nil, g.GetSessionExpiresAt() == nil:
		return Outcome{Reason: pb.Reason_REASON_INTERNAL} // neither, or a session that no revocation could find
	}
	ip, _ := netip.AddrFromSlice(g.GetClientIp()) // a token without address has none
	a.grant = Grant{
		Identity: Identity{
			Session: a.Session, Token: token.ID(a.Token), Tenant: g.GetTenant(), Subject: g.GetSubject(), Issuer: g.GetIssuer(),
			TokenIP: ip.Unmap(), ClientIP: a.ClientIP, Issued: revisionFrom(g.GetIssuedRevision()),
		},
		Scopes: g.GetScopes(), Attributes: g.GetAttributes(),
		Limits:    Limits{MessageBytes: g.GetLimits().GetMessageBytes(), MessagesPerSecond: g.GetLimits().GetMessagesPerSecond()},
		ExpiresAt: g.GetSessionExpiresAt().AsTime(),
		AsOf:      revisionFrom(g.GetAsOf()),
	}
	return Outcome{Grant: &a.grant}
}
