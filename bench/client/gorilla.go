package main

import (
	"errors"
	"net/http"
	"time"

	"github.com/gorilla/websocket"
)

type gorilla struct{ conn *websocket.Conn }

func dialGorilla(t *task) (client, *http.Response, error) {
	cfg, err := t.tls()
	if err != nil {
		return nil, nil, err
	}
	d := websocket.Dialer{TLSClientConfig: cfg, Subprotocols: t.Protocols, EnableCompression: true, HandshakeTimeout: 10 * time.Second}
	conn, resp, err := d.Dial(t.URL, t.header())
	if err != nil {
		return nil, nil, refusal(resp, err)
	}
	return &gorilla{conn}, resp, nil
}

// send sends a fragment whenever the buffer of the connection is full: so each
// piece is a frame if the pieces are as long as that is, and all are one otherwise.
func (g *gorilla) send(pieces []string) error {
	w, err := g.conn.NextWriter(websocket.TextMessage)
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

func (g *gorilla) receive() (string, bool, *ended, error) {
	kind, data, err := g.conn.ReadMessage()
	var e *websocket.CloseError
	if errors.As(err, &e) && e.Code != websocket.CloseAbnormalClosure {
		return "", false, &ended{e.Code, e.Text}, nil
	}
	return string(data), kind == websocket.BinaryMessage, nil, err
}

func (g *gorilla) ping(payload string, pong func(string)) error {
	g.conn.SetPongHandler(func(p string) error {
		pong(p)
		return nil
	})
	return g.conn.WriteControl(websocket.PingMessage, []byte(payload), time.Now().Add(10*time.Second))
}

func (g *gorilla) close(code int, reason string) (*ended, error) {
	if err := g.conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, reason), time.Now().Add(10*time.Second)); err != nil {
		return nil, err
	}
	for {
		if _, _, end, err := g.receive(); end != nil || err != nil {
			return end, err
		}
	}
}
