package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/gobwas/ws"
	"github.com/spf13/cobra"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

const connectHelp = `Open a WebSocket on a node with a token that is issued for the purpose, send it
what is typed, a message a line, and print what comes back.

It ends with the input's end, or when the node closes; then the close code and
reason are printed. wss is verified with the authority's CA and the system's.`

const connectExample = `  gatehouse connect ws://localhost:8081/chat --subject u42 --audience chat
  echo '{"type":"chat","text":"hello"}' | gatehouse connect wss://localhost:8443/chat --subject u42 --audience chat`

const (
	codeServiceRestart ws.StatusCode = 1012
	maxShown                         = 1 << 20 // bytes of one message
	closeWait                        = 5 * time.Second
)

// talkOptions are the flags of gatehouse connect.
type talkOptions struct {
	req    pb.IssueTokenRequest
	origin string
}

func (c *cli) connectCommand() *cobra.Command {
	var o talkOptions
	cmd := &cobra.Command{
		Use: "connect URL --subject USER --audience AUDIENCE", Short: "Open a WebSocket with a fresh token and talk",
		Long: connectHelp, Example: connectExample, Args: oneArg("the URL of a node's route"),
		RunE: func(cmd *cobra.Command, args []string) error { return c.talk(cmd.Context(), args[0], &o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.req.Subject, "subject", "", "the user's id in the application (required)")
	f.StringVar(&o.req.Audience, "audience", "", "the audience of the route (required)")
	f.StringVar(&o.req.Tenant, "tenant", "", "the tenant; the credential's only one, or default")
	f.StringVar(&o.origin, "origin", "", "the Origin to send, for routes that want one")
	return cmd
}

func (c *cli) talk(ctx context.Context, target string, o *talkOptions) error {
	u, err := url.Parse(target)
	if err != nil || u.Scheme != "ws" && u.Scheme != "wss" || u.Host == "" {
		return usagef("%q is not a ws:// or wss:// URL", target)
	}
	cl, err := c.connect()
	if err != nil {
		return err
	}
	defer cl.close()
	issued, err := cl.tokens.IssueToken(ctx, &o.req)
	if err != nil {
		return err
	}
	s, err := cl.openSocket(ctx, target, issued.GetToken(), o.origin)
	if err != nil {
		return err
	}
	defer func() { _ = s.nc.Close() }() // it is over by then
	c.note("connected with token %s; a line is a message, Ctrl-D ends", issued.GetTokenId())
	return c.converse(ctx, s)
}

// socket is an open WebSocket.
type socket struct {
	nc net.Conn
	in io.Reader
}

// openSocket makes the opening handshake. A refusal by HTTP is an error that
// holds what the node said.
func (cl *client) openSocket(ctx context.Context, target, token, origin string) (*socket, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if ca, err := os.ReadFile(cl.settings.CAFile); err == nil {
		pool.AppendCertsFromPEM(ca)
	}
	h := http.Header{"Authorization": {"Bearer " + token}}
	if origin != "" {
		h.Set("Origin", origin)
	}
	var refused error
	d := ws.Dialer{
		Timeout: cl.settings.CallTimeout, TLSConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
		Header: ws.HandshakeHeaderHTTP(h), Protocols: []string{"gatehouse.v1"},
		OnStatusError: func(status int, _ []byte, resp io.Reader) {
			said := http.StatusText(status)
			if r, err := http.ReadResponse(bufio.NewReader(resp), nil); err == nil {
				if body, err := io.ReadAll(io.LimitReader(r.Body, 1024)); err == nil {
					said = text(body)
				}
			}
			refused = failed(exitDenied, "the node's log tells the exact cause under the handshake's id", "the node refused the handshake with %d: %s", status, plain(said))
		},
	}
	nc, buffered, _, err := d.Dial(ctx, target)
	if refused != nil {
		return nil, refused
	}
	if err != nil {
		return nil, failed(exitUnavailable, "is a node listening there?", "connect to %s: %w", target, err)
	}
	s := &socket{nc: nc, in: nc}
	if buffered != nil { // frames that came with the answer
		s.in = io.MultiReader(io.LimitReader(buffered, int64(buffered.Buffered())), nc)
	}
	return s, nil
}

// closed is the close frame that ended a conversation.
type closed struct {
	code   ws.StatusCode
	reason string
}

func (e *closed) Error() string { return fmt.Sprintf("closed with %d %s", e.code, e.reason) }

// converse copies lines to the socket and messages to stdout until one side
// ends.
func (c *cli) converse(ctx context.Context, s *socket) error {
	stop := context.AfterFunc(ctx, func() { _ = s.nc.Close() }) // ends both directions
	defer stop()
	done := make(chan error, 1)
	go func() { done <- c.hear(s) }() // ends with the connection, which talk closes
	go func() {                       // ends with the input; a terminal's ends with the process
		lines := bufio.NewScanner(c.stdin)
		lines.Buffer(nil, maxShown)
		for lines.Scan() {
			if len(lines.Bytes()) == 0 {
				continue
			}
			if ws.WriteFrame(s.nc, ws.MaskFrame(ws.NewTextFrame(lines.Bytes()))) != nil {
				return // the reader tells why
			}
		}
		_ = s.nc.SetReadDeadline(c.now().Add(closeWait))
		_ = ws.WriteFrame(s.nc, ws.MaskFrame(ws.NewCloseFrame(ws.NewCloseFrameBody(ws.StatusNormalClosure, ""))))
	}()
	err := <-done
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var end *closed
	if !errors.As(err, &end) {
		return failed(exitFailure, "", "the connection broke: %w", err)
	}
	if end.code == ws.StatusNormalClosure {
		return nil
	}
	return failed(exitFailure, closeHint(end.code), "the node closed with %d %s", end.code, plain(end.reason))
}

// hear prints messages until the connection ends, and tells why it did.
func (c *cli) hear(s *socket) error {
	for {
		h, err := ws.ReadHeader(s.in)
		if err != nil {
			return err
		}
		if h.Length > maxShown {
			return fmt.Errorf("a message of %d bytes", h.Length)
		}
		payload := make([]byte, h.Length)
		if _, err := io.ReadFull(s.in, payload); err != nil {
			return err
		}
		switch h.OpCode {
		case ws.OpPing:
			err = ws.WriteFrame(s.nc, ws.MaskFrame(ws.NewPongFrame(payload)))
		case ws.OpClose:
			_ = ws.WriteFrame(s.nc, ws.MaskFrame(ws.NewCloseFrame(payload[:min(len(payload), 2)])))
			code, reason := ws.ParseCloseFrameData(payload)
			return &closed{code, reason}
		case ws.OpText:
			err = c.printf("%s\n", plain(string(payload)))
		case ws.OpBinary:
			err = c.printf("%d bytes\n", len(payload))
		}
		if err != nil {
			return err
		}
	}
}

// closeHint tells whether coming back makes sense.
func closeHint(code ws.StatusCode) string {
	switch {
	case code == codeServiceRestart:
		return "the node restarts: connect again"
	case code == 4401 || code == 4008:
		return "connect again, with a new token"
	case 4500 <= code && code <= 4999:
		return "this must not be retried"
	}
	return ""
}
