package wsnode

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/wsnode/deliver"
	"github.com/gatehouse-ws/gatehouse/wsnode/limit"
	"github.com/gatehouse-ws/gatehouse/wsnode/wsconn"
	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

// closed is one row: how a session ends, and who is told what.
type closed struct {
	rule  string
	cause error // the row of closeTable; nil for its default
	edit  func(c *Config, a *wstest.Authority)
	path  string // echoPath if empty
	token wstest.Token
	drive func(l *lab, p *wstest.Peer)

	code ws.StatusCode // on the wire; 0 if the peer is told nothing
	text string
	// What the handler is told, if it differs.
	told   ws.StatusCode
	reason pb.Reason // to the handler and the authority, in log and metric
}

// raw is a frame of any kind: its first byte, its payload, masked.
func raw(first byte, payload string) []byte {
	b := wstest.Frame(ws.OpText, []byte(payload))
	b[0] = first
	return b
}

func send(text string) func(*lab, *wstest.Peer) {
	return func(_ *lab, p *wstest.Peer) { p.Send(text) }
}

func write(b []byte) func(*lab, *wstest.Peer) {
	return func(_ *lab, p *wstest.Peer) { p.Write(b) }
}

var closes = []closed{
	{rule: "its token is revoked", cause: errRevoked, code: 4501, text: "token revoked", reason: pb.Reason_REASON_TOKEN_REVOKED,
		drive: func(l *lab, _ *wstest.Peer) { l.a.Revoke(wstest.BySubject("default", "u42")) }},
	{rule: "the session is revoked", cause: errRevoked, code: 4501, text: "token revoked", reason: pb.Reason_REASON_TOKEN_REVOKED,
		drive: func(l *lab, _ *wstest.Peer) { l.a.Revoke(wstest.BySession(l.calls.newest().Identity().Session)) }},
	{rule: "its token's id is revoked", cause: errRevoked, code: 4501, text: "token revoked", reason: pb.Reason_REASON_TOKEN_REVOKED,
		drive: func(l *lab, _ *wstest.Peer) { l.a.Revoke(wstest.ByToken(l.calls.newest().Identity().Token)) }},
	{rule: "newer sessions take its place", cause: errReplaced, code: 4509, text: "opened elsewhere", reason: pb.Reason_REASON_SESSION_REPLACED,
		drive: func(l *lab, _ *wstest.Peer) { l.a.Replace(l.calls.newest().Identity().Session) }},
	{rule: "its address is revoked", cause: errRevoked, code: 4501, text: "token revoked", reason: pb.Reason_REASON_TOKEN_REVOKED,
		drive: func(l *lab, _ *wstest.Peer) {
			l.a.Revoke(&pb.Selector{By: &pb.Selector_IpPrefix{IpPrefix: "192.0.2.0/24"}})
		}},
	{rule: "its tenant is locked", cause: errLocked, code: 4503, text: "locked", reason: pb.Reason_REASON_LOCKED,
		drive: func(l *lab, _ *wstest.Peer) {
			l.a.Lock(&pb.LockSelector{By: &pb.LockSelector_Tenant{Tenant: "default"}})
		}},
	{rule: "its time is over", cause: errSessionExpired, code: 4008, text: "session expired", reason: pb.Reason_REASON_SESSION_EXPIRED,
		token: wstest.Token{SessionTTL: 3 * time.Minute},
		drive: func(_ *lab, p *wstest.Peer) {
			for range 5 { // every 30 s it is pinged, and answers
				p.Want(ws.OpPing, "")
				p.Write(wstest.Frame(ws.OpPong, nil))
			}
		}},
	{rule: "the node drains", cause: errDraining, code: 1012, text: "node restarts", reason: pb.Reason_REASON_DRAINING,
		drive: func(l *lab, _ *wstest.Peer) { go l.Drain(l.t.Context()) }},
	{rule: "the authority is silent for the session fence", cause: errFence, code: 1013, text: "node has lost its authority", reason: pb.Reason_REASON_FENCED,
		edit:  func(_ *Config, a *wstest.Authority) { a.SessionFence = 20 * time.Second },
		drive: func(l *lab, _ *wstest.Peer) { l.a.Hold(wstest.Heartbeats, true) }},
	{rule: "the authority has another history", cause: errFence, code: 1013, text: "node has lost its authority", reason: pb.Reason_REASON_FENCED,
		drive: func(l *lab, _ *wstest.Peer) { l.a.Restore() }},
	{rule: "the peer closes", cause: wsconn.ErrPeerClosed, code: 1000, told: 1000, reason: pb.Reason_REASON_PEER_CLOSED,
		drive: write(wstest.CloseFrame(1000, "done here"))},
	{rule: "the peer closes with a code of its own", cause: wsconn.ErrPeerClosed, code: 4321, told: 4321, reason: pb.Reason_REASON_PEER_CLOSED,
		drive: write(wstest.CloseFrame(4321, ""))},
	{rule: "the peer closes without a code", cause: wsconn.ErrPeerClosed, code: ws.StatusNoStatusRcvd, told: 1005, reason: pb.Reason_REASON_PEER_CLOSED,
		drive: write(wstest.Frame(ws.OpClose, nil))},
	{rule: "the connection is lost", cause: errConnectionLost, told: 1006, reason: pb.Reason_REASON_CONNECTION_LOST,
		drive: func(_ *lab, p *wstest.Peer) { _ = p.Conn.Close() }},
	{rule: "8.1 a text that is not UTF-8", cause: wsconn.ErrInvalidUTF8, code: 1007, text: "text is not UTF-8", reason: pb.Reason_REASON_INVALID_UTF8,
		drive: send("\xff")},
	{rule: "a message too big", cause: wsconn.ErrMessageTooBig, code: 1009, text: "message too big", reason: pb.Reason_REASON_MESSAGE_TOO_BIG,
		edit:  func(c *Config, _ *wstest.Authority) { c.Sockets.MessageBytes = 200 },
		drive: write(wstest.Frame(ws.OpText, make([]byte, 201))[:8])},
	{rule: "a message bigger than its token allows", cause: wsconn.ErrMessageTooBig, code: 1009, text: "message too big", reason: pb.Reason_REASON_MESSAGE_TOO_BIG,
		token: wstest.Token{Limits: &pb.SessionLimits{MessageBytes: 10}},
		drive: func(_ *lab, p *wstest.Peer) {
			p.Send("0123456789")
			p.Want(ws.OpText, "0123456789")
			p.Write(wstest.Frame(ws.OpText, make([]byte, 11))[:6])
		}},
	{rule: "too many fragments", cause: wsconn.ErrMessageTooBig, code: 1009, text: "message too big", reason: pb.Reason_REASON_MESSAGE_TOO_BIG,
		edit:  func(c *Config, _ *wstest.Authority) { c.Sockets.Fragments = 2 },
		drive: write(append(raw(0x01, "a"), append(raw(0x00, "b"), raw(0x00, "c")[:6]...)...))},
	{rule: "a message begun and not ended, whatever pings come", cause: wsconn.ErrMessageTimeout, code: 1008, text: "message not finished in time", reason: pb.Reason_REASON_MESSAGE_TIMEOUT,
		drive: func(_ *lab, p *wstest.Peer) {
			p.Write(raw(0x01, "a"))
			for range 9 {
				time.Sleep(3 * time.Second)
				p.Write(wstest.Frame(ws.OpPing, nil))
				p.Want(ws.OpPong, "")
			}
		}},
	{rule: "5.1 a frame without a mask", cause: wsconn.ErrProtocol, code: 1002, text: "protocol error", reason: pb.Reason_REASON_PROTOCOL_ERROR,
		drive: write([]byte{0x81, 0})},
	{rule: "no JSON", path: chatPath, code: 1007, text: "message is not valid JSON", reason: pb.Reason_REASON_INVALID_JSON, drive: send(`{"type":`)},
	{rule: "half a surrogate", path: chatPath, code: 1007, text: "message is not valid JSON", reason: pb.Reason_REASON_INVALID_JSON, drive: send(`{"type":"chat","text":"\ud800"}`)},
	{rule: "a property twice", path: chatPath, code: 1007, text: "message is not valid JSON", reason: pb.Reason_REASON_INVALID_JSON, drive: send(`{"type":"ping","type":"chat"}`)},
	{rule: "a hazardous name", path: chatPath, code: 1008, text: "message not allowed", reason: pb.Reason_REASON_MESSAGE_NOT_ALLOWED, drive: send(`{"type":"ping","__proto__":1}`)},
	{rule: "a number out of range", path: chatPath, code: 1008, text: "message not allowed", reason: pb.Reason_REASON_MESSAGE_NOT_ALLOWED, drive: send(`{"type":"ping","n":9007199254740992}`)},
	{rule: "nested too deeply", path: chatPath, code: 1008, text: "message not allowed", reason: pb.Reason_REASON_MESSAGE_NOT_ALLOWED,
		drive: send(`{"type":"ping","n":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `}`)},
	{rule: "too many names", path: chatPath, code: 1008, text: "message not allowed", reason: pb.Reason_REASON_MESSAGE_NOT_ALLOWED,
		drive: func(_ *lab, p *wstest.Peer) {
			var b strings.Builder
			for i := range 300 {
				fmt.Fprintf(&b, `,"n%d":1`, i)
			}
			p.Send(`{"type":"ping"` + b.String() + `}`)
		}},
	{rule: "too many tokens", path: chatPath, code: 1008, text: "message not allowed", reason: pb.Reason_REASON_MESSAGE_NOT_ALLOWED,
		drive: send(`{"type":"ping","n":[` + strings.Repeat("1,", 10_000) + `1]}`)},
	{rule: "no type", path: chatPath, code: 1008, text: "message not allowed", reason: pb.Reason_REASON_MESSAGE_NOT_ALLOWED, drive: send(`{"text":"x"}`)},
	{rule: "a type that the route does not know", path: chatPath, code: 1008, text: "message not allowed", reason: pb.Reason_REASON_MESSAGE_NOT_ALLOWED, drive: send(`{"type":"admin"}`)},
	{rule: "against its schema", path: chatPath, code: 1008, text: "message not allowed", reason: pb.Reason_REASON_MESSAGE_NOT_ALLOWED, drive: send(`{"type":"chat","text":"more than twenty characters"}`)},
	{rule: "against its schema, for all that can be said", path: chatPath, code: 1008, text: "message not allowed", reason: pb.Reason_REASON_TOO_COMPLEX,
		drive: send(`{"type":"tree","tree":` + strings.Repeat("[", 25) + strings.Repeat("]", 25) + `}`)},
	{rule: "a type that its token may not send", cause: errScope, path: chatPath, token: wstest.Token{Scopes: []string{"ping"}},
		code: 1008, text: "message not allowed", reason: pb.Reason_REASON_SCOPE,
		drive: func(_ *lab, p *wstest.Peer) {
			p.Send(`{"type":"ping"}`)
			p.Want(ws.OpText, `{"type":"ping"}`)
			p.Send(`{"type":"chat","text":"x"}`)
		}},
	{rule: "any message with scopes on a route that does not know types", cause: errScope, token: wstest.Token{Scopes: []string{"chat"}},
		code: 1008, text: "message not allowed", reason: pb.Reason_REASON_SCOPE, drive: send("x")},
	{rule: "a binary message", cause: errBinary, code: 1008, text: "binary messages not allowed", reason: pb.Reason_REASON_BINARY_REFUSED,
		drive: write(wstest.Frame(ws.OpBinary, []byte("x")))},
	{rule: "a binary message on a checked route", cause: errBinary, path: chatPath, code: 1008, text: "binary messages not allowed", reason: pb.Reason_REASON_BINARY_REFUSED,
		drive: write(wstest.Frame(ws.OpBinary, []byte(`{"type":"ping"}`)))},
	{rule: "messages too fast", cause: errRate, code: 4029, text: "too many messages", reason: pb.Reason_REASON_MESSAGE_RATE,
		edit:  func(c *Config, _ *wstest.Authority) { c.Limits.Messages = limit.Messages{PerSecond: 1, Burst: 2} },
		drive: func(_ *lab, p *wstest.Peer) { exchange(p, "a"); exchange(p, "b"); p.Send("c") }},
	{rule: "messages of a type that come too fast", cause: errRate, path: chatPath, code: 4029, text: "too many messages", reason: pb.Reason_REASON_MESSAGE_RATE,
		edit: func(c *Config, _ *wstest.Authority) {
			for i := range c.Routes {
				if m := &c.Routes[i].Messages; len(m.Types) > 1 {
					m.Types[1].PerSecond, m.Types[1].Burst = 1, 2 // ping
				}
			}
		},
		drive: func(_ *lab, p *wstest.Peer) {
			const ping, chat = `{"type":"ping"}`, `{"type":"chat","text":"x"}`
			for range 5 {
				exchange(p, chat)
			}
			exchange(p, ping)
			exchange(p, ping)
			time.Sleep(time.Second)
			exchange(p, ping)
			exchange(p, chat)
			p.Send(ping)
		}},
	{rule: "messages faster than its token allows, also where the node only looks", cause: errRate, code: 4029, text: "too many messages", reason: pb.Reason_REASON_MESSAGE_RATE,
		edit:  func(c *Config, _ *wstest.Authority) { c.Limits.Messages.DryRun = true },
		token: wstest.Token{Limits: &pb.SessionLimits{MessagesPerSecond: 1}},
		drive: func(_ *lab, p *wstest.Peer) { exchange(p, "a"); p.Send("b") }},
	{rule: "its messages carry another protocol", cause: errTunnel, path: binaryPath, code: 1008, text: "tunnels not allowed", reason: pb.Reason_REASON_TUNNEL_FOUND,
		drive: write(binaryFrame(sshBanner))},
	{rule: "the peer does not read", cause: errSlowReader, code: 1013, text: "reading too slowly", told: 1013, reason: pb.Reason_REASON_SLOW_READER,
		edit: func(c *Config, _ *wstest.Authority) { c.Sockets.MessageBytes, c.Sockets.OutboundBytes = 1000, 1000 },
		drive: func(l *lab, p *wstest.Peer) {
			s := l.calls.newest()
			for {
				err := s.Send(make([]byte, 600))
				synctest.Wait()
				if errors.Is(err, deliver.ErrClosed) {
					break
				}
			}
			for range 1 { // what was being written arrives whole
				p.Want(ws.OpText, string(make([]byte, 600)))
			}
		}},
	{rule: "the handler sends more at once than may wait", cause: errSlowReader, code: 1013, text: "reading too slowly", reason: pb.Reason_REASON_SLOW_READER,
		edit: func(c *Config, _ *wstest.Authority) { c.Sockets.MessageBytes, c.Sockets.OutboundBytes = 1000, 1000 },
		drive: func(l *lab, p *wstest.Peer) {
			l.calls.message = func(s deliver.Session, _ deliver.Op, _ []byte) error {
				if err := s.Send(make([]byte, 1001)); !errors.Is(err, deliver.ErrMessageTooBig) {
					l.t.Errorf("%v, want ErrMessageTooBig", err)
				}
				for {
					if err := s.Send(make([]byte, 400)); err != nil {
						if !errors.Is(err, deliver.ErrSlowReader) || !errors.Is(s.Send(nil), deliver.ErrClosed) {
							l.t.Errorf("%v, want ErrSlowReader and then ErrClosed", err)
						}
						return nil
					}
				}
			}
			p.Send("go")
			for range 2 { // which fitted
				p.Want(ws.OpText, string(make([]byte, 400)))
			}
		}},
	{rule: "the peer is silent", cause: errIdle, code: 1001, text: "no sign of life", reason: pb.Reason_REASON_IDLE,
		drive: func(_ *lab, p *wstest.Peer) { p.Want(ws.OpPing, "") }},
	{rule: "the application closes", cause: errApplication, code: 4123, text: "later", reason: pb.Reason_REASON_APPLICATION_CLOSED,
		drive: func(l *lab, p *wstest.Peer) {
			s := l.calls.newest()
			if err := errors.Join(s.Send([]byte("one")), s.Send([]byte("two")), s.Close(4123, "later")); err != nil {
				l.t.Error(err)
			}
			p.Want(ws.OpText, "one")
			p.Want(ws.OpText, "two")
		}},
	{rule: "the handler fails", code: 1011, text: "internal error", reason: pb.Reason_REASON_INTERNAL,
		drive: func(l *lab, p *wstest.Peer) {
			l.calls.message = func(s deliver.Session, _ deliver.Op, payload []byte) error {
				_ = s.Send([]byte("before it failed"))
				return fmt.Errorf("what is %s?", payload)
			}
			p.Send("gh1_" + strings.Repeat("A", 80))
			p.Want(ws.OpText, "before it failed")
		}},
	{rule: "the handler fails with an error of ours", code: 1011, text: "internal error", reason: pb.Reason_REASON_INTERNAL,
		drive: func(l *lab, p *wstest.Peer) {
			l.calls.message = func(deliver.Session, deliver.Op, []byte) error { return errRevoked }
			p.Send("x")
		}},
}

func exchange(p *wstest.Peer, text string) {
	p.Send(text)
	p.Want(ws.OpText, text)
}

// Each way in which a session ends has its code and reason for the peer, and
// tells handler, authority, log and metric the same cause.
func TestCloses(t *testing.T) {
	for _, c := range slices.Concat(closes, renewalCloses) {
		t.Run(c.rule, func(t *testing.T) {
			inLab(t, c.edit, func(l *lab) {
				if c.path == "" {
					c.path = echoPath
				}
				p := l.open(c.path, c.token)
				synctest.Wait()
				id := fmt.Sprintf("%x", l.calls.newest().Identity().Session)
				c.drive(l, p)
				if c.code != 0 {
					p.WantClose(c.code, c.text)
				}
				time.Sleep(5 * time.Second)
				synctest.Wait()

				told := c.told
				if told == 0 {
					told = c.code
				}
				events := l.calls.seen()
				if got, want := events[len(events)-1], fmt.Sprintf("closed %d %s", told, c.reason.Label()); got != want {
					t.Errorf("the handler was told %q, want %q", got, want)
				}
				lines := l.logs.lines(t, "session closed")
				if len(lines) != 1 || lines[0]["session_id"] != id || lines[0]["reason"] != c.reason.Label() || lines[0]["code"] != float64(told) {
					t.Errorf("logged %v, want one line with %s and %d", lines, c.reason.Label(), told)
				}
				if c.cause != nil && len(lines) == 1 && closeFor(c.cause).reason.Label() != lines[0]["reason"] {
					t.Errorf("the row of %q is not the one that was found", c.cause)
				}
				if got := l.metric("sessions_closed_total", c.reason.Label()); got != 1 {
					t.Errorf("%v sessions are counted as %s", got, c.reason.Label())
				}
				for _, e := range l.a.Seen().Ended {
					if e.GetReason() != c.reason {
						t.Errorf("the authority was told %v, want %v", e.GetReason(), c.reason)
					}
				}
				if l.Sessions() != 0 {
					t.Error("the session is still counted")
				}
			})
		})
	}
}

// The tables above have each row of closeTable, and what a row says can be sent.
func TestEveryCloseHasARow(t *testing.T) {
	// The peer is told nothing more when it leaves our close frame unanswered: its
	// session has ended with that frame.
	tested := map[pb.Reason]bool{}
	for _, c := range slices.Concat(closes, renewalCloses) {
		tested[c.reason] = true
	}
	for i, row := range closeTable {
		if !tested[row.reason] {
			t.Errorf("row %d, %v, has no test", i, row.err)
		}
		if len(row.text) > 123 {
			t.Errorf("row %d: %q does not fit a close frame", i, row.text)
		}
		if row.err == nil && i != len(closeTable)-1 {
			t.Errorf("row %d hides what follows", i)
		}
	}
}

// A peer that does not answer our close frame is let go in time, and says
// nothing that anyone hears meanwhile.
func TestCloseTimeout(t *testing.T) {
	inLab(t, nil, func(l *lab) {
		p := l.open(echoPath, wstest.Token{})
		synctest.Wait()
		begin := time.Now()
		if err := l.calls.newest().Close(1000, "bye"); err != nil {
			t.Fatal(err)
		}
		op, payload := p.Read()
		if op != ws.OpClose || !bytes.HasSuffix(payload, []byte("bye")) {
			t.Fatalf("%v %q", op, payload)
		}
		p.Send("too late")
		p.WantEnd()
		if took := time.Since(begin); took != 5*time.Second {
			t.Errorf("let go after %v, want 5 s", took)
		}
		if events := l.calls.seen(); len(events) != 2 {
			t.Errorf("the handler was told %q", events)
		}
	})
}
