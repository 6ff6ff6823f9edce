//go:build e2e

package e2e

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/gobwas/ws"
)

// tap hands one connection on to a node, and keeps what either side says.
type tap struct {
	address string

	mu         sync.Mutex
	said, told []byte // by the client, and by the node
}

func newTap(t *testing.T, to string) *tap {
	t.Helper()
	l := listen(t)
	x := &tap{address: l.Addr().String()}
	over := make(chan struct{})
	go func() {
		defer close(over)
		client, err := l.Accept()
		if err != nil {
			return
		}
		defer client.Close()
		node, err := net.Dial("tcp", to)
		if err != nil {
			return
		}
		defer node.Close()
		var ways sync.WaitGroup
		ways.Go(func() { x.pass(node, client, &x.said) })
		x.pass(client, node, &x.told)
		ways.Wait()
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-over // each side has ended, or the node is killed
	})
	return x
}

// pass hands on one way, to its end.
func (x *tap) pass(to, from net.Conn, kept *[]byte) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		x.mu.Lock()
		*kept = append(*kept, buf[:n]...)
		x.mu.Unlock()
		if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
			_ = to.(*net.TCPConn).CloseWrite()
			return
		}
	}
}

// frame is one that went by.
type frame struct {
	ws.Header
	payload string
}

// heard is what went by one way: a head, and whole frames.
func heard(t *testing.T, b []byte) (head string, frames []frame) {
	t.Helper()
	at := bytes.Index(b, []byte("\r\n\r\n"))
	if at < 0 {
		return string(b), nil
	}
	head = string(b[:at])
	for r := bytes.NewReader(b[at+4:]); ; {
		h, err := ws.ReadHeader(r)
		if err == io.EOF || err == io.ErrUnexpectedEOF || err == nil && h.Length > int64(r.Len()) {
			return head, frames
		}
		if err != nil {
			t.Fatal(err)
		}
		payload := make([]byte, h.Length)
		_, _ = io.ReadFull(r, payload)
		if h.Masked {
			ws.Cipher(payload, h.Mask, 0)
		}
		frames = append(frames, frame{h, string(payload)})
	}
}

// client is what the client has said so far, and node what the node has.
func (x *tap) client(t *testing.T) (string, []frame) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return heard(t, x.said)
}

func (x *tap) node(t *testing.T) (string, []frame) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return heard(t, x.told)
}

// has reports whether there is a frame like that.
func has(frames []frame, op ws.OpCode, payload string) bool {
	for _, f := range frames {
		if f.OpCode == op && f.payload == payload {
			return true
		}
	}
	return false
}
