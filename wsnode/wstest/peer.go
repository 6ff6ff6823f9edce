package wstest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

// Patience is how long a Peer waits for what it reads.
const Patience = time.Minute

// maxFrame bounds the frames that a Peer reads.
const maxFrame = 16 << 20

// Peer is the client's side of a socket. What it does not find as it wants it
// fails the test. One goroutine at a time, that of the test.
type Peer struct {
	Conn net.Conn
	tb   testing.TB
	r    *bufio.Reader
}

// NewPeer speaks over conn, which is closed when the test ends.
func NewPeer(tb testing.TB, conn net.Conn) *Peer {
	tb.Cleanup(func() { _ = conn.Close() })
	return &Peer{Conn: conn, tb: tb, r: bufio.NewReader(conn)}
}

// Opening is an opening handshake. Zero fields get what a client of RFC 6455
// sends.
type Opening struct {
	Method, Target, Version string // GET, /, HTTP/1.1
	Bearer                  string // a token, or nothing
	Subprotocols            []string
	Origin                  string
	Fields                  []string // further ones, each a line
	Without                 []string // fields to leave out
}

// Bytes is the request.
func (o Opening) Bytes() []byte {
	or := func(v, otherwise string) string {
		if v == "" {
			return otherwise
		}
		return v
	}
	fields := []string{
		"Host: node.example", "Upgrade: websocket", "Connection: Upgrade",
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13",
	}
	if o.Bearer != "" {
		fields = append(fields, "Authorization: Bearer "+o.Bearer)
	}
	if len(o.Subprotocols) > 0 {
		fields = append(fields, "Sec-WebSocket-Protocol: "+strings.Join(o.Subprotocols, ", "))
	}
	if o.Origin != "" {
		fields = append(fields, "Origin: "+o.Origin)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s %s\r\n", or(o.Method, "GET"), or(o.Target, "/"), or(o.Version, "HTTP/1.1"))
next:
	for _, f := range append(fields, o.Fields...) {
		for _, w := range o.Without {
			if strings.HasPrefix(f, w+":") {
				continue next
			}
		}
		b.WriteString(f + "\r\n")
	}
	b.WriteString("\r\n")
	return b.Bytes()
}

// Write sends bytes as they are.
func (p *Peer) Write(b []byte) {
	p.tb.Helper()
	_ = p.Conn.SetWriteDeadline(time.Now().Add(Patience))
	if _, err := p.Conn.Write(b); err != nil {
		p.tb.Fatalf("write: %v", err)
	}
}

// Response reads an HTTP response and, unless it is a 101, its body.
func (p *Peer) Response() (*http.Response, string) {
	p.tb.Helper()
	p.wait()
	resp, err := http.ReadResponse(p.r, &http.Request{Method: http.MethodGet})
	if err != nil {
		p.tb.Fatalf("read response: %v", err)
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return resp, ""
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		p.tb.Fatalf("read body: %v", err)
	}
	return resp, string(body)
}

func (p *Peer) wait() { _ = p.Conn.SetReadDeadline(time.Now().Add(Patience)) }

// Open sends an opening handshake and wants a 101.
func (p *Peer) Open(o Opening) *http.Response {
	p.tb.Helper()
	p.Write(o.Bytes())
	resp, body := p.Response()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		p.tb.Fatalf("%s: %s, want 101", resp.Status, body)
	}
	const accept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" // of the key above (RFC 6455 section 1.3)
	if got := resp.Header.Get("Sec-WebSocket-Accept"); got != accept {
		p.tb.Fatalf("Sec-WebSocket-Accept %q, want %q", got, accept)
	}
	return resp
}

// Frame is a whole, masked frame.
func Frame(op ws.OpCode, payload []byte) []byte {
	return ws.MustCompileFrame(ws.MaskFrame(ws.NewFrame(op, true, payload)))
}

// CloseFrame is a close frame.
func CloseFrame(code ws.StatusCode, reason string) []byte {
	return Frame(ws.OpClose, ws.NewCloseFrameBody(code, reason))
}

// Send sends a message.
func (p *Peer) Send(text string) {
	p.tb.Helper()
	p.Write(Frame(ws.OpText, []byte(text)))
}

// Read reads one frame.
func (p *Peer) Read() (ws.OpCode, []byte) {
	p.tb.Helper()
	p.wait()
	h, err := ws.ReadHeader(p.r)
	if err != nil {
		p.tb.Fatalf("read frame head: %v", err)
	}
	if err := ws.CheckHeader(h, ws.StateClientSide); err != nil || h.Length > maxFrame {
		p.tb.Fatalf("frame head %+v: %v", h, err)
	}
	payload := make([]byte, h.Length)
	if _, err := io.ReadFull(p.r, payload); err != nil {
		p.tb.Fatalf("read frame: %v", err)
	}
	return h.OpCode, payload
}

// Want reads one frame and wants it to be this.
func (p *Peer) Want(op ws.OpCode, payload string) {
	p.tb.Helper()
	if got, b := p.Read(); got != op || string(b) != payload {
		p.tb.Fatalf("opcode %x %q, want %x %q", got, b, op, payload)
	}
}

// WantClose reads a close frame, answers it and wants the connection to end.
func (p *Peer) WantClose(code ws.StatusCode, reason string) {
	p.tb.Helper()
	op, payload := p.Read()
	got, text := ws.StatusNoStatusRcvd, ""
	if len(payload) > 0 {
		got, text = ws.ParseCloseFrameData(payload)
	}
	if op != ws.OpClose || got != code || text != reason {
		p.tb.Fatalf("opcode %x, code %d %q, want a close with %d %q", op, got, text, code, reason)
	}
	_, _ = p.Conn.Write(CloseFrame(code, "")) // a connection that was failed is gone by now
	p.WantEnd()
}

// WantEnd wants the connection to end with nothing more sent.
func (p *Peer) WantEnd() {
	p.tb.Helper()
	p.wait()
	switch b, err := p.r.ReadByte(); {
	case err == nil:
		p.tb.Fatalf("byte %x after the end", b)
	case errors.Is(err, os.ErrDeadlineExceeded):
		p.tb.Fatal("connection does not end")
	}
}
