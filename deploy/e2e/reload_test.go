//go:build e2e

package e2e

import (
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gatehouse-ws/gatehouse/authority/pki"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// SIGHUP exchanges limits, origins and certificates under open sockets; a file in
// which anything is wrong, that of a schema too, changes nothing, and the log says
// where.
func TestSIGHUPReloads(t *testing.T) {
	s := newSystem(t)
	n := s.addNode("node-1", "")
	admin := s.dial("")
	issued := func() string { return s.issue(admin, &pb.IssueTokenRequest{Subject: "u"}).GetToken() }
	const other = "https://other.example.com"
	from := func(origin string) offer {
		return offer{url: "ws://" + n.plain + "/chat", bearer: issued(), origin: origin}
	}
	serial := func() string {
		t.Helper()
		c, err := tls.Dial("tcp", n.wss, s.clientTLS())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	text, err := os.ReadFile(n.config)
	if err != nil {
		t.Fatal(err)
	}
	// reload writes the file with some of it replaced, and waits for a line of the
	// log that tells what came of it.
	reload := func(msg string, oldnew ...string) string {
		t.Helper()
		changed := strings.NewReplacer(oldnew...).Replace(string(text))
		if changed == string(text) && len(oldnew) > 0 {
			t.Fatalf("the file has nothing of %q", oldnew)
		}
		write(t, n.config, changed)
		had := len(n.output())
		n.signal(syscall.SIGHUP)
		var line string
		eventually(t, msg, func() bool {
			for l := range strings.Lines(n.output()[had:]) {
				if strings.Contains(l, `"msg":"`+msg+`"`) {
					line = l
				}
			}
			return line != ""
		})
		return line
	}

	kept := []*socket{
		mustOpen(t, from("https://app.example.com")),
		mustOpen(t, offer{url: "wss://" + n.wss + "/chat", tls: s.clientTLS(), bearer: issued()}),
	}
	before := serial()
	wantStatus(t, from(other), http.StatusForbidden)
	ca, err := pki.Load(filepath.Join(s.state, "ca"), time.Now, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	newTLS := filepath.Join(s.dir, "new-tls")
	if _, err := ca.EnsureServer(newTLS, []string{"localhost", "127.0.0.1"}); err != nil {
		t.Fatal(err)
	}

	change := []string{
		filepath.Join(s.dir, "node-1-tls"), newTLS,
		`origins: ["https://app.example.com"]`, fmt.Sprintf(`origins: [%q]`, other),
		"authenticated_per_address: {max: 10000}", "authenticated_per_address: {max: 3}",
	}
	line := reload("settings reloaded", change...)
	for _, key := range []string{"listeners[0].cert_file", "routes[0].origins", "limits.authenticated_per_address.max"} {
		if !strings.Contains(line, `"`+key+`"`) {
			t.Errorf("%s is not said to have changed: %s", key, line)
		}
	}
	for _, sock := range kept {
		sock.echo(hello)
	}
	if serial() == before {
		t.Error("the certificate of before is shown")
	}
	wantStatus(t, from("https://app.example.com"), http.StatusForbidden)
	third := mustOpen(t, from(other))
	third.echo(hello)
	if e := wantStatus(t, from(other), http.StatusTooManyRequests); e.header.Get("Retry-After") == "" {
		t.Errorf("no Retry-After: %v", e.header)
	}

	// What needs another start is named, and the rest taken.
	if line := reload("these settings take effect at the next start", append(change, "redeem_timeout: 1s", "redeem_timeout: 2s")...); !strings.Contains(line, `"settings":["authority.redeem_timeout"]`) {
		t.Errorf("said to take effect later: %s", line)
	}

	// One thing that is wrong, and nothing is taken of the others.
	wrong := append(change[:len(change)-1:len(change)-1], "authenticated_per_address: {max: many}")
	line = reload("settings are not reloaded, the old ones stay", wrong...)
	at := 1 + strings.Count(string(text)[:strings.Index(string(text), "authenticated_per_address")], "\n")
	if want := fmt.Sprintf("%s:%d: limits.authenticated_per_address.max: ", n.config, at); !strings.Contains(line, want) {
		t.Errorf("%s does not name %s", line, want)
	}
	schemaFile := filepath.Join(s.dir, "chat.json")
	write(t, schemaFile, strings.Replace(chatSchema, `"maxLength": 100`, `"maxLength": 100, "minLength": 200`, 1))
	line = reload("settings are not reloaded, the old ones stay", change...)
	if want := "chat.json#/properties/text/minLength: 200 is above maxLength 100"; !strings.Contains(line, want) {
		t.Errorf("%s does not name %s", line, want)
	}
	third.echo(hello) // by the old schema
	write(t, schemaFile, chatSchema)
	write(t, filepath.Join(newTLS, "server.key"), "no key")
	line = reload("settings are not reloaded, the old ones stay", append(change, "https://app.example.com", "https://third.example.com")...)
	if want := n.config + ":2: listeners[0].cert_file: "; !strings.Contains(line, want) {
		t.Errorf("%s does not name %s", line, want)
	}
	wantStatus(t, from("https://third.example.com"), http.StatusForbidden)
	wantStatus(t, from(other), http.StatusTooManyRequests)
	if serial() == before {
		t.Error("the certificate of before is shown again")
	}
	for _, sock := range append(kept, third) {
		sock.echo(hello)
	}
	if _, metrics := get("http://" + n.admin + "/metrics"); !strings.Contains(metrics, `gatehouse_node_reloads_total{result="failed"} 3`) || !strings.Contains(metrics, `gatehouse_node_reloads_total{result="ok"} 2`) {
		t.Error("reloads are not counted: 2 ok, 3 failed")
	}
}
