package wsnode

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/wsnode/deliver"
	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

// revokeAll is a revocation of every test token.
func (l *lab) revokeAll() { l.a.Revoke(wstest.BySubject("default", "u42")) }

func (l *lab) lockAll() {
	l.a.Lock(&pb.LockSelector{By: &pb.LockSelector_Subject{Subject: &pb.Subject{Tenant: "default", Subject: "u42"}}})
}

// wantRefused reads a refusal and wants its cause in the log.
func (l *lab) wantRefused(p *wstest.Peer, status int, label string) {
	l.t.Helper()
	resp, body := p.Response()
	if resp.StatusCode != status {
		l.t.Fatalf("%d %s, want %d", resp.StatusCode, body, status)
	}
	lines := l.logs.lines(l.t, "handshake refused")
	if got := lines[len(lines)-1]["reason"]; got != label {
		l.t.Errorf("the log says %v, want %s", got, label)
	}
}

// A grant in flight is checked, in the turn that would write the 101, against
// what was revoked after the authority decided.
func TestGrantInFlight(t *testing.T) {
	for _, c := range []struct {
		rule  string
		after func(l *lab)
		label string
	}{
		{"revoked meanwhile", (*lab).revokeAll, "token_revoked"},
		{"locked meanwhile", (*lab).lockAll, "locked"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			inLab(t, func(_ *Config, a *wstest.Authority) {
				a.OnRedeem(func(item *pb.RedeemItem) *pb.RedeemResult { // an answer that was on its way for long
					return a.GrantAt(item, &pb.Revision{Epoch: 1})
				})
			}, func(l *lab) {
				tok := l.token()
				c.after(l)
				synctest.Wait()
				p := l.dial()
				p.Write(wstest.Opening{Target: echoPath, Bearer: tok}.Bytes())
				l.wantRefused(p, 401, c.label)
				if len(l.calls.seen()) != 0 {
					t.Errorf("the handler was told %q", l.calls.seen())
				}
			})
		})
	}
	t.Run("others are let in", func(t *testing.T) {
		inLab(t, func(_ *Config, a *wstest.Authority) {
			a.OnRedeem(func(item *pb.RedeemItem) *pb.RedeemResult { return a.GrantAt(item, &pb.Revision{Epoch: 1}) })
		}, func(l *lab) {
			tok := l.a.Issue(wstest.Token{Subject: "other"}).Text
			l.revokeAll()
			synctest.Wait()
			p := l.dial()
			p.Open(wstest.Opening{Target: echoPath, Bearer: tok})
		})
	})
	t.Run("too old to tell: the authority is asked again", func(t *testing.T) {
		inLab(t, func(_ *Config, a *wstest.Authority) {
			n := 0
			a.OnRedeem(func(item *pb.RedeemItem) *pb.RedeemResult {
				if n++; n < 3 {
					return a.GrantAt(item, &pb.Revision{Epoch: 99})
				}
				return nil
			})
		}, func(l *lab) {
			exchange(l.open(echoPath, wstest.Token{}), "x")
			if s := l.a.Sessions(); len(s) != 1 || s[0].Grants != 3 {
				t.Errorf("sessions %+v, want one that was asked for three times", s)
			}
		})
	})
	t.Run("too old to tell, always", func(t *testing.T) {
		inLab(t, func(_ *Config, a *wstest.Authority) {
			a.OnRedeem(func(item *pb.RedeemItem) *pb.RedeemResult { return a.GrantAt(item, &pb.Revision{Epoch: 99}) })
		}, func(l *lab) {
			p := l.dial()
			p.Write(wstest.Opening{Target: echoPath, Bearer: l.token()}.Bytes())
			l.wantRefused(p, 503, "fenced")
		})
	})
	t.Run("the lease ran out meanwhile", func(t *testing.T) {
		inLab(t, func(_ *Config, a *wstest.Authority) {
			a.AdmissionFence = 2 * time.Second
			a.Hold(wstest.Redemptions, true)
		}, func(l *lab) {
			p := l.dial()
			p.Write(wstest.Opening{Target: echoPath, Bearer: l.token()}.Bytes())
			synctest.Wait()
			l.a.Hold(wstest.Heartbeats, true)
			time.Sleep(3 * time.Second)
			l.a.Hold(wstest.Redemptions, false)
			l.wantRefused(p, 503, "fenced")
		})
	})
}

// From the moment that an entry is enforced nothing more of the session is
// delivered: neither what came with the message that is being handled, nor
// what comes after. The acknowledgement says what could not be closed yet.
func TestNothingIsDeliveredAfterEnforcement(t *testing.T) {
	inLab(t, nil, func(l *lab) {
		release := make(chan struct{})
		l.calls.message = func(s deliver.Session, _ deliver.Op, payload []byte) error {
			if string(payload) == "first" {
				<-release
			}
			return nil
		}
		p := l.open(echoPath, wstest.Token{})
		p.Write(append(wstest.Frame(ws.OpText, []byte("first")), wstest.Frame(ws.OpText, []byte("second"))...))
		synctest.Wait()
		l.revokeAll()
		synctest.Wait()
		time.Sleep(2 * enforceTimeout)
		acks := l.a.Seen().Acknowledgements
		last := acks[len(acks)-1]
		if e := last.GetEnforced(); last.GetThrough().GetSequence() != 1 || len(e) != 1 || e[0].GetClosed() != 1 || e[0].GetLingering() != 1 {
			t.Errorf("acknowledged %v, want one socket closed that lingers", last)
		}
		close(release)
		p.WantClose(4501, "token revoked")
		if got, want := l.calls.seen(), []string{"opened", "message first", "closed 4501 token_revoked"}; !slices.Equal(got, want) {
			t.Errorf("the handler was told %q, want %q", got, want)
		}
	})
}

// An acknowledgement waits until close frames are queued, and counts each
// socket for the first entry that hits it.
func TestAcknowledgement(t *testing.T) {
	inLab(t, nil, func(l *lab) {
		var peers []*wstest.Peer
		for range 5 {
			peers = append(peers, l.open(echoPath, wstest.Token{}))
		}
		other := l.open(echoPath, wstest.Token{Subject: "other"})
		l.a.Hold(wstest.Entries, true)
		l.revokeAll()
		l.lockAll()
		l.a.Hold(wstest.Entries, false)
		synctest.Wait()
		acks := l.a.Seen().Acknowledgements
		last := acks[len(acks)-1]
		if e := last.GetEnforced(); last.GetThrough().GetSequence() != 2 || len(e) != 1 || e[0].GetSequence() != 1 || e[0].GetClosed() != 5 || e[0].GetLingering() != 0 {
			t.Errorf("acknowledged %v, want 5 sockets for the first entry", last)
		}
		for _, p := range peers {
			p.WantClose(4501, "token revoked")
		}
		exchange(other, "x")
	})
}

// Of several ends the first counts, in every report.
func TestFirstCauseCounts(t *testing.T) {
	inLab(t, nil, func(l *lab) {
		release := make(chan struct{})
		l.calls.message = func(s deliver.Session, _ deliver.Op, _ []byte) error {
			<-release
			_ = s.Close(4000, "application")
			return nil
		}
		p := l.open(echoPath, wstest.Token{})
		p.Write(append(wstest.Frame(ws.OpText, nil), wstest.Frame(ws.OpText, []byte("\xff"))...))
		synctest.Wait()
		l.lockAll()
		synctest.Wait()
		l.revokeAll()
		time.Sleep(2 * enforceTimeout)
		close(release)
		p.WantClose(4503, "locked")
	})
}

// The node's lease is looked at in every turn: what a process that was paused
// finds in its sockets is not delivered.
func TestPausedBeyondTheFence(t *testing.T) {
	b := newBench(t)
	p := b.open(echoPath)
	p.feed(wstest.Frame(ws.OpText, []byte("before")))
	b.skew.Store(int64(2 * time.Hour)) // its clock has moved on, and nothing else
	p.now = p.now.Add(2 * time.Hour)
	p.feed(wstest.Frame(ws.OpText, []byte("after")))
	op, payload := p.frame()
	if op != ws.OpText || string(payload) != "before" {
		t.Errorf("%v %q", op, payload)
	}
	if op, payload := p.frame(); op != ws.OpClose || !strings.Contains(string(payload), "lost its authority") {
		t.Errorf("%v %q, want a close", op, payload)
	}
	b.skew.Store(0)
	p.gone(nil)
	if got := b.calls.seen(); !slices.Equal(got, []string{"opened", "message before", "closed 1013 fenced"}) {
		t.Errorf("the handler was told %q", got)
	}
}

// Nor is anything sent by it, from the application's queue or as a broadcast.
func TestPausedBeforeItSends(t *testing.T) {
	b := newBench(t)
	h := b.open(echoPath)
	p := h.m.(*peer)
	to := &deliver.To{All: true}
	if !p.gets(to, []*route{p.route}, h.now) {
		t.Error("a broadcast is not for a live session")
	}
	if err := b.calls.newest().Send([]byte("from before the pause")); err != nil {
		t.Fatal(err)
	}
	b.skew.Store(int64(2 * time.Hour))
	h.now = h.now.Add(2 * time.Hour)
	if p.gets(to, []*route{p.route}, h.now) {
		t.Error("a broadcast is sent without a lease")
	}
	h.turns()
	if op, payload := h.frame(); op != ws.OpClose || !strings.Contains(string(payload), "lost its authority") || len(h.out) != 0 {
		t.Errorf("%v %q and %x, want a close alone", op, payload, h.out)
	}
	b.skew.Store(0)
	h.gone(nil)
	if got, want := b.calls.seen(), []string{"opened", "closed 1013 fenced"}; !slices.Equal(got, want) {
		t.Errorf("the handler was told %q, want %q", got, want)
	}
}

// Sockets and attempts in every state, and then a drain: none outlives it, each
// is told, and nothing is left to wait for.
func TestDrain(t *testing.T) {
	inLab(t, nil, func(l *lab) {
		open := l.open(echoPath, wstest.Token{})
		closing := l.open(echoPath, wstest.Token{})
		synctest.Wait()
		_ = l.calls.newest().Close(1000, "bye")
		closing.Read()
		fresh, half := l.dial(), l.dial()
		half.Write([]byte("GET / HT"))
		l.a.Hold(wstest.Redemptions, true)
		verifying := l.dial()
		verifying.Write(wstest.Opening{Target: echoPath, Bearer: l.token()}.Bytes())
		synctest.Wait()

		begin := time.Now()
		drained := make(chan error, 1)
		go func() { drained <- l.Drain(l.t.Context()) }()
		for _, p := range []*wstest.Peer{fresh, half, verifying} {
			l.wantRefused(p, 503, "draining")
			p.WantEnd()
		}
		open.WantClose(1012, "node restarts")
		closing.Write(wstest.CloseFrame(1000, ""))
		closing.WantEnd()
		if err := <-drained; err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took > time.Second {
			t.Errorf("drained in %v", took)
		}
		if _, err := l.l.Dial(loopbackAddr); err == nil {
			t.Error("the listener is open")
		}
		l.a.Hold(wstest.Redemptions, false)
	})
}

// A peer that does not answer keeps a drain no longer than its context.
func TestShutdownCutsOff(t *testing.T) {
	inLab(t, nil, func(l *lab) {
		p := l.open(echoPath, wstest.Token{})
		synctest.Wait()
		begin := time.Now()
		go func() { p.Read() }() // the close frame, which it does not answer
		ctx, cancel := contextFor(2 * time.Second)
		defer cancel()
		err := l.Shutdown(ctx)
		l.down = true
		if err == nil || !strings.Contains(err.Error(), "1 connections left") {
			t.Errorf("%v, want that one was left", err)
		}
		if took := time.Since(begin); took != 2*time.Second {
			t.Errorf("shut down in %v, want 2 s", took)
		}
		if n := l.a.Seen().Goodbyes; n != 1 {
			t.Errorf("%d goodbyes, want 1", n)
		}
	})
}

// Without its authority a node still ends, and says what it could not do; one
// that never reached it has nothing to say.
func TestShutdownWithoutAuthority(t *testing.T) {
	inLab(t, nil, func(l *lab) {
		l.a.Down(status.Error(codes.Unavailable, "gone"))
		ctx, cancel := contextFor(time.Second)
		defer cancel()
		if err := l.Shutdown(ctx); err == nil || !strings.Contains(err.Error(), "goodbye") {
			t.Errorf("%v, want what became of the goodbye", err)
		}
		l.down = true
	})
	inLab(t, func(_ *Config, a *wstest.Authority) { a.Down(status.Error(codes.Unavailable, "gone")) }, func(l *lab) {
		ctx, cancel := contextFor(time.Second)
		defer cancel()
		if err := l.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		l.down = true
	})
}

// A peer that goes while its token is being redeemed leaves no session behind.
func TestGoneWhileVerifying(t *testing.T) {
	inLab(t, func(_ *Config, a *wstest.Authority) { a.Hold(wstest.Redemptions, true) }, func(l *lab) {
		for range 5 {
			p := l.dial()
			p.Write(wstest.Opening{Target: echoPath, Bearer: l.token()}.Bytes())
			synctest.Wait()
			_ = p.Conn.Close()
		}
		synctest.Wait()
		if c := l.addresses.Counts(); c.Sockets != 0 {
			t.Errorf("%d sockets are counted though all are gone", c.Sockets)
		}
		l.a.Hold(wstest.Redemptions, false)
		synctest.Wait()
		if n := len(l.a.Sessions()); n != 5 {
			t.Errorf("%d sessions were granted, want 5", n)
		}
		time.Sleep(10 * time.Millisecond) // the first end is reported alone, the others together
		synctest.Wait()
		if n := len(l.a.Seen().Ended); n != 5 {
			t.Errorf("the end of %d sessions was reported, want 5", n)
		}
		if n := len(l.calls.seen()); n != 0 {
			t.Errorf("the handler was told %q", l.calls.seen())
		}
	})
}

// A session that ends in the midst of a frame keeps its place in the frames: the
// rest is discarded, and the peer's answer to the close is understood.
func TestEndWithinAFrame(t *testing.T) {
	for _, c := range []struct {
		rule, reason string
		end          func(h *hand)
	}{
		{"killed", "closed 4501 token_revoked", func(h *hand) { h.b.calls.newest().Sockets.(*peer).kill(errRevoked) }},
		{"the lease has lapsed", "closed 1013 fenced", func(h *hand) {
			h.b.skew.Store(int64(2 * time.Hour))
			h.now = h.now.Add(2 * time.Hour)
		}},
	} {
		t.Run(c.rule, func(t *testing.T) {
			b := newBench(t)
			h := b.open(echoPath)
			frame := wstest.Frame(ws.OpText, []byte("a message in three pieces"))
			h.feed(frame[:8])
			c.end(h)
			h.feed(frame[8:20]) // before the turn that kill has posted
			if op, _ := h.frame(); op != ws.OpClose || len(h.out) != 0 {
				t.Fatalf("opcode %x and %x, want a close frame alone", op, h.out)
			}
			if h.m.Done() {
				t.Error("done before the peer has answered")
			}
			h.feed(frame[20:])
			h.feed(wstest.CloseFrame(1000, ""))
			if !h.m.Done() {
				t.Error("the peer's close frame is not understood")
			}
			b.skew.Store(0)
			h.gone(nil)
			if got, want := b.calls.seen(), []string{"opened", c.reason}; !slices.Equal(got, want) {
				t.Errorf("the handler was told %q, want %q", got, want)
			}
		})
	}
}
