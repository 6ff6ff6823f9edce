// Command client speaks to a node with a client that others wrote in Go, as
// deploy/e2e/clients/client.mjs does with one in JavaScript: its argument says
// which. The tests there build it; it lies here because this module has the
// libraries, which stay out of Gatehouse's own.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// task is what to do, as client.mjs says.
type task struct {
	URL       string
	CA        string
	Protocols []string
	Headers   map[string]string
	Origin    string
	Send      []string
	Fragments int
	Ping      string
	Last      bool
}

// header is what is sent beside what every client does.
func (t *task) header() http.Header {
	h := http.Header{}
	for k, v := range t.Headers {
		h.Set(k, v)
	}
	if t.Origin != "" {
		h.Set("Origin", t.Origin)
	}
	return h
}

func (t *task) tls() (*tls.Config, error) {
	if t.CA == "" {
		return nil, nil
	}
	text, err := os.ReadFile(t.CA)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	return &tls.Config{RootCAs: pool}, nil
}

// pieces are the fragments that a message is sent in.
func (t *task) pieces(message string) []string {
	n := max(t.Fragments, 1)
	out := make([]string, n)
	for i := range out {
		out[i] = message[i*len(message)/n : (i+1)*len(message)/n]
	}
	return out
}

// ended is a close frame that came.
type ended struct {
	code   int
	reason string
}

// client is one of them, connected.
type client interface {
	// send sends a text message; in pieces where the client can.
	send(pieces []string) error
	// receive is the next message, or how the node ended.
	receive() (message string, binary bool, end *ended, err error)
	// ping sends a ping; its pong comes while receive waits.
	ping(payload string, pong func(payload string)) error
	// close ends the connection, and tells how the node answered.
	close(code int, reason string) (*ended, error)
}

// refused is an answer other than 101.
type refused struct{ resp *http.Response }

func (r *refused) Error() string { return "refused" }

// refusal is err, or what the node answered instead.
func refusal(resp *http.Response, err error) error {
	if err != nil && resp != nil && resp.StatusCode != http.StatusSwitchingProtocols {
		return &refused{resp}
	}
	return err
}

var clients = map[string]func(t *task) (client, *http.Response, error){"gorilla": dialGorilla, "coder": dialCoder, "gws": dialGWS}

var output sync.Mutex

func say(event string, more map[string]any) {
	line := map[string]any{"event": event}
	for k, v := range more {
		line[k] = v
	}
	text, err := json.Marshal(line)
	if err != nil {
		panic(err)
	}
	output.Lock()
	defer output.Unlock()
	fmt.Println(string(text))
}

func main() {
	time.AfterFunc(20*time.Second, func() {
		say("timeout", nil)
		os.Exit(1)
	})
	var t task
	if err := json.NewDecoder(os.Stdin).Decode(&t); err != nil || len(os.Args) != 2 || clients[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: client gorilla|coder|gws, with a task on stdin:", err)
		os.Exit(2)
	}
	c, resp, err := clients[os.Args[1]](&t)
	var r *refused
	switch {
	case errors.As(err, &r):
		body, _ := io.ReadAll(r.resp.Body)
		fields := map[string]string{}
		for k := range r.resp.Header {
			fields[strings.ToLower(k)] = r.resp.Header.Get(k)
		}
		say("refused", map[string]any{"status": r.resp.StatusCode, "headers": fields, "body": string(body)})
		return
	case err != nil:
		say("error", map[string]any{"message": err.Error()})
		return
	}
	say("open", map[string]any{"protocol": resp.Header.Get("Sec-WebSocket-Protocol"), "extensions": resp.Header.Get("Sec-WebSocket-Extensions")})
	end, err := t.converse(c)
	if err != nil {
		say("error", map[string]any{"message": err.Error()})
		return
	}
	say("close", map[string]any{"code": end.code, "reason": end.reason})
}

// converse sends each message and waits for one, and ends as the task says.
func (t *task) converse(c client) (*ended, error) {
	for _, m := range t.Send {
		if err := c.send(t.pieces(m)); err != nil {
			return nil, err
		}
		data, binary, end, err := c.receive()
		if end != nil || err != nil {
			return end, err
		}
		say("message", map[string]any{"data": data, "binary": binary})
	}
	if t.Ping != "" {
		if err := c.ping(t.Ping, func(payload string) { say("pong", map[string]any{"data": payload}) }); err != nil {
			return nil, err
		}
	}
	if !t.Last {
		return c.close(1000, "done")
	}
	for {
		data, binary, end, err := c.receive()
		if end != nil || err != nil {
			return end, err
		}
		say("message", map[string]any{"data": data, "binary": binary})
	}
}
