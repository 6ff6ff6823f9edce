//go:build e2e

package e2e

import (
	"bufio"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// asked is what clients/client.mjs and client.py are told to do.
type asked struct {
	URL       string            `json:"url"`
	CA        string            `json:"ca,omitempty"`
	Protocols []string          `json:"protocols,omitempty"`
	Headers   map[string]string `json:"headers,omitempty"`
	Origin    string            `json:"origin,omitempty"`
	Send      []string          `json:"send,omitempty"`
	Last      bool              `json:"last,omitempty"`
}

// happened is one line of what they print.
type happened struct {
	Event    string
	Protocol string
	Data     string
	Status   int
	Code     int
	Reason   string
	Headers  map[string]string
}

// foreign is a client that others wrote.
type foreign struct {
	name string
	args []string
}

func foreigners(t *testing.T) []foreign {
	t.Helper()
	dir, err := filepath.Abs("clients")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "node_modules", "ws")); err != nil {
		t.Fatal("the ws package is missing: run ./test e2e, which installs it")
	}
	return []foreign{
		{"Node.js ws", []string{"node", filepath.Join(dir, "client.mjs")}},
		{"Python websockets", []string{"/usr/bin/python3", filepath.Join(dir, "client.py")}},
	}
}

// conversation is a running client.
type conversation struct {
	t    *testing.T
	cmd  *exec.Cmd
	line *bufio.Scanner
}

func (f *foreign) start(t *testing.T, o asked) *conversation {
	t.Helper()
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	c := &conversation{t: t, cmd: exec.Command(f.args[0], append(f.args[1:], string(text))...)}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.cmd.Stderr = os.Stderr
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.cmd.Process.Kill(); _ = c.cmd.Wait() })
	c.line = bufio.NewScanner(out)
	return c
}

func (c *conversation) want(event string) happened {
	c.t.Helper()
	if !c.line.Scan() {
		c.t.Fatalf("client ended, want %s", event)
	}
	var h happened
	if err := json.Unmarshal(c.line.Bytes(), &h); err != nil || h.Event != event {
		c.t.Fatalf("client says %s, want %s", c.line.Text(), event)
	}
	return h
}

func TestForeignClients(t *testing.T) {
	s := newSystem(t)
	n := s.addNode("node-1", "")
	admin := s.dial("")
	ca := filepath.Join(s.state, "ca", "ca.crt")
	url := "wss://localhost:" + port(n.wss) + "/chat"
	for _, f := range foreigners(t) {
		t.Run(f.name, func(t *testing.T) {
			issue := func(subject string) (string, string) {
				r := s.issue(admin, &pb.IssueTokenRequest{Subject: subject})
				return r.GetToken(), r.GetTokenId()
			}
			t.Run("exchanges, is revoked and sees 4501", func(t *testing.T) {
				tok, id := issue("u1")
				c := f.start(t, asked{URL: url, CA: ca, Protocols: []string{"gatehouse.v1", "gatehouse.token." + tok}, Origin: "https://app.example.com", Send: []string{hello}, Last: true})
				if got := c.want("open"); got.Protocol != "gatehouse.v1" {
					t.Errorf("subprotocol %q: the token must not be echoed", got.Protocol)
				}
				if got := c.want("message"); got.Data != hello {
					t.Errorf("echo %q", got.Data)
				}
				s.cli("revoke", "--token", id).want(t, 0)
				if got := c.want("close"); got.Code != 4501 || got.Reason != "token revoked" {
					t.Errorf("closed with %d %q", got.Code, got.Reason)
				}
			})
			t.Run("bearer token, many messages, closes with 1000", func(t *testing.T) {
				tok, _ := issue("u2")
				many := make([]string, 40)
				for i := range many {
					many[i] = `{"type":"chat","text":"` + strings.Repeat("ä", i) + `"}`
				}
				c := f.start(t, asked{URL: url, CA: ca, Headers: map[string]string{"Authorization": "Bearer " + tok}, Send: many})
				c.want("open")
				for i := range many {
					if got := c.want("message"); got.Data != many[i] {
						t.Fatalf("message %d: %q", i, got.Data)
					}
				}
				if got := c.want("close"); got.Code != 1000 {
					t.Errorf("closed with %d", got.Code)
				}
			})
			t.Run("a used token is refused with 401", func(t *testing.T) {
				tok, _ := issue("u3")
				o := asked{URL: url, CA: ca, Headers: map[string]string{"Authorization": "Bearer " + tok}}
				f.start(t, o).want("open")
				if got := f.start(t, o).want("refused"); got.Status != http.StatusUnauthorized || !strings.Contains(got.Headers["www-authenticate"], "Bearer") {
					t.Errorf("%+v", got)
				}
			})
			t.Run("a token offered alone is refused", func(t *testing.T) {
				tok, _ := issue("u4")
				if got := f.start(t, asked{URL: url, CA: ca, Protocols: []string{"gatehouse.token." + tok}}).want("refused"); got.Status != http.StatusBadRequest {
					t.Errorf("%+v", got)
				}
			})
			t.Run("a message no schema allows closes with 1008", func(t *testing.T) {
				tok, _ := issue("u5")
				c := f.start(t, asked{URL: url, CA: ca, Headers: map[string]string{"Authorization": "Bearer " + tok}, Send: []string{`{"type":"admin"}`}, Last: true})
				c.want("open")
				if got := c.want("close"); got.Code != 1008 {
					t.Errorf("closed with %d %q", got.Code, got.Reason)
				}
			})
			t.Run("without the CA there is no connection", func(t *testing.T) {
				if f.name == "Python websockets" {
					return // it raises before it prints; Node.js reports it as an event
				}
				tok, _ := issue("u6")
				f.start(t, asked{URL: url, Headers: map[string]string{"Authorization": "Bearer " + tok}}).want("error")
			})
		})
	}
}

func port(address string) string { return address[strings.LastIndexByte(address, ':')+1:] }
