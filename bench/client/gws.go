package main

import (
	"errors"
	"net/http"

	"github.com/lxzan/gws"
)

// gwsClient gets its events from a goroutine of the library.
type gwsClient struct {
	gws.BuiltinEventHandler
	conn     *gws.Conn
	messages chan gwsMessage // closed with the connection
	pong     func(string)
	pinged   chan struct{} // closed once pong is set
	err      error         // why it has ended, once messages is closed
}

type gwsMessage struct {
	data   string
	binary bool
}

func dialGWS(t *task) (client, *http.Response, error) {
	cfg, err := t.tls()
	if err != nil {
		return nil, nil, err
	}
	g := &gwsClient{messages: make(chan gwsMessage, 100), pinged: make(chan struct{})}
	h := t.header()
	for _, p := range t.Protocols {
		h.Add("Sec-WebSocket-Protocol", p)
	}
	conn, resp, err := gws.NewClient(g, &gws.ClientOption{
		Addr: t.URL, TlsConfig: cfg, RequestHeader: h, CheckUtf8Enabled: true,
		PermessageDeflate: gws.PermessageDeflate{Enabled: true, ServerContextTakeover: true, ClientContextTakeover: true},
	})
	if err != nil {
		return nil, nil, refusal(resp, err)
	}
	g.conn = conn
	go conn.ReadLoop()
	return g, resp, nil
}

func (g *gwsClient) OnMessage(_ *gws.Conn, m *gws.Message) {
	defer m.Close()
	g.messages <- gwsMessage{string(m.Bytes()), m.Opcode == gws.OpcodeBinary}
}

func (g *gwsClient) OnPing(c *gws.Conn, payload []byte) { _ = c.WritePong(payload) }

func (g *gwsClient) OnPong(_ *gws.Conn, payload []byte) {
	<-g.pinged // none comes before
	g.pong(string(payload))
}

func (g *gwsClient) OnClose(_ *gws.Conn, err error) {
	g.err = err
	close(g.messages)
}

// send sends one frame: the client cuts at 128 KiB alone.
func (g *gwsClient) send(pieces []string) error {
	whole := ""
	for _, p := range pieces {
		whole += p
	}
	return g.conn.WriteString(whole)
}

func (g *gwsClient) receive() (string, bool, *ended, error) {
	m, ok := <-g.messages
	var e *gws.CloseError
	if !ok && errors.As(g.err, &e) {
		return "", false, &ended{int(e.Code), string(e.Reason)}, nil
	}
	if !ok {
		return "", false, nil, g.err
	}
	return m.data, m.binary, nil, nil
}

func (g *gwsClient) ping(payload string, pong func(string)) error {
	g.pong = pong
	close(g.pinged)
	return g.conn.WritePing([]byte(payload))
}

// close ends the connection at once: the client waits for no answer.
func (g *gwsClient) close(code int, reason string) (*ended, error) {
	return &ended{code: code}, g.conn.WriteClose(uint16(code), []byte(reason))
}
