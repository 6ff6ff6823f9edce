//go:build e2e

package e2e

import (
	"crypto/tls"
	"encoding/pem"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

// A node that is told to by SIGHUP asks clients for certificates; a token that the
// command bound to one opens a socket only with that one, and what it was refused
// for is in the node's log and in the audit trail, and not told to the client.
func TestClientCertificates(t *testing.T) {
	s := newSystem(t)
	n := s.addNode("node-1", "")
	shows, _ := wstest.TLS(t)
	stolen, _ := wstest.TLS(t)
	var bundle []byte
	file := func(name string, cfg *tls.Config) string {
		path := filepath.Join(s.dir, name)
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cfg.Certificates[0].Certificate[0]})
		write(t, path, string(text))
		bundle = append(bundle, text...)
		return path
	}
	device := file("device.crt", shows)
	file("other.crt", stolen)
	write(t, filepath.Join(s.dir, "clients.crt"), string(bundle))
	text, err := os.ReadFile(n.config)
	if err != nil {
		t.Fatal(err)
	}
	write(t, n.config, strings.Replace(string(text), "/server.key}", "/server.key, client_certificates: optional, client_ca: "+filepath.Join(s.dir, "clients.crt")+"}", 1))
	n.signal(syscall.SIGHUP)
	n.says(`"msg":"settings reloaded"`)

	token := strings.TrimSpace(s.cli("token", "issue", "--subject", "pump-7", "--audience", "chat", "--client-cert", device).want(t, 0).stdout)
	with := func(cfg *tls.Config) offer {
		o := offer{url: "wss://" + n.wss + "/chat", tls: s.clientTLS(), bearer: token}
		if cfg != nil {
			o.tls.Certificates = cfg.Certificates
		}
		return o
	}
	for _, cfg := range []*tls.Config{nil, stolen} {
		e := wantStatus(t, with(cfg), http.StatusUnauthorized)
		if !strings.Contains(e.body, "token_inactive") || strings.Contains(e.body, "certificate") {
			t.Errorf("the client is told %q", e.body)
		}
	}
	n.says(`"reason":"client_certificate_mismatch"`)
	var list struct {
		Records []struct{ Fields map[string]string }
	}
	eventually(t, "two refusals in the trail", func() bool {
		s.cli("audit", "list", "--oldest-first", "--action", "Redeem", "--outcome", "client_certificate_mismatch", "-o", "json").want(t, 0).decode(t, &list)
		return len(list.Records) == 2
	})
	if none, another := list.Records[0].Fields["client_certificate"], list.Records[1].Fields["client_certificate"]; none != "" || len(another) != 43 {
		t.Errorf("the trail says that %q and %q were shown, want none and another", none, another)
	}
	mustOpen(t, with(shows)).echo(hello)
	if shown := s.cli("session", "list", "--subject", "pump-7", "-o", "json").want(t, 0).stdout; !strings.Contains(shown, `"client_certificate_sha256": "`) || strings.Contains(shown, `"client_certificate_sha256": ""`) {
		t.Errorf("the session is told as %s", shown)
	}
}
