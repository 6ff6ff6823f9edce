// Package verify is all that a node knows of its authority: it redeems tokens,
// follows the log of revocations, and keeps the lease without which nobody is
// admitted. What happens when the authority can't be reached is decided here
// and nowhere else.
package verify

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/token"
)

// Config says where the authority is and how much may wait for it.
type Config struct {
	Address       string        `yaml:"address" help:"host:port of the authority's gRPC listener"`
	RedeemTimeout time.Duration `yaml:"redeem_timeout" help:"how long a handshake waits for the authority before it is refused with 503"`
	MaxPending    int           `yaml:"max_pending" help:"handshakes that may wait for the authority at once; more are refused with 503"`

	// Trust, unless nil, is told by which CAs the authority is to be known, in PEM,
	// each time it says so. It must not block.
	Trust func(caPEM string) `yaml:"-"`
}

// DefaultConfig has no address.
func DefaultConfig() Config {
	return Config{RedeemTimeout: 5 * time.Second, MaxPending: 10_000}
}

// Validate tells all that is wrong.
func (c *Config) Validate() error {
	var problems []error
	if c.Address == "" {
		problems = append(problems, errors.New("authority.address: required, host:port of the authority, such as authority.internal:8440"))
	}
	if c.RedeemTimeout < 10*time.Millisecond || c.RedeemTimeout > time.Minute {
		problems = append(problems, fmt.Errorf("authority.redeem_timeout: %v is outside 10ms to 1m", c.RedeemTimeout))
	}
	if c.MaxPending < 1 || c.MaxPending > 1_000_000 {
		problems = append(problems, fmt.Errorf("authority.max_pending: %d is outside 1 to 1000000", c.MaxPending))
	}
	return errors.Join(problems...)
}

// Enforcer ends sessions; the node is one.
type Enforcer interface {
	// Enforce ends every session that one of the entries hits, and returns once
	// they are dead. The counts answer the entries in their order; a session that
	// several hit counts for the first.
	Enforce(entries []Entry) []Count
	// Warn tells every session that e hits to renew until e.GraceUntil. Each call
	// of left reports whether one of them lives on that e still hits.
	Warn(e *Entry) (left func() bool)
	// Fence ends every session: the lease that let them live has run out.
	Fence()
	// Thin draws an order for the sessions that live now, at random. Each call of
	// part ends so many of them that this share, from 0 to 1, has ended since.
	Thin() (part func(share float64))
	// Sessions counts the live sessions.
	Sessions() int
}

// Count is what one entry ended on this node.
type Count struct {
	Closed    int // sockets
	Lingering int // of those, sockets whose close frame is not queued yet
}

// Attempt is one handshake to redeem, or one renewal.
type Attempt struct {
	Token     token.ID
	Digest    token.Digest
	Session   [16]byte
	ClientIP  netip.Addr
	UserAgent []byte // not to be changed any more
	Origin    []byte // not to be changed any more
	// Certificate is the SHA-256 of the one that the client has shown, or empty. It
	// is not to be changed any more.
	Certificate []byte
	// Span is that which waits for the answer, as RedeemItem has it; zero for none.
	Span     [24]byte
	Audience string
	// SingleUseOnly has a token refused that may open more than one session.
	SingleUseOnly bool
	// Renews is the session whose place this one is to take; zero for none.
	Renews [16]byte
	// Done is called once for each Redeem, from another goroutine or from Redeem
	// itself, and must not block. With a Grant there is a session, which must
	// either live or be told to Ended; without one the Client has seen to that.
	Done func(Outcome)

	grant    Grant         // that Done is told of
	asks     int           // calls of Redeem
	deadline time.Duration // of the client's clock

	// Guarded by the queue, or owned by whoever took the attempt out of it.
	asked   int  // requests that it was in
	refused bool // Done was called though its answer may come yet
}

// Outcome is the authority's answer, or why there is none.
type Outcome struct {
	Grant      *Grant // nil when refused; it is part of the Attempt
	Reason     pb.Reason
	RetryAfter time.Duration
}

// Grant is the authority's yes.
type Grant struct {
	Identity   Identity
	Scopes     []string
	Attributes map[string]string
	Limits     Limits
	ExpiresAt  time.Time // of the session, by the authority's clock
	// AsOf is the log's head when the authority decided.
	AsOf Revision
}

// Limits are the token's own; zero is none.
type Limits struct{ MessageBytes, MessagesPerSecond uint32 }

// Standing is whether a grant still holds.
type Standing uint8

const (
	// Holds says that no entry above the grant's AsOf ends it.
	Holds Standing = iota
	// Revoked says that a revocation does.
	Revoked
	// Locked says that a lock does.
	Locked
	// Replaced says that newer sessions of its subject have taken its place.
	Replaced
	// Unknown says that entries above AsOf are no longer kept: redeem again.
	Unknown
)

// Client is a node's side of its authority. Make it with New and keep Run
// running. Its methods are safe for concurrent use.
type Client struct {
	cfg      Config
	instance [16]byte
	dead     [][16]byte
	enforcer Enforcer
	log      *slog.Logger
	clock    func() time.Duration
	api      pb.NodeServiceClient
	conn     *grpc.ClientConn // nil where api is not ours to close

	ring   atomic.Pointer[token.Ring]
	told   atomic.Pointer[reading]
	retry  atomic.Int64 // for RetryAfter, as the authority wants it; 0 where it did not say
	lease  lease
	recent recent
	queue  queue
	counts counts
	graces graces
	ends   ends

	reached event // the authority, after connections had failed

	goodbye chan struct{} // closed by Goodbye
	left    chan struct{} // closed when the authority has taken it
	bye     sync.Once
}

// What the authority may send before it is read, on a stream and on the
// connection: enough for a snapshot from far away. The windows are fixed: to find
// its own, grpc has every message that comes alone answered by a ping.
const (
	streamWindow = 4 << 20
	connWindow   = 8 << 20
)

// New makes a client of the authority at cfg.Address, spoken to with creds. dead
// are earlier instances that are known to have ended.
func New(cfg Config, creds credentials.TransportCredentials, dead [][16]byte, enforcer Enforcer, log *slog.Logger) (*Client, error) {
	conn, err := grpc.NewClient(cfg.Address,
		grpc.WithTransportCredentials(creds),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.3, MaxDelay: 3 * time.Second},
			MinConnectTimeout: 3 * time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true}),
		grpc.WithStaticStreamWindowSize(streamWindow),
		grpc.WithStaticConnWindowSize(connWindow),
	)
	if err != nil {
		return nil, fmt.Errorf("authority %s: %w", cfg.Address, err)
	}
	c, err := Over(pb.NewNodeServiceClient(conn), boottime, cfg, dead, enforcer, log)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	c.conn = conn
	return c, nil
}

// Over is New for an authority that is reached otherwise, and for another clock
// to count leases by: of an instant that does not matter, and one that never
// stands still.
func Over(api pb.NodeServiceClient, clock func() time.Duration, cfg Config, dead [][16]byte, enforcer Enforcer, log *slog.Logger) (*Client, error) {
	c := &Client{
		cfg: cfg, dead: dead, enforcer: enforcer, log: log, clock: clock, api: api,
		goodbye: make(chan struct{}), left: make(chan struct{}),
	}
	if _, err := rand.Read(c.instance[:]); err != nil {
		return nil, fmt.Errorf("draw instance id: %w", err)
	}
	c.ring.Store(token.NewRing(nil))
	c.lease.init(clock)
	c.recent.init()
	c.graces.init()
	c.queue.init(cfg.MaxPending)
	c.ends.init()
	c.reached.init()
	return c, nil
}

// Instance is the id that this process registers under.
func (c *Client) Instance() [16]byte { return c.instance }

// Run keeps the streams to the authority until ctx ends, then refuses what
// still waits and closes the client.
func (c *Client) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { c.again(ctx, "attach", c.attach, &c.reached) })
	wg.Go(func() { c.again(ctx, "redeem", c.redeem, &c.lease.attach) })
	wg.Go(func() { c.again(ctx, "report", c.report, &c.lease.attach) })
	wg.Go(func() { c.reach(ctx) })
	wg.Go(func() { c.watch(ctx) })
	wg.Go(func() { c.endGraces(ctx) })
	wg.Wait()
	c.Close()
}

// Close refuses what waits and gives the client's connection back. Run does it
// too; a client that never runs needs it.
func (c *Client) Close() {
	c.stop()
	if c.conn != nil {
		_ = c.conn.Close() // its errors are those of the streams
	}
}

// again runs one stream after another. It waits between them, the longer the more
// have failed, but not long once found has happened since the last began.
func (c *Client) again(ctx context.Context, what string, stream func(context.Context) error, found *event) {
	const low, high = 50 * time.Millisecond, 3 * time.Second
	wait := low
	for ctx.Err() == nil {
		began, sooner := time.Now(), found.next()
		err := stream(ctx)
		if ctx.Err() != nil || errors.Is(err, errLeft) {
			return
		}
		if time.Since(began) > high {
			wait = low
		}
		c.log.Warn("stream to the authority ended", "stream", what, "error", err, "again_in", wait)
		select {
		case <-time.After(wait):
			wait = min(2*wait, high)
			continue
		case <-sooner:
			wait = low
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// reach tells of each connection that comes about after others have failed. The
// waits between those are gRPC's, which a stream can't see.
func (c *Client) reach(ctx context.Context) {
	if c.conn == nil {
		return
	}
	failed, state := false, c.conn.GetState()
	for {
		switch state {
		case connectivity.TransientFailure:
			failed = true
		case connectivity.Ready:
			if failed {
				c.reached.happen()
			}
			failed = false
		}
		if !c.conn.WaitForStateChange(ctx, state) {
			return
		}
		state = c.conn.GetState()
	}
}

// watch ends what has waited too long, and closes sockets before the session
// fence.
func (c *Client) watch(ctx context.Context) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var part func(float64)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		c.expire()
		part = c.thin(part)
		if c.lease.overdue(time.Now()) {
			c.log.Error("session fence: the authority was silent for too long, all sockets are closed")
			c.enforcer.Fence()
		}
	}
}

// thin closes sockets while the session fence draws near, and lets those that
// are left be once the authority has answered. part is what it returned last: nil
// while the fence is far.
func (c *Client) thin(part func(share float64)) func(share float64) {
	share := c.lease.waning()
	switch {
	case share == 0 && part != nil:
		c.log.Warn("the authority answers again: the sockets that are left stay", "sockets", c.enforcer.Sessions())
		return nil
	case share == 0, share == 1: // far, or Fence has all of them
		return part
	case part == nil:
		c.log.Error("session fence draws near: the authority is silent, sockets are closed one after the other", "sockets", c.enforcer.Sessions())
		part = c.enforcer.Thin()
	}
	part(share)
	return part
}

// Goodbye ends the registration, once the node has no sockets and admits none.
// It waits for the answers that are under way, so that no session is left
// behind, and returns when the authority has taken its leave, or when ctx ends.
func (c *Client) Goodbye(ctx context.Context) error {
	c.stop()
	if !c.lease.registered() {
		return nil
	}
	for !c.queue.idle() {
		select {
		case <-c.queue.finished:
		case <-ctx.Done():
			return fmt.Errorf("wait for answers under way: %w", ctx.Err())
		}
	}
	if err := c.ends.flushed(ctx); err != nil {
		return fmt.Errorf("report ended sessions: %w", err)
	}
	c.endAll(c.graces.over(never)) // nobody is left to renew
	c.bye.Do(func() { close(c.goodbye) })
	select {
	case <-c.left:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// defaultRetry is RetryAfter until an authority has said otherwise.
const defaultRetry = 2 * time.Second

// maxRetry is the longest that clients are told to stay away.
const maxRetry = time.Hour

// RetryAfter is when a client may try again after a refusal that the
// authority's absence caused.
func (c *Client) RetryAfter() time.Duration {
	return cmp.Or(time.Duration(c.retry.Load()), defaultRetry)
}

// Ready is nil if handshakes may be admitted, or says why not.
func (c *Client) Ready() error { return c.lease.ready() }

// Lapsed reports whether live sessions must have ended by now: Fence was
// called, or is about to be. It is cheap enough to be asked in every turn.
func (c *Client) Lapsed(now time.Time) bool { return c.lease.lapsed(now) }

// Ring is the edge keys known now.
func (c *Client) Ring() *token.Ring { return c.ring.Load() }

// Expired reports whether a token has surely expired, by the authority's clock
// as far as it is known.
func (c *Client) Expired(id token.ID, now time.Time) bool {
	return c.AuthorityTime(now).Add(-clockSlack).After(id.Expiry())
}

// reading is what the authority's clock showed, and when that was by ours.
type reading struct{ authority, ours time.Time }

// AuthorityTime is what the authority's clock shows at an instant of ours. Since its
// last word it is counted by the clock that nobody sets: a node whose wall clock is
// set meanwhile is not mistaken until the next.
func (c *Client) AuthorityTime(now time.Time) time.Time {
	r := c.told.Load()
	if r == nil {
		return now
	}
	return r.authority.Add(now.Sub(r.ours))
}

// clockSlack is how far our idea of the authority's clock may be off before a
// token is refused that the authority would still take.
const clockSlack = time.Second

// Standing tells whether g still holds. Ask while Enforce can't look for
// sessions, and let it find g's before it can: then an entry either is seen here
// or finds it.
func (c *Client) Standing(g *Grant) Standing { return c.recent.standing(g) }
