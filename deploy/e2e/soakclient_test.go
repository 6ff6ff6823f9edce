//go:build e2e

package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// soakClient is one connection of a soak.
type soakClient struct {
	k   *soak
	n   *node
	tls bool
	r   *rand.Rand

	tcp  *net.TCPConn
	conn net.Conn // tcp, or TLS over it
	sock *socket
}

// raw connects, and no more.
func (c *soakClient) raw() error {
	at := c.n.plain
	if c.tls {
		at = c.n.wss
	}
	nc, err := net.DialTimeout("tcp", at, patience)
	if err != nil {
		return err
	}
	c.tcp = nc.(*net.TCPConn)
	c.conn = nc
	return nc.SetDeadline(time.Now().Add(patience))
}

// connect connects, over TLS where the client has that.
func (c *soakClient) connect() error {
	if err := c.raw(); err != nil || !c.tls {
		return err
	}
	over := tls.Client(c.tcp, c.k.s.clientTLS())
	c.conn = over
	return over.Handshake()
}

// head is an opening handshake with a token.
func head(path, token string) []byte {
	return []byte("GET " + path + " HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nAuthorization: Bearer " + token + "\r\n\r\n")
}

// open opens a WebSocket.
func (c *soakClient) open(path, token string) error {
	if err := c.connect(); err != nil {
		return err
	}
	if _, err := c.conn.Write(head(path, token)); err != nil {
		return err
	}
	answer := make([]byte, 0, 512)
	for !strings.HasSuffix(string(answer), "\r\n\r\n") { // a byte at a time: what follows is frames
		one := make([]byte, 1)
		if _, err := c.conn.Read(one); err != nil {
			return fmt.Errorf("answer %q: %w", answer, err)
		}
		answer = append(answer, one...)
	}
	if strings.HasPrefix(string(answer), "HTTP/1.1 503 ") {
		return errBusy
	}
	if !strings.HasPrefix(string(answer), "HTTP/1.1 101 ") {
		return fmt.Errorf("%w: %.60s", errNot101, answer)
	}
	c.sock = &socket{t: c.k.t, nc: c.conn, r: c.conn}
	return nil
}

var (
	errNot101 = errors.New("refused")
	errBusy   = errors.New("come back later")
)

// echo has a text of n bytes echoed.
func (c *soakClient) echo(n int) error {
	text := strings.Repeat("x", n)
	if err := wsutil.WriteClientText(c.conn, []byte(text)); err != nil {
		return err
	}
	got, err := c.sock.receive()
	if err == nil && got != text {
		err = fmt.Errorf("echo of %d bytes has %d", n, len(got))
	}
	return err
}

// wantClose reads to the close frame, and answers it.
func (c *soakClient) wantClose(code ws.StatusCode) error {
	for {
		_, err := c.sock.receive()
		var closed *errClosed
		switch {
		case err == nil:
		case errors.As(err, &closed) && closed.code == code:
			return nil
		default:
			return fmt.Errorf("%w, want close %d", err, code)
		}
	}
}

// leave closes with 1000, and wants an answer.
func (c *soakClient) leave() error {
	if err := ws.WriteFrame(c.conn, ws.MaskFrame(ws.NewCloseFrame(ws.NewCloseFrameBody(1000, "")))); err != nil {
		return err
	}
	return c.wantClose(1000)
}

// reset ends the connection, if there is one, by a RST.
func (c *soakClient) reset() {
	if c.tcp != nil {
		_ = c.tcp.SetLinger(0)
		_ = c.tcp.Close()
	}
}

func (k *soak) echoes(c *soakClient) error {
	if err := c.open("/raw", k.issue().GetToken()); err != nil {
		return err
	}
	for range 20 {
		if err := c.echo(c.r.IntN(300)); err != nil {
			return err
		}
	}
	return c.leave()
}

func (k *soak) large(c *soakClient) error {
	if err := c.open("/raw", k.issue().GetToken()); err != nil {
		return err
	}
	for range 5 {
		if err := c.echo(30_000 + c.r.IntN(35_000)); err != nil {
			return err
		}
	}
	return c.leave()
}

func (k *soak) renews(c *soakClient) error {
	if err := c.open("/raw", k.issue().GetToken()); err != nil {
		return err
	}
	if err := wsutil.WriteClientText(c.conn, []byte(`{"gatehouse": "renew", "token": "`+k.issue().GetToken()+`"}`)); err != nil {
		return err
	}
	switch got, err := c.sock.receive(); {
	case err != nil:
		return err
	case strings.Contains(got, "renew_failed"):
		return errBusy
	case !strings.Contains(got, "renewed"):
		return fmt.Errorf("answer to a renewal: %q", got)
	}
	if err := c.echo(100); err != nil {
		return err
	}
	return c.leave()
}

func (k *soak) revoked(c *soakClient) error {
	r := k.issue()
	if err := c.open("/raw", r.GetToken()); err != nil {
		return err
	}
	if err := c.echo(100); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := pb.NewRevocationServiceClient(k.admin).Revoke(ctx, &pb.RevokeRequest{
		Selector: &pb.Selector{By: &pb.Selector_TokenId{TokenId: r.GetTokenId()}}, Reason: "soak"}); err != nil {
		return err
	}
	return c.wantClose(4501)
}

func (k *soak) refused(c *soakClient) error {
	if err := c.open("/nowhere", k.issue().GetToken()); !errors.Is(err, errNot101) { // before anybody is asked
		return fmt.Errorf("no refusal: %w", err)
	}
	return nil
}

func (k *soak) invalid(c *soakClient) error {
	if err := c.open("/chat", k.issue().GetToken()); err != nil {
		return err
	}
	if err := wsutil.WriteClientText(c.conn, []byte(`{"type":"admin"}`)); err != nil {
		return err
	}
	return c.wantClose(1008)
}

// slow sends and does not read until the node has enough of it, one way or another.
func (k *soak) slow(c *soakClient) error {
	if err := c.raw(); err != nil {
		return err
	}
	_ = c.tcp.SetReadBuffer(4096)
	if c.tls {
		over := tls.Client(c.tcp, k.s.clientTLS())
		c.conn = over
		if err := over.Handshake(); err != nil {
			return err
		}
	}
	if _, err := c.conn.Write(head("/raw", k.issue().GetToken())); err != nil {
		return err
	}
	_ = c.tcp.SetWriteDeadline(time.Now().Add(time.Second))
	message := ws.MustCompileFrame(ws.MaskFrame(ws.NewTextFrame(make([]byte, 60_000))))
	for range 90 { // what messages a second allow at once
		if _, err := c.conn.Write(message); err != nil {
			return nil // it stopped reading, or closed
		}
	}
	return nil
}

func (k *soak) resetEarly(c *soakClient) error {
	if err := c.raw(); err != nil {
		return err
	}
	begun := head("/raw", "x")[:40]
	if c.tls {
		begun = []byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03") // a ClientHello
		if c.r.IntN(2) == 0 {                                          // or a whole one, and the node's answer
			_ = tls.Client(&firstFlight{Conn: c.tcp}, k.s.clientTLS()).Handshake()
			return nil
		}
	}
	_, err := c.conn.Write(begun)
	return err
}

// firstFlight is a connection of which a byte can be read.
type firstFlight struct {
	net.Conn
	over bool
}

func (f *firstFlight) Read(p []byte) (int, error) {
	if f.over {
		return 0, io.EOF
	}
	f.over = true
	return f.Conn.Read(p[:1])
}

func (k *soak) resetVerifying(c *soakClient) error {
	if err := c.connect(); err != nil {
		return err
	}
	_, err := c.conn.Write(head("/raw", k.issue().GetToken()))
	return err
}

func (k *soak) resetOpen(c *soakClient) error {
	if err := c.open("/raw", k.issue().GetToken()); err != nil {
		return err
	}
	return c.echo(10)
}

func (k *soak) resetWithin(c *soakClient) error {
	if err := c.open("/raw", k.issue().GetToken()); err != nil {
		return err
	}
	f := ws.MustCompileFrame(ws.MaskFrame(ws.NewTextFrame(make([]byte, 10_000))))
	_, err := c.conn.Write(f[:1+c.r.IntN(len(f)-1)])
	return err
}

func (k *soak) resetClosing(c *soakClient) error {
	if err := c.open("/raw", k.issue().GetToken()); err != nil {
		return err
	}
	if c.r.IntN(2) == 0 { // the node lingers
		return c.leave()
	}
	return wsutil.WriteClientText(c.conn, []byte("\xff")) // the node waits for an answer
}

// silent waits until the node ends a connection of whom it hears nothing.
func (k *soak) silent(c *soakClient) error {
	if err := c.raw(); err != nil {
		return err
	}
	if c.r.IntN(4) == 0 {
		_, _ = io.Copy(io.Discard, c.tcp) // to the end of it, however that is told
	}
	return nil
}
