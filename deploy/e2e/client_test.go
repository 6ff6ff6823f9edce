//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
)

var farFuture = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)

type zeroReader struct{}

func (zeroReader) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(i*7 + 3)
	}
	return len(b), nil
}

// socket is an open WebSocket.
type socket struct {
	t  *testing.T
	nc net.Conn
	r  io.Reader
}

// errStatus is a handshake that was refused by HTTP.
type errStatus struct {
	code   int
	header http.Header
	body   string
}

func (e *errStatus) Error() string { return http.StatusText(e.code) + ": " + e.body }

// offer is what a client presents.
type offer struct {
	url       string
	tls       *tls.Config
	token     string // in the subprotocol
	bearer    string
	origin    string
	userAgent string
	header    http.Header
	from      string // the client's address; its own on loopback where empty
}

// open makes the opening handshake by hand, so that what a refusal says can be
// read.
func open(t *testing.T, o offer) (*socket, error) {
	t.Helper()
	h := http.Header{}
	for k, v := range o.header {
		h[k] = v
	}
	if o.bearer != "" {
		h.Set("Authorization", "Bearer "+o.bearer)
	}
	if o.origin != "" {
		h.Set("Origin", o.origin)
	}
	if o.userAgent != "" {
		h.Set("User-Agent", o.userAgent)
	}
	var refused errStatus
	d := ws.Dialer{
		Timeout: patience, TLSConfig: o.tls, Header: ws.HandshakeHeaderHTTP(h),
		OnStatusError: func(status int, _ []byte, resp io.Reader) {
			refused.code = status
			if r, err := http.ReadResponse(bufio.NewReader(resp), nil); err == nil {
				b, _ := io.ReadAll(r.Body)
				refused.header, refused.body = r.Header, string(b)
				told(fmt.Sprint(r.Header) + refused.body)
			}
		},
	}
	if o.from != "" {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(o.from)}}
		d.NetDial = dialer.DialContext
	}
	if o.token != "" {
		d.Protocols = []string{"gatehouse.v1", "gatehouse.token." + o.token}
	}
	nc, br, _, err := d.Dial(context.Background(), o.url)
	if refused.code != 0 {
		return nil, &refused
	}
	if err != nil {
		return nil, err
	}
	s := &socket{t: t, nc: nc, r: nc}
	if br != nil {
		s.r = br
	}
	t.Cleanup(func() { _ = nc.Close() })
	return s, nil
}

func mustOpen(t *testing.T, o offer) *socket {
	t.Helper()
	s, err := open(t, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// wantStatus opens and wants a refusal.
func wantStatus(t *testing.T, o offer, code int) *errStatus {
	t.Helper()
	_, err := open(t, o)
	var e *errStatus
	if !errors.As(err, &e) || e.code != code {
		t.Fatalf("handshake: %v, want status %d", err, code)
	}
	return e
}

func (s *socket) send(text string) {
	s.t.Helper()
	if err := wsutil.WriteClientText(s.nc, []byte(text)); err != nil {
		s.t.Fatal(err)
	}
}

// errClosed is a close frame that the node sent.
type errClosed struct {
	code   ws.StatusCode
	reason string
}

func (e *errClosed) Error() string { return fmt.Sprintf("closed with %d %q", e.code, e.reason) }

// receive reads the next text message, and answers pings and the close.
func (s *socket) receive() (string, error) {
	if err := s.nc.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	for {
		h, err := ws.ReadHeader(s.r)
		if err != nil {
			return "", err
		}
		payload := make([]byte, h.Length)
		if _, err := io.ReadFull(s.r, payload); err != nil {
			return "", err
		}
		switch h.OpCode {
		case ws.OpPing:
			err = ws.WriteFrame(s.nc, ws.MaskFrame(ws.NewPongFrame(payload)))
		case ws.OpClose:
			_ = ws.WriteFrame(s.nc, ws.MaskFrame(ws.NewCloseFrame(payload))) // the node may be gone
			code, reason := ws.ParseCloseFrameData(payload)
			return "", &errClosed{code, reason}
		case ws.OpText:
			return string(payload), nil
		}
		if err != nil {
			return "", err
		}
	}
}

// echo sends a message and wants it back.
func (s *socket) echo(text string) {
	s.t.Helper()
	s.send(text)
	if got, err := s.receive(); err != nil || got != text {
		s.t.Fatalf("echo of %q: %q, %v", text, got, err)
	}
}

// wantClose reads until the close frame and wants its code and reason.
func (s *socket) wantClose(code ws.StatusCode, reason string) {
	s.t.Helper()
	for {
		_, err := s.receive()
		if err == nil {
			continue
		}
		var c *errClosed
		if !errors.As(err, &c) || c.code != code || c.reason != reason {
			s.t.Fatalf("%v, want close %d %q", err, code, reason)
		}
		return
	}
}
