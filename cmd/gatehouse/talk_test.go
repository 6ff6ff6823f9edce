package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
)

// talkTo is the URL of a node that is only what serve makes of a connection.
func talkTo(t *testing.T, serve func(conn net.Conn)) string {
	t.Helper()
	return "ws://" + listen(t, serve) + "/chat"
}

// accept upgrades conn.
func accept(t *testing.T, conn net.Conn) {
	t.Helper()
	if _, err := (ws.Upgrader{Protocol: func([]byte) bool { return true }}).Upgrade(conn); err != nil {
		t.Error(err)
	}
}

func closeWith(conn net.Conn, code ws.StatusCode, reason string) {
	_ = ws.WriteFrame(conn, ws.NewCloseFrame(ws.NewCloseFrameBody(code, reason)))
	_, _ = io.Copy(io.Discard, conn) // the answer, until the client has closed
}

const talkHint = "gatehouse: hint: " + refusalHint + "\n"

func (c *caller) talk(stdin, url string) result {
	got := c.run(stdin, "connect", url, "--subject=u42", "--audience=chat")
	got.stderr = strings.ReplaceAll(got.stderr, url, "URL")
	return got
}

func TestConnectRefusedByHTTP(t *testing.T) {
	for status, code := range map[int]exitCode{
		http.StatusBadRequest: exitFailure, http.StatusUnauthorized: exitDenied, http.StatusForbidden: exitDenied,
		http.StatusNotFound: exitNotFound, http.StatusTooManyRequests: exitFailure, http.StatusServiceUnavailable: exitUnavailable,
	} {
		url := talkTo(t, func(conn net.Conn) {
			buf := make([]byte, 4096)
			_, _ = conn.Read(buf)
			fmt.Fprintf(conn, "HTTP/1.1 %d X\r\nContent-Length: 8\r\n\r\ntold_why", status)
		})
		c := newCaller(t)
		c.check(c.talk("", url), code, "", fmt.Sprintf("gatehouse: error: the node refused the handshake with %d: told_why\n", status)+talkHint)
	}
}

// A refusal by close frame comes after the 101, and is no session all the same.
func TestConnectRefusedByClose(t *testing.T) {
	for _, tc := range []struct {
		code   ws.StatusCode
		reason string
		exit   exitCode
	}{
		{4401, "token_inactive", exitDenied}, {4504, "origin_not_allowed", exitDenied}, {4500, "no_such_route", exitNotFound},
		{4500, "version_not_supported", exitFailure}, {4029, "too_many_requests", exitFailure}, {1013, "unavailable", exitUnavailable},
	} {
		url := talkTo(t, func(conn net.Conn) {
			accept(t, conn)
			closeWith(conn, tc.code, tc.reason)
		})
		c := newCaller(t)
		c.check(c.talk("", url), tc.exit, "", fmt.Sprintf("gatehouse: error: the node refused the handshake by closing with %d %s\n", tc.code, tc.reason)+talkHint)
	}
}

func TestConnectIsClosed(t *testing.T) {
	id, _ := testToken(1)
	connected := "gatehouse: connected with token " + id.String() + "; a line is a message, Ctrl-D ends\n"
	for _, tc := range []struct {
		code   ws.StatusCode
		reason string
		stderr string
	}{
		{4501, "token revoked", "gatehouse: error: the node closed with 4501 token revoked\ngatehouse: hint: this must not be retried\n"},
		{4029, "too many messages", "gatehouse: error: the node closed with 4029 too many messages\n"},
		{1013, "reading too slowly", "gatehouse: error: the node closed with 1013 reading too slowly\n"},
	} {
		url := talkTo(t, func(conn net.Conn) {
			accept(t, conn)
			closeWith(conn, tc.code, tc.reason)
		})
		c := newCaller(t)
		c.check(c.talk("", url), exitFailure, "", connected+tc.stderr)
	}
}

// A line that is too long is not passed over in silence.
func TestConnectTellsOfALineTooLong(t *testing.T) {
	var mu sync.Mutex
	var got []string
	url := talkTo(t, func(conn net.Conn) {
		accept(t, conn)
		for {
			text, err := wsutil.ReadClientText(conn) // answers the close
			if err != nil {
				return
			}
			mu.Lock()
			got = append(got, string(text))
			mu.Unlock()
		}
	})
	c := newCaller(t)
	said := c.talk("first\n"+strings.Repeat("x", maxShown+1)+"\nlast\n", url)
	if said.code != exitFailure || !strings.HasSuffix(said.stderr, "gatehouse: error: a line is longer than 1048576 bytes: it was not sent, and nothing after it\n") {
		t.Errorf("exit code %d: %s", said.code, said.stderr)
	}
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(got, []string{"first"}) {
		t.Errorf("%d messages came", len(got))
	}
}

// Pings are answered while lines are sent; frames do not get into each other.
func TestConnectWritesFramesWhole(t *testing.T) {
	const lines = 300
	url := talkTo(t, func(conn net.Conn) {
		accept(t, conn)
		ended, pinged := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(pinged)
			for {
				select {
				case <-ended:
					return
				case <-time.After(100 * time.Microsecond):
					_ = ws.WriteFrame(conn, ws.NewPingFrame([]byte("still there?")))
				}
			}
		}()
		texts := 0
		for {
			h, err := ws.ReadHeader(conn)
			payload := make([]byte, min(h.Length, 1000))
			if _, readErr := io.ReadFull(conn, payload); err != nil || readErr != nil {
				t.Errorf("after %d texts: %v, %v", texts, err, readErr)
				return
			}
			ws.Cipher(payload, h.Mask, 0)
			switch {
			case h.OpCode == ws.OpText && string(payload) == strings.Repeat("x", 1000):
				texts++
			case h.OpCode == ws.OpPong && string(payload) == "still there?":
			case h.OpCode == ws.OpClose:
				if texts != lines {
					t.Errorf("%d texts came, want %d", texts, lines)
				}
				close(ended)
				<-pinged
				_ = ws.WriteFrame(conn, ws.NewCloseFrame(payload))
				return
			default:
				t.Errorf("a frame in pieces: %v", h)
				return
			}
		}
	})
	c := newCaller(t)
	if got := c.talk(strings.Repeat(strings.Repeat("x", 1000)+"\n", lines), url); got.code != exitOK {
		t.Errorf("%+v", got)
	}
}

func TestConnectToACertificateOfNobody(t *testing.T) {
	foreign := newCA()
	url := strings.Replace(talkTo(t, func(conn net.Conn) {
		_ = tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{foreign.server}}).Handshake()
	}), "ws:", "wss:", 1)
	c := newCaller(t)
	got := c.talk("", url)
	if got.code != exitUnavailable || !strings.HasSuffix(got.stderr, "gatehouse: hint: its certificate must be for the name in the URL, and of a CA that this system or DIR/ca.crt knows\n") {
		t.Errorf("%+v", got)
	}
}
