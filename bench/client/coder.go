package main

import (
	"context"
	"errors"
	"net/http"

	"github.com/coder/websocket"
)

type coder struct {
	conn *websocket.Conn
	pong func(string) // nil until one is waited for
}

func dialCoder(t *task) (client, *http.Response, error) {
	cfg, err := t.tls()
	if err != nil {
		return nil, nil, err
	}
	c := &coder{}
	conn, resp, err := websocket.Dial(context.Background(), t.URL, &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: &http.Transport{TLSClientConfig: cfg}}, HTTPHeader: t.header(), Subprotocols: t.Protocols,
		CompressionMode: websocket.CompressionContextTakeover,
		OnPongReceived: func(_ context.Context, payload []byte) {
			if c.pong != nil {
				c.pong(string(payload))
			}
		},
	})
	if err != nil {
		return nil, nil, refusal(resp, err)
	}
	conn.SetReadLimit(1 << 20)
	c.conn = conn
	return c, resp, nil
}

func (c *coder) send(pieces []string) error {
	w, err := c.conn.Writer(context.Background(), websocket.MessageText)
	if err != nil {
		return err
	}
	for _, p := range pieces {
		if _, err := w.Write([]byte(p)); err != nil {
			return err
		}
	}
	return w.Close()
}

func (c *coder) receive() (string, bool, *ended, error) {
	kind, data, err := c.conn.Read(context.Background())
	var e websocket.CloseError
	if errors.As(err, &e) {
		return "", false, &ended{int(e.Code), e.Reason}, nil
	}
	return string(data), kind == websocket.MessageBinary, nil, err
}

// ping has its payload chosen by the client.
func (c *coder) ping(_ string, pong func(string)) error {
	c.pong = pong
	go func() { _ = c.conn.Ping(context.Background()) }() // ends with the pong, or the connection
	return nil
}

// close returns nothing if the node has answered with the same code; its reason is
// not told then.
func (c *coder) close(code int, reason string) (*ended, error) {
	if err := c.conn.Close(websocket.StatusCode(code), reason); err != nil {
		return nil, err
	}
	return &ended{code: code}, nil
}
