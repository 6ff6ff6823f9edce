package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/token"
	"github.com/gatehouse-ws/gatehouse/wsnode/verify"
)

// simNode is all of a node that its authority can see: the client that nodes
// use, with its streams, heartbeats, reports and lease, over a connection of its
// own. In place of sockets it has a table of sessions.
type simNode struct {
	client *verify.Client
	end    context.CancelFunc
	ran    sync.WaitGroup

	mu        sync.Mutex // guards what follows; comes before the client's locks
	sessions  map[[16]byte]*verify.Grant
	byToken   map[token.ID][16]byte // tokens open one session each here
	bySubject map[string]map[[16]byte]struct{}
}

// simNode starts a node; it is not ready yet.
func (l *lab) simNode(addr string) (*simNode, error) {
	keys, err := l.keys()
	if err != nil {
		return nil, err
	}
	return startSimNode(keys, addr)
}

func startSimNode(keys, addr string) (*simNode, error) {
	config, err := clientTLS(keys, "node")
	if err != nil {
		return nil, err
	}
	n := newSimNode()
	settings := verify.DefaultConfig()
	settings.Address = addr
	if n.client, err = verify.New(settings, credentials.NewTLS(config), nil, n, slog.New(slog.DiscardHandler)); err != nil {
		return nil, err
	}
	n.run()
	return n, nil
}

func newSimNode() *simNode {
	return &simNode{
		sessions: map[[16]byte]*verify.Grant{}, byToken: map[token.ID][16]byte{}, bySubject: map[string]map[[16]byte]struct{}{},
	}
}

func (n *simNode) run() {
	ctx, cancel := context.WithCancel(context.Background())
	n.end = cancel
	n.ran.Go(func() { n.client.Run(ctx) })
}

// awaitReady waits until the node may admit.
func (n *simNode) awaitReady(ctx context.Context) error {
	for began := time.Now(); n.client.Ready() != nil; time.Sleep(time.Millisecond) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if time.Since(began) > time.Minute {
			return fmt.Errorf("simulated node does not become ready: %w", n.client.Ready())
		}
	}
	return nil
}

// leave says goodbye and stops.
func (n *simNode) leave() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := n.client.Goodbye(ctx)
	n.cut()
	return err
}

// cut stops as a crash would.
func (n *simNode) cut() {
	n.end()
	n.ran.Wait()
}

// attempt is what a handshake with a token asks the authority.
func attemptOf(tk ticket, done func(verify.Outcome)) (*verify.Attempt, error) {
	var t token.Token
	if err := token.Parse([]byte(tk.text), &t); err != nil {
		return nil, err
	}
	a := &verify.Attempt{
		Token: t.ID, Digest: t.Secret.Digest(), ClientIP: clientIP(tk.user), UserAgent: []byte(userAgents[tk.user%len(userAgents)]),
		Origin: []byte(origin), Audience: audience, Done: done,
	}
	_, err := rand.Read(a.Session[:])
	return a, err
}

// open opens a session with each ticket, at most so many under way at once.
func (n *simNode) open(tickets []ticket, window int) error {
	room := make(chan struct{}, window)
	var failed error
	var mu sync.Mutex
	for _, tk := range tickets {
		room <- struct{}{}
		a, err := attemptOf(tk, nil)
		if err != nil {
			return err
		}
		a.Done = func(o verify.Outcome) {
			if err := n.admit(o); err != nil {
				mu.Lock()
				failed = err
				mu.Unlock()
			}
			<-room
		}
		n.client.Redeem(a)
	}
	for range window {
		room <- struct{}{}
	}
	mu.Lock()
	defer mu.Unlock()
	return failed
}

// admit puts a granted session into the table, unless an entry hits it already.
func (n *simNode) admit(o verify.Outcome) error {
	if o.Grant == nil {
		return fmt.Errorf("token refused: %v", o.Reason)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if s := n.client.Standing(o.Grant); s != verify.Holds {
		return errors.New("a grant is revoked or too old")
	}
	who := &o.Grant.Identity
	n.sessions[who.Session] = o.Grant
	n.byToken[who.Token] = who.Session
	if n.bySubject[who.Subject] == nil {
		n.bySubject[who.Subject] = map[[16]byte]struct{}{}
	}
	n.bySubject[who.Subject][who.Session] = struct{}{}
	return nil
}

// Enforce implements verify.Enforcer.
func (n *simNode) Enforce(entries []verify.Entry) []verify.Count {
	counts := make([]verify.Count, len(entries))
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := range entries {
		counts[i].Closed = n.enforce(&entries[i])
	}
	return counts
}

func (n *simNode) enforce(e *verify.Entry) (closed int) {
	take := func(id [16]byte) {
		if g := n.sessions[id]; g != nil && e.Hits(&g.Identity) {
			n.drop(g)
			closed++
		}
	}
	id, tok, subject, wide := e.Narrow()
	switch {
	case wide:
		for id := range n.sessions {
			take(id)
		}
	case subject != "":
		for id := range n.bySubject[subject] {
			take(id)
		}
	case !tok.IsZero():
		take(n.byToken[tok])
	default:
		take(id)
	}
	return closed
}

// drop ends a session; mu is held.
func (n *simNode) drop(g *verify.Grant) {
	who := &g.Identity
	delete(n.sessions, who.Session)
	delete(n.byToken, who.Token)
	if of := n.bySubject[who.Subject]; len(of) > 1 {
		delete(of, who.Session)
	} else {
		delete(n.bySubject, who.Subject)
	}
	n.client.Ended(who.Session, pb.Reason_REASON_TOKEN_REVOKED, time.Now())
}

// Fence implements verify.Enforcer.
func (n *simNode) Fence() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, g := range n.sessions {
		n.drop(g)
	}
}

// Thin implements verify.Enforcer. No run comes near a session fence.
func (n *simNode) Thin() func(share float64) { return func(float64) {} }

// Warn implements verify.Enforcer. No run revokes with a grace.
func (n *simNode) Warn(*verify.Entry) func() bool { return func() bool { return false } }

// Sessions implements verify.Enforcer.
func (n *simNode) Sessions() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.sessions)
}

// simFleet is simulated nodes of one authority.
type simFleet []*simNode

// startAtOnce is how many nodes may be connecting at once.
const startAtOnce = 50

// simFleet starts nodes and waits until all are ready.
func (l *lab) simFleet(ctx context.Context, addr string, n int) (f simFleet, err error) {
	for len(f) < n {
		begun := len(f)
		for range min(startAtOnce, n-begun) {
			node, err := l.simNode(addr)
			if err != nil {
				return nil, errors.Join(err, f.close())
			}
			f = append(f, node)
		}
		for _, node := range f[begun:] {
			if err := node.awaitReady(ctx); err != nil {
				return nil, errors.Join(err, f.close())
			}
		}
	}
	return f, nil
}

func (f simFleet) sockets() (n int) {
	for _, node := range f {
		n += node.Sessions()
	}
	return n
}

// each calls fn for every node, all at once.
func (f simFleet) each(fn func(i int, n *simNode) error) error {
	errs := make([]error, len(f))
	var wg sync.WaitGroup
	for i, n := range f {
		wg.Go(func() { errs[i] = fn(i, n) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// leaveAtOnce is how many nodes may be saying goodbye at once, so that none waits
// for all the others.
const leaveAtOnce = 20

func (f simFleet) close() error {
	places := make(chan struct{}, leaveAtOnce)
	return f.each(func(_ int, n *simNode) error {
		places <- struct{}{}
		defer func() { <-places }()
		return n.leave()
	})
}

// openAtOnce is how many sessions may be opening at once: none of them may wait
// for longer than nodes wait.
const openAtOnce = 2048

// spread opens the tickets' sessions, each on the next node.
func (f simFleet) spread(tickets []ticket) error {
	of := make([][]ticket, len(f))
	for i, tk := range tickets {
		of[i%len(f)] = append(of[i%len(f)], tk)
	}
	return f.each(func(i int, n *simNode) error { return n.open(of[i], max(openAtOnce/len(f), 1)) })
}
