package wsnode

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/token"
	"github.com/gatehouse-ws/gatehouse/wsnode/verify"
	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

// renewal asks for one with a token.
func renewal(token string) string { return `{"gatehouse":"renew","token":"` + token + `"}` }

// renew sends a renewal with a token as t says.
func (l *lab) renew(p *wstest.Peer, t wstest.Token) wstest.Issued {
	l.t.Helper()
	tok := l.a.Issue(t)
	p.Send(renewal(tok.Text))
	return tok
}

// wantRenewed reads the answer to a renewal and wants a session that lives so
// long.
func (l *lab) wantRenewed(p *wstest.Peer, ttl time.Duration) {
	l.t.Helper()
	p.Want(ws.OpText, fmt.Sprintf(`{"gatehouse":"renewed","expires_at":%q}`, time.Now().Add(ttl).UTC().Format(time.RFC3339)))
}

// wantPostponed reads the answer to a renewal and wants to be told to come back.
func (l *lab) wantPostponed(p *wstest.Peer, after int, reason pb.Reason) {
	l.t.Helper()
	p.Want(ws.OpText, fmt.Sprintf(`{"gatehouse":"renew_failed","retry_after":%d}`, after))
	lines := l.logs.lines(l.t, "renewal postponed")
	if len(lines) == 0 || lines[len(lines)-1]["reason"] != reason.Label() {
		l.t.Errorf("logged %v, want %s", lines, reason.Label())
	}
	if l.metric("renewals_postponed_total", reason.Label()) == 0 {
		l.t.Errorf("no renewal is counted as postponed for %s", reason.Label())
	}
}

// A renewal puts a new session in the place of the old one: what the authority
// says of the old token reaches the socket no more, what it says of the new one
// does. The application sees the same session all the time.
func TestRenewal(t *testing.T) {
	inLab(t, nil, func(l *lab) {
		old := l.a.Issue(wstest.Token{SessionTTL: 10 * time.Minute})
		p := l.dial()
		p.Open(wstest.Opening{Target: echoPath, Bearer: old.Text, Fields: []string{"User-Agent: agent"}, Origin: ""})
		exchange(p, "before")
		before := l.calls.newest()
		time.Sleep(20 * time.Second)
		tok := l.renew(p, wstest.Token{SessionTTL: 20 * time.Minute})
		l.wantRenewed(p, 20*time.Minute)
		exchange(p, "after")
		if l.calls.newest() != before {
			t.Error("the application has got another session")
		}
		asked := l.a.Seen().Redeems
		if first, again := asked[0], asked[1]; [16]byte(again.GetRenewsSessionId()) != before.Identity().Session || first.GetRenewsSessionId() != nil ||
			string(again.GetObserved().GetUserAgent()) != "agent" || again.GetAudience() != "test" || again.GetSingleUseOnly() {
			t.Errorf("the authority was asked for %v and then %v", first, again)
		}
		synctest.Wait()
		var renewed [16]byte
		for _, s := range l.a.Sessions() {
			switch s.Token {
			case old.ID:
				if !slices.Equal(s.Reports, []pb.Reason{pb.Reason_REASON_RENEWED}) {
					t.Errorf("the old session's end was reported as %v", s.Reports)
				}
			case tok.ID:
				renewed = s.ID
			}
		}
		lines := l.logs.lines(t, "session renewed")
		if len(lines) != 1 || lines[0]["session_id"] != fmt.Sprintf("%x", renewed) || lines[0]["token_id"] != tok.ID.String() ||
			lines[0]["renewed_session_id"] != fmt.Sprintf("%x", before.Identity().Session) || lines[0]["renewed_token_id"] != old.ID.String() {
			t.Errorf("logged %v", lines)
		}
		if n := l.metric("sessions_closed_total", "renewed"); n != 1 || l.Sessions() != 1 {
			t.Errorf("%v sessions count as renewed, %d live", n, l.Sessions())
		}

		l.a.Revoke(wstest.ByToken(old.ID))
		l.a.Replace(before.Identity().Session)
		synctest.Wait()
		exchange(p, "by the new token")
		l.a.Revoke(wstest.ByToken(tok.ID))
		p.WantClose(4501, "token revoked")
		synctest.Wait()
		if got, want := l.calls.seen(), []string{"opened", "message before", "message after", "message by the new token", "closed 4501 token_revoked"}; !slices.Equal(got, want) {
			t.Errorf("the handler was told %q, want %q", got, want)
		}
		if closed := l.logs.lines(t, "session closed"); len(closed) != 1 || closed[0]["session_id"] != fmt.Sprintf("%x", renewed) {
			t.Errorf("logged %v", closed)
		}
	})
}

// Who revokes a session by the name that it had before a renewal, or a few, means
// its socket; unless that has renewed since, with a token issued after.
func TestRevokedByAnEarlierName(t *testing.T) {
	for _, c := range []struct {
		renewals int
		hit      bool
	}{{1, true}, {4, true}, {5, false}} {
		t.Run(fmt.Sprint(c.renewals), func(t *testing.T) {
			inLab(t, withoutPings, func(l *lab) {
				p := l.open(echoPath, wstest.Token{})
				synctest.Wait()
				first := l.calls.newest().Identity().Session
				for range c.renewals {
					l.renew(p, wstest.Token{})
					l.wantRenewed(p, time.Hour)
					time.Sleep(renewEvery)
				}
				l.a.Revoke(wstest.BySession(first))
				synctest.Wait()
				if !c.hit {
					exchange(p, "of a name that nobody remembers")
					return
				}
				p.WantClose(4501, "token revoked")
				synctest.Wait()
				if got := l.counted(); got != "map[1:1] []" {
					t.Errorf("acknowledged %s", got)
				}
			})
		})
	}
	inLab(t, withoutPings, func(l *lab) {
		p := l.open(echoPath, wstest.Token{})
		synctest.Wait()
		l.a.RevokeWithin(wstest.BySession(l.calls.newest().Identity().Session), 10*time.Second)
		wantRenewBy(p, 10*time.Second)
		l.renew(p, wstest.Token{})
		l.wantRenewed(p, time.Hour)
		time.Sleep(time.Minute)
		exchange(p, "by a token issued after it")
	})
	inLab(t, withoutPings, func(l *lab) { // a renewal with one from before does not shake it off
		p := l.open(echoPath, wstest.Token{})
		synctest.Wait()
		early := l.token()
		l.a.RevokeWithin(wstest.BySession(l.calls.newest().Identity().Session), 10*time.Second)
		wantRenewBy(p, 10*time.Second)
		p.Send(renewal(early))
		l.wantPostponed(p, 5, pb.Reason_REASON_TOKEN_REVOKED)
		p.WantClose(4501, "token revoked")
	})
}

// The end of the new session is the socket's, and again and again.
func TestRenewalMovesTheEnd(t *testing.T) {
	inLab(t, func(c *Config, _ *wstest.Authority) { c.Sockets.PingInterval = time.Hour }, func(l *lab) {
		p := l.open(echoPath, wstest.Token{SessionTTL: 40 * time.Second})
		for range 3 {
			time.Sleep(30 * time.Second)
			l.renew(p, wstest.Token{SessionTTL: 40 * time.Second})
			l.wantRenewed(p, 40*time.Second)
		}
		begin := time.Now()
		p.WantClose(4008, "session expired")
		if took := time.Since(begin); took != 40*time.Second {
			t.Errorf("expired after %v, want 40 s", took)
		}
		synctest.Wait()
		ended := map[pb.Reason]int{}
		for _, s := range l.a.Sessions() {
			ended[s.Reports[0]]++
		}
		if ended[pb.Reason_REASON_RENEWED] != 3 || ended[pb.Reason_REASON_SESSION_EXPIRED] != 1 {
			t.Errorf("ends %v", ended)
		}
	})
}

// A renewal is taken before the schemas of its route, as any writer of JSON
// writes it.
func TestRenewalAsJSON(t *testing.T) {
	inLab(t, nil, func(l *lab) {
		p := l.open(chatPath, wstest.Token{})
		for _, form := range []string{
			`{"gatehouse":"renew","token":"%s"}`,
			`{"gatehouse": "renew", "token": "%s"}`,
			"\n{\t\"gatehouse\" :\r\n\"renew\" , \"token\" : \"%s\" }\n",
		} {
			p.Send(fmt.Sprintf(form, l.token()))
			l.wantRenewed(p, time.Hour)
			time.Sleep(renewEvery)
		}
		exchange(p, `{"type":"ping"}`)
	})
}

// What a token may do counts from the renewal with it on.
func TestRenewalBringsItsLimits(t *testing.T) {
	inLab(t, nil, func(l *lab) {
		p := l.open(chatPath, wstest.Token{Scopes: []string{"chat"}})
		l.renew(p, wstest.Token{Scopes: []string{"ping"}})
		l.wantRenewed(p, time.Hour)
		if scopes := l.calls.newest().Identity().Scopes; !slices.Equal(scopes, []string{"chat"}) {
			t.Errorf("the application's view is %v, want that of the opening handshake", scopes)
		}
		exchange(p, `{"type":"ping"}`)
		p.Send(`{"type":"chat","text":"x"}`)
		p.WantClose(1008, "message not allowed")

		p = l.open(echoPath, wstest.Token{})
		l.renew(p, wstest.Token{Limits: &pb.SessionLimits{MessageBytes: 200}})
		l.wantRenewed(p, time.Hour)
		exchange(p, strings.Repeat("x", 200))
		p.Write(wstest.Frame(ws.OpText, make([]byte, 201))[:8])
		p.WantClose(1009, "message too big")

		p = l.open(echoPath, wstest.Token{})
		l.renew(p, wstest.Token{Limits: &pb.SessionLimits{MessagesPerSecond: 1}})
		l.wantRenewed(p, time.Hour)
		exchange(p, "a")
		time.Sleep(renewEvery)
		exchange(p, "b")
		time.Sleep(time.Second)
		l.renew(p, wstest.Token{Limits: &pb.SessionLimits{MessagesPerSecond: 1}})
		l.wantRenewed(p, time.Hour)
		p.Send("no new burst") // the renewal was this second's message
		p.WantClose(4029, "too many messages")
	})
}

// refusing has the authority refuse renewals.
func refusing(reason pb.Reason) func(*Config, *wstest.Authority) {
	return func(_ *Config, a *wstest.Authority) {
		a.OnRedeem(func(item *pb.RedeemItem) *pb.RedeemResult {
			if len(item.GetRenewsSessionId()) > 0 {
				return wstest.RefusalOf(reason)
			}
			return nil
		})
	}
}

func renewWith(t wstest.Token) func(*lab, *wstest.Peer) {
	return func(l *lab, p *wstest.Peer) { l.renew(p, t) }
}

// refusedByAuthority is a row of a renewal that the authority refuses.
func refusedByAuthority(reason pb.Reason) closed {
	return closed{rule: "a renewal is refused: " + reason.Label(), cause: renewalRefused(reason), edit: refusing(reason),
		code: 4401, text: "token_inactive", reason: reason, drive: renewWith(wstest.Token{})}
}

var renewalCloses = []closed{
	{rule: "a renewal with what is no token", cause: renewalRefused(pb.Reason_REASON_TOKEN_MALFORMED), code: 4401, text: "token_inactive", reason: pb.Reason_REASON_TOKEN_MALFORMED,
		drive: send(renewal("gh1_x"))},
	{rule: "a renewal with an edited token", cause: renewalRefused(pb.Reason_REASON_TOKEN_FORGED), code: 4401, text: "token_inactive", reason: pb.Reason_REASON_TOKEN_FORGED,
		drive: func(l *lab, p *wstest.Peer) {
			p.Send(renewal(edited(l.token())))
		}},
	{rule: "a renewal with an expired token", cause: renewalRefused(pb.Reason_REASON_TOKEN_EXPIRED), code: 4401, text: "token_inactive", reason: pb.Reason_REASON_TOKEN_EXPIRED,
		drive: func(l *lab, p *wstest.Peer) {
			tok := l.a.Issue(wstest.Token{TTL: time.Second})
			time.Sleep(3 * time.Second)
			p.Send(renewal(tok.Text))
		}},
	{rule: "a renewal with a token that is revoked already", cause: renewalRefused(pb.Reason_REASON_TOKEN_REVOKED), code: 4401, text: "token_inactive", reason: pb.Reason_REASON_TOKEN_REVOKED,
		drive: func(l *lab, p *wstest.Peer) {
			tok := l.a.Issue(wstest.Token{})
			l.a.Revoke(wstest.ByToken(tok.ID))
			p.Send(renewal(tok.Text))
		}},
	{rule: "a renewal with a token that is revoked after it was granted", cause: renewalRefused(pb.Reason_REASON_TOKEN_REVOKED), code: 4401, text: "token_inactive", reason: pb.Reason_REASON_TOKEN_REVOKED,
		edit: func(_ *Config, a *wstest.Authority) {
			a.OnRedeem(func(item *pb.RedeemItem) *pb.RedeemResult { return a.GrantAt(item, &pb.Revision{Epoch: 1}) })
		},
		drive: func(l *lab, p *wstest.Peer) {
			tok := l.a.Issue(wstest.Token{})
			l.a.Revoke(wstest.ByToken(tok.ID))
			synctest.Wait()
			p.Send(renewal(tok.Text))
		}},
	{rule: "a renewal with another subject's token", cause: renewalRefused(pb.Reason_REASON_RENEWAL_MISMATCH), code: 4504, text: "forbidden", reason: pb.Reason_REASON_RENEWAL_MISMATCH,
		drive: renewWith(wstest.Token{Subject: "u43"})},
	{rule: "a renewal with another tenant's token, of an authority that knows no renewals", cause: renewalRefused(pb.Reason_REASON_RENEWAL_MISMATCH), code: 4504, text: "forbidden", reason: pb.Reason_REASON_RENEWAL_MISMATCH,
		edit: func(_ *Config, a *wstest.Authority) {
			a.OnRedeem(func(item *pb.RedeemItem) *pb.RedeemResult { return a.GrantAt(item, &pb.Revision{Epoch: 1}) })
		},
		drive: renewWith(wstest.Token{Tenant: "acme"})},
	{rule: "a renewal with a token for another audience", cause: renewalRefused(pb.Reason_REASON_AUDIENCE_MISMATCH), code: 4504, text: "forbidden", reason: pb.Reason_REASON_AUDIENCE_MISMATCH,
		drive: renewWith(wstest.Token{Audience: "another"})},
	refusedByAuthority(pb.Reason_REASON_TOKEN_USED),
	refusedByAuthority(pb.Reason_REASON_TOKEN_NOT_YET_ACTIVE),
	refusedByAuthority(pb.Reason_REASON_TOKEN_UNKNOWN),
	refusedByAuthority(pb.Reason_REASON_TOKEN_SECRET_WRONG),
	refusedByAuthority(pb.Reason_REASON_LOCKED),
	refusedByAuthority(pb.Reason_REASON_IP_MISMATCH),
	refusedByAuthority(pb.Reason_REASON_USER_AGENT_MISMATCH),
	refusedByAuthority(pb.Reason_REASON_ORIGIN_MISMATCH),
	refusedByAuthority(pb.Reason_REASON_CLIENT_CERTIFICATE_MISMATCH),
	refusedByAuthority(pb.Reason_REASON_SESSION_ENDED),
	refusedByAuthority(pb.Reason_REASON_SESSION_ID_TAKEN),
	{rule: "renewals too fast", cause: errRenewalRate, code: 4029, text: "too many renewals", reason: pb.Reason_REASON_RENEWAL_RATE,
		edit: refusing(pb.Reason_REASON_SESSION_LIMIT),
		drive: func(l *lab, p *wstest.Peer) {
			l.renew(p, wstest.Token{})
			l.wantPostponed(p, 5, pb.Reason_REASON_SESSION_LIMIT)
			time.Sleep(renewEvery - 1)
			l.renew(p, wstest.Token{})
		}},
	{rule: "a renewal beside another", cause: errRenewalRate, code: 4029, text: "too many renewals", reason: pb.Reason_REASON_RENEWAL_RATE,
		edit: func(c *Config, _ *wstest.Authority) { c.Authority.RedeemTimeout = time.Minute },
		drive: func(l *lab, p *wstest.Peer) {
			l.a.Hold(wstest.Redemptions, true)
			l.renew(p, wstest.Token{})
			time.Sleep(2 * renewEvery)
			l.renew(p, wstest.Token{})
		}},
	{rule: "a message for the node that it does not know", cause: errNodeMessage, code: 1008, text: "message not allowed", reason: pb.Reason_REASON_MESSAGE_NOT_ALLOWED,
		drive: send(`{"gatehouse":"reload"}`)},
	{rule: "a renewal that says more", cause: errNodeMessage, path: chatPath, code: 1008, text: "message not allowed", reason: pb.Reason_REASON_MESSAGE_NOT_ALLOWED,
		drive: func(l *lab, p *wstest.Peer) { p.Send(strings.TrimSuffix(renewal(l.token()), "}") + `,"type":"chat"}`) }},
}

// While the authority can't say, the socket goes on as it was, and so do its
// messages; what the authority says too late is given back.
func TestRenewalWithoutAuthority(t *testing.T) {
	for _, c := range []struct {
		rule   string
		edit   func(c *Config, a *wstest.Authority)
		lose   func(l *lab)
		after  int
		reason pb.Reason
		again  func(l *lab)
	}{
		{"it does not answer", nil, func(l *lab) { l.a.Hold(wstest.Redemptions, true) }, 2, pb.Reason_REASON_AUTHORITY_UNAVAILABLE,
			func(l *lab) { l.a.Hold(wstest.Redemptions, false) }},
		{"there is no lease", nil, func(l *lab) {
			l.a.Hold(wstest.Heartbeats, true)
			time.Sleep(11 * time.Second)
		}, 5, pb.Reason_REASON_FENCED, func(l *lab) { l.a.Hold(wstest.Heartbeats, false) }},
		{"there is no lease any more when it answers", func(c *Config, a *wstest.Authority) { a.AdmissionFence = 2 * time.Second }, func(l *lab) {
			l.a.Hold(wstest.Redemptions, true)
			l.a.Hold(wstest.Heartbeats, true)
			time.AfterFunc(3*time.Second, func() { l.a.Hold(wstest.Redemptions, false) })
		}, 2, pb.Reason_REASON_FENCED, func(l *lab) { l.a.Hold(wstest.Heartbeats, false) }},
		{"the subject has too many sessions for the moment", refusing(pb.Reason_REASON_SESSION_LIMIT), func(*lab) {}, 5, pb.Reason_REASON_SESSION_LIMIT,
			func(l *lab) { l.a.OnRedeem(nil) }},
		{"it names a reason that this node does not know", refusing(pb.Reason(999)), func(*lab) {}, 5, pb.Reason_REASON_UNSPECIFIED,
			func(l *lab) { l.a.OnRedeem(nil) }},
	} {
		t.Run(c.rule, func(t *testing.T) {
			inLab(t, c.edit, func(l *lab) {
				p := l.open(echoPath, wstest.Token{})
				c.lose(l)
				l.renew(p, wstest.Token{})
				if c.after == 2 { // else the answer has come
					exchange(p, "meanwhile")
				}
				l.wantPostponed(p, c.after, c.reason)
				exchange(p, "afterwards")
				if l.Sessions() != 1 {
					t.Errorf("%d sessions", l.Sessions())
				}
				c.again(l)
				time.Sleep(10 * time.Second)
				l.renew(p, wstest.Token{})
				l.wantRenewed(p, time.Hour)
			})
		})
	}
}

// A grant that is too old to tell is asked for again.
func TestRenewalAskedAgain(t *testing.T) {
	inLab(t, func(_ *Config, a *wstest.Authority) {
		n := 0
		a.OnRedeem(func(item *pb.RedeemItem) *pb.RedeemResult {
			if len(item.GetRenewsSessionId()) > 0 {
				if n++; n < 3 {
					return a.GrantAt(item, &pb.Revision{Epoch: 99})
				}
			}
			return nil
		})
	}, func(l *lab) {
		p := l.open(echoPath, wstest.Token{})
		l.renew(p, wstest.Token{})
		l.wantRenewed(p, time.Hour)
		if n := len(l.a.Seen().Redeems); n != 4 {
			t.Errorf("the authority was asked %d times, want 4", n)
		}
	})
}

// A socket that closes while a renewal waits gives the new session back, however
// it closes; the end of the lab looks at that.
func TestGoneWhileRenewing(t *testing.T) {
	for _, c := range []struct {
		rule string
		end  func(l *lab, p *wstest.Peer)
	}{
		{"the connection is lost", func(_ *lab, p *wstest.Peer) { _ = p.Conn.Close() }},
		{"the peer closes", func(_ *lab, p *wstest.Peer) {
			p.Write(wstest.CloseFrame(1000, ""))
			p.WantClose(1000, "")
		}},
		{"the old token is revoked", func(l *lab, p *wstest.Peer) {
			l.a.Revoke(wstest.ByToken(l.calls.newest().Identity().Token))
			p.WantClose(4501, "token revoked")
		}},
		{"the application has closed, and the peer not answered", func(l *lab, p *wstest.Peer) {
			_ = l.calls.newest().Close(4000, "bye")
			p.Read()
		}},
	} {
		t.Run(c.rule, func(t *testing.T) {
			inLab(t, func(_ *Config, a *wstest.Authority) {
				a.OnRedeem(func(item *pb.RedeemItem) *pb.RedeemResult { // it decided before it heard of the end
					return a.GrantAt(item, &pb.Revision{Epoch: 1})
				})
			}, func(l *lab) {
				p := l.open(echoPath, wstest.Token{})
				synctest.Wait()
				l.a.Hold(wstest.Redemptions, true)
				l.renew(p, wstest.Token{})
				synctest.Wait()
				c.end(l, p)
				synctest.Wait()
				l.a.Hold(wstest.Redemptions, false)
				synctest.Wait()
				if n := len(l.a.Sessions()); n != 2 {
					t.Errorf("%d sessions were granted, want 2", n)
				}
			})
		})
	}
}

// A revocation that comes while sockets renew hits each by its old session or by
// its new one, and counts it once.
func TestRevokedWhileRenewing(t *testing.T) {
	inLab(t, func(c *Config, _ *wstest.Authority) { c.Sockets.PingInterval = time.Hour }, func(l *lab) {
		const n = 40
		ends := make(chan ws.StatusCode, n)
		for range n {
			p := l.open(echoPath, wstest.Token{})
			tok := l.token()
			go func() {
				p.Send(renewal(tok))
				for {
					op, payload := p.Read()
					if op == ws.OpClose {
						code, _ := ws.ParseCloseFrameData(payload)
						_, _ = p.Conn.Write(wstest.CloseFrame(code, ""))
						ends <- code
						return
					}
				}
			}()
		}
		l.revokeAll()
		revoked := 0
		for range n {
			switch code := <-ends; code {
			case 4501:
				revoked++
			case 4401: // its new token was revoked before it was redeemed
			default:
				t.Errorf("closed with %d", code)
			}
		}
		time.Sleep(2 * enforceTimeout)
		synctest.Wait()
		counted := 0
		for _, ack := range l.a.Seen().Acknowledgements {
			for _, e := range ack.GetEnforced() {
				counted += int(e.GetClosed())
			}
		}
		if counted != revoked {
			t.Errorf("%d sockets are counted, %d were closed", counted, revoked)
		}
		if l.Sessions() != 0 {
			t.Errorf("%d sessions live on", l.Sessions())
		}
	})
}

// Nobody looks for sessions between the check of a grant and its coming into
// force, and one that does not pass leaves the session with the grant it had.
func TestGrantsAreExchangedInOneStep(t *testing.T) {
	n := &Node{metrics: new(metrics)}
	n.live.Store(new(live))
	table, p := newSessions(), &peer{seat: &seat{newLoop(n, nil), &route{}}}
	grant := func(id byte, tok byte) *verify.Grant {
		return &verify.Grant{Identity: verify.Identity{
			Session: table.idFor([16]byte{id}, token.ID{tok}), Token: token.ID{tok}, Subject: "u42",
			Issued: verify.Revision{Epoch: 7, Sequence: uint64(id)<<32 | uint64(tok)},
		}}
	}
	old := grant(1, 1)
	looked := make(chan int, 1)
	for _, c := range []struct {
		g      *verify.Grant
		reason pb.Reason
		has    *verify.Grant
	}{
		{old, 0, old}, {grant(2, 2), pb.Reason_REASON_TOKEN_REVOKED, old}, {grant(3, 3), 0, nil}, {grant(4, 3), 0, nil},
	} {
		if c.has == nil {
			c.has = c.g
		}
		if got := table.put(p, p.holderOf(c.g, nil, nil), c.g, func() pb.Reason {
			go func() { looked <- table.count() }()
			select {
			case <-looked:
				t.Error("someone looked in between")
			case <-time.After(5 * time.Millisecond):
			}
			return c.reason
		}); got != c.reason {
			t.Errorf("%v, want %v", got, c.reason)
		}
		who := &c.has.Identity
		if got := p.bearer(); got.Session != who.Session || got.Token != who.Token || got.Subject != "u42" || got.Issued != who.Issued {
			t.Errorf("the bearer is %+v, want %+v", got, *who)
		}
		if n := <-looked; n != 1 || table.withID(who.Session) != p ||
			table.byToken.first(who.Token) != p || table.bySubject.first("u42") != p || table.byToken.peers != 1 || table.bySubject.peers != 1 {
			t.Errorf("%d sessions after %v: %+v", n, c.g.Identity.Session[0], table)
		}
	}
	if !table.remove(p) || table.remove(p) || len(table.renewed)+table.byToken.peers+table.bySubject.peers != 0 {
		t.Errorf("left: %+v", table)
	}
}

// A route can't have for itself what is the node's.
func TestNodeMemberIsNoDiscriminator(t *testing.T) {
	r := testConfig().Routes[3]
	r.Messages.Discriminator = "gatehouse"
	if err := r.validate("routes[0]"); err == nil || !strings.Contains(err.Error(), "routes[0].messages.discriminator") {
		t.Errorf("%v", err)
	}
}
