package wsconn

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

func TestPeerCloses(t *testing.T) {
	for _, c := range []struct {
		rule   string
		in     []byte
		events []string
		out    []byte
	}{
		{"5.5.1 the code is echoed", closeFrame(1000, "bye"), []string{`peer close 1000 "bye"`, failure(ErrPeerClosed)}, serverClose(1000, "")},
		{"7.1.5 no code is 1005, and none is sent", frame(fin|8, ""), []string{`peer close 1005 ""`, failure(ErrPeerClosed)}, serverFrame(ws.OpClose, "")},
		{"5.5.1 a code alone", closeFrame(1001, ""), []string{`peer close 1001 ""`, failure(ErrPeerClosed)}, serverClose(1001, "")},
		{"5.5.1 a reason of 123 bytes", closeFrame(4000, strings.Repeat("r", 123)),
			[]string{fmt.Sprintf("peer close 4000 %q", strings.Repeat("r", 123)), failure(ErrPeerClosed)}, serverClose(4000, "")},
		{"5.5.1 half a code fails with 1002", frame(fin|8, "\x03"), []string{failure(ErrCloseLength)}, serverClose(1002, "")},
		{"5.5.1 a reason that is not UTF-8 fails with 1007", closeFrame(1000, broken), []string{failure(ErrCloseReason)}, serverClose(1007, "")},
		{"5.5.1 what follows is discarded", cat(closeFrame(1000, ""), textFrame("x"), frame(fin|3, ""), closeFrame(1001, "")),
			[]string{`peer close 1000 ""`, failure(ErrPeerClosed)}, serverClose(1000, "")},
		{"5.5.1 what came before is delivered", cat(textFrame("x"), closeFrame(1000, "")),
			[]string{message(text, "x"), `peer close 1000 ""`, failure(ErrPeerClosed)}, cat(serverFrame(ws.OpText, "x"), serverClose(1000, ""))},
	} {
		for how, feed := range cuts {
			p := openPeer(t, &testLimits)
			feed(p, c.in)
			if fmt.Sprint(p.events) != fmt.Sprint(c.events) || !bytes.Equal(p.out, c.out) {
				t.Errorf("%s (%s): %q, sent % x; want %q, % x", c.rule, how, p.events, p.out, c.events, c.out)
			}
			if p.c.State() != StateClosed || !p.c.Deadline().IsZero() || held(&p.c) > 0 {
				t.Errorf("%s (%s): %v, deadline %v", c.rule, how, p.c.State(), p.c.Deadline())
			}
			if got, want := p.c.PeerClosed(), strings.HasPrefix(c.events[len(c.events)-1], failure(ErrPeerClosed)); got != want {
				t.Errorf("%s (%s): PeerClosed is %t", c.rule, how, got)
			}
		}
	}
}

// 7.4: each code is taken or fails, by the RFC's ranges and IANA's registry.
func TestCloseCodes(t *testing.T) {
	allowed := func(code uint16) bool {
		switch code {
		case 1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014:
			return true
		}
		return code >= 3000 && code < 5000
	}
	for code := range 1 << 16 {
		p := openPeer(t, &testLimits)
		p.feed(closeFrame(uint16(code), ""))
		sent := uint16(1002)
		if allowed(uint16(code)) {
			p.want(t, fmt.Sprintf(`peer close %d ""`, code), failure(ErrPeerClosed))
			sent = uint16(code)
		} else {
			p.want(t, failure(ErrCloseCode))
		}
		if !bytes.Equal(p.out, serverClose(sent, "")) {
			t.Fatalf("code %d: sent % x, want %d", code, p.out, sent)
		}
		if t.Failed() {
			t.Fatalf("code %d", code)
		}
	}
}

func TestCloseFrames(t *testing.T) {
	long := strings.Repeat("ä", 100)
	for _, c := range []struct {
		rule   string
		code   ws.StatusCode
		reason string
		want   []byte
	}{
		{"5.5.1 a code and a reason", 4501, "token revoked", serverClose(4501, "token revoked")},
		{"7.4.1 1005 is never sent", ws.StatusNoStatusRcvd, "x", serverFrame(ws.OpClose, "")},
		{"a zero code is none", 0, "", serverFrame(ws.OpClose, "")},
		{"7.4.1 1006 is never sent", ws.StatusAbnormalClosure, "x", serverClose(1011, "x")},
		{"7.4.2 nor what is not in use", 999, "", serverClose(1011, "")},
		{"5.5 a reason is cut between characters", 1000, long, serverClose(1000, long[:122])},
		{"5.5.1 a reason that is not UTF-8 is left out", 1000, "\xff", serverClose(1000, "")},
	} {
		p := openPeer(t, &testLimits)
		got := p.c.Close(c.code, c.reason, p.l, testNow, []byte("before"))
		if want := append([]byte("before"), c.want...); !bytes.Equal(got, want) {
			t.Errorf("%s: % x, want % x", c.rule, got, want)
		}
		if n := len(got) - len("before") - 2; n > ws.MaxControlFramePayloadSize {
			t.Errorf("%s: a close frame of %d bytes", c.rule, n)
		}
	}
	if !utf8.ValidString(long[:122]) {
		t.Fatal("the row about cutting wants a cut between characters")
	}
}

func TestWeClose(t *testing.T) {
	limits := testLimits
	limits.ClosingBytes = 200
	for _, c := range []struct {
		rule   string
		before []byte // fed before Close
		after  []byte // fed after
		state  State
		closes bool // by the peer's close frame
	}{
		{"7.1.2 nothing has come", nil, nil, StateClosing, false},
		{"7.1.2 the peer's close frame ends it", nil, closeFrame(1000, ""), StateClosed, true},
		{"7.1.2 an empty one too", nil, frame(fin|8, ""), StateClosed, true},
		{"5.5.1 messages are discarded", nil, cat(textFrame("a"), textFrame("")), StateClosing, false},
		{"5.5.1 up to the close frame", nil, cat(textFrame("a"), pingFrame("b"), closeFrame(1000, "x"), textFrame("c")), StateClosed, true},
		{"a message cut by our close frame is skipped", textFrame("abcdef")[:8], cat(textFrame("abcdef")[8:], closeFrame(1000, "")), StateClosed, true},
		{"so is a head cut by it", textFrame("abcdef")[:3], cat(textFrame("abcdef")[3:], closeFrame(1000, "")), StateClosed, true},
		{"so is a ping within a message", cat(frame(text, "a"), pingFrame("abcdef")[:8]), cat(pingFrame("abcdef")[8:], frame(fin|cont, "b"), closeFrame(1000, "")), StateClosed, true},
		{"so is the close frame itself", closeFrame(1000, "x")[:7], closeFrame(1000, "x")[7:], StateClosed, true},
		{"a payload that looks like a close frame is none", nil, frame(fin|bin, string(closeFrame(1000, ""))), StateClosing, false},
		{"what is no frame ends it", nil, frame(fin|3, ""), StateClosed, false},
		{"a continuation of nothing ends it", nil, frame(fin|cont, ""), StateClosed, false},
		{"a length out of range ends it", nil, longForm(fin|text, 64, 1<<63), StateClosed, false},
		{"a large message is skipped", nil, declared(fin|text, 1<<40), StateClosing, false},
		{"as much as may be discarded", nil, frame(fin|bin, strings.Repeat("x", 192)), StateClosing, false},
		{"more than may be discarded", nil, frame(fin|bin, strings.Repeat("x", 193)), StateClosed, false},
	} {
		for how, feed := range cuts {
			p := openPeer(t, &limits)
			p.feed(c.before)
			p.out = p.c.Close(1001, "bye", p.l, testNow, nil)
			if !bytes.Equal(p.out, serverClose(1001, "bye")) {
				t.Fatalf("%s: sent % x", c.rule, p.out)
			}
			if held(&p.c) > 0 {
				t.Errorf("%s (%s): a closing connection keeps a buffer", c.rule, how)
			}
			feed(p, c.after)
			if p.c.State() != c.state {
				t.Errorf("%s (%s): %v, want %v", c.rule, how, p.c.State(), c.state)
			}
			if got, want := p.c.PeerClosed(), c.state == StateClosed && c.closes; got != want {
				t.Errorf("%s (%s): PeerClosed is %t", c.rule, how, got)
			}
			p.want(t) // none: nothing is delivered, nothing is reported
			out := p.c.Close(1000, "", p.l, testNow, p.out)
			if out = p.c.Ping(nil, out); !bytes.Equal(out, serverClose(1001, "bye")) {
				t.Errorf("%s (%s): sent % x after our close frame", c.rule, how, out)
			}
		}
	}
}

// After an error the peer's close frame may already be there, or on its way.
func TestCloseAfterError(t *testing.T) {
	limits := testLimits
	limits.MessageBytes = 200
	long := strings.Repeat("x", 201)
	for _, c := range []struct {
		rule  string
		in    []byte
		code  uint16
		state State
	}{
		{"a refused message waits for the peer's close frame", textFrame("no"), 1008, StateClosing},
		{"which may have come with it", cat(textFrame("no"), textFrame("x"), closeFrame(1000, "")), 1008, StateClosed},
		{"what is too big is skipped", cat(textFrame(long), textFrame("x"), closeFrame(1000, "")), 1009, StateClosed},
		{"as it comes", textFrame(long)[:150], 1009, StateClosing},
		{"7.1.7 a breach of the protocol does not wait", frame(fin|3, ""), 1002, StateClosed},
		{"7.1.7 nor does a text that is not UTF-8", textFrame(broken), 1007, StateClosed},
	} {
		for how, feed := range cuts {
			p := openPeer(t, &limits)
			p.refuse = "no"
			feed(p, c.in)
			if p.c.State() != c.state || !bytes.Equal(p.out, serverClose(c.code, "")) {
				t.Errorf("%s (%s): %v, sent % x; want %v, %d", c.rule, how, p.c.State(), p.out, c.state, c.code)
			}
		}
	}
}

// Between an error and its answer nothing is taken, and the wait is bounded
// even if the answer never comes.
func TestErrorLeftUnanswered(t *testing.T) {
	p := openPeer(t, &testLimits)
	p.refuse = "no"
	in := cat(textFrame("no"), closeFrame(1000, ""))
	if _, err := p.c.Feed(in, p.l, testNow, p, nil); err != errRefused {
		t.Fatal(err)
	}
	if out, err := p.c.Feed(textFrame("x"), p.l, testNow, p, nil); err != nil || len(out) != 0 {
		t.Fatalf("the next bytes: % x, %v", out, err)
	}
	p.want(t, message(text, "no"))
	if p.c.State() != StateClosing || !p.c.Deadline().Equal(testNow.Add(testLimits.CloseTimeout)) {
		t.Fatalf("%v until %v", p.c.State(), p.c.Deadline())
	}
	if out := p.c.Close(1008, "", p.l, testNow, nil); !bytes.Equal(out, serverClose(1008, "")) || p.c.State() != StateClosed {
		t.Fatalf("answered: % x, %v", out, p.c.State())
	}
	t.Run("answered late, the peer has its time", func(t *testing.T) {
		p := openPeer(t, &testLimits)
		p.refuse = "no"
		if _, err := p.c.Feed(textFrame("no"), p.l, testNow, p, nil); err != errRefused {
			t.Fatal(err)
		}
		later := testNow.Add(time.Second)
		p.c.Close(1008, "", p.l, later, nil)
		if !p.c.Deadline().Equal(later.Add(testLimits.CloseTimeout)) {
			t.Error(p.c.Deadline())
		}
	})
}

func TestDeadlines(t *testing.T) {
	const tick = time.Second
	limits := testLimits
	limits.HandshakeTimeout, limits.MessageTimeout, limits.CloseTimeout = 5*tick, 7*tick, 3*tick
	at := func(n int) time.Time { return testNow.Add(time.Duration(n) * tick) }

	t.Run("the head, however it trickles", func(t *testing.T) {
		p := newPeer(&limits)
		for i := range 5 {
			p.now = at(i)
			p.feed([]byte(goodHead[i : i+1]))
			if !p.c.Deadline().Equal(at(5)) {
				t.Fatalf("deadline %v at %d", p.c.Deadline(), i)
			}
		}
		if err := p.c.Expire(p.l, at(5).Add(-1)); err != nil {
			t.Fatalf("early: %v", err)
		}
		if err := p.c.Expire(p.l, at(5)); err != ErrHandshakeTimeout || held(&p.c) > 0 {
			t.Fatal(err)
		}
		if _, err := p.c.Feed([]byte(goodHead[5:]), p.l, at(5), p, nil); err != nil {
			t.Fatal(err)
		}
		p.want(t)
		if out := p.c.Refuse(&Refusal{Status: 408}, at(5), nil); !bytes.HasPrefix(out, []byte("HTTP/1.1 408 Request Timeout\r\n")) {
			t.Fatalf("%q", out)
		}
		if p.c.State() != StateClosed || !p.c.Deadline().IsZero() {
			t.Fatal("still there")
		}
	})
	t.Run("a head whose timeout nobody answers", func(t *testing.T) {
		p := newPeer(&limits)
		for range 2 {
			if err := p.c.Expire(p.l, at(5)); err != ErrHandshakeTimeout {
				t.Fatal(err)
			}
		}
		if p.c.State() != StateClosed {
			t.Fatal(p.c.State())
		}
	})
	t.Run("none while verifying", func(t *testing.T) {
		p := newPeer(&limits)
		p.dontAsk = true
		p.feed([]byte(goodHead))
		if !p.c.Deadline().IsZero() || p.c.Expire(p.l, at(1000)) != nil {
			t.Fatal(p.c.Deadline())
		}
	})
	t.Run("a message from its first byte, whatever pings come", func(t *testing.T) {
		for name, begin := range map[string][]byte{
			"a byte of a head":  textFrame("abc")[:1],
			"a whole head":      textFrame("abc")[:6],
			"a frame in part":   textFrame("abc")[:8],
			"a first fragment":  frame(text, "abc"),
			"an empty fragment": frame(text, ""),
		} {
			p := openPeer(t, &limits)
			p.feed(textFrame("before"))
			p.now = at(1)
			p.feed(begin)
			for i := 2; i < 8 && begin[0]&fin == 0; i++ {
				p.now = at(i)
				p.bytewise(pingFrame("still here"))
				p.feed(frame(cont, "x"))
			}
			if !p.c.Deadline().Equal(at(8)) {
				t.Errorf("%s: deadline %v, want %v", name, p.c.Deadline(), at(8))
			}
			if err := p.c.Expire(p.l, at(8)); err != ErrMessageTimeout || p.c.State() != StateClosing || held(&p.c) > 0 {
				t.Errorf("%s: %v, %v", name, err, p.c.State())
			}
			out := p.c.Close(1008, "", p.l, at(8), nil)
			if !bytes.Equal(out, serverClose(1008, "")) || !p.c.Deadline().Equal(at(11)) {
				t.Errorf("%s: sent % x until %v", name, out, p.c.Deadline())
			}
		}
	})
	t.Run("each message has its own", func(t *testing.T) {
		p := openPeer(t, &limits)
		first, second := textFrame("first"), textFrame("second")
		p.feed(first[:7])
		p.now = at(3)
		p.feed(cat(first[7:], second[:7]))
		if !p.c.Deadline().Equal(at(10)) {
			t.Errorf("deadline %v, want %v", p.c.Deadline(), at(10))
		}
		p.feed(second[7:])
		if !p.c.Deadline().IsZero() {
			t.Errorf("idle, but deadline %v", p.c.Deadline())
		}
	})
	t.Run("a control frame in part", func(t *testing.T) {
		p := openPeer(t, &limits)
		ping, next := pingFrame("ping"), textFrame("next")
		p.feed(ping[:8])
		if !p.c.Deadline().Equal(at(7)) {
			t.Errorf("deadline %v, want %v", p.c.Deadline(), at(7))
		}
		p.now = at(2)
		p.feed(cat(ping[8:], next[:3]))
		if !p.c.Deadline().Equal(at(9)) {
			t.Errorf("deadline %v, want the message's %v", p.c.Deadline(), at(9))
		}
	})
	t.Run("the closing handshake", func(t *testing.T) {
		p := openPeer(t, &limits)
		p.c.Close(1000, "", p.l, at(2), nil)
		if !p.c.Deadline().Equal(at(5)) {
			t.Errorf("deadline %v, want %v", p.c.Deadline(), at(5))
		}
		p.now = at(4)
		p.feed(textFrame("x"))
		if err := p.c.Expire(p.l, at(5)); err != ErrCloseTimeout || p.c.State() != StateClosed {
			t.Errorf("%v, %v", err, p.c.State())
		}
		if err := p.c.Expire(p.l, at(6)); err != nil {
			t.Errorf("once closed: %v", err)
		}
	})
}
