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
	"sync"
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
	codeTryAgainLater  ws.StatusCode = 1013
	maxShown                         = 1 << 20 // bytes of one message
	closeWait                        = 5 * time.Second
	// refusalWait is how long a refusal by close frame may follow the 101.
	refusalWait = 300 * time.Millisecond
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
	return c.converse(ctx, s, issued.GetTokenId())
}

// socket is an open WebSocket.
type socket struct {
	nc net.Conn
	in io.Reader

	mu sync.Mutex // held while a frame is written
}

// write sends a frame whole: what is typed and what answers a ping come from
// two goroutines.
func (s *socket) write(f ws.Frame) error {
	b, err := ws.CompileFrame(ws.MaskFrame(f))
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err = s.nc.Write(b)
	return err
}

const refusalHint = "the node's log tells the exact cause under the handshake's id"

// statusRefusals says how a handshake that was refused by HTTP ends the process.
// Others are failures.
var statusRefusals = map[int]exitCode{
	http.StatusUnauthorized: exitDenied, http.StatusForbidden: exitDenied,
	http.StatusNotFound: exitNotFound, http.StatusServiceUnavailable: exitUnavailable,
}

// closeRefusals tells a handshake that was refused by a close frame from a
// session that was closed, and how it ends the process. An empty reason fits
// any; the first match wins.
var closeRefusals = []struct {
	code   ws.StatusCode
	reason string
	exit   exitCode
}{
	{4401, "", exitDenied},
	{4504, "", exitDenied},
	{4500, "no_such_route", exitNotFound},
	{4500, "", exitFailure},
	{4029, "too_many_requests", exitFailure},
	{codeTryAgainLater, "unavailable", exitUnavailable},
	{codeTryAgainLater, "request_timeout", exitUnavailable},
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
			exit, ok := statusRefusals[status]
			if !ok {
				exit = exitFailure
			}
			refused = failed(exit, refusalHint, "the node refused the handshake with %d: %s", status, plain(said))
		},
	}
	nc, buffered, _, err := d.Dial(ctx, target)
	if refused != nil {
		return nil, refused
	}
	if errors.As(err, new(*tls.CertificateVerificationError)) {
		return nil, failed(exitUnavailable, "its certificate must be for the name in the URL, and of a CA that this system or "+cl.settings.CAFile+" knows", "connect to %s: %w", target, err)
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
func (c *cli) converse(ctx context.Context, s *socket, tokenID string) error {
	stop := context.AfterFunc(ctx, func() { _ = s.nc.Close() }) // ends both directions
	defer stop()
	heard, said, done := make(chan struct{}), make(chan error, 1), make(chan error, 1)
	go func() { done <- c.hear(s, sync.OnceFunc(func() { close(heard) })) }() // ends with the connection, which talk closes
	go func() {                                                               // ends with the input; a terminal's ends with the process
		said <- c.say(s) // before the node can answer the close
		_ = s.nc.SetReadDeadline(time.Now().Add(closeWait))
		_ = s.write(ws.NewCloseFrame(ws.NewCloseFrameBody(ws.StatusNormalClosure, "")))
	}()
	var err error
	select { // a refusal comes at once, before anything else
	case err = <-done:
		if refused := asRefusal(err); refused != nil {
			return refused
		}
	case <-heard:
	case <-time.After(refusalWait):
	}
	c.note("connected with token %s; a line is a message, Ctrl-D ends", tokenID)
	if err == nil {
		err = <-done
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	select {
	case unsaid := <-said:
		if unsaid != nil {
			return unsaid
		}
	default: // the node ended it
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

// asRefusal is the failure of a handshake that was refused by a close frame; nil
// for the end of a session.
func asRefusal(err error) error {
	var end *closed
	if !errors.As(err, &end) {
		return nil
	}
	for _, r := range closeRefusals {
		if r.code == end.code && (r.reason == "" || r.reason == end.reason) {
			return failed(r.exit, refusalHint, "the node refused the handshake by closing with %d %s", end.code, plain(end.reason))
		}
	}
	return nil
}

// say sends what is typed, a message a line. It returns why the input ended
// early; the reader tells why the connection did.
func (c *cli) say(s *socket) error {
	lines := bufio.NewScanner(c.stdin)
	lines.Buffer(nil, maxShown)
	for lines.Scan() {
		if len(lines.Bytes()) == 0 {
			continue
		}
		if s.write(ws.NewTextFrame(lines.Bytes())) != nil {
			return nil
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return failed(exitFailure, "", "a line is longer than %d bytes: it was not sent, and nothing after it", maxShown)
	case err != nil:
		return failed(exitFailure, "", "read standard input: %w", err)
	}
	return nil
}

// hear prints messages until the connection ends, and tells why it did. open is
// called at each frame that only a session gets.
func (c *cli) hear(s *socket, open func()) error {
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
		if h.OpCode != ws.OpClose {
			open()
		}
		switch h.OpCode {
		case ws.OpPing:
			_ = s.write(ws.NewPongFrame(payload)) // a node that is gone may have said why
		case ws.OpClose:
			_ = s.write(ws.NewCloseFrame(payload[:min(len(payload), 2)]))
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
