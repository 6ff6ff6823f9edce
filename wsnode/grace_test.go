package wsnode

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/wsnode/deliver"
	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

// withoutPings is for peers that say nothing for long.
func withoutPings(c *Config, _ *wstest.Authority) { c.Sockets.PingInterval = time.Hour }

// revokeWithin revokes every test token with a grace.
func (l *lab) revokeWithin(grace time.Duration) {
	l.a.RevokeWithin(wstest.BySubject("default", "u42"), grace)
}

// wantRenewBy reads that the socket is to renew.
func wantRenewBy(p *wstest.Peer, in time.Duration) {
	p.Want(ws.OpText, fmt.Sprintf(`{"gatehouse":"renew_by","at":%q}`, time.Now().Add(in).UTC().Format(time.RFC3339)))
}

// counted is what acknowledgements have counted, the newest of each entry, and what
// the last of them calls pending.
func (l *lab) counted() string {
	counts := map[uint64]uint32{}
	var pending []uint64
	for _, a := range l.a.Seen().Acknowledgements {
		pending = a.GetPending()
		for _, e := range a.GetEnforced() {
			counts[e.GetSequence()] = e.GetClosed()
		}
	}
	return fmt.Sprint(counts, pending)
}

// A revocation with a grace closes the sockets that have not renewed by its end
// with a token issued after it.
func TestGrace(t *testing.T) {
	inLab(t, withoutPings, func(l *lab) {
		keeps, loses, other := l.open(echoPath, wstest.Token{}), l.open(echoPath, wstest.Token{}), l.open(echoPath, wstest.Token{Subject: "other"})
		early := l.token()
		begin := time.Now()
		l.revokeWithin(30 * time.Second)
		wantRenewBy(keeps, 30*time.Second)
		wantRenewBy(loses, 30*time.Second)
		p := l.dial()
		p.Write(wstest.Opening{Target: echoPath, Bearer: early}.Bytes())
		l.wantRefused(p, 401, "token_revoked")
		exchange(keeps, "as before")
		exchange(loses, "as before")
		synctest.Wait()
		if got := l.counted(); got != "map[] [1]" {
			t.Errorf("acknowledged %s", got)
		}

		// A token from before the revocation does not do, and does not end the socket.
		keeps.Send(renewal(early))
		l.wantPostponed(keeps, 5, pb.Reason_REASON_TOKEN_REVOKED)
		time.Sleep(renewEvery)
		l.renew(keeps, wstest.Token{})
		l.wantRenewed(keeps, time.Hour)

		loses.WantClose(4501, "token revoked")
		if took := time.Since(begin); took < 30*time.Second || took > 30*time.Second+100*time.Millisecond {
			t.Errorf("closed after %v, want 30 s", took)
		}
		exchange(keeps, "afterwards")
		exchange(other, "all the time")
		synctest.Wait()
		if got := l.counted(); got != "map[1:1] []" {
			t.Errorf("acknowledged %s", got)
		}
		if n := l.metric("sessions_closed_total", "token_revoked"); n != 1 {
			t.Errorf("%v sockets count as revoked", n)
		}
	})
}

// A session that is revoked with a grace by a name that it had before is not
// renewed by a token from before that either.
func TestGraceByAnOlderName(t *testing.T) {
	inLab(t, withoutPings, func(l *lab) {
		p := l.open(echoPath, wstest.Token{})
		first := l.a.Sessions()[0].ID
		l.renew(p, wstest.Token{})
		l.wantRenewed(p, time.Hour)
		early := l.token()
		l.a.RevokeWithin(wstest.BySession(first), 30*time.Second)
		wantRenewBy(p, 30*time.Second)
		p.Send(renewal(early))
		l.wantPostponed(p, 5, pb.Reason_REASON_TOKEN_REVOKED)
		time.Sleep(renewEvery)
		l.renew(p, wstest.Token{})
		l.wantRenewed(p, time.Hour)
		time.Sleep(time.Minute)
		exchange(p, "after the grace")
		synctest.Wait()
		if got := l.counted(); got != "map[] []" {
			t.Errorf("acknowledged %s", got)
		}
		var ended []pb.Reason
		for _, e := range l.a.Seen().Ended {
			ended = append(ended, e.GetReason())
		}
		if want := []pb.Reason{pb.Reason_REASON_RENEWED, pb.Reason_REASON_TOKEN_REVOKED, pb.Reason_REASON_RENEWED}; !slices.Equal(ended, want) {
			t.Errorf("ends reported: %v, want %v", ended, want)
		}
	})
}

// A receipt need not wait for the end once all have renewed or are gone, and one
// may renew though it did a moment ago.
func TestGraceOverEarly(t *testing.T) {
	inLab(t, withoutPings, func(l *lab) {
		renews, leaves := l.open(echoPath, wstest.Token{}), l.open(echoPath, wstest.Token{})
		l.renew(renews, wstest.Token{})
		l.wantRenewed(renews, time.Hour)
		l.revokeWithin(30 * time.Second)
		wantRenewBy(renews, 30*time.Second)
		wantRenewBy(leaves, 30*time.Second)
		l.renew(renews, wstest.Token{})
		l.wantRenewed(renews, time.Hour)
		leaves.Write(wstest.CloseFrame(1000, ""))
		leaves.WantClose(1000, "")
		time.Sleep(time.Second)
		if got := l.counted(); got != "map[] []" {
			t.Errorf("acknowledged %s", got)
		}
		time.Sleep(time.Minute)
		exchange(renews, "after the grace")
	})
}

// Nothing lets a socket live on that would not without a grace.
func TestGraceExtendsNothing(t *testing.T) {
	for _, c := range []struct {
		rule string
		edit func(c *Config, a *wstest.Authority)
		ttl  time.Duration
		then func(l *lab)
		code ws.StatusCode
		text string
		// after is when the socket closes; what is counted for the graced entry is 0.
		after time.Duration
	}{
		{"its session expires", nil, 10 * time.Second, func(*lab) {}, 4008, "session expired", 10 * time.Second},
		{"it is revoked without one", nil, time.Hour, (*lab).revokeAll, 4501, "token revoked", 0},
		{"it is revoked with less", nil, time.Hour, func(l *lab) { l.revokeWithin(5 * time.Second) }, 4501, "token revoked", 5 * time.Second},
		{"it is locked", nil, time.Hour, (*lab).lockAll, 4503, "locked", 0},
		{"the node is fenced", func(_ *Config, a *wstest.Authority) { a.SessionFence = 10 * time.Second }, time.Hour,
			func(l *lab) { l.a.Hold(wstest.Heartbeats, true) }, 1013, "node has lost its authority", 10 * time.Second},
	} {
		t.Run(c.rule, func(t *testing.T) {
			inLab(t, c.edit, func(l *lab) {
				p := l.open(echoPath, wstest.Token{SessionTTL: c.ttl})
				synctest.Wait()
				l.revokeWithin(time.Minute)
				wantRenewBy(p, time.Minute)
				begin := time.Now()
				c.then(l)
				if c.after == 5*time.Second {
					wantRenewBy(p, 5*time.Second)
				}
				p.WantClose(c.code, c.text)
				if took := time.Since(begin); took > c.after+100*time.Millisecond {
					t.Errorf("closed after %v, want %v", took, c.after)
				}
				l.a.Hold(wstest.Heartbeats, false)
				time.Sleep(time.Minute)
				if got := l.counted(); got != "map[] []" && got != "map[2:1] []" {
					t.Errorf("acknowledged %s", got)
				}
			})
		})
	}
}

// A renewal under way when the revocation comes is for a token from before it:
// the authority's yes does not count any more, and the socket may try again.
func TestGraceWhileRenewing(t *testing.T) {
	inLab(t, func(c *Config, a *wstest.Authority) {
		withoutPings(c, a)
		n := 0
		a.OnRedeem(func(item *pb.RedeemItem) *pb.RedeemResult {
			if n++; n == 2 {
				return a.GrantAt(item, &pb.Revision{Epoch: 1}) // before it heard of the revocation
			}
			return nil
		})
	}, func(l *lab) {
		p := l.open(echoPath, wstest.Token{})
		l.a.Hold(wstest.Redemptions, true)
		l.renew(p, wstest.Token{})
		synctest.Wait()
		l.revokeWithin(30 * time.Second)
		wantRenewBy(p, 30*time.Second)
		l.a.Hold(wstest.Redemptions, false)
		l.wantPostponed(p, 2, pb.Reason_REASON_TOKEN_REVOKED)
		time.Sleep(2 * time.Second)
		l.renew(p, wstest.Token{})
		l.wantRenewed(p, time.Hour)
		time.Sleep(time.Minute)
		exchange(p, "after the grace")
	})
}

// openPastGrace opens a session that was revoked with a grace, and waits until that
// is over: the turn comes before whoever looks every 20 ms.
func (l *lab) openPastGrace() *wstest.Peer {
	p := l.open(echoPath, wstest.Token{})
	synctest.Wait()
	const grace = 10*time.Second + 5*time.Millisecond
	l.revokeWithin(grace)
	wantRenewBy(p, grace)
	time.Sleep(grace)
	return p
}

// A message that comes after the end is not taken, whoever was to enforce that.
func TestNothingIsTakenPastGrace(t *testing.T) {
	inLab(t, nil, func(l *lab) {
		p := l.openPastGrace()
		p.Send("late")
		p.WantClose(4501, "token revoked")
		time.Sleep(time.Second)
		if got := l.calls.seen(); slices.Contains(got, "message late") {
			t.Errorf("the handler was told %q", got)
		}
		if got := l.counted(); got != "map[1:1] []" {
			t.Errorf("acknowledged %s", got)
		}
	})
}

// Nor is one sent, or a broadcast.
func TestNothingIsSentPastGrace(t *testing.T) {
	for what, send := range map[string]func(t *testing.T, l *lab){
		"a message": func(t *testing.T, l *lab) {
			if err := l.calls.newest().Send([]byte("late")); err != nil {
				t.Error(err)
			}
		},
		"a broadcast": func(t *testing.T, l *lab) {
			p := l.calls.newest().Sockets.(*peer)
			p.post(func(now time.Time, out []byte) []byte {
				if p.gets(&deliver.To{All: true}, []*route{p.route}, now) {
					t.Error("it is for a session whose grace is over")
				}
				return out
			})
		},
	} {
		t.Run(what, func(t *testing.T) {
			inLab(t, nil, func(l *lab) {
				p := l.openPastGrace()
				send(t, l)
				p.WantClose(4501, "token revoked")
				time.Sleep(time.Second)
				if got := l.counted(); got != "map[1:1] []" {
					t.Errorf("acknowledged %s", got)
				}
			})
		})
	}
}
