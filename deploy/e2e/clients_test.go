//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// asked is what a client is told to do, as clients/client.mjs says.
type asked struct {
	URL       string            `json:"url"`
	CA        string            `json:"ca,omitempty"`
	Protocols []string          `json:"protocols,omitempty"`
	Headers   map[string]string `json:"headers,omitempty"`
	Origin    string            `json:"origin,omitempty"`
	Send      []string          `json:"send,omitempty"`
	Fragments int               `json:"fragments,omitempty"`
	Ping      string            `json:"ping,omitempty"`
	Last      bool              `json:"last,omitempty"`
}

// happened is one line of what they print.
type happened struct {
	Event      string
	Protocol   string
	Extensions string
	Data       string
	Status     int
	Code       int
	Reason     string
	Headers    map[string]string
}

// foreign is a client that others wrote.
type foreign struct {
	name string
	args []string // of its program; none of a browser, which is driven

	page        func(t *testing.T, o asked) *conversation
	whole       bool // it sends no message in fragments, or is not to be told
	cannotPing  bool
	hangsUp     bool // it closes its connection behind its close frame
	quiet       bool // it tells nothing of a connection that failed
	choosesPing bool // what its pings carry is its own
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
	inGo := filepath.Join(t.TempDir(), "client")
	build := exec.Command("go", "build", "-o", inGo, "./client")
	build.Dir = filepath.Join("..", "..", "bench") // whose module has the libraries
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return []foreign{
		{name: "Node.js ws", args: []string{"node", filepath.Join(dir, "client.mjs")}},
		{name: "Python websockets", args: []string{"/usr/bin/python3", filepath.Join(dir, "client.py")}, quiet: true},
		{name: "gorilla", args: []string{inGo, "gorilla"}},
		{name: "coder", args: []string{inGo, "coder"}, choosesPing: true},
		{name: "gws", args: []string{inGo, "gws"}, whole: true, hangsUp: true},
	}
}

// conversation is a running client.
type conversation struct {
	t    *testing.T
	next func() (line []byte, ok bool)
}

func (f *foreign) start(t *testing.T, o asked) *conversation {
	t.Helper()
	if f.page != nil {
		return f.page(t, o)
	}
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(f.args[0], f.args[1:]...)
	cmd.Stdin = bytes.NewReader(text)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	return &conversation{t, func() ([]byte, bool) {
		ok := lines.Scan()
		return lines.Bytes(), ok
	}}
}

func (c *conversation) want(event string) happened {
	c.t.Helper()
	line, ok := c.next()
	if !ok {
		c.t.Fatalf("client ended, want %s", event)
	}
	var h happened
	if err := json.Unmarshal(line, &h); err != nil || h.Event != event {
		c.t.Fatalf("client says %.200s (%d bytes, %v), want %s", line, len(line), err, event)
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
				if f.quiet {
					return
				}
				tok, _ := issue("u6")
				f.start(t, asked{URL: url, Headers: map[string]string{"Authorization": "Bearer " + tok}}).want("error")
			})
		})
	}
}

func port(address string) string { return address[strings.LastIndexByte(address, ':')+1:] }
