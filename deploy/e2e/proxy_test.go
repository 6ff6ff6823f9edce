//go:build e2e

package e2e

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// TestBehindAProxy has a real HAProxy before a node, in each way in which it can
// tell who its clients are: what is bound to a client's address opens for that
// client and for no other, whatever either writes into its header fields.
func TestBehindAProxy(t *testing.T) {
	s := newSystem(t)
	n := s.addNode("node-1", `
trusted_proxies:
  - {networks: [127.0.1.1, 127.0.1.2], mode: proxy}
  - {networks: [127.0.1.3], mode: xff}
`)
	v2, v1, field := address(t), address(t), address(t)
	config := filepath.Join(s.dir, "haproxy.cfg")
	write(t, config, fmt.Sprintf(`
defaults
  timeout connect 5s
  timeout client 1m
  timeout server 1m
  timeout tunnel 1h
listen version2
  mode tcp
  bind %s
  server node %s source 127.0.1.1 send-proxy-v2 check inter 200ms
listen version1
  mode tcp
  bind %s
  server node %s source 127.0.1.2 send-proxy check inter 200ms
listen field
  mode http
  option forwardfor
  bind %s
  server node %s source 127.0.1.3
`, v2, n.wss, v1, n.plain, field, n.plain))
	start(t, "haproxy", "-db", "-f", config)
	for _, at := range []string{v2, v1, field} {
		eventually(t, "haproxy at "+at, func() bool {
			c, err := net.Dial("tcp", at)
			if err == nil {
				_ = c.Close()
			}
			return err == nil
		})
	}
	admin := s.dial("")
	const client, thief = "127.0.2.7", "127.0.2.66"
	bound := func() string {
		return s.issue(admin, &pb.IssueTokenRequest{Subject: "u", ClientIp: client, IpBinding: pb.IpBinding_IP_BINDING_STRICT}).GetToken()
	}
	for _, way := range []struct {
		name, url string
		tls       *tls.Config
	}{
		{"PROXY version 2 before TLS", "wss://" + v2 + "/chat", s.clientTLS()},
		{"PROXY version 1", "ws://" + v1 + "/chat", nil},
		{"X-Forwarded-For", "ws://" + field + "/chat", nil},
	} {
		t.Run(way.name, func(t *testing.T) {
			lie := http.Header{"X-Forwarded-For": {client}, "Forwarded": {"for=" + client}}
			wantStatus(t, offer{url: way.url, tls: way.tls, bearer: bound(), from: thief, header: lie}, http.StatusUnauthorized)
			sock := mustOpen(t, offer{url: way.url, tls: way.tls, bearer: bound(), from: client})
			sock.echo(hello)
		})
	}
	// Who is no proxy is not believed, in whatever it writes.
	for _, header := range []http.Header{nil, {"X-Forwarded-For": {client}}, {"Forwarded": {"for=" + client}}} {
		wantStatus(t, offer{url: "ws://" + n.plain + "/chat", bearer: bound(), from: thief, header: header}, http.StatusUnauthorized)
	}
	eventually(t, "6 handshakes refused as ip_mismatch", func() bool { return strings.Count(n.output(), `"reason":"ip_mismatch"`) == 6 })
	for line := range strings.Lines(n.output()) {
		if strings.Contains(line, `"reason":"client_address_`) || strings.Contains(line, "a trusted proxy does not say") {
			t.Errorf("a proxy that is set up is refused: %s", line)
		}
	}
}
