package main

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"unicode/utf8"

	"github.com/gobwas/ws"
	"github.com/gorilla/websocket"
	"github.com/lxzan/gws"
)

// The peers echo text as each library's own examples do it, one goroutine a
// connection, and check that it is UTF-8 (RFC 6455 section 8.1). They know no
// tokens, limits, timeouts or logs.

// maxPeerMessage bounds a message, so that no peer allocates what is declared.
const maxPeerMessage = 64 << 10

// listenPeer starts a peer whose connections are each handled by a goroutine.
func listenPeer(handle func(net.Conn) error) (*server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go func() { // ends when l is closed
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { // ends with its connection
				_ = handle(c) // how a peer's connection ended is the load's to judge
				_ = c.Close()
			}()
		}
	}()
	return &server{addr: l.Addr().String(), close: l.Close}, nil
}

func serveGobwas(sp spec) (*server, error) {
	if !sp.TLS {
		return listenPeer(echoGobwas)
	}
	over, err := publicTLS(sp.Keys)
	if err != nil {
		return nil, err
	}
	return listenPeer(func(c net.Conn) error { return echoGobwas(tls.Server(c, over)) })
}

// echoGobwas reads frames through one buffer and answers each with one write.
func echoGobwas(c net.Conn) error {
	if _, err := ws.Upgrade(c); err != nil {
		return err
	}
	in := bufio.NewReaderSize(c, 4096)
	out := make([]byte, 0, 4096)
	var sink appendWriter
	for {
		h, err := ws.ReadHeader(in)
		if err != nil {
			return err
		}
		if err := ws.CheckHeader(h, ws.StateServerSide); err != nil || h.Length > maxPeerMessage || !h.Fin {
			return errors.Join(err, errors.New("frame refused"))
		}
		sink.b = out[:0]
		if err := ws.WriteHeader(&sink, ws.Header{Fin: true, OpCode: h.OpCode, Length: h.Length}); err != nil {
			return err
		}
		from := len(sink.b)
		out = grow(sink.b, int(h.Length))
		payload := out[from:]
		if _, err := io.ReadFull(in, payload); err != nil {
			return err
		}
		ws.Cipher(payload, h.Mask, 0)
		if h.OpCode == ws.OpText && !utf8.Valid(payload) {
			return errors.New("not UTF-8")
		}
		if _, err := c.Write(out); err != nil || h.OpCode == ws.OpClose {
			return err
		}
	}
}

// appendWriter is a Writer that appends.
type appendWriter struct{ b []byte }

func (w *appendWriter) Write(p []byte) (int, error) {
	w.b = append(w.b, p...)
	return len(p), nil
}

// grow makes b longer by n bytes of any value.
func grow(b []byte, n int) []byte {
	if cap(b)-len(b) < n {
		b = append(make([]byte, 0, 2*(len(b)+n)), b...)
	}
	return b[:len(b)+n]
}

func serveGws(spec) (*server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := gws.NewServer(echoGws{}, &gws.ServerOption{CheckUtf8Enabled: true, ReadMaxPayloadSize: maxPeerMessage})
	s.OnError = func(net.Conn, error) {} // it would print them
	go func() { _ = s.RunListener(l) }() // ends when l is closed
	return &server{addr: l.Addr().String(), close: l.Close}, nil
}

type echoGws struct{ gws.BuiltinEventHandler }

func (echoGws) OnMessage(c *gws.Conn, m *gws.Message) {
	_ = c.WriteMessage(m.Opcode, m.Bytes()) // OnClose follows a failure
	_ = m.Close()
}

func serveGorilla(spec) (*server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	upgrader := websocket.Upgrader{ReadBufferSize: 4096, WriteBufferSize: 4096}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return // it has answered
		}
		defer func() { _ = c.Close() }() // after its last message
		c.SetReadLimit(maxPeerMessage)
		for {
			kind, payload, err := c.ReadMessage()
			if err != nil || kind == websocket.TextMessage && !utf8.Valid(payload) {
				return
			}
			if err := c.WriteMessage(kind, payload); err != nil {
				return
			}
		}
	})}
	go func() { _ = s.Serve(l) }() // ends by Close
	return &server{addr: l.Addr().String(), close: s.Close}, nil
}
