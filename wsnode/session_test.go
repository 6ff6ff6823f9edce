package wsnode

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"

	"github.com/gatehouse-ws/gatehouse/wsnode/deliver"
	"github.com/gatehouse-ws/gatehouse/wsnode/limit"
	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

func TestIdentity(t *testing.T) {
	inLab(t, nil, func(l *lab) {
		tok := l.a.Issue(wstest.Token{
			Tenant: "acme", Subject: "u7", Scopes: []string{"chat"}, Attributes: map[string]string{"room": "12"}, SessionTTL: 10 * time.Minute,
		})
		p := l.dialFrom("2001:db8::1")
		p.Open(wstest.Opening{Target: chatPath, Bearer: tok.Text, Origin: appOrigin})
		synctest.Wait()
		id := l.calls.newest().Identity()
		if id.Session != l.a.Sessions()[0].ID || id.Token != tok.ID || id.Tenant != "acme" || id.Subject != "u7" || id.Route != "test" ||
			!slices.Equal(id.Scopes, []string{"chat"}) || id.Attributes["room"] != "12" || id.ClientAddr.String() != "2001:db8::1" ||
			time.Since(id.OpenedAt) > 10*time.Millisecond || !id.ExpiresAt.Equal(time.Now().Add(10*time.Minute)) {
			t.Errorf("identity %+v", id)
		}
		opened := l.logs.lines(t, "session opened")
		if len(opened) != 1 || opened[0]["token_id"] != tok.ID.String() || opened[0]["subject"] != "u7" || opened[0]["path"] != chatPath {
			t.Errorf("logged %v", opened)
		}
	})
}

// What is sent from within a call leaves in order with it; what others send
// meanwhile too.
func TestSend(t *testing.T) {
	inLab(t, nil, func(l *lab) {
		l.calls.opened = func(s deliver.Session) { _ = s.Send([]byte("welcome")) }
		p := l.open(echoPath, wstest.Token{})
		p.Want(ws.OpText, "welcome")
		exchange(p, "one")
		s := l.calls.newest()
		go func() { _ = s.Send([]byte("from elsewhere")) }()
		p.Want(ws.OpText, "from elsewhere")
		l.calls.message = func(s deliver.Session, _ deliver.Op, payload []byte) error {
			return errors.Join(s.Send([]byte("1")), s.SendBinary([]byte("2")), s.Send(payload))
		}
		p.Write(append(wstest.Frame(ws.OpText, []byte("a")), wstest.Frame(ws.OpText, []byte("b"))...))
		for _, want := range []string{"1", "2", "a", "1", "2", "b"} {
			op := ws.OpText
			if want == "2" {
				op = ws.OpBinary
			}
			p.Want(op, want)
		}
	})
}

func TestAfterTheEnd(t *testing.T) {
	inLab(t, nil, func(l *lab) {
		p := l.open(echoPath, wstest.Token{})
		synctest.Wait()
		s := l.calls.newest()
		if err := s.Close(4000, "enough"); err != nil {
			t.Fatal(err)
		}
		for what, err := range map[string]error{"Send": s.Send([]byte("x")), "SendBinary": s.SendBinary(nil), "Close": s.Close(1000, "")} {
			if !errors.Is(err, deliver.ErrClosed) {
				t.Errorf("%s after Close: %v, want ErrClosed", what, err)
			}
		}
		p.WantClose(4000, "enough")
		synctest.Wait()
		for what, err := range map[string]error{"Send": s.Send([]byte("x")), "Close": s.Close(1000, "")} {
			if !errors.Is(err, deliver.ErrClosed) {
				t.Errorf("%s after the end: %v, want ErrClosed", what, err)
			}
		}
	})
}

// A handler that closes in Opened gets no message, though the peer has sent one
// with its handshake.
func TestCloseInOpened(t *testing.T) {
	inLab(t, nil, func(l *lab) {
		l.calls.opened = func(s deliver.Session) { _ = errors.Join(s.Send([]byte("no")), s.Close(4001, "not you")) }
		p := l.dial()
		head := wstest.Opening{Target: echoPath, Bearer: l.token()}.Bytes()
		p.Write(append(head, wstest.Frame(ws.OpText, []byte("early"))...))
		p.Response()
		p.Want(ws.OpText, "no")
		p.WantClose(4001, "not you")
		if got, want := l.calls.seen(), []string{"opened", "closed 4001 application_closed"}; !slices.Equal(got, want) {
			t.Errorf("the handler was told %q, want %q", got, want)
		}
	})
}

// Messages that a peer sends without waiting for the 101 are delivered after
// it; more than a bound of them is refused.
func TestPipelined(t *testing.T) {
	inLab(t, func(_ *Config, a *wstest.Authority) { a.Hold(wstest.Redemptions, true) }, func(l *lab) {
		p := l.dial()
		p.Write(append(wstest.Opening{Target: echoPath, Bearer: l.token()}.Bytes(), wstest.Frame(ws.OpText, []byte("early"))...))
		p.Write(wstest.Frame(ws.OpText, []byte("and more")))
		synctest.Wait()
		if n := len(l.calls.seen()); n != 0 {
			t.Fatalf("the handler was told %q before the authority answered", l.calls.seen())
		}
		l.a.Hold(wstest.Redemptions, false)
		p.Response()
		p.Want(ws.OpText, "early")
		p.Want(ws.OpText, "and more")

		l.a.Hold(wstest.Redemptions, true)
		greedy := l.dial()
		head := wstest.Opening{Target: echoPath, Bearer: l.token()}.Bytes()
		go func() { _, _ = greedy.Conn.Write(append(head, make([]byte, 8000)...)) }()
		if resp, _ := greedy.Response(); resp.StatusCode != 400 {
			t.Errorf("%d, want 400", resp.StatusCode)
		}
		l.a.Hold(wstest.Redemptions, false)
	})
}

// room is a handler as chat rooms are: one lock, held while it sends to all.
type room struct {
	mu      sync.Mutex
	members map[deliver.Session]bool
	size    int
}

func (r *room) Opened(s deliver.Session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.members[s] = true
}

func (r *room) Message(s deliver.Session, _ deliver.Op, payload []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for m := range r.members {
		switch string(payload) {
		case "close":
			if m != s {
				_ = m.Close(4002, "closed by another")
			}
		case "flood":
			for m.Send(make([]byte, r.size)) == nil {
			}
		default:
			_ = m.Send(payload)
		}
	}
	return nil
}

func (r *room) Closed(s deliver.Session, _ uint16, _ string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.members, s)
}

// A handler may send to other sessions, close them, or fill them up, with a lock
// of its own held: no call comes from within another.
func TestHandlerWithALock(t *testing.T) {
	for _, text := range []string{"close", "flood"} {
		t.Run(text, func(t *testing.T) {
			inLab(t, func(c *Config, _ *wstest.Authority) { c.Sockets.OutboundBytes = 1 << 17 }, func(l *lab) {
				r := &room{members: map[deliver.Session]bool{}, size: 1 << 16}
				l.calls.opened, l.calls.closed = r.Opened, r.Closed
				l.calls.message = r.Message
				a, b, c := l.open(echoPath, wstest.Token{}), l.open(echoPath, wstest.Token{}), l.open(echoPath, wstest.Token{})
				a.Send("hello")
				for _, p := range []*wstest.Peer{a, b, c} {
					p.Want(ws.OpText, "hello")
				}
				a.Send(text)
				synctest.Wait() // a deadlock would end here
				if text == "close" {
					b.WantClose(4002, "closed by another")
					c.WantClose(4002, "closed by another")
					exchange(a, "alone")
				}
			})
		})
	}
}

// Sessions that send to each other from within their calls, all at once.
func TestEveryoneSendsToEveryone(t *testing.T) {
	inLab(t, func(c *Config, _ *wstest.Authority) { c.Limits.Messages.PerSecond = 0 }, func(l *lab) {
		r := &room{members: map[deliver.Session]bool{}}
		l.calls.opened, l.calls.closed, l.calls.message = r.Opened, r.Closed, r.Message
		const peers, messages = 6, 50
		var wg sync.WaitGroup
		for i := range peers {
			p := l.open(echoPath, wstest.Token{})
			wg.Go(func() {
				for j := range messages {
					if _, err := p.Conn.Write(wstest.Frame(ws.OpText, fmt.Appendf(nil, "%d %d", i, j))); err != nil {
						t.Error(err)
						return
					}
				}
			})
			wg.Go(func() { // reads all that comes, its own among it in order
				next := 0
				for next < messages {
					if _, payload := p.Read(); string(payload) == fmt.Sprintf("%d %d", i, next) {
						next++
					}
				}
				for {
					if _, err := p.Conn.Read(make([]byte, 4096)); err != nil {
						return
					}
				}
			})
		}
		synctest.Wait()
		l.shutdown()
		wg.Wait()
	})
}

// After a close frame nothing is sent, whoever sends while the peer closes.
func TestNothingFollowsAClose(t *testing.T) {
	for range 50 {
		inLab(t, nil, func(l *lab) {
			p := l.open(echoPath, wstest.Token{})
			synctest.Wait()
			s := l.calls.newest()
			var wg sync.WaitGroup
			for range 3 {
				wg.Go(func() {
					for s.Send([]byte("x")) == nil {
					}
				})
			}
			wg.Go(func() { _, _ = p.Conn.Write(wstest.CloseFrame(1000, "")) })
			for {
				op, payload := p.Read()
				if op == ws.OpClose {
					break
				}
				if string(payload) != "x" {
					t.Fatalf("%v %q", op, payload)
				}
			}
			p.WantEnd()
			wg.Wait()
		})
	}
}

// A peer that pings, or sends anything, is not pinged; one that answers pings
// lives on.
func TestSignsOfLife(t *testing.T) {
	inLab(t, nil, func(l *lab) {
		p := l.open(echoPath, wstest.Token{SessionTTL: time.Hour})
		for range 10 {
			time.Sleep(29 * time.Second)
			exchange(p, "here")
		}
		for range 10 {
			time.Sleep(29 * time.Second)
			p.Write(wstest.Frame(ws.OpPing, []byte("payload")))
			p.Want(ws.OpPong, "payload")
		}
		for range 10 {
			p.Want(ws.OpPing, "")
			time.Sleep(9 * time.Second)
			p.Write(wstest.Frame(ws.OpPong, nil))
		}
		exchange(p, "still here")
	})
}

func TestBinary(t *testing.T) {
	inLab(t, nil, func(l *lab) {
		p := l.open(binaryPath, wstest.Token{})
		p.Write(wstest.Frame(ws.OpBinary, []byte{0, 0xff}))
		p.Want(ws.OpBinary, "\x00\xff")
		exchange(p, "text too")
	})
}

func TestCheckedMessages(t *testing.T) {
	inLab(t, nil, func(l *lab) {
		p := l.open(chatPath, wstest.Token{})
		for _, text := range []string{`{"type":"chat","text":"grüß dich"}`, `{"type":"ping"}`, ` { "text" : "x", "type" : "chat" } `} {
			exchange(p, text)
		}
		if got := l.metric("messages_received_total", ""); got != 3 {
			t.Errorf("%v messages are counted, want 3", got)
		}
	})
}

// The tighter of the node's limit and the token's own counts; the node's own
// may be in dry_run, the token's never is.
func TestRateOf(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, c := range []struct {
		rule  string
		node  limit.Messages
		own   uint32
		burst int // messages at once; -1 for no limit
		dry   bool
	}{
		{"the node's alone", limit.Messages{PerSecond: 5, Burst: 7}, 0, 7, false},
		{"none at all", limit.Messages{}, 0, -1, false},
		{"the token's alone", limit.Messages{}, 3, 3, false},
		{"the token's is tighter", limit.Messages{PerSecond: 5, Burst: 7}, 3, 3, false},
		{"the token's is tighter than the burst allows", limit.Messages{PerSecond: 5, Burst: 2}, 4, 2, false},
		{"the node's is tighter", limit.Messages{PerSecond: 5, Burst: 7}, 6, 7, false},
		{"the node's is in dry_run", limit.Messages{PerSecond: 5, Burst: 7, DryRun: true}, 0, 7, true},
		{"the node's is in dry_run, the token's counts", limit.Messages{PerSecond: 5, Burst: 7, DryRun: true}, 3, 3, false},
	} {
		rate, rules := ownRate(c.node, c.own)
		dry := !rules && c.node.DryRun
		if !rules {
			rate = limit.NewRate(c.node.PerSecond, c.node.Burst)
		}
		n := 0
		for n < 100 && rate.Allow(now, 1) {
			n++
		}
		if c.burst < 0 {
			c.burst = 100
		}
		if n != c.burst || dry != c.dry {
			t.Errorf("%s: %d at once, dry run %v, want %d, %v", c.rule, n, dry, c.burst, c.dry)
		}
	}
	inLab(t, func(c *Config, _ *wstest.Authority) {
		c.Limits.Messages = limit.Messages{PerSecond: 1, Burst: 1, DryRun: true}
	}, func(l *lab) {
		p := l.open(echoPath, wstest.Token{})
		for range 5 {
			exchange(p, "x")
		}
		if got := l.metric("limits_dry_run_total", "messages"); got != 4 {
			t.Errorf("%v messages are counted as above the limit, want 4", got)
		}
	})
}

// The sessions that an entry hits are found by whatever names them, and leave
// the lists in any order.
func TestSessionsTable(t *testing.T) {
	inLab(t, func(c *Config, _ *wstest.Authority) {
		c.Limits.NewPerAddress.Max = 1000
		c.Limits.UnauthenticatedPerAddress.Max = 100
	}, func(l *lab) {
		two := l.a.Issue(wstest.Token{Uses: 2, Subject: "two"})
		peers := map[string]*wstest.Peer{}
		for i := range 30 {
			peers[fmt.Sprint(i)] = l.open(echoPath, wstest.Token{Subject: "many", Tenant: []string{"a", "b"}[i%2]})
		}
		for _, name := range []string{"x", "y"} {
			p := l.dial()
			p.Open(wstest.Opening{Target: echoPath, Bearer: two.Text})
			peers[name] = p
		}
		for _, i := range []int{29, 0, 7, 15, 16} { // these go by themselves
			peers[fmt.Sprint(i)].Write(wstest.CloseFrame(1000, ""))
			peers[fmt.Sprint(i)].WantClose(1000, "")
			delete(peers, fmt.Sprint(i))
		}
		l.a.Revoke(wstest.BySubject("a", "many"))
		for i := range 30 {
			p := peers[fmt.Sprint(i)]
			switch {
			case p == nil:
			case i%2 == 0:
				p.WantClose(4501, "token revoked")
			default:
				exchange(p, "x")
			}
		}
		l.a.Revoke(wstest.ByToken(two.ID))
		peers["x"].WantClose(4501, "token revoked")
		peers["y"].WantClose(4501, "token revoked")
		synctest.Wait()
		if n := l.Sessions(); n != 12 {
			t.Errorf("%d sessions, want 12", n)
		}
	})
}

// A session can end between a message's checks and its delivery.
func TestNothingIsDeliveredAfterKill(t *testing.T) {
	b := newBench(t)
	h := b.open(echoPath)
	s := b.calls.newest().Sockets.(*peer)
	s.kill(errRevoked)
	if out, err := s.deliver(deliver.Text, []byte("late"), nil); !errors.Is(err, errRevoked) || len(out) != 0 {
		t.Errorf("%q and %v, want errRevoked", out, err)
	}
	h.turns()
	h.gone(nil)
	if got, want := b.calls.seen(), []string{"opened", "closed 4501 token_revoked"}; !slices.Equal(got, want) {
		t.Errorf("the handler was told %q, want %q", got, want)
	}
}

// A session's time is counted by the clock that nobody sets.
func TestExpiryIsMonotonic(t *testing.T) {
	b := newBench(t)
	h := b.open(echoPath)
	s := b.calls.newest().Sockets.(*peer)
	if text := b.time(s.expires).String(); !strings.Contains(text, " m=+") {
		t.Errorf("the session expires at %s, by the wall clock", text)
	}
	if off := b.time(s.expires).Sub(h.now) - time.Hour; off.Abs() > time.Minute {
		t.Errorf("the session expires %v off its hour", off)
	}
	h.gone(nil)
}

// A stamp names its instant, no earlier and hardly later, as long as that is some
// weeks away at most, however long the node has run.
func TestStamps(t *testing.T) {
	for _, now := range []instant{0, 1, stampLength - 1, stampLength, instant(time.Hour), 1 << 52, 1<<52 - 1, instant(longestLife)} {
		for _, away := range []time.Duration{0, 1, time.Millisecond, time.Second, time.Hour, 25 * 24 * time.Hour} {
			for _, at := range []instant{max(now-instant(away), 0), now + instant(away)} {
				if got := stampOf(at).instant(now); got < at || got >= at+stampLength {
					t.Errorf("at %v, %v is stamped as %v", time.Duration(now), time.Duration(at), time.Duration(got))
				}
			}
		}
	}
}
