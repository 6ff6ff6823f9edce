//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/gobwas/ws"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// Every client that others wrote gets on with every driver, over ws and wss: it
// connects with a token, has texts of many sizes echoed, pings and answers pings,
// closes, is closed, and is revoked; it offers compression and is given none.
func TestEveryClientOnEveryDriver(t *testing.T) {
	s := newSystem(t)
	plain := "http://localhost:" + port(servePage(t))
	good := listen(t)
	secure := s.site(good)
	clients := append(foreigners(t), chromium(t, s, map[string]string{"ws": plain, "wss": secure}))
	for _, driver := range []string{"auto", "portable"} {
		n := s.addNode("node-"+driver, "\nsockets: {driver: "+driver+", ping_interval: 100ms, pong_timeout: 20s}\n")
		n.stop()
		replaceInFile(t, n.config, `"https://app.example.com"`, fmt.Sprintf("%q, %q, %q", "https://app.example.com", plain, secure))
		s.startNode(n)
		for _, f := range clients {
			for _, scheme := range []string{"ws", "wss"} {
				t.Run(f.name+" "+scheme+" "+driver, func(t *testing.T) { (&meeting{t, s, n, &f, scheme}).hold() })
			}
		}
	}
}

// meeting is of one client and one node.
type meeting struct {
	t      *testing.T
	s      *system
	n      *node
	f      *foreign
	scheme string
}

func (m *meeting) hold() {
	m.t.Run("echoes and a close of the client's", m.echoes)
	m.t.Run("fragments, pings and a revocation", m.revoked)
	m.t.Run("a close of the node's", m.closed)
}

// sizes are where the form of a length changes, and a message's bound.
func sizes() []string {
	texts := []string{"grüß dich 👋", ""}
	for _, n := range []int{1, 125, 126, 127, 4096, 65535, 65536} {
		texts = append(texts, strings.Repeat("x", n))
	}
	return texts
}

// start has the client connect. Over ws what it says is tapped.
func (m *meeting) start(t *testing.T, path string, o asked) (c *conversation, x *tap, token string) {
	t.Helper()
	r := m.s.issue(m.s.dial(""), &pb.IssueTokenRequest{Subject: "u"})
	o.Origin, o.Protocols = "https://app.example.com", []string{"gatehouse.v1", "gatehouse.token." + r.GetToken()}
	at := m.n.wss
	if m.scheme == "ws" {
		x = newTap(t, m.n.plain)
		at = x.address
	} else {
		o.CA = filepath.Join(m.s.state, "ca", "ca.crt")
	}
	o.URL = m.scheme + "://localhost:" + port(at) + path
	if m.f.whole {
		o.Fragments = 0
	}
	if m.f.cannotPing {
		o.Ping = ""
	}
	c = m.f.start(t, o)
	if got := c.want("open"); got.Protocol != "gatehouse.v1" || got.Extensions != "" {
		t.Errorf("opened with subprotocol %q and extensions %q, want gatehouse.v1 and none", got.Protocol, got.Extensions)
	}
	if x != nil {
		if head, _ := x.client(t); !strings.Contains(head, "permessage-deflate") {
			t.Errorf("compression is not offered: %s", head)
		}
		if head, _ := x.node(t); strings.Contains(strings.ToLower(head), "extensions") {
			t.Errorf("an extension is taken: %s", head)
		}
	}
	return c, x, r.GetTokenId()
}

func (m *meeting) wantEchoes(c *conversation) {
	c.t.Helper()
	for _, want := range sizes() {
		if got := c.want("message"); got.Data != want {
			c.t.Fatalf("echo of %d bytes: %d bytes, %.50q", len(want), len(got.Data), got.Data)
		}
	}
}

func (m *meeting) echoes(t *testing.T) {
	had := len(m.n.output())
	c, x, _ := m.start(t, "/raw", asked{Send: sizes()})
	m.wantEchoes(c)
	if got := c.want("close"); got.Code != 1000 {
		t.Errorf("closed with %d %q, want the client's code", got.Code, got.Reason)
	}
	if x != nil && !m.f.hangsUp {
		eventually(t, "the close frame in answer", func() bool {
			_, frames := x.node(t)
			return has(frames, ws.OpClose, "\x03\xe8")
		})
	}
	eventually(t, "the node says who closed", func() bool {
		for line := range strings.Lines(m.n.output()[had:]) {
			if strings.Contains(line, `"msg":"session closed"`) {
				return strings.Contains(line, `"reason":"peer_closed","code":1000`)
			}
		}
		return false
	})
}

func (m *meeting) revoked(t *testing.T) {
	const said = "are you there"
	c, x, token := m.start(t, "/raw", asked{Send: sizes(), Fragments: 3, Ping: said, Last: true})
	m.wantEchoes(c)
	if !m.f.cannotPing {
		if got := c.want("pong"); got.Data != said && !m.f.choosesPing {
			t.Errorf("pong %q", got.Data)
		}
	}
	if x != nil {
		_, sent := x.client(t)
		parts := 0
		for _, f := range sent {
			if f.OpCode == ws.OpText && !f.Fin {
				parts++
			}
		}
		if !m.f.whole && parts == 0 {
			t.Error("no message was sent in fragments")
		}
		eventually(t, "the client answers the node's pings", func() bool {
			_, sent := x.client(t)
			_, told := x.node(t)
			for _, f := range told {
				if f.OpCode == ws.OpPing && has(sent, ws.OpPong, f.payload) {
					return true
				}
			}
			return false
		})
	}
	m.s.cli("revoke", "--token", token).want(t, 0) // with its receipt
	if got := c.want("close"); got.Code != 4501 || got.Reason != "token revoked" {
		t.Errorf("closed with %d %q, want 4501", got.Code, got.Reason)
	}
	if x != nil {
		eventually(t, "the client answers the close frame", func() bool {
			_, sent := x.client(t)
			last := sent[len(sent)-1]
			return last.OpCode == ws.OpClose && strings.HasPrefix(last.payload, "\x11\x95")
		})
	}
}

func (m *meeting) closed(t *testing.T) {
	c, _, _ := m.start(t, "/chat", asked{Send: []string{hello, `{"type":"admin"}`}, Last: true})
	if got := c.want("message"); got.Data != hello {
		t.Errorf("echo %q", got.Data)
	}
	if got := c.want("close"); got.Code != 1008 || got.Reason != "message not allowed" {
		t.Errorf("closed with %d %q, want 1008", got.Code, got.Reason)
	}
}

// servePage serves an empty page over http, and returns its address.
func servePage(t *testing.T) string {
	t.Helper()
	l := listen(t)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte("<!doctype html><title>site</title>"))
	})}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	return net.JoinHostPort("localhost", port(l.Addr().String()))
}

// converseJS does in a page what clients/client.mjs does: next is a promise of
// what happens next.
const converseJS = `(() => {
  const o = %s, happened = [], waiting = [];
  const say = (event, more) => {
    const line = JSON.stringify({event, ...more});
    waiting.length ? waiting.shift()(line) : happened.push(line);
  };
  window.next = () => new Promise(done => happened.length ? done(happened.shift()) : waiting.push(done));
  const ws = new WebSocket(o.url, o.protocols);
  let left = o.send.length;
  ws.onopen = () => {
    say("open", {protocol: ws.protocol, extensions: ws.extensions});
    o.send.forEach(m => ws.send(m));
  };
  ws.onmessage = e => {
    say("message", {data: e.data});
    if (--left === 0 && !o.last) ws.close(1000, "done");
  };
  ws.onclose = e => say("close", {code: e.wasClean ? e.code : 0, reason: e.reason});
})()`

// chromium is a browser with a page of a site for each scheme.
func chromium(t *testing.T, s *system, sites map[string]string) foreign {
	t.Helper()
	ctx := newBrowser(t, filepath.Join(s.state, "ca", "ca.crt"))
	return foreign{name: "Chromium", whole: true, cannotPing: true, page: func(t *testing.T, o asked) *conversation {
		t.Helper()
		scheme, _, _ := strings.Cut(o.URL, ":")
		text, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		if err := chromedp.Do(ctx, chromedp.Navigate(sites[scheme])); err != nil {
			t.Fatal(err)
		}
		if _, err := chromedp.Run(ctx, chromedp.Evaluate[any](fmt.Sprintf(converseJS, text))); err != nil {
			t.Fatal(err)
		}
		return &conversation{t, func() ([]byte, bool) {
			ctx, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			line, err := chromedp.Run(ctx, chromedp.Evaluate[string]("next()", chromedp.EvalAwaitPromise))
			return []byte(line), err == nil
		}}
	}}
}
